use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// `FS_TOPDIR_FL`, which `chattr +T` sets. Folders do not inherit it.
pub(super) fn mark(dir: &Path) -> io::Result<()> {
    let dir = File::open(dir)?;
    let flags = ioctl_getflags(&dir)?;
    if !flags.contains(IFlags::TOPDIR) {
        ioctl_setflags(&dir, flags | IFlags::TOPDIR)?;
    }
    Ok(())
}

pub(super) fn inode(path: &Path) -> Option<u64> {
    Some(std::fs::symlink_metadata(path).ok()?.ino())
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::super::{SLOW, Spread, TRIES};
    use super::*;

    #[test]
    fn a_folder_is_marked_and_those_in_it_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let flags = |path: &Path| ioctl_getflags(File::open(path).unwrap());
        match mark(dir.path()) {
            Ok(()) => {
                mark(dir.path()).unwrap();
                let inner = dir.path().join("1");
                std::fs::create_dir(&inner).unwrap();
                assert!(flags(dir.path()).unwrap().contains(IFlags::TOPDIR));
                assert!(!flags(&inner).unwrap().contains(IFlags::TOPDIR));
            }
            Err(error) => {
                let unknown = [Errno::NOTTY, Errno::OPNOTSUPP, Errno::INVAL, Errno::NOSYS];
                assert!(unknown.iter().any(|e| error.raw_os_error() == Some(e.raw_os_error())), "{error}");
            }
        }
    }

    #[test]
    fn folders_are_made_again_only_where_that_helps_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        // Two that are far from one another, in whatever way the file system here counts.
        let made = (0..200).map(|n| dir.path().join(n.to_string()));
        let mut made: Vec<_> = made.inspect(|path| std::fs::create_dir(path).unwrap()).collect();
        made.sort_by_key(|path| inode(path).unwrap());
        let (first, last) = (&made[0], &made[199]);
        let spread = Spread { marked: true };
        let (quick, slow) = (SLOW / 2, SLOW * 2);
        assert!(spread.is_crowded(0, first, last, quick) && spread.is_crowded(TRIES - 1, first, last, quick));
        assert!(spread.is_crowded(0, first, first, slow));
        assert!(!spread.is_crowded(0, first, first, quick) && !spread.is_crowded(0, last, first, quick));
        assert!(!spread.is_crowded(TRIES, first, last, slow));
        assert!(!Spread { marked: false }.is_crowded(0, first, last, slow));
    }
}
