//! Taking a graph into the tables.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, RwLock};

use crate::context::VertexState;
use crate::core::edge::{EdgeState, Phase};
use crate::core::node::Node;
use crate::core::{BuildRequest, Core, EdgeId, NodeId, Origin, Waiting};
use crate::progress::Hub;
use crate::step::Level;
use crate::store::StoreHandle;
use crate::sync::write;
use crate::{CacheStore, Domain, Edge, Graph, GraphError, JobSerial, SolveCause, SolveError, Vertex};

/// For whom a graph is taken in.
struct Claim<D: Domain> {
    jobs: Vec<JobSerial>,
    stores: Vec<StoreHandle<D>>,
    parent: Option<NodeId<D>>,
}

impl<D: Domain> Core<D> {
    /// Takes in the graph and asks for the edge.
    pub(super) fn build(&mut self, request: BuildRequest<D>) {
        let BuildRequest { ticket, origin, graph, edge, reply } = request;
        let loaded = self.claim(origin).and_then(|claim| {
            let node = self.take_in(&claim, &graph, &edge)?;
            if let Some(parent) = claim.parent {
                self.add_sub(parent, node)?;
            }
            Ok((claim, node))
        });
        let (claim, node) = match loaded {
            Ok(loaded) => loaded,
            Err(cause) => {
                reply.send(Err(SolveError::bare(cause))).ok();
                return;
            }
        };
        let target = self.edge_of(node, edge.output);
        self.tickets.insert(ticket, Waiting { edge: target, parent: claim.parent, reply });
        if claim.parent.is_none() {
            for job in &claim.jobs {
                if let Some(job) = self.jobs.get_mut(job) {
                    job.tickets.insert(ticket);
                }
            }
        }
        let state = &mut self.edges[target];
        state.tickets.push(ticket);
        state.asks[Level::Result as usize] += 1;
        match state.phase {
            Phase::Done(_) | Phase::Failed(_) => self.answer(target),
            _ => self.mark(target, None),
        }
    }

    fn claim(&mut self, origin: Origin<D>) -> Result<Claim<D>, SolveCause<D>> {
        match origin {
            Origin::Job(job, stores) => {
                if !self.jobs.contains_key(&job) {
                    return Err(SolveCause::Closed);
                }
                let mut handles = vec![self.stores[0].clone()];
                handles.extend(stores.into_iter().map(|store| self.store_handle(job, store)));
                Ok(Claim { jobs: vec![job], stores: handles, parent: None })
            }
            Origin::Vertex(vertex) => {
                let key = (vertex.digest.clone(), vertex.variant);
                let id = self.by_digest.get(&key).copied().ok_or(SolveCause::Closed)?;
                let node = &self.nodes[id];
                if !Arc::ptr_eq(&node.state, &vertex) {
                    return Err(SolveCause::Closed);
                }
                Ok(Claim { jobs: node.jobs.clone(), stores: node.stores.clone(), parent: Some(id) })
            }
        }
    }

    fn store_handle(&mut self, job: JobSerial, store: Arc<dyn CacheStore<D>>) -> StoreHandle<D> {
        let known = self.stores.iter().find(|s| s.is(&*store)).cloned();
        let handle = known.unwrap_or_else(|| {
            let handle = StoreHandle { serial: self.next_store, store };
            self.next_store += 1;
            self.stores.push(handle.clone());
            handle
        });
        if let Some(job) = self.jobs.get_mut(&job) {
            job.stores.insert(handle.serial);
        }
        handle
    }

    /// Takes in the vertices that `root` needs; gives its own.
    fn take_in(
        &mut self,
        claim: &Claim<D>,
        graph: &Graph<D>,
        root: &Edge,
    ) -> Result<NodeId<D>, SolveCause<D>> {
        let missing = || SolveCause::Graph(GraphError::MissingRoot(root.vertex.clone()));
        let last = graph.position(&root.vertex).ok_or_else(missing)?;
        let mut needed = vec![false; last + 1];
        needed[last] = true;
        for at in (0..=last).rev() {
            if !needed[at] {
                continue;
            }
            for input in &graph.vertices()[at].inputs {
                if let Some(at) = graph.position(&input.vertex) {
                    needed[at] = true;
                }
            }
        }
        let mut ids: Vec<Option<NodeId<D>>> = vec![None; last + 1];
        for at in (0..=last).filter(|at| needed[*at]) {
            let vertex = &graph.vertices()[at];
            let inputs =
                vertex.inputs.iter().filter_map(|e| Some((ids[graph.position(&e.vertex)?]?, e.output)));
            let inputs: Vec<(NodeId<D>, usize)> = inputs.collect();
            ids[at] = Some(self.take_in_vertex(claim, vertex, &inputs));
        }
        ids[last].ok_or_else(missing)
    }

    fn take_in_vertex(
        &mut self,
        claim: &Claim<D>,
        vertex: &Vertex<D>,
        inputs: &[(NodeId<D>, usize)],
    ) -> NodeId<D> {
        let variant = self.variant(vertex, inputs);
        let key = (vertex.digest.clone(), variant);
        let id = match self.by_digest.get(&key).copied() {
            Some(id) => {
                if claim.jobs.iter().any(|j| !self.nodes[id].jobs.contains(j)) {
                    self.revive(id);
                }
                self.add_stores(id, &claim.stores);
                id
            }
            None => {
                let id = self.new_node(claim, vertex, variant, inputs);
                self.by_digest.insert(key, id);
                id
            }
        };
        for job in &claim.jobs {
            self.hold(id, *job);
            self.subscribe(id, *job);
        }
        id
    }

    /// See [`Node::variant`].
    fn variant(&self, vertex: &Vertex<D>, inputs: &[(NodeId<D>, usize)]) -> u64 {
        let ignore = vertex.options.ignore_cache;
        #[cfg(test)]
        let ignore = ignore && !self.is_broken(crate::fuzz::Broken::OneVariant);
        let meaning = &vertex.options.meaning;
        if !ignore && meaning.is_none() && inputs.iter().all(|(input, _)| self.nodes[*input].variant == 0) {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        (ignore, meaning).hash(&mut hasher);
        inputs.iter().for_each(|(input, _)| self.nodes[*input].variant.hash(&mut hasher));
        hasher.finish() | 1
    }

    fn new_node(
        &mut self,
        claim: &Claim<D>,
        vertex: &Vertex<D>,
        variant: u64,
        inputs: &[(NodeId<D>, usize)],
    ) -> NodeId<D> {
        let name: Arc<str> = vertex.name.as_str().into();
        let digests = vertex.inputs.iter().map(|e| e.vertex.clone()).collect();
        let group = vertex.options.progress_group.clone();
        let state = Arc::new(VertexState {
            digest: vertex.digest.clone(),
            variant,
            name: name.clone(),
            op: vertex.op.clone(),
            inputs: inputs.iter().map(|(id, output)| (self.nodes[*id].state.clone(), *output)).collect(),
            options: vertex.options.clone(),
            hub: Arc::new(Hub::new(vertex.digest.clone(), name, digests, group)),
            jobs: RwLock::default(),
            maps: RwLock::default(),
            loaded: RwLock::default(),
            subs: RwLock::default(),
            ran: false.into(),
        });
        let inputs = inputs.iter().map(|(id, output)| self.edge_of(*id, *output)).collect();
        self.nodes.insert(Node::new(state, variant, inputs, claim.stores.clone()))
    }

    pub(super) fn edge_of(&mut self, node: NodeId<D>, output: usize) -> EdgeId<D> {
        if let Some((_, id)) = self.nodes[node].edges.iter().find(|(o, _)| *o == output) {
            return *id;
        }
        let id = self.edges.insert(EdgeState::new(node, output, &self.nodes[node].inputs));
        self.nodes[node].edges.push((output, id));
        id
    }

    /// A job brings stores that the vertex was not looked up in.
    fn add_stores(&mut self, id: NodeId<D>, stores: &[StoreHandle<D>]) {
        let node = &mut self.nodes[id];
        let known = node.stores.len();
        for store in stores {
            if !node.stores.contains(store) {
                node.stores.push(store.clone());
            }
        }
        if node.stores.len() == known {
            return;
        }
        for (_, edge) in node.edges.clone() {
            self.edges[edge].look_again();
            self.mark_all(edge);
        }
    }

    /// A new job does not inherit a failure: the vertex is tried again.
    fn revive(&mut self, id: NodeId<D>) {
        #[cfg(test)]
        if self.is_broken(crate::fuzz::Broken::FailureStays) {
            return;
        }
        let node = &mut self.nodes[id];
        let edges: Vec<EdgeId<D>> = node.edges.iter().map(|(_, e)| *e).collect();
        let failed = |e: &EdgeId<D>| matches!(self.edges[*e].phase, Phase::Failed(_));
        let failed: Vec<EdgeId<D>> = edges.into_iter().filter(failed).collect();
        if node.failed.take().is_none() && failed.is_empty() {
            return;
        }
        node.state.hub.forget_failure();
        for edge in failed {
            self.edges[edge].revive();
            self.mark_all(edge);
        }
    }

    /// `sub` is built by the op of `parent`: it stays for as long as that one does.
    fn add_sub(&mut self, parent: NodeId<D>, sub: NodeId<D>) -> Result<(), SolveCause<D>> {
        if self.reaches(sub, parent) {
            return Err(SolveCause::Cycle);
        }
        if !self.nodes[parent].subs.contains(&sub) {
            self.nodes[parent].subs.push(sub);
            let state = self.nodes[sub].state.clone();
            let mut subs = write(&self.nodes[parent].state.subs);
            if !subs.iter().any(|s| Arc::ptr_eq(s, &state)) {
                subs.push(state);
            }
        }
        Ok(())
    }

    /// Whether `from` needs `to`, as an input or for a build of its own.
    fn reaches(&self, from: NodeId<D>, to: NodeId<D>) -> bool {
        let mut seen = HashSet::from([from]);
        let mut stack = vec![from];
        while let Some(id) = stack.pop() {
            if id == to {
                return true;
            }
            let node = &self.nodes[id];
            let inputs = node.inputs.iter().map(|e| self.edges[*e].node);
            for next in inputs.chain(node.subs.iter().copied()) {
                if seen.insert(next) {
                    stack.push(next);
                }
            }
        }
        false
    }

    /// Vertices before this edge that were not needed are told as cached.
    pub(super) fn tell_skipped(&self, id: EdgeId<D>) {
        let mut stack: Vec<EdgeId<D>> = self.edges[id].slots.iter().map(|s| s.input).collect();
        while let Some(id) = stack.pop() {
            let edge = &self.edges[id];
            let node = &self.nodes[edge.node];
            let busy = node.edges.iter().any(|(_, e)| self.edges[*e].want() == Level::Result);
            if !busy && node.state.hub.skipped() {
                stack.extend(edge.slots.iter().map(|s| s.input));
            }
        }
    }
}
