//! The engine's cache between builds: keys, links and results in the store.
//!
//! ```text
//! table cache_links       (from, link, to) → ()
//! table cache_backlinks   (to, link, from) → ()
//! table cache_results     (key, result id) → nanoseconds since 1970
//! table cache_result_keys (result id, key) → ()
//!
//! key     u8 kind, 32 bytes
//! link    u64 input, u64 output, digest as text, selector as text or empty
//! ```
//!
//! A result is a ref: its id is the ref's id, and a ref that goes takes its results along, in the same transaction. A key
//! that is left without results and links goes too, and so on towards the roots.

use std::time::{Duration, UNIX_EPOCH};

use futures::future::BoxFuture;
use kiln_engine::{
    Backlink, CacheDigest, CacheStore, Change, Domain, KeyId, KeyKind, Link, Loaded, OpContext, Record,
    RecordId, StoreError,
};
use kiln_oci::Digest;
use kiln_store::{Decode, Encode, Table, Tx};

use crate::{Error, RefId, Worker};

const LINKS: Table<(LinkFrom, KeyCode), ()> = Table::new("cache_links");
const BACKLINKS: Table<(KeyCode, LinkCode, KeyCode), ()> = Table::new("cache_backlinks");
const RESULTS: Table<(KeyCode, String), u64> = Table::new("cache_results");
const RESULT_KEYS: Table<(String, KeyCode), ()> = Table::new("cache_result_keys");

type LinkFrom = (KeyCode, LinkCode);

/// A key as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct KeyCode(KeyId);

impl Encode for KeyCode {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.0.kind() as u8);
        out.extend(self.0.value());
    }
}

impl Decode for KeyCode {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        let kind = match u8::decode(input)? {
            0 => KeyKind::Root,
            1 => KeyKind::Random,
            2 => KeyKind::Linked,
            _ => return None,
        };
        let (hash, rest) = input.split_first_chunk::<32>()?;
        *input = rest;
        Some(Self(KeyId::new(kind, *hash)))
    }
}

/// A link as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LinkCode(Link);

impl Encode for LinkCode {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.0.input as u64, self.0.output as u64).encode(out);
        self.0.digest.to_string().encode(out);
        self.0.selector.as_ref().map_or("", Digest::as_str).encode(out);
    }
}

impl Decode for LinkCode {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        let (from, output) = <(u64, u64)>::decode(input)?;
        let (digest, selector) = <(String, String)>::decode(input)?;
        let digest = match digest.strip_prefix("random:") {
            Some(hex) => CacheDigest::Random(Digest::parse(&format!("sha256:{hex}")).ok()?),
            None => CacheDigest::Fixed(Digest::parse(&digest).ok()?),
        };
        let selector = match selector.as_str() {
            "" => None,
            text => Some(Digest::parse(text).ok()?),
        };
        Some(Self(Link {
            input: usize::try_from(from).ok()?,
            output: usize::try_from(output).ok()?,
            digest,
            selector,
        }))
    }
}

/// What the cache must know of a domain's results.
pub trait CacheResults<D: Domain>: Send + Sync + 'static {
    /// The id of the ref that the result is; `None` when it cannot be kept.
    fn id(&self, output: &D::Output) -> Option<String>;

    /// Whether [`CacheResults::load`] may find it. Takes microseconds.
    fn exists(&self, id: &str) -> bool;

    /// The result with this id. [`StoreError::Gone`] when it cannot be had any more.
    fn load<'a>(
        &'a self,
        cx: &'a OpContext<D>,
        id: &'a RecordId,
    ) -> BoxFuture<'a, Result<D::Output, StoreError>>;
}

/// The engine's cache on a worker's store.
pub struct EngineCache<R> {
    worker: Worker,
    results: R,
}

impl<R> std::fmt::Debug for EngineCache<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineCache").field("worker", &self.worker).finish_non_exhaustive()
    }
}

/// A failed read is a miss that the log tells of: the engine then does the work.
fn or_miss<T: Default>(outcome: Result<T, kiln_store::Error>) -> T {
    outcome.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot read the build cache");
        T::default()
    })
}

impl<R> EngineCache<R> {
    /// The cache of `worker`, whose results `results` knows.
    pub fn new(worker: Worker, results: R) -> Self {
        Self { worker, results }
    }

    /// Deletes a result under all its keys, with the keys that are of no use without it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn forget(&self, id: &str) -> Result<(), Error> {
        self.worker.store().change(|tx| release_result(tx, id))
    }

    fn has_any(&self, key: KeyCode) -> Result<bool, kiln_store::Error> {
        let db = self.worker.store().db();
        Ok(!db.page(&RESULTS, &key, None, 1)?.is_empty() || !db.page(&LINKS, &key, None, 1)?.is_empty())
    }

    fn write<D: Domain>(&self, change: &Change<'_, D>) -> Result<Option<RecordId>, Error>
    where
        R: CacheResults<D>,
    {
        let kept = |key: &KeyId| key.kind() != KeyKind::Random;
        let result = change.result.as_ref().and_then(|(output, keys, made)| {
            let id = self.results.id(output)?;
            let made = made.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            Some((id, keys, u64::try_from(made).unwrap_or(u64::MAX)))
        });
        self.worker.store().change(|tx| {
            for (from, link, to) in &change.links {
                if kept(from) && kept(to) && !link.digest.is_random() {
                    let (from, link, to) = (KeyCode(*from), LinkCode(link.clone()), KeyCode(*to));
                    tx.put(&BACKLINKS, &(to, link.clone(), from), &());
                    tx.put(&LINKS, &((from, link), to), &());
                }
            }
            if let Some((id, keys, made)) = &result {
                for key in keys.iter().filter(|key| kept(key)) {
                    tx.put(&RESULTS, &(KeyCode(*key), id.clone()), made);
                    tx.put(&RESULT_KEYS, &(id.clone(), KeyCode(*key)), &());
                }
            }
            Ok::<_, Error>(())
        })?;
        Ok(result.map(|(id, ..)| id.into()))
    }
}

impl<D: Domain, R: CacheResults<D>> CacheStore<D> for EngineCache<R> {
    fn name(&self) -> &str {
        "local"
    }

    fn exists(&self, key: &KeyId) -> bool {
        or_miss(self.has_any(KeyCode(*key)))
    }

    fn links(&self, from: &KeyId, link: &Link) -> Vec<KeyId> {
        let rows = self.worker.store().db().prefix(&LINKS, &(KeyCode(*from), LinkCode(link.clone())));
        or_miss(rows).into_iter().map(|((_, to), ())| to.0).collect()
    }

    fn records(&self, key: &KeyId) -> Vec<Record> {
        let rows = or_miss(self.worker.store().db().prefix(&RESULTS, &KeyCode(*key)));
        let existing = rows.into_iter().filter(|((_, id), _)| self.results.exists(id));
        existing
            .map(|((_, id), made)| Record {
                id: id.into(),
                created_at: UNIX_EPOCH + Duration::from_nanos(made),
            })
            .collect()
    }

    fn load<'a>(
        &'a self,
        cx: &'a OpContext<D>,
        _key: KeyId,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<Loaded<D>, StoreError>> {
        Box::pin(async move {
            let output = self.results.load(cx, &record.id).await?;
            Ok(Loaded { output, parents: Vec::new() })
        })
    }

    fn save<'a>(&'a self, change: Change<'a, D>) -> BoxFuture<'a, Result<Option<RecordId>, StoreError>> {
        // A change is in memory and takes microseconds.
        let written = self.write(&change).map_err(|error| StoreError::Failed(Box::new(error)));
        Box::pin(std::future::ready(written))
    }

    fn backlinks(&self, key: &KeyId) -> Vec<Backlink> {
        let rows = or_miss(self.worker.store().db().prefix(&BACKLINKS, &KeyCode(*key)));
        rows.into_iter().map(|((_, link, from), ())| Backlink::of(from.0, &link.0)).collect()
    }

    fn keys_of(&self, record: &RecordId) -> Vec<KeyId> {
        let rows = or_miss(self.worker.store().db().prefix(&RESULT_KEYS, &record.as_ref()));
        rows.into_iter().map(|((_, key), ())| key.0).collect()
    }
}

/// Deletes the result `id` under all its keys, and the keys that are of no use without it.
pub(crate) fn release_result(tx: &mut Tx<'_>, id: &str) -> Result<(), Error> {
    let mut emptied = Vec::new();
    for ((id, key), ()) in tx.prefix(&RESULT_KEYS, &id)? {
        tx.delete(&RESULTS, &(key, id.clone()));
        tx.delete(&RESULT_KEYS, &(id, key));
        emptied.push(key);
    }
    while let Some(key) = emptied.pop() {
        if !tx.prefix(&RESULTS, &key)?.is_empty() || !tx.prefix(&LINKS, &key)?.is_empty() {
            continue;
        }
        for ((to, link, from), ()) in tx.prefix(&BACKLINKS, &key)? {
            tx.delete(&LINKS, &((from, link.clone()), to));
            tx.delete(&BACKLINKS, &(to, link, from));
            emptied.push(from);
        }
    }
    Ok(())
}

/// Results without a ref that `known` knows, and rows without their counterpart; see [`Worker::problems`].
pub(crate) fn problems(
    db: &kiln_store::Db,
    known: impl Fn(&str) -> bool,
    found: &mut impl FnMut(&str, String),
) -> Result<(), Error> {
    for ((key, id), _) in db.prefix(&RESULTS, &())? {
        // The empty tree is a result without a ref.
        if RefId::parse(&id).is_some() && !known(&id) {
            found(&id, "is a cached result and has no record".to_owned());
        }
        if db.get(&RESULT_KEYS, &(id.clone(), key))?.is_none() {
            found(&id, "is a cached result that would stay when its ref goes".to_owned());
        }
    }
    for ((id, key), ()) in db.prefix(&RESULT_KEYS, &())? {
        if db.get(&RESULTS, &(key, id.clone()))?.is_none() {
            found(&id, "names a key that it is no result of".to_owned());
        }
    }
    for (((from, link), to), ()) in db.prefix(&LINKS, &())? {
        if db.get(&BACKLINKS, &(to, link, from))?.is_none() {
            found("a cache key", format!("has a link that does not lead back: {from:?} {to:?}"));
        }
    }
    for ((to, link, from), ()) in db.prefix(&BACKLINKS, &())? {
        if db.get(&LINKS, &((from, link), to))?.is_none() {
            found("a cache key", format!("has a link that leads back only: {from:?} {to:?}"));
        }
    }
    Ok(())
}
