//! What an op sees of the engine, and what all holders of a vertex share.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use kiln_oci::Digest;

use crate::driver::Remote;
use crate::progress::Hub;
use crate::sync::{lock, read, write};
use crate::{
    CacheMap, CachedResult, Domain, Edge, Graph, JobSerial, Op, Permit, SolveError, VertexOptions,
    VertexProgress,
};

/// What the engine's owner task and everybody else share of a vertex.
pub(crate) struct VertexState<D: Domain> {
    pub(crate) digest: Digest,
    /// See the owner task's tables.
    pub(crate) variant: u64,
    pub(crate) name: Arc<str>,
    pub(crate) op: Arc<D::Op>,
    pub(crate) inputs: Vec<(Arc<VertexState<D>>, usize)>,
    pub(crate) options: VertexOptions,
    pub(crate) hub: Arc<Hub>,
    pub(crate) jobs: RwLock<Vec<(JobSerial, D::Job)>>,
    pub(crate) maps: RwLock<Vec<Arc<CacheMap<D>>>>,
    /// What loads of its result left for later ones.
    pub(crate) loaded: RwLock<Vec<D::CacheOpts>>,
    /// Roots of the builds that the op started.
    pub(crate) subs: RwLock<Vec<Arc<VertexState<D>>>>,
    pub(crate) ran: AtomicBool,
}

impl<D: Domain> VertexState<D> {
    pub(crate) fn view(&self) -> VertexView<'_, D> {
        VertexView { state: self }
    }
}

/// Vertices form chains as long as the build; dropping one must not recurse that deep.
impl<D: Domain> Drop for VertexState<D> {
    fn drop(&mut self) {
        let mut rest: Vec<Arc<Self>> = Vec::new();
        let take = |state: &mut Self, rest: &mut Vec<Arc<Self>>| {
            rest.extend(state.inputs.drain(..).map(|(input, _)| input));
            rest.append(state.subs.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        };
        take(self, &mut rest);
        while let Some(next) = rest.pop() {
            if let Some(mut state) = Arc::into_inner(next) {
                take(&mut state, &mut rest);
            }
        }
    }
}

/// A vertex of a finished build, as [`CachedResult::visit`] shows it.
pub struct VertexView<'a, D: Domain> {
    state: &'a VertexState<D>,
}

impl<D: Domain> VertexView<'_, D> {
    /// Its digest.
    pub fn digest(&self) -> &Digest {
        &self.state.digest
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its op.
    pub fn op(&self) -> &Arc<D::Op> {
        &self.state.op
    }

    /// What it takes.
    pub fn inputs(&self) -> Vec<Edge> {
        self.state.inputs.iter().map(|(v, output)| Edge::new(v.digest.clone(), *output)).collect()
    }

    /// Its options.
    pub fn options(&self) -> &VertexOptions {
        &self.state.options
    }

    /// What cache maps and loads of its result left for later loads.
    pub fn opts(&self) -> Vec<D::CacheOpts> {
        let maps = read(&self.state.maps);
        let loaded = read(&self.state.loaded);
        maps.iter().filter_map(|map| map.opts.clone()).chain(loaded.iter().cloned()).collect()
    }

    /// Whether the op ran, for whichever job. If not, its result came from a cache, from an equal vertex, or was not
    /// needed.
    pub fn ran(&self) -> bool {
        self.state.ran.load(Ordering::Acquire)
    }

    /// The cache maps that were asked for, with what the vertex is made from.
    pub fn cache_maps(&self) -> Vec<Arc<CacheMap<D>>> {
        read(&self.state.maps).clone()
    }
}

/// Calls `f` with `start` and every vertex that it can reach, nearest first, each once.
pub(crate) fn walk<D: Domain>(
    start: &VertexState<D>,
    with_subs: bool,
    mut f: impl FnMut(&VertexState<D>) -> bool,
) {
    let mut seen: HashSet<*const VertexState<D>> = HashSet::from([std::ptr::from_ref(start)]);
    let mut queue: VecDeque<Arc<VertexState<D>>> = VecDeque::new();
    let mut push = |state: &VertexState<D>, queue: &mut VecDeque<Arc<VertexState<D>>>| {
        let subs = if with_subs { read(&state.subs).clone() } else { Vec::new() };
        for next in state.inputs.iter().map(|(v, _)| v).chain(&subs) {
            if seen.insert(Arc::as_ptr(next)) {
                queue.push_back(next.clone());
            }
        }
    };
    if !f(start) {
        return;
    }
    push(start, &mut queue);
    while let Some(state) = queue.pop_front() {
        if !f(&state) {
            return;
        }
        push(&state, &mut queue);
    }
}

/// The jobs that want a vertex, now and whenever it is asked again. Keeps the vertex's description alive, nothing else.
pub struct JobGroup<D: Domain>(pub(crate) Arc<VertexState<D>>);

impl<D: Domain> JobGroup<D> {
    /// What the jobs brought, in the order in which they came.
    pub fn jobs(&self) -> Vec<D::Job> {
        read(&self.0.jobs).iter().map(|(_, job)| job.clone()).collect()
    }
}

impl<D: Domain> Clone for JobGroup<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Domain> fmt::Debug for JobGroup<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JobGroup").field(&self.0.digest).finish()
    }
}

/// What an op may use while it works for a vertex.
pub struct OpContext<D: Domain> {
    pub(crate) vertex: Arc<VertexState<D>>,
    pub(crate) progress: VertexProgress,
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) remote: Option<Remote<D>>,
    pub(crate) permit: Arc<Mutex<Permit>>,
    pub(crate) exec: bool,
}

impl<D: Domain> OpContext<D> {
    pub(crate) fn new(vertex: Arc<VertexState<D>>, remote: Option<Remote<D>>) -> Self {
        let progress = VertexProgress::new(vertex.hub.clone());
        Self { vertex, progress, cancelled: Arc::default(), remote, permit: Arc::default(), exec: false }
    }

    /// The digest of the vertex.
    pub fn vertex(&self) -> &Digest {
        &self.vertex.digest
    }

    /// The name of the vertex.
    pub fn name(&self) -> &str {
        &self.vertex.name
    }

    /// The options of the vertex.
    pub fn options(&self) -> &VertexOptions {
        &self.vertex.options
    }

    /// Where to write progress.
    pub fn progress(&self) -> &VertexProgress {
        &self.progress
    }

    /// What the jobs that want this vertex brought, at this moment, the first to come first.
    pub fn jobs(&self) -> Vec<D::Job> {
        read(&self.vertex.jobs).iter().map(|(_, job)| job.clone()).collect()
    }

    /// The same as a live handle, which may be kept.
    pub fn group(&self) -> JobGroup<D> {
        JobGroup(self.vertex.clone())
    }

    /// Whether nobody wants the work any more. The future is dropped then; this is for work on other threads, which
    /// can take [`cancel_flag`](Self::cancel_flag) along.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Becomes `true` when the work is cancelled.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancelled.clone()
    }

    /// Leaves something for later loads of this vertex and its descendants, as a cache map does: for stores whose results
    /// are not all here yet.
    pub fn leave_opts(&self, opts: D::CacheOpts) {
        write(&self.vertex.loaded).push(opts);
    }

    /// Looks for something in the cache options that this vertex's and its ancestors' cache maps and loads left, nearest
    /// first.
    pub fn find_opts<R>(&self, mut f: impl FnMut(&D::CacheOpts) -> Option<R>) -> Option<R> {
        let mut found = None;
        walk(&self.vertex, false, |state| {
            let (maps, loaded) = (read(&state.maps), read(&state.loaded));
            let opts = loaded.iter().rev().chain(maps.iter().rev().filter_map(|m| m.opts.as_ref()));
            found = { opts }.find_map(&mut f);
            found.is_none()
        });
        found
    }

    /// Builds something on behalf of this vertex: for the same jobs, with the same stores. The op's permit is given
    /// back meanwhile and acquired again, so that builds within builds cannot starve each other.
    ///
    /// # Errors
    /// Those of the build; [`SolveCause::Cycle`](crate::SolveCause::Cycle) when `graph` needs this vertex itself.
    pub async fn build(&self, graph: Graph<D>, edge: Edge) -> Result<CachedResult<D>, SolveError<D>> {
        let Some(remote) = &self.remote else {
            return Err(SolveError::bare(crate::SolveCause::Closed));
        };
        let permit = std::mem::take(&mut *lock(&self.permit));
        drop(permit);
        let result = remote.build_for(&self.vertex, graph, edge).await;
        if self.exec {
            let permit = self.vertex.op.acquire().await;
            *lock(&self.permit) = permit;
        }
        result
    }
}

impl<D: Domain> fmt::Debug for OpContext<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpContext").field("vertex", &self.vertex.digest).finish_non_exhaustive()
    }
}
