//! Edges that reach the same key are one execution.
//!
//! Before an edge loads or runs, it looks whether another one is at the same thing, or has it: loading under the same
//! key of the same store, or running with the same op digest and, input by input, a key, a content or a result in
//! common. If so it joins that one, its leader. A leader whose load fails lets its followers go on by themselves.

use std::collections::HashMap;

use kiln_oci::Digest;

use crate::core::edge::{Candidate, Done, EdgeState, Phase};
use crate::core::{Core, EdgeId};
use crate::step::{Level, Stage};
use crate::sync::lock;
use crate::{CacheDigest, Domain, KeyId, KeyKind, Outcome};

/// A thing that an input of two edges may have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Common {
    /// A key of a store (0 for those that are the same in all), used in this way.
    Key(u32, KeyId, Option<Digest>),
    /// A result, used in this way.
    Result(u64, Option<Digest>),
}

/// What an edge is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum SameKey {
    /// It has, or loads, the result under a key of a store.
    Stored(u32, KeyId),
    /// It runs an op of this digest for this output, and its first input has this.
    Run(CacheDigest, usize, Common),
    /// It runs an op without inputs that has this root key.
    Root(KeyId),
}

/// What an edge ran with: an op's digest and output, and for each input what it may have in common with others.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    digest: CacheDigest,
    output: usize,
    roots: Vec<KeyId>,
    inputs: Vec<Vec<Common>>,
}

impl Signature {
    fn keys(&self) -> Vec<SameKey> {
        let first = self.inputs.first().map(Vec::as_slice).unwrap_or_default();
        let run = |c: &Common| SameKey::Run(self.digest.clone(), self.output, c.clone());
        self.roots.iter().map(|id| SameKey::Root(*id)).chain(first.iter().map(run)).collect()
    }

    fn equals(&self, other: &Self) -> bool {
        if self.inputs.is_empty() {
            return self.roots.iter().any(|r| other.roots.contains(r));
        }
        let common = |(a, b): (&Vec<Common>, &Vec<Common>)| a.iter().any(|c| b.contains(c));
        (&self.digest, self.output) == (&other.digest, other.output)
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(common)
    }
}

/// Which edges are at work, or have a result, by what they are found by.
pub(crate) struct SameIndex<D: Domain>(HashMap<SameKey, Vec<EdgeId<D>>>);

impl<D: Domain> SameIndex<D> {
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, key: &SameKey) -> &[EdgeId<D>] {
        self.0.get(key).map(Vec::as_slice).unwrap_or_default()
    }
}

impl<D: Domain> Core<D> {
    /// What the edge would run with.
    pub(super) fn signature(&self, id: EdgeId<D>) -> Option<Signature> {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let digest = node.map()?.digest.clone();
        let roots = match edge.slots.is_empty() {
            true => node.maps.iter().map(|m| KeyId::root(&m.digest, edge.output)).collect(),
            false => Vec::new(),
        };
        let mut inputs = Vec::with_capacity(edge.slots.len());
        for (at, slot) in edge.slots.iter().enumerate() {
            let input = &self.edges[slot.input];
            let selector = &node.map()?.inputs[at].selector;
            let mut commons: Vec<Common> = Vec::new();
            let saved = input.done().map(|d| d.keys.as_slice()).unwrap_or_default();
            for key in saved.iter().filter(|key| self.is_published(input, key)) {
                commons.extend(key.root_id().map(|id| Common::Key(0, id, selector.clone())));
                let ids = key.ids().into_iter();
                commons.extend(ids.map(|(s, id)| Common::Key(s.serial, id, selector.clone())));
            }
            let content = node.content(at).and_then(|k| k.root_id());
            commons.extend(content.map(|id| Common::Key(0, id, None)));
            commons.extend(input.done().map(|d| Common::Result(d.serial, selector.clone())));
            inputs.push(commons);
        }
        Some(Signature { digest, output: edge.output, roots, inputs })
    }

    /// An edge that is at, or has, what `id` is about to run.
    pub(super) fn find_running(&self, id: EdgeId<D>, signature: &Signature) -> Option<EdgeId<D>> {
        let edge = &self.edges[id];
        let stores = &self.nodes[edge.node].stores;
        let stored = edge.keys.iter().flat_map(|key| {
            stores.iter().filter_map(|s| key.known_in(s).map(|id| SameKey::Stored(s.serial, id)))
        });
        let stored = stored
            .filter_map(|key| self.same.find(&key).iter().copied().find(|f| self.may_join(id, *f)))
            .next();
        stored.or_else(|| {
            signature.keys().iter().flat_map(|key| self.same.find(key)).copied().find(|other| {
                let same = self.edges[*other].signature.as_ref().is_some_and(|s| s.equals(signature));
                same && self.may_join(id, *other)
            })
        })
    }

    /// An edge that is at, or has, what `id` is about to load.
    pub(super) fn find_loading(&self, id: EdgeId<D>, candidate: &Candidate<D>) -> Option<EdgeId<D>> {
        let key = SameKey::Stored(candidate.store.serial, candidate.id);
        self.same.find(&key).iter().copied().find(|other| self.may_join(id, *other))
    }

    /// A vertex that ignores the cache joins no other than those that do too, and none joins one of another meaning.
    fn may_join(&self, id: EdgeId<D>, other: EdgeId<D>) -> bool {
        #[cfg(test)]
        if self.is_broken(crate::fuzz::Broken::NeverJoin) {
            return false;
        }
        let (Some(edge), Some(leader)) = (self.edges.get(id), self.edges.get(other)) else { return false };
        let ignoring = !self.nodes[edge.node].ignore || self.nodes[leader.node].ignore;
        #[cfg(test)]
        let ignoring = ignoring || self.is_broken(crate::fuzz::Broken::JoinCached);
        let at_work = match &leader.phase {
            Phase::Loading(task) => !self.is_stopping(*task),
            Phase::Running | Phase::Saving | Phase::Done(_) => true,
            _ => false,
        };
        let meaning = |edge: &EdgeState<D>| &self.nodes[edge.node].state.options.meaning;
        id != other && ignoring && at_work && meaning(edge) == meaning(leader)
    }

    /// Others may find `id` by this.
    pub(super) fn register(&mut self, id: EdgeId<D>, keys: impl IntoIterator<Item = SameKey>) {
        for key in keys {
            let found = self.same.0.entry(key.clone()).or_default();
            if !found.contains(&id) {
                found.push(id);
                self.edges[id].registered.push(key);
            }
        }
    }

    pub(super) fn register_run(&mut self, id: EdgeId<D>, signature: Signature) {
        self.register(id, signature.keys());
        self.edges[id].signature = Some(signature);
    }

    /// Others find it no more.
    pub(super) fn unregister(&mut self, id: EdgeId<D>) {
        let Some(edge) = self.edges.get_mut(id) else { return };
        edge.signature = None;
        for key in std::mem::take(&mut edge.registered) {
            if let Some(found) = self.same.0.get_mut(&key) {
                found.retain(|e| *e != id);
                if found.is_empty() {
                    self.same.0.remove(&key);
                }
            }
        }
    }

    /// `id` lets `leader` do the work.
    pub(super) fn join(&mut self, id: EdgeId<D>, leader: EdgeId<D>) {
        let other = self.nodes[self.edges[leader].node].state.digest.clone();
        self.decided(id, Outcome::Join(other));
        self.enter(id, Stage::Idle, &[]);
        if let Some(done) = self.edges[leader].done().cloned() {
            return self.finish_joined(id, &done);
        }
        self.edges[id].phase = Phase::Joined(leader);
        self.edges[leader].followers.push(id);
        self.edges[leader].asks[Level::Result as usize] += 1;
        self.mark(leader, None);
        let (node, leading) = (self.edges[id].node, self.edges[leader].node);
        for job in self.nodes[node].jobs.clone() {
            self.hold(leading, job);
        }
        self.nodes[node].state.hub.follow(&self.nodes[leading].state.hub);
    }

    /// `id` goes on by itself.
    pub(super) fn unjoin(&mut self, id: EdgeId<D>, leader: EdgeId<D>) {
        self.part(id, leader);
        self.edges[id].phase = Phase::Keyed;
        self.mark_all(id);
    }

    /// `leader` works for `id` no more.
    pub(super) fn part(&mut self, id: EdgeId<D>, leader: EdgeId<D>) {
        let Some(edge) = self.edges.get_mut(leader) else { return };
        edge.followers.retain(|f| *f != id);
        let asks = &mut edge.asks[Level::Result as usize];
        *asks = asks.saturating_sub(1);
        let (own, other) = (&self.nodes[self.edges[id].node], &self.nodes[self.edges[leader].node]);
        own.state.hub.unfollow(&other.state.hub);
        self.mark(leader, None);
    }

    /// The result of a leader, under the follower's own keys too. A leader whose key was not worth saving may have a
    /// follower whose key is.
    pub(super) fn finish_joined(&mut self, id: EdgeId<D>, leader: &Done<D>) {
        let (output, sub_keys) = (leader.output.clone(), leader.sub_keys.clone());
        let mut done = Done { output, keys: leader.keys.clone(), sub_keys, serial: leader.serial };
        if self.edges[id].slots.is_empty() {
            return self.finish(id, done);
        }
        let main = self.stores[0].clone();
        let saved = leader.keys.iter().find_map(|k| k.known_in(&main));
        let Some(saved) = saved.filter(|id| id.kind() != KeyKind::Random) else {
            done.keys = self.made_keys(id);
            return self.save(id, done);
        };
        let own = self.found_key(id, &main, saved);
        if own.deps().iter().all(|deps| !deps.is_empty()) {
            *lock(&own.0.record) = leader.keys.iter().find_map(|k| lock(&k.0.record).clone());
            self.start_links(own.clone());
            done.keys.insert(0, own);
        }
        self.finish(id, done);
    }
}
