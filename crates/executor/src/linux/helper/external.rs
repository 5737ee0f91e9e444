//! An OCI runtime's surroundings: the host's files, with the container's root and mounts attached in a mount namespace
//! that nobody else sees, and a PID namespace that takes everything with it when the runtime is killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::ThreadNameSpaceType;

use super::super::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use super::super::wire::{ExternalSetup, Failure, ProcessSetup, Setup};
use super::container::{Places, serve};
use super::failure::{Doing, Result};
use super::process::{self, Launch};
use crate::user::ResolvedUser;

/// The runtime of a container.
pub(super) fn main(socket: &OwnedFd) -> ! {
    serve(socket, |setup, blob, fds| enter(socket, setup, &blob, fds))
}

fn enter(socket: &OwnedFd, setup: Setup, blob: &[u8], fds: Vec<OwnedFd>) -> Result<std::convert::Infallible> {
    let Setup { external: Some(external), process, .. } = setup else {
        return Err(Failure::Invalid { problem: "the setup has no runtime".to_owned() });
    };
    let fd = |index: usize| {
        fds.get(index).map(AsFd::as_fd).ok_or(rustix::io::Errno::BADF).doing("find a descriptor")
    };
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private).doing("make mounts private")?;
    // The runtime looks processes up, which are in a namespace of their own.
    let proc = mount::filesystem("proc", &[], NOSUID | NODEV | NOEXEC).doing("make /proc")?;
    mount::attach_at(proc, "/proc").doing("attach /proc")?;
    if let Some(hidden) = &external.hide {
        rustix::mount::unmount(hidden.as_str(), UnmountFlags::DETACH).doing(format_args!("hide {hidden}"))?;
    }
    attach_all(&external, blob, fd)?;
    Err(run(socket, process, fds))
}

fn attach_all<'a>(
    external: &ExternalSetup,
    blob: &[u8],
    fd: impl Fn(usize) -> Result<BorrowedFd<'a>>,
) -> Result<()> {
    let ExternalSetup { work, root, mounts, .. } = external;
    let Some(root) = root else { return Ok(()) };
    let doing = "prepare the bundle";
    let folder = mount::filesystem("tmpfs", &[("mode", "0700")], NOSUID | NODEV).doing(doing)?;
    mount::attach_at(&folder, work).doing(doing)?;
    for name in ["rootfs", "mounts", "stage", "files"] {
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700)).doing(doing)?;
    }
    mount::attach_at(fd(*root)?, &format!("{work}/rootfs")).doing("attach the root")?;
    // Devices are the runtime's to make.
    let mut places = Places::new(work.as_str(), (0, 0));
    for (number, mount) in mounts.iter().enumerate() {
        let doing = format!("mount {}", mount.dest);
        let source = places.source(mount, number, blob, &fd)?;
        let path = format!("{work}/mounts/{number}");
        if FileType::from_raw_mode(rustix::fs::fstat(&source).doing(&doing)?.st_mode).is_dir() {
            rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o700)).doing(&doing)?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o600)).doing(&doing)?;
        }
        mount::restrict(&source, mount.attributes | if mount.readonly { RDONLY } else { 0 }).doing(&doing)?;
        mount::attach_at(&source, &path).doing(&doing)?;
    }
    Ok(())
}

/// The runtime for a further process of a running container.
pub(super) fn join(
    socket: &OwnedFd,
    target: &OwnedFd,
    process: ProcessSetup,
    fds: Vec<OwnedFd>,
) -> Result<std::convert::Infallible> {
    rustix::thread::move_into_thread_name_spaces(target.as_fd(), ThreadNameSpaceType::MOUNT)
        .doing("enter the runtime's mounts")?;
    Err(run(socket, process, fds))
}

fn run(socket: &OwnedFd, setup: ProcessSetup, fds: Vec<OwnedFd>) -> Failure {
    process::launch(Launch {
        socket,
        setup,
        sandbox: false,
        user: ResolvedUser::default(),
        home: None,
        fds,
        dev: None,
        mount_points: Vec::new(),
        trusted: true,
    })
}
