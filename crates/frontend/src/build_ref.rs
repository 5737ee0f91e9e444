//! A definition that is built when somebody needs it.

use std::sync::Arc;

use kiln_engine::{CacheStore, CachedResult, Job, SolveError, WarningEvent};
use kiln_llb::Graph;
use kiln_oci::Digest;
use kiln_ops::{Entitlements, Host, Kiln, OpError, Output};
use kiln_proto::{pb, status::WireError};
use kiln_worker::Unpacked;
use tokio::sync::OnceCell;
use tonic::Code;

use crate::{
    Results, Steps,
    errors::{solve_error, wire_error},
};

/// A result that may not be there yet.
pub struct BuildRef {
    id: String,
    definition: pb::Definition,
    graph: Graph,
    job: Arc<Job<Kiln>>,
    host: Arc<Host>,
    allowed: Entitlements,
    /// Imported caches that may serve it.
    caches: Vec<Arc<dyn CacheStore<Kiln>>>,
    steps: Steps,
    failures: Arc<Results>,
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
        caches: Vec<Arc<dyn CacheStore<Kiln>>>,
        (failures, steps): (Arc<Results>, Steps),
    ) -> Result<Self, WireError> {
        let invalid = |error: String| WireError::new(Code::InvalidArgument, error);
        let graph = Graph::decode(&definition).map_err(|e| invalid(e.to_string()))?;
        kiln_ops::load(&graph, &host, &allowed).map_err(wire_error)?;
        let id = kiln_session::random_id();
        let result = OnceCell::new();
        Ok(Self { id, definition, graph, job, host, allowed, caches, steps, failures, result })
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
                let built = match self.job.build_with(graph, edge, &self.caches).await {
                    Err(error) if self.is_damaged(&error) => {
                        self.build_anew(error.vertex.as_ref(), &error.to_string()).await?
                    }
                    built => built,
                };
                built.map_err(|error| solve_error(&error, &self.graph, &self.failures))
            })
            .await
    }

    /// Whether a build may have failed for a layer of an imported cache that cannot be had, or is not what it should be.
    fn is_damaged(&self, error: &SolveError<Kiln>) -> bool {
        !self.caches.is_empty() && error.op_error().is_some_and(OpError::is_lost_input)
    }

    /// A ref of the same definition, built without any cache, when this one may stand on an imported cache: for a result
    /// whose layers turned out to be gone or damaged, as `error` says. `None` when no cache was imported.
    ///
    /// # Errors
    /// As [`BuildRef::result`].
    pub async fn anew(&self, error: &str) -> Result<Option<Arc<Self>>, WireError> {
        if self.caches.is_empty() {
            return Ok(None);
        }
        let vertex = self.graph.root().vertex.clone();
        let built = self.build_anew(Some(&vertex), error).await?;
        let built = built.map_err(|error| solve_error(&error, &self.graph, &self.failures))?;
        let (job, host) = (self.job.clone(), self.host.clone());
        let place = (self.failures.clone(), self.steps.clone());
        let anew = Self::new(self.definition.clone(), job, host, self.allowed.clone(), Vec::new(), place)?;
        // It stands in the place of this one: who asked for it, for one, is known by its name.
        let anew = Self { id: self.id.clone(), ..anew };
        // It was made a moment ago.
        drop(anew.result.set(built));
        Ok(Some(Arc::new(anew)))
    }

    /// Builds without any cache, as nothing tells which hits stand on what could not be had.
    async fn build_anew(
        &self,
        vertex: Option<&Digest>,
        error: &str,
    ) -> Result<Result<CachedResult<Kiln>, SolveError<Kiln>>, WireError> {
        let text = format!("an imported cache is damaged, building without it: {error}");
        tracing::warn!("{text}");
        if let Some(vertex) = vertex {
            self.steps.warn(WarningEvent {
                vertex: vertex.clone(),
                level: 1,
                short: text.into(),
                detail: Vec::new(),
                url: String::new(),
                info: None,
                ranges: Vec::new(),
            });
        }
        let anew = kiln_ops::load_uncached(&self.graph, &self.host, &self.allowed);
        let (graph, edge) = anew.map_err(wire_error)?;
        Ok(self.job.build(graph, edge).await)
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
