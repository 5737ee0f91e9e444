//! What becomes of an edge when its task has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::core::edge::{Candidate, Done};
use crate::core::node::{Examined, Exec};
use crate::core::work::{End, Kind, Refused};
use crate::core::{Core, EdgeId, NodeId, TaskId};
use crate::key::Shape;
use crate::sync::write;
use crate::{Domain, Key, MapsLeft, Outcome, SolveCause};

impl<D: Domain> Core<D> {
    /// A task has ended.
    pub(super) fn finished(&mut self, id: TaskId, end: End<D>) {
        let Some(task) = self.tasks.remove(&id) else { return };
        match task.kind {
            Kind::Map(node) if self.nodes.contains(node) => self.finished_map(node, end),
            Kind::Examine(node, at) if self.nodes.contains(node) => self.finished_examine(node, at, end),
            Kind::Load(edge, candidate, keys) if self.edges.contains(edge) => {
                self.finished_load(edge, &candidate, keys, end);
            }
            Kind::Exec(node) if self.nodes.contains(node) => self.finished_exec(node, task.stopping, end),
            Kind::Save(edge, done) if self.edges.contains(edge) => self.finished_save(edge, done, end),
            Kind::Links => {
                if let End::Saved(Err(error)) = end {
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

    pub(super) fn mark_node(&mut self, node: NodeId<D>, slot: Option<u32>) {
        for (_, edge) in self.nodes[node].edges.clone() {
            self.mark(edge, slot);
        }
    }

    pub(super) fn finished_map(&mut self, id: NodeId<D>, end: End<D>) {
        let node = &mut self.nodes[id];
        node.map_task = None;
        let is_root = node.inputs.is_empty();
        let result = match end {
            End::Map(Ok((map, left))) if map.inputs.len() != node.inputs.len() => {
                let (got, want) = (map.inputs.len(), node.inputs.len());
                let text =
                    format!("its cache map has {got} inputs, the vertex has {want} (more maps: {left:?})");
                Err(SolveCause::Contract(text))
            }
            End::Map(Ok((_, MapsLeft::Some))) if !is_root => {
                Err(SolveCause::Contract("an op with inputs has several cache maps".to_owned()))
            }
            End::Map(Ok(map)) => Ok(map),
            End::Map(Err(error)) => Err(SolveCause::CacheMap(error)),
            End::Panicked(text) => Err(SolveCause::Panic(text)),
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

    pub(super) fn finished_examine(&mut self, id: NodeId<D>, at: usize, end: End<D>) {
        let node = &mut self.nodes[id];
        node.examined[at] = Examined::No;
        match end {
            End::Examined(Ok(digest)) => {
                let key = digest.map(|d| Key::new(Shape::Content(d), Vec::new()));
                node.examined[at] = Examined::Yes(key);
                self.mark_node(id, Some(at as u32));
            }
            End::Examined(Err(failed)) => {
                let Refused { error, result } = *failed;
                self.node_failed(id, SolveCause::Input { error, input: at, result });
            }
            End::Panicked(text) => self.node_failed(id, SolveCause::Panic(text)),
            _ => self.mark_node(id, Some(at as u32)),
        }
    }

    pub(super) fn finished_load(
        &mut self,
        id: EdgeId<D>,
        candidate: &Candidate<D>,
        keys: Vec<Key<D>>,
        end: End<D>,
    ) {
        let error: Arc<str> = match end {
            End::Loaded(Ok(output)) => {
                self.nodes[self.edges[id].node].state.hub.completed(None);
                let serial = self.next_serial();
                return self.finish(id, Done { output, keys, sub_keys: Vec::new(), serial });
            }
            End::Loaded(Err(error)) => error.to_string().into(),
            End::Panicked(text) => text.into(),
            _ => {
                self.unregister(id);
                return self.resume(id);
            }
        };
        let (store, record) = (candidate.store.store.name().into(), candidate.record.id.clone());
        self.decided(id, Outcome::Gone { store, record, error });
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

    pub(super) fn is_gone(&mut self, id: EdgeId<D>, candidate: &Candidate<D>) {
        let edge = &mut self.edges[id];
        edge.gone.insert((candidate.store.serial, candidate.record.id.clone()));
        edge.candidates.retain(|c| c.store != candidate.store || c.record.id != candidate.record.id);
    }

    pub(super) fn finished_exec(&mut self, id: NodeId<D>, stopping: bool, end: End<D>) {
        let node = &mut self.nodes[id];
        let Exec::Running { wanted_by, .. } = std::mem::replace(&mut node.exec, Exec::No) else { return };
        let cause = match end {
            End::Ran(Ok(outputs)) => {
                node.state.ran.store(true, Ordering::Release);
                node.state.hub.completed(None);
                node.exec = Exec::Yes(outputs);
                return wanted_by.into_iter().for_each(|edge| self.start_save(edge));
            }
            End::Ran(Err(e)) if !stopping => {
                SolveCause::Exec { error: e.error, inputs: e.inputs, mounts: e.mounts }
            }
            End::Panicked(text) if !stopping => SolveCause::Panic(text),
            _ => {
                node.state.hub.completed(Some("context canceled".into()));
                return wanted_by.into_iter().for_each(|edge| self.start_exec(edge));
            }
        };
        self.node_failed(id, cause);
    }

    pub(super) fn finished_save(&mut self, id: EdgeId<D>, done: Done<D>, end: End<D>) {
        let cause = match end {
            End::Saved(Ok(())) => return self.finish(id, done),
            End::Saved(Err(error)) => SolveCause::Store(error),
            End::Panicked(text) => SolveCause::Panic(text),
            _ => SolveCause::Closed,
        };
        let error = self.error(self.edges[id].node, cause);
        self.fail(id, error);
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.next_result += 1;
        self.next_result
    }
}
