//! What takes time: tasks. However they end, they report it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::FutureExt;
use kiln_oci::Digest;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::core::edge::{Candidate, Done, Phase};
use crate::core::node::{Examined, Exec};
use crate::core::{Core, EdgeId, Msg, NodeId};
use crate::driver::Remote;
use crate::step::Level;
use crate::{CacheMap, Domain, ExecError, Key, MapsLeft, Op, OpContext, StoreError};

/// Numbers tasks.
pub(crate) type TaskId = u64;

/// Over all engines, so that a task of lost tables is never taken for another.
static NEXT_TASK: AtomicU64 = AtomicU64::new(0);

/// A task that was started.
pub(super) struct Task<D: Domain> {
    pub(super) kind: Kind<D>,
    abort: AbortHandle,
    cancelled: Arc<AtomicBool>,
    pub(super) stopping: bool,
}

/// What a task is for.
pub(super) enum Kind<D: Domain> {
    Map(NodeId<D>),
    Examine(NodeId<D>, usize),
    Load(EdgeId<D>, Candidate<D>, Vec<Key<D>>),
    Exec(NodeId<D>),
    Save(EdgeId<D>, Done<D>),
    Links,
}

/// An input that could not be prepared or hashed.
pub(crate) struct Refused<D: Domain> {
    pub(super) error: D::Error,
    pub(super) result: D::Output,
}

/// How a task ended.
pub(crate) enum End<D: Domain> {
    /// It was stopped.
    Stopped,
    /// It panicked.
    Panicked(String),
    Map(Result<(CacheMap<D>, MapsLeft), D::Error>),
    Examined(Result<Option<Digest>, Box<Refused<D>>>),
    Loaded(Result<D::Output, StoreError>),
    Ran(Result<Vec<D::Output>, ExecError<D>>),
    Saved(Result<(), StoreError>),
}

impl<D: Domain> Task<D> {
    pub(super) fn abort(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.abort.abort();
    }
}

/// Reports the end of a task, however it comes.
struct Report<D: Domain> {
    tx: mpsc::UnboundedSender<Msg<D>>,
    id: TaskId,
    end: Option<End<D>>,
}

impl<D: Domain> Drop for Report<D> {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or(End::Stopped);
        self.tx.send(Msg::Finished(self.id, end)).ok();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

impl<D: Domain> Core<D> {
    pub(super) fn spawn(
        &mut self,
        kind: Kind<D>,
        cancelled: Arc<AtomicBool>,
        work: impl Future<Output = End<D>> + Send + 'static,
    ) -> TaskId {
        let id = NEXT_TASK.fetch_add(1, Ordering::Relaxed);
        let Some(tx) = self.tx.upgrade() else { return id };
        let report = Report { tx, id, end: None };
        let handle = tokio::spawn(async move {
            let mut report = report;
            let end = AssertUnwindSafe(work).catch_unwind().await;
            report.end = Some(end.unwrap_or_else(|panic| End::Panicked(panic_text(&*panic))));
            drop(report);
        });
        self.tasks.insert(id, Task { kind, abort: handle.abort_handle(), cancelled, stopping: false });
        id
    }

    pub(super) fn context(&self, node: NodeId<D>) -> OpContext<D> {
        let remote = self.tx.upgrade().map(Remote::new);
        OpContext::new(self.nodes[node].state.clone(), remote)
    }

    /// Stops a task. It still reports its end.
    pub(super) fn stop(&mut self, id: TaskId) {
        #[cfg(test)]
        if self.is_broken(crate::fuzz::Broken::NeverStop) {
            return;
        }
        if let Some(task) = self.tasks.get_mut(&id)
            && !std::mem::replace(&mut task.stopping, true)
        {
            task.abort();
        }
    }

    pub(super) fn is_stopping(&self, id: TaskId) -> bool {
        self.tasks.get(&id).is_none_or(|t| t.stopping)
    }

    /// Asks the op for its next cache map.
    pub(super) fn start_map(&mut self, id: EdgeId<D>) {
        let node_id = self.edges[id].node;
        let node = &self.nodes[node_id];
        if node.map_task.is_some() || node.maps_done {
            return;
        }
        let (index, is_root) = (node.maps.len(), node.inputs.is_empty());
        let cx = self.context(node_id);
        let task = self.spawn(Kind::Map(node_id), cx.cancelled.clone(), async move {
            if is_root {
                cx.vertex.hub.started(false);
            }
            End::Map(cx.vertex.op.cache_map(&cx, index).await)
        });
        self.nodes[node_id].map_task = Some(task);
    }

    /// Prepares and hashes an input that is there.
    pub(super) fn examine(&mut self, id: EdgeId<D>, at: usize) {
        let edge = &self.edges[id];
        let node_id = edge.node;
        let node = &self.nodes[node_id];
        let Examined::No = node.examined[at] else { return };
        let (input, flags) = (edge.slots[at].input, node.map().and_then(|m| m.inputs.get(at)).cloned());
        let (Some(result), Some(flags)) = (self.edges[input].done().map(|d| d.output.clone()), flags) else {
            return;
        };
        let cx = self.context(node_id);
        let source = self.nodes[self.edges[input].node].state.clone();
        let task = self.spawn(Kind::Examine(node_id, at), cx.cancelled.clone(), async move {
            let op = cx.vertex.op.clone();
            let examine = async {
                if flags.prepare {
                    let mut under = OpContext::new(cx.vertex.clone(), cx.remote.clone());
                    under.progress = crate::VertexProgress::new(source.hub.clone());
                    under.cancelled = cx.cancelled.clone();
                    op.prepare(&under, at, &result).await?;
                }
                if flags.by_content { op.content_digest(&cx, at, &result).await } else { Ok(None) }
            };
            let examined = examine.await;
            End::Examined(examined.map_err(|error| Box::new(Refused { error, result })))
        });
        self.nodes[node_id].examined[at] = Examined::Running(task);
    }

    /// Stops what nobody wants, now that all edges are at rest.
    pub(super) fn stop_idle(&mut self) {
        for id in std::mem::take(&mut self.idle) {
            if !self.edges.contains(id) {
                continue;
            }
            let (want, node) = (self.edges[id].want(), self.edges[id].node);
            if let Phase::Loading(task) = self.edges[id].phase
                && want < Level::Result
            {
                self.stop(task);
            }
            if let Exec::Running { task, wanted_by, stopping } = &mut self.nodes[node].exec
                && wanted_by.is_empty()
                && !std::mem::replace(stopping, true)
            {
                let task = *task;
                self.stop(task);
            }
            if want == Level::Nothing {
                self.stop_probing(node);
            }
        }
    }

    /// When nothing is wanted of a vertex, its cache maps and hashes are not either.
    fn stop_probing(&mut self, id: NodeId<D>) {
        let node = &self.nodes[id];
        if node.edges.iter().any(|(_, e)| self.edges[*e].want() > Level::Nothing) {
            return;
        }
        let mut tasks: Vec<TaskId> = node.map_task.into_iter().collect();
        for examined in &node.examined {
            if let Examined::Running(task) = examined {
                tasks.push(*task);
            }
        }
        tasks.into_iter().for_each(|task| self.stop(task));
    }
}
