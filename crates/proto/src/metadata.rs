//! What a definition says of an op beside the op.
//!
//! Written by hand since there is one for each op: as `prost` would make it, it takes a kilobyte and a dozen allocations.

use bytestring::ByteString;
use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{
    self, DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len, message,
};

use crate::SmallMap;
use crate::pb::{ExportCache, LinuxResources, ProgressGroup};

/// The most entries that the maps of a message from the wire may have; BuildKit knows about a hundred capabilities.
const MAX_ENTRIES: usize = 256;

const IGNORE_CACHE: u32 = 1;
const DESCRIPTION: u32 = 2;
const EXPORT_CACHE: u32 = 4;
const CAPS: u32 = 5;
const PROGRESS_GROUP: u32 = 6;
const LINUX_RESOURCES: u32 = 7;

/// The message `pb.OpMetadata`. It is not part of an op's digest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OpMetadata {
    /// Do it anew even if the result is known.
    pub ignore_cache: bool,
    /// For people; `llb.customname` is the name that progress shows.
    pub description: SmallMap<ByteString>,
    /// Whether cache exporters take the result along.
    pub export_cache: Option<ExportCache>,
    /// What a daemon must be capable of.
    pub caps: SmallMap<bool>,
    /// Shows several ops as one.
    pub progress_group: Option<Box<ProgressGroup>>,
    /// Limits of memory and processors.
    pub linux_resources: Option<Box<LinuxResources>>,
}

/// A value of a map: its bytes after the key of its field.
trait MapValue: Clone + Default {
    const WIRE: WireType;
    fn body_len(&self) -> usize;
    fn put(&self, buf: &mut impl BufMut);
    fn merge(&mut self, wire: WireType, buf: &mut impl Buf, ctx: DecodeContext) -> Result<(), DecodeError>;
}

impl MapValue for ByteString {
    const WIRE: WireType = WireType::LengthDelimited;

    fn body_len(&self) -> usize {
        encoded_len_varint(self.len() as u64) + self.len()
    }

    fn put(&self, buf: &mut impl BufMut) {
        encode_varint(self.len() as u64, buf);
        buf.put_slice(self.as_bytes());
    }

    fn merge(&mut self, wire: WireType, buf: &mut impl Buf, ctx: DecodeContext) -> Result<(), DecodeError> {
        let mut text = String::new();
        encoding::string::merge(wire, &mut text, buf, ctx)?;
        *self = text.into();
        Ok(())
    }
}

impl MapValue for bool {
    const WIRE: WireType = WireType::Varint;

    fn body_len(&self) -> usize {
        1
    }

    fn put(&self, buf: &mut impl BufMut) {
        buf.put_u8(u8::from(*self));
    }

    fn merge(&mut self, wire: WireType, buf: &mut impl Buf, ctx: DecodeContext) -> Result<(), DecodeError> {
        encoding::bool::merge(wire, self, buf, ctx)
    }
}

/// Key and value, both always written.
fn entry_len<V: MapValue>(key: &str, value: &V) -> usize {
    key_len(1) + encoded_len_varint(key.len() as u64) + key.len() + key_len(2) + value.body_len()
}

fn map_len<V: MapValue>(tag: u32, map: &SmallMap<V>) -> usize {
    let entry = |(key, value): (&str, &V)| {
        let len = entry_len(key, value);
        key_len(tag) + encoded_len_varint(len as u64) + len
    };
    map.iter().map(entry).sum()
}

fn encode_map<V: MapValue>(tag: u32, map: &SmallMap<V>, buf: &mut impl BufMut) {
    for (key, value) in map.iter() {
        encode_key(tag, WireType::LengthDelimited, buf);
        encode_varint(entry_len(key, value) as u64, buf);
        encode_key(1, WireType::LengthDelimited, buf);
        encode_varint(key.len() as u64, buf);
        buf.put_slice(key.as_bytes());
        encode_key(2, V::WIRE, buf);
        value.put(buf);
    }
}

fn merge_map<V: MapValue>(
    map: &mut SmallMap<V>,
    wire: WireType,
    buf: &mut impl Buf,
    ctx: DecodeContext,
) -> Result<(), DecodeError> {
    encoding::check_wire_type(WireType::LengthDelimited, wire)?;
    let (mut key, mut value) = (String::new(), V::default());
    let mut entry = (&mut key, &mut value);
    encoding::merge_loop(&mut entry, buf, ctx.clone(), |(key, value), buf, ctx| {
        let (tag, wire) = encoding::decode_key(buf)?;
        match tag {
            1 => encoding::string::merge(wire, key, buf, ctx),
            2 => value.merge(wire, buf, ctx),
            _ => encoding::skip_field(wire, tag, buf, ctx),
        }
    })?;
    if map.len() >= MAX_ENTRIES && map.get(&key).is_none() {
        return Err(too_many());
    }
    map.insert(key, value);
    Ok(())
}

#[expect(deprecated, reason = "for implementations of messages, of which this is one")]
fn too_many() -> DecodeError {
    DecodeError::new(format!("a map of an op's metadata has more than {MAX_ENTRIES} entries"))
}

impl prost::Message for OpMetadata {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if self.ignore_cache {
            encoding::bool::encode(IGNORE_CACHE, &self.ignore_cache, buf);
        }
        encode_map(DESCRIPTION, &self.description, buf);
        if let Some(export) = &self.export_cache {
            message::encode(EXPORT_CACHE, export, buf);
        }
        encode_map(CAPS, &self.caps, buf);
        if let Some(group) = &self.progress_group {
            message::encode(PROGRESS_GROUP, &**group, buf);
        }
        if let Some(resources) = &self.linux_resources {
            message::encode(LINUX_RESOURCES, &**resources, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            IGNORE_CACHE => encoding::bool::merge(wire, &mut self.ignore_cache, buf, ctx),
            DESCRIPTION => merge_map(&mut self.description, wire, buf, ctx),
            EXPORT_CACHE => message::merge(wire, self.export_cache.get_or_insert_default(), buf, ctx),
            CAPS => merge_map(&mut self.caps, wire, buf, ctx),
            PROGRESS_GROUP => {
                message::merge(wire, &mut **self.progress_group.get_or_insert_default(), buf, ctx)
            }
            LINUX_RESOURCES => {
                message::merge(wire, &mut **self.linux_resources.get_or_insert_default(), buf, ctx)
            }
            _ => encoding::skip_field(wire, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let mut len = map_len(DESCRIPTION, &self.description) + map_len(CAPS, &self.caps);
        if self.ignore_cache {
            len += encoding::bool::encoded_len(IGNORE_CACHE, &self.ignore_cache);
        }
        len += self.export_cache.as_ref().map_or(0, |m| message::encoded_len(EXPORT_CACHE, m));
        len += self.progress_group.as_ref().map_or(0, |m| message::encoded_len(PROGRESS_GROUP, &**m));
        len + self.linux_resources.as_ref().map_or(0, |m| message::encoded_len(LINUX_RESOURCES, &**m))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;

    use super::*;

    /// The message as `prost` makes it.
    #[derive(Clone, PartialEq, Message)]
    struct Made {
        #[prost(bool, tag = "1")]
        ignore_cache: bool,
        #[prost(btree_map = "string, string", tag = "2")]
        description: BTreeMap<String, String>,
        #[prost(message, optional, tag = "4")]
        export_cache: Option<ExportCache>,
        #[prost(btree_map = "string, bool", tag = "5")]
        caps: BTreeMap<String, bool>,
        #[prost(message, optional, tag = "6")]
        progress_group: Option<ProgressGroup>,
        #[prost(message, optional, tag = "7")]
        linux_resources: Option<LinuxResources>,
        #[prost(string, tag = "99")]
        unknown: String,
    }

    fn full() -> Made {
        Made {
            ignore_cache: true,
            description: [("b".into(), "2".repeat(200)), ("a".into(), "1".into())].into(),
            export_cache: Some(ExportCache { value: true }),
            caps: [("exec.meta.base".into(), true), ("x".into(), true)].into(),
            progress_group: Some(ProgressGroup { id: "i".into(), name: "n".into(), weak: true }),
            linux_resources: Some(LinuxResources { memory: 7, ..LinuxResources::default() }),
            unknown: String::new(),
        }
    }

    #[test]
    fn the_bytes_are_those_that_prost_makes() {
        let bytes = full().encode_to_vec();
        let read = OpMetadata::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.description.get("a").map(|text| &**text), Some("1"));
        assert_eq!(read.progress_group.as_deref(), full().progress_group.as_ref());
        assert_eq!((read.encode_to_vec(), read.encoded_len()), (bytes.clone(), bytes.len()));
        assert_eq!(OpMetadata::default().encoded_len(), 0);
    }

    #[test]
    fn what_is_unknown_is_skipped_and_what_comes_twice_is_merged() {
        let mut bytes = Made { unknown: "?".into(), ..full() }.encode_to_vec();
        let more = Made { description: [("a".into(), String::new())].into(), ..Made::default() };
        bytes.extend(more.encode_to_vec());
        let read = OpMetadata::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.description.get("a").map(|text| &**text), Some(""));
        assert_eq!(read.description.len(), 2);
        // Empty values are written, as BuildKit does.
        let again = Made::decode(read.encode_to_vec().as_slice()).unwrap();
        assert_eq!(again.description.get("a").map(|text| &**text), Some(""));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        for bytes in
            [&b"\x12\x05\x0a\x01"[..], b"\x12\x03\x0a\x01\xff", b"\x10\x01", b"\x2a\x02\x10\x80", b"\x12"]
        {
            assert!(OpMetadata::decode(bytes).is_err(), "{bytes:?}");
        }
        let most: BTreeMap<_, _> = (0..MAX_ENTRIES).map(|n| (n.to_string(), true)).collect();
        let mut bytes = Made { caps: most.clone(), ..Made::default() }.encode_to_vec();
        bytes.extend(Made { caps: most, ..Made::default() }.encode_to_vec());
        assert_eq!(OpMetadata::decode(bytes.as_slice()).unwrap().caps.len(), MAX_ENTRIES, "none is new");
        let caps = (0..=MAX_ENTRIES).map(|n| (n.to_string(), true)).collect();
        let bytes = Made { caps, ..Made::default() }.encode_to_vec();
        assert!(OpMetadata::decode(bytes.as_slice()).unwrap_err().to_string().contains("entries"));
    }
}
