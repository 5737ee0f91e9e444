//! Saying why.

use std::time::SystemTime;

use crate::core::edge::Slot;
use crate::core::{Core, EdgeId, NodeId};
use crate::key::Shape;
use crate::{Decision, Domain, Edge, EdgeTrace, Event, Held, InputTrace, JobSerial, Outcome, Reason};

impl<D: Domain> Core<D> {
    /// Tells why the op runs.
    pub(super) fn reason(&self, id: EdgeId<D>) -> Reason {
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
    pub(super) fn decided(&self, id: EdgeId<D>, outcome: Outcome) {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        node.state.hub.tell(Event::Decision(Decision {
            edge: Edge::new(node.state.digest.clone(), edge.output),
            name: node.state.name.clone(),
            time: SystemTime::now(),
            outcome,
            cache_maps: node.maps.iter().map(|m| m.digest.clone()).collect(),
            inputs: self.inputs(id),
        }));
    }

    /// What is known of the inputs of an edge.
    fn inputs(&self, id: EdgeId<D>) -> Vec<InputTrace> {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let trace = |(at, slot): (usize, &Slot<D>)| {
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
        };
        edge.slots.iter().enumerate().map(trace).collect()
    }

    /// The vertices that a job holds, in the order in which it came to them.
    pub(super) fn held(&self, job: JobSerial) -> Vec<Held<D>> {
        let Some(state) = self.jobs.get(&job) else { return Vec::new() };
        let held = |id: &NodeId<D>| {
            let node = &self.nodes[*id];
            let trace = |(output, edge): &(usize, EdgeId<D>)| EdgeTrace {
                output: *output,
                inputs: self.inputs(*edge),
                found: !self.edges[*edge].keys.is_empty(),
            };
            Held { vertex: node.state.clone(), edges: node.edges.iter().map(trace).collect() }
        };
        state.nodes.iter().filter(|id| self.nodes.contains(**id)).map(held).collect()
    }
}
