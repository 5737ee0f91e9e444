//! Where ops stand in the files that they come from.
//!
//! Written by hand since there is one for each op: mostly one line or a few in one file, which take no memory of their own here.

use std::ops::RangeInclusive;

use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType, message};
use prost::{DecodeError, Message};
use smallvec::SmallVec;

use crate::packages::pb::{Position, Range};

const LOCATIONS: u32 = 1;
const SOURCE_INDEX: u32 = 1;
const RANGES: u32 = 2;

/// The message `pb.Locations`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Locations {
    /// The places, each in one of the files.
    pub locations: SmallVec<[Location; 1]>,
}

/// The message `pb.Location`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Location {
    /// Into [`crate::Source::infos`].
    pub source_index: i32,
    /// Where in the file.
    pub ranges: Ranges,
}

/// Parts of a file.
#[derive(Debug, Clone)]
pub enum Ranges {
    /// Whole lines from 1, each a range of its own.
    Lines(RangeInclusive<u32>),
    /// Others.
    Listed(Vec<Range>),
}

impl Ranges {
    /// All of them, as messages.
    pub fn iter(&self) -> impl Iterator<Item = Range> {
        let (lines, listed) = match self {
            Self::Lines(lines) => (Some(lines.clone()), &[][..]),
            Self::Listed(listed) => (None, listed.as_slice()),
        };
        let line = |line| {
            let position = Some(Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
            Range { start: position, end: position }
        };
        lines.into_iter().flatten().map(line).chain(listed.iter().copied())
    }

    /// The same as a list.
    #[must_use]
    pub fn to_vec(&self) -> Vec<Range> {
        self.iter().collect()
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl PartialEq for Ranges {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl From<Vec<Range>> for Ranges {
    fn from(ranges: Vec<Range>) -> Self {
        Self::Listed(ranges)
    }
}

impl From<RangeInclusive<u32>> for Ranges {
    fn from(lines: RangeInclusive<u32>) -> Self {
        Self::Lines(lines)
    }
}

impl Message for Locations {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.locations.iter().for_each(|location| message::encode(LOCATIONS, location, buf));
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != LOCATIONS {
            return encoding::skip_field(wire, tag, buf, ctx);
        }
        let mut location = Location::default();
        message::merge(wire, &mut location, buf, ctx)?;
        self.locations.push(location);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.locations.iter().map(|location| message::encoded_len(LOCATIONS, location)).sum()
    }

    fn clear(&mut self) {
        self.locations.clear();
    }
}

impl Message for Location {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if self.source_index != 0 {
            encoding::int32::encode(SOURCE_INDEX, &self.source_index, buf);
        }
        self.ranges.iter().for_each(|range| message::encode(RANGES, &range, buf));
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            SOURCE_INDEX => encoding::int32::merge(wire, &mut self.source_index, buf, ctx),
            RANGES => {
                let mut range = Range::default();
                message::merge(wire, &mut range, buf, ctx)?;
                match &mut self.ranges {
                    Ranges::Listed(listed) => listed.push(range),
                    Ranges::Lines(_) => {
                        let mut listed = self.ranges.to_vec();
                        listed.push(range);
                        self.ranges = listed.into();
                    }
                }
                Ok(())
            }
            _ => encoding::skip_field(wire, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let index = match self.source_index {
            0 => 0,
            index => encoding::int32::encoded_len(SOURCE_INDEX, &index),
        };
        index + self.ranges.iter().map(|range| message::encoded_len(RANGES, &range)).sum::<usize>()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages as `prost` makes them.
    #[derive(Clone, PartialEq, Message)]
    struct Made {
        #[prost(message, repeated, tag = "1")]
        locations: Vec<MadeLocation>,
        #[prost(string, tag = "99")]
        unknown: String,
    }

    #[derive(Clone, PartialEq, Message)]
    struct MadeLocation {
        #[prost(int32, tag = "1")]
        source_index: i32,
        #[prost(message, repeated, tag = "2")]
        ranges: Vec<Range>,
    }

    fn line(line: i32) -> Range {
        let position = Some(Position { line, character: 0 });
        Range { start: position, end: position }
    }

    #[test]
    fn the_bytes_are_those_that_prost_makes() {
        let place = |source_index, ranges| MadeLocation { source_index, ranges };
        let odd = Range { start: Some(Position { line: 300, character: 7 }), end: None };
        let made = Made {
            locations: vec![
                place(-1, vec![line(2), line(3)]),
                place(0, vec![odd, Range::default()]),
                place(0, vec![]),
            ],
            unknown: String::new(),
        };
        let bytes = made.encode_to_vec();
        let read = Locations::decode(bytes.as_slice()).unwrap();
        assert_eq!((read.encode_to_vec(), read.encoded_len()), (bytes.clone(), bytes.len()));
        let with_more = Made { unknown: "?".into(), ..made }.encode_to_vec();
        assert_eq!(Locations::decode(with_more.as_slice()).unwrap(), read);
        assert_eq!(Locations::default().encoded_len(), 0);

        let mut lines = Location { source_index: -1, ranges: (2..=3).into() };
        assert_eq!(read.locations[0], lines);
        assert_eq!(lines.encode_to_vec(), read.locations[0].encode_to_vec());
        lines
            .merge(Location { source_index: 0, ranges: vec![line(9)].into() }.encode_to_vec().as_slice())
            .unwrap();
        assert_eq!(lines.ranges.to_vec(), [line(2), line(3), line(9)]);
    }

    #[test]
    fn hostile_bytes_are_errors() {
        for bytes in [&b"\x0a\x02\x08"[..], b"\x0a\x02\x12\x05", b"\x08\x01", b"\x0a\x03\x12\x01\x0a"] {
            assert!(Locations::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn most_take_no_memory_of_their_own() {
        let place = Location { source_index: 0, ranges: (1..=2).into() };
        let places = Locations { locations: [place].into() };
        assert!(!places.locations.spilled());
        assert!(size_of::<Locations>() <= 40, "{}", size_of::<Locations>());
    }
}
