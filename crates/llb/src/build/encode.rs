//! Ops as bytes.
//!
//! What an op consists of is written as it stands in the graph, straight into memory that many ops share. The order of fields is
//! that of [`crate::marshal`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kiln_oci::{Platform, default_path_env};
use kiln_proto::pb;
use prost::Message;

use super::definition::{Marshal, Sha256Value, Writer, put_input, resolve};
use super::exec::{ExecNode, Rare};
use super::file::{EncodedOptions, encode_actions};
use super::mounts::MountSpec;
use super::node::{Kind, Node};
use super::{Constraints, Env, Meta};
use crate::caps::{EXEC_META_SETS_DEFAULT_PATH, SOURCE_LOCAL_UNIQUE};
use crate::marshal::{field, nested, number, string};
use crate::{EMPTY, Error, ROOT_MOUNT, SKIP_OUTPUT, attr, marshal};

/// The variable that tells programs where the ssh agent is.
const SSH_SOCKET: &str = "SSH_AUTH_SOCK";

/// Bytes of the first piece of memory; each is twice as large as the one before.
const FIRST_CHUNK: usize = 4 << 10;
/// Bytes of the largest.
const LARGEST_CHUNK: usize = 64 << 10;
/// From so many inputs on equal ones are looked for in a map.
const MANY_INPUTS: usize = 16;

/// What encoding keeps from op to op.
pub(super) struct Scratch {
    /// The memory that ops are written to.
    out: BytesMut,
    chunk: usize,
    /// The variables of the last run, as they are encoded.
    env: (Arc<Env>, BytesMut),
    copy_options: EncodedOptions,
    /// Whether the daemon sets the default `PATH`; `None` if that is not known.
    sets_path: Option<bool>,
    inputs: Inputs,
}

impl Scratch {
    pub(super) fn new(options: &Marshal) -> Self {
        let sets_path = options.caps.as_ref().map(|caps| caps.supports(EXEC_META_SETS_DEFAULT_PATH));
        Self {
            out: BytesMut::new(),
            chunk: FIRST_CHUNK / 2,
            env: Default::default(),
            copy_options: EncodedOptions::default(),
            sets_path,
            inputs: Inputs::default(),
        }
    }

    fn room(&mut self) {
        if self.out.capacity() < self.chunk / 8 {
            self.chunk = (self.chunk * 2).min(LARGEST_CHUNK);
            self.out = BytesMut::with_capacity(self.chunk);
        }
    }
}

/// An op's input: the digest of a vertex that was written, and its output.
type Input = (Sha256Value, i64);

/// An op's inputs, each once.
#[derive(Default)]
struct Inputs {
    /// Of the node, in its order; `None` is scratch.
    all: Vec<Option<Input>>,
    distinct: Vec<Input>,
    /// Where among the distinct ones each went.
    positions: Vec<i64>,
}

impl Inputs {
    /// The place among the op's inputs of one of the node's.
    fn position(&self, index: usize) -> i64 {
        self.positions.get(index).copied().unwrap_or(EMPTY)
    }

    /// Lists equal inputs once. Scratch is no input.
    fn dedup(&mut self) {
        self.distinct.clear();
        self.positions.clear();
        let mut seen = HashMap::new();
        let is_large = self.all.len() >= MANY_INPUTS;
        for &input in &self.all {
            let Some(input) = input else {
                self.positions.push(EMPTY);
                continue;
            };
            let next = self.distinct.len();
            let known = match is_large {
                true => *seen.entry(input).or_insert(next),
                false => self.distinct.iter().position(|&other| other == input).unwrap_or(next),
            };
            if known == next {
                self.distinct.push(input);
            }
            self.positions.push(known as i64);
        }
    }

    /// Lists all that are no scratch.
    fn keep_all(&mut self) {
        self.distinct.clear();
        self.distinct.extend(self.all.iter().flatten());
    }
}

impl Writer<'_> {
    /// The op's bytes, and the capability that it needs beside those that are noted already.
    pub(super) fn encode(&mut self, node: &Node, cap: &mut Option<&'static str>) -> Result<Bytes, Error> {
        self.scratch.room();
        let mut out = std::mem::take(&mut self.scratch.out);
        let mut inputs = std::mem::take(&mut self.scratch.inputs);
        let result = self.put(&mut out, &mut inputs, node, cap);
        let raw = out.split().freeze();
        self.scratch.out = out;
        self.scratch.inputs = inputs;
        result.map(|()| raw)
    }

    fn put(
        &mut self,
        out: &mut BytesMut,
        inputs: &mut Inputs,
        node: &Node,
        cap: &mut Option<&'static str>,
    ) -> Result<(), Error> {
        let constraints = &node.constraints;
        inputs.all.clear();
        for (input, digest) in node.inputs.iter().zip(self.take_ready(node)) {
            let output = resolve(input)?.map_or(0, |output| output.index);
            inputs.all.push(digest.map(|digest| (digest, output)));
        }
        match &node.kind {
            Kind::Source { identifier, attrs } => {
                if identifier.starts_with("docker-image://") || identifier.starts_with("oci-layout://") {
                    put_platform(out, constraints.platform.as_deref().unwrap_or(&self.options.platform));
                }
                put_constraints(out, constraints);
                let attrs = self.source_attrs(identifier, attrs, constraints, cap)?;
                marshal::source(out, identifier, &attrs);
            }
            Kind::Exec(exec) => {
                let platform = constraints.platform.as_deref().or(exec.around.platform.as_deref());
                let platform = platform.unwrap_or(&self.options.platform);
                inputs.dedup();
                put_inputs(out, &inputs.distinct);
                put_platform(out, platform);
                put_constraints(out, constraints);
                if self.scratch.sets_path == Some(true) {
                    *cap = Some(EXEC_META_SETS_DEFAULT_PATH);
                }
                self.scratch.put_exec(out, exec, platform, inputs);
            }
            Kind::File { actions, base } => {
                inputs.dedup();
                put_inputs(out, &inputs.distinct);
                put_constraints(out, constraints);
                let distinct = inputs.distinct.len();
                let options = &mut self.scratch.copy_options;
                nested(out, 4, |out| {
                    encode_actions(out, actions, options, *base, distinct, |i| inputs.position(i));
                });
            }
            Kind::Merge => {
                inputs.keep_all();
                put_inputs(out, &inputs.distinct);
                put_constraints(out, constraints);
                let inputs = (0..inputs.distinct.len() as i64).map(|input| pb::MergeInput { input });
                marshal::kind(out, &pb::op::Op::Merge(pb::MergeOp { inputs: inputs.collect() }));
            }
            Kind::Diff { lower, upper } => {
                let mut sides = inputs.all.iter().map(Option::is_some);
                let mut side = |there: bool| there && sides.next() == Some(true);
                let diff = diff(side(*lower), side(*upper));
                inputs.keep_all();
                put_inputs(out, &inputs.distinct);
                put_constraints(out, constraints);
                marshal::kind(out, &pb::op::Op::Diff(diff));
            }
            Kind::Passthrough { id } => {
                inputs.keep_all();
                put_inputs(out, &inputs.distinct);
                put_constraints(out, constraints);
                let op = pb::PassthroughOp { id: id.clone(), outputs: vec![0] };
                marshal::kind(out, &pb::op::Op::Passthrough(op));
            }
            // Raw ops are written as they are, deferred ones are resolved before.
            Kind::Raw { .. } | Kind::Deferred(_) => return Err(Error::Build("not an op to encode".into())),
        }
        Ok(())
    }

    /// A folder of the client that no session is named for is this definition's alone.
    fn source_attrs<'n>(
        &self,
        identifier: &str,
        attrs: &'n BTreeMap<String, String>,
        constraints: &Constraints,
        cap: &mut Option<&'static str>,
    ) -> Result<Cow<'n, BTreeMap<String, String>>, Error> {
        let mut attrs = Cow::Borrowed(attrs);
        if identifier.starts_with("local://") && !attrs.contains_key(attr::LOCAL_SESSION) {
            let id = constraints.own_id().unwrap_or(&self.options.unique_id);
            if id.is_empty() {
                return Err(Error::Build(format!("{identifier} needs a session or a unique id")));
            }
            attrs.to_mut().insert(attr::LOCAL_UNIQUE.to_owned(), id.to_owned());
            *cap = Some(SOURCE_LOCAL_UNIQUE);
        }
        Ok(attrs)
    }
}

fn put_inputs(out: &mut BytesMut, inputs: &[Input]) {
    inputs.iter().for_each(|&(digest, output)| put_input(out, digest, output));
}

impl Scratch {
    fn put_exec(&mut self, out: &mut BytesMut, exec: &ExecNode, platform: &Platform, inputs: &Inputs) {
        let rare = exec.rare.as_deref();
        nested(out, 2, |out| {
            nested(out, 1, |out| self.put_meta(out, exec, rare, platform));
            let mut next_output = 0;
            if exec.mounts.is_empty() {
                let root = MountSpec::new(Cow::Borrowed(ROOT_MOUNT));
                let input = inputs.position(0);
                nested(out, 2, |out| put_mount(out, &root, input, &mut next_output));
            }
            for mount in &exec.mounts {
                let input = mount.input.map_or(EMPTY, |i| inputs.position(i));
                nested(out, 2, |out| put_mount(out, mount, input, &mut next_output));
            }
            let mut rest = pb::ExecOp {
                network: exec.around.network as i32,
                security: exec.around.security as i32,
                ..pb::ExecOp::default()
            };
            if let Some(rare) = rare {
                rest.mounts.extend(rare.secrets.iter().filter_map(|secret| secret.to_mount()));
                rest.mounts.extend(rare.ssh.iter().enumerate().map(|(place, ssh)| ssh.to_mount(place)));
                rest.secretenv = rare.secrets.iter().filter_map(|secret| secret.to_env()).collect();
                rest.cdi_devices.clone_from(&rare.devices);
            }
            rest.encode_raw(out);
        });
    }

    fn put_meta(&mut self, out: &mut BytesMut, exec: &ExecNode, rare: Option<&Rare>, platform: &Platform) {
        let around: &Meta = &exec.around;
        for arg in &exec.args {
            field(out, 1, arg.as_bytes());
        }
        out.extend_from_slice(self.env(&around.env));
        if let Some(ssh) = rare.and_then(|rare| rare.ssh.first())
            && around.env.get(SSH_SOCKET).is_none()
        {
            put_variable(out, SSH_SOCKET, &ssh.path(0));
        }
        // Daemons set the default path themselves; for one that doesn't, the op has it.
        if self.sets_path == Some(false) && !platform.is_windows() && around.env.get("PATH").is_none() {
            put_variable(out, "PATH", default_path_env(&platform.os));
        }
        string(out, 3, &around.dir);
        string(out, 4, &around.user);
        let rest = pb::Meta {
            proxy_env: rare.and_then(|rare| rare.proxy.clone()),
            extra_hosts: around.extra_hosts.clone(),
            hostname: around.hostname.as_ref().to_owned(),
            ulimit: around.ulimits.clone(),
            cgroup_parent: around.cgroup_parent.as_ref().to_owned(),
            remove_mount_stubs_recursive: true,
            valid_exit_codes: rare.map(|rare| rare.valid_exit_codes.clone()).unwrap_or_default(),
            ..pb::Meta::default()
        };
        rest.encode_raw(out);
    }

    /// Variables encoded; those of the last run are kept.
    fn env(&mut self, env: &Arc<Env>) -> &[u8] {
        let (known, encoded) = &mut self.env;
        if !Arc::ptr_eq(known, env) {
            encoded.clear();
            for (name, value) in env.iter() {
                put_variable(encoded, name, value);
            }
            *known = Arc::clone(env);
        }
        encoded
    }
}

fn put_variable(out: &mut BytesMut, name: &str, value: &str) {
    nested(out, 2, |out| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=");
        out.extend_from_slice(value.as_bytes());
    });
}

fn put_mount(out: &mut BytesMut, spec: &MountSpec, input: i64, next_output: &mut i64) {
    let mut output = SKIP_OUTPUT;
    if spec.has_output() {
        output = *next_output;
        *next_output += 1;
    }
    let mount_type = match (&spec.cache, &spec.tmpfs) {
        (_, Some(_)) => pb::MountType::Tmpfs,
        (Some(_), None) => pb::MountType::Cache,
        (None, None) => pb::MountType::Bind,
    };
    number(out, 1, input);
    string(out, 2, &spec.selector);
    string(out, 3, &spec.target);
    number(out, 4, output);
    number(out, 5, i64::from(spec.read_only));
    number(out, 6, mount_type as i64);
    if let Some(tmpfs) = &spec.tmpfs {
        nested(out, 19, |out| number(out, 1, tmpfs.size));
    }
    if let Some(cache) = &spec.cache {
        nested(out, 20, |out| {
            string(out, 1, &cache.id);
            number(out, 2, i64::from(cache.sharing));
        });
    }
    number(out, 24, spec.content_cache as i64);
}

fn put_platform(out: &mut BytesMut, platform: &Platform) {
    nested(out, 10, |out| {
        string(out, 1, &platform.architecture);
        string(out, 2, &platform.os);
        string(out, 3, &platform.variant);
        string(out, 4, &platform.os_version);
        for feature in &platform.os_features {
            field(out, 5, feature.as_bytes());
        }
    });
}

fn put_constraints(out: &mut BytesMut, constraints: &Constraints) {
    nested(out, 11, |out| constraints.filters().iter().for_each(|filter| field(out, 1, filter.as_bytes())));
}

fn diff(lower: bool, upper: bool) -> pb::DiffOp {
    let position = |there: bool, index: i64| if there { index } else { EMPTY };
    pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: position(lower, 0) }),
        upper: Some(pb::UpperDiffInput { input: position(upper, i64::from(lower)) }),
    }
}
