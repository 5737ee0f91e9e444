//! The keys of results, and what they follow from.
//!
//! What a key follows from is linked to it for all time, so only such keys of an input count as stand for the very
//! result that was used. A definition may have led to another result before: an input can be known by an old key that
//! its present result has nothing to do with.

use std::sync::Arc;

use crate::context::VertexState;
use crate::core::edge::EdgeState;
use crate::core::{Core, EdgeId};
use crate::key::Shape;
use crate::store::StoreHandle;
use crate::{CacheDigest, CacheMap, Domain, Key, KeyDep, KeyId};

impl<D: Domain> Core<D> {
    /// The keys of a result that the op just made: those of all its maps, or the one that follows from its inputs'
    /// results.
    pub(super) fn made_keys(&self, id: EdgeId<D>) -> Vec<Key<D>> {
        let edge = &self.edges[id];
        if edge.slots.is_empty() {
            return self.root_keys(id);
        }
        let deps = edge.slots.iter().enumerate().map(|(at, slot)| {
            let input = &self.edges[slot.input];
            let selector = self.map(edge).and_then(|m| m.inputs[at].selector.clone());
            let saved = input.done().map(|d| d.keys.as_slice()).unwrap_or_default();
            let mut deps: Vec<KeyDep<D>> =
                saved.iter().map(|key| KeyDep { key: key.clone(), selector: selector.clone() }).collect();
            let content = self.nodes[edge.node].content(at);
            deps.extend(content.map(|key| KeyDep { key: key.clone(), selector: None }));
            deps
        });
        vec![self.linked_key(id, deps.collect())]
    }

    /// The keys of a result that `store` has under `to`.
    pub(super) fn found_keys(&self, id: EdgeId<D>, store: &StoreHandle<D>, to: KeyId) -> Vec<Key<D>> {
        match self.edges[id].slots.is_empty() {
            true => self.root_keys(id),
            false => vec![self.found_key(id, store, to)],
        }
    }

    /// A key of an edge with inputs that `store` knows as `to`, following from those keys of the inputs that lead
    /// there. Where the content of an input does, so does the definition that gave this content.
    pub(super) fn found_key(&self, id: EdgeId<D>, store: &StoreHandle<D>, to: KeyId) -> Key<D> {
        let edge = &self.edges[id];
        let mut deps = Vec::with_capacity(edge.slots.len());
        for (at, slot) in edge.slots.iter().enumerate() {
            let input = &self.edges[slot.input];
            let Some(map) = self.map(edge) else { continue };
            let selector = map.inputs[at].selector.clone();
            let leads = |key: &Key<D>, selector: &Option<kiln_oci::Digest>| {
                let link = self.link(id, map, at, selector.clone());
                key.known_in(store).is_some_and(|from| store.store.links(&from, &link).contains(&to))
            };
            let content = self.nodes[edge.node].content(at).filter(|key| leads(key, &None));
            let same = input.done().filter(|_| content.is_some());
            let same = same.map(|d| d.keys.as_slice()).unwrap_or_default();
            let leading = input.keys.iter().filter(|key| !same.contains(key) && leads(key, &selector));
            let by_definition = same.iter().chain(leading);
            let mut here: Vec<KeyDep<D>> =
                by_definition.map(|key| KeyDep { key: key.clone(), selector: selector.clone() }).collect();
            here.extend(content.map(|key| KeyDep { key: key.clone(), selector: None }));
            deps.push(here);
        }
        let key = self.linked_key(id, deps);
        key.learn(store, to);
        key
    }

    fn map(&self, edge: &EdgeState<D>) -> Option<&Arc<CacheMap<D>>> {
        self.nodes[edge.node].map()
    }

    fn linked_key(&self, id: EdgeId<D>, deps: Vec<Vec<KeyDep<D>>>) -> Key<D> {
        let edge = &self.edges[id];
        let none = || CacheDigest::Random(kiln_oci::Digest::sha256(b""));
        let digest = self.map(edge).map_or_else(none, |m| m.digest.clone());
        new_key(Shape::Linked { digest, output: edge.output }, deps, &self.nodes[edge.node].state)
    }

    fn root_keys(&self, id: EdgeId<D>) -> Vec<Key<D>> {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let key = |map: &Arc<CacheMap<D>>| {
            let root = KeyId::root(&map.digest, edge.output);
            let known = edge.keys.iter().find(|k| k.root_id() == Some(root)).cloned();
            known.unwrap_or_else(|| {
                let shape = Shape::Root { digest: map.digest.clone(), output: edge.output };
                new_key(shape, Vec::new(), &node.state)
            })
        };
        node.maps.iter().map(key).collect()
    }

    /// Whether the keys of the edge's own result lead on: every input was hashed, or its result's keys do. What follows
    /// from a vertex that ignores the cache by definition alone would be found with results of older runs.
    pub(super) fn is_clean(&self, id: EdgeId<D>) -> bool {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let clean = |at: usize, input: EdgeId<D>| node.content(at).is_some() || self.leads_on(input);
        !node.ignore && edge.slots.iter().enumerate().all(|(at, slot)| clean(at, slot.input))
    }

    /// Whether the keys of the edge's result are among those that others look up; also when it is not there yet.
    fn leads_on(&self, id: EdgeId<D>) -> bool {
        let edge = &self.edges[id];
        match edge.done() {
            Some(done) => done.keys.iter().any(|key| self.is_published(edge, key)),
            None => !edge.keys.is_empty(),
        }
    }

    /// Whether others look up this key of the edge.
    pub(super) fn is_published(&self, edge: &EdgeState<D>, key: &Key<D>) -> bool {
        let main = &self.stores[0];
        edge.keys.contains(key) || key.known_in(main).is_some_and(|id| edge.has_key(main, id))
    }
}

pub(super) fn new_key<D: Domain>(
    shape: Shape,
    deps: Vec<Vec<KeyDep<D>>>,
    vertex: &Arc<VertexState<D>>,
) -> Key<D> {
    Key::for_vertex(shape, deps, Some(vertex.clone()), vertex.options.export_cache)
}
