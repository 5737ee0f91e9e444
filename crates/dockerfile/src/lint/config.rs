//! Which rules run: `skip=…;error=true;experimental=…`.

use std::collections::BTreeSet;

use bytestring::ByteString;

use super::rule::Rule;
use crate::directives::{DirectiveReader, Name};
use crate::error::{Error, ErrorKind};
use crate::suggest::nearest;
use crate::text::parse_bool;

/// A set of rules by name. Names that are no rules are kept: a newer file may name newer rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Every rule is in it.
    pub all: bool,
    /// Names of rules in it.
    pub names: BTreeSet<String>,
}

impl RuleSet {
    /// Whether a rule is in the set.
    #[must_use]
    pub fn contains(&self, rule: Rule) -> bool {
        self.all || self.names.contains(rule.name())
    }

    fn parse(text: &str) -> Self {
        let text = text.trim();
        if text == "all" {
            return Self { all: true, ..Self::default() };
        }
        Self { all: false, names: text.split(',').map(|name| name.trim().to_owned()).collect() }
    }

    fn add(&mut self, other: &Self) {
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
    }
}

/// Configuration of the lint rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Rules that don't run.
    pub skip: RuleSet,
    /// Experimental rules that run.
    pub experimental: RuleSet,
    /// A warning fails the build.
    pub error: bool,
}

impl Config {
    /// Reads `key=value;…` with the keys `skip`, `error` and `experimental`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut config = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(config);
        }
        for part in text.splitn(3, ';') {
            let (key, value) = part.split_once('=').ok_or_else(|| refuse(part).expected("`key=value`"))?;
            match key.trim() {
                "skip" => config.skip = RuleSet::parse(value),
                "experimental" => config.experimental = RuleSet::parse(value),
                "error" => {
                    config.error =
                        parse_bool(value.trim()).ok_or_else(|| refuse(part).expected("`true` or `false`"))?;
                }
                other => {
                    return Err(refuse(other)
                        .expected("skip, error or experimental")
                        .suggest(nearest(other, ["skip", "error", "experimental"])));
                }
            }
        }
        Ok(config)
    }

    /// What the comments above an instruction say: the first `check=` among them. Nothing when it can't be read.
    pub(super) fn from_comments(comments: &[ByteString]) -> Option<Self> {
        let value = comments.iter().find_map(|comment| {
            let directive = DirectiveReader::new("").line(comment).ok()??;
            (directive.name == Name::Check).then_some(directive.value)
        })?;
        Self::parse(value.split(' ').next().unwrap_or_default()).ok()
    }

    /// Both together. Whether warnings are errors is for the whole file only.
    pub(super) fn merged(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        merged.skip.add(&other.skip);
        merged.experimental.add(&other.experimental);
        merged
    }

    pub(super) fn runs(&self, rule: Rule) -> bool {
        if rule.is_experimental() { self.experimental.contains(rule) } else { !self.skip.contains(rule) }
    }
}

fn refuse(part: &str) -> Error {
    Error::new(ErrorKind::Lint, format!("cannot read the check option \"{part}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let config = Config::parse(" skip = A, JSONArgsRecommended ; error=true;experimental=all").unwrap();
        assert!(
            !config.runs(Rule::JsonArgsRecommended) && config.runs(Rule::StageNameCasing) && config.error
        );
        assert!(config.runs(Rule::InvalidDefinitionDescription));
        assert!(!Config::default().runs(Rule::InvalidDefinitionDescription));
        assert!(!Config::parse("skip=all").unwrap().runs(Rule::StageNameCasing));
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn bad_options_are_named() {
        for bad in ["skip", "skip=A;", "eror=true", "error=maybe", "a=b;c=d;error=true;x=y"] {
            assert!(Config::parse(bad).is_err(), "{bad}");
        }
        assert!(Config::parse("eror=true").unwrap_err().to_string().contains("did you mean error?"));
    }

    #[test]
    fn comments_add_to_the_file() {
        let comments = ["a note", "check=skip=StageNameCasing"].map(ByteString::from);
        let extra = Config::from_comments(&comments).unwrap();
        let merged = Config::parse("skip=FromAsCasing").unwrap().merged(&extra);
        assert!(!merged.runs(Rule::StageNameCasing) && !merged.runs(Rule::FromAsCasing));
        assert!(Config::from_comments(&["check=bad".into()]).is_none());
    }
}
