//! Running programs.

use kiln_proto::pb;

use super::node::{Kind, Node, Output};
use super::{Constraints, State};
use crate::{EMPTY, Error, ROOT_MOUNT, SKIP_OUTPUT, caps};

/// The variable that tells programs where the ssh agent is.
const SSH_SOCKET: &str = "SSH_AUTH_SOCK";

/// A program to run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    args: Vec<String>,
    mounts: Vec<Mount>,
    secrets: Vec<Secret>,
    ssh: Vec<Ssh>,
    devices: Vec<pb::CdiDevice>,
    read_only_root: bool,
    proxy: Option<pb::ProxyEnv>,
    valid_exit_codes: Vec<i32>,
    surroundings: Option<State>,
    constraints: Constraints,
}

impl Run {
    /// A program with its arguments.
    pub fn new<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        Self { args: args.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Adds a mount.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Adds a secret.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Adds a forwarded agent.
    #[must_use]
    pub fn ssh(mut self, ssh: Ssh) -> Self {
        self.ssh.push(ssh);
        self
    }

    /// Adds a CDI device.
    #[must_use]
    pub fn device(mut self, name: impl Into<String>, optional: bool) -> Self {
        self.devices.push(pb::CdiDevice { name: name.into(), optional });
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
        self.proxy = Some(proxy);
        self
    }

    /// Exit codes that are no failure, in place of 0.
    #[must_use]
    pub fn valid_exit_codes(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.valid_exit_codes = codes.into_iter().collect();
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

/// A mount of a [`Run`].
#[derive(Debug, Clone)]
pub struct Mount {
    source: Option<State>,
    spec: MountSpec,
}

/// A mount without its source's state.
#[derive(Debug, Clone)]
pub(super) struct MountSpec {
    pub(super) target: String,
    /// Position among the node's inputs.
    pub(super) input: Option<usize>,
    pub(super) read_only: bool,
    pub(super) selector: String,
    pub(super) cache: Option<pb::CacheOpt>,
    pub(super) tmpfs: Option<pb::TmpfsOpt>,
    pub(super) no_output: bool,
    pub(super) content_cache: pb::MountContentCache,
}

impl MountSpec {
    fn new(target: String) -> Self {
        Self {
            target,
            input: None,
            read_only: false,
            selector: String::new(),
            cache: None,
            tmpfs: None,
            no_output: false,
            content_cache: pb::MountContentCache::Default,
        }
    }

    pub(super) fn has_output(&self) -> bool {
        !(self.no_output || self.read_only || self.cache.is_some() || self.tmpfs.is_some())
    }
}

impl Mount {
    /// A file system; writable, and what is written is a result of the run, unless said otherwise.
    pub fn bind(target: impl Into<String>, source: &State) -> Self {
        Self { source: Some(source.clone()), spec: MountSpec::new(target.into()) }
    }

    /// A folder that lasts from build to build, shared with whoever uses the id at the same time.
    pub fn cache(target: impl Into<String>, id: impl Into<String>) -> Self {
        let mut spec = MountSpec::new(target.into());
        spec.cache = Some(pb::CacheOpt { id: id.into(), sharing: pb::CacheSharingOpt::Shared as i32 });
        Self { source: None, spec }
    }

    /// A folder in memory of at most `size` bytes; 0 is the system's default.
    pub fn tmpfs(target: impl Into<String>, size: i64) -> Self {
        let mut spec = MountSpec::new(target.into());
        spec.tmpfs = Some(pb::TmpfsOpt { size });
        Self { source: None, spec }
    }

    /// It can't be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.spec.read_only = true;
        self
    }

    /// What is written is thrown away.
    #[must_use]
    pub fn no_output(mut self) -> Self {
        self.spec.no_output = true;
        self
    }

    /// Mounts a path of the source rather than its root.
    #[must_use]
    pub fn selector(mut self, path: impl Into<String>) -> Self {
        self.spec.selector = path.into();
        self
    }

    /// A cache begins as a copy of this.
    #[must_use]
    pub fn from(mut self, source: &State) -> Self {
        self.source = Some(source.clone());
        self
    }

    /// Whether several runs use a cache at once.
    #[must_use]
    pub fn sharing(mut self, sharing: pb::CacheSharingOpt) -> Self {
        if let Some(cache) = &mut self.spec.cache {
            cache.sharing = sharing as i32;
        }
        self
    }

    /// Whether the content of the source counts for the cache key rather than how it was made.
    #[must_use]
    pub fn content_cache(mut self, mode: pb::MountContentCache) -> Self {
        self.spec.content_cache = mode;
        self
    }
}

/// A secret of the client, as a file or a variable or both.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its id on the client.
    pub id: String,
    /// The file to make of it.
    pub target: Option<String>,
    /// The variable to make of it.
    pub env: Option<String>,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Mode of the file.
    pub mode: u32,
    /// Run without it if the client has none.
    pub optional: bool,
}

impl Secret {
    /// A secret as a file that root alone may read.
    pub fn file(id: impl Into<String>, target: impl Into<String>) -> Self {
        let target = Some(target.into());
        Self { id: id.into(), target, env: None, uid: 0, gid: 0, mode: 0o400, optional: false }
    }

    /// A secret as a variable.
    pub fn env(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            target: None,
            env: Some(name.into()),
            uid: 0,
            gid: 0,
            mode: 0o400,
            optional: false,
        }
    }
}

/// A forwarded ssh agent.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// Its id on the client.
    pub id: String,
    /// The socket's path; `/run/buildkit/ssh_agent.N` when empty.
    pub target: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Mode of the socket.
    pub mode: u32,
    /// Run without it if the client has none.
    pub optional: bool,
}

impl Ssh {
    /// An agent at the usual path, for root alone.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), target: String::new(), uid: 0, gid: 0, mode: 0o600, optional: false }
    }
}

/// A run, with its results.
#[derive(Debug, Clone)]
pub struct Exec {
    root: State,
    mounts: Vec<(String, State)>,
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
        let surroundings = run.surroundings.take().unwrap_or_else(|| self.clone());
        let root = Mount { source: Some(self.clone()), spec: MountSpec::new(ROOT_MOUNT.to_owned()) };
        let mut mounts = vec![if run.read_only_root { root.read_only() } else { root }];
        mounts.append(&mut run.mounts);
        mounts.sort_by(|a, b| a.spec.target.cmp(&b.spec.target));
        if mounts.iter().any(|m| m.spec.tmpfs.is_some() && m.source.as_ref().is_some_and(|s| !s.is_scratch()))
        {
            return Err(Error::Build("tmpfs mounts must use scratch".into()));
        }
        let mut constraints = std::mem::take(&mut run.constraints);
        let op = exec_op(&surroundings, run, &mut constraints);
        for mount in &mounts {
            mount_caps(mount, &mut constraints);
        }
        let mut inputs: Vec<Output> = Vec::new();
        for mount in &mut mounts {
            if let Some(output) = mount.source.as_ref().and_then(|s| s.output.clone()) {
                mount.spec.input = Some(inputs.len());
                inputs.push(output);
            }
        }
        let specs = mounts.iter().map(|m| m.spec.clone()).collect();
        let platform = surroundings.meta.platform.clone();
        let first =
            Node::output(Kind::Exec { op: Box::new(op), mounts: specs, platform }, inputs, constraints);
        Ok(self.results(mounts, &first))
    }

    fn results(&self, mounts: Vec<Mount>, first: &Output) -> Exec {
        let mut index = 0;
        let mut exec = Exec { root: self.clone(), mounts: Vec::new() };
        for mount in mounts {
            let is_root = mount.spec.target == ROOT_MOUNT;
            let before = if is_root { Some(self.clone()) } else { mount.source };
            let state = if mount.spec.has_output() {
                index += 1;
                let output = Output { node: first.node.clone(), index: index - 1 };
                before.unwrap_or_else(Self::scratch).with_output(output)
            } else if mount.spec.read_only {
                before.unwrap_or_else(Self::scratch)
            } else {
                continue;
            };
            if is_root {
                exec.root = state;
            } else {
                exec.mounts.push((mount.spec.target, state));
            }
        }
        exec
    }
}

/// The op without its bind, cache and tmpfs mounts, which need the inputs' digests.
fn exec_op(surroundings: &State, run: Run, constraints: &mut Constraints) -> pb::ExecOp {
    let m = &surroundings.meta;
    let mut env: Vec<String> = m.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let ssh = ssh_mounts(run.ssh, constraints);
    if let Some(first) = ssh.first()
        && m.env.get(SSH_SOCKET).is_none()
    {
        env.push(format!("{SSH_SOCKET}={}", first.dest));
    }
    let mut meta = pb::Meta {
        args: run.args,
        env,
        cwd: m.dir.clone(),
        user: m.user.clone(),
        proxy_env: run.proxy,
        extra_hosts: m.extra_hosts.clone(),
        hostname: m.hostname.clone(),
        ulimit: m.ulimits.clone(),
        cgroup_parent: m.cgroup_parent.clone(),
        remove_mount_stubs_recursive: true,
        ..pb::Meta::default()
    };
    meta.valid_exit_codes = run.valid_exit_codes;
    constraints.add_cap(caps::EXEC_META_BASE);
    for (needed, cap) in [
        (!meta.valid_exit_codes.is_empty(), caps::EXEC_VALID_EXIT_CODE),
        (!meta.ulimit.is_empty(), caps::EXEC_META_ULIMIT),
        (meta.proxy_env.is_some(), caps::EXEC_META_PROXY),
        (m.network != pb::NetMode::Unset, caps::EXEC_META_NETWORK),
        (m.security != pb::SecurityMode::Sandbox, caps::EXEC_META_SECURITY),
        (!run.secrets.is_empty(), caps::EXEC_MOUNT_SECRET),
        (run.secrets.iter().any(|s| s.env.is_some()), caps::EXEC_SECRET_ENV),
        (!run.devices.is_empty(), caps::EXEC_META_CDI),
        (
            constraints.metadata.as_ref().is_some_and(|m| m.linux_resources.is_some()),
            caps::EXEC_META_LINUX_RESOURCES,
        ),
    ] {
        if needed {
            constraints.add_cap(cap);
        }
    }
    let mut op = pb::ExecOp {
        meta: Some(meta),
        network: m.network as i32,
        security: m.security as i32,
        cdi_devices: run.devices,
        ..pb::ExecOp::default()
    };
    for secret in run.secrets {
        add_secret(&mut op, secret);
    }
    op.mounts.extend(ssh);
    op
}

fn ssh_mounts(list: Vec<Ssh>, constraints: &mut Constraints) -> Vec<pb::Mount> {
    let mut mounts: Vec<pb::Mount> = Vec::with_capacity(list.len());
    for (i, ssh) in list.into_iter().enumerate() {
        let dest = if ssh.target.is_empty() { format!("/run/buildkit/ssh_agent.{i}") } else { ssh.target };
        mounts.push(pb::Mount {
            input: EMPTY,
            dest,
            mount_type: pb::MountType::Ssh as i32,
            ssh_opt: Some(pb::SshOpt {
                id: ssh.id,
                uid: ssh.uid,
                gid: ssh.gid,
                mode: ssh.mode,
                optional: ssh.optional,
            }),
            ..pb::Mount::default()
        });
    }
    if !mounts.is_empty() {
        constraints.add_cap(caps::EXEC_MOUNT_SSH);
    }
    mounts
}

/// Secret mounts name output 0, not "none": everybody's digests have it so.
fn add_secret(op: &mut pb::ExecOp, secret: Secret) {
    if let Some(name) = secret.env {
        op.secretenv.push(pb::SecretEnv { id: secret.id.clone(), name, optional: secret.optional });
    }
    if let Some(dest) = secret.target {
        op.mounts.push(pb::Mount {
            input: EMPTY,
            dest,
            mount_type: pb::MountType::Secret as i32,
            secret_opt: Some(pb::SecretOpt {
                id: secret.id,
                uid: secret.uid,
                gid: secret.gid,
                mode: secret.mode,
                optional: secret.optional,
            }),
            ..pb::Mount::default()
        });
    }
}

fn mount_caps(mount: &Mount, constraints: &mut Constraints) {
    let spec = &mount.spec;
    if !spec.selector.is_empty() {
        constraints.add_cap(caps::EXEC_MOUNT_SELECTOR);
    }
    if spec.cache.is_some() {
        constraints.add_cap(caps::EXEC_MOUNT_CACHE);
        constraints.add_cap(caps::EXEC_MOUNT_CACHE_SHARING);
    } else if let Some(tmpfs) = &spec.tmpfs {
        constraints.add_cap(caps::EXEC_MOUNT_TMPFS);
        if tmpfs.size > 0 {
            constraints.add_cap(caps::EXEC_MOUNT_TMPFS_SIZE);
        }
    } else if mount.source.as_ref().is_some_and(|s| !s.is_scratch()) {
        constraints.add_cap(caps::EXEC_MOUNT_BIND);
    }
    if spec.content_cache != pb::MountContentCache::Default {
        constraints.add_cap(caps::EXEC_MOUNT_CONTENT_CACHE);
    }
}

/// The mount with its input and output filled in.
pub(super) fn mount_to_pb(spec: &MountSpec, input: i64, next_output: &mut i64) -> pb::Mount {
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
    pb::Mount {
        input,
        selector: spec.selector.clone(),
        dest: spec.target.clone(),
        output,
        readonly: spec.read_only,
        mount_type: mount_type as i32,
        tmpfs_opt: spec.tmpfs,
        cache_opt: spec.cache.clone(),
        content_cache: spec.content_cache as i32,
        ..pb::Mount::default()
    }
}
