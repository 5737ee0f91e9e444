//! The graph of keys, links and results behind a built edge, for cache exporters.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use kiln_oci::Digest;

use crate::context::VertexState;
use crate::{
    CacheStore, CachedResult, Domain, Edge, Key, KeyId, KeyKind, OpContext, Record, RecordId, StoreError,
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
    /// The results under this key, best first. None for content keys and for chains that this build did not use.
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
        for result in results {
            for key in result.keys.iter().chain(&result.sub_keys) {
                if let Some(at) = walk.key(key, backlinks)
                    && !walk.graph.roots.contains(&at)
                {
                    walk.graph.roots.push(at);
                }
            }
        }
        walk.graph
    }
}

type KeyPtr = usize;

struct Walk<D: Domain> {
    graph: CacheExportGraph<D>,
    by_key: HashMap<KeyPtr, Option<usize>>,
    by_root: HashMap<KeyId, usize>,
    by_id: HashMap<(u32, KeyId), Option<usize>>,
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
            if backlinks {
                for (store, id) in key.ids() {
                    self.backlinks(store.serial, &*store.store, id);
                }
            }
            let at = self.add_key(&key);
            self.by_key.insert(ptr(&key), at);
        }
        self.by_key.get(&ptr(key)).copied().flatten()
    }

    fn add_key(&mut self, key: &Key<D>) -> Option<usize> {
        let digest = key.export_digest();
        if digest.kind() == KeyKind::Random {
            return None;
        }
        let results = crate::sync::lock(&key.0.record).iter().cloned().collect::<Vec<_>>();
        let edge = key.0.vertex.as_ref().map(|v| Edge::new(v.digest.clone(), key.0.shape.output()));
        if key.deps().is_empty() {
            let at = self.root(digest);
            self.complete(at, results, edge, key.0.export);
            return Some(at);
        }
        let mut inputs = Vec::with_capacity(key.deps().len());
        for deps in key.deps() {
            let mut links = Vec::with_capacity(deps.len());
            for dep in deps {
                let at = self.by_key.get(&(Arc::as_ptr(&dep.key.0) as KeyPtr)).copied().flatten();
                let link = at.map(|record| ExportLink { record, selector: dep.selector.clone() });
                links.extend(link.filter(|l| !links.contains(l)));
            }
            if links.is_empty() {
                return None;
            }
            inputs.push(links);
        }
        let at = self.linked(digest, inputs);
        self.complete(at, results, edge, key.0.export);
        Some(at)
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

    /// Adds the other chains that lead to `id`, without results. Loops in the stored graph are cut.
    fn backlinks(&mut self, serial: u32, store: &dyn CacheStore<D>, id: KeyId) -> Option<usize> {
        let mut stack = vec![(id, false)];
        while let Some((id, ready)) = stack.pop() {
            if !ready {
                if self.by_id.contains_key(&(serial, id)) {
                    continue;
                }
                self.by_id.insert((serial, id), None);
                stack.push((id, true));
                stack.extend(store.backlinks(&id).into_iter().map(|(from, _)| (from, false)));
                continue;
            }
            let at = self.add_stored(serial, store, id);
            self.by_id.insert((serial, id), at);
        }
        self.by_id.get(&(serial, id)).copied().flatten()
    }

    fn add_stored(&mut self, serial: u32, store: &dyn CacheStore<D>, id: KeyId) -> Option<usize> {
        match id.kind() {
            KeyKind::Random => return None,
            KeyKind::Root => return Some(self.root(id)),
            KeyKind::Linked => {}
        }
        let mut by_digest: HashMap<KeyId, Vec<Vec<ExportLink>>> = HashMap::new();
        for (from, link) in store.backlinks(&id) {
            let inputs = by_digest.entry(link.export_digest()).or_default();
            if inputs.len() <= link.input {
                inputs.resize(link.input + 1, Vec::new());
            }
            if let Some(record) = self.by_id.get(&(serial, from)).copied().flatten() {
                inputs[link.input].push(ExportLink { record, selector: link.selector });
            }
        }
        let mut complete: Vec<_> = by_digest
            .into_iter()
            .filter(|(_, inputs)| inputs.iter().all(|links| !links.is_empty()))
            .collect();
        complete.sort_by_key(|(digest, _)| *digest);
        let mut last = None;
        for (digest, inputs) in complete {
            last = Some(self.linked(digest, inputs));
        }
        last
    }
}

impl<D: Domain> CachedResult<D> {
    /// When the result was made, and its id in the store that it came from or was saved to.
    pub fn record(&self) -> Option<(RecordId, SystemTime)> {
        let record = |key: &Key<D>| crate::sync::lock(&key.0.record).as_ref().map(|r| r.record.clone());
        self.keys.iter().find_map(record).map(|r| (r.id, r.created_at))
    }
}
