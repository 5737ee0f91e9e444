//! States that are known only later, and states that come from definitions.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use kiln_proto::pb;

use super::node::{Inputs, Kind, Node, Output, Slot};
use super::{Constraints, Location, SourceMap, State};
use crate::{Error, Graph};

/// The other end of [`State::deferred`].
#[derive(Debug, Clone)]
pub struct Deferred(Slot);

impl Deferred {
    /// Says what the deferred state is. Only the first call counts.
    pub fn fill(&self, state: &State) {
        self.0.get_or_init(|| state.output.clone());
    }
}

impl State {
    /// A state that can be used now and is filled in before [`State::marshal`]: a build context, say, whose paths are
    /// known only when everything that uses them has been seen. It must not be filled with something that uses it.
    pub fn deferred() -> (Self, Deferred) {
        let slot = Arc::new(OnceLock::new());
        let output = Node::output(Kind::Deferred(Arc::clone(&slot)), Inputs::new(), Constraints::new());
        (Self::start(Some(output)), Deferred(slot))
    }

    /// The state that a definition describes; an empty definition is scratch.
    ///
    /// # Errors
    /// As [`Graph::decode`].
    pub fn from_definition(definition: &pb::Definition) -> Result<Self, Error> {
        if definition.def.is_empty() {
            return Ok(Self::scratch());
        }
        let graph = Graph::decode(definition)?;
        let maps = source_maps(graph.sources())?;
        let mut nodes: HashMap<&str, Arc<Node>> = HashMap::with_capacity(graph.vertices().len());
        for vertex in graph.vertices() {
            let input = |e: &crate::Edge| {
                nodes.get(e.vertex.as_str()).map(|n| Output { node: Arc::clone(n), index: e.output as i64 })
            };
            let inputs = vertex.inputs.iter().filter_map(input).collect();
            let place = |l: &pb::Location| {
                let map = usize::try_from(l.source_index).ok().and_then(|i| maps.get(i))?;
                Some(Location { map: Arc::clone(map), ranges: l.ranges.clone() })
            };
            let locations = vertex.locations.locations.iter().filter_map(place);
            let constraints = Constraints::of(vertex.metadata.clone(), locations);
            let kind = Kind::Raw { raw: vertex.raw.clone() };
            nodes.insert(vertex.digest.as_str(), Arc::new(Node { kind, inputs, constraints }));
        }
        let root = graph.root();
        let node = nodes.remove(root.vertex.as_str()).ok_or(Error::NoRoot)?;
        let state = Self::start(Some(Output { node, index: root.output as i64 }));
        Ok(match graph.get(&root.vertex).and_then(|v| v.platform()) {
            Some(platform) => state.platform(platform),
            None => state,
        })
    }
}

fn source_maps(infos: &[pb::SourceInfo]) -> Result<Vec<Arc<SourceMap>>, Error> {
    let map = |info: &pb::SourceInfo| {
        let state = info.definition.as_ref().map(State::from_definition).transpose()?;
        Ok(Arc::new(SourceMap {
            filename: info.filename.clone(),
            language: info.language.clone(),
            data: info.data.clone(),
            state,
        }))
    };
    infos.iter().map(map).collect()
}
