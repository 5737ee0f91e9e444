//! Saying why.

use std::time::SystemTime;

use crate::core::{Core, EdgeId};
use crate::key::Shape;
use crate::{Decision, Domain, Edge, Event, InputTrace, Outcome, Reason};

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
