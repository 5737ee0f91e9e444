//! Running programs.

use std::borrow::Cow;
use std::sync::Arc;

use bytestring::ByteString;
use kiln_proto::pb;
use smallvec::SmallVec;

use super::mounts::{Mount, MountSpec, Secret, Ssh};
use super::node::{Inputs, Kind, Node, Output};
use super::{Constraints, Meta, State};
use crate::{Error, ROOT_MOUNT, caps};

/// A program with its arguments: a shell, its flag and a command most of the time.
pub type Args = SmallVec<[ByteString; 3]>;

/// A program to run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    args: Args,
    mounts: Vec<Mount>,
    rare: Option<Box<Rare>>,
    read_only_root: bool,
    surroundings: Option<State>,
    constraints: Constraints,
}

/// What few runs have.
#[derive(Debug, Clone, Default)]
pub(super) struct Rare {
    pub(super) secrets: Vec<Secret>,
    pub(super) ssh: Vec<Ssh>,
    pub(super) devices: Vec<pb::CdiDevice>,
    pub(super) proxy: Option<pb::ProxyEnv>,
    pub(super) valid_exit_codes: Vec<i32>,
}

/// A run, its inputs apart: their digests are known when it is encoded.
#[derive(Debug)]
pub(super) struct ExecNode {
    pub(super) args: Args,
    pub(super) around: Arc<Meta>,
    /// The root and what is mounted over it, by target. None at all: the root alone, and it can be written.
    pub(super) mounts: Vec<MountSpec>,
    pub(super) rare: Option<Box<Rare>>,
}

impl ExecNode {
    /// Notes what the daemon must be capable of. Of sources, scratch counts as none; `limited` says that there are limits of
    /// resources.
    pub(super) fn note_caps(&self, inputs: &[Output], limited: bool, caps: &mut Vec<&'static str>) {
        caps.push(caps::EXEC_META_BASE);
        let around: &Meta = &self.around;
        for (needed, cap) in [
            (!around.ulimits.is_empty(), caps::EXEC_META_ULIMIT),
            (around.network != pb::NetMode::Unset, caps::EXEC_META_NETWORK),
            (around.security != pb::SecurityMode::Sandbox, caps::EXEC_META_SECURITY),
            (limited, caps::EXEC_META_LINUX_RESOURCES),
        ] {
            if needed {
                caps.push(cap);
            }
        }
        if self.mounts.is_empty() && !inputs.is_empty() {
            caps.push(caps::EXEC_MOUNT_BIND);
        }
        self.mounts.iter().for_each(|mount| mount.note_caps(caps));
        let Some(rare) = &self.rare else { return };
        for (needed, cap) in [
            (!rare.valid_exit_codes.is_empty(), caps::EXEC_VALID_EXIT_CODE),
            (rare.proxy.is_some(), caps::EXEC_META_PROXY),
            (!rare.secrets.is_empty(), caps::EXEC_MOUNT_SECRET),
            (rare.secrets.iter().any(|s| s.env.is_some()), caps::EXEC_SECRET_ENV),
            (!rare.devices.is_empty(), caps::EXEC_META_CDI),
            (!rare.ssh.is_empty(), caps::EXEC_MOUNT_SSH),
        ] {
            if needed {
                caps.push(cap);
            }
        }
    }
}

impl Run {
    /// A program with its arguments.
    pub fn new<S: Into<ByteString>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::of(args.into_iter().map(Into::into).collect())
    }

    /// The same; arguments that are constants need no copies.
    pub fn of(args: Args) -> Self {
        Self { args, ..Self::default() }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Adds a mount.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        if self.mounts.is_empty() {
            // Most have one, and the root comes before it.
            self.mounts.reserve_exact(2);
        }
        self.mounts.push(mount);
        self
    }

    /// Adds a secret.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.rare().secrets.push(secret);
        self
    }

    /// Adds a forwarded agent.
    #[must_use]
    pub fn ssh(mut self, ssh: Ssh) -> Self {
        self.rare().ssh.push(ssh);
        self
    }

    /// Adds a CDI device.
    #[must_use]
    pub fn device(mut self, name: impl Into<String>, optional: bool) -> Self {
        self.rare().devices.push(pb::CdiDevice { name: name.into(), optional });
        self
    }

    /// The root can't be written; the result is what it was.
    #[must_use]
    pub fn read_only_root(mut self) -> Self {
        self.read_only_root = true;
        self
    }

    /// Proxy variables, which are not part of the cache key.
    #[must_use]
    pub fn proxy(mut self, proxy: pb::ProxyEnv) -> Self {
        self.rare().proxy = Some(proxy);
        self
    }

    /// Exit codes that are no failure, in place of 0.
    #[must_use]
    pub fn valid_exit_codes(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.rare().valid_exit_codes = codes.into_iter().collect();
        self
    }

    /// Variables, folder, user and so on for this run only, in place of the state's.
    #[must_use]
    pub fn surroundings(mut self, state: State) -> Self {
        self.surroundings = Some(state);
        self
    }

    /// Platform, name and the like.
    #[must_use]
    pub fn constraints(mut self, constraints: Constraints) -> Self {
        self.constraints = constraints;
        self
    }
}

/// A run, with its results.
#[derive(Debug, Clone)]
pub struct Exec {
    root: State,
    mounts: Vec<(Cow<'static, str>, State)>,
}

impl Exec {
    /// The root after the run.
    pub fn root(&self) -> &State {
        &self.root
    }

    /// The root after the run, alone.
    pub fn into_root(self) -> State {
        self.root
    }

    /// A writable mount after the run, or a read-only one as it was.
    pub fn mount(&self, target: &str) -> Option<&State> {
        self.mounts.iter().find(|(t, _)| t == target).map(|(_, s)| s)
    }
}

impl State {
    /// Runs a program with this state as root.
    ///
    /// # Errors
    /// When there are no arguments, or a mount in memory has a source.
    pub fn run(&self, mut run: Run) -> Result<Exec, Error> {
        if run.args.is_empty() {
            return Err(Error::Build("arguments are required".into()));
        }
        let around = run.surroundings.take().map_or_else(|| Arc::clone(&self.meta), |state| state.meta);
        let root = Mount { source: Some(self.clone()), spec: MountSpec::new(Cow::Borrowed(ROOT_MOUNT)) };
        let root = if run.read_only_root { root.read_only() } else { root };
        let mut mounts = std::mem::take(&mut run.mounts);
        if mounts.iter().any(|m| m.spec.tmpfs.is_some() && m.source.as_ref().is_some_and(|s| !s.is_scratch()))
        {
            return Err(Error::Build("tmpfs mounts must use scratch".into()));
        }
        let (mut inputs, mut specs, mut sources) = (Inputs::new(), Vec::new(), Vec::new());
        if mounts.is_empty() && !run.read_only_root {
            inputs.extend(root.source.and_then(|state| state.output));
        } else {
            mounts.insert(0, root);
            mounts.sort_by(|a, b| a.spec.target.cmp(&b.spec.target));
            specs.reserve_exact(mounts.len());
            for mut mount in mounts {
                if let Some(output) = mount.source.as_ref().and_then(|s| s.output.clone()) {
                    mount.spec.input = Some(inputs.len());
                    inputs.push(output);
                }
                specs.push(mount.spec);
                sources.push(mount.source);
            }
        }
        let exec = ExecNode { args: run.args, around, mounts: specs, rare: run.rare };
        Ok(self.results(sources, &Node::output(Kind::Exec(exec), inputs, run.constraints)))
    }

    fn results(&self, sources: Vec<Option<Self>>, first: &Output) -> Exec {
        let mut exec = Exec { root: self.clone(), mounts: Vec::new() };
        let Kind::Exec(node) = &first.node.kind else { return exec };
        if node.mounts.is_empty() {
            exec.root = self.with_output(first.clone());
        }
        let mut index = 0;
        for (spec, source) in node.mounts.iter().zip(sources) {
            let is_root = spec.target == ROOT_MOUNT;
            let before = if is_root { Some(self.clone()) } else { source };
            let state = if spec.has_output() {
                index += 1;
                let output = Output { node: Arc::clone(&first.node), index: index - 1 };
                before.unwrap_or_else(Self::scratch).with_output(output)
            } else if spec.read_only {
                before.unwrap_or_else(Self::scratch)
            } else {
                continue;
            };
            if is_root {
                exec.root = state;
            } else {
                exec.mounts.push((spec.target.clone(), state));
            }
        }
        exec
    }
}
