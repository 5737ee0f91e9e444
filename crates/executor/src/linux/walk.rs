//! Paths in a root that is not ours yet: resolved component by component on folder handles.
//!
//! No step leaves the root, whatever links the tree holds and whoever changes it meanwhile: every component is opened
//! in the folder before it without following links, links are read and walked like the path itself (an absolute one
//! from the root), and `..` goes back to a handle that was walked through.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::wire::{MountPoint, Times};

/// The magic number of procfs.
pub(super) const PROC: i64 = 0x9fa0;
/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;
/// Longest path that is walked, links included.
const MAX_COMPONENTS: usize = 4096;

/// What is made where the path ends early.
#[derive(Debug, Clone, Copy)]
pub(super) enum Make {
    /// Nothing: it is an error.
    Nothing,
    /// Folders, with an owner.
    Folders(Option<(u32, u32)>),
    /// An empty file, in folders.
    File,
}

/// What a path led to.
pub(super) struct Found {
    /// The file or folder (`O_PATH`).
    pub(super) handle: OwnedFd,
    /// The folder that it is in (the root is in itself).
    pub(super) parent: OwnedFd,
    /// Its path without links.
    pub(super) path: Vec<Vec<u8>>,
    /// What was made, outermost first.
    pub(super) made: Vec<MountPoint>,
}

impl Found {
    /// What it is.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.handle)?)
    }

    /// Reads it if it is a regular file of up to `limit` bytes. Pipes and devices are not opened.
    pub(super) fn read(&self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let regular = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let (Some(name), true) = (self.path.last(), regular(&self.stat()?)) else { return Ok(None) };
        // A handle of this kind cannot be read from. Whoever swaps the file meanwhile gains nothing by it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.parent, name.as_slice(), flags, Mode::empty())?;
        if !regular(&rustix::fs::fstat(&file)?) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit { Err(Errno::FBIG.into()) } else { Ok(Some(bytes)) }
    }
}

const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Walks `path` in `root`.
pub(super) fn walk(root: impl AsFd, path: &str, make: Make) -> io::Result<Found> {
    let mut walk = Walk {
        root: rustix::io::fcntl_dupfd_cloexec(root.as_fd(), 3)?,
        stack: Vec::new(),
        rest: components(path.as_bytes()),
        made: Vec::new(),
    };
    let mut links = 0;
    while let Some(name) = walk.rest.pop_front() {
        match name.as_slice() {
            b"." => {}
            b".." => drop(walk.stack.pop()),
            _ => {
                let handle = match rustix::fs::openat(walk.here(), name.as_slice(), HANDLE, Mode::empty()) {
                    Err(Errno::NOENT) => walk.make(&name, make)?,
                    other => other?,
                };
                if FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode) == FileType::Symlink {
                    links += 1;
                    walk.follow(&handle, links)?;
                } else {
                    walk.stack.push((handle, name));
                }
            }
        }
    }
    let mut path: Vec<Vec<u8>> = Vec::new();
    let (mut parent, mut handle) = (rustix::io::fcntl_dupfd_cloexec(&walk.root, 3)?, walk.root);
    for (next, name) in walk.stack {
        path.push(name);
        parent = std::mem::replace(&mut handle, next);
    }
    Ok(Found { handle, parent, path, made: walk.made })
}

struct Walk {
    root: OwnedFd,
    stack: Vec<(OwnedFd, Vec<u8>)>,
    rest: VecDeque<Vec<u8>>,
    made: Vec<MountPoint>,
}

impl Walk {
    fn here(&self) -> &OwnedFd {
        self.stack.last().map_or(&self.root, |(handle, _)| handle)
    }

    fn follow(&mut self, link: &OwnedFd, links: usize) -> io::Result<()> {
        // Those of procfs are no paths.
        if rustix::fs::fstatfs(link)?.f_type == PROC {
            return Err(Errno::LOOP.into());
        }
        let target = rustix::fs::readlinkat(link, "", Vec::new())?;
        let target = components_checked(target.as_bytes(), self.rest.len())?;
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        if target.absolute {
            self.stack.clear();
        }
        for name in target.names.into_iter().rev() {
            self.rest.push_front(name);
        }
        Ok(())
    }

    /// Makes `name` in the current folder.
    fn make(&mut self, name: &[u8], make: Make) -> io::Result<OwnedFd> {
        let last = self.rest.iter().all(|name| name == b".");
        let file = match make {
            Make::Nothing => return Err(Errno::NOENT.into()),
            Make::Folders(_) => false,
            Make::File => last,
        };
        let here = self.here();
        let before = times(here)?;
        let made = if file {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(here, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755))
        };
        match made {
            // Somebody else made it: whatever it is now is walked on.
            Err(Errno::EXIST) => return Ok(rustix::fs::openat(here, name, HANDLE, Mode::empty())?),
            other => other?,
        }
        let handle = rustix::fs::openat(here, name, HANDLE, Mode::empty())?;
        if let Make::Folders(Some((uid, gid))) = make {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::chownat(&handle, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        let path = self.stack.iter().map(|(_, name)| name.clone()).chain([name.to_vec()]).collect();
        let after = times(here)?;
        self.made.push(MountPoint { path, directory: !file, parent_before: before, parent_after: after });
        Ok(handle)
    }
}

struct Target {
    absolute: bool,
    names: VecDeque<Vec<u8>>,
}

fn components_checked(path: &[u8], more: usize) -> io::Result<Target> {
    let names = components(path);
    if names.len() + more > MAX_COMPONENTS {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(Target { absolute: path.starts_with(b"/"), names })
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

fn times(folder: &OwnedFd) -> io::Result<Times> {
    let stat = rustix::fs::fstat(folder)?;
    Ok([(stat.st_atime as i64, stat.st_atime_nsec as i64), (stat.st_mtime as i64, stat.st_mtime_nsec as i64)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn text(path: &[Vec<u8>]) -> String {
        path.iter().map(|name| format!("/{}", String::from_utf8_lossy(name))).collect()
    }

    #[test]
    fn links_and_dots_stay_in_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("real/sub")).unwrap();
        std::fs::create_dir(outer.path().join("secret")).unwrap();
        symlink("/real", root.join("abs")).unwrap();
        symlink("../../../../real", root.join("up")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("up/../abs/sub", root.join("chain")).unwrap();
        let root = open(&root);
        let to = |path| walk(&root, path, Make::Nothing).map(|found| text(&found.path));
        assert_eq!(to("/abs/sub").unwrap(), "/real/sub");
        assert_eq!(to("../../up/sub/.").unwrap(), "/real/sub");
        assert_eq!(to("chain").unwrap(), "/real/sub");
        assert_eq!(to("/").unwrap(), "");
        assert_eq!(to("../..").unwrap(), "");
        assert!(to("out").is_err());
        // A missing target is made inside.
        let found = walk(&root, "out/x", Make::Folders(None)).unwrap();
        assert_eq!((text(&found.path).as_str(), found.made.len()), ("/secret/x", 2));
        assert!(!outer.path().join("secret/x").exists());
    }

    #[test]
    fn endless_links_are_refused() {
        let root = tempfile::tempdir().unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        symlink("a/a", root.path().join("a")).unwrap();
        let root = open(root.path());
        for path in ["loop", "a"] {
            let error = walk(&root, path, Make::Folders(None)).err().unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{path}");
        }
    }

    #[test]
    fn files_and_folders_are_made_and_recorded() {
        let root = tempfile::tempdir().unwrap();
        let handle = open(root.path());
        let found = walk(&handle, "a/b/./f", Make::File).unwrap();
        assert_eq!(
            found.made.iter().map(|point| text(&point.path)).collect::<Vec<_>>(),
            ["/a", "/a/b", "/a/b/f"]
        );
        assert!(root.path().join("a/b/f").is_file());
        assert!(walk(&handle, "a/b/f/g", Make::Folders(None)).is_err());
        assert!(walk(&handle, "a/b", Make::File).unwrap().made.is_empty());
    }
}
