//! Mount points that had to be made are taken away again, so that a step's layer does not show them.
//!
//! By then no process of the container is left. Still nothing is found by a path that could lead out of the root: each
//! folder is opened in its parent without following links, and what is not empty, or not what was made, stays
//! (CVE-2024-23652). A folder's times are put back if nobody but us has changed it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::wire::{MountPoint, Times};

/// Removes what is left of `mount_points` below `root`, innermost first.
pub(super) fn remove(root: BorrowedFd<'_>, mount_points: &[MountPoint]) {
    for point in mount_points.iter().rev() {
        if let Err(error) = remove_one(root, point) {
            let path =
                point.path.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>().join("/");
            tracing::debug!(path, %error, "a mount point stays");
        }
    }
}

fn remove_one(root: BorrowedFd<'_>, point: &MountPoint) -> io::Result<()> {
    let Some((name, folders)) = point.path.split_last() else { return Ok(()) };
    let Some(parent) = descend(root, folders)? else { return Ok(()) };
    let found = match rustix::fs::statat(&parent, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let kind = FileType::from_raw_mode(found.st_mode);
    let flags = match (point.directory, kind) {
        (true, FileType::Directory) => AtFlags::REMOVEDIR,
        (false, FileType::RegularFile) if found.st_size == 0 => AtFlags::empty(),
        _ => return Ok(()),
    };
    let (before, untouched) = times(&parent, &point.parent_after)?;
    match rustix::fs::unlinkat(&parent, name.as_slice(), flags) {
        // The step put something into it: it is the step's now.
        Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(()),
        other => other?,
    }
    let [accessed, modified] = if untouched { point.parent_before } else { before };
    let timespec = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec: tv_nsec as _ };
    let times = Timestamps { last_access: timespec(accessed), last_modification: timespec(modified) };
    Ok(rustix::fs::futimens(&parent, &times)?)
}

/// The times of a folder, and whether it was modified since it had `times`.
fn times(folder: &OwnedFd, since: &Times) -> io::Result<(Times, bool)> {
    let stat = rustix::fs::fstat(folder)?;
    let now = [
        (stat.st_atime as i64, stat.st_atime_nsec as i64),
        (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
    ];
    Ok((now, now[1] == since[1]))
}

fn descend(root: BorrowedFd<'_>, folders: &[Vec<u8>]) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    for name in folders {
        here = match rustix::fs::openat(here.as_fd(), name.as_slice(), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => other?,
        };
    }
    Ok(Some(here))
}
