//! The tables of the owner task, and what happens to them.
//!
//! Everything here is synchronous. A message changes an edge, changed edges are marked, and [`Core::settle`] takes
//! marked edges until none is left: each refreshes what it knows of its inputs, takes its next [`Step`](crate::step),
//! and marks those who asked for it when it has news. What takes time is started as a task (`work`) and comes back as
//! a message.

mod edge;
mod finished;
mod jobs;
mod keys;
mod load;
mod node;
mod outcome;
mod run;
mod same;
mod search;
mod why;
mod work;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use kiln_oci::Digest;
use tokio::sync::{mpsc, oneshot};

use crate::arena::{Arena, Id};
use crate::context::VertexState;
use crate::store::StoreHandle;
use crate::{CacheStore, CachedResult, Domain, Edge, Graph, Held, JobSerial, ProgressSink, SolveError};

use edge::EdgeState;
use jobs::JobState;
use node::Node;
use same::SameIndex;
use work::Task;

pub(crate) use work::{End, TaskId};

pub(crate) type NodeId<D> = Id<Node<D>>;
pub(crate) type EdgeId<D> = Id<EdgeState<D>>;
/// Names a build that somebody waits for.
pub(crate) type Ticket = u64;

/// What the owner task is told.
pub(crate) enum Msg<D: Domain> {
    /// A job begins.
    Open { job: JobSerial, data: D::Job, sink: Arc<dyn ProgressSink> },
    /// A job ends; `done` is told when its work has stopped.
    Close { job: JobSerial, done: Option<oneshot::Sender<()>> },
    /// Somebody waits for an edge.
    Build(Box<BuildRequest<D>>),
    /// Nobody waits any more.
    Cancel(Ticket),
    /// Somebody wants to know what a job holds.
    Held(JobSerial, oneshot::Sender<Vec<Held<D>>>),
    /// A task ended.
    Finished(TaskId, End<D>),
    /// For tests: how much is in the tables.
    #[cfg(test)]
    Census(oneshot::Sender<Census>),
}

/// A build that was asked for.
pub(crate) struct BuildRequest<D: Domain> {
    pub(crate) ticket: Ticket,
    pub(crate) origin: Origin<D>,
    pub(crate) graph: Graph<D>,
    pub(crate) edge: Edge,
    pub(crate) reply: Reply<D>,
}

pub(crate) type Reply<D> = oneshot::Sender<Result<CachedResult<D>, SolveError<D>>>;

/// Who asks for a build.
pub(crate) enum Origin<D: Domain> {
    /// A job, with its imported caches.
    Job(JobSerial, Vec<Arc<dyn CacheStore<D>>>),
    /// The op of a vertex, for that vertex's jobs.
    Vertex(Arc<VertexState<D>>),
}

/// How much is in the tables.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Census {
    pub(crate) jobs: usize,
    pub(crate) nodes: usize,
    pub(crate) edges: usize,
    pub(crate) tasks: usize,
    pub(crate) tickets: usize,
    pub(crate) same: usize,
    pub(crate) stores: usize,
}

struct Waiting<D: Domain> {
    edge: EdgeId<D>,
    parent: Option<NodeId<D>>,
    reply: Reply<D>,
}

/// Which inputs of a marked edge have news.
enum Marks {
    All,
    Some(Vec<u32>),
}

/// The tables.
pub(crate) struct Core<D: Domain> {
    tx: mpsc::WeakUnboundedSender<Msg<D>>,
    nodes: Arena<Node<D>>,
    edges: Arena<EdgeState<D>>,
    /// By digest and variant: see [`Node::variant`].
    by_digest: HashMap<(Digest, u64), NodeId<D>>,
    jobs: HashMap<JobSerial, JobState<D>>,
    tickets: HashMap<Ticket, Waiting<D>>,
    /// The main store comes first.
    stores: Vec<StoreHandle<D>>,
    next_store: u32,
    tasks: HashMap<TaskId, Task<D>>,
    /// Who waits until these tasks have stopped.
    closing: Vec<(HashSet<TaskId>, oneshot::Sender<()>)>,
    same: SameIndex<D>,
    queue: VecDeque<EdgeId<D>>,
    marks: HashMap<EdgeId<D>, Marks>,
    /// Edges whose work nobody wanted when they were last looked at. It stops when all edges are at rest: what is wanted
    /// again by then goes on.
    idle: Vec<EdgeId<D>>,
    next_result: u64,
    #[cfg(test)]
    pub(crate) broken: Option<crate::fuzz::Broken>,
}

impl<D: Domain> Core<D> {
    pub(crate) fn new(tx: mpsc::WeakUnboundedSender<Msg<D>>, main: Arc<dyn CacheStore<D>>) -> Self {
        Self {
            tx,
            nodes: Arena::new(),
            edges: Arena::new(),
            by_digest: HashMap::new(),
            jobs: HashMap::new(),
            tickets: HashMap::new(),
            stores: vec![StoreHandle { serial: 0, store: main }],
            next_store: 1,
            tasks: HashMap::new(),
            closing: Vec::new(),
            same: SameIndex::new(),
            queue: VecDeque::new(),
            marks: HashMap::new(),
            idle: Vec::new(),
            next_result: 0,
            #[cfg(test)]
            broken: None,
        }
    }

    /// Empty tables in place of these, whose work stops.
    pub(crate) fn anew(&self) -> Self {
        self.tasks.values().for_each(Task::abort);
        Self::new(self.tx.clone(), self.stores[0].store.clone())
    }

    /// Takes a message. [`Core::settle`] must follow, after this one or after a batch.
    pub(crate) fn handle(&mut self, msg: Msg<D>) {
        match msg {
            Msg::Open { job, data, sink } => {
                self.jobs.insert(job, JobState::new(data, sink));
            }
            Msg::Close { job, done } => self.close(job, done),
            Msg::Build(request) => self.build(*request),
            Msg::Cancel(ticket) => self.cancel(ticket),
            Msg::Held(job, reply) => {
                reply.send(self.held(job)).ok();
            }
            Msg::Finished(task, end) => self.finished(task, end),
            #[cfg(test)]
            Msg::Census(reply) => {
                let census = Census {
                    jobs: self.jobs.len(),
                    nodes: self.nodes.len(),
                    edges: self.edges.len(),
                    tasks: self.tasks.len(),
                    tickets: self.tickets.len(),
                    same: self.same.len(),
                    stores: self.stores.len() - 1,
                };
                reply.send(census).ok();
            }
        }
    }

    /// Works until no edge has news.
    pub(crate) fn settle(&mut self) {
        while let Some(id) = self.queue.pop_front() {
            let Some(marks) = self.marks.remove(&id) else { continue };
            if self.edges.contains(id) {
                self.process(id, marks);
            }
        }
        self.stop_idle();
    }

    /// The edge is to be processed: because of input `slot`, or for another reason.
    fn mark(&mut self, id: EdgeId<D>, slot: Option<u32>) {
        let marks = self.marks.entry(id).or_insert_with(|| {
            self.queue.push_back(id);
            Marks::Some(Vec::new())
        });
        if let (Marks::Some(slots), Some(slot)) = (marks, slot) {
            slots.push(slot);
        }
    }

    fn mark_all(&mut self, id: EdgeId<D>) {
        self.mark(id, None);
        self.marks.insert(id, Marks::All);
    }

    #[cfg(test)]
    fn is_broken(&self, how: crate::fuzz::Broken) -> bool {
        self.broken == Some(how)
    }
}
