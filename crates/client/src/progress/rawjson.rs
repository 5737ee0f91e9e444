//! Progress as lines of JSON: for each message of the daemon the object that Go's encoder makes of it.
//!
//! ```text
//!   {"vertexes":[{digest,inputs,name,started,completed,cached,error,progressGroup}],
//!    "statuses":[{id,vertex,name,total,current,timestamp,started,completed}],
//!    "logs":[{vertex,stream,data,timestamp}],
//!    "warnings":[{vertex,level,short,detail,url,sourceInfo,range}]}
//! ```
//! What is empty is left out, except a status's id, current and timestamp, and a log's data.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kiln_oci::gojson;
use kiln_proto::{
    OpMetadata,
    control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning},
    pb,
};
use prost_types::Timestamp;
use serde::Serialize;

use super::{View, time::rfc3339};

/// Writes each event as it comes.
pub(super) struct RawJson<W>(W);

impl<W: Write + Send> RawJson<W> {
    pub(super) fn new(out: W) -> Self {
        Self(out)
    }
}

impl<W: Write + Send> View for RawJson<W> {
    fn update(&mut self, event: &StatusResponse) -> io::Result<()> {
        let mut line = encode(event)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// One event, without a newline.
fn encode(event: &StatusResponse) -> io::Result<Vec<u8>> {
    let object = Status {
        vertexes: event.vertexes.iter().map(vertex).collect(),
        statuses: event.statuses.iter().map(status).collect(),
        logs: event.logs.iter().map(log).collect(),
        warnings: event.warnings.iter().map(warning).collect(),
    };
    gojson::to_vec(&object).map_err(io::Error::other)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Serialize)]
struct Status<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<VertexJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<StatusJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<LogJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningJson<'a>>,
}

#[derive(Serialize)]
struct VertexJson<'a> {
    #[serde(skip_serializing_if = "is_default")]
    digest: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    inputs: &'a [String],
    #[serde(skip_serializing_if = "is_default")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    started: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    cached: bool,
    #[serde(skip_serializing_if = "is_default")]
    error: &'a str,
    #[serde(rename = "progressGroup", skip_serializing_if = "Option::is_none")]
    progress_group: Option<GroupJson<'a>>,
}

#[derive(Serialize)]
struct GroupJson<'a> {
    #[serde(skip_serializing_if = "is_default")]
    id: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    weak: bool,
}

#[derive(Serialize)]
struct StatusJson<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    total: i64,
    current: i64,
    timestamp: String,
    #[serde(skip_serializing_if = "is_default")]
    started: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    completed: Option<String>,
}

#[derive(Serialize)]
struct LogJson<'a> {
    #[serde(skip_serializing_if = "is_default")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    stream: i64,
    data: String,
    timestamp: String,
}

#[derive(Serialize)]
struct WarningJson<'a> {
    #[serde(skip_serializing_if = "is_default")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    level: i64,
    #[serde(skip_serializing_if = "is_default")]
    short: String,
    #[serde(skip_serializing_if = "is_default")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    url: &'a str,
    #[serde(rename = "sourceInfo", skip_serializing_if = "Option::is_none")]
    source_info: Option<SourceInfoJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<RangeJson>,
}

#[derive(Serialize)]
struct SourceInfoJson<'a> {
    #[serde(skip_serializing_if = "is_default")]
    filename: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<DefinitionJson<'a>>,
    #[serde(skip_serializing_if = "is_default")]
    language: &'a str,
}

#[derive(Serialize)]
struct DefinitionJson<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    def: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, MetadataJson<'a>>,
    #[serde(rename = "Source", skip_serializing_if = "Option::is_none")]
    source: Option<SourceJson<'a>>,
}

#[derive(Serialize)]
struct MetadataJson<'a> {
    #[serde(skip_serializing_if = "is_default")]
    ignore_cache: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    description: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    export_cache: Option<ExportCacheJson>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    caps: BTreeMap<String, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_group: Option<GroupJson<'a>>,
}

#[derive(Serialize)]
struct ExportCacheJson {
    #[serde(rename = "Value", skip_serializing_if = "is_default")]
    value: bool,
}

#[derive(Serialize)]
struct SourceJson<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    locations: BTreeMap<String, LocationsJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    infos: Vec<SourceInfoJson<'a>>,
}

#[derive(Serialize)]
struct LocationsJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locations: Vec<LocationJson>,
}

#[derive(Serialize)]
struct LocationJson {
    #[serde(rename = "sourceIndex", skip_serializing_if = "is_default")]
    source_index: i32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeJson>,
}

#[derive(Serialize)]
struct RangeJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<PositionJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<PositionJson>,
}

#[derive(Serialize)]
struct PositionJson {
    #[serde(skip_serializing_if = "is_default")]
    line: i32,
    #[serde(skip_serializing_if = "is_default")]
    character: i32,
}

fn time(time: Option<&Timestamp>) -> Option<String> {
    time.map(rfc3339)
}

/// Times that are always there.
fn required(time: Option<&Timestamp>) -> String {
    time.map_or_else(|| "0001-01-01T00:00:00Z".into(), rfc3339)
}

fn group(group: &pb::ProgressGroup) -> GroupJson<'_> {
    GroupJson { id: &group.id, name: &group.name, weak: group.weak }
}

fn vertex(vertex: &Vertex) -> VertexJson<'_> {
    VertexJson {
        digest: &vertex.digest,
        inputs: &vertex.inputs,
        name: &vertex.name,
        started: time(vertex.started.as_ref()),
        completed: time(vertex.completed.as_ref()),
        cached: vertex.cached,
        error: &vertex.error,
        progress_group: vertex.progress_group.as_ref().map(group),
    }
}

fn status(status: &VertexStatus) -> StatusJson<'_> {
    StatusJson {
        id: &status.id,
        vertex: &status.vertex,
        name: &status.name,
        total: status.total,
        current: status.current,
        timestamp: required(status.timestamp.as_ref()),
        started: time(status.started.as_ref()),
        completed: time(status.completed.as_ref()),
    }
}

fn log(log: &VertexLog) -> LogJson<'_> {
    LogJson {
        vertex: &log.vertex,
        stream: log.stream,
        data: BASE64.encode(&log.msg),
        timestamp: required(log.timestamp.as_ref()),
    }
}

fn warning(warning: &VertexWarning) -> WarningJson<'_> {
    WarningJson {
        vertex: &warning.vertex,
        level: warning.level,
        short: BASE64.encode(&warning.short),
        detail: warning.detail.iter().map(|d| BASE64.encode(d)).collect(),
        url: &warning.url,
        source_info: warning.info.as_ref().map(source_info),
        range: warning.ranges.iter().map(range).collect(),
    }
}

fn source_info(info: &pb::SourceInfo) -> SourceInfoJson<'_> {
    SourceInfoJson {
        filename: &info.filename,
        data: BASE64.encode(&info.data),
        definition: info.definition.as_ref().map(definition),
        language: &info.language,
    }
}

fn definition(definition: &pb::Definition) -> DefinitionJson<'_> {
    DefinitionJson {
        def: definition.def.iter().map(|op| BASE64.encode(op)).collect(),
        metadata: definition.metadata.iter().map(|(k, v)| (k.to_string(), metadata(v))).collect(),
        source: definition.source.as_ref().map(source),
    }
}

fn source(source: &pb::Source) -> SourceJson<'_> {
    let all = |all: &pb::Locations| LocationsJson { locations: all.locations.iter().map(location).collect() };
    SourceJson {
        locations: source.locations.iter().map(|(k, v)| (k.to_string(), all(v))).collect(),
        infos: source.infos.iter().map(source_info).collect(),
    }
}

fn location(location: &pb::Location) -> LocationJson {
    LocationJson {
        source_index: location.source_index,
        ranges: location.ranges.iter().map(|one| range(&one)).collect(),
    }
}

fn metadata(metadata: &OpMetadata) -> MetadataJson<'_> {
    MetadataJson {
        ignore_cache: metadata.ignore_cache,
        description: metadata.description.to_texts(),
        export_cache: metadata.export_cache.as_ref().map(|e| ExportCacheJson { value: e.value }),
        caps: metadata.caps.to_map(),
        progress_group: metadata.progress_group.as_deref().map(group),
    }
}

fn range(range: &pb::Range) -> RangeJson {
    let position = |p: &pb::Position| PositionJson { line: p.line, character: p.character };
    RangeJson { start: range.start.as_ref().map(position), end: range.end.as_ref().map(position) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::time::timestamp;

    fn text(event: &StatusResponse) -> String {
        String::from_utf8(encode(event).unwrap()).unwrap()
    }

    #[test]
    fn what_is_empty_is_left_out() {
        assert_eq!(text(&StatusResponse::default()), "{}");
        let vertex = Vertex { digest: "sha256:a".into(), name: "<a>".into(), ..Vertex::default() };
        let event = StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() };
        assert_eq!(text(&event), r#"{"vertexes":[{"digest":"sha256:a","name":"\u003ca\u003e"}]}"#);
    }

    #[test]
    fn logs_and_statuses_have_what_is_always_there() {
        let time = Some(timestamp(1_500_000_000));
        let status = VertexStatus { id: "x".into(), timestamp: time, ..VertexStatus::default() };
        let log = VertexLog { vertex: "v".into(), timestamp: time, stream: 1, msg: "hi".into() };
        let event = StatusResponse { statuses: vec![status], logs: vec![log], ..StatusResponse::default() };
        assert_eq!(
            text(&event),
            r#"{"statuses":[{"id":"x","current":0,"timestamp":"1970-01-01T00:00:01.5Z"}],"logs":[{"vertex":"v","stream":1,"data":"aGk=","timestamp":"1970-01-01T00:00:01.5Z"}]}"#
        );
    }
}
