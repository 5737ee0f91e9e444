//! From a spec to a running container: sources are opened, the setup is sent, the answer awaited. Blocking code.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::pipe::PipeFlags;

use super::device::Device;
use super::hooks::Hooks;
use super::walk::{Make, walk};
use super::wire::{
    self, CgroupView, ContainerSetup, Failure, MountPoint, MountSetup, NetworkSetup, ProcessSetup, Reply,
    Setup, SourceSetup,
};
use super::zygote::Born;
use super::{helper, mount, sources, sys};
use crate::{
    DnsConfig, Error, FileSpec, Mount, MountSource, Network, ProcessSpec, Result, RunSpec, Security, Stdin,
    TmpfsSpec, hosts,
};

/// Most mounts of a container, within what one message can carry.
const MAX_MOUNTS: usize = 200;

/// Most devices of a container: each is a rule of its cgroup.
const MAX_DEVICES: usize = 200;

/// The daemon's ends of a process's streams.
#[derive(Debug)]
pub(super) enum Streams {
    Pipes {
        /// If it is given input.
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal(OwnedFd),
}

/// A process whose program runs, or could not be run.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) born: Born,
    pub(super) streams: Streams,
    /// What to say on standard error: the program could not be run.
    pub(super) message: Option<String>,
    /// A container's own: its root, for the time after it, and mount points that were made.
    pub(super) root: Option<OwnedFd>,
    pub(super) mount_points: Vec<MountPoint>,
}

/// Checks what can be checked without looking at the system.
pub(super) fn check(spec: &RunSpec) -> Result<()> {
    let invalid = |field, problem: String| Err(Error::Invalid { field, problem });
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if spec.id.is_empty() || spec.id.len() > 128 || !spec.id.bytes().all(name) {
        return invalid("container id", format!("{:?} is not 1 to 128 letters, digits, - or _", spec.id));
    }
    if spec.mounts.len() > MAX_MOUNTS {
        return invalid("mounts", format!("{} are more than {MAX_MOUNTS}", spec.mounts.len()));
    }
    if spec.devices.len() > MAX_DEVICES {
        return invalid("devices", format!("{} are more than {MAX_DEVICES}", spec.devices.len()));
    }
    if let Some(hostname) =
        spec.hostname.as_ref().filter(|name| name.len() > 64 || name.contains(['\n', '\0']))
    {
        return invalid("host name", format!("{hostname:?} is longer than 64 bytes or not a name"));
    }
    if let Some(limit) = spec.rlimits.iter().find(|limit| helper::resource(&limit.name).is_none()) {
        return invalid("ulimit", format!("{:?} is no limit of this system", limit.name));
    }
    if let Some(extra) = spec.extra_hosts.iter().find(|extra| extra.host.contains(char::is_whitespace)) {
        return invalid("extra host", format!("{:?} is not a name", extra.host));
    }
    check_process(&spec.process)
}

/// The same for a process.
pub(super) fn check_process(spec: &ProcessSpec) -> Result<()> {
    let strings = spec.args.iter().chain(&spec.env).chain([&spec.cwd, &spec.user]);
    if spec.args.is_empty() {
        return Err(Error::Invalid { field: "arguments", problem: "no command is given".to_owned() });
    }
    match strings.into_iter().find(|string| string.contains('\0')) {
        Some(string) => {
            Err(Error::Invalid { field: "process", problem: format!("{string:?} contains a NUL byte") })
        }
        None => Ok(()),
    }
}

/// What does not come from the spec.
pub(super) struct Surroundings<'a> {
    pub(super) dns: &'a DnsConfig,
    /// File systems must keep devices away.
    pub(super) nodev: bool,
    pub(super) cgroups: CgroupView,
    /// Cgroups that the process has to join.
    pub(super) doors: Vec<OwnedFd>,
    /// Devices beyond those that every container has.
    pub(super) devices: &'a [Device],
    /// Where bundles are made for hooks.
    pub(super) bundles: Option<&'a Path>,
}

/// Sets a container up in the process `born`, up to and including its program.
pub(super) fn container(
    born: Born,
    spec: &RunSpec,
    stdin: &Stdin,
    around: Surroundings<'_>,
) -> Result<Started> {
    let mut message = Message::new(spec.process.tty, stdin)?;
    let root = sources::open(&spec.root.tree).map_err(|source| Error::MountSource {
        dest: "/".to_owned(),
        path: "/".into(),
        source,
    })?;
    // Its bundle is there until the program runs.
    let hooks = Hooks::prepare(spec, &root, around.bundles, around.devices)?;
    let hostname = spec.hostname.clone().unwrap_or_else(|| crate::DEFAULT_HOSTNAME.to_owned());
    let mut mounts = generated(spec, &hostname, around.dns, &mut message);
    for mount in &spec.mounts {
        mounts.push(message.mount(mount, root.as_fd())?);
    }
    mounts.extend(around.devices.iter().map(Device::mount));
    let network = match &spec.network {
        Network::Host => NetworkSetup::Host,
        Network::None => NetworkSetup::None,
        Network::Namespace(handle) => {
            NetworkSetup::Namespace(message.add(handle.try_clone().map_err(handle_error)?))
        }
    };
    let sandbox = spec.security == Security::Sandbox;
    let container = ContainerSetup {
        root: message.add(root.try_clone().map_err(handle_error)?),
        root_readonly: spec.root.readonly,
        nodev: around.nodev,
        hostname,
        network,
        mounts,
        cgroups: around.cgroups,
        remove_mount_point_parents: spec.remove_mount_point_parents,
        loops: if sandbox { None } else { sys::free_loop_device().ok() },
        groups: spec.groups.clone(),
        hooks: hooks.as_ref().map(|hooks| hooks.setup(|host| message.add(host))).transpose()?,
    };
    let join = around.doors.into_iter().map(|door| message.add(door)).collect();
    let rlimits = spec.rlimits.iter().map(|limit| (limit.name.clone(), limit.soft, limit.hard)).collect();
    let process = process(&spec.process, rlimits);
    let setup = Setup { sandbox, container: Some(container), external: None, process, join };
    message.exchange(born, &setup, Some(root))
}

/// The same for a further process of a running container.
pub(super) fn further(
    born: Born,
    spec: &ProcessSpec,
    first: &RunSpec,
    stdin: &Stdin,
    doors: Vec<OwnedFd>,
) -> Result<Started> {
    let mut message = Message::new(spec.tty, stdin)?;
    let join = doors.into_iter().map(|door| message.add(door)).collect();
    let rlimits = first.rlimits.iter().map(|limit| (limit.name.clone(), limit.soft, limit.hard)).collect();
    let mut spec = spec.clone();
    inherit(&mut spec, first);
    let sandbox = first.security == Security::Sandbox;
    let setup = Setup { sandbox, container: None, external: None, process: process(&spec, rlimits), join };
    message.exchange(born, &setup, None)
}

/// What a further process does not say is as with the first one.
pub(super) fn inherit(spec: &mut ProcessSpec, first: &RunSpec) {
    if spec.user.is_empty() {
        spec.user.clone_from(&first.process.user);
    }
    if spec.cwd.is_empty() {
        spec.cwd.clone_from(&first.process.cwd);
    }
    if spec.env.is_empty() {
        spec.env.clone_from(&first.process.env);
    }
}

fn process(spec: &ProcessSpec, rlimits: Vec<(String, i64, i64)>) -> ProcessSetup {
    let ProcessSpec { args, env, user, cwd, tty } = spec.clone();
    ProcessSetup { args, env, user, cwd, tty, rlimits }
}

/// `/etc/resolv.conf` and `/etc/hosts`.
pub(super) fn generated(
    spec: &RunSpec,
    hostname: &str,
    dns: &DnsConfig,
    message: &mut Message,
) -> Vec<MountSetup> {
    let host_network = matches!(spec.network, Network::Host);
    let resolv = hosts::resolv_conf(&host_resolv_conf(host_network), dns, host_network);
    let hosts = hosts::hosts_file(hostname, &spec.extra_hosts);
    [("/etc/resolv.conf", resolv), ("/etc/hosts", hosts)]
        .map(|(dest, text)| MountSetup {
            dest: dest.to_owned(),
            source: message.file(text.as_bytes(), 0o644, 0, 0),
            readonly: true,
            attributes: mount::NOSUID | mount::NODEV | mount::NOEXEC,
        })
        .into()
}

/// The host's resolver configuration; elsewhere than in its network systemd's stub is no use, but what it asks is.
fn host_resolv_conf(host_network: bool) -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if !host_network && hosts::is_systemd_stub(&text) {
        return std::fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or(text);
    }
    text
}

/// What is sent to a process, while it is being put together.
pub(super) struct Message {
    fds: Vec<OwnedFd>,
    blob: Vec<u8>,
    /// Our ends of the pipes; `None` with a terminal.
    pipes: Option<Streams>,
}

impl Message {
    pub(super) fn new(tty: bool, stdin: &Stdin) -> Result<Self> {
        if tty {
            return Ok(Self { fds: Vec::new(), blob: Vec::new(), pipes: None });
        }
        let pipe = || {
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
                .map_err(|error| Error::System { step: "make a pipe", source: error.into() })
        };
        let (input, stdin) = match stdin {
            Stdin::Null => {
                let nothing = sources::nothing();
                (nothing.map_err(|source| Error::System { step: "open /dev/null", source })?, None)
            }
            Stdin::Channel(_) => {
                let (read, write) = pipe()?;
                (read, Some(write))
            }
        };
        let (stdout, output) = pipe()?;
        let (stderr, errors) = pipe()?;
        let pipes = Some(Streams::Pipes { stdin, stdout, stderr });
        Ok(Self { fds: vec![input, output, errors], blob: Vec::new(), pipes })
    }

    pub(super) fn add(&mut self, fd: OwnedFd) -> usize {
        self.fds.push(fd);
        self.fds.len() - 1
    }

    /// A descriptor that was added.
    pub(super) fn handle(&self, index: usize) -> BorrowedFd<'_> {
        self.fds[index].as_fd()
    }

    fn file(&mut self, content: &[u8], mode: u32, uid: u32, gid: u32) -> SourceSetup {
        let offset = self.blob.len();
        self.blob.extend_from_slice(content);
        SourceSetup::File { offset, length: content.len(), mode, uid, gid }
    }

    pub(super) fn mount(&mut self, mount: &Mount, root: BorrowedFd<'_>) -> Result<MountSetup> {
        let failed = |path: &Path| {
            let (dest, path) = (mount.dest.clone(), path.to_owned());
            move |source| Error::MountSource { dest, path, source }
        };
        let (source, attributes) = match &mount.source {
            MountSource::Tree { tree, selector } => {
                let handle = sources::open(tree).map_err(failed(selector.as_ref()))?;
                (SourceSetup::Tree { mount: self.add(handle), selector: selector.clone() }, 0)
            }
            MountSource::Host(path) => {
                let handle = sources::host(path).map_err(failed(path))?;
                let source = SourceSetup::Tree { mount: self.add(handle), selector: String::new() };
                (source, mount::NOSUID | mount::NODEV)
            }
            MountSource::Bind(spec) => {
                let handle = sources::bind(spec).map_err(failed(&spec.path))?;
                let source = SourceSetup::Tree { mount: self.add(handle), selector: String::new() };
                (source, sources::attributes(spec.flags))
            }
            MountSource::Tmpfs(spec) => {
                let handle = tmpfs(&mount.dest, *spec, root).map_err(failed(mount.dest.as_ref()))?;
                (SourceSetup::Tree { mount: self.add(handle), selector: String::new() }, 0)
            }
            MountSource::File(FileSpec { content, mode, uid, gid }) => {
                let noexec = if mode & 0o111 == 0 { mount::NOEXEC } else { 0 };
                (self.file(content, *mode, *uid, *gid), mount::NOSUID | mount::NODEV | noexec)
            }
        };
        Ok(MountSetup { dest: mount.dest.clone(), source, readonly: mount.readonly, attributes })
    }

    /// Sends it and waits until the program runs.
    pub(super) fn exchange(self, mut born: Born, setup: &Setup, root: Option<OwnedFd>) -> Result<Started> {
        let lost = |source: io::Error| Error::Setup { step: "talk to the container".to_owned(), source };
        let socket = born.socket.take().ok_or(Error::Lost)?;
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        wire::send_setup(&socket, setup, &self.blob, &fds).map_err(lost)?;
        // From here on only the process has the other ends of the pipes.
        let (mut streams, mut mount_points, mut message, mut ready) = (self.pipes, Vec::new(), None, false);
        drop(fds);
        drop(self.fds);
        while let Some((reply, terminal)) = wire::receive_reply(&socket).map_err(lost)? {
            match reply {
                Reply::Ready { mount_points: made } => (mount_points, ready) = (made, true),
                Reply::NotRun { message: why } => message = Some(why),
                Reply::Failed(failure) => {
                    if let Some(root) = &root {
                        super::mount_points::remove(root.as_fd(), &mount_points);
                    }
                    return Err(error(failure));
                }
            }
            if let Some(terminal) = terminal {
                streams = Some(Streams::Terminal(terminal));
            }
        }
        match streams {
            Some(streams) if ready => Ok(Started { born, streams, message, root, mount_points }),
            _ => Err(Error::Lost),
        }
    }
}

/// A tmpfs, detached. Mounts are made in the order of the spec, here, since the kernel lists them by age.
fn tmpfs(dest: &str, spec: TmpfsSpec, root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Shared memory is never executed nor holds devices, whoever sizes it.
    let shm = dest.trim_end_matches('/') == "/dev/shm";
    let shared = if shm { mount::NODEV | mount::NOEXEC } else { 0 };
    let attributes = mount::NOSUID | shared | sources::attributes(spec.flags);
    let covered = || walk(root, dest, Make::Nothing).and_then(|found| found.stat()).ok();
    let mode = match spec.mode {
        Some(mode) => mode,
        None if shm => 0o1777,
        None => covered().map_or(0o755, |stat| stat.st_mode & 0o7777),
    };
    let (mode, size) = (format!("{mode:o}"), spec.size.map(|size| size.to_string()));
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.as_deref().map(|size| ("size", size)));
    mount::filesystem("tmpfs", &options, attributes)
}

fn handle_error(source: io::Error) -> Error {
    Error::System { step: "copy a descriptor", source }
}

pub(super) fn error(failure: Failure) -> Error {
    match failure {
        Failure::Step { step, errno } => Error::Setup { step, source: io::Error::from_raw_os_error(errno) },
        Failure::Source { dest, path, errno } => {
            Error::MountSource { dest, path: path.into(), source: io::Error::from_raw_os_error(errno) }
        }
        Failure::User { kind: 0, name } => Error::NoSuchUser { kind: "user", name, file: "passwd file" },
        Failure::User { name, .. } => Error::NoSuchUser { kind: "group", name, file: "group file" },
        Failure::Hook { name, path, problem } => Error::Hook { name, path: path.into(), problem },
        Failure::Invalid { problem } => Error::Invalid { field: "container", problem },
    }
}
