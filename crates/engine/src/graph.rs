//! What a caller asks the engine to build: vertices, edges, graphs.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use kiln_oci::Digest;
use kiln_proto::pb;

use crate::Domain;

/// One output of one vertex: what vertices take as inputs and what a build returns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The vertex.
    pub vertex: Digest,
    /// Which of its outputs, counted from zero.
    pub output: usize,
}

impl Edge {
    /// Output `output` of `vertex`.
    pub fn new(vertex: Digest, output: usize) -> Self {
        Self { vertex, output }
    }
}

/// What a vertex carries that is not part of its digest.
#[derive(Debug, Clone, Default)]
pub struct VertexOptions {
    /// Run it, whatever the cache holds. Its new result is saved, but vertices after it can only match the
    /// cache by the content of that result.
    pub ignore_cache: bool,
    /// What the job takes words of the definition for, where it has a say of its own in that. Vertices of one digest that
    /// differ in this are kept apart, with all that take them: what runs for one does not serve the other. What was made serves
    /// both, unless their cache keys differ as well.
    pub meaning: Option<Digest>,
    /// Overrides whether cache exporters may export the result of this vertex.
    pub export_cache: Option<bool>,
    /// The display group that the step belongs to.
    pub progress_group: Option<pb::ProgressGroup>,
    /// Text for people and frontends, without meaning for the engine.
    pub description: BTreeMap<String, String>,
}

/// A node of the build graph.
pub struct Vertex<D: Domain> {
    /// Digest of the definition of the vertex with all its inputs. Equal digests are one vertex, over all jobs, unless their
    /// options keep them apart.
    pub digest: Digest,
    /// The name that progress shows.
    pub name: String,
    /// The edges it takes, in the order of the op's inputs.
    pub inputs: Vec<Edge>,
    /// What it does. When several jobs hold the vertex, the op that came first serves all of them.
    pub op: Arc<D::Op>,
    /// The rest.
    pub options: VertexOptions,
}

impl<D: Domain> Clone for Vertex<D> {
    fn clone(&self) -> Self {
        Self {
            digest: self.digest.clone(),
            name: self.name.clone(),
            inputs: self.inputs.clone(),
            op: self.op.clone(),
            options: self.options.clone(),
        }
    }
}

impl<D: Domain> fmt::Debug for Vertex<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vertex")
            .field("digest", &self.digest)
            .field("name", &self.name)
            .field("inputs", &self.inputs)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Vertices in topological order: inputs come before the vertices that take them, and digests are unique.
#[derive(Debug)]
pub struct Graph<D: Domain> {
    vertices: Vec<Vertex<D>>,
    by_digest: HashMap<Digest, usize>,
}

/// A list of vertices is not a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Two vertices have one digest.
    #[error("vertex {0} is in the graph twice")]
    Duplicate(Digest),
    /// An input names a vertex that does not come before: it is missing, or there is a cycle.
    #[error("vertex {vertex} takes {input}, which is not among the vertices before it")]
    MissingInput {
        /// The vertex with the input.
        vertex: Digest,
        /// The vertex that is missing.
        input: Digest,
    },
    /// The edge to build names a vertex that is not in the graph.
    #[error("vertex {0} is not in the graph")]
    MissingRoot(Digest),
}

impl<D: Domain> Graph<D> {
    /// Checks that inputs come before their users and that digests are unique.
    ///
    /// # Errors
    /// Which vertex breaks the rule.
    pub fn new(vertices: Vec<Vertex<D>>) -> Result<Self, GraphError> {
        let mut by_digest = HashMap::with_capacity(vertices.len());
        for (at, vertex) in vertices.iter().enumerate() {
            if let Some(edge) = vertex.inputs.iter().find(|e| !by_digest.contains_key(&e.vertex)) {
                let (vertex, input) = (vertex.digest.clone(), edge.vertex.clone());
                return Err(GraphError::MissingInput { vertex, input });
            }
            if by_digest.insert(vertex.digest.clone(), at).is_some() {
                return Err(GraphError::Duplicate(vertex.digest.clone()));
            }
        }
        Ok(Self { vertices, by_digest })
    }

    /// The vertices, inputs first.
    pub fn vertices(&self) -> &[Vertex<D>] {
        &self.vertices
    }

    /// The vertex with this digest.
    pub fn get(&self, digest: &Digest) -> Option<&Vertex<D>> {
        self.position(digest).map(|at| &self.vertices[at])
    }

    pub(crate) fn position(&self, digest: &Digest) -> Option<usize> {
        self.by_digest.get(digest).copied()
    }
}
