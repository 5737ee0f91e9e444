//! What to run: plain data, the same on every host and for every executor.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::hosts::HostAddress;

/// A container: its root, what is mounted into it, its first process, and its limits.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// Names the container in errors, cgroups and for OCI runtimes: 1 to 128 of `[A-Za-z0-9_-]`, unique while it runs.
    pub id: String,
    /// The tree that the process sees as `/`.
    pub root: RootSpec,
    /// Mounted into the root in this order; a later mount at the same destination replaces the earlier one,
    /// and one at the destination of a default mount (`/dev/shm`) replaces that.
    pub mounts: Vec<Mount>,
    /// The first process (PID 1 of the container's PID namespace).
    pub process: ProcessSpec,
    /// Host name; `None` is [`DEFAULT_HOSTNAME`](crate::DEFAULT_HOSTNAME).
    pub hostname: Option<String>,
    /// Lines added to the generated `/etc/hosts`.
    pub extra_hosts: Vec<HostAddress>,
    /// Which network the container is in.
    pub network: Network,
    /// Whether it is confined.
    pub security: Security,
    /// Resource limits of processes; empty: the daemon's own limits are inherited.
    pub rlimits: Vec<Rlimit>,
    /// Limits of the container's cgroup.
    pub resources: Resources,
    /// Where its cgroup is made; `None`: the executor's default.
    pub cgroup_parent: Option<CgroupParent>,
    /// Remove also the parent folders of mount points that had to be made (not only the mount points themselves).
    pub remove_mount_point_parents: bool,
    /// Take resource samples while it runs (costs a cgroup of its own).
    pub samples: bool,
    /// Device nodes beyond those that every container has, which it may use (costs a cgroup of its own). A path is resolved
    /// inside the root; a later node at the same path replaces the earlier one.
    pub devices: Vec<kiln_cdi::DeviceNode>,
    /// Groups that the first process is in beyond those of its user.
    pub groups: Vec<u32>,
    /// Programs to be run in the container's life. The embedded runtime has those of its making (`createContainer`,
    /// `startContainer`), external ones have all.
    pub hooks: Vec<kiln_cdi::Hook>,
    /// What it stands on.
    pub held: Held,
}

/// Something that must not go while anything of a container runs, whether or not somebody still waits for its end: the
/// executor lets go of it when all processes are gone and nothing is mounted any more.
#[derive(Clone, Default)]
pub struct Held(Option<Arc<dyn Any + Send + Sync>>);

impl Held {
    /// Holds this.
    pub fn new(what: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Some(what))
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.is_some()).finish()
    }
}

/// The root of a container.
#[derive(Debug, Clone)]
pub struct RootSpec {
    /// The tree.
    pub tree: Tree,
    /// Remount it read-only once mount points and the working directory exist.
    pub readonly: bool,
}

/// A file tree that can be mounted.
#[derive(Debug, Clone)]
pub enum Tree {
    /// What a snapshotter hands out, as plain data.
    Mount(kiln_store::MountSpec),
    /// A mount that exists already: a detached mount, or a folder handle in the daemon's mount namespace.
    #[cfg(unix)]
    Handle(Arc<std::os::fd::OwnedFd>),
}

impl From<kiln_store::MountSpec> for Tree {
    fn from(spec: kiln_store::MountSpec) -> Self {
        Self::Mount(spec)
    }
}

/// Something mounted into the root.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Destination, in the root; relative paths count from `/`. `..` and links are resolved inside the root.
    pub dest: String,
    /// What is mounted.
    pub source: MountSource,
    /// Make the mount read-only.
    pub readonly: bool,
}

/// Where a mount's content comes from.
#[derive(Debug, Clone)]
pub enum MountSource {
    /// A tree, or the file or folder `selector` inside it (resolved inside the tree; empty or `/` is the whole tree).
    Tree {
        /// The tree.
        tree: Tree,
        /// Path inside the tree.
        selector: String,
    },
    /// A file or socket of the host, without anything mounted below it.
    Host(PathBuf),
    /// A file or folder of the host that its administrator wants in the container.
    Bind(BindSpec),
    /// A new, empty tmpfs.
    Tmpfs(TmpfsSpec),
    /// A file on a tmpfs of its own: secrets, generated files. Never touches a disk.
    File(FileSpec),
}

/// A file or folder of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindSpec {
    /// Its path; links are followed.
    pub path: PathBuf,
    /// With everything that is mounted below it.
    pub submounts: bool,
    /// What the mount keeps away.
    pub flags: MountFlags,
}

/// What a mount keeps away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountFlags {
    /// Set-user-id bits and file capabilities mean nothing.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// Programs cannot be run.
    pub noexec: bool,
}

/// Options of a tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TmpfsSpec {
    /// Size limit in bytes; `None` is the kernel's default.
    pub size: Option<u64>,
    /// Mode of its root folder; `None`: that of the folder it is mounted over, 1777 at `/dev/shm`, 755 if it is new.
    pub mode: Option<u32>,
    /// What it keeps away; set-user-id bits always.
    pub flags: MountFlags,
}

/// A small file given by its content.
#[derive(Clone)]
pub struct FileSpec {
    /// The bytes.
    pub content: Arc<[u8]>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl fmt::Debug for FileSpec {
    /// Never shows the content: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSpec({} bytes, {:o} {}:{})", self.content.len(), self.mode, self.uid, self.gid)
    }
}

/// A process: what `execve` needs and under whose identity.
#[derive(Debug, Clone, Default)]
pub struct ProcessSpec {
    /// Program and arguments; a program without a slash is looked up in the `PATH` of `env`, in the container's root.
    pub args: Vec<String>,
    /// `NAME=value`. `HOME` is added from the root's `/etc/passwd` where it is missing.
    pub env: Vec<String>,
    /// `name`, `uid`, `name:group`, `uid:gid` and so on, looked up in the root's `/etc/passwd` and `/etc/group`; empty is root.
    /// In [`Container::exec`](crate::Container::exec) empty is the user of the first process.
    pub user: String,
    /// Working directory in the root; made, and owned by the user, where it is missing. Empty is `/`
    /// (in `exec`: that of the first process).
    pub cwd: String,
    /// Run in a terminal; both output streams then arrive as stdout.
    pub tty: bool,
}

/// Which network a container is in.
#[derive(Debug, Clone, Default)]
pub enum Network {
    /// The daemon's.
    #[default]
    Host,
    /// A namespace of its own with nothing but the loopback device.
    None,
    /// A network namespace that somebody prepared (a handle on it).
    #[cfg(unix)]
    Namespace(Arc<std::os::fd::OwnedFd>),
}

/// Whether the container is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Default capabilities, seccomp filter, masked paths, device rules.
    #[default]
    Sandbox,
    /// All of the daemon's capabilities and devices, writable `/sys` and cgroups, no filter.
    Insecure,
}

/// A resource limit of processes (`setrlimit`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// Lower-case name without prefix: `nofile`, `core`, `nproc`, …
    pub name: String,
    /// Soft limit; -1 is no limit.
    pub soft: i64,
    /// Hard limit; -1 is no limit.
    pub hard: i64,
}

/// Limits of a container's cgroup; zero or empty means not limited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of memory and swap together; -1 is unlimited swap.
    pub memory_swap: i64,
    /// Relative weight, 2 to 262144 as in cgroup v1 (1024 is the default).
    pub cpu_shares: u64,
    /// Microseconds of CPU time a period.
    pub cpu_quota: i64,
    /// Length of a period in microseconds.
    pub cpu_period: u64,
    /// CPUs to run on: `0-2,7`.
    pub cpuset_cpus: String,
    /// Memory nodes to use: `0`.
    pub cpuset_mems: String,
}

impl Resources {
    /// Nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// A parent cgroup, as a path below the root of every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupParent(pub String);
