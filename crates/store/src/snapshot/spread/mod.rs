//! Tells the file system that the folders in a folder have nothing to do with each other.
//!
//! ext4 makes the inodes of a tree near those of its parent, and passes over inodes that were freed in the last minutes. A
//! new snapshot in the block groups of one that was just pruned makes it look at each of them for every file: 20,000 files
//! took 10 s where 0.6 s are enough. Each folder of a *top-level directory* gets block groups of its own.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::path::Path;

#[cfg(target_os = "linux")]
use linux as host;
#[cfg(not(target_os = "linux"))]
use other as host;

/// Marks `dir`. A hint: file systems without such a mark (all but the ext family) lose nothing.
pub(crate) fn over_groups(dir: &Path) {
    if let Err(error) = host::mark(dir) {
        tracing::debug!(%error, path = %dir.display(), "not marked as a top-level directory");
    }
}
