//! The runtime helper: a process of one thread, started from our own executable.
//!
//! It is the *zygote*: it lives in a mount namespace that holds nothing but a small read-only tmpfs, forks the first
//! process of every container (and further processes of running ones), tells the daemon how they end, and when the
//! daemon is gone kills them all and ends. What happens inside a container before its program runs is in
//! [`container`].
//!
//! ```text
//!   /proc /sys /dev /root /files /stage   empty folders, where a container assembles what it will see
//!   /host                                 an empty folder, where hooks find the host's files
//!   /empty                                what masked folders show
//!   /nodes/{null,zero,…}                  devices: null is what masked files show
//! ```

mod container;
mod devices;
mod external;
mod failure;
mod hooks;
mod identity;
mod kernel_files;
mod process;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::wire::{HOST, INTO_CGROUP, Kind, NODEV, PACKET, Packet, SANDBOX};
use super::{mount, pass, sys};

pub(super) use identity::resolve as resolve_user;
pub(super) use process::resource;

/// The name of the helper process, and its `argv[0]`.
pub(super) const NAME: &str = "kiln-runtime";

/// Its first argument: it leaves the host's mounts, or stays among them.
pub(super) const OWN_MODE: &str = "container";
pub(super) const HOST_MODE: &str = "host";

/// Device nodes that every container has: name, major and minor number.
pub(super) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Serves the daemon at the other end of standard input.
pub(super) fn serve() -> ExitCode {
    let control = sys::take_stdin();
    match Zygote::new(control) {
        Ok(mut zygote) => {
            zygote.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Child {
    id: u64,
    pid: Pid,
    pidfd: OwnedFd,
}

struct Zygote {
    control: OwnedFd,
    /// A handle on ourselves, by which we return from other PID namespaces.
    own: OwnedFd,
    children: Vec<Child>,
}

impl Zygote {
    fn new(control: OwnedFd) -> io::Result<Self> {
        // No process of a container may look into us or our forks through /proc.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::thread::set_name(c"kiln-runtime")?;
        // A terminal's Ctrl-C is for the daemon, which then ends us in order.
        if let Err(error) = rustix::process::setsid() {
            tracing::debug!(%error, "already a session leader");
        }
        sys::reset_signals();
        sys::close_from(3)?;
        rustix::process::umask(Mode::empty());
        let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        if std::env::args().nth(1).is_none_or(|mode| mode != HOST_MODE) {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("mount namespace: {error}"));
            enter_base(&own).map_err(named)?;
        }
        Ok(Self { control, own, children: Vec::new() })
    }

    /// Until the daemon closes its end.
    fn run(&mut self) {
        while self.turn() {}
        for child in &self.children {
            kill(&child.pidfd);
        }
        for child in &self.children {
            _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child.pid), WaitOptions::empty()));
        }
    }

    /// Waits for something to do and does it. `false`: the daemon is gone.
    fn turn(&mut self) -> bool {
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(1 + self.children.len());
        polled.push(PollFd::new(&self.control, PollFlags::IN));
        polled.extend(self.children.iter().map(|child| PollFd::new(&child.pidfd, PollFlags::IN)));
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
        let asked = !polled[0].revents().is_empty();
        let ended: Vec<usize> =
            (1..polled.len()).rev().filter(|i| !polled[*i].revents().is_empty()).map(|i| i - 1).collect();
        for index in ended {
            self.reap(index);
        }
        !asked || self.answer()
    }

    fn reap(&mut self, index: usize) {
        let pid = self.children[index].pid;
        if let Ok(Some((_, status))) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            let child = self.children.swap_remove(index);
            self.tell(Packet { kind: Kind::Ended, id: child.id, value: status.as_raw() as u64 }, None);
        }
    }

    fn answer(&mut self) -> bool {
        let (mut bytes, mut fds) = ([0; PACKET], Vec::new());
        let received = match pass::receive(&self.control, &mut bytes, &mut fds) {
            Ok(0) | Err(_) => return false,
            Ok(n) => n,
        };
        let Some(packet) = Packet::decode(&bytes[..received]) else { return false };
        let born = match packet.kind {
            Kind::Start => self.start(packet.value, fds),
            Kind::Exec => self.exec(fds),
            Kind::Born | Kind::Failed | Kind::Ended => return false,
        };
        match born {
            Ok((pid, pidfd)) => {
                let packet = Packet { kind: Kind::Born, id: packet.id, value: pid as u64 };
                self.tell(packet, Some(pidfd.as_fd()));
                if let Some(pid) = Pid::from_raw(pid) {
                    self.children.push(Child { id: packet.id, pid, pidfd });
                }
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                self.tell(Packet { kind: Kind::Failed, id: packet.id, value: errno as u64 }, None);
            }
        }
        true
    }

    fn start(&self, flags: u64, fds: Vec<OwnedFd>) -> io::Result<(i32, OwnedFd)> {
        let mut fds = fds.into_iter();
        let socket = fds.next().ok_or(io::ErrorKind::InvalidInput)?;
        let cgroup = if flags & INTO_CGROUP == 0 { None } else { fds.next() };
        let host = flags & HOST != 0;
        let own = if host { 0 } else { libc::CLONE_NEWIPC | libc::CLONE_NEWUTS };
        let namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS | own;
        match sys::clone(namespaces as u64, cgroup.as_ref().map(AsFd::as_fd))? {
            sys::Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
            sys::Cloned::Child => {
                keep_only(&[socket.as_fd()]);
                if host {
                    external::main(&socket);
                }
                container::main(&socket, flags & SANDBOX != 0, flags & NODEV != 0)
            }
        }
    }

    fn exec(&self, fds: Vec<OwnedFd>) -> io::Result<(i32, OwnedFd)> {
        let mut fds = fds.into_iter();
        let (Some(socket), Some(target)) = (fds.next(), fds.next()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let pid_namespace = |of: &OwnedFd| {
            rustix::thread::move_into_thread_name_spaces(of.as_fd(), ThreadNameSpaceType::PROCESS_ID)
        };
        pid_namespace(&target)?;
        let cloned = sys::clone(0, None);
        if let Ok(sys::Cloned::Child) = cloned {
            keep_only(&[socket.as_fd(), target.as_fd()]);
            container::join_main(&socket, target);
        }
        // Only where children are born has changed; without the way back every later container would be born in there.
        if pid_namespace(&self.own).is_err() {
            sys::exit_now(70);
        }
        match cloned? {
            sys::Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
            sys::Cloned::Child => sys::exit_now(70),
        }
    }

    /// Says something to the daemon; if it is gone, the next turn notices.
    fn tell(&self, packet: Packet, fd: Option<BorrowedFd<'_>>) {
        _ = pass::send(&self.control, &packet.encode(), fd.as_slice());
    }
}

fn kill(process: &OwnedFd) {
    _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
}

/// In a forked process: closes the zygote's descriptors. Standard input becomes what standard output is: nothing.
fn keep_only(keep: &[BorrowedFd<'_>]) {
    use std::os::fd::AsRawFd as _;
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        sys::close_between(first, fd);
        first = fd + 1;
    }
    _ = sys::close_from(first);
    _ = rustix::stdio::dup2_stdin(rustix::stdio::stdout());
}

/// Leaves the host's mounts for a namespace with nothing in it (see the module's picture).
fn enter_base(own: &OwnedFd) -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWNS)?;
    // Out of a chroot, to the namespace's real root: only that can be replaced.
    _ = rustix::thread::move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::MOUNT);
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let base = mount::filesystem("tmpfs", &[("mode", "0755"), ("size", "64k")], mount::NOSUID)?;
    for folder in ["proc", "sys", "dev", "root", "files", "stage", "host", "empty", "nodes"] {
        rustix::fs::mkdirat(&base, folder, Mode::from_raw_mode(0o555))?;
    }
    for (name, major, minor) in DEVICES {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(
            &base,
            format!("nodes/{name}"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        )?;
    }
    mount::restrict(&base, mount::RDONLY)?;
    let old = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach_at(&base, "/")?;
    rustix::process::fchdir(&base)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => {
            rustix::process::fchdir(&old)?;
            rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        }
        // The root is the kernel's first file system, which cannot be replaced: it stays below ours.
        Err(_) => rustix::process::chroot(".")?,
    }
    rustix::process::chdir("/")?;
    // What is made from here on is private as well.
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    _ = rustix::fs::openat(CWD, "/nodes/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(())
}
