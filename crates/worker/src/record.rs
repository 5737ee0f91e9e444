//! What is on disk of a ref.
//!
//! ```text
//! table refs             ref id → Record as JSON
//! table ref_used         ref id → {"last":seconds,"count":n}        changes often, so apart
//! table ref_children     (parent id, child id) → ()
//! table ref_index        (key, ref id) → ()      chain:<id>, blobchain:<id>, and keys of the ref's maker
//! table ref_values       (ref id, name) → bytes  content hashes and what else belongs to a ref
//! lease ref/<id>         holds the ref's own snapshots and blobs
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_oci::{Descriptor, Digest};
use kiln_store::{Json, LeaseId, SnapshotId, Stack, Table};
use serde::{Deserialize, Serialize};

use crate::RefId;

pub(crate) const REFS: Table<String, Json<Record>> = Table::new("refs");
pub(crate) const USED: Table<String, Json<Used>> = Table::new("ref_used");
pub(crate) const CHILDREN: Table<(String, String), ()> = Table::new("ref_children");
pub(crate) const INDEX: Table<(String, String), ()> = Table::new("ref_index");
pub(crate) const VALUES: Table<(String, String), Vec<u8>> = Table::new("ref_values");

pub(crate) fn lease(id: &RefId) -> LeaseId {
    LeaseId(format!("ref/{id}"))
}

/// The ref that a lease belongs to.
pub(crate) fn ref_of(lease: &LeaseId) -> Option<RefId> {
    RefId::parse(lease.0.strip_prefix("ref/")?)
}

/// What a ref was made for; decides which prune takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RecordType {
    /// A result of a build.
    #[default]
    #[serde(rename = "regular")]
    Regular,
    /// Of the builder itself; only pruned with everything.
    #[serde(rename = "internal")]
    Internal,
    /// A frontend image; only pruned with everything.
    #[serde(rename = "frontend")]
    Frontend,
    /// Files that a client sent.
    #[serde(rename = "source.local")]
    LocalSource,
    /// A git repository's tree.
    #[serde(rename = "source.git.checkout")]
    GitCheckout,
    /// A cache mount.
    #[serde(rename = "exec.cachemount")]
    CacheMount,
}

impl RecordType {
    /// The name on the wire and in filters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Internal => "internal",
            Self::Frontend => "frontend",
            Self::LocalSource => "source.local",
            Self::GitCheckout => "source.git.checkout",
            Self::CacheMount => "exec.cachemount",
        }
    }
}

/// What a ref is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parents<T> {
    /// It stands alone.
    #[default]
    None,
    /// It is a layer on another ref.
    Layer(T),
    /// It is several refs, each above the ones before.
    Merge(Vec<T>),
    /// It is what `upper` changes in `lower`; an absent one is an empty tree.
    Diff {
        /// What is taken away.
        lower: Option<T>,
        /// What is left.
        upper: Option<T>,
    },
}

impl<T> Parents<T> {
    /// All parents, lower ones first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many, last) = match self {
            Self::None => (None, &[][..], None),
            Self::Layer(parent) => (Some(parent), &[][..], None),
            Self::Merge(parents) => (None, parents.as_slice(), None),
            Self::Diff { lower, upper } => (lower.as_ref(), &[][..], upper.as_ref()),
        };
        one.into_iter().chain(many).chain(last)
    }

    /// The same with each parent changed.
    pub(crate) fn try_map<U, E>(&self, mut f: impl FnMut(&T) -> Result<U, E>) -> Result<Parents<U>, E> {
        Ok(match self {
            Self::None => Parents::None,
            Self::Layer(parent) => Parents::Layer(f(parent)?),
            Self::Merge(parents) => Parents::Merge(parents.iter().map(f).collect::<Result<_, _>>()?),
            Self::Diff { lower, upper } => Parents::Diff {
                lower: lower.as_ref().map(&mut f).transpose()?,
                upper: upper.as_ref().map(f).transpose()?,
            },
        })
    }

    /// The same with each parent changed.
    pub(crate) fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Parents<U> {
        match self.try_map(|parent| Ok::<_, std::convert::Infallible>(f(parent))) {
            Ok(mapped) => mapped,
            Err(never) => match never {},
        }
    }
}

/// A ref's record. Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(default)]
    pub(crate) parents: Parents<RefId>,
    /// The ref's own snapshot. A lazy ref has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<SnapshotId>,
    /// Of an unpacked merge or difference: its whole stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stack: Option<Stack>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) mutable: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) diff_id: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chain_id: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob_chain_id: Option<Digest>,
    /// The layer as blobs: the first is the one that the ref is known by, others are other compressions of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) blobs: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) image_refs: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) layer_type: String,
    #[serde(default)]
    pub(crate) record_type: RecordType,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Nanoseconds of that second.
    #[serde(default, skip_serializing_if = "is_whole")]
    pub(crate) created_nanos: u32,
    /// Bytes on disk of the ref's own snapshots, once somebody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// The ref that shares its snapshot: of a kept mutable one the immutable one last committed, and the reverse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) twin: Option<RefId>,
    /// Keys under which [`INDEX`] has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<String>,
}

impl Record {
    /// An empty one of this moment.
    pub(crate) fn new() -> Self {
        let mut record = Self::default();
        record.set_created(SystemTime::now());
        record
    }

    pub(crate) fn created(&self) -> SystemTime {
        let since = Duration::new(self.created, self.created_nanos);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }

    pub(crate) fn set_created(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        (self.created, self.created_nanos) = (since.as_secs(), since.subsec_nanos());
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_whole(nanos: &u32) -> bool {
    *nanos == 0
}

/// When and how often a ref was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// Milliseconds since 1970.
    pub(crate) last: u64,
    pub(crate) count: u64,
}

pub(crate) fn chain_key(id: &Digest) -> String {
    format!("chain:{id}")
}

pub(crate) fn blob_chain_key(id: &Digest) -> String {
    format!("blobchain:{id}")
}

/// The chain id of a layer on a chain (OCI image-spec, config.md, "Layer ChainID").
pub(crate) fn chain_id(parent: Option<&Digest>, layer: &Digest) -> Digest {
    match parent {
        None => layer.clone(),
        Some(parent) => Digest::sha256(format!("{parent} {layer}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_pinned() {
        let record = Record {
            parents: Parents::Diff { lower: None, upper: RefId::parse("0123456789abcdefghijklmno") },
            retain: true,
            record_type: RecordType::CacheMount,
            created: 7,
            created_nanos: 5,
            ..Record::default()
        };
        let json = kiln_store::Value::to_value(&Json(record.clone()));
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            r#"{"parents":{"diff":{"lower":null,"upper":"0123456789abcdefghijklmno"}},"retain":true,"record_type":"exec.cachemount","created":7,"created_nanos":5}"#
        );
        assert_eq!(<Json<Record> as kiln_store::Value>::from_value(&json), Some(Json(record)));
        let none = kiln_store::Value::to_value(&Json(Record::default()));
        assert_eq!(
            String::from_utf8(none).unwrap(),
            r#"{"parents":"none","record_type":"regular","created":0}"#
        );
    }

    #[test]
    fn chain_ids_follow_the_spec() {
        let (a, b) = (Digest::sha256("a"), Digest::sha256("b"));
        assert_eq!(chain_id(None, &a), a);
        assert_eq!(chain_id(Some(&a), &b), Digest::sha256(format!("{a} {b}")));
    }
}
