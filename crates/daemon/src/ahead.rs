//! Exports that begin while the build's last steps still run.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kiln_exporter::{Context, Exporter, Sent, WorkerRef};
use kiln_llb::Graph;
use kiln_oci::Digest;
use kiln_ops::{Output, Witness, steps_below};
use kiln_worker::{ImmutableRef, NoProviders};
use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet};

/// Trees that are worked on at once: one is packed while another is pushed. The steps have the machine first.
const AT_ONCE: usize = 2;

/// What works ahead of a build's exporters. Dropped, it stops.
pub(crate) struct Ahead {
    works: Vec<Arc<Work>>,
    /// The outputs of steps that will be layers of the result.
    expected: Mutex<HashSet<(Digest, usize)>>,
    permits: Arc<Semaphore>,
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

/// One exporter.
struct Work {
    exporter: Exporter,
    cx: Context,
    sent: Sent,
}

impl Ahead {
    /// For exporters that work ahead.
    pub(crate) fn new(exporters: Vec<Exporter>, cx: &Context) -> Arc<Self> {
        let work = |exporter| Arc::new(Work { exporter, cx: cx.clone(), sent: Sent::default() });
        Self::of(exporters.into_iter().map(work).collect())
    }

    /// For no exporter.
    pub(crate) fn none() -> Arc<Self> {
        Self::of(Vec::new())
    }

    fn of(works: Vec<Arc<Work>>) -> Arc<Self> {
        Arc::new(Self {
            works,
            expected: Mutex::default(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            runtime: Handle::current(),
            tasks: Mutex::default(),
        })
    }

    /// This is a tree of the result.
    pub(crate) fn expect(&self, graph: &Graph) {
        if !self.works.is_empty() {
            lock(&self.expected).extend(steps_below(graph));
        }
    }

    /// Returns when everything that was begun is done. Nothing more is expected.
    pub(crate) async fn end(&self) {
        lock(&self.expected).clear();
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        while tasks.join_next().await.is_some() {}
    }

    fn begin(&self, tree: &ImmutableRef) {
        for work in &self.works {
            let (work, tree, permits) = (work.clone(), tree.clone(), self.permits.clone());
            let doing = async move {
                let Ok(_permit) = permits.acquire_owned().await else { return };
                let worker = tree.worker().clone();
                let tree = WorkerRef::new(tree, Arc::new(NoProviders));
                let done = worker.growing(work.exporter.ahead(&work.cx, &tree, &work.sent)).await;
                match done {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a layer is not exported ahead"),
                    Err(error) => tracing::debug!(%error, "a layer is not packed ahead"),
                }
            };
            lock(&self.tasks).spawn_on(doing, &self.runtime);
        }
    }
}

impl Witness for Ahead {
    fn made(&self, vertex: &Digest, outputs: &[Output]) {
        for (index, output) in outputs.iter().enumerate() {
            if let Some(tree) = output.tree()
                && lock(&self.expected).remove(&(vertex.clone(), index))
            {
                self.begin(tree);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ahead").field("expected", &self.expected).finish_non_exhaustive()
    }
}
