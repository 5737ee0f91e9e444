//! What the daemon and its helper say to each other.
//!
//! On the zygote's control socket (packets, each of 24 bytes: three native-endian 64-bit numbers):
//!
//! ```text
//!   daemon → zygote   START  id  flags      + the container's socket [+ a cgroup to be born in]
//!                     EXEC   id  0          + the process's socket, a pidfd of the container
//!   zygote → daemon   BORN   id  pid        + a pidfd
//!                     FAILED id  errno
//!                     ENDED  id  wait status
//! ```
//!
//! On a container's socket (a stream; 64 MiB at most):
//!
//! ```text
//!   daemon → container   length of JSON (u32), length of blob (u32), JSON of [`Setup`], blob   + descriptors
//!   container → daemon   length of JSON (u32), JSON of [`Reply`]                               + terminal
//! ```
//!
//! Once the program runs, the container's end is closed by `execve`: the end of the stream says "started".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::pass;

/// A packet on the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) value: u64,
}

/// What a [`Packet`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Start = 1,
    Exec = 2,
    Born = 3,
    Failed = 4,
    Ended = 5,
}

/// Flag of `Start`: the second descriptor is a cgroup (v2) folder.
pub(super) const INTO_CGROUP: u64 = 1;
/// Flag of `Start`: devices, masks and so on of a sandbox are prepared.
pub(super) const SANDBOX: u64 = 2;
/// Flag of `Start`: the process stays among the host's files, and runs an OCI runtime.
pub(super) const HOST: u64 = 8;
/// Flag of `Start`: no cgroup keeps devices away, so that file systems must.
pub(super) const NODEV: u64 = 4;

/// Size of a packet.
pub(super) const PACKET: usize = 24;

impl Packet {
    pub(super) fn encode(self) -> [u8; PACKET] {
        let mut out = [0; PACKET];
        for (to, from) in out.chunks_exact_mut(8).zip([self.kind as u64, self.id, self.value]) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; PACKET] = bytes.try_into().ok()?;
        let mut numbers = bytes.chunks_exact(8).map(|chunk| {
            let mut number = [0; 8];
            number.copy_from_slice(chunk);
            u64::from_ne_bytes(number)
        });
        let kind = match numbers.next()? {
            1 => Kind::Start,
            2 => Kind::Exec,
            3 => Kind::Born,
            4 => Kind::Failed,
            5 => Kind::Ended,
            _ => return None,
        };
        Some(Self { kind, id: numbers.next()?, value: numbers.next()? })
    }
}

/// What a container's first process, or a further one, is told. Numbers of descriptors are indexes into those that came
/// with the message; without a terminal the first three are the standard streams.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) sandbox: bool,
    /// `None`: a further process in a container that exists.
    pub(super) container: Option<ContainerSetup>,
    /// The program is an OCI runtime, which is not in the container itself but beside the host's files.
    pub(super) external: Option<ExternalSetup>,
    pub(super) process: ProcessSetup,
    /// Descriptors of `cgroup.procs` files to write ourselves into.
    pub(super) join: Vec<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ContainerSetup {
    pub(super) root: usize,
    pub(super) root_readonly: bool,
    pub(super) nodev: bool,
    pub(super) hostname: String,
    pub(super) network: NetworkSetup,
    pub(super) mounts: Vec<MountSetup>,
    pub(super) cgroups: CgroupView,
    pub(super) remove_mount_point_parents: bool,
    /// The first free loop device.
    pub(super) loops: Option<u32>,
    /// Groups that the process is in beyond those of its user.
    pub(super) groups: Vec<u32>,
    /// Programs that are run before the container's own.
    pub(super) hooks: Option<HooksSetup>,
}

/// Programs to be run while the container is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HooksSetup {
    /// A private copy of the host's mounts, detached.
    pub(super) host: usize,
    /// Path on the host of a folder that has an empty folder `rootfs`.
    pub(super) bundle: String,
    /// The container's id.
    pub(super) id: String,
    /// Programs of the host, run when all is mounted.
    pub(super) create: Vec<HookSetup>,
    /// Programs of the container, run before its own.
    pub(super) start: Vec<HookSetup>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HookSetup {
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    /// Seconds.
    pub(super) timeout: Option<u32>,
}

/// What an OCI runtime finds mounted, in a mount namespace of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExternalSetup {
    /// A folder of the host, which a tmpfs is mounted over. It gets `rootfs` and `mounts/<destination>`.
    pub(super) work: String,
    /// `None`: a further process, for which all is there.
    pub(super) root: Option<usize>,
    pub(super) mounts: Vec<MountSetup>,
    /// A mount of the host that the runtime must not see.
    pub(super) hide: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum NetworkSetup {
    Host,
    None,
    Namespace(usize),
}

/// What is mounted at `/sys/fs/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum CgroupView {
    /// Nothing.
    None,
    /// The unified hierarchy, from the container's own cgroup on.
    Unified { readonly: bool },
    /// A tmpfs with a folder for each v1 hierarchy (mount options, name of the folder), and the unified one beside.
    Legacy { readonly: bool, hierarchies: Vec<(String, String)>, unified: bool },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MountSetup {
    pub(super) dest: String,
    pub(super) source: SourceSetup,
    pub(super) readonly: bool,
    /// `MOUNT_ATTR_*` on top of that.
    pub(super) attributes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SourceSetup {
    /// A detached mount; what is mounted is `selector` inside it.
    Tree { mount: usize, selector: String },
    /// Bytes of the blob.
    File { offset: usize, length: usize, mode: u32, uid: u32, gid: u32 },
    /// A device node.
    Device(NodeSetup),
}

/// A device node that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeSetup {
    /// `S_IFBLK`, `S_IFCHR` or `S_IFIFO`.
    pub(super) kind: u32,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) mode: u32,
    /// `None`: the first process's.
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProcessSetup {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) user: String,
    pub(super) cwd: String,
    pub(super) tty: bool,
    /// Name, soft, hard (-1: none).
    pub(super) rlimits: Vec<(String, i64, i64)>,
}

/// What a container answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It is about to run the program. The mount points that were made, in order of their making.
    Ready { mount_points: Vec<MountPoint> },
    /// The program cannot be run: what to tell on standard error.
    NotRun { message: String },
    /// The setup failed.
    Failed(Failure),
}

/// A mount point that had to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountPoint {
    /// Path in the root, without links: its components, as bytes.
    pub(super) path: Vec<Vec<u8>>,
    pub(super) directory: bool,
    /// Times of the folder that it was made in: before, and just after.
    pub(super) parent_before: Times,
    pub(super) parent_after: Times,
}

/// Access and modification time: seconds and nanoseconds.
pub(super) type Times = [(i64, i64); 2];

/// Why a setup failed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    Step { step: String, errno: i32 },
    Source { dest: String, path: String, errno: i32 },
    User { kind: u8, name: String },
    Invalid { problem: String },
    Hook { name: String, path: String, problem: String },
}

/// Most bytes of a message.
const LIMIT: usize = 64 << 20;

/// Sends a [`Setup`].
pub(super) fn send_setup(
    socket: impl AsFd,
    setup: &Setup,
    blob: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let json = serde_json::to_vec(setup)?;
    if json.len() + blob.len() > LIMIT {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let mut message = Vec::with_capacity(8 + json.len() + blob.len());
    message.extend((json.len() as u32).to_ne_bytes());
    message.extend((blob.len() as u32).to_ne_bytes());
    message.extend(json);
    message.extend(blob);
    pass::send(socket, &message, fds)
}

/// A [`Setup`] with its blob and descriptors.
pub(super) type Received = (Setup, Vec<u8>, Vec<OwnedFd>);

/// Receives a [`Setup`]; `None` if the daemon lost interest.
pub(super) fn receive_setup(socket: impl AsFd) -> io::Result<Option<Received>> {
    let socket = socket.as_fd();
    let (mut head, mut fds) = ([0; 8], Vec::new());
    if !pass::receive_exact(socket, &mut head, &mut fds)? {
        return Ok(None);
    }
    let [a, b, c, d, e, f, g, h] = head;
    let (json, blob) = (u32::from_ne_bytes([a, b, c, d]) as usize, u32::from_ne_bytes([e, f, g, h]) as usize);
    let mut bytes = vec![0; json + blob];
    if !pass::receive_exact(socket, &mut bytes, &mut fds)? && !bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let blob = bytes.split_off(json);
    Ok(Some((serde_json::from_slice(&bytes)?, blob, fds)))
}

/// Sends a [`Reply`].
pub(super) fn send_reply(
    socket: impl AsFd,
    reply: &Reply,
    terminal: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let json = serde_json::to_vec(reply)?;
    let mut message = Vec::with_capacity(4 + json.len());
    message.extend((json.len() as u32).to_ne_bytes());
    message.extend(json);
    pass::send(socket, &message, terminal.as_slice())
}

/// Receives a [`Reply`]; `None`: the end.
///
/// It comes from a process that has our trust until its `execve`, which closes the socket.
pub(super) fn receive_reply(socket: impl AsFd) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
    let socket = socket.as_fd();
    let (mut head, mut fds) = ([0; 4], Vec::new());
    if !pass::receive_exact(socket, &mut head, &mut fds)? {
        return Ok(None);
    }
    let mut bytes = vec![0; (u32::from_ne_bytes(head) as usize).min(LIMIT)];
    pass::receive_exact(socket, &mut bytes, &mut fds)?;
    Ok(Some((serde_json::from_slice(&bytes)?, fds.into_iter().next())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back() {
        for kind in [Kind::Start, Kind::Exec, Kind::Born, Kind::Failed, Kind::Ended] {
            let packet = Packet { kind, id: 7, value: u64::MAX };
            assert_eq!(Packet::decode(&packet.encode()), Some(packet));
        }
        assert_eq!(Packet::decode(&[0; PACKET]), None);
        assert_eq!(Packet::decode(&[1; 5]), None);
    }
}
