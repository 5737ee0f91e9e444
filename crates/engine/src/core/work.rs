//! What takes time: tasks, and what becomes of an edge when they end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use futures::FutureExt;
use kiln_oci::Digest;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::commit;
use crate::core::edge::{Candidate, Done, Phase};
use crate::core::node::{Examined, Exec};
use crate::core::same::SameKey;
use crate::core::search::new_key;
use crate::core::{Core, EdgeId, Msg, NodeId};
use crate::driver::Remote;
use crate::key::Shape;
use crate::step::{Level, Stage};
use crate::sync::{lock, write};
use crate::{
    CacheMap, CachedResult, Decision, Domain, Edge, Event, ExecError, InputTrace, Key, KeyId, MapsLeft, Op,
    OpContext, Outcome as Decided, Reason, SolveCause, SolveError, StoreError,
};

/// Numbers tasks.
pub(crate) type TaskId = u64;

/// A task that was started.
pub(super) struct Task<D: Domain> {
    kind: Kind<D>,
    abort: AbortHandle,
    cancelled: Arc<AtomicBool>,
    stopping: bool,
}

/// What a task is for.
enum Kind<D: Domain> {
    Map(NodeId<D>),
    Examine(NodeId<D>, usize),
    Load(EdgeId<D>, Candidate<D>, Key<D>),
    Exec(NodeId<D>),
    Save(EdgeId<D>, D::Output, Vec<Key<D>>),
    Links,
}

/// How a task ended.
pub(crate) enum Outcome<D: Domain> {
    /// It was stopped.
    Stopped,
    /// It panicked.
    Panicked(String),
    Map(Result<(CacheMap<D>, MapsLeft), D::Error>),
    Examined(Result<Option<Digest>, Box<(D::Error, D::Output)>>),
    Loaded(Result<D::Output, StoreError>),
    Ran(Result<Vec<D::Output>, ExecError<D>>),
    Saved(Result<(), StoreError>),
}

/// Reports the end of a task, however it comes.
struct Report<D: Domain> {
    tx: mpsc::UnboundedSender<Msg<D>>,
    id: TaskId,
    outcome: Option<Outcome<D>>,
}

impl<D: Domain> Drop for Report<D> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or(Outcome::Stopped);
        self.tx.send(Msg::Finished(self.id, outcome)).ok();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

impl<D: Domain> Core<D> {
    fn spawn(
        &mut self,
        kind: Kind<D>,
        cancelled: Arc<AtomicBool>,
        work: impl Future<Output = Outcome<D>> + Send + 'static,
    ) -> TaskId {
        let id = self.next_task;
        self.next_task += 1;
        let Some(tx) = self.tx.upgrade() else { return id };
        let report = Report { tx, id, outcome: None };
        let handle = tokio::spawn(async move {
            let mut report = report;
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            report.outcome = Some(outcome.unwrap_or_else(|panic| Outcome::Panicked(panic_text(&*panic))));
            drop(report);
        });
        self.tasks.insert(id, Task { kind, abort: handle.abort_handle(), cancelled, stopping: false });
        id
    }

    fn context(&self, node: NodeId<D>) -> OpContext<D> {
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
            task.cancelled.store(true, Ordering::Release);
            task.abort.abort();
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
            Outcome::Map(cx.vertex.op.cache_map(&cx, index).await)
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
            Outcome::Examined(examined.map_err(|error| Box::new((error, result))))
        });
        self.nodes[node_id].examined[at] = Examined::Running(task);
    }

    /// Nothing is wanted of the edge. When nothing is wanted of its vertex, cache maps and hashes are not either.
    pub(super) fn stop_probing(&mut self, id: EdgeId<D>) {
        let node = &self.nodes[self.edges[id].node];
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

    /// Loads the best result that was found, or joins who does.
    pub(super) fn load(&mut self, id: EdgeId<D>) {
        let best = |c: &&Candidate<D>| (c.store.is_main(), c.record.created_at, c.record.id.clone());
        let Some(candidate) = self.edges[id].candidates.iter().max_by_key(best).cloned() else { return };
        if let Some(leader) = self.find_loading(id, &candidate) {
            return self.join(id, leader);
        }
        self.decided(
            id,
            Decided::Load {
                way: self.way(id),
                store: candidate.store.store.name().into(),
                key: candidate.id,
                record: candidate.record.id.clone(),
            },
        );
        self.register(id, [SameKey::Stored(candidate.store.serial, candidate.id)]);
        let node_id = self.edges[id].node;
        let key = self.found_key(id, &candidate);
        let (cx, main) = (self.context(node_id), self.stores[0].clone());
        self.enter(id, Stage::Idle, &[]);
        cx.vertex.hub.started(true);
        let (c, k) = (candidate.clone(), key.clone());
        let task = self.spawn(Kind::Load(id, candidate, key), cx.cancelled.clone(), async move {
            Outcome::Loaded(commit::load(&main, &cx, &c.store, c.id, &c.record, &k).await)
        });
        self.edges[id].phase = Phase::Loading(task);
    }

    /// The key of a result that was found, following from all that is known now.
    fn found_key(&self, id: EdgeId<D>, candidate: &Candidate<D>) -> Key<D> {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        if !edge.slots.is_empty() {
            let key = self.own_key(id);
            key.learn(&candidate.store, candidate.id);
            return key;
        }
        let known = edge.keys.iter().find(|k| k.root_id() == Some(candidate.id)).cloned();
        known.unwrap_or_else(|| {
            let digest = node.map().map(|m| m.digest.clone());
            let digest = digest.unwrap_or_else(|| Digest::sha256(b"").into());
            new_key(Shape::Root { digest, output: edge.output }, Vec::new(), &node.state)
        })
    }

    /// Runs the op, or joins who does; unless a last look finds a result.
    pub(super) fn run(&mut self, id: EdgeId<D>) {
        let look = !self.nodes[self.edges[id].node].ignore;
        #[cfg(test)]
        let look = look && !self.is_broken(crate::fuzz::Broken::NoLastLook);
        if look {
            self.last_look(id);
            if !self.edges[id].candidates.is_empty() {
                return self.load(id);
            }
        }
        if let Some(signature) = self.signature(id) {
            if let Some(leader) = self.find_running(id, &signature) {
                return self.join(id, leader);
            }
            self.register_run(id, signature);
        }
        self.decided(id, Decided::Run(self.reason(id)));
        self.enter(id, Stage::Idle, &[]);
        self.edges[id].phase = Phase::Running;
        self.start_exec(id);
    }

    fn start_exec(&mut self, id: EdgeId<D>) {
        let node_id = self.edges[id].node;
        match &mut self.nodes[node_id].exec {
            Exec::Running { wanted_by, .. } => wanted_by.push(id),
            Exec::Yes(_) => self.start_save(id),
            Exec::No => {
                let inputs: Vec<D::Output> = {
                    let slots = self.edges[id].slots.iter();
                    slots.filter_map(|s| self.edges[s.input].done().map(|d| d.output.clone())).collect()
                };
                debug_assert_eq!(inputs.len(), self.edges[id].slots.len(), "an op runs without an input");
                let mut cx = self.context(node_id);
                cx.exec = true;
                let task = self.spawn(Kind::Exec(node_id), cx.cancelled.clone(), async move {
                    let permit = cx.vertex.op.acquire().await;
                    *lock(&cx.permit) = permit;
                    cx.vertex.hub.started(false);
                    Outcome::Ran(cx.vertex.op.exec(&cx, inputs).await)
                });
                self.nodes[node_id].exec = Exec::Running { task, wanted_by: vec![id], stopping: false };
            }
        }
    }

    /// The edge does not want the op's result any more.
    pub(super) fn leave_exec(&mut self, id: EdgeId<D>) {
        let node_id = self.edges[id].node;
        self.unregister(id);
        self.resume(id);
        if let Exec::Running { task, wanted_by, stopping } = &mut self.nodes[node_id].exec {
            wanted_by.retain(|e| *e != id);
            if wanted_by.is_empty() && !*stopping {
                *stopping = true;
                let task = *task;
                self.stop(task);
            }
        }
    }

    /// Back to looking for keys.
    fn resume(&mut self, id: EdgeId<D>) {
        self.edges[id].phase = Phase::Keyed;
        self.mark_all(id);
    }

    fn start_save(&mut self, id: EdgeId<D>) {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let Exec::Yes(outputs) = &node.exec else { return };
        let Some(output) = outputs.get(edge.output).cloned() else {
            let text = format!("output {} was asked for, but there are {}", edge.output, outputs.len());
            let error = self.error(edge.node, SolveCause::Contract(text));
            return self.fail(id, error);
        };
        let keys: Vec<Key<D>> = match edge.slots.is_empty() {
            true => node
                .maps
                .iter()
                .map(|m| Shape::Root { digest: m.digest.clone(), output: edge.output })
                .map(|shape| new_key(shape, Vec::new(), &node.state))
                .collect(),
            false => vec![self.own_key(id)],
        };
        let (main, o, k) = (self.stores[0].clone(), output.clone(), keys.clone());
        self.edges[id].phase = Phase::Saving;
        self.spawn(Kind::Save(id, output, keys), Arc::default(), async move {
            Outcome::Saved(commit::save(&main, &k, &o, SystemTime::now()).await)
        });
    }

    /// Links the keys that an edge followed from to a result that another edge has made.
    pub(super) fn start_links(&mut self, key: Key<D>) {
        let main = self.stores[0].clone();
        self.spawn(
            Kind::Links,
            Arc::default(),
            async move { Outcome::Saved(commit::link(&main, &key).await) },
        );
    }

    /// A task has ended.
    pub(super) fn finished(&mut self, id: TaskId, outcome: Outcome<D>) {
        let Some(task) = self.tasks.remove(&id) else { return };
        match task.kind {
            Kind::Map(node) if self.nodes.contains(node) => self.finished_map(node, outcome),
            Kind::Examine(node, at) if self.nodes.contains(node) => self.finished_examine(node, at, outcome),
            Kind::Load(edge, candidate, key) if self.edges.contains(edge) => {
                self.finished_load(edge, &candidate, key, outcome);
            }
            Kind::Exec(node) if self.nodes.contains(node) => self.finished_exec(node, task.stopping, outcome),
            Kind::Save(edge, output, keys) if self.edges.contains(edge) => {
                self.finished_save(edge, output, keys, outcome);
            }
            Kind::Links => {
                if let Outcome::Saved(Err(error)) = outcome {
                    tracing::warn!(%error, "links of a cache key were not saved");
                }
            }
            _ => {}
        }
        for (tasks, _) in &mut self.closing {
            tasks.remove(&id);
        }
        for (_, done) in self.closing.extract_if(.., |(tasks, _)| tasks.is_empty()) {
            done.send(()).ok();
        }
    }

    fn mark_node(&mut self, node: NodeId<D>, slot: Option<u32>) {
        for (_, edge) in self.nodes[node].edges.clone() {
            self.mark(edge, slot);
        }
    }

    fn finished_map(&mut self, id: NodeId<D>, outcome: Outcome<D>) {
        let node = &mut self.nodes[id];
        node.map_task = None;
        let is_root = node.inputs.is_empty();
        let result = match outcome {
            Outcome::Map(Ok((map, left))) if map.inputs.len() != node.inputs.len() => {
                let (got, want) = (map.inputs.len(), node.inputs.len());
                let text =
                    format!("its cache map has {got} inputs, the vertex has {want} (more maps: {left:?})");
                Err(SolveCause::Contract(text))
            }
            Outcome::Map(Ok((_, MapsLeft::Some))) if !is_root => {
                Err(SolveCause::Contract("an op with inputs has several cache maps".to_owned()))
            }
            Outcome::Map(Ok(map)) => Ok(map),
            Outcome::Map(Err(error)) => Err(SolveCause::CacheMap(error)),
            Outcome::Panicked(text) => Err(SolveCause::Panic(text)),
            _ => {
                if is_root {
                    node.state.hub.completed(Some("context canceled".into()));
                }
                return self.mark_node(id, None);
            }
        };
        match result {
            Ok((map, left)) => {
                if is_root {
                    node.state.hub.completed(None);
                }
                let map = Arc::new(map);
                write(&node.state.maps).push(map.clone());
                node.maps.push(map);
                node.maps_done = left == MapsLeft::None;
                self.mark_node(id, None);
            }
            Err(cause) => self.node_failed(id, cause),
        }
    }

    fn finished_examine(&mut self, id: NodeId<D>, at: usize, outcome: Outcome<D>) {
        let node = &mut self.nodes[id];
        node.examined[at] = Examined::No;
        match outcome {
            Outcome::Examined(Ok(digest)) => {
                let key = digest.map(|d| Key::new(Shape::Content(d), Vec::new()));
                node.examined[at] = Examined::Yes(key);
                self.mark_node(id, Some(at as u32));
            }
            Outcome::Examined(Err(failed)) => {
                let (error, result) = *failed;
                self.node_failed(id, SolveCause::Input { error, input: at, result });
            }
            Outcome::Panicked(text) => self.node_failed(id, SolveCause::Panic(text)),
            _ => self.mark_node(id, Some(at as u32)),
        }
    }

    fn finished_load(&mut self, id: EdgeId<D>, candidate: &Candidate<D>, key: Key<D>, outcome: Outcome<D>) {
        let error: Arc<str> = match outcome {
            Outcome::Loaded(Ok(output)) => {
                self.nodes[self.edges[id].node].state.hub.completed(None);
                let serial = self.next_serial();
                return self.finish(id, Done { output, keys: vec![key], sub_keys: Vec::new(), serial });
            }
            Outcome::Loaded(Err(error)) => error.to_string().into(),
            Outcome::Panicked(text) => text.into(),
            _ => {
                self.unregister(id);
                return self.resume(id);
            }
        };
        let (store, record) = (candidate.store.store.name().into(), candidate.record.id.clone());
        self.decided(id, Decided::Gone { store, record, error });
        self.unregister(id);
        #[cfg(test)]
        if self.is_broken(crate::fuzz::Broken::GoneFails) {
            let error = self.error(self.edges[id].node, SolveCause::Closed);
            return self.fail(id, error);
        }
        let followers = std::mem::take(&mut self.edges[id].followers);
        #[cfg(test)]
        let followers =
            if self.is_broken(crate::fuzz::Broken::FollowersLost) { Vec::new() } else { followers };
        for follower in followers {
            if self.edges.contains(follower) {
                self.is_gone(follower, candidate);
                self.unjoin(follower, id);
            }
        }
        self.is_gone(id, candidate);
        self.resume(id);
    }

    fn is_gone(&mut self, id: EdgeId<D>, candidate: &Candidate<D>) {
        let edge = &mut self.edges[id];
        edge.gone.insert((candidate.store.serial, candidate.record.id.clone()));
        edge.candidates.retain(|c| c.store != candidate.store || c.record.id != candidate.record.id);
    }

    fn finished_exec(&mut self, id: NodeId<D>, stopping: bool, outcome: Outcome<D>) {
        let node = &mut self.nodes[id];
        let Exec::Running { wanted_by, .. } = std::mem::replace(&mut node.exec, Exec::No) else { return };
        let cause = match outcome {
            Outcome::Ran(Ok(outputs)) => {
                node.state.ran.store(true, Ordering::Release);
                node.state.hub.completed(None);
                node.exec = Exec::Yes(outputs);
                return wanted_by.into_iter().for_each(|edge| self.start_save(edge));
            }
            Outcome::Ran(Err(e)) if !stopping => {
                SolveCause::Exec { error: e.error, inputs: e.inputs, mounts: e.mounts }
            }
            Outcome::Panicked(text) if !stopping => SolveCause::Panic(text),
            _ => {
                node.state.hub.completed(Some("context canceled".into()));
                return wanted_by.into_iter().for_each(|edge| self.start_exec(edge));
            }
        };
        self.node_failed(id, cause);
    }

    fn finished_save(&mut self, id: EdgeId<D>, output: D::Output, keys: Vec<Key<D>>, outcome: Outcome<D>) {
        let node = self.edges[id].node;
        let cause = match outcome {
            Outcome::Saved(Ok(())) => {
                let sub_keys = self.nodes[node].sub_keys.clone();
                let serial = self.next_serial();
                return self.finish(id, Done { output, keys, sub_keys, serial });
            }
            Outcome::Saved(Err(error)) => SolveCause::Store(error),
            Outcome::Panicked(text) => SolveCause::Panic(text),
            _ => SolveCause::Closed,
        };
        let error = self.error(node, cause);
        self.fail(id, error);
    }

    fn next_serial(&mut self) -> u64 {
        self.next_result += 1;
        self.next_result
    }

    pub(super) fn error(&self, node: NodeId<D>, cause: SolveCause<D>) -> SolveError<D> {
        let state = &self.nodes[node].state;
        SolveError {
            vertex: Some(state.digest.clone()),
            name: Some(state.name.clone()),
            cause: Arc::new(cause),
        }
    }

    /// The op failed: so do all its edges that wait for it.
    fn node_failed(&mut self, id: NodeId<D>, cause: SolveCause<D>) {
        let error = self.error(id, cause);
        let node = &mut self.nodes[id];
        node.state.hub.completed(Some(error.to_string().into()));
        node.failed = Some(error.clone());
        for (_, edge) in node.edges.clone() {
            let state = &self.edges[edge];
            let waits = state.phase.is_searching() && state.want() > Level::Nothing;
            if waits || matches!(state.phase, Phase::Running) {
                self.fail(edge, error.clone());
            }
        }
    }

    /// The edge cannot be had.
    pub(super) fn fail(&mut self, id: EdgeId<D>, error: SolveError<D>) {
        self.edges[id].phase = Phase::Failed(error.clone());
        self.unregister(id);
        self.enter(id, Stage::Idle, &[]);
        for follower in std::mem::take(&mut self.edges[id].followers) {
            if self.edges.contains(follower) {
                self.part(follower, id);
                let own = self.nodes[self.edges[follower].node].state.clone();
                let error = SolveError {
                    vertex: Some(own.digest.clone()),
                    name: Some(own.name.clone()),
                    cause: error.cause.clone(),
                };
                self.fail(follower, error);
            }
        }
        self.answer(id);
        self.tell_consumers(id);
    }

    /// Whether the keys of its result may lead on: every input has a key that does, or was hashed. What follows from
    /// a vertex that ignores the cache by definition alone would be found with results of older runs.
    fn is_clean(&self, id: EdgeId<D>) -> bool {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let leads =
            |at: usize, input: EdgeId<D>| !self.edges[input].keys.is_empty() || node.content(at).is_some();
        !node.ignore && edge.slots.iter().enumerate().all(|(at, slot)| leads(at, slot.input))
    }

    /// The edge has its result.
    pub(super) fn finish(&mut self, id: EdgeId<D>, done: Done<D>) {
        let (main, publish) = (self.stores[0].clone(), self.is_clean(id));
        #[cfg(test)]
        let publish = publish || self.is_broken(crate::fuzz::Broken::ProbeIgnored);
        let edge = &mut self.edges[id];
        let ids: Vec<KeyId> = done.keys.iter().filter_map(|k| k.known_in(&main)).collect();
        for key in done.keys.iter().filter(|_| publish) {
            if !key.known_in(&main).is_some_and(|id| edge.has_key(&main, id)) {
                edge.keys.push(key.clone());
            }
        }
        edge.level = Level::Result;
        let ran = matches!(edge.phase, Phase::Saving);
        let done = Arc::new(done);
        edge.phase = Phase::Done(done.clone());
        let followers = std::mem::take(&mut edge.followers);
        self.enter(id, Stage::Idle, &[]);
        self.register(id, ids.into_iter().map(|id| SameKey::Stored(main.serial, id)));
        if !ran {
            self.tell_skipped(id);
        }
        for follower in followers {
            if self.edges.contains(follower) {
                self.part(follower, id);
                self.finish_joined(follower, &done);
            }
        }
        self.answer(id);
        self.tell_consumers(id);
    }

    /// Answers those who wait for a build of the edge.
    pub(super) fn answer(&mut self, id: EdgeId<D>) {
        let tickets = std::mem::take(&mut self.edges[id].tickets);
        for ticket in tickets {
            let Some(waiting) = self.tickets.remove(&ticket) else { continue };
            self.forget_ticket(ticket);
            let edge = &mut self.edges[id];
            let asks = &mut edge.asks[Level::Result as usize];
            *asks = asks.saturating_sub(1);
            let vertex = self.nodes[edge.node].state.clone();
            let result = match &edge.phase {
                Phase::Done(done) => Ok(CachedResult {
                    output: done.output.clone(),
                    edge: Edge::new(vertex.digest.clone(), edge.output),
                    keys: done.keys.clone(),
                    sub_keys: done.sub_keys.clone(),
                    vertex,
                }),
                Phase::Failed(error) => Err(error.clone()),
                _ => Err(SolveError::bare(SolveCause::Closed)),
            };
            if let (Ok(result), Some(parent)) = (&result, waiting.parent.and_then(|p| self.nodes.get_mut(p)))
            {
                parent.sub_keys.extend(result.keys.iter().chain(&result.sub_keys).cloned());
            }
            waiting.reply.send(result).ok();
        }
    }

    /// Tells why the op runs.
    fn reason(&self, id: EdgeId<D>) -> Reason {
        let edge = &self.edges[id];
        if self.nodes[edge.node].ignore {
            return Reason::IgnoreCache;
        }
        if !edge.keys.is_empty() {
            return Reason::NoResult;
        }
        if edge.slots.is_empty() {
            return Reason::UnknownDigest;
        }
        let barren = edge.slots.iter().position(|s| s.leads_to.is_empty());
        barren.map_or(Reason::NoCommonKey, |input| Reason::NoMatch { input })
    }

    /// Tells a decision to the jobs that hold the vertex.
    pub(super) fn decided(&self, id: EdgeId<D>, outcome: Decided) {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let inputs = edge.slots.iter().enumerate().map(|(at, slot)| {
            let input = &self.edges[slot.input];
            let content = node.content(at).and_then(|k| match &k.0.shape {
                Shape::Content(digest) => Some(digest.clone()),
                _ => None,
            });
            InputTrace {
                edge: Edge::new(self.nodes[input.node].state.digest.clone(), input.output),
                selector: node.map().and_then(|m| m.inputs[at].selector.clone()),
                content,
                matches: slot.leads_to.len(),
            }
        });
        node.state.hub.tell(Event::Decision(Decision {
            edge: Edge::new(node.state.digest.clone(), edge.output),
            name: node.state.name.clone(),
            time: SystemTime::now(),
            outcome,
            cache_maps: node.maps.iter().map(|m| m.digest.clone()).collect(),
            inputs: inputs.collect(),
        }));
    }
}
