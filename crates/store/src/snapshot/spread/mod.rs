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

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::time::Duration;

#[cfg(target_os = "linux")]
use linux as host;
#[cfg(not(target_os = "linux"))]
use other as host;

/// How often a snapshot is made elsewhere.
const TRIES: usize = 3;
/// A folder is made in a fifth of this, unless more than a thousand inodes were passed over.
const SLOW: Duration = Duration::from_micros(80);

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

    /// Where the numbers begin that make the names of a store's snapshots. ext4 chooses the block groups by the name: of stores
    /// that follow one another on a disk, all counting from 1, each would go where the one before was just removed.
    pub(super) fn first_number() -> u64 {
        (RandomState::new().hash_one(0) >> 32) + 1
    }

    /// Whether a folder that was just made, with `inner` in it, had better be made again under another name: the file system
    /// had to pass over the inodes of one or more blocks between the two, or those in front of both, for which `inner` took
    /// long to make. `tries`: how often it has been made.
    pub(super) fn is_crowded(self, tries: usize, folder: &Path, inner: &Path, took: Duration) -> bool {
        self.marked && tries < TRIES && (took > SLOW || has_passed(host::inode(folder), host::inode(inner)))
    }
}

/// Whether between two inodes there are so many that the file system must have passed over some.
fn has_passed(folder: Option<u64>, inner: Option<u64>) -> bool {
    /// Inodes in a block of 4 KiB.
    const BLOCK: u64 = 16;
    let passed = inner.zip(folder).and_then(|(inner, folder)| inner.checked_sub(folder));
    passed.is_some_and(|passed| passed >= BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_inodes_in_between_is_too_many() {
        assert!(!has_passed(Some(100), Some(101)) && !has_passed(Some(100), Some(115)));
        assert!(has_passed(Some(100), Some(116)) && has_passed(Some(100), Some(90_000)));
        // Before the folder is a place that was free all the time.
        assert!(!has_passed(Some(100), Some(50)));
        assert!(!has_passed(None, Some(100)) && !has_passed(Some(100), None));
    }
}
