//! Leases: who keeps blobs and snapshots alive.
//!
//! ```text
//! table leases   lease id → {"created":…,"expires":…,"temporary":generation or null,"labels":{…}}
//! table holds    (resource, lease id) → ()     is anybody holding this?
//! table held     (lease id, resource) → ()     what does this lease hold?
//! resource       u8 kind (1 blob, 2 snapshot), string
//! ```

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_oci::Digest;
use serde::{Deserialize, Serialize};

use crate::{Decode, Encode, Json, SnapshotId, Store, Table};

pub(crate) const LEASES: Table<String, Json<LeaseInfo>> = Table::new("leases");
pub(crate) const HOLDS: Table<(Resource, String), ()> = Table::new("holds");
pub(crate) const HELD: Table<(String, Resource), ()> = Table::new("held");

/// Something that a lease can hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// A blob of the content store.
    Blob(Digest),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl Encode for Resource {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Blob(digest) => (1u8, digest).encode(out),
            Self::Snapshot(id) => (2u8, id.as_str()).encode(out),
        }
    }
}

impl Decode for Resource {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        match u8::decode(input)? {
            1 => Digest::decode(input).map(Self::Blob),
            2 => String::decode(input).and_then(|id| SnapshotId::parse(&id)).map(Self::Snapshot),
            _ => None,
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Snapshot(id) => write!(f, "snapshot {}", id.as_str()),
        }
    }
}

/// The name of a lease: any string, unique in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub String);

/// What is known of a lease.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it ends by itself, in seconds since 1970. Looked at by [`Store::release_expired`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The generation that made it, for a lease that a later one drops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temporary: Option<u64>,
    /// For whoever made it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl LeaseInfo {
    /// A lease that stays until it is released.
    pub fn lasting() -> Self {
        Self { created: now(), ..Self::default() }
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A lease of this process: what it holds is released when it is dropped, or by the next start.
#[derive(Debug)]
pub struct Lease {
    pub(crate) store: Store,
    pub(crate) id: LeaseId,
}

impl Lease {
    /// Its name, for [`Ingest::commit`](crate::Ingest::commit) and [`StoreTx::hold`](crate::StoreTx::hold).
    pub fn id(&self) -> &LeaseId {
        &self.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Err(error) = release(&self.store, &self.id) else { return };
        tracing::warn!(lease = %self.id.0, %error, "cannot release a lease yet");
        // A disk that is full, most likely, which what the lease holds may help: it is tried again for a while, aside.
        let (store, id) = (self.store.clone(), self.id.clone());
        let retry = move || {
            for _ in 0..RELEASE_TRIES {
                std::thread::sleep(RELEASE_DELAY);
                if release(&store, &id).is_ok() {
                    return;
                }
            }
            tracing::warn!(lease = %id.0, "a lease stays; the next start releases it");
        };
        if let Err(error) = std::thread::Builder::new().name("kiln-release".into()).spawn(retry) {
            tracing::warn!(%error, "a lease stays; the next start releases it");
        }
    }
}

/// How often the release of a lease is tried again, and how long after the try before.
const RELEASE_TRIES: u32 = 30;
const RELEASE_DELAY: std::time::Duration = std::time::Duration::from_millis(500);

fn release(store: &Store, id: &LeaseId) -> Result<(), crate::Error> {
    store.change(|tx| tx.release(id))
}
