//! How much a tree takes on disk.

use std::path::Path;

use crate::Error;

/// What a snapshot takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk, in blocks as the file system gives them.
    pub bytes: u64,
    /// Files and folders, hard links counted once.
    pub inodes: u64,
}

/// Counts the tree at `root`. With `linked`, inodes that have names outside of the tree belong to another snapshot and
/// are left out.
pub(super) fn of_tree(root: &Path, linked: bool) -> Result<Usage, Error> {
    host::of_tree(root, linked)
}

#[cfg(unix)]
mod host {
    use std::collections::HashMap;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::Usage;
    use crate::Error;

    /// Of an inode with several names: how many were seen, how many there are, and its blocks.
    struct Shared {
        seen: u64,
        names: u64,
        bytes: u64,
    }

    pub(super) fn of_tree(root: &Path, linked: bool) -> Result<Usage, Error> {
        let mut usage = Usage::default();
        let mut shared: HashMap<(u64, u64), Shared> = HashMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let meta = std::fs::symlink_metadata(&folder).map_err(Error::io("stat", &folder))?;
            usage.bytes += meta.blocks() * 512;
            usage.inodes += 1;
            for entry in std::fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
                let entry = entry.map_err(Error::io("list", &folder))?;
                let path = entry.path();
                let meta = match entry.metadata() {
                    Ok(meta) => meta,
                    // Gone since it was listed: a cache mount in use.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(Error::io("stat", &path)(error)),
                };
                if meta.is_dir() {
                    folders.push(path);
                } else if meta.nlink() > 1 {
                    shared
                        .entry((meta.dev(), meta.ino()))
                        .or_insert(Shared { seen: 0, names: meta.nlink(), bytes: meta.blocks() * 512 })
                        .seen += 1;
                } else {
                    usage.bytes += meta.blocks() * 512;
                    usage.inodes += 1;
                }
            }
        }
        for inode in shared.values().filter(|inode| !linked || inode.seen >= inode.names) {
            usage.bytes += inode.bytes;
            usage.inodes += 1;
        }
        Ok(usage)
    }
}

#[cfg(not(unix))]
mod host {
    use std::path::Path;

    use super::Usage;
    use crate::Error;

    pub(super) fn of_tree(root: &Path, _linked: bool) -> Result<Usage, Error> {
        let mut usage = Usage::default();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            usage.inodes += 1;
            for entry in std::fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
                let entry = entry.map_err(Error::io("list", &folder))?;
                let path = entry.path();
                let meta = entry.metadata().map_err(Error::io("stat", &path))?;
                if meta.is_dir() {
                    folders.push(path);
                } else {
                    usage.bytes += meta.len();
                    usage.inodes += 1;
                }
            }
        }
        Ok(usage)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn shared_inodes_count_once() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|n| dir.path().join(n));
        for d in [&a, &b] {
            std::fs::create_dir(d).unwrap();
        }
        std::fs::write(a.join("f"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(a.join("f"), a.join("g")).unwrap();
        let alone = of_tree(&a, true).unwrap();
        assert_eq!(alone.inodes, 2);
        assert!(alone.bytes >= 100_000);
        std::fs::hard_link(a.join("f"), b.join("f")).unwrap();
        assert_eq!(of_tree(&a, false).unwrap(), alone);
        assert_eq!(of_tree(&b, true).unwrap().inodes, 1);
    }
}
