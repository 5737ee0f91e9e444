//! Mount sources as detached mounts, opened by the daemon: the container never sees a path of the host.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kiln_store::MountSpec;
use rustix::fs::{CWD, Mode, OFlags};

use super::mount;
use crate::{BindSpec, MountFlags, Tree};

/// A detached mount of a tree.
pub(super) fn open(tree: &Tree) -> io::Result<OwnedFd> {
    match tree {
        Tree::Mount(MountSpec::Bind { path, read_only }) => {
            let mount = host(path)?;
            mount::restrict(&mount, if *read_only { mount::RDONLY } else { 0 })?;
            Ok(mount)
        }
        Tree::Mount(spec) => spec.open_fd().map_err(|error| match error {
            kiln_store::Error::Mount { source, what, hint } => {
                io::Error::new(source.kind(), format!("{what}: {source} {hint}").trim_end().to_owned())
            }
            other => io::Error::other(other),
        }),
        Tree::Handle(handle) => match mount::clone_of(handle.as_fd(), "") {
            // A mount that is attached nowhere cannot be cloned before Linux 6.15; it can be attached itself, once.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(handle.try_clone()?),
            other => other,
        },
    }
}

/// A detached mount of a file or folder of the host, links followed.
pub(super) fn host(path: &Path) -> io::Result<OwnedFd> {
    let handle = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::clone_of(handle, "")
}

/// A detached mount of what the host's administrator wants in a container, links followed.
pub(super) fn bind(spec: &BindSpec) -> io::Result<OwnedFd> {
    let handle = rustix::fs::openat(CWD, &spec.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::private_clone_of(handle, spec.submounts)
}

/// The attributes of a mount that keeps these away.
pub(super) fn attributes(flags: MountFlags) -> u64 {
    let all = [(flags.nosuid, mount::NOSUID), (flags.nodev, mount::NODEV), (flags.noexec, mount::NOEXEC)];
    all.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit)
}

/// A file that is empty.
pub(super) fn nothing() -> io::Result<OwnedFd> {
    match rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        // There is no /dev where we are (a bare chroot): a pipe without a writer is as empty.
        Err(rustix::io::Errno::NOENT) => Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?.0),
        other => Ok(other?),
    }
}
