//! The cache config: what a cache that travels says of its keys and results. BuildKit's format, byte for byte.
//!
//! ```text
//! {"layers":  [ {"blob": digest, "parent": index} … ],             a missing parent is 0, none is -1
//!  "records": [ {"layers": [ {"layer": index, "createdAt": time} ],        a result: a layer with all below it
//!                "chains": [ {"layers": [index …], "createdAt": time} ],   a result: these layers, lowest first
//!                "digest": digest,                                         root key of the op's cache-map digest and output
//!                "inputs": [ [ {"selector": digest, "link": index} … ] … ] } … ] }
//! ```
//!
//! For each input of an op `inputs` lists the records that lead here; one for each input is enough. Content keys are records
//! without inputs. Layers and records are sorted, so that equal caches have equal bytes.

use std::time::{Duration, SystemTime};

use kiln_oci::{Digest, Time, gojson};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// The media type of a cache config.
pub const MEDIA_TYPE: &str = kiln_oci::media_type::BUILDKIT_CACHE_CONFIG;

/// The largest cache config that is read, in bytes: enough for tens of thousands of records.
pub const MAX_CONFIG: u64 = 16 << 20;

/// A cache config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// The layers that results are made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub layers: Vec<Layer>,
    /// The keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub records: Vec<Record>,
}

/// A layer on another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its blob, which the manifest around the config describes.
    pub blob: Digest,
    /// The layer below.
    #[serde(default = "first", skip_serializing_if = "is_first", with = "parent")]
    pub parent: Option<usize>,
}

/// Go leaves out a zero, and reads it back from nothing.
fn first() -> Option<usize> {
    Some(0)
}

fn is_first(parent: &Option<usize>) -> bool {
    *parent == Some(0)
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Results that are a layer with all below it.
    #[serde(
        rename = "layers",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub results: Vec<LayerResult>,
    /// Results that are a list of layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub chains: Vec<ChainResult>,
    /// The root key of the op's cache-map digest and output, or a content key.
    pub digest: Digest,
    /// For each input what leads here.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub inputs: Vec<Vec<Input>>,
}

impl Record {
    /// A record without results.
    pub fn new(digest: Digest, inputs: Vec<Vec<Input>>) -> Self {
        Self { results: Vec::new(), chains: Vec::new(), digest, inputs }
    }
}

/// A result: a layer of [`CacheConfig::layers`] with all below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerResult {
    /// The topmost layer.
    pub layer: usize,
    /// When the result was made.
    #[serde(rename = "createdAt", default = "year_one")]
    pub created_at: Time,
}

/// A result: layers of [`CacheConfig::layers`] without what is below them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainResult {
    /// The layers, lowest first.
    #[serde(deserialize_with = "null_default")]
    pub layers: Vec<usize>,
    /// When the result was made.
    #[serde(rename = "createdAt", default = "year_one")]
    pub created_at: Time,
}

/// What leads from one record to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Input {
    /// What of the input's result is used.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "selector")]
    pub selector: Option<Digest>,
    /// The record that leads here.
    pub link: usize,
}

impl CacheConfig {
    /// Reads a config. Indices are not checked: see [`CacheGraph`](crate::CacheGraph).
    ///
    /// # Errors
    /// [`Error::Config`] for what is too large or no cache config.
    pub fn decode(json: &[u8]) -> Result<Self, Error> {
        if json.len() as u64 > MAX_CONFIG {
            return Err(Error::Config(format!("{} bytes are more than {MAX_CONFIG}", json.len())));
        }
        serde_json::from_slice(json).map_err(|error| Error::Config(error.to_string()))
    }

    /// Reads the records that an image config has inline; the layers are the image's.
    ///
    /// # Errors
    /// As [`CacheConfig::decode`].
    pub fn decode_inline(json: &[u8], layers: Vec<Digest>) -> Result<Self, Error> {
        let records = serde_json::from_slice(json).map_err(|error| Error::Config(error.to_string()))?;
        let layer = |(at, blob): (usize, Digest)| Layer { blob, parent: at.checked_sub(1) };
        Ok(Self { layers: layers.into_iter().enumerate().map(layer).collect(), records })
    }

    /// The bytes that are stored and hashed.
    ///
    /// # Errors
    /// None in practice; the encoder's.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        gojson::to_vec(self).map_err(|error| Error::Config(error.to_string()))
    }

    /// The records alone, for an image config.
    ///
    /// # Errors
    /// As [`CacheConfig::encode`].
    pub fn encode_inline(&self) -> Result<Vec<u8>, Error> {
        gojson::to_vec(&self.records).map_err(|error| Error::Config(error.to_string()))
    }

    /// Puts layers and records into their order. All indices must be valid.
    pub fn sort(&mut self) {
        let layers = order(self.layers.len(), |a, b| {
            let key = |at: usize| (&self.layers[at].blob, self.layers[at].parent);
            key(a).cmp(&key(b))
        });
        let places = inverse(&layers);
        self.layers = layers.iter().map(|at| self.layers[*at].clone()).collect();
        for layer in &mut self.layers {
            layer.parent = layer.parent.map(|at| places[at]);
        }
        for record in &mut self.records {
            record.results.iter_mut().for_each(|result| result.layer = places[result.layer]);
            let chained = record.chains.iter_mut().flat_map(|chain| &mut chain.layers);
            chained.for_each(|layer| *layer = places[*layer]);
        }
        self.sort_records();
    }

    /// Puts the records alone into their order. All indices must be valid.
    pub fn sort_records(&mut self) {
        for inputs in self.records.iter_mut().flat_map(|record| &mut record.inputs) {
            inputs.sort();
        }
        let records = order(self.records.len(), |a, b| self.compare(a, b));
        let places = inverse(&records);
        self.records = records.iter().map(|at| self.records[*at].clone()).collect();
        for inputs in self.records.iter_mut().flat_map(|record| &mut record.inputs) {
            inputs.iter_mut().for_each(|input| input.link = places[input.link]);
            inputs.sort_by(|a, b| (a.link, &a.selector).cmp(&(b.link, &b.selector)));
        }
    }

    /// By digest, then by how many inputs there are, then by what leads here.
    fn compare(&self, a: usize, b: usize) -> std::cmp::Ordering {
        let key = |at: usize| (&self.records[at].digest, self.records[at].inputs.len());
        let order = key(a).cmp(&key(b));
        let pairs = self.records[a].inputs.iter().zip(&self.records[b].inputs);
        let mut by_inputs = pairs.map(|(a, b)| {
            let of = |input: &Input| (input.selector.clone(), self.records[input.link].digest.clone());
            let order = a.len().cmp(&b.len());
            order.then_with(|| a.iter().map(of).cmp(b.iter().map(of)))
        });
        order.then_with(|| by_inputs.find(|order| order.is_ne()).unwrap_or(order))
    }
}

/// The indices 0 to `len`, sorted by `compare`; equal ones stay in order.
fn order(len: usize, compare: impl Fn(usize, usize) -> std::cmp::Ordering) -> Vec<usize> {
    let mut all: Vec<usize> = (0..len).collect();
    all.sort_by(|a, b| compare(*a, *b));
    all
}

/// Where each index has gone.
fn inverse(order: &[usize]) -> Vec<usize> {
    let mut places = vec![0; order.len()];
    order.iter().enumerate().for_each(|(new, old)| places[*old] = new);
    places
}

/// A moment as a config writes it.
pub(crate) fn time(at: SystemTime) -> Time {
    jiff::Timestamp::try_from(at).map_or_else(|_| year_one(), Time::from)
}

/// A moment that a config has written; what is before 1970 is 1970.
pub(crate) fn moment(time: &Time) -> SystemTime {
    let nanos = u64::try_from(time.timestamp().as_nanosecond()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// Go's zero time.
fn year_one() -> Time {
    Time::from_unix(-62_135_596_800)
}

mod parent {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(parent: &Option<usize>, s: S) -> Result<S::Ok, S::Error> {
        match parent {
            Some(at) => at.serialize(s),
            None => (-1).serialize(s),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
        match i64::deserialize(d)? {
            -1 => Ok(None),
            at => usize::try_from(at).map(Some).map_err(serde::de::Error::custom),
        }
    }
}

mod selector {
    use super::{Deserialize, Deserializer, Digest, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(selector: &Option<Digest>, s: S) -> Result<S::Ok, S::Error> {
        selector.serialize(s)
    }

    /// An empty selector is none.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Digest>, D::Error> {
        match Option::<String>::deserialize(d)?.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => Digest::parse(text).map(Some).map_err(serde::de::Error::custom),
        }
    }
}

/// Go writes an empty list that was never made as `null`.
fn null_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::parse(&format!("sha256:{}", format!("{n:02x}").repeat(32))).unwrap()
    }

    fn input(selector: Option<Digest>, link: usize) -> Input {
        Input { selector, link }
    }

    #[test]
    fn the_bytes_are_buildkits() {
        let at: Time = "2026-01-02T03:04:05.067Z".parse().unwrap();
        let mut config = CacheConfig {
            layers: vec![
                Layer { blob: digest(9), parent: None },
                Layer { blob: digest(8), parent: Some(0) },
                Layer { blob: digest(7), parent: Some(1) },
            ],
            records: vec![
                Record::new(digest(5), vec![]),
                Record {
                    results: vec![LayerResult { layer: 1, created_at: at.clone() }],
                    ..Record::new(digest(4), vec![vec![input(Some(digest(1)), 0), input(None, 2)]])
                },
                Record::new(digest(6), vec![]),
                Record {
                    chains: vec![ChainResult { layers: vec![2, 0], created_at: year_one() }],
                    ..Record::new(digest(3), vec![vec![input(None, 1)]])
                },
            ],
        };
        config.sort();
        let d = digest;
        let expected = format!(
            concat!(
                r#"{{"layers":[{{"blob":"{}","parent":1}},{{"blob":"{}","parent":2}},{{"blob":"{}","parent":-1}}],"#,
                r#""records":[{{"chains":[{{"layers":[0,2],"createdAt":"0001-01-01T00:00:00Z"}}],"digest":"{}","#,
                r#""inputs":[[{{"link":1}}]]}},"#,
                r#"{{"layers":[{{"layer":1,"createdAt":"2026-01-02T03:04:05.067Z"}}],"digest":"{}","#,
                r#""inputs":[[{{"selector":"{}","link":2}},{{"link":3}}]]}},"#,
                r#"{{"digest":"{}"}},{{"digest":"{}"}}]}}"#
            ),
            d(7),
            d(8),
            d(9),
            d(3),
            d(4),
            d(1),
            d(5),
            d(6)
        );
        assert_eq!(String::from_utf8(config.encode().unwrap()).unwrap(), expected);
        assert_eq!(CacheConfig::decode(expected.as_bytes()).unwrap(), config);
    }

    #[test]
    fn a_parent_that_is_left_out_is_the_first_layer() {
        let json =
            format!(r#"{{"layers":[{{"blob":"{}"}},{{"blob":"{}","parent":-1}}]}}"#, digest(1), digest(2));
        let config = CacheConfig::decode(json.as_bytes()).unwrap();
        assert_eq!((config.layers[0].parent, config.layers[1].parent), (Some(0), None));
        assert_eq!(config.encode().unwrap(), json.as_bytes());
    }

    #[test]
    fn what_is_no_config_is_refused() {
        let blob = digest(1);
        for json in [
            "".to_owned(),
            "[]x".to_owned(),
            r#"{"layers":[{"blob":"sha256:12"}]}"#.to_owned(),
            format!(r#"{{"layers":[{{"blob":"{blob}","parent":-2}}]}}"#),
            format!(r#"{{"records":[{{"digest":"{blob}","inputs":[[{{"link":-1}}]]}}]}}"#),
            format!(r#"{{"records":[{{"digest":"{blob}","layers":[{{"layer":1,"createdAt":"soon"}}]}}]}}"#),
            format!(r#"{{"records":[{{"digest":"{blob}","inputs":[[{{"selector":"x","link":1}}]]}}]}}"#),
        ] {
            assert!(CacheConfig::decode(json.as_bytes()).is_err(), "{json}");
        }
        let empty = CacheConfig::decode(br#"{"layers":null,"records":null}"#).unwrap();
        assert_eq!(empty, CacheConfig::default());
    }

    #[test]
    fn moments_survive() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        assert_eq!(moment(&time(at)), at);
        assert_eq!(moment(&year_one()), SystemTime::UNIX_EPOCH);
        assert_eq!(year_one().as_str(), "0001-01-01T00:00:00Z");
    }
}
