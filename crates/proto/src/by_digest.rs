//! Maps by digest.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::sync::OnceLock;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{
    self, DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len, message,
};
use prost::{DecodeError, Message};

const SHA256: &str = "sha256:";
/// Bytes of a SHA-256 as text.
const SHA256_LEN: usize = SHA256.len() + 64;

/// The key of a [`ByDigest`]: the text of a digest, or what a peer says is one. Those of SHA-256 take no memory of their own.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestKey(Repr);

#[derive(Clone, PartialEq, Eq)]
enum Repr {
    Other(Box<str>),
    Sha256([u8; 32]),
}

impl DigestKey {
    fn len(&self) -> usize {
        match &self.0 {
            Repr::Other(text) => text.len(),
            Repr::Sha256(_) => SHA256_LEN,
        }
    }

    /// Hands on the text, which is not kept.
    pub fn with_text<T>(&self, take: impl FnOnce(&str) -> T) -> T {
        match &self.0 {
            Repr::Other(text) => take(text),
            Repr::Sha256(value) => {
                let mut text = [0; SHA256_LEN];
                let (name, digits) = text.split_at_mut(SHA256.len());
                name.copy_from_slice(SHA256.as_bytes());
                // There are two digits for each byte, and all of it is ASCII.
                let done = const_hex::encode_to_slice(value, digits).is_ok();
                take(std::str::from_utf8(&text).ok().filter(|_| done).unwrap_or_default())
            }
        }
    }
}

impl From<[u8; 32]> for DigestKey {
    /// The key of the SHA-256 with this value.
    fn from(sha256: [u8; 32]) -> Self {
        Self(Repr::Sha256(sha256))
    }
}

impl From<&str> for DigestKey {
    fn from(text: &str) -> Self {
        let lower = |digits: &&str| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let value =
            text.strip_prefix(SHA256).filter(lower).and_then(|hex| const_hex::decode_to_array(hex).ok());
        Self(value.map_or_else(|| Repr::Other(text.into()), Repr::Sha256))
    }
}

impl From<String> for DigestKey {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl Hash for DigestKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Repr::Other(text) => state.write(text.as_bytes()),
            Repr::Sha256(value) => state.write(value),
        }
    }
}

impl fmt::Display for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.pad(text))
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| fmt::Debug::fmt(text, f))
    }
}

/// A map by digest, in the order in which keys came; `map<string, V>` on the wire. Of what is said twice about a key the later
/// counts.
///
/// Keys are found by way of an index, which is made when one is looked for: a definition that is only passed on has none.
#[derive(Clone)]
pub struct ByDigest<V> {
    entries: Vec<(DigestKey, V)>,
    index: OnceLock<Box<Index>>,
}

/// Places among the entries.
#[derive(Clone)]
struct Index {
    places: HashTable<u32>,
    hasher: RandomState,
}

impl Index {
    fn of<V>(entries: &[(DigestKey, V)]) -> Self {
        let (mut places, hasher) = (HashTable::with_capacity(entries.len()), RandomState::default());
        for (place, (key, _)) in (0..).zip(entries) {
            places.insert_unique(hasher.hash_one(key), place, |&known| hash(&hasher, entries, known));
        }
        Self { places, hasher }
    }
}

fn key<V>(entries: &[(DigestKey, V)], place: u32) -> Option<&DigestKey> {
    entries.get(place as usize).map(|(key, _)| key)
}

fn hash<V>(hasher: &RandomState, entries: &[(DigestKey, V)], place: u32) -> u64 {
    key(entries, place).map_or(0, |key| hasher.hash_one(key))
}

impl<V> ByDigest<V> {
    /// Takes entries over whose keys are all different; if they are not, it is not known which of two counts.
    #[must_use]
    pub fn of_distinct(entries: Vec<(DigestKey, V)>) -> Self {
        Self { entries, index: OnceLock::new() }
    }

    /// Takes entries over of which several may have one key. `merge` adds later ones to the first; these are returned by their places
    /// in `entries`, each after the place of the first.
    pub fn of_all(mut entries: Vec<(DigestKey, V)>, merge: impl Fn(&mut V, V)) -> (Self, Vec<(usize, usize)>)
    where
        V: Default,
    {
        let hasher = RandomState::default();
        let mut places = HashTable::<u32>::with_capacity(entries.len());
        let mut merged = Vec::new();
        for place in 0..entries.len() {
            let digest = &entries[place].0;
            let same = |&known: &u32| key(&entries, known) == Some(digest);
            match places.entry(hasher.hash_one(digest), same, |&known| hash(&hasher, &entries, known)) {
                Entry::Vacant(new) => drop(new.insert(place as u32)),
                Entry::Occupied(first) => {
                    let first = *first.get() as usize;
                    let later = std::mem::take(&mut entries[place].1);
                    merge(&mut entries[first].1, later);
                    merged.push((first, place));
                }
            }
        }
        if merged.is_empty() {
            return (Self { entries, index: OnceLock::from(Box::new(Index { places, hasher })) }, merged);
        }
        let mut gone = merged.iter().map(|&(_, later)| later).peekable();
        let mut place = 0..;
        entries.retain(|_| gone.next_if_eq(&place.next().unwrap_or_default()).is_none());
        (Self::of_distinct(entries), merged)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Box::new(Index::of(&self.entries)))
    }

    /// The place of a digest in the order.
    fn place(&self, digest: &DigestKey) -> Option<usize> {
        let Index { places, hasher } = self.index();
        let same = |&place: &u32| key(&self.entries, place) == Some(digest);
        places.find(hasher.hash_one(digest), same).map(|&place| place as usize)
    }

    /// What is said about a digest.
    pub fn get(&self, digest: impl Into<DigestKey>) -> Option<&V> {
        Some(&self.entries[self.place(&digest.into())?].1)
    }

    /// Says something about a digest, in place of what was said before.
    pub fn insert(&mut self, digest: impl Into<DigestKey>, value: V) {
        self.add(digest.into(), value, |known, new| *known = new);
    }

    /// What is said about a digest, to be changed; the default if nothing is.
    pub fn get_or_insert_default(&mut self, digest: impl Into<DigestKey>) -> &mut V
    where
        V: Default,
    {
        let place = self.add(digest.into(), V::default(), |_, _| {});
        &mut self.entries[place].1
    }

    /// Says something about a digest; `merge` adds it to what was said before, if anything was. The result is the place of the
    /// digest in the order.
    fn add(&mut self, digest: DigestKey, value: V, merge: impl FnOnce(&mut V, V)) -> usize {
        let entries = &mut self.entries;
        let mut index = self.index.take().unwrap_or_else(|| Box::new(Index::of(entries)));
        let Index { places, hasher } = &mut *index;
        let same = |&place: &u32| key(entries, place) == Some(&digest);
        let place = match places.entry(hasher.hash_one(&digest), same, |&place| hash(hasher, entries, place))
        {
            Entry::Occupied(known) => {
                let place = *known.get() as usize;
                merge(&mut entries[place].1, value);
                place
            }
            Entry::Vacant(new) => {
                let place = entries.len();
                new.insert(place as u32);
                entries.push((digest, value));
                place
            }
        };
        self.index = OnceLock::from(index);
        place
    }

    /// All of it.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&DigestKey, &V)> {
        self.entries.iter().map(|(digest, value)| (digest, value))
    }

    /// What is said, without saying about what.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// All of it, with digests as text and sorted by that.
    pub fn sorted(&self) -> Vec<(String, &V)> {
        let mut all: Vec<_> = self.iter().map(|(digest, value)| (digest.to_string(), value)).collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl<V> Default for ByDigest<V> {
    fn default() -> Self {
        Self::of_distinct(Vec::new())
    }
}

impl<V: fmt::Debug> fmt::Debug for ByDigest<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<V: PartialEq> PartialEq for ByDigest<V> {
    /// The order does not count.
    fn eq(&self, other: &Self) -> bool {
        let known = |(digest, value): (&DigestKey, &V)| {
            other.place(digest).is_some_and(|place| other.entries[place].1 == *value)
        };
        self.len() == other.len() && self.iter().all(known)
    }
}

impl<K: Into<DigestKey>, V> FromIterator<(K, V)> for ByDigest<V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|(digest, value)| map.insert(digest, value));
        map
    }
}

impl<K: Into<DigestKey>, V, const N: usize> From<[(K, V); N]> for ByDigest<V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

/// On the wire, as the field `tag`. Key and value are always written: decoders of others take an entry without a value for one
/// that stands for nothing at all.
impl<V: Message + Default> ByDigest<V> {
    fn entry_len(digest: &DigestKey, value: &V) -> usize {
        key_len(1) + encoded_len_varint(digest.len() as u64) + digest.len() + message::encoded_len(2, value)
    }

    pub(crate) fn encoded_len(&self, tag: u32) -> usize {
        let entry = |(digest, value)| {
            let len = Self::entry_len(digest, value);
            key_len(tag) + encoded_len_varint(len as u64) + len
        };
        self.iter().map(entry).sum()
    }

    pub(crate) fn encode(&self, tag: u32, buf: &mut impl BufMut) {
        for (digest, value) in self.iter() {
            encode_key(tag, WireType::LengthDelimited, buf);
            encode_varint(Self::entry_len(digest, value) as u64, buf);
            encode_key(1, WireType::LengthDelimited, buf);
            encode_varint(digest.len() as u64, buf);
            digest.with_text(|text| buf.put_slice(text.as_bytes()));
            message::encode(2, value, buf);
        }
    }

    pub(crate) fn decode_entry(
        &mut self,
        wire: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        encoding::check_wire_type(WireType::LengthDelimited, wire)?;
        let mut entry = (String::new(), V::default());
        encoding::merge_loop(&mut entry, buf, ctx, |(digest, value), buf, ctx| {
            let (tag, wire) = encoding::decode_key(buf)?;
            match tag {
                1 => encoding::string::merge(wire, digest, buf, ctx),
                2 => message::merge(wire, value, buf, ctx),
                _ => encoding::skip_field(wire, tag, buf, ctx),
            }
        })?;
        self.insert(entry.0, entry.1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_as_usual_is_kept_as_bytes() {
        let usual = format!("sha256:{}", "0f".repeat(32));
        let kept = |text: &str| matches!(DigestKey::from(text).0, Repr::Sha256(_));
        assert!(kept(&usual) && DigestKey::from([15; 32]) == DigestKey::from(usual.as_str()));
        let others = [
            "",
            "sha256:",
            &usual[..70],
            &format!("{usual}0"),
            &usual.to_uppercase(),
            &usual.replace('f', "F"),
        ];
        for text in others.into_iter().chain(["sha256:0x0f", "é"]) {
            assert!(!kept(text), "{text}");
            assert_eq!(DigestKey::from(text).to_string(), text);
        }
        assert_eq!(
            (DigestKey::from([15; 32]).to_string(), DigestKey::from([15; 32]).len()),
            (usual, SHA256_LEN)
        );
    }

    #[test]
    fn the_order_is_that_of_insertion_and_the_later_counts() {
        let mut map: ByDigest<u8> = [("b", 1), ("a", 2), ("b", 3)].into();
        let texts =
            |map: &ByDigest<u8>| map.iter().map(|(key, value)| format!("{key}{value}")).collect::<String>();
        assert_eq!((texts(&map).as_str(), map.get("b"), map.get("c")), ("b3a2", Some(&3), None));
        *map.get_or_insert_default("a") += 5;
        *map.get_or_insert_default([1; 32]) += 6;
        assert_eq!((map.get("a"), map.iter().last(), map.len()), (Some(&7), Some((&[1; 32].into(), &6)), 3));
        assert_eq!(map.sorted().iter().map(|entry| *entry.1).collect::<Vec<_>>(), [7, 3, 6]);
        let same = [(DigestKey::from([1; 32]), 6), ("a".into(), 7), ("b".into(), 3)];
        assert_eq!(map, same.clone().into());
        assert_eq!(ByDigest::of_distinct(same.to_vec()), map);
        assert!(map != same[1..].iter().cloned().collect() && map != [("a", 7), ("b", 3), ("c", 6)].into());
    }

    #[test]
    fn equal_keys_become_one() {
        let entries =
            |text: &str| text.bytes().zip(1..).map(|(key, n): (u8, u8)| ([key; 32].into(), n)).collect();
        let add = |known: &mut u8, new| *known += new;
        let (map, merged) = ByDigest::of_all(entries("abacba"), add);
        assert_eq!((map.len(), merged), (3, vec![(0, 2), (1, 4), (0, 5)]));
        assert_eq!(map, [([b'a'; 32], 1 + 3 + 6), ([b'b'; 32], 2 + 5), ([b'c'; 32], 4)].into());
        let (map, merged) = ByDigest::of_all(entries("abc"), add);
        assert_eq!((map.get([b'c'; 32]), map.get([b'd'; 32]), merged.len()), (Some(&3), None, 0));
    }

    #[test]
    fn what_is_found_stays_so_when_more_comes() {
        let mut map = ByDigest::of_distinct((0..100).map(|n: u8| ([n; 32].into(), n)).collect());
        assert_eq!((map.get([7; 32]), map.get([100; 32])), (Some(&7), None));
        for n in 50..150 {
            *map.get_or_insert_default([n; 32]) += 1;
        }
        let expected = |n: u8| n.min(100) % 100 + u8::from(n >= 50);
        assert!((0..150).all(|n| map.get([n; 32]) == Some(&expected(n))) && map.len() == 150);
    }
}
