//! One rule of a policy, checked.

use kiln_proto::sourcepolicy::{self, PolicyAction, Update};

use super::selector::Selector;

/// What a rule does with the sources that it matches.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Allow,
    Deny,
    Convert(Update),
}

/// A rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) selector: Selector,
    pub(super) action: Action,
}

impl Rule {
    /// Checks a rule; the error is what is wrong with it.
    pub(super) fn new(rule: &sourcepolicy::Rule) -> Result<Self, String> {
        let selector = rule.selector.as_ref().ok_or("invalid nil selector in policy")?;
        let action = match PolicyAction::try_from(rule.action) {
            Ok(PolicyAction::Allow) => Action::Allow,
            Ok(PolicyAction::Deny) => Action::Deny,
            Ok(PolicyAction::Convert) => {
                Action::Convert(rule.updates.clone().ok_or("missing destination for convert rule")?)
            }
            Err(_) => return Err(format!("an action of unknown type {}", rule.action)),
        };
        Ok(Self { selector: Selector::new(selector)?, action })
    }
}
