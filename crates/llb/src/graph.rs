//! Reading a definition that came from a client or a frontend.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kiln_oci::{Digest, Platform};
use kiln_proto::{OpMetadata, pb};
use prost::Message;

use crate::{Error, validate};

/// The most ops that a definition may have.
pub const MAX_OPS: usize = 100_000;

/// One output of a vertex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The vertex, by digest.
    pub vertex: Digest,
    /// Which of its outputs.
    pub output: usize,
}

/// One checked op of a definition: every index in it is within bounds.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// SHA-256 of [`Vertex::raw`].
    pub digest: Digest,
    /// The op as it arrived.
    pub raw: Bytes,
    /// The op. `op.op` is always `Some`.
    pub op: pb::Op,
    /// The inputs, in the order of `op.inputs`.
    pub inputs: Vec<Edge>,
    /// Name, caps, progress group and so on; default if the definition has none.
    pub metadata: OpMetadata,
    /// Where in the sources the op stands; `source_index` is an index of [`Graph::sources`].
    pub locations: pb::Locations,
    name: String,
}

impl Vertex {
    /// What progress shows: the custom name, or one made of the op.
    pub fn name(&self) -> &str {
        self.metadata.description.get("llb.customname").map_or(&self.name, |name| name)
    }

    /// The platform that the op asks for, normalised.
    pub fn platform(&self) -> Option<Platform> {
        self.op.platform.as_ref().map(|p| platform_from_pb(p).normalize())
    }

    /// Filters on workers.
    pub fn constraints(&self) -> &[String] {
        self.op.constraints.as_ref().map_or(&[], |c| &c.filter)
    }
}

/// A definition whose ops have been decoded and checked.
#[derive(Debug, Clone)]
pub struct Graph {
    vertices: Vec<Arc<Vertex>>,
    index: HashMap<Digest, usize>,
    root: Edge,
    sources: Vec<pb::SourceInfo>,
}

impl Graph {
    /// Decodes and checks a definition. Ops that the result doesn't need are decoded and dropped.
    ///
    /// # Errors
    /// When the definition is empty or too large, an op does not decode, an input is missing, an op depends on itself, a
    /// field is missing, or an index points outside of what it indexes.
    pub fn decode(definition: &pb::Definition) -> Result<Self, Error> {
        let Some((last, _)) = definition.def.split_last() else { return Err(Error::Empty) };
        if definition.def.len() > MAX_OPS {
            return Err(Error::TooManyOps(definition.def.len()));
        }
        let mut ops = HashMap::with_capacity(definition.def.len());
        for (index, raw) in definition.def.iter().enumerate() {
            let op = pb::Op::decode(raw.clone()).map_err(|source| Error::Decode { index, source })?;
            ops.insert(Digest::sha256(raw), (raw.clone(), op));
        }
        let (_, last) = ops.remove(&Digest::sha256(last)).ok_or(Error::NoRoot)?;
        let root = last.inputs.first().ok_or(Error::NoRoot)?;
        let root = edge("the result", root)?;
        let mut graph = Self {
            vertices: Vec::with_capacity(ops.len()),
            index: HashMap::new(),
            root,
            sources: Vec::new(),
        };
        graph.collect(ops, definition)?;
        let top =
            graph.get(&graph.root.vertex).ok_or_else(|| missing("the result", graph.root.vertex.as_str()))?;
        validate::output(top, &graph.root)?;
        graph.sources = definition.source.as_ref().map(|s| s.infos.clone()).unwrap_or_default();
        Ok(graph)
    }

    /// Walks from the root, depth first without recursion, and adds vertices after their inputs.
    fn collect(
        &mut self,
        mut ops: HashMap<Digest, (Bytes, pb::Op)>,
        def: &pb::Definition,
    ) -> Result<(), Error> {
        enum Step {
            Enter(Digest),
            Leave(Digest),
        }
        let mut open: HashMap<Digest, (Bytes, pb::Op, Vec<Edge>)> = HashMap::new();
        let mut stack = vec![Step::Enter(self.root.vertex.clone())];
        while let Some(step) = stack.pop() {
            match step {
                Step::Enter(digest) if self.index.contains_key(&digest) => {}
                Step::Enter(digest) => {
                    if open.contains_key(&digest) {
                        return Err(Error::Cycle(digest));
                    }
                    let Some((raw, op)) = ops.remove(&digest) else {
                        return Err(missing("the definition", digest.as_str()));
                    };
                    let inputs: Vec<Edge> =
                        op.inputs.iter().map(|i| edge(digest.as_str(), i)).collect::<Result<_, _>>()?;
                    stack.push(Step::Leave(digest.clone()));
                    for input in &inputs {
                        if !self.index.contains_key(&input.vertex) {
                            if open.contains_key(&input.vertex) || input.vertex == digest {
                                return Err(Error::Cycle(input.vertex.clone()));
                            }
                            if !ops.contains_key(&input.vertex) {
                                return Err(missing(digest.as_str(), input.vertex.as_str()));
                            }
                            stack.push(Step::Enter(input.vertex.clone()));
                        }
                    }
                    open.insert(digest, (raw, op, inputs));
                }
                Step::Leave(digest) => {
                    if let Some((raw, op, inputs)) = open.remove(&digest) {
                        self.add(digest, raw, op, inputs, def)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        digest: Digest,
        raw: Bytes,
        op: pb::Op,
        inputs: Vec<Edge>,
        def: &pb::Definition,
    ) -> Result<(), Error> {
        validate::op(&digest, &op)?;
        for input in &inputs {
            if let Some(vertex) = self.get(&input.vertex) {
                validate::output(vertex, input)?;
            }
        }
        let name = self.op_name(&op, &inputs);
        let metadata = def.metadata.get(digest.as_str()).cloned().unwrap_or_default();
        let locations = locations(def.source.as_ref(), &digest)?;
        self.index.insert(digest.clone(), self.vertices.len());
        self.vertices.push(Arc::new(Vertex { digest, raw, op, inputs, metadata, locations, name }));
        Ok(())
    }

    /// The result.
    pub fn root(&self) -> &Edge {
        &self.root
    }

    /// A vertex by digest.
    pub fn get(&self, digest: &Digest) -> Option<&Arc<Vertex>> {
        self.index.get(digest).and_then(|&i| self.vertices.get(i))
    }

    /// All vertices that the result needs, inputs before those who use them.
    pub fn vertices(&self) -> &[Arc<Vertex>] {
        &self.vertices
    }

    /// The files that [`Vertex::locations`] point into.
    pub fn sources(&self) -> &[pb::SourceInfo] {
        &self.sources
    }

    fn op_name(&self, op: &pb::Op, inputs: &[Edge]) -> String {
        let name = |i: usize| {
            inputs.get(i).and_then(|e| self.get(&e.vertex)).map(|v| clip(v.name())).unwrap_or_default()
        };
        let side = |input: Option<i64>| match input.map(usize::try_from) {
            Some(Ok(i)) => format!("({})", name(i)),
            _ => "scratch".to_owned(),
        };
        match &op.op {
            Some(pb::op::Op::Source(s)) => s.identifier.clone(),
            Some(pb::op::Op::Exec(e)) => e.meta.as_ref().map(|m| m.args.join(" ")).unwrap_or_default(),
            Some(pb::op::Op::File(f)) => file_name(f),
            Some(pb::op::Op::Build(_)) => "build".to_owned(),
            Some(pb::op::Op::Merge(_)) => {
                format!("merge ({})", (0..inputs.len()).map(name).collect::<Vec<_>>().join(", "))
            }
            Some(pb::op::Op::Diff(d)) => {
                let lower = side(d.lower.as_ref().map(|l| l.input));
                let upper = side(d.upper.as_ref().map(|u| u.input));
                format!("diff {lower} -> {upper}")
            }
            Some(pb::op::Op::Passthrough(p)) => format!("passthrough {}", p.id),
            None => String::new(),
        }
    }
}

/// Names of merges contain those of their inputs; a chain of them must not grow without bounds.
fn clip(name: &str) -> String {
    const MAX: usize = 1000;
    if name.len() <= MAX {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(MAX / 4).collect();
    short.push('…');
    short
}

fn file_name(op: &pb::FileOp) -> String {
    use pb::file_action::Action;
    let names: Vec<String> = op
        .actions
        .iter()
        .filter_map(|a| {
            Some(match a.action.as_ref()? {
                Action::Mkdir(a) => format!("mkdir {}", a.path),
                Action::Mkfile(a) => format!("mkfile {}", a.path),
                Action::Symlink(a) => format!("symlink {} -> {}", a.newpath, a.oldpath),
                Action::Rm(a) => format!("rm {}", a.path),
                Action::Copy(a) => format!("copy {} {}", a.src, a.dest),
            })
        })
        .collect();
    names.join(", ")
}

fn edge(vertex: &str, input: &pb::Input) -> Result<Edge, Error> {
    let digest = Digest::parse(&input.digest).map_err(|_| missing(vertex, &input.digest))?;
    let output =
        usize::try_from(input.index).map_err(|_| missing(vertex, &format!("{digest}@{}", input.index)))?;
    Ok(Edge { vertex: digest, output })
}

fn missing(vertex: &str, input: &str) -> Error {
    Error::MissingInput { vertex: vertex.to_owned(), input: input.chars().take(200).collect() }
}

fn locations(source: Option<&pb::Source>, digest: &Digest) -> Result<pb::Locations, Error> {
    let Some(source) = source else { return Ok(pb::Locations::default()) };
    let Some(found) = source.locations.get(digest.as_str()) else { return Ok(pb::Locations::default()) };
    let count = source.infos.len();
    for location in &found.locations {
        if usize::try_from(location.source_index).map_or(true, |i| i >= count) {
            return Err(Error::SourceIndex { vertex: digest.to_string(), index: location.source_index });
        }
    }
    Ok(found.clone())
}

/// The platform of a message, as it was written.
pub(crate) fn platform_from_pb(p: &pb::Platform) -> Platform {
    Platform {
        architecture: p.architecture.clone(),
        os: p.os.clone(),
        os_version: p.os_version.clone(),
        os_features: p.os_features.clone(),
        variant: p.variant.clone(),
    }
}
