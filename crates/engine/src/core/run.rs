//! Loading a result, or running the op and saving what it gives.

use std::sync::Arc;
use std::time::SystemTime;

use crate::commit;
use crate::core::edge::{Candidate, Done, Phase};
use crate::core::node::Exec;
use crate::core::same::SameKey;
use crate::core::work::{End, Kind};
use crate::core::{Core, EdgeId};
use crate::step::Stage;
use crate::sync::lock;
use crate::{Domain, Key, Op, Outcome, SolveCause};

impl<D: Domain> Core<D> {
    /// Loads the best result that was found, or joins who does.
    pub(super) fn load(&mut self, id: EdgeId<D>) {
        let best = |c: &&Candidate<D>| (c.store.is_main(), c.record.created_at, c.record.id.clone());
        let Some(candidate) = self.edges[id].candidates.iter().max_by_key(best).cloned() else { return };
        if let Some(leader) = self.find_loading(id, &candidate) {
            return self.join(id, leader);
        }
        self.decided(
            id,
            Outcome::Load {
                way: self.way(id),
                store: candidate.store.store.name().into(),
                key: candidate.id,
                record: candidate.record.id.clone(),
            },
        );
        self.register(id, [SameKey::Stored(candidate.store.serial, candidate.id)]);
        let node_id = self.edges[id].node;
        let keys = self.found_keys(id, &candidate.store, candidate.id);
        let (cx, main) = (self.context(node_id), self.stores[0].clone());
        self.enter(id, Stage::Idle, &[]);
        cx.vertex.hub.started(true);
        let (c, k) = (candidate.clone(), keys.clone());
        let task = self.spawn(Kind::Load(id, candidate, keys), cx.cancelled.clone(), async move {
            End::Loaded(commit::load(&main, &cx, &c.store, c.id, &c.record, &k).await)
        });
        self.edges[id].phase = Phase::Loading(task);
    }

    /// Runs the op, or joins who does; unless a last look finds a result.
    pub(super) fn run(&mut self, id: EdgeId<D>) {
        let look = !self.nodes[self.edges[id].node].ignore;
        #[cfg(test)]
        let look = look && !self.is_broken(crate::fuzz::Broken::NoLastLook);
        if look {
            self.last_look(id);
            if !self.edges[id].candidates.is_empty() {
                return self.load(id);
            }
        }
        if let Some(signature) = self.signature(id) {
            if let Some(leader) = self.find_running(id, &signature) {
                return self.join(id, leader);
            }
            self.register_run(id, signature);
        }
        self.decided(id, Outcome::Run(self.reason(id)));
        self.enter(id, Stage::Idle, &[]);
        self.edges[id].phase = Phase::Running;
        self.start_exec(id);
    }

    pub(super) fn start_exec(&mut self, id: EdgeId<D>) {
        let node_id = self.edges[id].node;
        match &mut self.nodes[node_id].exec {
            Exec::Running { wanted_by, .. } => wanted_by.push(id),
            Exec::Yes(_) => self.start_save(id),
            Exec::No => {
                let inputs: Vec<D::Output> = {
                    let slots = self.edges[id].slots.iter();
                    slots.filter_map(|s| self.edges[s.input].done().map(|d| d.output.clone())).collect()
                };
                debug_assert_eq!(inputs.len(), self.edges[id].slots.len(), "an op runs without an input");
                let mut cx = self.context(node_id);
                cx.exec = true;
                let task = self.spawn(Kind::Exec(node_id), cx.cancelled.clone(), async move {
                    let permit = cx.vertex.op.acquire().await;
                    *lock(&cx.permit) = permit;
                    cx.vertex.hub.started(false);
                    End::Ran(cx.vertex.op.exec(&cx, inputs).await)
                });
                self.nodes[node_id].exec = Exec::Running { task, wanted_by: vec![id], stopping: false };
            }
        }
    }

    /// The edge does not want the op's result any more.
    pub(super) fn leave_exec(&mut self, id: EdgeId<D>) {
        let node_id = self.edges[id].node;
        self.unregister(id);
        self.resume(id);
        if let Exec::Running { wanted_by, .. } = &mut self.nodes[node_id].exec {
            wanted_by.retain(|e| *e != id);
        }
        self.idle.push(id);
    }

    /// Back to looking for keys.
    pub(super) fn resume(&mut self, id: EdgeId<D>) {
        self.edges[id].phase = Phase::Keyed;
        self.mark_all(id);
    }

    pub(super) fn start_save(&mut self, id: EdgeId<D>) {
        let edge = &self.edges[id];
        let node = &self.nodes[edge.node];
        let Exec::Yes(outputs) = &node.exec else { return };
        let Some(output) = outputs.get(edge.output).cloned() else {
            let text = format!("output {} was asked for, but there are {}", edge.output, outputs.len());
            let error = self.error(edge.node, SolveCause::Contract(text));
            return self.fail(id, error);
        };
        let (keys, sub_keys) = (self.made_keys(id), node.sub_keys.clone());
        let serial = self.next_serial();
        self.save(id, Done { output, keys, sub_keys, serial });
    }

    /// Saves the edge's result.
    pub(super) fn save(&mut self, id: EdgeId<D>, done: Done<D>) {
        let (main, output, keys) = (self.stores[0].clone(), done.output.clone(), done.keys.clone());
        self.edges[id].phase = Phase::Saving;
        self.spawn(Kind::Save(id, done), Arc::default(), async move {
            End::Saved(commit::save(&main, &keys, &output, SystemTime::now()).await)
        });
    }

    /// Links the keys that an edge followed from to a result that another edge has made.
    pub(super) fn start_links(&mut self, key: Key<D>) {
        let main = self.stores[0].clone();
        self.spawn(Kind::Links, Arc::default(), async move { End::Saved(commit::link(&main, &key).await) });
    }
}
