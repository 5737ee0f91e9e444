//! `/proc` and `/sys` of a container, and what is hidden or read-only in them.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::super::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use super::super::wire::CgroupView;
use super::failure::{Doing, Result};

const ATTRIBUTES: u64 = NOSUID | NODEV | NOEXEC;

/// Attaches `/proc` of the new PID namespace to the base.
pub(super) fn prepare_proc(sandbox: bool) -> Result<()> {
    let proc = mount::filesystem("proc", &[], ATTRIBUTES).doing("make /proc")?;
    mount::attach_at(&proc, "/proc").doing("attach /proc")?;
    if sandbox {
        mask_below("/proc/")?;
        for path in crate::defaults::READONLY_PATHS {
            readonly(path)?;
        }
    }
    Ok(())
}

/// Attaches `/sys` of the current network namespace to the base.
pub(super) fn prepare_sys(sandbox: bool) -> Result<()> {
    let readonly = if sandbox { RDONLY } else { 0 };
    let sys = mount::filesystem("sysfs", &[], ATTRIBUTES | readonly).doing("make /sys")?;
    mount::attach_at(&sys, "/sys").doing("attach /sys")?;
    if sandbox { mask_below("/sys/") } else { Ok(()) }
}

/// Replaces `/sys` after a change of the network namespace, whose devices it shows.
pub(super) fn renew_sys(sandbox: bool) -> Result<()> {
    rustix::mount::unmount("/sys", UnmountFlags::DETACH).doing("detach /sys")?;
    prepare_sys(sandbox)
}

/// Attaches the cgroup file systems to `/sys` of the base, seen from the current cgroup namespace.
pub(super) fn prepare_cgroups(view: &CgroupView) -> Result<()> {
    let attributes = |readonly: bool| ATTRIBUTES | if readonly { RDONLY } else { 0 };
    match view {
        CgroupView::None => Ok(()),
        CgroupView::Unified { readonly } => cgroup("cgroup2", "", "", attributes(*readonly)),
        CgroupView::Legacy { readonly, hierarchies, unified } => {
            let folder = mount::filesystem("tmpfs", &[("mode", "755"), ("size", "64k")], ATTRIBUTES)
                .doing("make /sys/fs/cgroup")?;
            mount::attach_at(&folder, "/sys/fs/cgroup").doing("attach /sys/fs/cgroup")?;
            for (options, name) in hierarchies {
                make_folder(&folder, name)?;
                if let Err(failure) = cgroup("cgroup", options, name, attributes(*readonly)) {
                    // Old hierarchies have their moods in namespaces; the container does without.
                    tracing::debug!(?failure, "no view of a cgroup hierarchy");
                }
            }
            if *unified {
                make_folder(&folder, "unified")?;
                cgroup("cgroup2", "", "unified", attributes(*readonly))?;
            }
            mount::restrict(&folder, if *readonly { RDONLY } else { 0 }).doing("restrict /sys/fs/cgroup")
        }
    }
}

fn make_folder(folder: &OwnedFd, name: &str) -> Result<()> {
    rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755))
        .doing(format_args!("make /sys/fs/cgroup/{name}"))
}

fn cgroup(kind: &str, options: &str, name: &str, attributes: u64) -> Result<()> {
    let doing = format!("mount {kind} at /sys/fs/cgroup/{name}");
    let options: Vec<(&str, &str)> = options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(|o| o.split_once('=').unwrap_or((o, "")))
        .collect();
    let mount = mount::filesystem(kind, &options, attributes).doing(&doing)?;
    mount::attach_at(mount, &format!("/sys/fs/cgroup/{name}")).doing(&doing)
}

/// Covers the masked paths below `prefix`: a file with the null device, a folder with an empty one.
fn mask_below(prefix: &str) -> Result<()> {
    for path in crate::defaults::MASKED_PATHS.iter().filter(|path| path.starts_with(prefix)) {
        let doing = format!("mask {path}");
        let Some(target) = existing(path).doing(&doing)? else { continue };
        let folder = FileType::from_raw_mode(rustix::fs::fstat(&target).doing(&doing)?.st_mode).is_dir();
        let cover = mount::clone_of(CWD, if folder { "/empty" } else { "/nodes/null" }).doing(&doing)?;
        mount::restrict(&cover, if folder { RDONLY } else { 0 }).doing(&doing)?;
        mount::attach(cover, target).doing(&doing)?;
    }
    Ok(())
}

fn readonly(path: &str) -> Result<()> {
    let doing = format!("make {path} read-only");
    let Some(target) = existing(path).doing(&doing)? else { return Ok(()) };
    let copy = mount::clone_of(&target, "").doing(&doing)?;
    mount::restrict(&copy, RDONLY).doing(&doing)?;
    mount::attach(copy, target).doing(&doing)
}

/// A file of our own, fresh `/proc` or `/sys`, if the kernel has it.
fn existing(path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    match rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}
