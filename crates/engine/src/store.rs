//! Where keys, links and results are kept between builds.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;
use kiln_oci::Digest;

use crate::{Domain, KeyId, Link, OpContext};

/// The id of a result in a store. The store chooses it.
pub type RecordId = Arc<str>;

/// A result that a store holds under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id: equal ids are the same result, under whichever key.
    pub id: RecordId,
    /// When the result was made.
    pub created_at: SystemTime,
}

/// Why a store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The record is gone, or nobody can supply its bytes: a miss, not an error of the build.
    #[error("cache record {0} is gone")]
    Gone(RecordId),
    /// Anything else. A load that fails so is a miss too, and is told as a warning.
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How a key follows from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlink {
    /// The key that leads.
    pub from: KeyId,
    /// Which input of the op it is a key of.
    pub input: usize,
    /// The root key of the op's cache-map digest and output: [`Link::export_digest`].
    pub digest: KeyId,
    /// What of the input is used.
    pub selector: Option<Digest>,
}

impl Backlink {
    /// The way that `link` goes from the key `from`.
    pub fn of(from: KeyId, link: &Link) -> Self {
        Self { from, input: link.input, digest: link.export_digest(), selector: link.selector.clone() }
    }
}

/// What a load gives.
#[derive(Debug)]
pub struct Loaded<D: Domain> {
    /// The result.
    pub output: D::Output,
    /// Results of keys that this one follows from, which came along for free (the lower layers of an imported
    /// result). The engine saves them to the main store.
    pub parents: Vec<(KeyId, Record, D::Output)>,
}

/// What a save writes, all or nothing.
#[derive(Debug, Default)]
pub struct Change<'a, D: Domain> {
    /// New links: from, link, to. Some may exist already.
    pub links: Vec<(KeyId, Link, KeyId)>,
    /// A result, the keys that it belongs under, and when it was made.
    pub result: Option<(&'a D::Output, Vec<KeyId>, SystemTime)>,
}

/// A store of cache keys, links between them and results.
///
/// One store is the daemon's own; the others are imported and read-only. Reads are synchronous and are expected to
/// take microseconds, as the engine's owner task makes them: what must be fetched first belongs into
/// [`ready`](CacheStore::ready). A key exists while it has links or results.
pub trait CacheStore<D: Domain>: Send + Sync + 'static {
    /// Names the store: stores with one name are one store.
    fn name(&self) -> &str;

    /// Waits until the store can be read. Called before the first look-up of each build; a store that fails here
    /// is left out with a warning.
    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether the key has links or results.
    fn exists(&self, key: &KeyId) -> bool;

    /// The keys that `from` leads to by `link`.
    fn links(&self, from: &KeyId, link: &Link) -> Vec<KeyId>;

    /// The results under `key` that can still be loaded, as far as the store knows.
    fn records(&self, key: &KeyId) -> Vec<Record>;

    /// Loads a result. The context is that of the vertex that wants it: it offers what cache maps of this vertex and
    /// its ancestors left for loads ([`OpContext::find_opts`]), progress and the jobs' sessions.
    fn load<'a>(
        &'a self,
        cx: &'a OpContext<D>,
        key: KeyId,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<Loaded<D>, StoreError>>;

    /// Writes `change` and gives the id of its result. When the future resolves, reads see the change. No key in it is
    /// of kind [`Random`](crate::KeyKind::Random). Imported stores are never asked.
    fn save<'a>(&'a self, change: Change<'a, D>) -> BoxFuture<'a, Result<Option<RecordId>, StoreError>>;

    /// The keys that lead to `key`, and how: for exporters.
    fn backlinks(&self, key: &KeyId) -> Vec<Backlink>;

    /// The keys that hold the result `record`: for exporters.
    fn keys_of(&self, record: &RecordId) -> Vec<KeyId>;
}

/// A store with its place in the engine. Equal when it is the same store.
pub(crate) struct StoreHandle<D: Domain> {
    pub(crate) serial: u32,
    pub(crate) store: Arc<dyn CacheStore<D>>,
}

impl<D: Domain> StoreHandle<D> {
    pub(crate) fn is(&self, store: &dyn CacheStore<D>) -> bool {
        self.store.name() == store.name()
    }

    /// The engine's own store has the first place.
    pub(crate) fn is_main(&self) -> bool {
        self.serial == 0
    }
}

impl<D: Domain> Clone for StoreHandle<D> {
    fn clone(&self) -> Self {
        Self { serial: self.serial, store: self.store.clone() }
    }
}

impl<D: Domain> PartialEq for StoreHandle<D> {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl<D: Domain> fmt::Debug for StoreHandle<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.store.name(), self.serial)
    }
}
