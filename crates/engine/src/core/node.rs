//! A vertex in the tables.

use std::sync::Arc;

use crate::context::VertexState;
use crate::core::{EdgeId, NodeId, TaskId};
use crate::store::StoreHandle;
use crate::{CacheMap, Domain, JobSerial, Key, SolveError};

/// A vertex that at least one job holds.
pub(crate) struct Node<D: Domain> {
    pub(crate) state: Arc<VertexState<D>>,
    /// 0 when neither the vertex nor anything before it ignores the cache or has a meaning of its own; otherwise a hash of
    /// which do. Vertices that differ in this are kept apart.
    pub(crate) variant: u64,
    /// Whether this vertex itself ignores the cache.
    pub(crate) ignore: bool,
    pub(crate) inputs: Vec<EdgeId<D>>,
    pub(crate) edges: Vec<(usize, EdgeId<D>)>,
    /// Everybody who can reach the vertex: a job that holds a vertex holds all before it, all that its op builds,
    /// and the vertices that work for it.
    pub(crate) jobs: Vec<JobSerial>,
    /// Roots of the builds that its op started.
    pub(crate) subs: Vec<NodeId<D>>,
    /// Their keys.
    pub(crate) sub_keys: Vec<Key<D>>,
    /// The stores of all jobs that asked for the vertex, the main store first.
    pub(crate) stores: Vec<StoreHandle<D>>,
    pub(crate) maps: Vec<Arc<CacheMap<D>>>,
    pub(crate) maps_done: bool,
    pub(crate) map_task: Option<TaskId>,
    pub(crate) examined: Vec<Examined<D>>,
    pub(crate) exec: Exec<D>,
    /// The first failure. Until a new job asks, everybody gets this one.
    pub(crate) failed: Option<SolveError<D>>,
}

/// Whether an input was prepared and hashed.
pub(crate) enum Examined<D: Domain> {
    No,
    Running(TaskId),
    /// With its content key, if it has one.
    Yes(Option<Key<D>>),
}

/// Whether the op ran.
pub(crate) enum Exec<D: Domain> {
    No,
    Running {
        task: TaskId,
        /// The edges that want an output.
        wanted_by: Vec<EdgeId<D>>,
        /// Nobody wanted it any more; what is wanted since waits until it has stopped.
        stopping: bool,
    },
    Yes(Vec<D::Output>),
}

impl<D: Domain> Node<D> {
    pub(crate) fn new(
        state: Arc<VertexState<D>>,
        variant: u64,
        inputs: Vec<EdgeId<D>>,
        stores: Vec<StoreHandle<D>>,
    ) -> Self {
        let examined = inputs.iter().map(|_| Examined::No).collect();
        Self {
            ignore: state.options.ignore_cache,
            state,
            variant,
            inputs,
            edges: Vec::new(),
            jobs: Vec::new(),
            subs: Vec::new(),
            sub_keys: Vec::new(),
            stores,
            maps: Vec::new(),
            maps_done: false,
            map_task: None,
            examined,
            exec: Exec::No,
            failed: None,
        }
    }

    /// The map that holds the selectors and the op's digest: for ops with inputs there is only one.
    pub(crate) fn map(&self) -> Option<&Arc<CacheMap<D>>> {
        self.maps.last()
    }

    /// The content key of an input, once it is known.
    pub(crate) fn content(&self, input: usize) -> Option<&Key<D>> {
        match self.examined.get(input) {
            Some(Examined::Yes(key)) => key.as_ref(),
            _ => None,
        }
    }
}
