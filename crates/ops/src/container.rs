//! Containers beside a build: for whoever drives a build and wants to look into its trees, or run something in them.
//!
//! One is made of mounts as an exec op is, and nothing runs in it until a process is started. The first process is the container's
//! own: when it ends, all others do. What is written to a tree is for the container alone and goes with it.

use std::sync::{Arc, Mutex, PoisonError};

use kiln_executor::{
    Container, Exit, Held, Mount, Process, ProcessIo, ProcessSpec, Resources, RunSpec, Security, WinSize,
};
use kiln_fstree::Root;
use kiln_oci::default_path_env;
use kiln_proto::pb;
use kiln_session::Group;
use kiln_worker::Unpacked;
use tokio_util::sync::CancellationToken;

use crate::{
    Entitlement, Entitlements, Host, OpError,
    exec::{
        host_address,
        mounts::{Given, Prepared},
        network, proxies, rlimit, secrets,
    },
};

/// What a container is made of.
#[derive(Debug, Default)]
pub struct ContainerSpec {
    /// What its client calls it.
    pub name: String,
    /// The mounts, each with the tree that it begins with. Inputs and outputs that the mounts name mean nothing here.
    pub mounts: Vec<(pb::Mount, Option<Unpacked>)>,
    /// `pb::NetMode`.
    pub network: i32,
    /// Decides what `PATH` is where a process names none; empty is this machine's.
    pub os: String,
    /// Host name; empty is the default.
    pub hostname: String,
    /// Lines added to `/etc/hosts`.
    pub extra_hosts: Vec<pb::HostIp>,
    /// Files made for the container, mounted after everything else.
    pub generated: Vec<Mount>,
}

/// What to run in a container.
#[derive(Debug, Default)]
pub struct ProcessRequest {
    /// Arguments, environment, user and working directory.
    pub meta: pb::Meta,
    /// In a terminal.
    pub tty: bool,
    /// `pb::SecurityMode`.
    pub security: i32,
    /// Secrets in the environment.
    pub secret_env: Vec<pb::SecretEnv>,
}

/// A container beside a build. Dropping it kills what runs in it.
pub struct SideContainer {
    host: Arc<Host>,
    sessions: Group,
    allowed: Entitlements,
    name: String,
    network: i32,
    os: String,
    hostname: String,
    extra_hosts: Vec<pb::HostIp>,
    generated: Vec<Mount>,
    mounts: usize,
    released: CancellationToken,
    /// `None` once it is released. Held while a process is started.
    life: tokio::sync::Mutex<Option<Life>>,
    /// The same container, to be killed without waiting for anybody.
    running: Mutex<Option<Arc<Container>>>,
}

/// To be ended, not dropped: the processes would outlive what they are mounted on.
struct Life {
    container: Option<(Arc<Container>, First)>,
    prepared: Prepared,
}

/// What the first process has set for all that come after it.
struct First {
    security: Security,
    ulimits: Vec<pb::Ulimit>,
    remove_mount_point_parents: bool,
}

/// A process of a container.
pub struct SideProcess {
    released: CancellationToken,
    which: Which,
}

enum Which {
    First(Arc<Container>),
    Further(Process),
}

impl std::fmt::Debug for SideContainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SideContainer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SideProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SideProcess").finish_non_exhaustive()
    }
}

impl SideContainer {
    /// Prepares the mounts of a container. Waits for cache mounts that somebody else has for himself.
    ///
    /// # Errors
    /// [`OpError::Invalid`] for mounts that make no sense; whatever keeps a mount from being prepared.
    pub async fn new(
        host: Arc<Host>,
        sessions: Group,
        allowed: Entitlements,
        spec: ContainerSpec,
    ) -> Result<Self, OpError> {
        let ContainerSpec { name, mounts, network, os, hostname, extra_hosts, generated } = spec;
        let (mounts, trees): (Vec<_>, Vec<_>) = mounts.into_iter().unzip();
        let mounts: Vec<pb::Mount> = mounts
            .into_iter()
            .zip(&trees)
            .zip(0..)
            .map(|((m, tree), at)| own(m, tree.is_some(), at))
            .collect();
        check_mounts(&mounts)?;
        let user = format!("container {name}");
        let given = Given { mounts: &mounts, cwd: "/", user: &user, filling: None };
        let prepared = Prepared::new(&host, &sessions, given, &trees).await?;
        Ok(Self {
            host,
            sessions,
            allowed,
            name,
            network,
            os,
            hostname,
            extra_hosts,
            generated,
            mounts: mounts.len(),
            released: CancellationToken::new(),
            life: tokio::sync::Mutex::new(Some(Life { container: None, prepared })),
            running: Mutex::default(),
        })
    }

    /// Starts a process; the first is the container's own.
    ///
    /// # Errors
    /// [`OpError::NotAllowed`] for what the build may not do, checked before anything runs; what keeps a process from being
    /// started. A program that does not exist is no error but a process that ends with code 1.
    pub async fn start(&self, request: ProcessRequest, io: ProcessIo) -> Result<SideProcess, OpError> {
        let (security, mode) = self.check(&request)?;
        let process = self.process(&request).await?;
        let mut life = self.life.lock().await;
        let gone = || OpError::Executor(kiln_executor::Error::NotRunning(self.name.clone()));
        let life = life.as_mut().ok_or_else(gone)?;
        if let Some((container, first)) = &life.container {
            first.check_further(&request.meta, security)?;
            let process = container.exec(process, io).await?;
            return Ok(SideProcess { released: self.released.clone(), which: Which::Further(process) });
        }
        let (root, mut mounts) = life.prepared.specs()?;
        mounts.extend(self.generated.iter().cloned());
        let meta = &request.meta;
        let spec = RunSpec {
            id: kiln_session::random_id(),
            root,
            mounts,
            process,
            hostname: (!self.hostname.is_empty()).then(|| self.hostname.clone()),
            extra_hosts: self.extra_hosts.iter().map(host_address).collect::<Result<_, _>>()?,
            network: network(&self.host, mode)?,
            security,
            rlimits: meta.ulimit.iter().map(rlimit).collect(),
            resources: Resources::default(),
            cgroup_parent: self.host.cgroup_parent.clone(),
            remove_mount_point_parents: meta.remove_mount_stubs_recursive,
            samples: false,
            devices: Vec::new(),
            groups: Vec::new(),
            hooks: Vec::new(),
            held: Held::default(),
        };
        let container = Arc::new(self.host.executor.start(spec, io).await?);
        let first = First::new(meta, security);
        life.container = Some((container.clone(), first));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(container.clone());
        if self.released.is_cancelled() {
            container.kill();
        }
        Ok(SideProcess { released: self.released.clone(), which: Which::First(container) })
    }

    /// The modes that a process asks for, if the build may have them.
    fn check(&self, request: &ProcessRequest) -> Result<(Security, pb::NetMode), OpError> {
        let invalid = |what: &str, mode: i32| OpError::Invalid(format!("invalid {what} mode {mode}"));
        let security = pb::SecurityMode::try_from(request.security);
        let security = match security.map_err(|_| invalid("security", request.security))? {
            pb::SecurityMode::Sandbox => Security::Sandbox,
            pb::SecurityMode::Insecure => Security::Insecure,
        };
        let mode = pb::NetMode::try_from(self.network).map_err(|_| invalid("network", self.network))?;
        let wanted = [
            (mode == pb::NetMode::Host, Entitlement::NetworkHost),
            (security == Security::Insecure, Entitlement::SecurityInsecure),
        ];
        match wanted.into_iter().find(|(wants, entitlement)| *wants && !self.allowed.allow(*entitlement)) {
            Some((_, entitlement)) => Err(OpError::NotAllowed(entitlement)),
            None => Ok((security, mode)),
        }
    }

    async fn process(&self, request: &ProcessRequest) -> Result<ProcessSpec, OpError> {
        let meta = &request.meta;
        let of_container = [
            ("a host name", !meta.hostname.is_empty()),
            ("extra hosts", !meta.extra_hosts.is_empty()),
            ("a cgroup parent", !meta.cgroup_parent.is_empty()),
            ("valid exit codes", !meta.valid_exit_codes.is_empty()),
        ];
        if let Some((what, _)) = of_container.into_iter().find(|(_, set)| *set) {
            return Err(OpError::Invalid(format!("a process of a container cannot have {what} of its own")));
        }
        let mut env = meta.env.clone();
        env.extend(meta.proxy_env.iter().flat_map(proxies));
        let os = if self.os.is_empty() { &self.host.platform.os } else { &self.os };
        default_variable(&mut env, "PATH", default_path_env(os));
        if request.tty {
            default_variable(&mut env, "TERM", "xterm");
        }
        env.extend(secrets::environment(&self.sessions, &request.secret_env).await?);
        Ok(ProcessSpec {
            args: meta.args.clone(),
            env,
            user: meta.user.clone(),
            cwd: if meta.cwd.is_empty() { "/".to_owned() } else { meta.cwd.clone() },
            tty: request.tty,
        })
    }

    /// The tree of the mount that was asked for at this place, as it is now, read-only. What processes write meanwhile may
    /// show in it or not.
    ///
    /// # Errors
    /// [`OpError::Invalid`] when there is no such mount or it shows no tree.
    pub async fn view(self: &Arc<Self>, mount: usize) -> Result<Root, OpError> {
        if mount >= self.mounts {
            let problem = format!("mount index {mount} is out of bounds ({} available)", self.mounts);
            return Err(OpError::Invalid(problem));
        }
        let this = self.clone();
        let view = tokio::task::spawn_blocking(move || {
            let mut life = this.life.blocking_lock();
            let gone = || OpError::Executor(kiln_executor::Error::NotRunning(this.name.clone()));
            life.as_mut().ok_or_else(gone)?.prepared.view(mount)
        });
        view.await??.ok_or_else(|| OpError::Invalid(format!("mount {mount} is not a tree of files")))
    }

    /// Kills every process of it; nobody is waited for.
    pub fn kill(&self) {
        self.released.cancel();
        if let Some(container) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            container.kill();
        }
    }

    /// Ends it: all its processes are gone when this returns, and all its trees are let go. The result: whether anything ran
    /// that had to be killed. Dropped, it goes on by itself.
    pub async fn release(&self) -> bool {
        self.kill();
        let Some(life) = self.life.lock().await.take() else { return false };
        let killed = life.container.as_ref().is_some_and(|(container, _)| !container.has_ended());
        drop(tokio::spawn(life.end(self.name.clone())).await);
        killed
    }
}

impl First {
    fn new(meta: &pb::Meta, security: Security) -> Self {
        let remove_mount_point_parents = meta.remove_mount_stubs_recursive;
        Self { security, ulimits: meta.ulimit.clone(), remove_mount_point_parents }
    }

    /// Refuses what a further process asks for and the first has settled otherwise.
    fn check_further(&self, meta: &pb::Meta, security: Security) -> Result<(), OpError> {
        if security == Security::Insecure && self.security == Security::Sandbox {
            let problem = "a process without confinement in a container that began with confinement";
            return Err(OpError::Unsupported(problem.into()));
        }
        let own = [
            ("limits (ulimit)", !meta.ulimit.is_empty() && meta.ulimit != self.ulimits),
            (
                "a say in which mount points are removed (remove_mount_stubs_recursive)",
                meta.remove_mount_stubs_recursive && !self.remove_mount_point_parents,
            ),
        ];
        match own.into_iter().find(|(_, differs)| *differs) {
            Some((what, _)) => {
                let problem =
                    format!("{what} for a further process of a container, other than those of its first");
                Err(OpError::Unsupported(problem))
            }
            None => Ok(()),
        }
    }
}

impl Life {
    /// Kills what runs, and lets go of the trees when nothing writes to them any more: others may be waiting for them.
    async fn end(self, name: String) {
        let Self { container, prepared } = self;
        if let Some((container, _)) = container {
            container.kill();
            if let Err(error) = container.wait().await {
                tracing::debug!(%error, container = name, "a container was lost");
            }
        }
        // What was written is removed.
        drop(tokio::task::spawn_blocking(move || drop(prepared)).await);
    }
}

impl Drop for SideContainer {
    fn drop(&mut self) {
        self.kill();
        // Without a runtime there is nobody left to wait.
        if let (Some(life), Ok(runtime)) = (self.life.get_mut().take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(life.end(std::mem::take(&mut self.name)));
        }
    }
}

impl SideProcess {
    /// Waits for its end: all output was delivered. May be called again.
    ///
    /// # Errors
    /// [`OpError::Executor`]: cancelled, when the container was released meanwhile; the executor's.
    pub async fn wait(&self) -> Result<Exit, OpError> {
        let exit = match &self.which {
            Which::First(container) => container.wait().await,
            Which::Further(process) => process.wait().await,
        };
        if self.released.is_cancelled() {
            return Err(kiln_executor::Error::Cancelled.into());
        }
        Ok(exit?)
    }

    /// Sends a signal by its number; one to a process that is gone goes nowhere.
    pub fn signal(&self, signal: i32) {
        match &self.which {
            Which::First(container) => container.signal(signal),
            Which::Further(process) => process.signal(signal),
        }
    }

    /// Tells the process's terminal its new size.
    pub fn resize(&self, size: WinSize) {
        match &self.which {
            Which::First(container) => container.resize(size),
            Which::Further(process) => process.resize(size),
        }
    }

    /// Kills it (the first: with everything in the container).
    pub fn kill(&self) {
        match &self.which {
            Which::First(container) => container.kill(),
            Which::Further(process) => process.kill(),
        }
    }
}

/// The mount as if it were the `at`th input's and made an output: what is written to it is written to a tree of its own.
fn own(mount: pb::Mount, has_tree: bool, at: i64) -> pb::Mount {
    pb::Mount { input: if has_tree { at } else { kiln_llb::EMPTY }, output: at, ..mount }
}

fn check_mounts(mounts: &[pb::Mount]) -> Result<(), OpError> {
    let invalid = |problem: String| Err(OpError::Invalid(problem));
    let mut seen = std::collections::BTreeSet::new();
    for mount in mounts {
        if pb::MountType::try_from(mount.mount_type).is_err() {
            return invalid(format!("mount {} is of an unknown type {}", mount.dest, mount.mount_type));
        }
        if mount.dest.is_empty() || mount.dest.contains('\0') {
            return invalid(format!("{:?} is no place for a mount", mount.dest));
        }
        if !seen.insert(mount.dest.as_str()) {
            return invalid(format!("two mounts at {}", mount.dest));
        }
    }
    if !seen.contains(kiln_llb::ROOT_MOUNT) {
        return invalid("nothing is mounted at /".into());
    }
    Ok(())
}

fn default_variable(env: &mut Vec<String>, name: &str, value: &str) {
    let is_set = |variable: &String| variable.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
    if !env.iter().any(is_set) {
        env.push(format!("{name}={value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(dest: &str) -> pb::Mount {
        pb::Mount { dest: dest.into(), input: 7, output: -1, ..pb::Mount::default() }
    }

    #[test]
    fn a_mounts_own_numbers_mean_nothing() {
        let (with, without) = (own(mount("/"), true, 3), own(mount("/"), false, 3));
        assert_eq!((with.input, with.output), (3, 3));
        assert_eq!((without.input, without.output), (kiln_llb::EMPTY, 3));
    }

    #[test]
    fn a_further_process_has_what_the_first_has_settled() {
        let limit = |soft| pb::Ulimit { name: "nofile".into(), soft, hard: 100 };
        let with = |ulimit: Vec<pb::Ulimit>, stubs| pb::Meta {
            ulimit,
            remove_mount_stubs_recursive: stubs,
            ..pb::Meta::default()
        };
        let check = |first: &pb::Meta, further: &pb::Meta| {
            let checked = First::new(first, Security::Sandbox).check_further(further, Security::Sandbox);
            checked.map_err(|error| error.to_string())
        };
        let (plain, limited) = (with(vec![], false), with(vec![limit(10)], true));
        assert_eq!(check(&limited, &plain), Ok(()));
        assert_eq!(check(&limited, &limited), Ok(()));
        assert!(check(&limited, &with(vec![limit(11)], false)).unwrap_err().contains("ulimit"));
        assert!(check(&plain, &with(vec![limit(10)], false)).unwrap_err().contains("ulimit"));
        let stubs = check(&plain, &with(vec![], true)).unwrap_err();
        assert!(stubs.contains("remove_mount_stubs_recursive"), "{stubs}");
        let insecure = First::new(&plain, Security::Sandbox).check_further(&plain, Security::Insecure);
        assert!(insecure.is_err());
    }

    #[test]
    fn mounts_that_make_no_sense_are_refused() {
        assert!(check_mounts(&[mount("/"), mount("/a")]).is_ok());
        let unknown = pb::Mount { mount_type: 99, ..mount("/a") };
        for (mounts, problem) in [
            (vec![], "nothing is mounted"),
            (vec![mount("/a")], "nothing is mounted"),
            (vec![mount("/"), mount("/")], "two mounts"),
            (vec![mount("/"), mount("")], "no place"),
            (vec![mount("/"), unknown], "unknown type"),
        ] {
            let error = check_mounts(&mounts).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn variables_that_are_set_stay() {
        let mut env = vec!["PATHS=x".to_owned(), "TERM=".to_owned()];
        default_variable(&mut env, "PATH", "/bin");
        default_variable(&mut env, "TERM", "xterm");
        assert_eq!(env, ["PATHS=x", "TERM=", "PATH=/bin"]);
    }
}
