//! Tables with types, and how keys and values become bytes. These encodings are on disk: they never change; a record
//! that needs another form goes to a table of another name.
//!
//! ```text
//! string, digest   its bytes, 00 as 00 FF, then 00 01      (so that the order is that of the strings,
//! u64              8 bytes, big endian                       and no key is the prefix of another)
//! u8               1 byte
//! tuple            its components one after the other
//! value Json<T>    JSON without spaces; String, Vec<u8>: as they are; u64: 8 bytes, big endian; (): nothing
//! ```

use std::marker::PhantomData;

use kiln_oci::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// A table of the metadata file: a name, and the types of its keys and values.
pub struct Table<K, V> {
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Table<K, V> {
    /// The table called `name`. A name belongs to one pair of types for ever.
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The table's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<K, V: Value> Table<K, V> {
    pub(super) fn decode_value(&self, key: &[u8], value: &[u8]) -> Result<V, Error> {
        V::from_value(value).ok_or_else(|| self.bad(key))
    }

    fn bad(&self, key: &[u8]) -> Error {
        Error::BadRecord { table: self.name, key: key.escape_ascii().to_string() }
    }
}

impl<K: Decode, V: Value> Table<K, V> {
    pub(super) fn decode(&self, key: &[u8], value: &[u8]) -> Result<(K, V), Error> {
        let mut rest = key;
        let decoded = K::decode(&mut rest).filter(|_| rest.is_empty()).ok_or_else(|| self.bad(key))?;
        Ok((decoded, self.decode_value(key, value)?))
    }
}

/// A key, or the first components of a key, as bytes.
pub trait Encode {
    /// Appends the encoding to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// The encoding alone.
    fn to_key(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        self.encode(&mut out);
        out
    }
}

/// A key from bytes.
pub trait Decode: Sized {
    /// Takes one encoded value from the front of `input`; `None` when the bytes are not one.
    fn decode(input: &mut &[u8]) -> Option<Self>;
}

impl Encode for () {
    fn encode(&self, _: &mut Vec<u8>) {}
}

impl Decode for () {
    fn decode(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl Encode for str {
    fn encode(&self, out: &mut Vec<u8>) {
        for byte in self.bytes() {
            out.push(byte);
            if byte == 0 {
                out.push(0xff);
            }
        }
        out.extend([0, 1]);
    }
}

impl Encode for String {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Decode for String {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        let mut bytes = Vec::new();
        loop {
            let (&byte, rest) = input.split_first()?;
            *input = rest;
            if byte != 0 {
                bytes.push(byte);
                continue;
            }
            let (&mark, rest) = input.split_first()?;
            *input = rest;
            match mark {
                0xff => bytes.push(0),
                1 => return Self::from_utf8(bytes).ok(),
                _ => return None,
            }
        }
    }
}

impl Encode for Digest {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Decode for Digest {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        Self::parse(&String::decode(input)?).ok()
    }
}

impl Encode for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_be_bytes());
    }
}

impl Decode for u64 {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        let (bytes, rest) = input.split_first_chunk::<8>()?;
        *input = rest;
        Some(Self::from_be_bytes(*bytes))
    }
}

impl Encode for u8 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
}

impl Decode for u8 {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        Some(byte)
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl<A: Encode, B: Encode> Encode for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
}

impl<A: Decode, B: Decode> Decode for (A, B) {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        Some((A::decode(input)?, B::decode(input)?))
    }
}

impl<A: Encode, B: Encode, C: Encode> Encode for (A, B, C) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
        self.2.encode(out);
    }
}

impl<A: Decode, B: Decode, C: Decode> Decode for (A, B, C) {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        Some((A::decode(input)?, B::decode(input)?, C::decode(input)?))
    }
}

/// A record's value as bytes.
pub trait Value: Sized {
    /// The encoding.
    fn to_value(&self) -> Vec<u8>;
    /// The value, or `None` when the bytes are not one.
    fn from_value(bytes: &[u8]) -> Option<Self>;
}

impl Value for () {
    fn to_value(&self) -> Vec<u8> {
        Vec::new()
    }

    fn from_value(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
}

impl Value for Vec<u8> {
    fn to_value(&self) -> Vec<u8> {
        self.clone()
    }

    fn from_value(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

impl Value for String {
    fn to_value(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_value(bytes: &[u8]) -> Option<Self> {
        Self::from_utf8(bytes.to_vec()).ok()
    }
}

impl Value for u64 {
    fn to_value(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn from_value(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// A value kept as JSON: records that people may want to read and that grow fields over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> Value for Json<T> {
    fn to_value(&self) -> Vec<u8> {
        // Serialising a plain record to memory fails only for maps with keys that are no strings, which no record has;
        // an empty value is then found as a bad record.
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    fn from_value(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: Encode + Decode + PartialEq + std::fmt::Debug>(value: &T, bytes: &[u8]) {
        assert_eq!(value.to_key(), bytes);
        let mut rest = bytes;
        assert_eq!(T::decode(&mut rest).as_ref(), Some(value));
        assert!(rest.is_empty());
    }

    #[test]
    fn encodings_are_pinned() {
        round(&"ab".to_owned(), b"ab\0\x01");
        round(&"a\0b".to_owned(), b"a\0\xffb\0\x01");
        round(&258u64, &[0, 0, 0, 0, 0, 0, 1, 2]);
        round(&("a".to_owned(), 1u8), b"a\0\x01\x01");
        round(&("a".to_owned(), "".to_owned(), "b".to_owned()), b"a\0\x01\0\x01b\0\x01");
        assert_eq!(Json(vec![1, 2]).to_value(), b"[1,2]");
        assert_eq!(Json::<Vec<u8>>::from_value(b"[1,2]"), Some(Json(vec![1, 2])));
    }

    #[test]
    fn order_is_the_strings_order() {
        let key = |a: &str, b: &str| (a.to_owned(), b.to_owned()).to_key();
        assert!(key("a", "z") < key("a\0", "a"));
        assert!(key("a", "z") < key("ab", "a"));
        assert!(key("a\0", "z") < key("ab", "a"));
    }

    #[test]
    fn damaged_keys_are_none() {
        for bytes in [&b""[..], b"ab", b"ab\0", b"ab\0\x07", b"\xff\0\x01"] {
            let mut rest = bytes;
            assert_eq!(String::decode(&mut rest), None, "{bytes:?}");
        }
    }
}
