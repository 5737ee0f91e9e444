//! For which sources a rule stands, and what it makes of their names.

use kiln_proto::{
    pb,
    sourcepolicy::{self, AttrConstraint, AttrMatch, MatchType, Update},
};
use regex::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 16 << 10;
/// The most that one expression may compile to, in bytes.
const MAX_COMPILED: usize = 512 << 10;
/// The longest name that a conversion may make, in bytes: groups may repeat what they hold.
pub(super) const MAX_NAME: usize = 64 << 10;

/// How names are matched. A name that is equal to the pattern always does.
#[derive(Debug, Clone)]
enum Pattern {
    Exact,
    /// A wildcard without any `*`: as the exact one, but for signs in what it is converted to.
    Literal,
    /// `*` stands for any text, also none; each is a group. The expression covers the whole name.
    Wildcard(Regex),
    /// An expression that is searched for.
    Regex(Regex),
}

/// What an attribute must be.
#[derive(Debug, Clone)]
enum Condition {
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// A selector, compiled.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    identifier: String,
    pattern: Pattern,
    /// By attribute; one that is not there is empty.
    constraints: Vec<(String, Condition)>,
}

impl Selector {
    /// Checks a selector; the error is what is wrong with it.
    pub(super) fn new(selector: &sourcepolicy::Selector) -> Result<Self, String> {
        let identifier = selector.identifier.clone();
        let pattern = match MatchType::try_from(selector.match_type) {
            Ok(MatchType::Exact) => Pattern::Exact,
            Ok(MatchType::Regex) => Pattern::Regex(compile(&identifier)?),
            Ok(MatchType::Wildcard) if !identifier.contains('*') => Pattern::Literal,
            Ok(MatchType::Wildcard) => Pattern::Wildcard(wildcard(&identifier)?),
            Err(_) => return Err(format!("unknown match type {}", selector.match_type)),
        };
        let constraints = selector.constraints.iter().map(condition).collect::<Result<_, _>>()?;
        Ok(Self { identifier, pattern, constraints })
    }

    /// Whether it stands for a source, whose identifier is its name.
    pub(super) fn matches(&self, op: &pb::SourceOp) -> bool {
        let satisfied = self.constraints.iter().all(|(key, condition)| {
            let value = op.attrs.get(key).map_or("", String::as_str);
            match condition {
                Condition::Equal(wanted) => value == wanted,
                Condition::NotEqual(other) => value != other,
                Condition::Matches(regex) => regex.is_match(value),
            }
        });
        let name = op.identifier.as_str();
        satisfied
            && (name == self.identifier
                || match &self.pattern {
                    Pattern::Exact | Pattern::Literal => false,
                    Pattern::Wildcard(regex) | Pattern::Regex(regex) => regex.is_match(name),
                })
    }

    /// How many expressions it keeps.
    pub(super) fn expressions(&self) -> usize {
        let own = matches!(self.pattern, Pattern::Wildcard(_) | Pattern::Regex(_));
        let others = self.constraints.iter().filter(|(_, c)| matches!(c, Condition::Matches(_)));
        usize::from(own) + others.count()
    }

    /// Converts a source that matches; whether it is another one now. `None` if its name would be too long.
    pub(super) fn convert(&self, update: &Update, op: &mut pb::SourceOp) -> Option<bool> {
        let target = if update.identifier.is_empty() { &self.identifier } else { &update.identifier };
        let target = self.expand(&op.identifier, target);
        if target.len() > MAX_NAME {
            return None;
        }
        let mut changed = false;
        if !target.is_empty() && target != op.identifier {
            op.identifier = target;
            changed = true;
        }
        for (key, value) in &update.attrs {
            // An attribute that is not there is as good as an empty one.
            if op.attrs.get(key).map_or("", String::as_str) != value {
                op.attrs.insert(key.clone(), value.clone());
                changed = true;
            }
        }
        Some(changed)
    }

    /// The new name: `$1`, `${1}` and `$$` stand for groups of the pattern and for the sign itself.
    fn expand(&self, name: &str, target: &str) -> String {
        match &self.pattern {
            Pattern::Exact => target.to_owned(),
            Pattern::Literal if !target.contains('$') => target.to_owned(),
            // There is one group, the whole.
            Pattern::Literal => Regex::new("^(?s:.*)$")
                .map_or_else(|_| target.to_owned(), |whole| whole.replacen(name, 1, target).into_owned()),
            Pattern::Regex(regex) => regex.replace_all(name, target).into_owned(),
            Pattern::Wildcard(regex) => {
                let Some(groups) = regex.captures(name) else { return name.to_owned() };
                let mut expanded = String::new();
                groups.expand(target, &mut expanded);
                expanded
            }
        }
    }
}

fn condition(constraint: &AttrConstraint) -> Result<(String, Condition), String> {
    let value = constraint.value.clone();
    let condition = match AttrMatch::try_from(constraint.condition) {
        Ok(AttrMatch::Equal) => Condition::Equal(value),
        Ok(AttrMatch::Notequal) => Condition::NotEqual(value),
        Ok(AttrMatch::Matches) => Condition::Matches(compile(&value)?),
        Err(_) => return Err(format!("unknown condition {} of {}", constraint.condition, constraint.key)),
    };
    Ok((constraint.key.clone(), condition))
}

fn wildcard(pattern: &str) -> Result<Regex, String> {
    if pattern.contains("**") {
        return Err(format!("invalid wildcard {}: \"**\"", shown(pattern)));
    }
    let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
    compile(&format!("^{}$", parts.join("(.*)")))
}

fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("a pattern of {} bytes; at most {MAX_PATTERN} are taken", pattern.len()));
    }
    let regex = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
    regex.map_err(|error| format!("invalid regex {}: {error}", shown(pattern)))
}

fn shown(pattern: &str) -> String {
    format!("{:?}", pattern.chars().take(100).collect::<String>())
}
