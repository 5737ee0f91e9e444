//! `frontend.lint`

use std::borrow::Cow;

use kiln_proto::pb;
use serde::{Deserialize, Serialize};

use super::{Location, base64_bytes, definition, to_json};
use crate::lint::Warning;
use crate::render::{excerpt_of, lines};
use crate::span::Span;

/// The warnings about a Dockerfile, and the error that ended the look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LintResults {
    /// In the order they were found; `null` when there are none.
    #[serde(with = "null_when_empty")]
    pub warnings: Vec<LintWarning>,
    /// The files.
    pub sources: Vec<SourceInfo>,
    /// What kept the file from being looked at to its end.
    #[serde(default, rename = "buildError", skip_serializing_if = "Option::is_none")]
    pub error: Option<BuildError>,
}

/// A warning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LintWarning {
    /// Name of the rule.
    #[serde(rename = "ruleName")]
    pub rule_name: String,
    /// What the rule is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where the rule is explained.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// How it was broken.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Where it was broken.
    pub location: Location,
}

/// An error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildError {
    /// What went wrong.
    pub message: String,
    /// Where.
    pub location: Location,
}

/// A file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceInfo {
    /// Its path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Its content.
    #[serde(with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<u8>,
    /// What it was loaded by: LLB, in the JSON that BuildKit makes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<serde_json::Value>,
    /// The language it is in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
}

impl BuildError {
    /// An error with its message and the lines to blame ([`Error::blamed`](crate::Error::blamed)).
    #[must_use]
    pub fn new(message: impl ToString, blamed: Span) -> Self {
        Self { message: message.to_string(), location: Location::of(blamed).unwrap_or_default() }
    }
}

impl LintResults {
    /// The answer for a file with its warnings, and the error that ended the conversion, if one did. `definition` is what the
    /// file was loaded by, if anything.
    #[must_use]
    pub fn new(
        (filename, text): (&str, &[u8]),
        definition: Option<&pb::Definition>,
        warnings: &[Warning],
        error: Option<BuildError>,
    ) -> Self {
        let warnings = warnings.iter().map(LintWarning::new).collect();
        let source = SourceInfo {
            filename: filename.to_owned(),
            data: text.to_vec(),
            definition: definition.map(definition::json),
            language: "Dockerfile".to_owned(),
        };
        Self { warnings, sources: vec![source], error }
    }

    /// 0 when all is well.
    #[must_use]
    pub fn status_code(&self) -> i32 {
        i32::from(!self.warnings.is_empty() || self.error.is_some())
    }

    /// The document `result.json`.
    #[must_use]
    pub fn json(&self) -> String {
        to_json(self)
    }

    /// The document `result.txt`: the warnings in the order of the file's lines.
    #[must_use]
    pub fn text(&self) -> String {
        let mut warnings: Vec<&LintWarning> = self.warnings.iter().collect();
        warnings.sort_by_key(|w| w.location.first_line());
        let texts = self.texts();
        let excerpts = self.excerpts(&texts);
        let mut out = String::new();
        for warning in warnings {
            warning.write(&excerpts, &mut out);
        }
        out
    }

    /// The error with its excerpt, as clients print it below the warnings; empty when there is none.
    #[must_use]
    pub fn error_text(&self) -> String {
        let Some(error) = &self.error else { return String::new() };
        let texts = self.texts();
        format!("{}\n{}", error.message, self.excerpts(&texts).of(&error.location))
    }

    fn texts(&self) -> Vec<Cow<'_, str>> {
        self.sources.iter().map(|source| String::from_utf8_lossy(&source.data)).collect()
    }

    fn excerpts<'a>(&'a self, texts: &'a [Cow<'_, str>]) -> Excerpts<'a> {
        let names = self.sources.iter().map(|source| source.filename.as_str());
        Excerpts { files: names.zip(texts.iter().map(|text| lines(text))).collect() }
    }
}

/// The lines of all files, by name.
struct Excerpts<'a> {
    files: Vec<(&'a str, Vec<&'a str>)>,
}

impl Excerpts<'_> {
    fn of(&self, location: &Location) -> String {
        let file = usize::try_from(location.source_index).ok().and_then(|index| self.files.get(index));
        file.map_or_else(String::new, |(name, lines)| excerpt_of(name, lines, location.span()))
    }
}

impl LintWarning {
    fn new(warning: &Warning) -> Self {
        Self {
            rule_name: warning.rule.name().to_owned(),
            description: warning.rule.description().to_owned(),
            url: warning.rule.url(),
            detail: warning.message.clone(),
            location: Location::of(warning.span).unwrap_or_default(),
        }
    }

    fn write(&self, excerpts: &Excerpts<'_>, out: &mut String) {
        *out += &format!("\nWARNING: {}", self.rule_name);
        if !self.url.is_empty() {
            *out += &format!(" - {}", self.url);
        }
        *out += &format!("\n{}\n{}", self.detail, excerpts.of(&self.location));
    }
}

/// A list that is `null` when it is empty.
mod null_when_empty {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::LintWarning;

    pub(super) fn serialize<S: Serializer>(list: &[LintWarning], serializer: S) -> Result<S::Ok, S::Error> {
        (!list.is_empty()).then_some(list).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<LintWarning>, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or_default())
    }
}
