//! A [`CacheStore`] in memory: for tests, and for engines whose cache need not outlive the process.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use futures::future::BoxFuture;

use crate::sync::lock;
use crate::{
    Backlink, CacheStore, Change, Domain, KeyId, KeyKind, Link, Loaded, OpContext, Record, RecordId,
    StoreError,
};

struct Entry<D: Domain> {
    links: HashMap<Link, BTreeSet<KeyId>>,
    backlinks: HashSet<(KeyId, Link)>,
    results: HashMap<RecordId, (SystemTime, D::Output)>,
}

impl<D: Domain> Default for Entry<D> {
    fn default() -> Self {
        Self { links: HashMap::new(), backlinks: HashSet::new(), results: HashMap::new() }
    }
}

impl<D: Domain> Entry<D> {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.results.is_empty()
    }
}

/// Keys, links and results in memory. Stricter than a store need be: it checks what the engine writes.
pub struct MemoryStore<D: Domain> {
    name: String,
    keys: Mutex<HashMap<KeyId, Entry<D>>>,
    next: AtomicU64,
}

impl<D: Domain> MemoryStore<D> {
    /// An empty store.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), keys: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// How many results it holds, counting one result under several keys once.
    pub fn results(&self) -> usize {
        let keys = lock(&self.keys);
        keys.values().flat_map(|e| e.results.keys()).collect::<HashSet<_>>().len()
    }

    /// Forgets a result under all its keys, and the links that then lead nowhere.
    pub fn forget(&self, record: &RecordId) {
        let mut keys = lock(&self.keys);
        let holders: Vec<KeyId> =
            keys.iter().filter(|(_, e)| e.results.contains_key(record)).map(|(k, _)| *k).collect();
        for key in holders {
            if let Some(entry) = keys.get_mut(&key) {
                entry.results.remove(record);
            }
            prune(&mut keys, key);
        }
    }

    /// The result `record` under `key`.
    pub fn peek(&self, key: &KeyId, record: &RecordId) -> Option<D::Output> {
        lock(&self.keys).get(key)?.results.get(record).map(|(_, output)| output.clone())
    }

    /// All ids of results, sorted.
    pub fn record_ids(&self) -> Vec<RecordId> {
        let keys = lock(&self.keys);
        let ids: BTreeSet<RecordId> = keys.values().flat_map(|e| e.results.keys().cloned()).collect();
        ids.into_iter().collect()
    }

    /// Every link: from, how, to.
    pub fn all_links(&self) -> Vec<(KeyId, Link, KeyId)> {
        let keys = lock(&self.keys);
        let mut out: Vec<_> = keys
            .iter()
            .flat_map(|(from, e)| {
                e.links.iter().flat_map(|(l, to)| to.iter().map(|t| (*from, l.clone(), *t)))
            })
            .collect();
        out.sort();
        out
    }
}

/// Removes keys that have nothing any more, from `key` upwards.
fn prune<D: Domain>(keys: &mut HashMap<KeyId, Entry<D>>, key: KeyId) {
    let mut queue = vec![key];
    while let Some(key) = queue.pop() {
        if keys.get(&key).is_none_or(|e| !e.is_empty()) {
            continue;
        }
        let Some(entry) = keys.remove(&key) else { continue };
        for (from, link) in entry.backlinks {
            let Some(parent) = keys.get_mut(&from) else { continue };
            if let Some(targets) = parent.links.get_mut(&link) {
                targets.remove(&key);
                if targets.is_empty() {
                    parent.links.remove(&link);
                }
            }
            queue.push(from);
        }
    }
}

impl<D: Domain> CacheStore<D> for MemoryStore<D> {
    fn name(&self) -> &str {
        &self.name
    }

    fn exists(&self, key: &KeyId) -> bool {
        lock(&self.keys).get(key).is_some_and(|e| !e.is_empty())
    }

    fn links(&self, from: &KeyId, link: &Link) -> Vec<KeyId> {
        let keys = lock(&self.keys);
        keys.get(from)
            .and_then(|e| e.links.get(link))
            .map(|to| to.iter().copied().collect())
            .unwrap_or_default()
    }

    fn records(&self, key: &KeyId) -> Vec<Record> {
        let keys = lock(&self.keys);
        let Some(entry) = keys.get(key) else { return Vec::new() };
        entry.results.iter().map(|(id, (at, _))| Record { id: id.clone(), created_at: *at }).collect()
    }

    fn load<'a>(
        &'a self,
        _cx: &'a OpContext<D>,
        key: KeyId,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<Loaded<D>, StoreError>> {
        let output =
            lock(&self.keys).get(&key).and_then(|e| e.results.get(&record.id)).map(|(_, o)| o.clone());
        let loaded = output.map(|output| Loaded { output, parents: Vec::new() });
        Box::pin(std::future::ready(loaded.ok_or_else(|| StoreError::Gone(record.id.clone()))))
    }

    fn save<'a>(&'a self, change: Change<'a, D>) -> BoxFuture<'a, Result<Option<RecordId>, StoreError>> {
        let mut keys = lock(&self.keys);
        for (from, link, to) in change.links {
            debug_assert!(to.kind() == KeyKind::Linked, "a link leads to {to}");
            debug_assert!(from.kind() != KeyKind::Random, "a link leads from {from}");
            keys.entry(to).or_default().backlinks.insert((from, link.clone()));
            keys.entry(from).or_default().links.entry(link).or_default().insert(to);
        }
        let id = change.result.map(|(output, ids, at)| {
            let serial = self.next.fetch_add(1, Ordering::Relaxed);
            let id: RecordId = format!("{}-{serial}", self.name).into();
            for key in ids {
                debug_assert!(key.kind() != KeyKind::Random, "a result is saved under {key}");
                keys.entry(key).or_default().results.insert(id.clone(), (at, output.clone()));
            }
            id
        });
        Box::pin(std::future::ready(Ok(id)))
    }

    fn backlinks(&self, key: &KeyId) -> Vec<Backlink> {
        let keys = lock(&self.keys);
        let mut out: Vec<_> =
            keys.get(key).map(|e| e.backlinks.iter().cloned().collect()).unwrap_or_default();
        out.sort();
        out.iter().map(|(from, link)| Backlink::of(*from, link)).collect()
    }

    fn keys_of(&self, record: &RecordId) -> Vec<KeyId> {
        let keys = lock(&self.keys);
        let mut out: Vec<_> =
            keys.iter().filter(|(_, e)| e.results.contains_key(record)).map(|(k, _)| *k).collect();
        out.sort();
        out
    }
}
