//! Keeps new snapshots away from where others were just removed.
//!
//! ext4 makes the inodes of a tree near those of its parent, in the first place that is free; without a journal it passes over
//! those that were freed in the last minutes, one by one, and anew for each file. A snapshot in the block groups of one that
//! was just pruned took 10 s for 20,000 files, and takes 0.6 s elsewhere. So each snapshot gets block groups of its own, as
//! the folders of a *top-level directory* do, and others if it finds that it came to such a place.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::path::Path;

#[cfg(target_os = "linux")]
use linux as host;
#[cfg(not(target_os = "linux"))]
use other as host;

/// How often a snapshot is made elsewhere.
const TRIES: usize = 3;

/// Spreads the folders in one folder over the file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    /// The file system knows of it: the ext family's do.
    marked: bool,
}

impl Spread {
    /// Spreads what will be made in `dir`.
    pub(super) fn over(dir: &Path) -> Self {
        let marked = host::mark(dir);
        if let Err(error) = &marked {
            tracing::debug!(%error, path = %dir.display(), "not marked as a top-level directory");
        }
        Self { marked: marked.is_ok() }
    }

    /// Whether a folder that was just made, with `inner` in it, had better be made again under another name: the file system
    /// had to pass over the inodes of one or more blocks between the two. `tries`: how often it has been made.
    pub(super) fn is_crowded(self, tries: usize, folder: &Path, inner: &Path) -> bool {
        /// Inodes in a block of 4 KiB.
        const BLOCK: u64 = 16;
        let passed = || host::inode(inner)?.checked_sub(host::inode(folder)?);
        self.marked && tries < TRIES && passed().is_some_and(|passed| passed >= BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_again_only_where_that_helps_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        // The second of them lies far behind the first.
        let [first, last] = ["first", "last"].map(|name| dir.path().join(name));
        std::fs::create_dir(&first).unwrap();
        for n in 0..40 {
            std::fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        std::fs::create_dir(&last).unwrap();
        let far = host::inode(&last).zip(host::inode(&first)).is_some_and(|(last, first)| last >= first + 16);
        let spread = Spread { marked: true };
        assert_eq!(spread.is_crowded(0, &first, &last), far);
        assert!(!spread.is_crowded(0, &first, &first));
        assert!(!spread.is_crowded(TRIES, &first, &last));
        assert!(!Spread { marked: false }.is_crowded(0, &first, &last));
    }
}
