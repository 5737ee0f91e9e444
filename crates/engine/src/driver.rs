//! The owner task, and the way to reach it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::context::VertexState;
use crate::core::{BuildRequest, Core, Msg, Origin, Ticket};
use crate::{
    CacheStore, CachedResult, Domain, Edge, Graph, Held, JobSerial, ProgressSink, SolveCause, SolveError,
};

/// How many messages the owner task takes before it settles.
const BATCH: usize = 256;

/// Numbers jobs and tickets, over all engines.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The way to the owner task. Keeps it alive.
pub(crate) struct Remote<D: Domain> {
    tx: mpsc::UnboundedSender<Msg<D>>,
}

impl<D: Domain> Clone for Remote<D> {
    fn clone(&self) -> Self {
        Self { tx: self.tx.clone() }
    }
}

/// The owner task. A panic in it (a store's, or a mistake of ours) ends the builds of that moment, not the engine: it goes
/// on with empty tables.
async fn own<D: Domain>(mut core: Core<D>, mut rx: mpsc::UnboundedReceiver<Msg<D>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while rx.recv_many(&mut batch, BATCH).await > 0 {
        let work = || {
            batch.drain(..).for_each(|msg| core.handle(msg));
            core.settle();
        };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!("the engine's owner task panicked: all builds under way are given up");
            batch.clear();
            core = core.anew();
        }
    }
}

/// Withdraws a build when its future is dropped.
struct Claim<'a, D: Domain> {
    remote: &'a Remote<D>,
    ticket: Ticket,
    answered: bool,
}

impl<D: Domain> Drop for Claim<'_, D> {
    fn drop(&mut self) {
        if !self.answered {
            self.remote.send(Msg::Cancel(self.ticket));
        }
    }
}

impl<D: Domain> Remote<D> {
    pub(crate) fn new(tx: mpsc::UnboundedSender<Msg<D>>) -> Self {
        Self { tx }
    }

    /// Starts the owner task.
    pub(crate) fn start(store: Arc<dyn CacheStore<D>>) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        tokio::spawn(own(Core::new(tx.downgrade(), store), rx));
        Self { tx }
    }

    /// What is sent to an engine that is gone is lost, and whoever waits for an answer is told by the lost reply.
    fn send(&self, msg: Msg<D>) {
        self.tx.send(msg).ok();
    }

    pub(crate) fn open(&self, data: D::Job, sink: Arc<dyn ProgressSink>) -> JobSerial {
        let job = NEXT.fetch_add(1, Ordering::Relaxed);
        self.send(Msg::Open { job, data, sink });
        job
    }

    pub(crate) async fn build(
        &self,
        job: JobSerial,
        stores: Vec<Arc<dyn CacheStore<D>>>,
        graph: Graph<D>,
        edge: Edge,
    ) -> Result<CachedResult<D>, SolveError<D>> {
        self.request(Origin::Job(job, stores), graph, edge).await
    }

    pub(crate) async fn build_for(
        &self,
        vertex: &Arc<VertexState<D>>,
        graph: Graph<D>,
        edge: Edge,
    ) -> Result<CachedResult<D>, SolveError<D>> {
        self.request(Origin::Vertex(vertex.clone()), graph, edge).await
    }

    async fn request(
        &self,
        origin: Origin<D>,
        graph: Graph<D>,
        edge: Edge,
    ) -> Result<CachedResult<D>, SolveError<D>> {
        let ticket = NEXT.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let mut claim = Claim { remote: self, ticket, answered: false };
        self.send(Msg::Build(Box::new(BuildRequest { ticket, origin, graph, edge, reply })));
        let result = answer.await;
        claim.answered = true;
        result.unwrap_or_else(|_| Err(SolveError::bare(SolveCause::Closed)))
    }

    pub(crate) async fn close(&self, job: JobSerial) {
        let (done, stopped) = oneshot::channel();
        self.send(Msg::Close { job, done: Some(done) });
        stopped.await.ok();
    }

    /// What a job holds; nothing when it has ended.
    pub(crate) async fn held(&self, job: JobSerial) -> Vec<Held<D>> {
        let (reply, answer) = oneshot::channel();
        self.send(Msg::Held(job, reply));
        answer.await.unwrap_or_default()
    }

    pub(crate) fn drop_job(&self, job: JobSerial) {
        self.send(Msg::Close { job, done: None });
    }

    /// Breaks the engine, to see that the fuzz test notices.
    #[cfg(test)]
    pub(crate) fn start_broken(store: Arc<dyn CacheStore<D>>, broken: Option<crate::fuzz::Broken>) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        let mut core = Core::new(tx.downgrade(), store);
        core.broken = broken;
        tokio::spawn(own(core, rx));
        Self { tx }
    }

    #[cfg(test)]
    pub(crate) async fn census(&self) -> crate::core::Census {
        let (reply, answer) = oneshot::channel();
        self.send(Msg::Census(reply));
        answer.await.unwrap_or_default()
    }
}
