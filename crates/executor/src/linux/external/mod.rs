//! Steps run by an OCI runtime binary (`runc`, `crun`), from a bundle that holds what the embedded runtime is told.
//!
//! The runtime is the first process of a PID and a mount namespace of its own, forked by a zygote that stays among the
//! host's files. So here as well nothing is mounted on the host, and a kill takes everything along.
//!
//! ```text
//!   <state>/runtime/               the runtime's own state (`--root`)
//!   <state>/<id>/config.json
//!   <state>/<id>/exec-<n>.json     further processes
//!   <state>/<id>/work/             a tmpfs in the runtime's mount namespace: rootfs, mounts/<n>, …
//! ```

pub(super) mod config;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cgroup::{self, Cgroup, Layout};
use super::owner::{self, Further, Home};
use super::pool::{Kind, Pool};
use super::start::{self, Message, Started};
use super::walk::{Make, walk};
use super::wire::{ExternalSetup, MountPoint, MountSetup, ProcessSetup, Setup, SourceSetup};
use super::zygote::Born;
use super::{Shared, device, exe, helper, sources, sys};
use crate::{
    BoxFuture, Container, Error, Executor, ExecutorConfig, Network, ProcessIo, ProcessSpec, Result, RunSpec,
    Security, Stdin,
};

/// The runtime's own environment.
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs steps with an OCI runtime binary (`runc`, `crun`).
#[derive(Debug)]
pub struct ExternalExecutor {
    shared: Arc<Shared>,
    runtime: Arc<Runtime>,
}

/// The runtime and where its files are.
#[derive(Debug)]
struct Runtime {
    program: String,
    state: PathBuf,
    /// The folder of the runtime's own state.
    root: String,
    processes: AtomicU64,
}

impl ExternalExecutor {
    /// Uses the OCI runtime at `runtime`; bundles are made in `state` (a folder, emptied first).
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`] if there is no such program, [`Error::System`] if `state` cannot be made.
    pub fn new(config: ExecutorConfig, runtime: PathBuf, state: PathBuf) -> Result<Self> {
        let failed = |problem: String| Error::Runtime { runtime: runtime.clone(), problem };
        let found = std::fs::canonicalize(&runtime).map_err(|error| failed(error.to_string()))?;
        let program = found.to_str().ok_or_else(|| failed("its path is not UTF-8".to_owned()))?.to_owned();
        let system = |step| move |source| Error::System { step, source };
        match std::fs::remove_dir_all(&state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(system("empty the state folder")(error));
            }
            _ => {}
        }
        // Bundles hold the environment of steps.
        let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&state);
        made.map_err(system("make the state folder"))?;
        let state = std::fs::canonicalize(&state).map_err(system("find the state folder"))?;
        let executable = exe::own().map_err(system("open our own executable to run steps"))?;
        let shared = Shared::new(config, executable, Pool::new(Kind::Host), None);
        let runtime = {
            let root = state.join("runtime").to_string_lossy().into_owned();
            Arc::new(Runtime { program, state, root, processes: AtomicU64::new(0) })
        };
        Ok(Self { shared: Arc::new(shared), runtime })
    }
}

impl Executor for ExternalExecutor {
    fn start(&self, spec: RunSpec, io: ProcessIo) -> BoxFuture<'_, Result<Container>> {
        Box::pin(start(self.shared.clone(), self.runtime.clone(), spec, io))
    }

    fn prepare(&self, _: Security) {}

    fn sweep(&self) {
        cgroup::sweep(&self.shared.layout);
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.shutdown())
    }
}

async fn start(
    shared: Arc<Shared>,
    runtime: Arc<Runtime>,
    spec: RunSpec,
    io: ProcessIo,
) -> Result<Container> {
    start::check(&spec)?;
    if matches!(spec.network, Network::Namespace(_)) {
        return Err(Error::Unsupported {
            feature: "a prepared network namespace".to_owned(),
            place: "with an external OCI runtime",
        });
    }
    let (parent, born) = shared.pool(spec.security).take(&shared, None).await?;
    let spec = Arc::new(spec);
    let setting_up = {
        let (shared, runtime, spec) = (shared.clone(), runtime.clone(), spec.clone());
        tokio::task::spawn_blocking(move || {
            let bundle = Bundle::new(&runtime, &spec.id)?;
            let (started, cgroup) = set_up(&shared, &runtime, &bundle, born, &spec, &io.stdin)?;
            Ok::<_, Error>((started, cgroup, bundle, io))
        })
    };
    let (started, cgroup, bundle, io) = setting_up.await.map_err(|_| Error::Lost)??;
    let id = spec.id.clone();
    let further = Further::External(Arc::new(FurtherProcesses { runtime, shared, bundle }));
    let home = Home { zygote: parent.zygote, spec, cgroup: Some(Arc::new(cgroup)), further };
    Ok(Container::new(id, owner::own_container(started, io, home)))
}

/// The files of a container; they go with it.
#[derive(Debug)]
struct Bundle {
    folder: PathBuf,
    /// The runtime's own.
    state: PathBuf,
}

impl Bundle {
    fn new(runtime: &Runtime, id: &str) -> Result<Self> {
        let folder = runtime.state.join(id);
        let made = std::fs::create_dir(&folder).and_then(|()| std::fs::create_dir(folder.join("work")));
        made.map_err(|source| Error::System { step: "make the bundle", source })?;
        Ok(Self { folder, state: Path::new(&runtime.root).join(id) })
    }

    fn write(&self, name: &str, content: &impl serde::Serialize) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let json = serde_json::to_vec(content).map_err(io::Error::other);
        json.and_then(|json| std::fs::write(&path, json))
            .map_err(|source| Error::System { step: "write the bundle", source })?;
        Ok(path)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for folder in [&self.folder, &self.state] {
            match std::fs::remove_dir_all(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, folder = %folder.display(), "the files of a container stay behind");
                }
                _ => {}
            }
        }
    }
}

fn set_up(
    shared: &Shared,
    runtime: &Runtime,
    bundle: &Bundle,
    born: Born,
    spec: &RunSpec,
    stdin: &Stdin,
) -> Result<(Started, Cgroup)> {
    let mut message = Message::new(spec.process.tty, stdin)?;
    let root = sources::open(&spec.root.tree).map_err(|source| Error::MountSource {
        dest: "/".to_owned(),
        path: "/".into(),
        source,
    })?;
    let hostname = spec.hostname.clone().unwrap_or_else(|| crate::DEFAULT_HOSTNAME.to_owned());
    let mut mounts = start::generated(spec, &hostname, &shared.config.dns, &mut message);
    for mount in &spec.mounts {
        mounts.push(message.mount(mount, root.as_fd())?);
    }
    let (mut user, home) = helper::resolve_user(&root, &spec.process.user, true).map_err(start::error)?;
    user.groups
        .extend(spec.groups.iter().filter(|gid| !user.groups.contains(gid)).copied().collect::<Vec<_>>());
    let mut devices = device::resolve(&spec.devices)?;
    for device in &mut devices {
        device.node.uid.get_or_insert(user.uid);
        device.node.gid.get_or_insert(user.gid);
        // Elsewhere the runtime would make it in the step's own files.
        if !config::is_in_dev(&device.path) {
            mounts.push(device.mount());
        }
    }
    let owner = Some((user.uid, user.gid));
    let walked = walk(&root, &spec.process.cwd, Make::Folders(owner));
    walked
        .map_err(|source| Error::Setup { step: format!("working directory {}", spec.process.cwd), source })?;
    let mount_points = mount_points(&root, spec, &mounts, &message)?;
    let work = bundle.folder.join("work").to_string_lossy().into_owned();
    let cgroup = Cgroup::adopt(&shared.layout, &shared.wanted(spec, &devices))?;
    let config = config::config(
        spec,
        config::Place {
            root: format!("{work}/rootfs"),
            cgroups_path: cgroup.path(),
            mounts: mounts.iter().enumerate().map(|(number, mount)| bind(&work, number, mount)).collect(),
            user: &user,
            home: home.as_deref(),
            oom_score_adj: shared.config.oom_score_adj,
            loops: sys::free_loop_device().ok(),
            own_capabilities: own_capabilities()?,
            devices: &devices,
        },
    );
    bundle.write("config.json", &config)?;
    let folder = bundle.folder.to_string_lossy();
    let mut args = vec![runtime.program.as_str(), "--root", &runtime.root, "run", "--bundle", &folder];
    if runtime.program.ends_with("/runc") {
        // Its cgroup stays to be read; crun knows no such option.
        args.push("--keep");
    }
    args.push(&spec.id);
    let root_index =
        message.add(root.try_clone().map_err(|source| Error::System { step: "copy a descriptor", source })?);
    let external = Some(ExternalSetup { work, root: Some(root_index), mounts, hide: hybrid(&shared.layout) });
    let setup = Setup {
        sandbox: false,
        container: None,
        external,
        process: process_setup(&args, spec.process.tty),
        join: Vec::new(),
    };
    let mut started = message.exchange(born, &setup, Some(root))?;
    started.mount_points = mount_points;
    Ok((started, cgroup))
}

/// The unified hierarchy beside v1 ones, which runtimes refuse or leave unused.
fn hybrid(layout: &Layout) -> Option<String> {
    let unified = layout.unified.as_ref().filter(|_| !layout.legacy.is_empty())?;
    Some(unified.to_string_lossy().into_owned())
}

fn process_setup(args: &[&str], tty: bool) -> ProcessSetup {
    ProcessSetup {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![ENVIRONMENT.to_owned()],
        user: String::new(),
        cwd: "/".to_owned(),
        tty,
        rlimits: Vec::new(),
    }
}

/// A mount of the container, from where it will be attached beside the runtime.
fn bind(work: &str, number: usize, mount: &MountSetup) -> config::Mount {
    let mut options = vec!["rbind".to_owned()];
    // With what is mounted below it. The attributes of the source apply to a bind as well; these make runtimes that set
    // them anew keep them.
    let flags =
        [(super::mount::NOSUID, "nosuid"), (super::mount::NODEV, "nodev"), (super::mount::NOEXEC, "noexec")];
    options.extend(
        flags.iter().filter(|(bit, _)| mount.attributes & bit != 0).map(|(_, name)| (*name).to_owned()),
    );
    if mount.readonly {
        options.push("ro".to_owned());
    }
    config::Mount {
        destination: config::absolute(&mount.dest),
        kind: "bind",
        source: format!("{work}/mounts/{number}"),
        options,
    }
}

/// Makes the mount points, which the runtime would otherwise make without telling.
fn mount_points(
    root: &OwnedFd,
    spec: &RunSpec,
    mounts: &[MountSetup],
    message: &Message,
) -> Result<Vec<MountPoint>> {
    let mut out = Vec::new();
    for mount in mounts {
        let dest = config::absolute(&mount.dest);
        if dest == "/" {
            let problem = format!("{}: nothing can be mounted over the root", mount.dest);
            return Err(Error::Invalid { field: "container", problem });
        }
        // These are on file systems that the runtime mounts.
        if ["/proc", "/sys", "/dev"].iter().any(|base| Path::new(&dest).starts_with(base)) {
            continue;
        }
        let setup = |source| Error::Setup { step: format!("mount {}", mount.dest), source };
        let folder = match &mount.source {
            SourceSetup::File { .. } | SourceSetup::Device(_) => false,
            SourceSetup::Tree { mount: index, selector } => {
                let found = walk(message.handle(*index), selector, Make::Nothing).map_err(|source| {
                    Error::MountSource { dest: mount.dest.clone(), path: selector.into(), source }
                })?;
                rustix::fs::FileType::from_raw_mode(found.stat().map_err(setup)?.st_mode).is_dir()
            }
        };
        let make = if folder { Make::Folders(None) } else { Make::File };
        let made = walk(root, &mount.dest, make).map_err(setup)?.made;
        if spec.remove_mount_point_parents {
            out.extend(made);
        } else {
            out.extend(made.into_iter().next_back());
        }
    }
    Ok(out)
}

fn own_capabilities() -> Result<u64> {
    let sets = rustix::thread::capabilities(None)
        .map_err(|error| Error::System { step: "read our own capabilities", source: error.into() })?;
    Ok(sets.permitted.bits())
}

/// How further processes of a container are started.
#[derive(Debug)]
pub(super) struct FurtherProcesses {
    runtime: Arc<Runtime>,
    shared: Arc<Shared>,
    bundle: Bundle,
}

impl FurtherProcesses {
    /// Starts one beside the runtime `born` was forked for. `root`: the container's root.
    pub(super) fn start(
        &self,
        born: Born,
        spec: &ProcessSpec,
        first: &RunSpec,
        stdin: &Stdin,
        root: impl AsFd,
    ) -> Result<Started> {
        let message = Message::new(spec.tty, stdin)?;
        let mut spec = spec.clone();
        start::inherit(&mut spec, first);
        let (user, home) = helper::resolve_user(root, &spec.user, true).map_err(start::error)?;
        let score = self.shared.config.oom_score_adj;
        let process = config::process(&spec, first, &user, home.as_deref(), score, own_capabilities()?);
        let number = self.runtime.processes.fetch_add(1, Ordering::Relaxed);
        let file = self.bundle.write(&format!("exec-{number}.json"), &process)?;
        let file = file.to_string_lossy();
        let args = [
            self.runtime.program.as_str(),
            "--root",
            &self.runtime.root,
            "exec",
            "--process",
            &file,
            &first.id,
        ];
        let external =
            Some(ExternalSetup { work: String::new(), root: None, mounts: Vec::new(), hide: None });
        let setup = Setup {
            sandbox: false,
            container: None,
            external,
            process: process_setup(&args, spec.tty),
            join: Vec::new(),
        };
        message.exchange(born, &setup, None)
    }
}
