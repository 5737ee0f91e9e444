//! Detached mounts: made or cloned, given attributes, attached.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::path::Arg;

use super::sys;

pub(super) const RDONLY: u64 = 0x1;
pub(super) const NOSUID: u64 = 0x2;
pub(super) const NODEV: u64 = 0x4;
pub(super) const NOEXEC: u64 = 0x8;
pub(super) const STRICTATIME: u64 = 0x20;

/// A new file system of `kind`, detached. `attributes`: `MOUNT_ATTR_*`.
pub(super) fn filesystem(kind: &str, options: &[(&str, &str)], attributes: u64) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), *name)?;
        } else {
            rustix::mount::fsconfig_set_string(context.as_fd(), *name, *value)?;
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    mounted(&context, attributes)
}

/// The mount of a configured file system context.
pub(super) fn mounted(context: &OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of the mount at `path` from that file or folder on, without what is mounted below it.
pub(super) fn clone_of(at: impl AsFd, path: impl Arg) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(at.as_fd(), path, flags)?)
}

/// The same with what is mounted below it, none of which tells the original of changes or hears of its own.
pub(super) fn private_clone_of(at: impl AsFd, submounts: bool) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let recursive = if submounts { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let mount = rustix::mount::open_tree(at.as_fd(), "", flags | recursive)?;
    sys::mount_private(mount.as_fd())?;
    Ok(mount)
}

/// Keeps devices away, also from what is mounted below.
pub(super) fn without_devices(mount: impl AsFd) -> io::Result<()> {
    sys::mount_setattr(mount.as_fd(), NODEV, 0, true)
}

/// Adds attributes to a mount.
pub(super) fn restrict(mount: impl AsFd, attributes: u64) -> io::Result<()> {
    if attributes == 0 {
        return Ok(());
    }
    sys::mount_setattr(mount.as_fd(), attributes, 0, false)
}

/// Attaches a detached mount, or moves an attached one, onto the file or folder `at`.
pub(super) fn attach(mount: impl AsFd, at: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount.as_fd(), "", at.as_fd(), "", flags)?)
}

/// Attaches a mount at a path of the current root.
pub(super) fn attach_at(mount: impl AsFd, path: &str) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount.as_fd(), "", CWD, path, flags)?)
}
