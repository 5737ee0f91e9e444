//! Folders that overlayfs copied up for mount points, and that hold nothing once these are gone.
//!
//! A layer does not show them, as nothing about them has changed. A snapshot that is taken as the difference to what is
//! below it (a diff op) would.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kiln_fstree::{Context as _, Dir, Root, SetTimes};
use kiln_store::SnapshotterKind;

use crate::{Error, MutableRef};

impl MutableRef {
    /// Removes the folders above mount points at `mounts` (paths in the tree) that are as they are below this ref and hold
    /// nothing of their own. Nothing may be mounted.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn forget_mount_points<'a>(&self, mounts: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        let snapshots = self.worker().store().snapshots();
        if self.base().0.is_empty() || snapshots.kind() != SnapshotterKind::Overlay {
            return Ok(());
        }
        let Ok(upper) = Root::open(snapshots.path(self.snapshot())) else { return Ok(()) };
        let mut below: Option<Root> = None;
        for folder in above(mounts) {
            // Most were never copied up.
            let Ok(dir) = upper.open_dir(&folder) else { continue };
            if !dir.list().is_ok_and(|names| names.is_empty()) {
                continue;
            }
            let below = match &below {
                Some(below) => below,
                None => below.insert(snapshots.view(self.base())?.open()?),
            };
            let unchanged = below.open_dir(&folder).is_ok_and(|below| same(&dir, &below).unwrap_or(false));
            if unchanged && let Err(error) = remove(&upper, &folder) {
                tracing::debug!(%error, folder = %folder.display(), "an empty folder stays in a snapshot");
            }
        }
        Ok(())
    }
}

/// All folders above `mounts`, the inner ones first.
fn above<'a>(mounts: impl Iterator<Item = &'a str>) -> Vec<PathBuf> {
    let root = Path::new("");
    let relative = mounts.map(|mount| PathBuf::from(mount.trim_matches('/')));
    let folders: BTreeSet<PathBuf> = relative
        .flat_map(|mount| mount.ancestors().skip(1).map(PathBuf::from).collect::<Vec<_>>())
        .filter(|folder| folder != root)
        .collect();
    folders.into_iter().rev().collect()
}

/// Removes a folder; the one that it is in keeps its times.
fn remove(upper: &Root, folder: &Path) -> kiln_fstree::Result<()> {
    let (parent, name) = upper.parent(folder)?;
    let removed = parent.stat_self().and_then(|before| {
        parent.rmdir(&name)?;
        parent.set_times_self(SetTimes { atime: Some(before.atime), mtime: Some(before.mtime) })
    });
    removed.at("remove", folder)
}

/// Whether two folders have the same owner, mode, time and attributes, and `upper` shows what is below it.
fn same(upper: &Dir, below: &Dir) -> std::io::Result<bool> {
    let [a, b] = [upper.stat_self()?, below.stat_self()?];
    if (a.mode, a.uid, a.gid, a.mtime) != (b.mode, b.uid, b.gid, b.mtime) {
        return Ok(false);
    }
    // Where a copy came from says nothing of what it shows; an opaque mark does.
    const NOTES: [&str; 3] = ["trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid"];
    let mut own = upper.xattrs_self()?;
    own.retain(|name, _| !NOTES.contains(&name.as_str()));
    let mut others = below.xattrs_self()?;
    others.retain(|name, _| !name.starts_with("trusted.overlay."));
    Ok(own == others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_folders_come_first() {
        let mounts = ["/etc/hosts", "/a/b/c/", "/a/b/d", "/dev"];
        let folders = above(mounts.into_iter());
        assert_eq!(folders, ["etc", "a/b", "a"].map(PathBuf::from));
    }
}
