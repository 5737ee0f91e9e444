//! Messages as protobuf's own JSON mapping writes them, driven by the descriptors of all packages.
//!
//! What is on the wire is what is written: a field that is not encoded is left out, 64-bit numbers are texts, bytes are base64, enums
//! go by their names and map keys are texts. Fields that the descriptors do not know are left out. Well-known types have no form of
//! their own here; no message that is written as JSON holds one.

use std::{collections::HashMap, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use prost::{
    Message,
    bytes::{Buf as _, Bytes},
    encoding::{WireType, decode_key, decode_varint},
};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde_json::{Map, Value};

/// How deep messages may lie in each other.
const MAX_DEPTH: usize = 64;

/// All messages and enums by their full names, `.package.Name`.
struct Types {
    messages: HashMap<String, DescriptorProto>,
    enums: HashMap<String, EnumDescriptorProto>,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let mut types = Types { messages: HashMap::new(), enums: HashMap::new() };
    // They are made from our own files when this crate is compiled.
    let set = FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap_or_default();
    for file in set.file {
        let scope = if file.package().is_empty() { String::new() } else { format!(".{}", file.package()) };
        types.add(&scope, file.message_type, file.enum_type);
    }
    types
});

impl Types {
    fn add(&mut self, scope: &str, messages: Vec<DescriptorProto>, enums: Vec<EnumDescriptorProto>) {
        for one in enums {
            self.enums.insert(format!("{scope}.{}", one.name()), one);
        }
        for mut one in messages {
            let name = format!("{scope}.{}", one.name());
            self.add(&name, std::mem::take(&mut one.nested_type), std::mem::take(&mut one.enum_type));
            self.messages.insert(name, one);
        }
    }
}

/// `message` as JSON; `name` is that of its type with its package (`pb.Op`). `None` for a type that no descriptor names, and for a
/// message that contains others to no end.
pub fn to_json(name: &str, message: &impl Message) -> Option<Value> {
    object(&format!(".{name}"), message.encode_to_vec().into(), 0)
}

fn object(name: &str, mut bytes: Bytes, depth: usize) -> Option<Value> {
    let descriptor = TYPES.messages.get(name).filter(|_| depth < MAX_DEPTH)?;
    let mut object = Map::new();
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        let field = descriptor.field.iter().find(|field| field.number() as u32 == number);
        let Some(field) = field else {
            take(wire, &mut bytes)?;
            continue;
        };
        let key = field.json_name().to_owned();
        if field.label() != Label::Repeated {
            object.insert(key, value(field, wire, &mut bytes, depth)?);
        } else if is_map(field) {
            let (entry_key, entry_value) = map_entry(field, &mut bytes, depth)?;
            let map = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
            map.as_object_mut()?.insert(entry_key, entry_value);
        } else {
            let list = object.entry(key).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
            if wire == WireType::LengthDelimited && is_number(field.r#type()) {
                let mut packed = take(wire, &mut bytes)?;
                while packed.has_remaining() {
                    list.push(value(field, own_wire(field.r#type()), &mut packed, depth)?);
                }
            } else {
                list.push(value(field, wire, &mut bytes, depth)?);
            }
        }
    }
    Some(Value::Object(object))
}

fn is_map(field: &FieldDescriptorProto) -> bool {
    let options = TYPES.messages.get(field.type_name()).and_then(|entry| entry.options.as_ref());
    options.is_some_and(|options| options.map_entry())
}

/// The next entry of a map.
fn map_entry(field: &FieldDescriptorProto, bytes: &mut Bytes, depth: usize) -> Option<(String, Value)> {
    let entry = TYPES.messages.get(field.type_name())?;
    let Value::Object(mut pair) =
        object(field.type_name(), take(WireType::LengthDelimited, bytes)?, depth + 1)?
    else {
        return None;
    };
    let key = match pair.remove("key") {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let empty = || entry.field.iter().find(|f| f.number() == 2).map_or(Value::Null, |f| zero(f.r#type()));
    Some((key, pair.remove("value").unwrap_or_else(empty)))
}

/// The value of a map's entry that encodes none.
fn zero(kind: Type) -> Value {
    match kind {
        Type::Message => Value::Object(Map::new()),
        Type::Bool => false.into(),
        Type::String | Type::Bytes => "".into(),
        Type::Int64 | Type::Uint64 | Type::Sint64 | Type::Fixed64 | Type::Sfixed64 => "0".into(),
        _ => 0.into(),
    }
}

fn is_number(kind: Type) -> bool {
    !matches!(kind, Type::String | Type::Bytes | Type::Message | Type::Group)
}

fn own_wire(kind: Type) -> WireType {
    match kind {
        Type::Double | Type::Fixed64 | Type::Sfixed64 => WireType::SixtyFourBit,
        Type::Float | Type::Fixed32 | Type::Sfixed32 => WireType::ThirtyTwoBit,
        Type::String | Type::Bytes | Type::Message => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

/// The bytes of one field, whatever it is.
fn take(wire: WireType, bytes: &mut Bytes) -> Option<Bytes> {
    let length = match wire {
        WireType::Varint => {
            decode_varint(bytes).ok()?;
            0
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => usize::try_from(decode_varint(bytes).ok()?).ok()?,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    (length <= bytes.remaining()).then(|| bytes.split_to(length))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "protobuf encodes numbers of 32 bits in 64"
)]
fn value(field: &FieldDescriptorProto, wire: WireType, bytes: &mut Bytes, depth: usize) -> Option<Value> {
    let kind = field.r#type();
    if wire != own_wire(kind) {
        return None;
    }
    Some(match wire {
        WireType::LengthDelimited => {
            let data = take(wire, bytes)?;
            match kind {
                Type::String => String::from_utf8(data.into()).ok()?.into(),
                Type::Bytes => BASE64.encode(data).into(),
                _ => object(field.type_name(), data, depth + 1)?,
            }
        }
        WireType::SixtyFourBit => match kind {
            Type::Double => bytes.try_get_f64_le().ok()?.into(),
            Type::Sfixed64 => bytes.try_get_i64_le().ok()?.to_string().into(),
            _ => bytes.try_get_u64_le().ok()?.to_string().into(),
        },
        WireType::ThirtyTwoBit => match kind {
            Type::Float => bytes.try_get_f32_le().ok()?.into(),
            Type::Sfixed32 => bytes.try_get_i32_le().ok()?.into(),
            _ => bytes.try_get_u32_le().ok()?.into(),
        },
        _ => {
            let number = decode_varint(bytes).ok()?;
            let zigzag = (number >> 1) as i64 ^ -((number & 1) as i64);
            match kind {
                Type::Bool => (number != 0).into(),
                Type::Enum => enum_value(field.type_name(), number as i32),
                Type::Int32 => (number as i32).into(),
                Type::Sint32 => (zigzag as i32).into(),
                Type::Uint32 => (number as u32).into(),
                Type::Int64 => (number as i64).to_string().into(),
                Type::Sint64 => zigzag.to_string().into(),
                _ => number.to_string().into(),
            }
        }
    })
}

/// Its name; the number where it has none.
fn enum_value(name: &str, number: i32) -> Value {
    let known = TYPES.enums.get(name).and_then(|one| one.value.iter().find(|v| v.number() == number));
    known.map_or_else(|| number.into(), |known| known.name().into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::to_json;
    use crate::{errdefs, pb};

    #[test]
    fn ops_have_the_references_names() {
        let exec = pb::ExecOp {
            meta: Some(pb::Meta { args: vec!["a".into(), "b".into()], ..Default::default() }),
            mounts: vec![pb::Mount {
                input: -1,
                dest: "/".into(),
                mount_type: pb::MountType::Cache.into(),
                cache_opt: Some(pb::CacheOpt { id: "c".into(), sharing: 1 }),
                result_id: "r".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let platform = pb::Platform { os: "linux".into(), os_version: "1".into(), ..Default::default() };
        let op = pb::Op { op: Some(pb::op::Op::Exec(exec)), platform: Some(platform), ..Default::default() };
        let solve = errdefs::Solve {
            input_ids: vec!["x".into(), String::new()],
            op: Some(op),
            description: [("k".to_owned(), String::new())].into(),
            subject: Some(errdefs::solve::Subject::File(errdefs::FileAction { index: 3 })),
            ..Default::default()
        };
        let mount = json!({
            "input": "-1",
            "dest": "/",
            "mountType": "CACHE",
            "cacheOpt": {"ID": "c", "sharing": "PRIVATE"},
            "resultID": "r",
        });
        let expected = json!({
            "inputIDs": ["x", ""],
            "op": {
                "exec": {"meta": {"args": ["a", "b"]}, "mounts": [mount]},
                "platform": {"OS": "linux", "OSVersion": "1"},
            },
            "file": {"index": "3"},
            "description": {"k": ""},
        });
        assert_eq!(to_json("errdefs.Solve", &solve).unwrap(), expected);
    }

    #[test]
    fn bytes_numbers_and_unknown_values_are_written() {
        let mkfile =
            pb::FileActionMkFile { data: "hi".into(), mode: -1, timestamp: i64::MIN, ..Default::default() };
        let expected = json!({"data": "aGk=", "mode": -1, "timestamp": i64::MIN.to_string()});
        assert_eq!(to_json("pb.FileActionMkFile", &mkfile).unwrap(), expected);
        let exec = pb::ExecOp { network: 77, ..Default::default() };
        assert_eq!(to_json("pb.ExecOp", &exec).unwrap(), json!({"network": 77}));
        assert_eq!(to_json("pb.Nothing", &exec), None);
        let codes = pb::Meta { valid_exit_codes: vec![1, 300], ..Default::default() };
        assert_eq!(to_json("pb.Meta", &codes).unwrap(), json!({"validExitCodes": [1, 300]}));
    }
}
