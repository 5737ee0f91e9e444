//! A definition that is built when somebody needs it.

use std::sync::Arc;

use kiln_engine::{CachedResult, Job};
use kiln_llb::Graph;
use kiln_ops::{Entitlements, Host, Kiln, Output};
use kiln_proto::{pb, status::WireError};
use kiln_worker::Unpacked;
use tokio::sync::OnceCell;
use tonic::Code;

use crate::errors::{solve_error, wire_error};

/// A result that may not be there yet.
pub struct BuildRef {
    id: String,
    definition: pb::Definition,
    graph: Graph,
    job: Arc<Job<Kiln>>,
    host: Arc<Host>,
    allowed: Entitlements,
    result: OnceCell<CachedResult<Kiln>>,
}

impl std::fmt::Debug for BuildRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildRef").field("id", &self.id).finish_non_exhaustive()
    }
}

impl BuildRef {
    /// Checks a definition, and everything that it asks for.
    pub(crate) fn new(
        definition: pb::Definition,
        job: Arc<Job<Kiln>>,
        host: Arc<Host>,
        allowed: Entitlements,
    ) -> Result<Self, WireError> {
        let invalid = |error: String| WireError::new(Code::InvalidArgument, error);
        let graph = Graph::decode(&definition).map_err(|e| invalid(e.to_string()))?;
        kiln_ops::load(&graph, &host, &allowed).map_err(wire_error)?;
        let id = kiln_session::random_id();
        Ok(Self { id, definition, graph, job, host, allowed, result: OnceCell::new() })
    }

    /// Names it among the refs of its build.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it is built from.
    #[must_use]
    pub fn definition(&self) -> &pb::Definition {
        &self.definition
    }

    /// The checked definition.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What came of it, if it has been built.
    #[must_use]
    pub fn built(&self) -> Option<&CachedResult<Kiln>> {
        self.result.get()
    }

    /// Builds it, once.
    ///
    /// # Errors
    /// The failed vertex's, with the lines that it came from.
    pub async fn result(&self) -> Result<&CachedResult<Kiln>, WireError> {
        self.result
            .get_or_try_init(|| async {
                let (graph, edge) =
                    kiln_ops::load(&self.graph, &self.host, &self.allowed).map_err(wire_error)?;
                self.job.build(graph, edge).await.map_err(|error| solve_error(&error, Some(&self.graph)))
            })
            .await
    }

    /// The built tree.
    ///
    /// # Errors
    /// As [`BuildRef::result`].
    pub async fn output(&self) -> Result<Output, WireError> {
        Ok(self.result().await?.output.clone())
    }

    /// The built tree with its files on disk; `None` is the empty one.
    ///
    /// # Errors
    /// As [`BuildRef::result`], and what unpacking fails with.
    pub async fn unpack(&self) -> Result<Option<Unpacked>, WireError> {
        let result = self.result().await?;
        let Some(tree) = result.output.tree() else { return Ok(None) };
        if let Some(unpacked) = tree.unpacked() {
            return Ok(Some(unpacked));
        }
        tree.unpack(kiln_ops::providers_of(result)).await.map(Some).map_err(wire_error)
    }
}
