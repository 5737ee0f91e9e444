//! Errors on the wire: a code, a message and typed details.
//!
//! BuildKit's peers put details into the `google.rpc.Status` of the `grpc-status-details-bin` trailer as
//! `Any { type_url: "github.com/moby/buildkit/<name>+json", value: <JSON> }`: JSON as Go's `encoding/json` writes the message
//! (snake_case names, bytes in base64, zero values left out), not protobuf. A client reads from them which vertex failed, the lines
//! of the Dockerfile that it came from, and the exit code of a step. Details of kinds that are not known here pass through, as does one
//! that nobody here reads: [`Detail::Solve`].

mod definition;
mod diagnostic;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use prost::Message as _;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use crate::{errdefs, pb, protojson, rpc};

pub use diagnostic::Diagnostic;

/// What comes before a detail's name in its type URL.
const PREFIX: &str = "github.com/moby/buildkit/";
/// The type URL of [`Detail::Diagnostics`], which BuildKit's clients skip.
const DIAGNOSTICS: &str = "kiln/diagnostics+json";

/// One fact about an error, beside its message.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// The digest of the vertex that failed.
    Vertex(String),
    /// Ranges of a source file that the failing vertex came from.
    Source(errdefs::Source),
    /// The exit code of the process that failed.
    Exit(u32),
    /// The frontend in which the error arose: its name and, for one that runs as an image, its reference.
    Frontend {
        /// For example `dockerfile.v0`.
        name: String,
        /// The image reference; empty for a built-in frontend.
        source: String,
    },
    /// A capability that a frontend needs and the daemon lacks.
    FrontendCap(String),
    /// Why the client's policy denied a source, in its words.
    Denied(Vec<String>),
    /// A sub-request that the frontend does not know.
    Subrequest(String),
    /// All that is wrong in the file that the first source names, in the order of its lines.
    Diagnostics(Vec<Diagnostic>),
    /// The op that failed, and the names of what it began with and what had become of that.
    Solve(Box<errdefs::Solve>),
    /// Anything else, as it came.
    Other(prost_types::Any),
}

/// An error as it crosses the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct WireError {
    /// gRPC's code; [`Code::Unknown`] when nothing fits better, which is what clients expect of a failed build.
    pub code: Code,
    /// For people.
    pub message: String,
    /// Outermost first.
    pub details: Vec<Detail>,
}

impl WireError {
    /// An error without details.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// The same with one more detail, further out than those it has.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        self.details.insert(0, detail);
        self
    }

    /// The exit code of the process that failed, if that is what happened.
    #[must_use]
    pub fn exit_code(&self) -> Option<u32> {
        self.details.iter().find_map(|detail| match detail {
            Detail::Exit(code) => Some(*code),
            _ => None,
        })
    }

    /// The source ranges that the error points to, outermost first.
    pub fn sources(&self) -> impl Iterator<Item = &errdefs::Source> {
        self.details.iter().filter_map(|detail| match detail {
            Detail::Source(source) => Some(source),
            _ => None,
        })
    }

    /// What is wrong in the file that the first source names.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.details.iter().flat_map(|detail| match detail {
            Detail::Diagnostics(list) => list.as_slice(),
            _ => &[],
        })
    }

    /// As the message in which other messages carry an error.
    #[must_use]
    pub fn to_rpc(&self) -> rpc::Status {
        rpc::Status {
            code: self.code as i32,
            message: self.message.clone(),
            details: self.details.iter().map(Detail::to_any).collect(),
        }
    }

    /// The reverse of [`WireError::to_rpc`].
    #[must_use]
    pub fn from_rpc(status: &rpc::Status) -> Self {
        Self {
            code: Code::from_i32(status.code),
            message: status.message.clone(),
            details: status.details.iter().map(Detail::from_any).collect(),
        }
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WireError {}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        if error.details.is_empty() {
            return Self::new(error.code, error.message);
        }
        let encoded = error.to_rpc().encode_to_vec();
        Self::with_details(error.code, error.message, encoded.into())
    }
}

impl From<&Status> for WireError {
    fn from(status: &Status) -> Self {
        // A peer that sends no details sends no message there either; the status itself is then all there is.
        match rpc::Status::decode(status.details()) {
            Ok(rpc) if !rpc.details.is_empty() => {
                Self { code: status.code(), message: status.message().to_owned(), ..Self::from_rpc(&rpc) }
            }
            _ => Self::new(status.code(), status.message()),
        }
    }
}

impl From<Status> for WireError {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

/// The number of the action `DENY` of a policy.
const DENY: i32 = 1;

impl Detail {
    fn to_any(&self) -> prost_types::Any {
        let (name, value) = match self {
            Self::Vertex(digest) => ("errdefs.Vertex+json", json!({ "digest": digest })),
            Self::Source(source) => ("errdefs.Source+json", source_to_json(source)),
            Self::Exit(code) => {
                ("gatewayapi.ExitMessage+json", if *code == 0 { json!({}) } else { json!({ "Code": code }) })
            }
            Self::Frontend { name, source } => {
                let mut object = Map::new();
                put_text(&mut object, "name", name);
                put_text(&mut object, "source", source);
                ("errdefs.Frontend+json", Value::Object(object))
            }
            Self::FrontendCap(name) => ("errdefs.FrontendCap+json", json!({ "name": name })),
            Self::Denied(reasons) => {
                let messages: Vec<_> = reasons.iter().map(|reason| json!({ "message": reason })).collect();
                let value = json!({ "action": DENY, "denyMessages": messages });
                ("policysession.DecisionResponse+json", value)
            }
            Self::Subrequest(name) => ("errdefs.Subrequest+json", json!({ "name": name })),
            Self::Diagnostics(list) => {
                let value = diagnostic::to_json(list).to_string().into_bytes();
                return prost_types::Any { type_url: DIAGNOSTICS.to_owned(), value };
            }
            Self::Solve(solve) => {
                let value = protojson::to_json("errdefs.Solve", &**solve).unwrap_or_else(|| json!({}));
                ("errdefs.Solve+json", value)
            }
            Self::Other(any) => return any.clone(),
        };
        prost_types::Any { type_url: format!("{PREFIX}{name}"), value: value.to_string().into_bytes() }
    }

    fn from_any(any: &prost_types::Any) -> Self {
        Self::decode(any).unwrap_or_else(|| Self::Other(any.clone()))
    }

    fn decode(any: &prost_types::Any) -> Option<Self> {
        if any.type_url == DIAGNOSTICS {
            let value = serde_json::from_slice(&any.value).ok()?;
            return diagnostic::from_json(&value).map(Self::Diagnostics);
        }
        let name = any.type_url.strip_prefix(PREFIX)?;
        let value: Value = serde_json::from_slice(&any.value).ok()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(match name {
            "errdefs.Vertex+json" => Self::Vertex(text("digest")),
            "errdefs.Source+json" => Self::Source(source_from_json(&value)?),
            "gatewayapi.ExitMessage+json" => {
                let code = ["Code", "code"].iter().find_map(|key| value.get(key)).and_then(Value::as_u64);
                Self::Exit(u32::try_from(code.unwrap_or_default()).ok()?)
            }
            "errdefs.Frontend+json" => Self::Frontend { name: text("name"), source: text("source") },
            "errdefs.FrontendCap+json" => Self::FrontendCap(text("name")),
            "policysession.DecisionResponse+json" => {
                let messages = value.get("denyMessages").and_then(Value::as_array)?;
                let text =
                    |message: &Value| message.get("message").and_then(Value::as_str).map(str::to_owned);
                Self::Denied(messages.iter().filter_map(text).collect())
            }
            "errdefs.Subrequest+json" => Self::Subrequest(text("name")),
            _ => return None,
        })
    }
}

fn put_text(object: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        object.insert(key.to_owned(), text.into());
    }
}

fn source_to_json(source: &errdefs::Source) -> Value {
    let mut object = Map::new();
    if let Some(info) = &source.info {
        let mut fields = Map::new();
        put_text(&mut fields, "filename", &info.filename);
        put_text(&mut fields, "data", &BASE64.encode(&info.data));
        if let Some(definition) = info.definition.as_ref().and_then(definition::to_json) {
            fields.insert("definition".to_owned(), definition);
        }
        put_text(&mut fields, "language", &info.language);
        object.insert("info".to_owned(), Value::Object(fields));
    }
    if !source.ranges.is_empty() {
        object.insert("ranges".to_owned(), source.ranges.iter().map(range_to_json).collect());
    }
    Value::Object(object)
}

fn range_to_json(range: &pb::Range) -> Value {
    let position = |position: &pb::Position| {
        let mut object = Map::new();
        for (key, number) in [("line", position.line), ("character", position.character)] {
            if number != 0 {
                object.insert(key.to_owned(), number.into());
            }
        }
        Value::Object(object)
    };
    let mut object = Map::new();
    for (key, end) in [("start", &range.start), ("end", &range.end)] {
        if let Some(end) = end {
            object.insert(key.to_owned(), position(end));
        }
    }
    Value::Object(object)
}

fn source_from_json(value: &Value) -> Option<errdefs::Source> {
    let info = match value.get("info") {
        None | Some(Value::Null) => None,
        Some(info) => {
            let text = |key: &str| info.get(key).and_then(Value::as_str).unwrap_or_default();
            Some(pb::SourceInfo {
                filename: text("filename").to_owned(),
                data: BASE64.decode(text("data")).ok()?.into(),
                definition: info.get("definition").and_then(definition::from_json),
                language: text("language").to_owned(),
            })
        }
    };
    let position = |range: &Value, key: &str| {
        let position = range.get(key)?;
        let number = |key: &str| {
            position.get(key).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).unwrap_or_default()
        };
        Some(pb::Position { line: number("line"), character: number("character") })
    };
    let ranges = value.get("ranges").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let ranges = ranges
        .iter()
        .map(|range| pb::Range { start: position(range, "start"), end: position(range, "end") })
        .collect();
    Some(errdefs::Source { info, ranges })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> WireError {
        let range = pb::Range {
            start: Some(pb::Position { line: 3, character: 0 }),
            end: Some(pb::Position { line: 4, character: 7 }),
        };
        let info = pb::SourceInfo {
            filename: "Dockerfile".into(),
            data: "FROM scratch\n".into(),
            definition: None,
            language: "Dockerfile".into(),
        };
        WireError::new(
            Code::Unknown,
            "process \"/bin/sh -c false\" did not complete successfully: exit code: 1",
        )
        .with(Detail::Exit(1))
        .with(Detail::Vertex("sha256:abc".into()))
        .with(Detail::Source(errdefs::Source { info: Some(info), ranges: vec![range] }))
    }

    #[test]
    fn details_survive_the_trailer() {
        let error = example();
        assert_eq!(WireError::from(Status::from(error.clone())), error);
        assert_eq!(error.exit_code(), Some(1));
        assert_eq!(error.sources().count(), 1);
    }

    #[test]
    fn the_bytes_are_those_that_go_clients_read() {
        let rpc = example().to_rpc();
        let shown: Vec<(&str, &str)> = rpc
            .details
            .iter()
            .map(|any| (any.type_url.as_str(), std::str::from_utf8(&any.value).unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                (
                    "github.com/moby/buildkit/errdefs.Source+json",
                    r#"{"info":{"filename":"Dockerfile","data":"RlJPTSBzY3JhdGNoCg==","language":"Dockerfile"},"ranges":[{"start":{"line":3},"end":{"line":4,"character":7}}]}"#
                ),
                ("github.com/moby/buildkit/errdefs.Vertex+json", r#"{"digest":"sha256:abc"}"#),
                ("github.com/moby/buildkit/gatewayapi.ExitMessage+json", r#"{"Code":1}"#),
            ]
        );
    }

    #[test]
    fn denials_cross_the_wire() {
        let error =
            WireError::new(Code::PermissionDenied, "no").with(Detail::Denied(vec!["use busybox".into()]));
        let rpc = error.to_rpc();
        let shown: Vec<_> = rpc.details.iter().map(|any| std::str::from_utf8(&any.value).unwrap()).collect();
        assert_eq!(shown, [r#"{"action":1,"denyMessages":[{"message":"use busybox"}]}"#]);
        assert_eq!(WireError::from_rpc(&rpc), error);
    }

    #[test]
    fn unknown_and_damaged_details_pass_through() {
        for (url, value) in [
            ("example.com/other", "{}"),
            ("github.com/moby/buildkit/errdefs.Vertex+json", "{"),
            (DIAGNOSTICS, "[{}]"),
        ] {
            let any = prost_types::Any { type_url: url.into(), value: value.into() };
            let status = rpc::Status { code: 2, message: "no".into(), details: vec![any.clone()] };
            assert_eq!(WireError::from_rpc(&status).details, [Detail::Other(any.clone())]);
            assert_eq!(WireError::from_rpc(&status).to_rpc(), status);
        }
    }
}
