use kiln_proto::{
    pb,
    sourcepolicy::{
        AttrConstraint, AttrMatch, MatchType, Policy as Wire, PolicyAction, Rule, Selector, Update,
    },
};

use super::{MAX_EXPRESSIONS, MAX_RULES, Policy, PolicyError, evaluate};

fn source(identifier: &str, attrs: &[(&str, &str)]) -> pb::SourceOp {
    let attrs = attrs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    pb::SourceOp { identifier: identifier.to_owned(), attrs }
}

fn rule(action: PolicyAction, kind: MatchType, identifier: &str) -> Rule {
    let selector = Selector { identifier: identifier.into(), match_type: kind.into(), constraints: vec![] };
    Rule { action: action.into(), selector: Some(selector), updates: None }
}

fn convert(kind: MatchType, from: &str, to: &str) -> Rule {
    let updates = Some(Update { identifier: to.into(), ..Update::default() });
    Rule { updates, ..rule(PolicyAction::Convert, kind, from) }
}

fn policy(rules: Vec<Rule>) -> Result<Policy, PolicyError> {
    Policy::new(&Wire { version: 1, rules })
}

/// What comes out for a source: its name, or none if it is denied.
fn name(rules: Vec<Rule>, identifier: &str) -> Option<String> {
    let mut op = source(identifier, &[]);
    match evaluate(&[policy(rules).unwrap()], &mut op) {
        Ok(_) => Some(op.identifier),
        Err(PolicyError::Denied { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

const ALPINE: &str = "docker-image://docker.io/library/alpine:latest";

#[test]
fn the_last_word_counts() {
    let allow = || rule(PolicyAction::Allow, MatchType::Exact, ALPINE);
    let deny = || rule(PolicyAction::Deny, MatchType::Wildcard, "docker-image://*");
    assert!(name(vec![allow(), deny()], ALPINE).is_none());
    assert!(name(vec![deny(), allow()], ALPINE).is_some());
    assert!(name(vec![deny()], "https://example.com/x").is_some());
    assert!(name(vec![], ALPINE).is_some());
}

#[test]
fn one_policy_that_denies_is_enough() {
    let allow = policy(vec![rule(PolicyAction::Allow, MatchType::Wildcard, "*")]).unwrap();
    let deny = policy(vec![rule(PolicyAction::Deny, MatchType::Wildcard, "*alpine*")]).unwrap();
    assert!(evaluate(&[deny.clone(), allow.clone()], &mut source(ALPINE, &[])).is_err());
    assert!(evaluate(&[allow, deny], &mut source(ALPINE, &[])).is_err());
}

#[test]
fn spellings_of_one_source_are_one() {
    let deny = || vec![rule(PolicyAction::Deny, MatchType::Exact, ALPINE)];
    for spelling in
        ["docker-image://alpine", "docker-image://docker.io/alpine", "docker-image://alpine:latest"]
    {
        assert!(name(deny(), spelling).is_none(), "{spelling}");
    }
    let deny = vec![rule(PolicyAction::Deny, MatchType::Exact, "git://github.com/u/r.git#main:a/b")];
    assert!(name(deny, "git://github.com/u/r.git#main:../a/./b").is_none());
}

#[test]
fn groups_go_into_the_new_name() {
    let all = |kind, from, to| name(vec![convert(kind, from, to)], ALPINE).unwrap();
    let (library, mirror) = ("docker-image://docker.io/library/*", "docker-image://example.com/${1}");
    assert_eq!(all(MatchType::Wildcard, library, mirror), "docker-image://example.com/alpine:latest");
    assert_eq!(
        all(MatchType::Regex, "library/(?P<x>[a-z]+)", "m/$x"),
        "docker-image://docker.io/m/alpine:latest"
    );
    assert_eq!(
        all(MatchType::Exact, ALPINE, "docker-image://docker.io/x/$1:y"),
        "docker-image://docker.io/x/$1:y"
    );
    assert_eq!(all(MatchType::Wildcard, ALPINE, "${0}-x"), format!("{ALPINE}-x"));
    assert_eq!(all(MatchType::Wildcard, ALPINE, "$$${0}"), format!("${ALPINE}"));
}

#[test]
fn attributes_are_set_and_matched() {
    let constraint = |key: &str, value: &str, condition: AttrMatch| AttrConstraint {
        key: key.into(),
        value: value.into(),
        condition: condition.into(),
    };
    let denied = |constraints: Vec<AttrConstraint>, attrs: &[(&str, &str)]| {
        let mut rule = rule(PolicyAction::Deny, MatchType::Wildcard, "*");
        rule.selector.as_mut().unwrap().constraints = constraints;
        evaluate(&[policy(vec![rule]).unwrap()], &mut source(ALPINE, attrs)).is_err()
    };
    assert!(denied(vec![constraint("a", "1", AttrMatch::Equal)], &[("a", "1")]));
    assert!(!denied(vec![constraint("a", "1", AttrMatch::Equal)], &[]));
    assert!(denied(vec![constraint("a", "1", AttrMatch::Notequal)], &[]));
    assert!(denied(vec![constraint("a", "^[0-9]$", AttrMatch::Matches)], &[("a", "1")]));
    let both = [constraint("a", "", AttrMatch::Equal), constraint("b", "", AttrMatch::Notequal)];
    assert!(!denied(both.to_vec(), &[]));

    let url = "https://example.com/x";
    let updates =
        Update { attrs: [("http.checksum".to_owned(), "sha256:1".to_owned())].into(), ..Update::default() };
    let set = Rule { updates: Some(updates), ..rule(PolicyAction::Convert, MatchType::Exact, url) };
    let mut op = source(url, &[]);
    assert_eq!(evaluate(&[policy(vec![set]).unwrap()], &mut op), Ok(true));
    assert_eq!((op.identifier.as_str(), op.attrs["http.checksum"].as_str()), (url, "sha256:1"));
}

#[test]
fn what_was_converted_is_looked_at_again() {
    let (b, c) = ("docker-image://docker.io/library/b:1", "docker-image://docker.io/library/c:1");
    let chain = || vec![convert(MatchType::Exact, b, c), convert(MatchType::Exact, ALPINE, b)];
    assert_eq!(name(chain(), ALPINE).unwrap(), c);
    let mut denied = chain();
    denied.push(rule(PolicyAction::Deny, MatchType::Exact, c));
    assert!(name(denied, ALPINE).is_none());
}

#[test]
fn conversions_come_to_an_end() {
    let other = "docker-image://docker.io/library/b:1";
    let back_and_forth =
        vec![convert(MatchType::Exact, ALPINE, other), convert(MatchType::Exact, other, ALPINE)];
    let error = evaluate(&[policy(back_and_forth).unwrap()], &mut source(ALPINE, &[])).unwrap_err();
    assert!(matches!(error, PolicyError::Endless { .. }), "{error}");
    let ever_longer = vec![convert(MatchType::Wildcard, "*", "${1}${1}")];
    let error = evaluate(&[policy(ever_longer).unwrap()], &mut source(ALPINE, &[])).unwrap_err();
    assert!(matches!(error, PolicyError::Name { .. }), "{error}");
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let refused = |rule: Rule| policy(vec![rule]).unwrap_err().to_string();
    let allow = |kind, identifier: &str| rule(PolicyAction::Allow, kind, identifier);
    assert!(refused(Rule::default()).contains("nil selector"));
    assert!(refused(Rule { action: 9000, ..allow(MatchType::Exact, "x") }).contains("unknown type"));
    assert!(refused(rule(PolicyAction::Convert, MatchType::Exact, "x")).contains("missing destination"));
    assert!(refused(allow(MatchType::Regex, "(")).contains("invalid regex"));
    assert!(refused(allow(MatchType::Wildcard, "a**b")).contains("**"));
    let mut unknown = allow(MatchType::Exact, "x");
    unknown.selector.as_mut().unwrap().match_type = 77;
    assert!(refused(unknown).contains("match type"));
}

#[test]
fn patterns_have_limits() {
    let refused = |pattern: &str| policy(vec![rule(PolicyAction::Deny, MatchType::Regex, pattern)]).is_err();
    assert!(refused(&"a".repeat(1 << 20)));
    assert!(refused(r"(\w{1000}){1000}"));
    assert!(refused(&"(".repeat(10_000)));
    let many = vec![rule(PolicyAction::Deny, MatchType::Wildcard, "*"); MAX_EXPRESSIONS + 1];
    assert_eq!(policy(many).unwrap_err(), PolicyError::TooManyExpressions(MAX_EXPRESSIONS + 1));
    assert!(policy(vec![rule(PolicyAction::Deny, MatchType::Wildcard, "pinned"); MAX_RULES]).is_ok());
    let many = vec![rule(PolicyAction::Deny, MatchType::Exact, "x"); MAX_RULES + 1];
    assert_eq!(policy(many).unwrap_err(), PolicyError::TooMany(MAX_RULES + 1));
}
