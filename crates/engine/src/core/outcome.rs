//! The end of an edge: its result, or its error, and who is told.

use std::sync::Arc;

use crate::core::edge::{Done, Phase};
use crate::core::same::SameKey;
use crate::core::{Core, EdgeId, NodeId};
use crate::step::{Level, Stage};
use crate::{CachedResult, Domain, Edge, KeyId, SolveCause, SolveError};

impl<D: Domain> Core<D> {
    pub(super) fn error(&self, node: NodeId<D>, cause: SolveCause<D>) -> SolveError<D> {
        let state = &self.nodes[node].state;
        SolveError {
            vertex: Some(state.digest.clone()),
            name: Some(state.name.clone()),
            cause: Arc::new(cause),
        }
    }

    /// The op failed: so do all its edges that wait for it.
    pub(super) fn node_failed(&mut self, id: NodeId<D>, cause: SolveCause<D>) {
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
}
