//! Source policies: rules that allow, deny or convert the sources of a build.
//!
//! A policy is a list of rules. A rule has a *selector* that says for which sources it stands, and an action:
//!
//! - `ALLOW` and `DENY`: of all rules of a policy that match, the last one counts;
//! - `CONVERT` gives the source another identifier, sets attributes, or both. Then everything is evaluated again from the start,
//!   with the new source, until nothing changes it any more.
//!
//! What is matched is the source's [name](crate::source::name): `docker-image://docker.io/library/alpine:latest` however a client
//! spelled it. A source that no rule matches is allowed.
//!
//! Evaluation is pure. Policies are made by clients and frontends, so their number, the length of their patterns and the size
//! that expressions compile to are limited; the expressions themselves take linear time.

mod rule;
mod selector;
#[cfg(test)]
mod tests;

use kiln_proto::{pb, sourcepolicy};

use crate::source;
use rule::{Action, Rule};
use selector::MAX_NAME;

/// The most rules that one policy may have.
pub const MAX_RULES: usize = 10_000;
/// The most expressions (of wildcards, of names, of attributes) that one policy may have.
pub const MAX_EXPRESSIONS: usize = 1000;
/// How often one source may be converted: rules that convert back and forth would never end.
const MAX_CONVERSIONS: usize = 20;

/// Why a policy cannot be used, or a source may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A rule makes no sense.
    #[error("source policy, rule {rule}: {problem}")]
    Rule {
        /// Its position, from 1 on.
        rule: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// There are too many rules.
    #[error("a source policy of {0} rules; at most {MAX_RULES} are taken")]
    TooMany(usize),
    /// There are too many expressions.
    #[error("a source policy with {0} wildcards and expressions; at most {MAX_EXPRESSIONS} are taken")]
    TooManyExpressions(usize),
    /// A conversion makes a name that no source has.
    #[error("source policy: converting {name:?} makes a name of more than {MAX_NAME} bytes")]
    Name {
        /// The source's name before.
        name: String,
    },
    /// A rule forbids the source.
    #[error("{name}: source denied by policy")]
    Denied {
        /// The source's name.
        name: String,
    },
    /// Conversions do not come to an end.
    #[error(
        "{name}: too many operations: a source policy converts it again and again (at most {MAX_CONVERSIONS} times)"
    )]
    Endless {
        /// The source's name, as it is by then.
        name: String,
    },
}

/// A policy that has been checked.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// Checks a policy as it came over the wire.
    ///
    /// # Errors
    /// [`PolicyError::Rule`], [`PolicyError::TooMany`], [`PolicyError::TooManyExpressions`].
    pub fn new(policy: &sourcepolicy::Policy) -> Result<Self, PolicyError> {
        if policy.rules.len() > MAX_RULES {
            return Err(PolicyError::TooMany(policy.rules.len()));
        }
        let mut rules = Vec::with_capacity(policy.rules.len());
        let mut expressions = 0;
        for (index, rule) in policy.rules.iter().enumerate() {
            let rule = Rule::new(rule).map_err(|problem| PolicyError::Rule { rule: index + 1, problem })?;
            expressions += rule.selector.expressions();
            if expressions > MAX_EXPRESSIONS {
                return Err(PolicyError::TooManyExpressions(expressions));
            }
            rules.push(rule);
        }
        Ok(Self { rules })
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// One look at a source; whether a rule converted it, which ends the look.
    fn look(&self, op: &mut pb::SourceOp) -> Result<bool, PolicyError> {
        let mut denied = false;
        for rule in &self.rules {
            match &rule.action {
                _ if !rule.selector.matches(op) => {}
                Action::Allow => denied = false,
                Action::Deny => denied = true,
                Action::Convert(update) => match rule.selector.convert(update, op) {
                    Some(true) => return Ok(true),
                    Some(false) => {}
                    None => return Err(PolicyError::Name { name: op.identifier.clone() }),
                },
            }
        }
        if denied { Err(PolicyError::Denied { name: op.identifier.clone() }) } else { Ok(false) }
    }
}

/// Evaluates policies on a source: it gets its [name](source::name) as identifier, and what rules convert it to. Returns whether
/// a rule did.
///
/// # Errors
/// [`PolicyError::Denied`] by any of the policies; [`PolicyError::Endless`].
pub fn evaluate<'a>(
    policies: impl IntoIterator<Item = &'a Policy> + Clone,
    op: &mut pb::SourceOp,
) -> Result<bool, PolicyError> {
    op.identifier = source::name(op);
    let mut converted = false;
    for _ in 0..=MAX_CONVERSIONS {
        let mut changed = false;
        for policy in policies.clone() {
            changed = policy.look(op)?;
            if changed {
                break;
            }
        }
        if !changed {
            return Ok(converted);
        }
        converted = true;
    }
    Err(PolicyError::Endless { name: op.identifier.clone() })
}
