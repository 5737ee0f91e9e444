//! Definitions: ops, and what is said about them.
//!
//! Written by hand since there is much for each op: as `prost` would make them, keys take memory of their own and two entries of
//! trees each.

use bytes::Bytes;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType, message};
use prost::{DecodeError, Message};

use crate::packages::pb::SourceInfo;
use crate::{ByDigest, Locations, OpMetadata};

const DEF: u32 = 1;
const METADATA: u32 = 2;
const SOURCE: u32 = 3;
const LOCATIONS: u32 = 1;
const INFOS: u32 = 2;

/// The message `pb.Definition`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Definition {
    /// Encoded ops in topological order; the last one has a single input, which is the edge that the definition stands for.
    pub def: Vec<Bytes>,
    /// What is said about the ops.
    pub metadata: ByDigest<OpMetadata>,
    /// Which files they come from.
    pub source: Option<Source>,
}

/// The message `pb.Source`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Source {
    /// Where ops stand in the files.
    pub locations: ByDigest<Locations>,
    /// The files.
    pub infos: Vec<SourceInfo>,
}

impl Message for Definition {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::bytes::encode_repeated(DEF, &self.def, buf);
        self.metadata.encode(METADATA, buf);
        if let Some(source) = &self.source {
            message::encode(SOURCE, source, buf);
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
            DEF => encoding::bytes::merge_repeated(wire, &mut self.def, buf, ctx),
            METADATA => self.metadata.decode_entry(wire, buf, ctx),
            SOURCE => message::merge(wire, self.source.get_or_insert_default(), buf, ctx),
            _ => encoding::skip_field(wire, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        encoding::bytes::encoded_len_repeated(DEF, &self.def)
            + self.metadata.encoded_len(METADATA)
            + self.source.as_ref().map_or(0, |source| message::encoded_len(SOURCE, source))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for Source {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.locations.encode(LOCATIONS, buf);
        message::encode_repeated(INFOS, &self.infos, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            LOCATIONS => self.locations.decode_entry(wire, buf, ctx),
            INFOS => message::merge_repeated(wire, &mut self.infos, buf, ctx),
            _ => encoding::skip_field(wire, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        self.locations.encoded_len(LOCATIONS) + message::encoded_len_repeated(INFOS, &self.infos)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Location;

    /// The messages as `prost` makes them.
    #[derive(Clone, PartialEq, Message)]
    struct Made {
        #[prost(bytes = "bytes", repeated, tag = "1")]
        def: Vec<Bytes>,
        #[prost(btree_map = "string, message", tag = "2")]
        metadata: BTreeMap<String, OpMetadata>,
        #[prost(message, optional, tag = "3")]
        source: Option<MadeSource>,
        #[prost(string, tag = "99")]
        unknown: String,
    }

    #[derive(Clone, PartialEq, Message)]
    struct MadeSource {
        #[prost(btree_map = "string, message", tag = "1")]
        locations: BTreeMap<String, Locations>,
        #[prost(message, repeated, tag = "2")]
        infos: Vec<SourceInfo>,
    }

    fn full() -> Made {
        let metadata = |name: &str| OpMetadata {
            description: [("llb.customname", name.into())].into(),
            ..OpMetadata::default()
        };
        let place = Locations { locations: [Location { source_index: 1, ..Location::default() }].into() };
        let inner = Definition { def: vec!["x".into()], ..Definition::default() };
        let info = SourceInfo { filename: "f".into(), definition: Some(inner), ..SourceInfo::default() };
        Made {
            def: vec!["one".into(), Bytes::new(), "two".into()],
            metadata: [("a".into(), metadata("1")), (format!("sha256:{}", "0f".repeat(32)), metadata("2"))]
                .into(),
            source: Some(MadeSource {
                locations: [("b".into(), place)].into(),
                infos: vec![info, SourceInfo::default()],
            }),
            unknown: String::new(),
        }
    }

    #[test]
    fn the_bytes_are_those_that_prost_makes() {
        let bytes = full().encode_to_vec();
        let read = Definition::decode(bytes.as_slice()).unwrap();
        assert_eq!((read.def.len(), read.metadata.len()), (3, 2));
        assert_eq!((read.encode_to_vec(), read.encoded_len()), (bytes.clone(), bytes.len()));
        assert_eq!(Definition::default().encoded_len(), 0);
    }

    #[test]
    fn what_is_unknown_is_skipped_and_the_later_counts() {
        let mut bytes = Made { unknown: "?".into(), ..full() }.encode_to_vec();
        let metadata = [("a".into(), OpMetadata { ignore_cache: true, ..OpMetadata::default() })].into();
        bytes.extend(Made { metadata, ..Made::default() }.encode_to_vec());
        let read = Definition::decode(bytes.as_slice()).unwrap();
        let first = read.metadata.get("a").unwrap();
        assert!(first.ignore_cache && first.description.is_empty());
        assert_eq!(read.metadata.len(), 2);
    }

    /// BuildKit's clients take an entry without a value for a pointer to nothing, and panic.
    #[test]
    fn an_entry_about_which_nothing_is_said_has_a_value() {
        let source = Source { locations: [("a", Locations::default())].into(), infos: Vec::new() };
        assert_eq!(source.encode_to_vec(), b"\x0a\x05\x0a\x01a\x12\x00");
        let definition =
            Definition { metadata: [("a", OpMetadata::default())].into(), ..Definition::default() };
        assert_eq!(definition.encode_to_vec(), b"\x12\x05\x0a\x01a\x12\x00");
        assert_eq!(Definition::decode(&b"\x12\x03\x0a\x01a"[..]).unwrap(), definition);
    }

    #[test]
    fn hostile_bytes_are_errors() {
        for bytes in
            [&b"\x12\x05\x0a\x01"[..], b"\x12\x03\x0a\x01\xff", b"\x10\x01", b"\x1a\x02\x0a\x10", b"\x0a"]
        {
            assert!(Definition::decode(bytes).is_err(), "{bytes:?}");
        }
        // Files whose definitions have files.
        let mut nested = Definition::default();
        for _ in 0..200 {
            let info = SourceInfo { definition: Some(nested), ..SourceInfo::default() };
            nested = Definition {
                source: Some(Source { infos: vec![info], ..Source::default() }),
                ..Definition::default()
            };
        }
        let bytes = nested.encode_to_vec();
        assert!(Definition::decode(bytes.as_slice()).unwrap_err().to_string().contains("recursion limit"));
    }
}
