//! The steps of a build: its LLB in a form that does not depend on digests of this run.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine, prelude::BASE64_STANDARD};
use kiln_oci::Digest;
use kiln_proto::pb;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// A build's steps, inputs before what uses them.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildConfig {
    /// The steps.
    #[serde(rename = "llbDefinition", skip_serializing_if = "Vec::is_empty")]
    pub definition: Vec<BuildStep>,
    /// The step of each vertex.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub digest_mapping: BTreeMap<Digest, String>,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct BuildStep {
    /// `step<n>`.
    pub id: String,
    /// The op, as JSON.
    pub op: Value,
    /// `step<n>:<output>`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
}

/// The files that a build's steps were read from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceInfo {
    /// Where each step stands, by step.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub locations: BTreeMap<String, Value>,
    /// The files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub infos: Vec<SourceFile>,
}

/// A file that steps were read from.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceFile {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Its language.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
    /// Its content, base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// The steps by which the file itself was had.
    #[serde(flatten)]
    pub config: BuildConfig,
}

/// Describes a definition: steps and, if it names any, source files. `op_json` is the JSON form of an op without its inputs.
///
/// # Errors
///
/// [`Error::Result`] for a definition whose inputs are not in it.
pub fn build_config(
    definition: &pb::Definition,
    op_json: &dyn Fn(&pb::Op) -> Value,
) -> Result<(BuildConfig, Option<SourceInfo>)> {
    let config = steps(definition, op_json)?;
    let Some(source) = definition.source.as_ref().filter(|source| !source.infos.is_empty()) else {
        return Ok((config, None));
    };
    let mut info = SourceInfo::default();
    for file in &source.infos {
        let config = match &file.definition {
            Some(definition) => steps(definition, op_json)?,
            None => BuildConfig::default(),
        };
        info.infos.push(SourceFile {
            filename: file.filename.clone(),
            language: file.language.clone(),
            data: BASE64_STANDARD.encode(&file.data),
            config,
        });
    }
    for (vertex, locations) in source.locations.iter() {
        let vertex = vertex.with_text(Digest::parse).ok();
        if let Some(step) = vertex.and_then(|vertex| config.digest_mapping.get(&vertex)) {
            info.locations.insert(step.clone(), locations_json(locations));
        }
    }
    Ok((config, Some(info)))
}

fn locations_json(locations: &pb::Locations) -> Value {
    let position = |position: &Option<pb::Position>| {
        let position = position.unwrap_or_default();
        let mut json = serde_json::Map::new();
        for (name, value) in [("line", position.line), ("character", position.character)] {
            if value != 0 {
                json.insert(name.into(), value.into());
            }
        }
        Value::Object(json)
    };
    let range =
        |range: &pb::Range| serde_json::json!({"start": position(&range.start), "end": position(&range.end)});
    let location = |location: &pb::Location| {
        let ranges: Vec<_> = location.ranges.iter().map(|one| range(&one)).collect();
        let mut json = serde_json::json!({"ranges": ranges});
        if location.source_index != 0 {
            json["sourceIndex"] = location.source_index.into();
        }
        json
    };
    serde_json::json!({"locations": locations.locations.iter().map(location).collect::<Vec<_>>()})
}

fn steps(definition: &pb::Definition, op_json: &dyn Fn(&pb::Op) -> Value) -> Result<BuildConfig> {
    let wrong = |what: String| Error::Result(format!("the definition in provenance {what}"));
    let mut ops = HashMap::new();
    let mut last = None;
    for bytes in &definition.def {
        let mut op = <pb::Op as prost::Message>::decode(bytes.clone()).map_err(|e| wrong(e.to_string()))?;
        if let Some(pb::op::Op::Source(source)) = &mut op.op {
            source.attrs.retain(|key, _| !matches!(key.as_str(), "local.session" | "local.unique"));
        }
        let digest = Digest::sha256(bytes);
        last = Some(digest.clone());
        ops.insert(digest, op);
    }
    let Some(last) = last else { return Ok(BuildConfig::default()) };
    let order = inputs_first(&last, &ops).ok_or_else(|| wrong("lacks one of its inputs".into()))?;
    let number: HashMap<_, _> = order.iter().enumerate().map(|(at, digest)| (digest.as_str(), at)).collect();
    let mut config = BuildConfig::default();
    for (at, digest) in order.iter().enumerate() {
        let id = format!("step{at}");
        let op = &ops[digest];
        let input = |input: &pb::Input| {
            let step = number.get(input.digest.as_str()).copied().unwrap_or_default();
            format!("step{step}:{}", input.index)
        };
        let inputs = op.inputs.iter().map(input).collect();
        let plain = pb::Op { inputs: Vec::new(), ..op.clone() };
        config.digest_mapping.insert(digest.clone(), id.clone());
        config.definition.push(BuildStep { id, op: op_json(&plain), inputs });
    }
    Ok(config)
}

/// Depth first, without recursion: definitions come from outside.
fn inputs_first(root: &Digest, ops: &HashMap<Digest, pb::Op>) -> Option<Vec<Digest>> {
    let mut order = Vec::with_capacity(ops.len());
    let mut seen = std::collections::HashSet::from([root.clone()]);
    let mut stack = vec![(root.clone(), 0)];
    while let Some((digest, next)) = stack.pop() {
        let op = ops.get(&digest)?;
        match op.inputs.get(next) {
            None => order.push(digest),
            Some(input) => {
                let input = Digest::parse(&input.digest).ok()?;
                stack.push((digest, next + 1));
                if seen.insert(input.clone()) {
                    stack.push((input, 0));
                }
            }
        }
    }
    Some(order)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn source(name: &str) -> pb::Op {
        let attrs =
            [("local.session".to_owned(), "secret".to_owned()), ("x".to_owned(), "y".to_owned())].into();
        let source = pb::SourceOp { identifier: name.to_owned(), attrs };
        pb::Op { op: Some(pb::op::Op::Source(source)), ..pb::Op::default() }
    }

    fn input(op: &[u8], index: i64) -> pb::Input {
        pb::Input { digest: Digest::sha256(op).to_string(), index }
    }

    #[test]
    fn steps_are_numbered_inputs_first() {
        let base = source("docker-image://x").encode_to_vec();
        let last = pb::Op { inputs: vec![input(&base, 2)], ..pb::Op::default() }.encode_to_vec();
        let definition = pb::Definition {
            def: vec![last.clone().into(), base.clone().into(), last.into()],
            ..Default::default()
        };
        let attrs = |op: &pb::Op| match &op.op {
            Some(pb::op::Op::Source(source)) => source.attrs.keys().cloned().collect::<Vec<_>>().into(),
            _ => Value::Null,
        };
        let (config, source) = build_config(&definition, &attrs).expect("config");
        assert!(source.is_none());
        assert_eq!(
            (config.definition[0].id.as_str(), &config.definition[0].op),
            ("step0", &serde_json::json!(["x"]))
        );
        assert_eq!(config.definition[1].inputs, ["step0:2"]);
        assert_eq!(config.digest_mapping[&Digest::sha256(&base)], "step0");
    }

    #[test]
    fn an_input_that_is_missing_is_an_error() {
        let last = pb::Op { inputs: vec![input(b"nowhere", 0)], ..pb::Op::default() }.encode_to_vec();
        let definition = pb::Definition { def: vec![last.into()], ..Default::default() };
        assert!(build_config(&definition, &|_| Value::Null).is_err());
        let garbage = pb::Definition { def: vec![b"\xff\xff".to_vec().into()], ..Default::default() };
        assert!(build_config(&garbage, &|_| Value::Null).is_err());
    }
}
