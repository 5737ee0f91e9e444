//! A definition as Go's `encoding/json` writes it: how a source file was loaded, for clients that load it again.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value, json};

use crate::{OpMetadata, pb};

/// A larger definition stays out of an error: trailers are small.
const MAX_BYTES: usize = 64 << 10;

/// The ops and what is said about them; `None` if there is nothing or it is too much for an error.
pub(super) fn to_json(definition: &pb::Definition) -> Option<Value> {
    let size: usize = definition.def.iter().map(|op| op.len()).sum();
    if definition.def.is_empty() || size > MAX_BYTES {
        return None;
    }
    let ops: Vec<String> = definition.def.iter().map(|op| BASE64.encode(op)).collect();
    let metadata = definition.metadata.sorted().into_iter().map(|(digest, m)| (digest, metadata_to_json(m)));
    let mut object = Map::new();
    object.insert("def".to_owned(), ops.into());
    object.insert("metadata".to_owned(), Value::Object(metadata.collect()));
    Some(Value::Object(object))
}

/// The reverse of [`to_json`].
pub(super) fn from_json(value: &Value) -> Option<pb::Definition> {
    let ops = value.get("def")?.as_array()?;
    let ops = ops.iter().map(|op| BASE64.decode(op.as_str()?).ok().map(Into::into));
    let metadata = value.get("metadata").and_then(Value::as_object);
    let metadata = metadata.into_iter().flatten().map(|(digest, m)| (digest.clone(), metadata_from_json(m)));
    Some(pb::Definition { def: ops.collect::<Option<_>>()?, metadata: metadata.collect(), source: None })
}

fn metadata_to_json(metadata: &OpMetadata) -> Value {
    let mut object = Map::new();
    if metadata.ignore_cache {
        object.insert("ignore_cache".to_owned(), true.into());
    }
    if !metadata.description.is_empty() {
        object.insert("description".to_owned(), json!(metadata.description.to_map()));
    }
    if !metadata.caps.is_empty() {
        object.insert("caps".to_owned(), json!(metadata.caps.to_map()));
    }
    Value::Object(object)
}

fn metadata_from_json(value: &Value) -> OpMetadata {
    let entries = |key: &str| value.get(key).and_then(Value::as_object).into_iter().flatten();
    let description = entries("description").filter_map(|(k, v)| Some((k.clone(), v.as_str()?.into())));
    let caps = entries("caps").filter_map(|(k, v)| Some((k.clone(), v.as_bool()?)));
    OpMetadata {
        ignore_cache: value.get("ignore_cache").and_then(Value::as_bool).unwrap_or_default(),
        description: description.collect(),
        caps: caps.collect(),
        ..OpMetadata::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_writes() {
        let metadata = OpMetadata {
            description: [("llb.customname", "load".into())].into(),
            caps: [("constraints", true)].into(),
            ..OpMetadata::default()
        };
        let definition = pb::Definition {
            def: vec!["op".into()],
            metadata: [("sha256:1".to_owned(), metadata)].into(),
            source: None,
        };
        let json = to_json(&definition).unwrap();
        assert_eq!(
            json.to_string(),
            r#"{"def":["b3A="],"metadata":{"sha256:1":{"description":{"llb.customname":"load"},"caps":{"constraints":true}}}}"#
        );
        assert_eq!(from_json(&json), Some(definition));
    }

    #[test]
    fn nothing_and_too_much_stay_out() {
        assert_eq!(to_json(&pb::Definition::default()), None);
        let large = pb::Definition { def: vec![vec![0; MAX_BYTES + 1].into()], ..pb::Definition::default() };
        assert_eq!(to_json(&large), None);
        assert_eq!(from_json(&json!({"def": [1]})), None);
    }
}
