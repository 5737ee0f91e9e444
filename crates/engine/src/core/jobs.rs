//! Jobs: which vertices they hold, and what happens when they go.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::core::edge::Phase;
use crate::core::node::{Examined, Exec};
use crate::core::{Core, EdgeId, NodeId, TaskId, Ticket};
use crate::step::Level;
use crate::sync::write;
use crate::{Domain, JobSerial, ProgressSink};

/// A job in the tables.
pub(crate) struct JobState<D: Domain> {
    pub(crate) data: D::Job,
    pub(crate) sink: Arc<dyn ProgressSink>,
    /// The vertices that it holds.
    pub(crate) nodes: Vec<NodeId<D>>,
    pub(crate) tickets: HashSet<Ticket>,
    /// The names of its imported stores.
    pub(crate) stores: HashSet<u32>,
}

impl<D: Domain> JobState<D> {
    pub(crate) fn new(data: D::Job, sink: Arc<dyn ProgressSink>) -> Self {
        Self { data, sink, nodes: Vec::new(), tickets: HashSet::new(), stores: HashSet::new() }
    }
}

impl<D: Domain> Core<D> {
    /// The job holds the vertex, and everything that must stay with it.
    pub(super) fn hold(&mut self, node: NodeId<D>, job: JobSerial) {
        let Some(data) = self.jobs.get(&job).map(|j| j.data.clone()) else { return };
        let mut stack = vec![node];
        while let Some(id) = stack.pop() {
            let node = &mut self.nodes[id];
            if node.jobs.contains(&job) {
                continue;
            }
            node.jobs.push(job);
            write(&node.state.jobs).push((job, data.clone()));
            if let Some(state) = self.jobs.get_mut(&job) {
                state.nodes.push(id);
            }
            stack.extend(node.subs.iter().copied());
            stack.extend(node.inputs.iter().map(|e| self.edges[*e].node));
            for (_, edge) in &node.edges {
                if let Phase::Joined(leader) = self.edges[*edge].phase {
                    stack.push(self.edges[leader].node);
                }
            }
        }
    }

    /// The job is told what happens to the vertex, and to all that its op builds.
    pub(super) fn subscribe(&self, node: NodeId<D>, job: JobSerial) {
        let Some(sink) = self.jobs.get(&job).map(|j| &j.sink) else { return };
        let mut stack = vec![node];
        while let Some(id) = stack.pop() {
            let node = &self.nodes[id];
            if node.state.hub.join(job, sink) {
                stack.extend(node.subs.iter().copied());
                stack.extend(node.inputs.iter().map(|e| self.edges[*e].node));
            }
        }
    }

    /// The job goes, with every vertex that only it held.
    pub(super) fn close(&mut self, job: JobSerial, done: Option<oneshot::Sender<()>>) {
        let Some(state) = self.jobs.remove(&job) else { return };
        for ticket in state.tickets {
            self.cancel(ticket);
        }
        let mut dropped = Vec::new();
        for id in state.nodes {
            let node = &mut self.nodes[id];
            node.jobs.retain(|j| *j != job);
            node.state.hub.leave(job);
            write(&node.state.jobs).retain(|(j, _)| *j != job);
            if node.jobs.is_empty() {
                dropped.push(id);
            }
        }
        #[cfg(test)]
        if self.is_broken(crate::fuzz::Broken::Leak) {
            dropped.clear();
        }
        let mut stopping = HashSet::new();
        for id in &dropped {
            self.stop_node(*id, &mut stopping);
        }
        for id in dropped {
            self.drop_node(id);
        }
        let live: HashSet<u32> = self.jobs.values().flat_map(|j| j.stores.iter().copied()).collect();
        self.stores.retain(|s| s.is_main() || live.contains(&s.serial));
        match done {
            Some(done) if stopping.is_empty() => {
                done.send(()).ok();
            }
            Some(done) => self.closing.push((stopping, done)),
            None => {}
        }
    }

    /// Nothing of the vertex is wanted any more: its work stops, and those that work for it are told.
    fn stop_node(&mut self, id: NodeId<D>, stopping: &mut HashSet<TaskId>) {
        let node = &self.nodes[id];
        let mut tasks: Vec<TaskId> = node.map_task.into_iter().collect();
        tasks.extend(node.examined.iter().filter_map(|e| match e {
            Examined::Running(task) => Some(*task),
            _ => None,
        }));
        if let Exec::Running { task, .. } = &node.exec {
            tasks.push(*task);
        }
        for (_, edge) in node.edges.clone() {
            match self.edges[edge].phase {
                Phase::Loading(task) => tasks.push(task),
                Phase::Joined(leader) => self.part(edge, leader),
                _ => {}
            }
            for follower in std::mem::take(&mut self.edges[edge].followers) {
                if self.edges.contains(follower) {
                    self.unjoin(follower, edge);
                }
            }
            self.withdraw(edge);
            self.unregister(edge);
        }
        for task in tasks {
            self.stop(task);
            stopping.insert(task);
        }
    }

    /// Takes back what the edge asked of its inputs, which may outlive it.
    fn withdraw(&mut self, id: EdgeId<D>) {
        for at in 0..self.edges[id].slots.len() {
            let slot = &self.edges[id].slots[at];
            let (input, asked) = (slot.input, slot.asked);
            let Some(target) = self.edges.get_mut(input) else { continue };
            target.consumers.swap_remove(&(id, at as u32));
            if asked > Level::Nothing {
                target.asks[asked as usize] = target.asks[asked as usize].saturating_sub(1);
                self.mark(input, None);
            }
        }
    }

    fn drop_node(&mut self, id: NodeId<D>) {
        let Some(node) = self.nodes.remove(id) else { return };
        self.by_digest.remove(&(node.state.digest.clone(), node.variant));
        for (_, edge) in node.edges {
            self.marks.remove(&edge);
            let Some(edge) = self.edges.remove(edge) else { continue };
            for ticket in edge.tickets {
                self.tickets.remove(&ticket);
                self.forget_ticket(ticket);
            }
        }
    }

    /// Nobody waits for this build any more.
    pub(super) fn cancel(&mut self, ticket: Ticket) {
        let Some(waiting) = self.tickets.remove(&ticket) else { return };
        self.forget_ticket(ticket);
        let Some(edge) = self.edges.get_mut(waiting.edge) else { return };
        edge.tickets.retain(|t| *t != ticket);
        let asks = &mut edge.asks[Level::Result as usize];
        *asks = asks.saturating_sub(1);
        #[cfg(test)]
        if self.is_broken(crate::fuzz::Broken::CancelAll) {
            self.edges[waiting.edge].asks = [0; 4];
        }
        self.mark(waiting.edge, None);
    }

    pub(super) fn forget_ticket(&mut self, ticket: Ticket) {
        for job in self.jobs.values_mut() {
            job.tickets.remove(&ticket);
        }
    }
}
