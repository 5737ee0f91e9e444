//! Looking for keys and results of an edge, and its next step.

use std::sync::Arc;

use crate::core::edge::{Candidate, Phase};
use crate::core::keys::new_key;
use crate::core::node::Examined;
use crate::core::{Core, EdgeId, Marks};
use crate::key::Shape;
use crate::step::{Level, Sight, Stage, Step};
use crate::store::StoreHandle;
use crate::{CacheMap, Domain, Key, KeyId, Link, SolveError, Way};

impl<D: Domain> Core<D> {
    /// Takes in the news of a marked edge, does its next step, and tells those who asked.
    pub(super) fn process(&mut self, id: EdgeId<D>, marks: Marks) {
        let before = (self.edges[id].level, self.edges[id].keys.len());
        let slots = match marks {
            Marks::Some(slots) if !self.has_new_maps(id) => slots,
            _ => (0..self.edges[id].slots.len() as u32).collect(),
        };
        if !matches!(self.edges[id].phase, Phase::Failed(_)) {
            self.look_up_maps(id);
            for slot in &slots {
                self.refresh(id, *slot as usize);
            }
        }
        self.decide(id, &slots);
        let sight = self.sight(id);
        let edge = &mut self.edges[id];
        let level = match edge.phase {
            Phase::Done(_) => Level::Result,
            _ => sight.level(),
        };
        edge.level = edge.level.max(level);
        if (edge.level, edge.keys.len()) != before {
            self.tell_consumers(id);
        }
    }

    pub(super) fn tell_consumers(&mut self, id: EdgeId<D>) {
        for at in 0..self.edges[id].consumers.len() {
            let Some((consumer, slot)) = self.edges[id].consumers.get_index(at).copied() else { break };
            self.mark(consumer, Some(slot));
        }
    }

    fn sight(&self, id: EdgeId<D>) -> Sight {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        Sight {
            want: edge.want(),
            ignore: node.ignore,
            has_map: !node.maps.is_empty(),
            maps_done: node.maps_done,
            records: !edge.candidates.is_empty(),
            counts: edge.counts,
        }
    }

    fn decide(&mut self, id: EdgeId<D>, slots: &[u32]) {
        let want = self.edges[id].want();
        match self.edges[id].phase {
            Phase::Done(_) | Phase::Failed(_) | Phase::Saving => return,
            Phase::Loading(_) => {
                if want < Level::Result {
                    self.idle.push(id);
                }
                return;
            }
            Phase::Running => {
                if want == Level::Result {
                    return;
                }
                return self.leave_exec(id);
            }
            Phase::Joined(leader) => {
                if want == Level::Result {
                    return;
                }
                return self.unjoin(id, leader);
            }
            Phase::Unprobed | Phase::Keyed => {}
        }
        let step = self.sight(id).next();
        if matches!(step, Step::Ask { .. } | Step::Run)
            && let Some(error) = self.failure(id, slots)
        {
            return self.fail(id, error);
        }
        match step {
            Step::Rest => {
                self.enter(id, Stage::Idle, slots);
                if want == Level::Nothing {
                    self.idle.push(id);
                }
            }
            Step::Ask { stage, map } => {
                self.edges[id].phase = Phase::Keyed;
                self.enter(id, stage, slots);
                if map {
                    self.start_map(id);
                }
            }
            Step::Load => self.load(id),
            Step::Run => self.run(id),
        }
    }

    /// Whether anything but definitions was looked at so far.
    pub(super) fn way(&self, id: EdgeId<D>) -> Way {
        let edge = &self.edges[id];
        let hashed = (0..edge.slots.len()).any(|i| self.nodes[edge.node].content(i).is_some());
        if hashed { Way::Content } else { Way::Definition }
    }

    /// The error of the vertex, or of an input that this edge needs.
    fn failure(&self, id: EdgeId<D>, slots: &[u32]) -> Option<SolveError<D>> {
        let edge = &self.edges[id];
        if let Some(error) = &self.nodes[edge.node].failed {
            return Some(error.clone());
        }
        slots.iter().find_map(|at| {
            let slot = &edge.slots[*at as usize];
            match &self.edges[slot.input].phase {
                Phase::Failed(error) if slot.asked > Level::Nothing => Some(error.clone()),
                _ => None,
            }
        })
    }

    /// Asks of the inputs what belongs to `stage`: of all when it is a new one, else of those with news.
    pub(super) fn enter(&mut self, id: EdgeId<D>, stage: Stage, slots: &[u32]) {
        if self.edges[id].stage == stage {
            for slot in slots {
                let level = self.edges[id].slots[*slot as usize].sight.ask(stage);
                self.ask(id, *slot, level);
            }
            return;
        }
        self.edges[id].stage = stage;
        for slot in 0..self.edges[id].slots.len() {
            let level = self.edges[id].slots[slot].sight.ask(stage);
            self.ask(id, slot as u32, level);
        }
    }

    fn ask(&mut self, id: EdgeId<D>, at: u32, level: Level) {
        let slot = &mut self.edges[id].slots[at as usize];
        let (input, old) = (slot.input, slot.asked);
        if old == level {
            return;
        }
        slot.asked = level;
        let target = &mut self.edges[input];
        let before = target.want();
        let news = matches!(target.phase, Phase::Done(_) | Phase::Failed(_)) || target.level > Level::Nothing;
        target.asks[old as usize] = target.asks[old as usize].saturating_sub(1);
        target.asks[level as usize] += 1;
        let first = target.consumers.insert((id, at));
        if target.want() != before {
            self.mark(input, None);
        }
        if news && (first || level > old) {
            self.mark(id, Some(at));
        }
    }

    /// Looks up the keys of the op's maps: all there is to know for an op without inputs.
    fn look_up_maps(&mut self, id: EdgeId<D>) {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let (from, output) = (edge.maps_seen, edge.output);
        let wanted = edge.slots.is_empty() && !node.ignore;
        let maps: Vec<Arc<CacheMap<D>>> = node.maps[from..].to_vec();
        self.edges[id].maps_seen = from + maps.len();
        for map in maps.iter().filter(|_| wanted) {
            self.look_up_root(id, map, output);
        }
    }

    fn has_new_maps(&self, id: EdgeId<D>) -> bool {
        let edge = &self.edges[id];
        edge.maps_seen < self.nodes[edge.node].maps.len()
    }

    fn look_up_root(&mut self, id: EdgeId<D>, map: &CacheMap<D>, output: usize) {
        let node = &self.nodes[self.edges[id].node];
        let (vertex, stores) = (node.state.clone(), node.stores.clone());
        let root = KeyId::root(&map.digest, output);
        let known: Vec<&StoreHandle<D>> = stores.iter().filter(|s| s.store.exists(&root)).collect();
        if known.is_empty() {
            return;
        }
        if !self.edges[id].keys.iter().any(|k| k.root_id() == Some(root)) {
            let shape = Shape::Root { digest: map.digest.clone(), output };
            self.edges[id].keys.push(new_key(shape, Vec::new(), &vertex));
        }
        for store in known {
            self.look_up_records(id, store, root);
        }
    }

    /// Adds the results under a key of this edge to those that may be loaded.
    pub(super) fn look_up_records(&mut self, id: EdgeId<D>, store: &StoreHandle<D>, key: KeyId) {
        let edge = &mut self.edges[id];
        for record in store.store.records(&key) {
            let known = |c: &Candidate<D>| c.store == *store && c.record.id == record.id;
            if !edge.gone.contains(&(store.serial, record.id.clone())) && !edge.candidates.iter().any(known) {
                edge.candidates.push(Candidate { store: store.clone(), id: key, record });
            }
        }
    }

    /// Takes in the news of one input.
    pub(super) fn refresh(&mut self, id: EdgeId<D>, at: usize) {
        let (node_id, input) = (self.edges[id].node, self.edges[id].slots[at].input);
        let Some(map) = self.nodes[node_id].map().cloned() else {
            return self.note_input(id, at, None);
        };
        let content = self.nodes[node_id].content(at).cloned();
        let keys: Vec<Key<D>> = self.edges[input].keys[self.edges[id].slots[at].seen..].to_vec();
        self.edges[id].slots[at].seen += keys.len();
        if !self.nodes[node_id].ignore {
            let selector = map.inputs[at].selector.clone();
            #[cfg(test)]
            let selector = selector.filter(|_| !self.is_broken(crate::fuzz::Broken::NoSelector));
            let link = self.link(id, &map, at, selector);
            for key in keys {
                self.follow_key(id, at, &key, &link);
            }
            if let Some(key) = content
                && !std::mem::replace(&mut self.edges[id].slots[at].content_seen, true)
            {
                let link = self.link(id, &map, at, None);
                self.follow_key(id, at, &key, &link);
            }
        }
        self.note_input(id, at, Some(&map));
    }

    pub(super) fn link(
        &self,
        id: EdgeId<D>,
        map: &CacheMap<D>,
        input: usize,
        selector: Option<kiln_oci::Digest>,
    ) -> Link {
        let output = self.edges[id].output;
        #[cfg(test)]
        let output = if self.is_broken(crate::fuzz::Broken::AnyOutput) { 0 } else { output };
        Link { input, output, digest: map.digest.clone(), selector }
    }

    /// Updates the counts by what the input has reached, and examines it when it is time.
    fn note_input(&mut self, id: EdgeId<D>, at: usize, map: Option<&CacheMap<D>>) {
        let (node_id, input) = (self.edges[id].node, self.edges[id].slots[at].input);
        let level = self.edges[input].level;
        let examined = match self.nodes[node_id].examined[at] {
            Examined::Yes(_) => true,
            Examined::No | Examined::Running(_) => false,
        };
        let edge = &mut self.edges[id];
        let slot = &mut edge.slots[at];
        let old = slot.sight;
        slot.sight.level = level;
        slot.sight.leads = !slot.leads_to.is_empty();
        if let Some(map) = map {
            let flags = &map.inputs[at];
            slot.sight.by_content = flags.by_content;
            slot.sight.hashed = examined;
            slot.sight.unexamined = (flags.by_content || flags.prepare) && !examined;
        }
        let (new, asked) = (slot.sight, slot.asked);
        edge.counts.change(old, new);
        if new.unexamined && asked == Level::Result && level == Level::Result {
            self.examine(id, at);
        }
    }

    /// Where a key of input `at` leads to.
    fn follow_key(&mut self, id: EdgeId<D>, at: usize, key: &Key<D>, link: &Link) {
        let stores = self.nodes[self.edges[id].node].stores.clone();
        for store in &stores {
            let Some(from) = key.known_in(store) else { continue };
            for to in store.store.links(&from, link) {
                self.led_to(id, at, store, to);
            }
        }
    }

    fn led_to(&mut self, id: EdgeId<D>, at: usize, store: &StoreHandle<D>, to: KeyId) {
        let edge = &mut self.edges[id];
        if !edge.slots[at].leads_to.insert((store.serial, to)) {
            return;
        }
        let count = edge.led_by.entry((store.serial, to)).or_default();
        *count += 1;
        let enough = *count == edge.slots.len();
        #[cfg(test)]
        let enough = enough || self.is_broken(crate::fuzz::Broken::AnyInput);
        if enough {
            self.matched(id, store, to);
        }
    }

    /// All inputs lead to this key. If it took a look at their content, the next build shall find it by definition.
    fn matched(&mut self, id: EdgeId<D>, store: &StoreHandle<D>, to: KeyId) {
        if !self.edges[id].has_key(store, to) {
            let key = self.found_key(id, store, to);
            if store.is_main() && self.way(id) == Way::Content {
                self.start_links(key.clone());
            }
            self.edges[id].keys.push(key);
        }
        self.look_up_records(id, store, to);
    }

    /// A last look before the op runs: everything again, as other edges may have saved something meanwhile.
    pub(super) fn last_look(&mut self, id: EdgeId<D>) {
        self.edges[id].look_again();
        self.look_up_maps(id);
        for slot in 0..self.edges[id].slots.len() {
            self.refresh(id, slot);
        }
        let node = &self.nodes[self.edges[id].node];
        let stores = node.stores.clone();
        for at in 0..self.edges[id].keys.len() {
            for store in &stores {
                let known = self.edges[id].keys[at].known_in(store);
                if let Some(key) = known {
                    self.look_up_records(id, store, key);
                }
            }
        }
    }
}
