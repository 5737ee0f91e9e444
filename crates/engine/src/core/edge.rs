//! An output of a vertex in the tables: the state machine's data.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexSet;

use crate::core::same::{SameKey, Signature};
use crate::core::{EdgeId, NodeId, TaskId, Ticket};
use crate::step::{Counts, InputSight, Level, Stage};
use crate::store::StoreHandle;
use crate::{Domain, Key, KeyId, Record, RecordId, SolveError};

/// Where an edge is.
pub(crate) enum Phase<D: Domain> {
    /// Nothing is known.
    Unprobed,
    /// Keys are looked for: by definition, then by content. How far this has come is the edge's [`Stage`].
    Keyed,
    /// A result is being loaded.
    Loading(TaskId),
    /// The op runs.
    Running,
    /// Its result is being saved.
    Saving,
    /// Another edge is at it.
    Joined(EdgeId<D>),
    /// Here it is.
    Done(Arc<Done<D>>),
    /// It cannot be had.
    Failed(SolveError<D>),
}

impl<D: Domain> Phase<D> {
    /// Whether the edge still looks for a cheap way.
    pub(crate) fn is_searching(&self) -> bool {
        matches!(self, Self::Unprobed | Self::Keyed)
    }
}

/// A result with its keys.
pub(crate) struct Done<D: Domain> {
    pub(crate) output: D::Output,
    /// The keys under which it is kept.
    pub(crate) keys: Vec<Key<D>>,
    pub(crate) sub_keys: Vec<Key<D>>,
    /// Numbers the result: edges with one number have the very same.
    pub(crate) serial: u64,
}

/// A result that may be loaded.
pub(crate) struct Candidate<D: Domain> {
    pub(crate) store: StoreHandle<D>,
    pub(crate) id: KeyId,
    pub(crate) record: Record,
}

impl<D: Domain> Clone for Candidate<D> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), id: self.id, record: self.record.clone() }
    }
}

/// What an edge knows of one input.
pub(crate) struct Slot<D: Domain> {
    pub(crate) input: EdgeId<D>,
    pub(crate) asked: Level,
    /// How many of the input's keys were looked up.
    pub(crate) seen: usize,
    /// Whether its content key was looked up.
    pub(crate) content_seen: bool,
    pub(crate) sight: InputSight,
    /// The keys of this edge that the input's keys lead to, by store.
    pub(crate) leads_to: HashSet<(u32, KeyId)>,
}

/// An output of a vertex that somebody asked for, or that is an input of another.
pub(crate) struct EdgeState<D: Domain> {
    pub(crate) node: NodeId<D>,
    pub(crate) output: usize,
    pub(crate) phase: Phase<D>,
    /// What was told to those who ask: never sinks.
    pub(crate) level: Level,
    /// Keys of this edge. Grows only.
    pub(crate) keys: Vec<Key<D>>,
    pub(crate) candidates: Vec<Candidate<D>>,
    /// Records that were found to be gone.
    pub(crate) gone: HashSet<(u32, RecordId)>,
    pub(crate) slots: Vec<Slot<D>>,
    pub(crate) counts: Counts,
    /// By key of this edge: how many inputs lead to it.
    pub(crate) led_by: HashMap<(u32, KeyId), usize>,
    pub(crate) stage: Stage,
    /// How many of the op's maps were looked up.
    pub(crate) maps_seen: usize,
    /// How many ask for which level.
    pub(crate) asks: [usize; 4],
    /// The edges that ever asked, with the place of this edge among their inputs.
    pub(crate) consumers: IndexSet<(EdgeId<D>, u32)>,
    pub(crate) tickets: Vec<Ticket>,
    /// The edges that this one works for.
    pub(crate) followers: Vec<EdgeId<D>>,
    /// Its entries in the index of equal edges.
    pub(crate) registered: Vec<SameKey>,
    pub(crate) signature: Option<Signature>,
}

impl<D: Domain> EdgeState<D> {
    pub(crate) fn new(node: NodeId<D>, output: usize, inputs: &[EdgeId<D>]) -> Self {
        Self {
            node,
            output,
            phase: Phase::Unprobed,
            level: Level::Nothing,
            keys: Vec::new(),
            candidates: Vec::new(),
            gone: HashSet::new(),
            slots: inputs.iter().map(|input| Slot::new(*input)).collect(),
            counts: Counts::new(inputs.len()),
            led_by: HashMap::new(),
            stage: Stage::Idle,
            maps_seen: 0,
            asks: [0; 4],
            consumers: IndexSet::new(),
            tickets: Vec::new(),
            followers: Vec::new(),
            registered: Vec::new(),
            signature: None,
        }
    }

    /// The most that anybody asks for.
    pub(crate) fn want(&self) -> Level {
        let [_, fast, slow, result] = self.asks;
        match (result > 0, slow > 0, fast > 0) {
            (true, ..) => Level::Result,
            (_, true, _) => Level::Slow,
            (_, _, true) => Level::Fast,
            _ => Level::Nothing,
        }
    }

    pub(crate) fn done(&self) -> Option<&Arc<Done<D>>> {
        match &self.phase {
            Phase::Done(done) => Some(done),
            _ => None,
        }
    }

    /// Whether one of its keys has this id in this store.
    pub(crate) fn has_key(&self, store: &StoreHandle<D>, id: KeyId) -> bool {
        self.keys.iter().any(|k| k.known_in(store) == Some(id))
    }

    /// Forgets what was found, to look again.
    pub(crate) fn look_again(&mut self) {
        self.maps_seen = 0;
        for slot in &mut self.slots {
            (slot.seen, slot.content_seen) = (0, false);
        }
    }

    /// Forgets a failure.
    pub(crate) fn revive(&mut self) {
        self.phase = Phase::Unprobed;
        self.look_again();
    }
}

impl<D: Domain> Slot<D> {
    fn new(input: EdgeId<D>) -> Self {
        Self {
            input,
            asked: Level::Nothing,
            seen: 0,
            content_seen: false,
            sight: InputSight::default(),
            leads_to: HashSet::new(),
        }
    }
}
