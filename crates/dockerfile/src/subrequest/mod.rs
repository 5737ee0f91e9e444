//! Sub-requests: what a build can be asked for other than to run.
//!
//! Each answers with a JSON document for programs and a text for people, in the forms that BuildKit's clients read.

mod definition;
mod describe;
mod lint;
mod outline;
mod table;
mod targets;

pub use describe::{Described, Named, describe, describe_text};
pub use lint::{BuildError, LintResults, LintWarning, SourceInfo};
pub use outline::{Outline, OutlineArg, OutlineCache, OutlineSecret, OutlineSsh};
pub use targets::{Target, TargetList};

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// Version of each sub-request's answer.
pub const VERSION: &str = "1.0.0";

/// The sub-requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubRequest {
    /// `frontend.lint`: warnings of all stages.
    Lint,
    /// `frontend.outline`: arguments, secrets and ssh keys that a target takes.
    Outline,
    /// `frontend.targets`: the stages.
    Targets,
    /// `frontend.subrequests.describe`: this list.
    Describe,
}

impl SubRequest {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lint => "frontend.lint",
            Self::Outline => "frontend.outline",
            Self::Targets => "frontend.targets",
            Self::Describe => "frontend.subrequests.describe",
        }
    }

    /// The sub-request with this name on the wire.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Lint, Self::Outline, Self::Targets, Self::Describe]
            .into_iter()
            .find(|request| request.name() == name)
    }
}

/// Lines of a source, as documents name them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Which of the document's sources.
    #[serde(default, rename = "sourceIndex", skip_serializing_if = "is_zero")]
    pub source_index: i32,
    /// A range for each line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
}

/// A stretch of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Where it starts.
    #[serde(default)]
    pub start: Point,
    /// Where it ends.
    #[serde(default)]
    pub end: Point,
}

/// A place in a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The line, the first is 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub line: i32,
    /// The column; BuildKit always says 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub character: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references to predicates")]
fn is_zero(value: &i32) -> bool {
    *value == 0
}

impl Location {
    /// The lines of a span, each a range; `None` when it is not known.
    #[must_use]
    pub fn of(span: Span) -> Option<Self> {
        span.is_known().then(|| Self { source_index: 0, ranges: Self::ranges(span) })
    }

    fn ranges(span: Span) -> Vec<Range> {
        span.lines()
            .map(|line| {
                let point = Point { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 };
                Range { start: point, end: point }
            })
            .collect()
    }

    /// The first line, 0 when there is none.
    fn first_line(&self) -> i32 {
        self.ranges.first().map_or(0, |range| range.start.line)
    }

    /// From the first to the last line.
    fn span(&self) -> Span {
        let line = |point: Point| u32::try_from(point.line).unwrap_or(0);
        let first = self.ranges.iter().map(|r| line(r.start)).min().unwrap_or(0);
        let last = self.ranges.iter().map(|r| line(r.end).max(line(r.start))).max().unwrap_or(0);
        Span::new(crate::span::Position::new(first, 0), crate::span::Position::new(last, 0))
    }
}

/// Indented JSON as Go encodes it, which the answers carry.
fn to_json<T: Serialize>(document: &T) -> String {
    // These types hold no map with odd keys and no failing serializer.
    let json = kiln_oci::gojson::to_vec_indent(document).unwrap_or_default();
    String::from_utf8_lossy(&json).into_owned()
}

/// Bytes as JSON documents of Go programs hold them.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

/// A list of byte strings in base64.
mod base64_list {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|bytes| STANDARD.encode(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let list = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
        list.iter().map(|text| STANDARD.decode(text).map_err(serde::de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests;
