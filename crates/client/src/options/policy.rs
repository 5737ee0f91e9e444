//! A source policy in JSON, as `--source-policy-file` names it.
//!
//! The JSON is what Go's encoder makes of the messages: fields in snake case, enumerations as names (or numbers).

use kiln_proto::sourcepolicy::{AttrConstraint, Policy, Rule, Selector, Update};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use crate::Error;

#[derive(Deserialize)]
struct PolicyJson {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Vec<RuleJson>,
}

#[derive(Deserialize)]
struct RuleJson {
    #[serde(default, deserialize_with = "action")]
    action: i32,
    selector: Option<SelectorJson>,
    updates: Option<UpdateJson>,
}

#[derive(Deserialize)]
struct SelectorJson {
    #[serde(default)]
    identifier: String,
    #[serde(default, alias = "matchType", deserialize_with = "match_type")]
    match_type: i32,
    #[serde(default)]
    constraints: Vec<ConstraintJson>,
}

#[derive(Deserialize)]
struct ConstraintJson {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default, deserialize_with = "condition")]
    condition: i32,
}

#[derive(Deserialize)]
struct UpdateJson {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: super::Attrs,
}

/// A name of an enumeration, or its number.
fn named<'de, D: Deserializer<'de>>(from: D, names: &[&str]) -> Result<i32, D::Error> {
    let value = Value::deserialize(from)?;
    let position = match &value {
        Value::String(name) => names.iter().position(|n| n == name),
        other => other.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < names.len()),
    };
    position
        .and_then(|n| i32::try_from(n).ok())
        .ok_or_else(|| D::Error::custom(format!("{value} is none of {}", names.join(", "))))
}

fn action<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    named(from, &["ALLOW", "DENY", "CONVERT"])
}

fn match_type<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    named(from, &["WILDCARD", "EXACT", "REGEX"])
}

fn condition<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    named(from, &["EQUAL", "NOTEQUAL", "MATCHES"])
}

/// Reads a policy.
///
/// # Errors
/// [`Error::Usage`] saying where the JSON is wrong.
pub fn parse_source_policy(json: &[u8]) -> Result<Policy, Error> {
    let policy: PolicyJson =
        serde_json::from_slice(json).map_err(|error| Error::Usage(format!("source policy: {error}")))?;
    let constraint =
        |c: ConstraintJson| AttrConstraint { key: c.key, value: c.value, condition: c.condition };
    let selector = |s: SelectorJson| Selector {
        identifier: s.identifier,
        match_type: s.match_type,
        constraints: s.constraints.into_iter().map(constraint).collect(),
    };
    let rule = |r: RuleJson| Rule {
        action: r.action,
        selector: r.selector.map(selector),
        updates: r.updates.map(|u| Update { identifier: u.identifier, attrs: u.attrs }),
    };
    Ok(Policy { version: policy.version, rules: policy.rules.into_iter().map(rule).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        let json = br#"{"rules":[{"action":"CONVERT","selector":{"identifier":"docker-image://a*"},"updates":{"identifier":"b"}},{"action":1}]}"#;
        let policy = parse_source_policy(json).unwrap();
        assert_eq!(policy.rules[0].action, 2);
        assert_eq!(policy.rules[1].action, 1);
        assert_eq!(policy.rules[0].updates.as_ref().unwrap().identifier, "b");
        assert!(parse_source_policy(br#"{"rules":[{"action":"PERMIT"}]}"#).is_err());
        assert!(parse_source_policy(b"[").is_err());
    }
}
