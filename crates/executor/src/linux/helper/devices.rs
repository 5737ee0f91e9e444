//! `/dev` of a container.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};

use super::super::mount::{self, NODEV, NOEXEC, NOSUID, STRICTATIME};
use super::DEVICES;
use super::failure::{Doing, Result};
use crate::defaults::{INSECURE_DEVICES, LOOPS};

/// Links of `/dev`: name and target.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Attaches a new `/dev` at `/dev` of the base; the result is a handle on it.
///
/// `nodev`: no cgroup says which devices may be used, so no file system that can be written holds any, and those that
/// are allowed are mounted from the base.
pub(super) fn prepare(nodev: bool) -> Result<OwnedFd> {
    let restriction = if nodev { NODEV } else { 0 };
    let dev = mount::filesystem(
        "tmpfs",
        &[("mode", "755"), ("size", "65536k")],
        NOSUID | STRICTATIME | restriction,
    )
    .doing("make /dev")?;
    mount::attach_at(&dev, "/dev").doing("attach /dev")?;
    for (name, major, minor) in DEVICES {
        if nodev {
            mount_device(&dev, name)?;
        } else {
            node(&dev, name, FileType::CharacterDevice, major, minor)?;
        }
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name).doing(format_args!("make /dev/{name}"))?;
    }
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    below(&dev, "pts", "devpts", &pts, NOSUID | NOEXEC)?;
    let shm = [("source", "shm"), ("mode", "1777"), ("size", "65536k")];
    below(&dev, "shm", "tmpfs", &shm, NOSUID | NOEXEC | NODEV)?;
    below(&dev, "mqueue", "mqueue", &[], NOSUID | NOEXEC | NODEV)?;
    Ok(dev)
}

/// Adds the devices of an unconfined container. `loops`: the first free loop device, if the kernel has them.
pub(super) fn add_insecure(dev: &OwnedFd, loops: Option<u32>) -> Result<()> {
    rustix::fs::mkdirat(dev, "net", Mode::from_raw_mode(0o755)).doing("make /dev/net")?;
    for (name, major, minor) in INSECURE_DEVICES {
        node(dev, name, FileType::CharacterDevice, major, minor)?;
    }
    for minor in 0..=loops.unwrap_or(0) + LOOPS.1 {
        node(dev, &format!("loop{minor}"), FileType::BlockDevice, LOOPS.0, minor)?;
    }
    Ok(())
}

/// A file for the terminal to be mounted on.
pub(super) fn console_file(dev: impl AsFd) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dev.as_fd(), "console", flags, Mode::from_raw_mode(0o600)).doing("make /dev/console")
}

fn node(dev: &OwnedFd, name: &str, kind: FileType, major: u32, minor: u32) -> Result<()> {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(dev, name, kind, Mode::from_raw_mode(0o666), device)
        .doing(format_args!("make /dev/{name}"))
}

fn mount_device(dev: &OwnedFd, name: &str) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let doing = format!("mount /dev/{name}");
    let point = rustix::fs::openat(dev, name, flags, Mode::from_raw_mode(0o666)).doing(&doing)?;
    let device = mount::clone_of(rustix::fs::CWD, format!("/nodes/{name}")).doing(&doing)?;
    mount::attach(device, point).doing(&doing)
}

fn below(dev: &OwnedFd, name: &str, kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<()> {
    let doing = format!("mount /dev/{name}");
    rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755)).doing(&doing)?;
    let mount = mount::filesystem(kind, options, attributes).doing(&doing)?;
    mount::attach_at(mount, &format!("/dev/{name}")).doing(&doing)
}
