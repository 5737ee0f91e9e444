//! From states to definitions.

use std::collections::HashMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use kiln_oci::{Digest, Platform, default_path_env};
use kiln_proto::pb;

use super::constraints::merge_metadata;
use super::exec::mount_to_pb;
use super::file::actions_to_pb;
use super::node::{Kind, Node, Output};
use super::{Constraints, Location, SourceMap, State};
use crate::caps::{CapSet, EXEC_META_SETS_DEFAULT_PATH, SOURCE_LOCAL_UNIQUE};
use crate::graph::platform_to_pb;
use crate::{EMPTY, Error, attr, caps, marshal};

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
        let mut writer =
            Writer { options, done: HashMap::new(), def: pb::Definition::default(), maps: Vec::new() };
        writer.def.source = Some(pb::Source::default());
        writer.write(&output.node)?;
        let digest = writer.digest(&output.node)?;
        let root = pb::Op {
            inputs: vec![pb::Input { digest: digest.to_string(), index: output.index }],
            ..pb::Op::default()
        };
        writer.finish(root)
    }
}

struct Writer<'a> {
    options: &'a Marshal,
    /// By address: nodes stay alive as long as the state that is being encoded.
    done: HashMap<*const Node, Digest>,
    def: pb::Definition,
    maps: Vec<Arc<SourceMap>>,
}

impl Writer<'_> {
    /// Depth first without recursion.
    fn write(&mut self, root: &Arc<Node>) -> Result<(), Error> {
        let mut stack = vec![(root, false)];
        while let Some((node, inputs_done)) = stack.pop() {
            if self.done.contains_key(&Arc::as_ptr(node)) {
                continue;
            }
            if inputs_done {
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

    fn digest(&self, node: &Arc<Node>) -> Result<Digest, Error> {
        self.done
            .get(&Arc::as_ptr(node))
            .cloned()
            .ok_or_else(|| Error::Build("an input was not encoded".into()))
    }

    fn add(&mut self, node: &Arc<Node>) -> Result<(), Error> {
        let constraints = &node.constraints;
        let mut caps = Vec::new();
        let raw = match &node.kind {
            Kind::Raw { raw } => raw.clone(),
            _ => marshal::op(self.op(node, &mut caps)?),
        };
        let digest = Digest::sha256(&raw);
        let metadata = match self.def.metadata.entry(digest.to_string()) {
            Entry::Vacant(new) => {
                self.def.def.push(raw);
                new.insert(constraints.to_metadata())
            }
            Entry::Occupied(known) => {
                let known = known.into_mut();
                merge_metadata(known, constraints.to_metadata());
                known
            }
        };
        metadata.caps.extend(caps.into_iter().map(|cap| (cap.to_owned(), true)));
        self.locate(&digest, &constraints.locations);
        self.done.insert(Arc::as_ptr(node), digest);
        Ok(())
    }

    /// The op, and the capabilities that it needs beside those that are noted already.
    fn op(&self, node: &Node, caps: &mut Vec<&'static str>) -> Result<pb::Op, Error> {
        let constraints = &node.constraints;
        let input = |o| {
            let Some(o) = resolve(o)? else { return Ok(None) };
            Ok(Some(pb::Input { digest: self.digest(&o.node)?.to_string(), index: o.index }))
        };
        let all = node.inputs.iter().map(input).collect::<Result<Vec<Option<_>>, Error>>()?;
        let mut op = pb::Op {
            constraints: Some(pb::WorkerConstraints { filter: constraints.filters.clone() }),
            ..pb::Op::default()
        };
        let own = |p: Option<&Platform>| Some(platform_to_pb(p.unwrap_or(&self.options.platform)));
        let inner = match &node.kind {
            Kind::Source { identifier, attrs } => {
                if identifier.starts_with("docker-image://") || identifier.starts_with("oci-layout://") {
                    op.platform = own(constraints.platform.as_ref());
                }
                pb::op::Op::Source(self.source(identifier, attrs, constraints, caps)?)
            }
            Kind::Exec { op: exec, mounts, platform } => {
                op.platform = own(constraints.platform.as_ref().or(platform.as_ref()));
                let (inputs, positions) = dedup(all);
                op.inputs = inputs;
                let mut exec = pb::ExecOp::clone(exec);
                let mut next = 0;
                let input = |i: Option<usize>| i.and_then(|i| positions.get(i).copied()).unwrap_or(EMPTY);
                let binds = mounts.iter().map(|m| mount_to_pb(m, input(m.input), &mut next));
                exec.mounts = binds.collect::<Vec<_>>().into_iter().chain(exec.mounts).collect();
                self.default_path(&mut exec, op.platform.as_ref(), caps);
                pb::op::Op::Exec(exec)
            }
            Kind::File { actions, base } => {
                let (inputs, positions) = dedup(all);
                let position = |i: usize| positions.get(i).copied().unwrap_or(EMPTY);
                let actions = actions_to_pb(actions, *base, inputs.len(), position);
                op.inputs = inputs;
                pb::op::Op::File(pb::FileOp { actions })
            }
            Kind::Merge => {
                op.inputs = all.into_iter().flatten().collect();
                let inputs = (0..op.inputs.len() as i64).map(|input| pb::MergeInput { input }).collect();
                pb::op::Op::Merge(pb::MergeOp { inputs })
            }
            Kind::Diff { lower, upper } => {
                let mut sides = all.into_iter();
                let mut side = |there: bool| there.then(|| sides.next().flatten()).flatten();
                let (lower, upper) = (side(*lower), side(*upper));
                op.inputs = lower.iter().chain(&upper).cloned().collect();
                pb::op::Op::Diff(diff(lower.is_some(), upper.is_some()))
            }
            Kind::Passthrough { id } => {
                op.inputs = all.into_iter().flatten().collect();
                pb::op::Op::Passthrough(pb::PassthroughOp { id: id.clone(), outputs: vec![0] })
            }
            // Raw ops are written as they are, deferred ones are resolved before.
            Kind::Raw { .. } | Kind::Deferred(_) => return Err(Error::Build("not an op to encode".into())),
        };
        op.op = Some(inner);
        Ok(op)
    }

    fn source(
        &self,
        identifier: &str,
        attrs: &std::collections::BTreeMap<String, String>,
        constraints: &Constraints,
        caps: &mut Vec<&'static str>,
    ) -> Result<pb::SourceOp, Error> {
        let mut attrs = attrs.clone();
        if identifier.starts_with("local://") && !attrs.contains_key(attr::LOCAL_SESSION) {
            let id = constraints.unique_id.as_ref().unwrap_or(&self.options.unique_id);
            if id.is_empty() {
                return Err(Error::Build(format!("{identifier} needs a session or a unique id")));
            }
            attrs.insert(attr::LOCAL_UNIQUE.to_owned(), id.clone());
            caps.push(SOURCE_LOCAL_UNIQUE);
        }
        Ok(pb::SourceOp { identifier: identifier.to_owned(), attrs })
    }

    /// Daemons set the default `PATH` themselves; for one that doesn't, the op has it.
    fn default_path(
        &self,
        exec: &mut pb::ExecOp,
        platform: Option<&pb::Platform>,
        caps: &mut Vec<&'static str>,
    ) {
        let Some(known) = &self.options.caps else { return };
        if known.supports(EXEC_META_SETS_DEFAULT_PATH) {
            caps.push(EXEC_META_SETS_DEFAULT_PATH);
            return;
        }
        let os = platform.map_or("linux", |p| p.os.as_str());
        if let Some(meta) = exec.meta.as_mut().filter(|_| os != "windows")
            && !meta.env.iter().any(|e| e.starts_with("PATH="))
        {
            meta.env.push(format!("PATH={}", default_path_env(os)));
        }
    }

    fn locate(&mut self, digest: &Digest, locations: &[Location]) {
        for location in locations {
            let same = |m: &Arc<SourceMap>| {
                Arc::ptr_eq(m, &location.map)
                    || (m.filename == location.map.filename
                        && m.language == location.map.language
                        && m.data == location.map.data)
            };
            let index = self.maps.iter().position(same).unwrap_or_else(|| {
                self.maps.push(Arc::clone(&location.map));
                self.maps.len() - 1
            });
            let location = pb::Location { source_index: index as i32, ranges: location.ranges.clone() };
            let source = self.def.source.get_or_insert_default();
            source.locations.entry(digest.to_string()).or_default().locations.push(location);
        }
    }

    fn finish(mut self, root: pb::Op) -> Result<pb::Definition, Error> {
        let raw: Bytes = marshal::op(root);
        let mut needed = vec![caps::CONSTRAINTS, caps::PLATFORM];
        for metadata in self.def.metadata.values() {
            if metadata.ignore_cache {
                needed.push(caps::META_IGNORE_CACHE);
            }
            if !metadata.description.is_empty() {
                needed.push(caps::META_DESCRIPTION);
            }
            if metadata.export_cache.is_some() {
                needed.push(caps::META_EXPORT_CACHE);
            }
        }
        let caps = needed.into_iter().map(|c| (c.to_owned(), true)).collect();
        let metadata = pb::OpMetadata { caps, ..pb::OpMetadata::default() };
        self.def.metadata.insert(Digest::sha256(&raw).to_string(), metadata);
        self.def.def.push(raw);
        let infos = self.maps.iter().map(|map| source_info(map, self.options)).collect::<Result<_, _>>()?;
        self.def.source.get_or_insert_default().infos = infos;
        Ok(self.def)
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

fn diff(lower: bool, upper: bool) -> pb::DiffOp {
    let position = |there: bool, index: i64| if there { index } else { EMPTY };
    pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: position(lower, 0) }),
        upper: Some(pb::UpperDiffInput { input: position(upper, i64::from(lower)) }),
    }
}

/// Follows deferred outputs to what they stand for; `None` is scratch.
fn resolve(output: &Output) -> Result<Option<&Output>, Error> {
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

/// Equal inputs are listed once; the second list says where each went. Scratch is no input.
fn dedup(all: Vec<Option<pb::Input>>) -> (Vec<pb::Input>, Vec<i64>) {
    let mut inputs: Vec<pb::Input> = Vec::with_capacity(all.len());
    let mut seen = HashMap::new();
    let positions = all
        .into_iter()
        .map(|input| {
            let Some(input) = input else { return EMPTY };
            *seen.entry((input.digest.clone(), input.index)).or_insert_with(|| {
                inputs.push(input);
                inputs.len() as i64 - 1
            })
        })
        .collect();
    (inputs, positions)
}
