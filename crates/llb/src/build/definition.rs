//! From states to definitions.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use kiln_oci::{Digest, Platform};
use kiln_proto::{OpMetadata, SmallMap, pb};
use sha2::{Digest as _, Sha256};

use super::constraints::merge_metadata;
use super::encode::Scratch;
use super::node::{Kind, Node, Output};
use super::{SourceMap, State};
use crate::caps::CapSet;
use crate::{Error, caps, marshal};

/// What ops take when they say nothing themselves.
#[derive(Debug, Clone)]
pub struct Marshal {
    /// The platform of ops that have none. This machine's by default.
    pub platform: Platform,
    /// Tells the local sources of this definition from those of others. Random, from the caller.
    pub unique_id: String,
    /// What the daemon can do, if known: then ops rely on it.
    pub caps: Option<CapSet>,
}

impl Marshal {
    /// This machine's platform, unknown capabilities.
    pub fn new(unique_id: impl Into<String>) -> Self {
        Self { platform: Platform::host(), unique_id: unique_id.into(), caps: None }
    }
}

impl State {
    /// Encodes everything that the state needs. Scratch is an empty definition.
    ///
    /// # Errors
    /// When a local source has neither a session nor a unique id.
    pub fn marshal(&self, options: &Marshal) -> Result<pb::Definition, Error> {
        let Some(output) = self.output.as_ref().map(resolve).transpose()?.flatten() else {
            return Ok(pb::Definition::default());
        };
        let mut writer = Writer::new(options);
        writer.write(&output.node)?;
        let digest = writer.digest(writer.place(&output.node)?).to_owned();
        let root = pb::Op { inputs: vec![pb::Input { digest, index: output.index }], ..pb::Op::default() };
        writer.finish(root)
    }
}

/// Encodes nodes, inputs first.
pub(super) struct Writer<'a> {
    pub(super) options: &'a Marshal,
    /// Places in `ops` by address: nodes stay alive as long as the state that is being encoded.
    done: HashMap<*const Node, usize, BuildHasherDefault<QuickHasher>>,
    /// Places in `ops` by digest: equal ops are one.
    known: HashMap<[u8; 32], usize, BuildHasherDefault<QuickHasher>>,
    ops: Vec<Encoded>,
    /// Their bytes.
    def: Vec<Bytes>,
    maps: Vec<Arc<SourceMap>>,
    /// Capabilities of the op at hand.
    caps: Vec<&'static str>,
    /// Sets of capabilities used last; ops of a kind share them.
    cap_sets: Vec<(Vec<&'static str>, SmallMap<bool>)>,
    pub(super) scratch: Scratch,
}

/// What is said about an op.
struct Encoded {
    /// Its SHA-256.
    value: [u8; 32],
    /// The same as text.
    digest: String,
    metadata: OpMetadata,
    locations: Vec<pb::Location>,
}

/// How many sets of capabilities are remembered.
const CAP_SETS: usize = 8;

impl<'a> Writer<'a> {
    fn new(options: &'a Marshal) -> Self {
        Self {
            options,
            done: HashMap::default(),
            known: HashMap::default(),
            ops: Vec::new(),
            def: Vec::new(),
            maps: Vec::new(),
            caps: Vec::new(),
            cap_sets: Vec::new(),
            scratch: Scratch::new(options),
        }
    }

    /// Depth first without recursion.
    fn write(&mut self, root: &Arc<Node>) -> Result<(), Error> {
        let mut stack = vec![(root, false)];
        while let Some((node, inputs_done)) = stack.pop() {
            if self.done.contains_key(&Arc::as_ptr(node)) {
                continue;
            }
            if inputs_done {
                // Those that wait come too, and the root: growing step by step would move everything time and again.
                self.ops.reserve(stack.len() + 2);
                self.def.reserve(stack.len() + 2);
                self.done.reserve(stack.len() + 1);
                self.known.reserve(stack.len() + 1);
                self.add(node)?;
                continue;
            }
            stack.push((node, true));
            for input in node.inputs.iter().rev() {
                if let Some(input) = resolve(input)? {
                    stack.push((&input.node, false));
                }
            }
        }
        Ok(())
    }

    /// The place of a node that was written.
    pub(super) fn place(&self, node: &Arc<Node>) -> Result<usize, Error> {
        let place = self.done.get(&Arc::as_ptr(node)).copied();
        place.ok_or_else(|| Error::Build("an input was not encoded".into()))
    }

    /// The digest of the op at a place, which [`Self::place`] gave.
    pub(super) fn digest(&self, place: usize) -> &str {
        self.ops.get(place).map_or("", |op| &op.digest)
    }

    fn add(&mut self, node: &Arc<Node>) -> Result<(), Error> {
        let constraints = &node.constraints;
        self.caps.clear();
        node.note_caps(&mut self.caps);
        let raw = match &node.kind {
            Kind::Raw { raw } => raw.clone(),
            _ => {
                let mut cap = None;
                let raw = self.encode(node, &mut cap)?;
                self.caps.extend(cap);
                raw
            }
        };
        let value = Sha256::digest(&raw).into();
        let metadata = constraints.to_metadata(self.cap_set());
        let place = match self.known.entry(value) {
            Entry::Vacant(new) => {
                new.insert(self.ops.len());
                self.ops.push(Encoded::new(value, metadata));
                self.def.push(raw);
                self.ops.len() - 1
            }
            Entry::Occupied(known) => {
                let place = *known.get();
                merge_metadata(&mut self.ops[place].metadata, metadata);
                place
            }
        };
        for location in constraints.locations() {
            let source_index = self.source_map(&location.map) as i32;
            let location = pb::Location { source_index, ranges: location.ranges.to_pb() };
            let locations = &mut self.ops[place].locations;
            if locations.is_empty() {
                // Most have one.
                locations.reserve_exact(1);
            }
            locations.push(location);
        }
        self.done.insert(Arc::as_ptr(node), place);
        Ok(())
    }

    /// The capabilities of the op at hand as metadata has them.
    fn cap_set(&mut self) -> SmallMap<bool> {
        // Names are constants, and most are told apart by where they are.
        let same = |known: &Vec<&'static str>| {
            known.len() == self.caps.len() && known.iter().zip(&self.caps).all(|(a, b)| std::ptr::eq(*a, *b))
        };
        if let Some((_, set)) = self.cap_sets.iter().find(|(known, _)| same(known)) {
            return set.clone();
        }
        let set: SmallMap<bool> = self.caps.iter().map(|&cap| (cap, true)).collect();
        if self.cap_sets.len() == CAP_SETS {
            self.cap_sets.remove(0);
        }
        self.cap_sets.push((self.caps.clone(), set.clone()));
        set
    }

    fn source_map(&mut self, map: &Arc<SourceMap>) -> usize {
        let same = |m: &Arc<SourceMap>| {
            Arc::ptr_eq(m, map)
                || (m.filename == map.filename && m.language == map.language && m.data == map.data)
        };
        self.maps.iter().position(same).unwrap_or_else(|| {
            self.maps.push(Arc::clone(map));
            self.maps.len() - 1
        })
    }

    fn finish(mut self, root: pb::Op) -> Result<pb::Definition, Error> {
        let raw: Bytes = marshal::op(root);
        let mut needed = vec![caps::CONSTRAINTS, caps::PLATFORM];
        let metadata = || self.ops.iter().map(|op| &op.metadata);
        for (is_needed, cap) in [
            (metadata().any(|m| m.ignore_cache), caps::META_IGNORE_CACHE),
            (metadata().any(|m| !m.description.is_empty()), caps::META_DESCRIPTION),
            (metadata().any(|m| m.export_cache.is_some()), caps::META_EXPORT_CACHE),
        ] {
            if is_needed {
                needed.push(cap);
            }
        }
        let caps = needed.into_iter().map(|cap| (cap, true)).collect();
        let metadata = OpMetadata { caps, ..OpMetadata::default() };
        self.ops.push(Encoded::new(Sha256::digest(&raw).into(), metadata));
        self.def.push(raw);
        let infos = self.maps.iter().map(|map| source_info(map, self.options)).collect::<Result<_, _>>()?;
        // Maps are made much faster from what is in order already.
        let mut order: Vec<(u64, usize)> = self.ops.iter().map(|op| prefix(&op.value)).zip(0..).collect();
        order.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| self.ops[a.1].value.cmp(&self.ops[b.1].value))
        });
        let (mut metadata, mut places) = (Vec::with_capacity(order.len()), Vec::with_capacity(order.len()));
        for (_, place) in order {
            let op = &mut self.ops[place];
            let locations = std::mem::take(&mut op.locations);
            if !locations.is_empty() {
                places.push((op.digest.clone(), pb::Locations { locations }));
            }
            metadata.push((std::mem::take(&mut op.digest), std::mem::take(&mut op.metadata)));
        }
        let metadata = metadata.into_iter().collect();
        let source = pb::Source { locations: places.into_iter().collect(), infos };
        Ok(pb::Definition { def: self.def, metadata, source: Some(source) })
    }
}

impl Encoded {
    fn new(value: [u8; 32], metadata: OpMetadata) -> Self {
        Self { value, digest: Digest::text_of_sha256(&value), metadata, locations: Vec::new() }
    }
}

/// The beginning of a digest, in the same order as digests are.
fn prefix(value: &[u8; 32]) -> u64 {
    value.first_chunk().map_or(0, |chunk| u64::from_be_bytes(*chunk))
}

/// For keys that are spread well at their ends: digests, which are random, and addresses.
#[derive(Default)]
pub(super) struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(end) = bytes.last_chunk() {
            self.write_u64(u64::from_le_bytes(*end));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn source_info(map: &SourceMap, options: &Marshal) -> Result<pb::SourceInfo, Error> {
    Ok(pb::SourceInfo {
        filename: map.filename.clone(),
        data: map.data.clone(),
        definition: map.state.as_ref().map(|s| s.marshal(options)).transpose()?,
        language: map.language.clone(),
    })
}

/// Follows deferred outputs to what they stand for; `None` is scratch.
pub(super) fn resolve(output: &Output) -> Result<Option<&Output>, Error> {
    let mut output = output;
    while let Kind::Deferred(slot) = &output.node.kind {
        match slot.get() {
            Some(Some(filled)) => output = filled,
            Some(None) => return Ok(None),
            None => return Err(Error::Build("a deferred state was never filled".into())),
        }
    }
    Ok(Some(output))
}
