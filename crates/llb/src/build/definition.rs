//! From states to definitions.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kiln_oci::Platform;
use kiln_proto::{ByDigest, DigestKey, OpMetadata, SmallMap, pb};
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
        writer.finish(output.index)
    }
}

/// The value of a digest.
pub(super) type Sha256Value = [u8; 32];

/// Encodes nodes, inputs first.
pub(super) struct Writer<'a> {
    pub(super) options: &'a Marshal,
    /// Digests, by address, of the nodes that several others take: nodes stay alive as long as the state that is being encoded.
    done: HashMap<*const Node, Sha256Value, BuildHasherDefault<QuickHasher>>,
    /// Digests of what was written and is still to be taken by other nodes, in the order in which they take it; `None` is scratch.
    ready: Vec<Option<Sha256Value>>,
    /// The ops' bytes. Equal ones become one at the end, all at once: their digests are spread over more memory than is at hand.
    def: Vec<Bytes>,
    /// What is said about them, in the same order.
    metadata: Vec<(DigestKey, OpMetadata)>,
    /// Where they stand, in the same order.
    locations: Vec<pb::Locations>,
    maps: Vec<Arc<SourceMap>>,
    /// Capabilities of the op at hand.
    caps: Vec<&'static str>,
    /// Sets of capabilities used last; ops of a kind share them.
    cap_sets: Vec<(Vec<&'static str>, SmallMap<bool>)>,
    pub(super) scratch: Scratch,
}

/// How many sets of capabilities are remembered.
const CAP_SETS: usize = 8;

impl<'a> Writer<'a> {
    fn new(options: &'a Marshal) -> Self {
        Self {
            options,
            done: HashMap::default(),
            ready: Vec::new(),
            def: Vec::new(),
            metadata: Vec::new(),
            locations: Vec::new(),
            maps: Vec::new(),
            caps: Vec::new(),
            cap_sets: Vec::new(),
            scratch: Scratch::new(options),
        }
    }

    /// Depth first without recursion: what a node takes is ready when it is left.
    fn write(&mut self, root: &Arc<Node>) -> Result<(), Error> {
        enum Step<'n> {
            Enter { node: &'n Arc<Node>, is_shared: bool },
            Leave { node: &'n Arc<Node>, is_shared: bool },
            Scratch,
        }
        let mut stack = vec![Step::Enter { node: root, is_shared: false }];
        while let Some(step) = stack.pop() {
            match step {
                Step::Scratch => self.ready.push(None),
                Step::Enter { node, is_shared } => {
                    let known = if is_shared { self.done.get(&Arc::as_ptr(node)) } else { None };
                    if let Some(&digest) = known {
                        self.ready.push(Some(digest));
                        continue;
                    }
                    stack.push(Step::Leave { node, is_shared });
                    for input in node.inputs.iter().rev() {
                        stack.push(match resolve(input)? {
                            None => Step::Scratch,
                            // What one node takes, and that not by way of a deferred output, is met once.
                            Some(Output { node, .. }) => Step::Enter {
                                node,
                                is_shared: Arc::strong_count(node) > 1 || !Arc::ptr_eq(node, &input.node),
                            },
                        });
                    }
                }
                Step::Leave { node, is_shared } => {
                    // Those that wait come too, and the root: growing step by step would move everything time and again.
                    self.def.reserve(stack.len() + 2);
                    self.metadata.reserve(stack.len() + 2);
                    self.locations.reserve(stack.len() + 2);
                    let digest = self.add(node)?;
                    self.ready.push(Some(digest));
                    if is_shared {
                        self.done.insert(Arc::as_ptr(node), digest);
                    }
                }
            }
        }
        Ok(())
    }

    /// The digests of what a node takes, in its order.
    pub(super) fn take_ready(&mut self, node: &Node) -> std::vec::Drain<'_, Option<Sha256Value>> {
        self.ready.drain(self.ready.len().saturating_sub(node.inputs.len())..)
    }

    /// Writes a node whose inputs are ready.
    fn add(&mut self, node: &Node) -> Result<Sha256Value, Error> {
        let constraints = &node.constraints;
        self.caps.clear();
        node.note_caps(&mut self.caps);
        let raw = match &node.kind {
            Kind::Raw { raw } => {
                self.take_ready(node);
                raw.clone()
            }
            _ => {
                let mut cap = None;
                let raw = self.encode(node, &mut cap)?;
                self.caps.extend(cap);
                raw
            }
        };
        let digest = Sha256::digest(&raw).into();
        let mut places = pb::Locations::default();
        for location in constraints.locations() {
            let source_index = self.source_map(&location.map) as i32;
            places.locations.push(pb::Location { source_index, ranges: location.ranges.clone() });
        }
        let metadata = constraints.to_metadata(self.cap_set());
        self.def.push(raw);
        self.metadata.push((DigestKey::from(digest), metadata));
        self.locations.push(places);
        Ok(digest)
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

    /// The definition of an output of the node that was written last.
    fn finish(mut self, output: i64) -> Result<pb::Definition, Error> {
        let last = self.ready.pop().flatten().ok_or_else(|| Error::Build("nothing was encoded".into()))?;
        let (mut metadata, merged) = ByDigest::of_all(self.metadata, merge_metadata);
        for &(first, later) in &merged {
            let more = std::mem::take(&mut self.locations[later]);
            self.locations[first].locations.extend(more.locations);
        }
        let mut def = without(self.def, &merged);
        let locations =
            metadata.iter().map(|(digest, _)| digest.clone()).zip(without(self.locations, &merged));
        let locations = locations.filter(|(_, places)| !places.locations.is_empty()).collect();

        let mut needed = vec![caps::CONSTRAINTS, caps::PLATFORM];
        let said = || metadata.values();
        for (is_needed, cap) in [
            (said().any(|m| m.ignore_cache), caps::META_IGNORE_CACHE),
            (said().any(|m| !m.description.is_empty()), caps::META_DESCRIPTION),
            (said().any(|m| m.export_cache.is_some()), caps::META_EXPORT_CACHE),
        ] {
            if is_needed {
                needed.push(cap);
            }
        }
        let caps = needed.into_iter().map(|cap| (cap, true)).collect();
        let mut root = BytesMut::new();
        put_input(&mut root, last, output);
        let digest: Sha256Value = Sha256::digest(&root).into();
        metadata.insert(digest, OpMetadata { caps, ..OpMetadata::default() });
        def.push(root.freeze());
        let infos = self.maps.iter().map(|map| source_info(map, self.options)).collect::<Result<_, _>>()?;
        let source = pb::Source { locations: ByDigest::of_distinct(locations), infos };
        Ok(pb::Definition { def, metadata, source: Some(source) })
    }
}

/// Writes an input: an op, by digest, and which of its outputs.
pub(super) fn put_input(out: &mut BytesMut, op: Sha256Value, output: i64) {
    marshal::nested(out, 1, |out| {
        DigestKey::from(op).with_text(|digest| marshal::string(out, 1, digest));
        marshal::number(out, 2, output);
    });
}

/// The list without what was merged into earlier entries.
fn without<T>(list: Vec<T>, merged: &[(usize, usize)]) -> Vec<T> {
    if merged.is_empty() {
        return list;
    }
    let mut gone = merged.iter().map(|&(_, later)| later).peekable();
    let kept = list.into_iter().enumerate().filter(|(place, _)| gone.next_if_eq(place).is_none());
    kept.map(|(_, entry)| entry).collect()
}

/// For addresses, which are spread well at their ends.
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
