//! Ops as bytes.
//!
//! Digests depend on every byte, so all encoders must agree. Go's puts fields in the order of their numbers but the
//! members of a `oneof` last, maps sorted by key with key and value always present. prost sorts oneofs in by number and
//! leaves default keys and values of maps out: [`op`] mends both.
//!
//! ```text
//! inputs(1)* platform(10)? constraints(11)? exec(2)|source(3)|file(4)|build(5)|merge(6)|diff(7)|passthrough(8)
//! ```

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use kiln_proto::pb;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// Encodes an op; the digest of the bytes is the vertex' digest.
pub fn op(mut op: pb::Op) -> Bytes {
    let inner = op.op.take();
    let mut out = BytesMut::with_capacity(op.encoded_len());
    op.encode_raw(&mut out);
    if let Some(inner) = inner {
        kind(&mut out, &inner);
    }
    out.freeze()
}

/// Appends what kind of op it is, which goes last.
pub(crate) fn kind(out: &mut BytesMut, inner: &pb::op::Op) {
    match inner {
        pb::op::Op::Source(of) => source(out, &of.identifier, &of.attrs),
        pb::op::Op::Build(build) => nested(out, 5, |out| build_op(out, build)),
        other => {
            out.reserve(other.encoded_len());
            other.encode(out);
        }
    }
}

/// A length-delimited field.
pub(crate) fn field(out: &mut BytesMut, number: u32, value: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.put_slice(value);
}

/// A message whose length is known when it is written.
pub(crate) fn nested(out: &mut BytesMut, number: u32, body: impl FnOnce(&mut BytesMut)) {
    encode_key(number, WireType::LengthDelimited, out);
    let start = out.len() + 1;
    out.put_u8(0);
    body(out);
    let length = out.len() - start;
    let more = encoded_len_varint(length as u64) - 1;
    if more > 0 {
        out.put_bytes(0, more);
        out.copy_within(start..start + length, start + more);
    }
    encode_varint(length as u64, &mut &mut out[start - 1..start + more]);
}

/// A string that is left out when it is empty.
pub(crate) fn string(out: &mut BytesMut, number: u32, value: &str) {
    if !value.is_empty() {
        field(out, number, value.as_bytes());
    }
}

/// A number that is left out when it is 0.
pub(crate) fn number(out: &mut BytesMut, number: u32, value: i64) {
    if value != 0 {
        encode_key(number, WireType::Varint, out);
        encode_varint(value as u64, out);
    }
}

/// A map entry: key is field 1, value field 2, both always written.
fn entry(out: &mut BytesMut, number: u32, key: &str, value: &[u8]) {
    nested(out, number, |out| {
        field(out, 1, key.as_bytes());
        field(out, 2, value);
    });
}

fn string_map(out: &mut BytesMut, number: u32, map: &BTreeMap<String, String>) {
    for (key, value) in map {
        entry(out, number, key, value.as_bytes());
    }
}

/// A source, as [`kind`] writes it.
pub(crate) fn source(out: &mut BytesMut, identifier: &str, attrs: &BTreeMap<String, String>) {
    nested(out, 3, |out| {
        string(out, 1, identifier);
        string_map(out, 2, attrs);
    });
}

fn build_op(out: &mut BytesMut, build: &pb::BuildOp) {
    number(out, 1, build.builder);
    for (key, input) in &build.inputs {
        entry(out, 2, key, &input.encode_to_vec());
    }
    if let Some(def) = &build.def {
        field(out, 3, &def.encode_to_vec());
    }
    string_map(out, 4, &build.attrs);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oneof_is_last_and_map_entries_are_whole() {
        let source = pb::SourceOp {
            identifier: "x".into(),
            attrs: [("b".to_owned(), String::new()), ("a".to_owned(), "1".to_owned())].into(),
        };
        let op = pb::Op {
            inputs: vec![pb::Input { digest: "d".into(), index: 1 }],
            platform: None,
            constraints: Some(pb::WorkerConstraints::default()),
            op: Some(pb::op::Op::Source(source)),
        };
        assert_eq!(super::op(op).as_ref(), b"\x0a\x05\x0a\x01d\x10\x01\x5a\x00\x1a\x12\x0a\x01x\x12\x06\x0a\x01a\x12\x011\x12\x05\x0a\x01b\x12\x00");
        let build = pb::BuildOp {
            builder: -1,
            inputs: [("k".to_owned(), pb::BuildInput { input: 0 })].into(),
            ..pb::BuildOp::default()
        };
        let op = pb::Op { op: Some(pb::op::Op::Build(build)), ..pb::Op::default() };
        assert_eq!(
            super::op(op).as_ref(),
            b"\x2a\x12\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12\x05\x0a\x01k\x12\x00"
        );
    }

    #[test]
    fn lengths_of_nested_messages() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let (mut nested, mut plain) = (BytesMut::from("before"), BytesMut::from("before"));
            super::nested(&mut nested, 7, |out| out.put_bytes(b'x', length));
            field(&mut plain, 7, &vec![b'x'; length]);
            assert_eq!(nested, plain, "{length}");
        }
    }

    #[test]
    fn decodes_to_the_same() {
        let exec = pb::ExecOp {
            meta: Some(pb::Meta { args: vec!["a".into()], ..pb::Meta::default() }),
            ..pb::ExecOp::default()
        };
        let op = pb::Op { op: Some(pb::op::Op::Exec(exec)), ..pb::Op::default() };
        assert_eq!(pb::Op::decode(super::op(op.clone())).unwrap(), op);
    }
}
