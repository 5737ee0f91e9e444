//! Imported configs, checked and ready to be asked by the engine.
//!
//! Strangers write these: every index is checked, loops are refused, and what takes time is linear in the config. Layers
//! become a tree (a blob on a node below), so that "the lower part of" is "an ancestor of".

use std::collections::{HashMap, HashSet};

use kiln_engine::{Backlink, KeyId, KeyKind, Link, Record as EngineRecord, RecordId};
use kiln_oci::{Descriptor, Digest};
use sha2::{Digest as _, Sha256};

use crate::{CacheConfig, Error, config};

/// The most layers on each other that a result may have. What has more is no result.
const MAX_DEPTH: usize = 1024;

/// Keys, links and results of one or more configs.
#[derive(Debug, Default)]
pub struct CacheGraph {
    layers: Vec<LayerNode>,
    by_layer: HashMap<(Digest, Option<usize>), usize>,
    keys: Vec<KeyNode>,
    by_id: HashMap<KeyId, usize>,
    links: HashMap<LinkKey, Vec<usize>>,
    results: HashMap<RecordId, (usize, Vec<usize>)>,
    /// Layers and the keys that have them as results.
    held: HashSet<(usize, usize)>,
}

/// A blob on the layers below it.
#[derive(Debug)]
struct LayerNode {
    descriptor: Descriptor,
    parent: Option<usize>,
    depth: usize,
}

#[derive(Debug)]
struct KeyNode {
    id: KeyId,
    /// The digest under which links lead here.
    digest: KeyId,
    /// From which keys, by which input and selector.
    inputs: Vec<Vec<(usize, Option<Digest>)>>,
    results: Vec<(EngineRecord, usize)>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LinkKey {
    from: usize,
    input: usize,
    digest: KeyId,
    selector: Option<Digest>,
}

/// A result of a lower part of a loaded one.
#[derive(Clone, Debug)]
pub struct Lower {
    /// Its key.
    pub key: KeyId,
    /// The result.
    pub record: EngineRecord,
    /// How many of the loaded result's layers it has.
    pub depth: usize,
}

impl CacheGraph {
    /// Adds a config. Results with a layer that `blobs` does not describe are left out.
    ///
    /// # Errors
    /// [`Error::Config`] for an index out of range, an input that nothing leads to, and loops.
    pub fn add(&mut self, config: &CacheConfig, blobs: &HashMap<Digest, Descriptor>) -> Result<(), Error> {
        check(config)?;
        let layers = self.add_layers(config, blobs)?;
        // Links are made when all records have their places: those that lead to one may come after it.
        let places: Vec<usize> = config.records.iter().map(|record| self.add_key(record)).collect();
        for (record, at) in config.records.iter().zip(&places) {
            for (input, sources) in record.inputs.iter().enumerate() {
                for source in sources {
                    self.add_link(places[source.link], *at, input, source.selector.clone());
                }
            }
            self.add_results(record, *at, &layers, config, blobs);
        }
        Ok(())
    }

    /// For each layer of the config its node; `None` for those that cannot be had.
    fn add_layers(
        &mut self,
        config: &CacheConfig,
        blobs: &HashMap<Digest, Descriptor>,
    ) -> Result<Vec<Option<usize>>, Error> {
        let below = |at: usize| config.layers[at].parent;
        let order = topological(config.layers.len(), |at| below(at).into_iter())
            .ok_or_else(|| Error::Config("layers stand on each other in a circle".into()))?;
        let mut nodes = vec![None; config.layers.len()];
        for at in order {
            let parent = below(at).map(|parent| nodes[parent]);
            let Some(descriptor) = blobs.get(&config.layers[at].blob) else { continue };
            nodes[at] = match parent {
                None => self.layer(descriptor, None),
                Some(Some(parent)) => self.layer(descriptor, Some(parent)),
                Some(None) => None,
            };
        }
        Ok(nodes)
    }

    fn layer(&mut self, descriptor: &Descriptor, parent: Option<usize>) -> Option<usize> {
        let key = (descriptor.digest.clone(), parent);
        if let Some(known) = self.by_layer.get(&key) {
            return Some(*known);
        }
        let depth = parent.map_or(0, |parent| self.layers[parent].depth) + 1;
        if depth > MAX_DEPTH {
            return None;
        }
        self.layers.push(LayerNode { descriptor: descriptor.clone(), parent, depth });
        self.by_layer.insert(key, self.layers.len() - 1);
        Some(self.layers.len() - 1)
    }

    fn add_key(&mut self, record: &config::Record) -> usize {
        let digest = KeyId::from_exported(&record.digest);
        let root = record.inputs.is_empty();
        if root && let Some(known) = self.by_id.get(&digest) {
            return *known;
        }
        let at = self.keys.len();
        let id = if root { digest } else { own_id(at) };
        let inputs = vec![Vec::new(); record.inputs.len()];
        self.keys.push(KeyNode { id, digest, inputs, results: Vec::new() });
        self.by_id.insert(id, at);
        at
    }

    fn add_link(&mut self, from: usize, to: usize, input: usize, selector: Option<Digest>) {
        let digest = self.keys[to].digest;
        let targets =
            self.links.entry(LinkKey { from, input, digest, selector: selector.clone() }).or_default();
        // Links to one key come one after another.
        if targets.last() != Some(&to) {
            targets.push(to);
            self.keys[to].inputs[input].push((from, selector));
        }
    }

    fn add_results(
        &mut self,
        record: &config::Record,
        at: usize,
        layers: &[Option<usize>],
        config: &CacheConfig,
        blobs: &HashMap<Digest, Descriptor>,
    ) {
        for result in &record.results {
            if let Some(layer) = layers[result.layer] {
                self.add_result(at, layer, &result.created_at);
            }
        }
        for chain in &record.chains {
            let mut top = None;
            for layer in &chain.layers {
                let blob = blobs.get(&config.layers[*layer].blob);
                top = blob.and_then(|blob| self.layer(blob, top));
                if top.is_none() {
                    break;
                }
            }
            if let Some(top) = top {
                self.add_result(at, top, &chain.created_at);
            }
        }
    }

    fn add_result(&mut self, at: usize, layer: usize, created_at: &kiln_oci::Time) {
        if !self.held.insert((layer, at)) {
            return;
        }
        let id: RecordId = format!("layer:{layer}").into();
        self.results.entry(id.clone()).or_insert_with(|| (layer, Vec::new())).1.push(at);
        let record = EngineRecord { id, created_at: config::moment(created_at) };
        self.keys[at].results.push((record, layer));
    }

    /// Whether it holds no result at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// How many keys it holds, with results or without.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|key| key.id)
    }

    /// The blobs of all results.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().map(|layer| &layer.descriptor)
    }

    /// Whether there is such a key.
    #[must_use]
    pub fn exists(&self, key: &KeyId) -> bool {
        self.by_id.contains_key(key)
    }

    /// The keys that `from` leads to by `link`.
    #[must_use]
    pub fn links(&self, from: &KeyId, link: &Link) -> Vec<KeyId> {
        let Some(from) = self.by_id.get(from) else { return Vec::new() };
        let (input, digest, selector) = (link.input, link.export_digest(), link.selector.clone());
        let targets = self.links.get(&LinkKey { from: *from, input, digest, selector });
        targets.into_iter().flatten().map(|to| self.keys[*to].id).collect()
    }

    /// The results under `key`.
    #[must_use]
    pub fn records(&self, key: &KeyId) -> Vec<EngineRecord> {
        let key = self.by_id.get(key).map(|at| &self.keys[*at]);
        key.into_iter().flat_map(|key| &key.results).map(|(record, _)| record.clone()).collect()
    }

    /// The keys that hold a result.
    #[must_use]
    pub fn keys_of(&self, record: &RecordId) -> Vec<KeyId> {
        let holders = self.results.get(record).map(|(_, holders)| holders);
        holders.into_iter().flatten().map(|at| self.keys[*at].id).collect()
    }

    /// The keys that lead to `key`, and how.
    #[must_use]
    pub fn backlinks(&self, key: &KeyId) -> Vec<Backlink> {
        let Some(key) = self.by_id.get(key).map(|at| &self.keys[*at]) else { return Vec::new() };
        let inputs = key.inputs.iter().enumerate();
        let ways = inputs.flat_map(|(input, sources)| sources.iter().map(move |source| (input, source)));
        ways.map(|(input, (from, selector))| Backlink {
            from: self.keys[*from].id,
            input,
            digest: key.digest,
            selector: selector.clone(),
        })
        .collect()
    }

    /// The layers of a result, lowest first.
    #[must_use]
    pub fn layers_of(&self, record: &RecordId) -> Option<Vec<&Descriptor>> {
        let (layer, _) = self.results.get(record)?;
        let mut all = Vec::with_capacity(self.layers[*layer].depth);
        let mut next = Some(*layer);
        while let Some(at) = next {
            all.push(&self.layers[at].descriptor);
            next = self.layers[at].parent;
        }
        all.reverse();
        Some(all)
    }

    /// The results of keys that lead to `key` which are a lower part of the result `record`.
    #[must_use]
    pub fn lower(&self, key: &KeyId, record: &RecordId) -> Vec<Lower> {
        let (Some(start), Some((top, _))) = (self.by_id.get(key), self.results.get(record)) else {
            return Vec::new();
        };
        let mut part_of = HashMap::new();
        let mut next = Some(*top);
        while let Some(at) = next {
            part_of.insert(at, self.layers[at].depth);
            next = self.layers[at].parent;
        }
        let mut seen = HashSet::from([*start]);
        let (mut stack, mut found) = (vec![*start], Vec::new());
        while let Some(at) = stack.pop() {
            let node = &self.keys[at];
            if at != *start {
                let parts = node.results.iter().filter_map(|(record, layer)| {
                    let depth = *part_of.get(layer)?;
                    Some(Lower { key: node.id, record: record.clone(), depth })
                });
                found.extend(parts);
            }
            stack.extend(
                node.inputs.iter().flatten().map(|(from, _)| *from).filter(|from| seen.insert(*from)),
            );
        }
        found
    }
}

/// Indices in range, every input led to, no loops.
fn check(config: &CacheConfig) -> Result<(), Error> {
    let (layers, records) = (config.layers.len(), config.records.len());
    let bad = |what: String| Err(Error::Config(what));
    for (at, layer) in config.layers.iter().enumerate() {
        if layer.parent.is_some_and(|parent| parent >= layers) {
            return bad(format!("layer {at} stands on one that does not exist"));
        }
    }
    for (at, record) in config.records.iter().enumerate() {
        let results = record.results.iter().map(|result| result.layer);
        let mut used = results.chain(record.chains.iter().flat_map(|chain| chain.layers.iter().copied()));
        if used.any(|layer| layer >= layers) {
            return bad(format!("record {at} has a result of a layer that does not exist"));
        }
        if record.inputs.iter().any(Vec::is_empty) {
            return bad(format!("record {at} has an input that nothing leads to"));
        }
        if record.inputs.iter().flatten().any(|input| input.link >= records) {
            return bad(format!("record {at} follows from one that does not exist"));
        }
    }
    let inputs = |at: usize| config.records[at].inputs.iter().flatten().map(|input| input.link);
    match topological(records, inputs) {
        Some(_) => Ok(()),
        None => bad("records follow from each other in a circle".into()),
    }
}

/// The indices 0 to `len`, each after those that it needs; `None` when some need each other.
fn topological<I: Iterator<Item = usize>>(len: usize, needs: impl Fn(usize) -> I) -> Option<Vec<usize>> {
    let mut waits = vec![0_usize; len];
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); len];
    for (at, wait) in waits.iter_mut().enumerate() {
        for need in needs(at) {
            *wait += 1;
            needed_by[need].push(at);
        }
    }
    let mut order: Vec<usize> = (0..len).filter(|at| waits[*at] == 0).collect();
    let mut next = 0;
    while let Some(at) = order.get(next).copied() {
        next += 1;
        for other in std::mem::take(&mut needed_by[at]) {
            waits[other] -= 1;
            if waits[other] == 0 {
                order.push(other);
            }
        }
    }
    (order.len() == len).then_some(order)
}

/// An id for a key that others find by links only.
fn own_id(at: usize) -> KeyId {
    KeyId::new(KeyKind::Linked, Sha256::digest(format!("record {at}")).into())
}

#[cfg(test)]
mod tests;
