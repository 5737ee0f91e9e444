//! The graph of keys, links and results behind a built edge, for cache exporters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use kiln_oci::Digest;

use crate::context::VertexState;
use crate::{
    Backlink, CacheStore, CachedResult, Domain, Edge, Key, KeyId, KeyKind, OpContext, Record, RecordId,
    StoreError,
};

/// A result in a store, with what is needed to load it.
pub struct RecordRef<D: Domain> {
    /// The store.
    pub store: Arc<dyn CacheStore<D>>,
    /// The key that it was found or saved under.
    pub key: KeyId,
    /// The result's id and age.
    pub record: Record,
    /// The result itself, if this build has it.
    pub output: Option<D::Output>,
    pub(crate) vertex: Option<Arc<VertexState<D>>>,
}

impl<D: Domain> RecordRef<D> {
    /// The result: what the build has, or what the store gives.
    ///
    /// # Errors
    /// Those of [`CacheStore::load`].
    pub async fn load(&self) -> Result<D::Output, StoreError> {
        if let Some(output) = &self.output {
            return Ok(output.clone());
        }
        let Some(vertex) = &self.vertex else {
            return Err(StoreError::Gone(self.record.id.clone()));
        };
        let cx = OpContext::new(vertex.clone(), None);
        Ok(self.store.load(&cx, self.key, &self.record).await?.output)
    }
}

impl<D: Domain> Clone for RecordRef<D> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            key: self.key,
            record: self.record.clone(),
            output: self.output.clone(),
            vertex: self.vertex.clone(),
        }
    }
}

impl<D: Domain> fmt::Debug for RecordRef<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordRef")
            .field("key", &self.key)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// What leads from one record to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExportLink {
    /// Index of the record that leads, in [`CacheExportGraph::records`].
    pub record: usize,
    /// The selector of the link.
    pub selector: Option<Digest>,
}

/// One key of the graph.
#[derive(Debug)]
pub struct ExportRecord<D: Domain> {
    /// The root key of the op's cache-map digest and output: how the record is called in an exported cache.
    pub digest: KeyId,
    /// For each input what leads here. Never empty for an input; no inputs for roots.
    pub inputs: Vec<Vec<ExportLink>>,
    /// The results under this key: the one that this build has first, then what stores have, the newest first. None for
    /// content keys and for chains that this build did not use.
    pub results: Vec<RecordRef<D>>,
    /// The edge that the record was made or found for.
    pub edge: Option<Edge>,
    /// The vertex's own wish whether its result is exported.
    pub export: Option<bool>,
}

/// Keys, inputs before what follows from them.
#[derive(Debug)]
pub struct CacheExportGraph<D: Domain> {
    /// All of them.
    pub records: Vec<ExportRecord<D>>,
    /// Indices of the records of the built edges.
    pub roots: Vec<usize>,
}

impl<D: Domain> CacheExportGraph<D> {
    /// What leads to `results`. Keys that follow only from random roots are left out. With `backlinks`, other chains
    /// in the stores that lead to the same keys are in it too.
    pub fn of<'a>(results: impl IntoIterator<Item = &'a CachedResult<D>>, backlinks: bool) -> Self {
        let mut walk = Walk {
            graph: Self { records: Vec::new(), roots: Vec::new() },
            by_key: HashMap::new(),
            by_root: HashMap::new(),
            by_id: HashMap::new(),
            by_inputs: HashMap::new(),
        };
        let mut roots = HashSet::new();
        for result in results {
            for key in result.keys.iter().chain(&result.sub_keys) {
                if let Some(at) = walk.key(key, backlinks)
                    && roots.insert(at)
                {
                    walk.graph.roots.push(at);
                }
            }
        }
        walk.graph
    }
}

type KeyPtr = usize;

/// The results under a key: what this build made or loaded, and what stores have under it. A build that found a later
/// result has not loaded those on the way to it.
fn results<D: Domain>(key: &Key<D>) -> Vec<RecordRef<D>> {
    let mut all: Vec<_> = crate::sync::lock(&key.0.record).iter().cloned().collect();
    let mut others = Vec::new();
    for (store, id) in key.ids() {
        others.extend(store.store.records(&id).into_iter().map(|record| RecordRef {
            store: store.store.clone(),
            key: id,
            record,
            output: None,
            vertex: key.0.vertex.clone(),
        }));
    }
    others.sort_by_key(|other| std::cmp::Reverse(other.record.created_at));
    all.extend(others);
    all
}

/// Every record has links from records before it only, so the graph has no loops whatever the stores hold.
struct Walk<D: Domain> {
    graph: CacheExportGraph<D>,
    by_key: HashMap<KeyPtr, Option<usize>>,
    by_root: HashMap<KeyId, usize>,
    /// The records that a key of a store is: one for each op that leads there. Empty while the key is walked, which cuts
    /// the loops of a stored graph.
    by_id: HashMap<(u32, KeyId), Vec<usize>>,
    by_inputs: HashMap<(KeyId, Vec<Vec<ExportLink>>), usize>,
}

impl<D: Domain> Walk<D> {
    /// The record of `key`, after those of everything it follows from. Keeps its own stack: chains are long.
    fn key(&mut self, key: &Key<D>, backlinks: bool) -> Option<usize> {
        let ptr = |k: &Key<D>| Arc::as_ptr(&k.0) as KeyPtr;
        let mut stack = vec![(key.clone(), false)];
        while let Some((key, ready)) = stack.pop() {
            if self.by_key.contains_key(&ptr(&key)) {
                continue;
            }
            if !ready {
                stack.push((key.clone(), true));
                let deps = key.deps().iter().flatten().map(|d| (d.key.clone(), false));
                stack.extend(deps.filter(|(k, _)| !self.by_key.contains_key(&ptr(k))));
                continue;
            }
            let at = self.add_key(&key, backlinks);
            self.by_key.insert(ptr(&key), at);
        }
        self.by_key.get(&ptr(key)).copied().flatten()
    }

    fn add_key(&mut self, key: &Key<D>, backlinks: bool) -> Option<usize> {
        let digest = key.export_digest();
        if digest.kind() == KeyKind::Random {
            return None;
        }
        let results = results(key);
        let edge = key.0.vertex.as_ref().map(|v| Edge::new(v.digest.clone(), key.0.shape.output()));
        if key.deps().is_empty() {
            let at = self.root(digest);
            self.complete(at, results, edge, key.0.export);
            return Some(at);
        }
        let ids = if backlinks { key.ids() } else { Vec::new() };
        let mut others = Vec::new();
        for (store, id) in &ids {
            others.extend(self.stored_inputs(store.serial, &*store.store, *id));
        }
        let inputs: Vec<_> = key.deps().iter().map(|deps| self.links(deps)).collect();
        // An input that nothing leads from makes the key useless, unless a store knows another way to it.
        let own = inputs.iter().all(|links| !links.is_empty()).then_some(inputs);
        let mut at = None;
        for (by, inputs) in own.into_iter().map(|inputs| (digest, inputs)).chain(others) {
            let known = ids.iter().flat_map(|(s, id)| self.by_id.get(&(s.serial, *id)).into_iter().flatten());
            let known = known.copied().find(|known| self.graph.records[*known].digest == by);
            let record = match known {
                Some(known) => {
                    self.merge(known, inputs);
                    known
                }
                None => self.linked(by, inputs),
            };
            for (store, id) in &ids {
                let records = self.by_id.entry((store.serial, *id)).or_default();
                if !records.contains(&record) {
                    records.push(record);
                }
            }
            if by == digest {
                at = Some(record);
            }
        }
        self.complete(at?, results, edge, key.0.export);
        at
    }

    fn links(&self, deps: &[crate::KeyDep<D>]) -> Vec<ExportLink> {
        let mut links = Vec::with_capacity(deps.len());
        for dep in deps {
            let at = self.by_key.get(&(Arc::as_ptr(&dep.key.0) as KeyPtr)).copied().flatten();
            let link = at.map(|record| ExportLink { record, selector: dep.selector.clone() });
            links.extend(link.filter(|l| !links.contains(l)));
        }
        links
    }

    fn complete(&mut self, at: usize, results: Vec<RecordRef<D>>, edge: Option<Edge>, export: Option<bool>) {
        let record = &mut self.graph.records[at];
        for result in results {
            if !record.results.iter().any(|r| r.record.id == result.record.id) {
                record.results.push(result);
            }
        }
        record.edge = record.edge.take().or(edge);
        record.export = record.export.or(export);
    }

    fn push(&mut self, digest: KeyId, inputs: Vec<Vec<ExportLink>>) -> usize {
        self.graph.records.push(ExportRecord {
            digest,
            inputs,
            results: Vec::new(),
            edge: None,
            export: None,
        });
        self.graph.records.len() - 1
    }

    /// Further ways to a record. Those that come from records after it would make a loop possible, and are left out.
    fn merge(&mut self, at: usize, inputs: Vec<Vec<ExportLink>>) {
        for (known, links) in self.graph.records[at].inputs.iter_mut().zip(inputs) {
            let mut seen: HashSet<ExportLink> = known.iter().cloned().collect();
            known.extend(links.into_iter().filter(|link| link.record < at && seen.insert(link.clone())));
        }
    }

    fn linked(&mut self, digest: KeyId, inputs: Vec<Vec<ExportLink>>) -> usize {
        if let Some(at) = self.by_inputs.get(&(digest, inputs.clone())) {
            return *at;
        }
        let at = self.push(digest, inputs.clone());
        self.by_inputs.insert((digest, inputs), at);
        at
    }

    fn root(&mut self, digest: KeyId) -> usize {
        if let Some(at) = self.by_root.get(&digest) {
            return *at;
        }
        let at = self.push(digest, Vec::new());
        self.by_root.insert(digest, at);
        at
    }

    /// Adds everything that leads to the key `id` of a store, without results, but not the key itself: gives its ways in.
    fn stored_inputs(
        &mut self,
        serial: u32,
        store: &dyn CacheStore<D>,
        id: KeyId,
    ) -> Vec<(KeyId, Vec<Vec<ExportLink>>)> {
        // Whoever stands on this key meanwhile stands on nothing.
        self.by_id.entry((serial, id)).or_default();
        let mut stack: Vec<_> = store.backlinks(&id).into_iter().map(|way| (way.from, false)).collect();
        while let Some((id, ready)) = stack.pop() {
            if !ready {
                if self.by_id.contains_key(&(serial, id)) {
                    continue;
                }
                self.by_id.insert((serial, id), Vec::new());
                stack.push((id, true));
                stack.extend(store.backlinks(&id).into_iter().map(|way| (way.from, false)));
                continue;
            }
            let records = match id.kind() {
                KeyKind::Random => Vec::new(),
                KeyKind::Root => vec![self.root(id)],
                KeyKind::Linked => {
                    let ways = self.ways(serial, store, id);
                    ways.into_iter().map(|(digest, inputs)| self.linked(digest, inputs)).collect()
                }
            };
            self.by_id.insert((serial, id), records);
        }
        self.ways(serial, store, id)
    }

    /// For each op that leads to the key `id` of a store, from which records.
    fn ways(&self, serial: u32, store: &dyn CacheStore<D>, id: KeyId) -> Vec<(KeyId, Vec<Vec<ExportLink>>)> {
        let mut by_digest: BTreeMap<KeyId, Vec<Vec<ExportLink>>> = BTreeMap::new();
        let mut seen = HashSet::new();
        for Backlink { from, input, digest, selector } in store.backlinks(&id) {
            let inputs = by_digest.entry(digest).or_default();
            if inputs.len() <= input {
                inputs.resize(input + 1, Vec::new());
            }
            for record in self.by_id.get(&(serial, from)).into_iter().flatten() {
                let way = ExportLink { record: *record, selector: selector.clone() };
                if seen.insert((digest, input, way.clone())) {
                    inputs[input].push(way);
                }
            }
        }
        by_digest.into_iter().filter(|(_, inputs)| inputs.iter().all(|links| !links.is_empty())).collect()
    }
}

impl<D: Domain> CachedResult<D> {
    /// When the result was made, and its id in the store that it came from or was saved to.
    pub fn record(&self) -> Option<(RecordId, SystemTime)> {
        let record = |key: &Key<D>| crate::sync::lock(&key.0.record).as_ref().map(|r| r.record.clone());
        self.keys.iter().find_map(record).map(|r| (r.id, r.created_at))
    }
}
