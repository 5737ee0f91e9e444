//! Any policy is refused or ends: by an answer that is the same each time, by a refusal, or because it goes in circles.
//!
//! An input is a policy in lines: first the sources, each on a line, then an empty line, then rules of an action, a kind of match,
//! a pattern, the new identifier and an attribute, with tabs between. Bytes that are no such text are taken as a message.
#![no_main]

use kiln_llb::policy::{Policy, PolicyError, evaluate};
use kiln_proto::pb;
use kiln_proto::sourcepolicy::{AttrConstraint, Policy as Wire, Rule, Selector, Update};
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// No conversion makes a longer identifier: what rules say is refused before it can fill the memory.
const MAX_IDENTIFIER: usize = 1 << 20;

fn rule(line: &str) -> Rule {
    let mut fields = line.split('\t');
    let mut number = || fields.next().and_then(|field| field.parse().ok()).unwrap_or_default();
    let (action, match_type, condition) = (number(), number(), number());
    let mut text = || fields.next().unwrap_or_default().to_owned();
    let (identifier, target, key, value) = (text(), text(), text(), text());
    let constraint = AttrConstraint { key: key.clone(), value: value.clone(), condition };
    let constraints = if condition == 0 { Vec::new() } else { vec![constraint] };
    let attrs = if key.is_empty() { Default::default() } else { [(key, value)].into() };
    let updates = (action == 2).then_some(Update { identifier: target, attrs });
    Rule { selector: Some(Selector { identifier, match_type, constraints }), action, updates }
}

fn input(data: &[u8]) -> (Vec<String>, Wire) {
    let sources = |text: &str| text.lines().map(str::to_owned).collect();
    match std::str::from_utf8(data).ok().and_then(|text| text.split_once("\n\n")) {
        Some((names, rules)) => (sources(names), Wire { version: 1, rules: rules.lines().map(rule).collect() }),
        None => (sources("docker-image://alpine\nlocal://x"), Wire::decode(data).unwrap_or_default()),
    }
}

fuzz_target!(|data: &[u8]| {
    let (sources, wire) = input(data);
    let Ok(policy) = Policy::new(&wire) else { return };
    for identifier in sources {
        let source = pb::SourceOp { identifier, ..pb::SourceOp::default() };
        let (mut once, mut again) = (source.clone(), source.clone());
        let answer = evaluate([&policy], &mut once);
        assert_eq!(answer, evaluate([&policy], &mut again));
        assert_eq!(once, again);
        assert!(once.identifier.len() <= MAX_IDENTIFIER.max(2 * source.identifier.len()));
        match answer {
            // What was let through stays as it is, unless an exact rule changes attributes alone.
            Ok(false) => assert_eq!(once.attrs, source.attrs),
            Ok(true) | Err(PolicyError::Denied { .. } | PolicyError::Endless { .. } | PolicyError::Name { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
});
