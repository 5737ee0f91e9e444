//! Definitions as Go's `encoding/json` makes them of BuildKit's messages: fields in the order of the message, empty ones left
//! out, names in the order of their bytes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kiln_oci::Digest;
use kiln_proto::{OpMetadata, pb};
use serde_json::{Map, Value};

/// A definition.
pub(super) fn json(definition: &pb::Definition) -> Value {
    let ops = definition.def.iter().map(|op| STANDARD.encode(op).into()).collect();
    let metadata = definition.metadata.sorted().into_iter().map(|(digest, one)| (digest, metadata(one)));
    let source = definition.source.as_ref().map(|s| source(s, &definition.def));
    object([("def", list(ops)), ("metadata", map(metadata.collect())), ("Source", source)])
}

fn metadata(metadata: &OpMetadata) -> Value {
    let description = metadata.description.iter().map(|(key, value)| (key.to_owned(), value[..].into()));
    let caps = metadata.caps.iter().map(|(key, value)| (key.to_owned(), (*value).into()));
    object([
        ("ignore_cache", truth(metadata.ignore_cache)),
        ("description", map(description.collect())),
        ("export_cache", metadata.export_cache.as_ref().map(|cache| object([("Value", truth(cache.value))]))),
        ("caps", map(caps.collect())),
        ("progress_group", metadata.progress_group.as_deref().map(progress_group)),
        ("linux_resources", metadata.linux_resources.as_deref().map(resources)),
    ])
}

fn progress_group(group: &pb::ProgressGroup) -> Value {
    object([("id", text(&group.id)), ("name", text(&group.name)), ("weak", truth(group.weak))])
}

fn resources(resources: &pb::LinuxResources) -> Value {
    object([
        ("memory", number(resources.memory)),
        ("memorySwap", number(resources.memory_swap)),
        ("cpuShares", (resources.cpu_shares != 0).then(|| resources.cpu_shares.into())),
        ("cpuPeriod", (resources.cpu_period != 0).then(|| resources.cpu_period.into())),
        ("cpuQuota", number(resources.cpu_quota)),
        ("cpusetCpus", text(&resources.cpuset_cpus)),
        ("cpusetMems", text(&resources.cpuset_mems)),
    ])
}

/// With an entry for each op but the last, which stands for the result: the ones that have no lines are not in the message.
fn source(source: &pb::Source, ops: &[Bytes]) -> Value {
    let empty = Value::Object(Map::new());
    let ops = ops.split_last().map_or(ops, |(_, ops)| ops);
    let mut all: BTreeMap<String, Value> =
        ops.iter().map(|op| (Digest::sha256(op).to_string(), empty.clone())).collect();
    for (digest, locations) in source.locations.iter() {
        let locations = locations.locations.iter().map(location).collect();
        all.insert(digest.to_string(), object([("locations", list(locations))]));
    }
    let infos = source.infos.iter().map(info).collect();
    object([("locations", map(all.into_iter().collect())), ("infos", list(infos))])
}

fn location(location: &pb::Location) -> Value {
    let ranges = location.ranges.iter().map(|range| {
        object([("start", range.start.as_ref().map(position)), ("end", range.end.as_ref().map(position))])
    });
    object([("sourceIndex", number(location.source_index.into())), ("ranges", list(ranges.collect()))])
}

fn position(position: &pb::Position) -> Value {
    object([("line", number(position.line.into())), ("character", number(position.character.into()))])
}

/// No deeper than the message was: decoders of those have a limit.
fn info(info: &pb::SourceInfo) -> Value {
    object([
        ("filename", text(&info.filename)),
        ("data", text(&STANDARD.encode(&info.data))),
        ("definition", info.definition.as_ref().map(json)),
        ("language", text(&info.language)),
    ])
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect())
}

fn list(all: Vec<Value>) -> Option<Value> {
    (!all.is_empty()).then_some(Value::Array(all))
}

fn map(all: Map<String, Value>) -> Option<Value> {
    (!all.is_empty()).then_some(Value::Object(all))
}

fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

fn number(number: i64) -> Option<Value> {
    (number != 0).then(|| number.into())
}

fn truth(value: bool) -> Option<Value> {
    value.then_some(true.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_as_go_encodes_it() {
        let mut metadata = OpMetadata {
            export_cache: Some(pb::ExportCache::default()),
            progress_group: Some(Box::new(pb::ProgressGroup { id: "g".into(), ..Default::default() })),
            ..Default::default()
        };
        metadata.description.insert("llb.customname".to_owned(), "load".into());
        metadata.caps.insert("b".to_owned(), true);
        metadata.caps.insert("a".to_owned(), false);
        let line = pb::Position { line: 2, character: 0 };
        let range = pb::Range { start: Some(line), end: Some(pb::Position::default()) };
        let definition = pb::Definition {
            def: vec![b"op".to_vec().into(), b"result".to_vec().into()],
            metadata: [("sha256:2".to_owned(), OpMetadata::default()), ("sha256:1".to_owned(), metadata)]
                .into(),
            source: Some(pb::Source {
                locations: [
                    (
                        "sha256:1".to_owned(),
                        pb::Locations {
                            locations: [pb::Location { source_index: 1, ranges: vec![range].into() }].into(),
                        },
                    ),
                    ("sha256:2".to_owned(), pb::Locations::default()),
                ]
                .into(),
                infos: vec![pb::SourceInfo {
                    filename: "f".into(),
                    data: b"x".to_vec().into(),
                    ..Default::default()
                }],
            }),
        };
        assert_eq!(
            json(&definition).to_string(),
            r#"{"def":["b3A=","cmVzdWx0"],"metadata":{"sha256:1":{"description":{"llb.customname":"load"},"export_cache":{},"caps":{"a":false,"b":true},"progress_group":{"id":"g"}},"sha256:2":{}},"Source":{"locations":{"sha256:037aeaeaf4bbf26ddabe7256a8294dc52da48d575a1247b5c2598c47de7aebab":{},"sha256:1":{"locations":[{"sourceIndex":1,"ranges":[{"start":{"line":2},"end":{}}]}]},"sha256:2":{}},"infos":[{"filename":"f","data":"eA=="}]}}"#
        );
    }
}
