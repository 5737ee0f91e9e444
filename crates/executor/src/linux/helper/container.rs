//! A container's first process, from its birth to its program; and the same for further processes.
//!
//! Before its setup arrives it prepares what all containers have, so that this is done while a step's inputs are
//! still being made. Then, in this order: cgroups, network, host name, root, user, working directory, kernel file
//! systems, generated files, mounts, hooks, and the root becomes `/` by being mounted over the base, which nothing can see or
//! reach from then on. No path of the host is ever opened here, but by hooks: what comes from the host comes as handles.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

use super::super::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use super::super::sys;
use super::super::walk::{Make, PROC, walk};
use super::super::wire::{self, CgroupView, ContainerSetup, Failure, MountSetup, NetworkSetup, Reply, Setup};
use super::super::wire::{MountPoint, NodeSetup, SourceSetup};
use super::failure::{Doing, Result};
use super::process::{self, Launch};
use super::{devices, hooks, identity, kernel_files};

/// The first process of a container.
pub(super) fn main(socket: &OwnedFd, sandbox: bool, nodev: bool) -> ! {
    let prepared = prepare(sandbox, nodev);
    serve(socket, |setup, blob, fds| enter(socket, prepared?, setup, &blob, fds))
}

/// A further process of the container whose first process is `target`; it was born in its PID namespace.
pub(super) fn join_main(socket: &OwnedFd, target: OwnedFd) -> ! {
    serve(socket, |setup, _, fds| join(socket, &target, setup, fds))
}

pub(super) fn serve(
    socket: &OwnedFd,
    start: impl FnOnce(Setup, Vec<u8>, Vec<OwnedFd>) -> Result<std::convert::Infallible>,
) -> ! {
    // If the helper is already gone, the daemon's socket will be closed, or its kill arrive.
    _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let failure = match wire::receive_setup(socket) {
        Ok(Some((setup, blob, fds))) => match start(setup, blob, fds) {
            Ok(never) => match never {},
            Err(failure) => failure,
        },
        // Not needed after all.
        Ok(None) => sys::exit_now(0),
        Err(error) => {
            Failure::Step { step: "read the setup".to_owned(), errno: super::failure::errno(&error) }
        }
    };
    _ = wire::send_reply(socket, &Reply::Failed(failure), None);
    sys::exit_now(70)
}

/// What all containers have: attached to the base, to be moved into the root.
struct Prepared {
    dev: OwnedFd,
}

fn prepare(sandbox: bool, nodev: bool) -> Result<Prepared> {
    _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    kernel_files::prepare_proc(sandbox)?;
    kernel_files::prepare_sys(sandbox)?;
    Ok(Prepared { dev: devices::prepare(nodev)? })
}

fn enter(
    socket: &OwnedFd,
    prepared: Prepared,
    setup: Setup,
    blob: &[u8],
    fds: Vec<OwnedFd>,
) -> Result<std::convert::Infallible> {
    let Setup { sandbox, container, process, join, .. } = setup;
    let Some(container) = container else {
        return Err(Failure::Invalid { problem: "the setup has no container".to_owned() });
    };
    let fd = |index: usize| {
        fds.get(index).map(AsFd::as_fd).ok_or(rustix::io::Errno::BADF).doing("find a descriptor")
    };
    process::join(&join.iter().map(|index| fd(*index)).collect::<Result<Vec<_>>>()?)?;
    namespaces(&container, sandbox, fd)?;
    if !sandbox {
        devices::add_insecure(&prepared.dev, container.loops)?;
    }
    let root = fd(container.root)?;
    let nodev = if container.nodev { NODEV } else { 0 };
    mount::restrict(root, nodev).doing("restrict the root")?;
    mount::attach_at(root, "/root").doing("attach the root")?;
    let want_home = !process.env.iter().any(|variable| variable.starts_with("HOME=") && variable != "HOME=");
    let (mut user, home) = identity::resolve(root, &process.user, want_home)?;
    for gid in &container.groups {
        if !user.groups.contains(gid) {
            user.groups.push(*gid);
        }
    }
    let cwd = format!("working directory {}", process.cwd);
    walk(root, &process.cwd, Make::Folders(Some((user.uid, user.gid)))).doing(cwd)?;
    let mount_points = mount_all(root, &container, (user.uid, user.gid), blob, fd)?;
    if let Some(hooks) = &container.hooks {
        hooks::create(root, hooks, fd(hooks.host)?)?;
    }
    if container.root_readonly {
        mount::restrict(root, RDONLY).doing("make the root read-only")?;
    }
    become_root(root)?;
    // What is left are the program's streams: a hook of the container must not find the host's files among ours.
    let mut fds = fds;
    fds.truncate(if process.tty { 0 } else { 3 });
    if let Some(hooks) = &container.hooks {
        hooks::start(hooks, &user, sandbox)?;
    }
    let dev = Some(prepared.dev);
    Err(process::launch(Launch {
        socket,
        setup: process,
        sandbox,
        user,
        home,
        fds,
        dev,
        mount_points,
        trusted: false,
    }))
}

fn namespaces<'a>(
    container: &ContainerSetup,
    sandbox: bool,
    fd: impl Fn(usize) -> Result<BorrowedFd<'a>>,
) -> Result<()> {
    match container.network {
        NetworkSetup::Host => {}
        NetworkSetup::None => {
            sys::unshare(UnshareFlags::NEWNET).doing("make a network namespace")?;
            sys::loopback_up().doing("bring the loopback device up")?;
        }
        NetworkSetup::Namespace(index) => {
            rustix::thread::move_into_link_name_space(fd(index)?, Some(LinkNameSpaceType::Network))
                .doing("enter the network namespace")?;
        }
    }
    if !matches!(container.network, NetworkSetup::Host) {
        kernel_files::renew_sys(sandbox)?;
    }
    if container.cgroups != CgroupView::None {
        sys::unshare(UnshareFlags::NEWCGROUP).doing("make a cgroup namespace")?;
    }
    kernel_files::prepare_cgroups(&container.cgroups)?;
    rustix::system::sethostname(container.hostname.as_bytes()).doing("set the host name")
}

/// Moves the kernel's file systems into the root and mounts what the spec says. The result: mount points that were made
/// and are to be removed in the end.
fn mount_all<'a>(
    root: BorrowedFd<'_>,
    container: &ContainerSetup,
    owner: (u32, u32),
    blob: &[u8],
    fd: impl Fn(usize) -> Result<BorrowedFd<'a>>,
) -> Result<Vec<MountPoint>> {
    let mut mount_points = Vec::new();
    for (name, path) in [("proc", "/proc"), ("sys", "/sys"), ("dev", "/dev")] {
        let doing = format!("mount {path}");
        let found = walk(root, name, Make::Folders(None)).doing(&doing)?;
        // An image that links these elsewhere wants to be asked about them elsewhere.
        if name != "dev" && found.path.as_slice() != [name.as_bytes()] {
            return Err(Failure::Invalid { problem: format!("{path} of the step's root is a link") });
        }
        let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(CWD, path, &found.handle, "", flags).doing(&doing)?;
        // These stay in the layer of the first step that needs them, except a /dev that a mount of the step's own lies in.
        if name == "dev" && container.mounts.iter().any(|mount| mount.dest.starts_with("/dev/")) {
            mount_points.extend(found.made);
        }
    }
    let mut files = Places::new("", owner);
    for (number, mount) in container.mounts.iter().enumerate() {
        let source = files.source(mount, number, blob, &fd)?;
        let made = attach(root, mount, &source, container.nodev)?;
        if container.remove_mount_point_parents {
            mount_points.extend(made);
        } else {
            mount_points.extend(made.into_iter().next_back());
        }
    }
    Ok(mount_points)
}

/// Attaches `source` at its destination.
fn attach(
    root: BorrowedFd<'_>,
    mount: &MountSetup,
    source: &OwnedFd,
    nodev: bool,
) -> Result<Vec<MountPoint>> {
    let dest = &mount.dest;
    let doing = format!("mount {dest}");
    let folder = FileType::from_raw_mode(rustix::fs::fstat(source).doing(&doing)?.st_mode).is_dir();
    let found = walk(root, dest, if folder { Make::Folders(None) } else { Make::File }).doing(&doing)?;
    if found.path.is_empty() {
        return Err(Failure::Invalid { problem: format!("{dest}: nothing can be mounted over the root") });
    }
    if rustix::fs::fstatfs(&found.handle).doing(&doing)?.f_type == PROC {
        return Err(Failure::Invalid {
            problem: format!("{dest}: nothing can be mounted over or inside /proc"),
        });
    }
    let restrictions = if mount.readonly { RDONLY } else { 0 };
    mount::restrict(source, mount.attributes | restrictions).doing(&doing)?;
    if nodev && !matches!(mount.source, SourceSetup::Device(_)) {
        mount::without_devices(source).doing(&doing)?;
    }
    mount::attach(source, &found.handle).doing(&doing)?;
    Ok(found.made)
}

/// Where sources are put together: folders that nothing in the container sees.
pub(super) struct Places {
    /// `stage` and `files` are below this path.
    base: String,
    /// The tmpfs at `files`, which holds generated files and secrets; each is mounted by itself.
    files: Option<OwnedFd>,
    /// The same for device nodes, on top of whatever else is at `stage`.
    nodes: Option<OwnedFd>,
    /// Whose the nodes are that name nobody.
    owner: (u32, u32),
}

impl Places {
    pub(super) fn new(base: impl Into<String>, owner: (u32, u32)) -> Self {
        Self { base: base.into(), files: None, nodes: None, owner }
    }

    /// The detached mount of a source.
    pub(super) fn source<'a>(
        &mut self,
        mount: &MountSetup,
        number: usize,
        blob: &[u8],
        fd: &impl Fn(usize) -> Result<BorrowedFd<'a>>,
    ) -> Result<OwnedFd> {
        let doing = format!("mount {}", mount.dest);
        match &mount.source {
            SourceSetup::Tree { mount: index, selector } => self.tree(mount, fd(*index)?, selector),
            SourceSetup::File { offset, length, mode, uid, gid } => {
                let content =
                    blob.get(*offset..offset.saturating_add(*length)).ok_or(rustix::io::Errno::INVAL);
                self.file(number, content.doing(&doing)?, *mode, (*uid, *gid)).doing(&doing)
            }
            SourceSetup::Device(node) => self.node(number, node).doing(&doing),
        }
    }

    fn tree(&self, mount: &MountSetup, tree: BorrowedFd<'_>, selector: &str) -> Result<OwnedFd> {
        let doing = format!("mount {}", mount.dest);
        if selector.split('/').all(|name| matches!(name, "" | ".")) {
            return rustix::io::fcntl_dupfd_cloexec(tree, 3).doing(&doing);
        }
        // Only what is attached can be cloned in part; what is staged stays hidden until the end.
        mount::attach_at(tree, &format!("{}/stage", self.base)).doing(&doing)?;
        let not_found = |error: std::io::Error| Failure::Source {
            dest: mount.dest.clone(),
            path: selector.to_owned(),
            errno: super::failure::errno(&error),
        };
        let found = walk(tree, selector, Make::Nothing).map_err(not_found)?;
        mount::clone_of(&found.handle, "").doing(&doing)
    }

    fn file(
        &mut self,
        number: usize,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> std::io::Result<OwnedFd> {
        let folder = match self.files.take() {
            Some(folder) => folder,
            None => {
                let folder = mount::filesystem("tmpfs", &[("mode", "0700")], NOSUID | NODEV | NOEXEC)?;
                mount::attach_at(&folder, &format!("{}/files", self.base))?;
                folder
            }
        };
        let name = number.to_string();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, &name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(file);
        file.write_all(content)?;
        if owner != (0, 0) {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            rustix::fs::chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
        let mount = mount::clone_of(&folder, &name);
        self.files = Some(folder);
        mount
    }

    /// A device node. Where it is shown nothing is ever made by it but a file to be mounted over.
    fn node(&mut self, number: usize, node: &NodeSetup) -> std::io::Result<OwnedFd> {
        let folder = match self.nodes.take() {
            Some(folder) => folder,
            None => {
                let folder = mount::filesystem("tmpfs", &[("mode", "0700")], NOSUID | NOEXEC)?;
                mount::attach_at(&folder, &format!("{}/stage", self.base))?;
                folder
            }
        };
        let name = number.to_string();
        let kind = FileType::from_raw_mode(node.kind);
        let device = rustix::fs::makedev(node.major, node.minor);
        rustix::fs::mknodat(&folder, &name, kind, Mode::from_raw_mode(0o600), device)?;
        let (uid, gid) = (node.uid.unwrap_or(self.owner.0), node.gid.unwrap_or(self.owner.1));
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&folder, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(&folder, &name, Mode::from_raw_mode(node.mode & 0o777), AtFlags::empty())?;
        let mount = mount::clone_of(&folder, &name);
        self.nodes = Some(folder);
        mount
    }
}

/// Mounts the root over the base and makes it `/`.
///
/// As it covers the namespace's root, the process does not count as chrooted and no `..` leads below it; and unlike
/// with `pivot_root`, nothing has to be unmounted.
fn become_root(root: BorrowedFd<'_>) -> Result<()> {
    let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, "", CWD, "/", flags).doing("move the root")?;
    rustix::process::fchdir(root).doing("enter the root")?;
    rustix::process::chroot(".").doing("enter the root")
}

fn join(
    socket: &OwnedFd,
    target: &OwnedFd,
    setup: Setup,
    fds: Vec<OwnedFd>,
) -> Result<std::convert::Infallible> {
    let Setup { sandbox, process, join, external, .. } = setup;
    if external.is_some() {
        return super::external::join(socket, target, process, fds);
    }
    let fd = |index: &usize| {
        fds.get(*index).map(AsFd::as_fd).ok_or(rustix::io::Errno::BADF).doing("find a descriptor")
    };
    process::join(&join.iter().map(fd).collect::<Result<Vec<_>>>()?)?;
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::CONTROL_GROUP;
    rustix::thread::move_into_thread_name_spaces(target.as_fd(), all).doing("enter the container")?;
    let want_home = !process.env.iter().any(|variable| variable.starts_with("HOME=") && variable != "HOME=");
    let (user, home) = identity::resolve(process::root_handle()?, &process.user, want_home)?;
    let mount_points = Vec::new();
    Err(process::launch(Launch {
        socket,
        setup: process,
        sandbox,
        user,
        home,
        fds,
        dev: None,
        mount_points,
        trusted: false,
    }))
}
