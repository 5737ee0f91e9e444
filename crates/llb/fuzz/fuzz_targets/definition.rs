//! Any definition is refused, or a graph whose inputs come first; encoding what was read changes nothing.
#![no_main]

use kiln_llb::Graph;
use kiln_llb::build::{Marshal, State};
use kiln_proto::pb;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let Ok(definition) = pb::Definition::decode(data) else { return };
    assert_eq!(pb::Definition::decode(definition.encode_to_vec().as_slice()).as_ref(), Ok(&definition));
    let Ok(graph) = Graph::decode(&definition) else { return };
    for (place, vertex) in graph.vertices().iter().enumerate() {
        let before = &graph.vertices()[..place];
        assert!(vertex.inputs.iter().all(|input| before.iter().any(|known| known.digest == input.vertex)));
    }
    let Ok(state) = State::from_definition(&definition) else { return };
    if let Ok(again) = state.marshal(&Marshal::new("u")) {
        let again = Graph::decode(&again).expect("what was built from a graph is one");
        assert_eq!(again.root(), graph.root());
    }
});
