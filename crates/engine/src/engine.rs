//! The doors of the engine: [`Engine`], [`Job`], [`CachedResult`].

use std::fmt;
use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::OnceCell;

use crate::context::{VertexState, walk};
use crate::driver::Remote;
use crate::{CacheStore, Domain, Edge, EdgeTrace, Graph, Key, ProgressSink, SolveError, VertexView};

/// Numbers the jobs of an engine.
pub type JobSerial = u64;

/// The solver: one graph of vertices for all jobs of a daemon. Cheap to clone; its owner task ends with the last
/// clone, job and running op.
pub struct Engine<D: Domain> {
    remote: Remote<D>,
}

impl<D: Domain> Engine<D> {
    /// Starts an engine over its own store. Must be called within a tokio runtime.
    pub fn new(store: Arc<dyn CacheStore<D>>) -> Self {
        Self { remote: Remote::start(store) }
    }

    /// Opens a job: one client's solve. `stores` are imported caches, searched beside the engine's own.
    pub fn new_job(
        &self,
        id: impl Into<String>,
        data: D::Job,
        stores: Vec<Arc<dyn CacheStore<D>>>,
        sink: Arc<dyn ProgressSink>,
    ) -> Job<D> {
        let serial = self.remote.open(data, sink);
        Job { id: id.into(), serial, stores, ready: OnceCell::new(), remote: self.remote.clone() }
    }
}

#[cfg(test)]
impl<D: Domain> Engine<D> {
    pub(crate) fn broken(store: Arc<dyn CacheStore<D>>, broken: Option<crate::fuzz::Broken>) -> Self {
        Self { remote: Remote::start_broken(store, broken) }
    }

    pub(crate) async fn census(&self) -> crate::core::Census {
        self.remote.census().await
    }
}

impl<D: Domain> Clone for Engine<D> {
    fn clone(&self) -> Self {
        Self { remote: self.remote.clone() }
    }
}

impl<D: Domain> fmt::Debug for Engine<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// One client's solve. It holds every vertex that was built for it, with their results, until it is dropped; work that
/// nobody else wants stops then.
pub struct Job<D: Domain> {
    id: String,
    serial: JobSerial,
    stores: Vec<Arc<dyn CacheStore<D>>>,
    ready: OnceCell<Vec<Arc<dyn CacheStore<D>>>>,
    remote: Remote<D>,
}

impl<D: Domain> Job<D> {
    /// The id it was opened with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Builds `edge` of `graph`. May be called many times, also at once. Dropping the future withdraws the request;
    /// what was built stays with the job.
    ///
    /// # Errors
    /// The first failure of a vertex that the edge needs.
    pub async fn build(&self, graph: Graph<D>, edge: Edge) -> Result<CachedResult<D>, SolveError<D>> {
        self.build_with(graph, edge, &[]).await
    }

    /// As [`Job::build`], with further imported caches for what this edge needs.
    ///
    /// # Errors
    /// As [`Job::build`]. A cache that cannot be read is left out.
    pub async fn build_with(
        &self,
        graph: Graph<D>,
        edge: Edge,
        stores: &[Arc<dyn CacheStore<D>>],
    ) -> Result<CachedResult<D>, SolveError<D>> {
        let own = self.ready.get_or_init(|| ready(&self.stores)).await.clone();
        let all = own.into_iter().chain(ready(stores).await).collect();
        self.remote.build(self.serial, all, graph, edge).await
    }

    /// Every vertex that it holds, with what is known of its keys at this moment: for a record of the build. Nothing when the
    /// job has ended.
    pub async fn held(&self) -> Vec<Held<D>> {
        self.remote.held(self.serial).await
    }

    /// Ends the job and waits until the work that only it wanted has stopped. What is built for it after that fails with
    /// [`SolveCause::Closed`](crate::SolveCause::Closed).
    pub async fn close(&self) {
        self.remote.close(self.serial).await;
    }
}

/// The stores that can be read. An imported cache that cannot is no reason to fail a build.
async fn ready<D: Domain>(stores: &[Arc<dyn CacheStore<D>>]) -> Vec<Arc<dyn CacheStore<D>>> {
    let results = join_all(stores.iter().map(|s| s.ready())).await;
    let mut out = Vec::with_capacity(stores.len());
    for (store, result) in stores.iter().zip(results) {
        match result {
            Ok(()) => out.push(store.clone()),
            Err(error) => tracing::warn!(store = store.name(), %error, "cache import left out"),
        }
    }
    out
}

impl<D: Domain> Drop for Job<D> {
    fn drop(&mut self) {
        self.remote.drop_job(self.serial);
    }
}

impl<D: Domain> fmt::Debug for Job<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id).field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// A vertex that a job holds, and what is known of it.
pub struct Held<D: Domain> {
    pub(crate) vertex: Arc<VertexState<D>>,
    /// Its outputs that somebody asked for, or that are inputs of others.
    pub edges: Vec<EdgeTrace>,
}

impl<D: Domain> Held<D> {
    /// The vertex.
    pub fn vertex(&self) -> VertexView<'_, D> {
        self.vertex.view()
    }
}

impl<D: Domain> fmt::Debug for Held<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = &self.vertex.digest;
        f.debug_struct("Held").field("vertex", digest).field("edges", &self.edges).finish()
    }
}

/// The result of a built edge.
pub struct CachedResult<D: Domain> {
    /// The result.
    pub output: D::Output,
    /// The edge that was asked for.
    pub edge: Edge,
    /// Its cache keys, for exporters: see [`CacheExportGraph`](crate::CacheExportGraph).
    pub keys: Vec<Key<D>>,
    /// The keys of what the op built by itself ([`OpContext::build`](crate::OpContext::build)).
    pub sub_keys: Vec<Key<D>>,
    pub(crate) vertex: Arc<VertexState<D>>,
}

impl<D: Domain> CachedResult<D> {
    /// Calls `f` with every vertex that the result can reach, nearest first, each once, those of builds that ops
    /// started included. Valid beyond the job.
    pub fn visit(&self, mut f: impl FnMut(VertexView<'_, D>)) {
        walk(&self.vertex, true, |state| {
            f(state.view());
            true
        });
    }

    /// What all these vertices are made from, nearest first.
    pub fn materials(&self) -> Vec<D::Material> {
        let mut out = Vec::new();
        self.visit(|v| out.extend(v.cache_maps().iter().flat_map(|m| m.materials.clone())));
        out
    }
}

impl<D: Domain> Clone for CachedResult<D> {
    fn clone(&self) -> Self {
        Self {
            output: self.output.clone(),
            edge: self.edge.clone(),
            keys: self.keys.clone(),
            sub_keys: self.sub_keys.clone(),
            vertex: self.vertex.clone(),
        }
    }
}

impl<D: Domain> fmt::Debug for CachedResult<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedResult")
            .field("edge", &self.edge)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}
