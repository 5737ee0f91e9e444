//! Folders by descriptor.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Timespec, Timestamps,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::{DirEntry, SetTimes, check, xattr};
use crate::meta::{Kind, Metadata, Time, Xattrs};

/// An open folder.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// Flags of every handle that is only a place to start from.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How deep a removal descends before it moves what is deeper to the top.
const REMOVE_DEPTH: usize = 64;
/// A kernel gives up an in-root resolution that a rename disturbed; so often do we try again.
const RESOLVE_TRIES: usize = 256;

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.fd
    }
}

impl Dir {
    /// Opens a folder of the host by path. Symbolic links are followed.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open_host(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: rustix::fs::openat(CWD, path, PLACE, Mode::empty())? })
    }

    /// A second handle on the same folder.
    ///
    /// # Errors
    /// Those of `fcntl(F_DUPFD)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Opens the folder that a relative path leads to, with this one as the root of all resolution.
    pub(crate) fn resolve_dir(&self, path: &Path) -> io::Result<Self> {
        Ok(Self { fd: self.resolve(path, PLACE)? })
    }

    /// Opens what a relative path leads to for reading, following links inside this root.
    pub(crate) fn resolve_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(File::from(self.resolve(path, flags)?))
    }

    /// What a relative path leads to; `follow` says whether a link at its end is followed too.
    pub(crate) fn resolve_stat(&self, path: &Path, follow: bool) -> io::Result<Metadata> {
        let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let fd = self.resolve(path, OFlags::PATH | OFlags::CLOEXEC | nofollow)?;
        Ok(metadata(&rustix::fs::fstat(fd)?))
    }

    /// The target of the link that a relative path leads to.
    pub(crate) fn resolve_link(&self, path: &Path) -> io::Result<PathBuf> {
        let fd = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        match rustix::fs::readlinkat(fd, "", Vec::new()) {
            Ok(target) => Ok(OsString::from_vec(target.into_bytes()).into()),
            // An empty path on something that is no link.
            Err(Errno::NOENT) => Err(Errno::INVAL.into()),
            Err(e) => Err(e.into()),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RESOLVE_TRIES {
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), how) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS) => {
                    return Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        "the kernel has no openat2 (Linux 5.6), or a seccomp filter hides it",
                    ));
                }
                result => return Ok(result?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// The folder's own metadata.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn stat_self(&self) -> io::Result<Metadata> {
        Ok(metadata(&rustix::fs::fstat(&self.fd)?))
    }

    /// Metadata of an entry; a link's own.
    ///
    /// # Errors
    /// Those of `fstatat(2)`.
    pub fn stat(&self, name: &OsStr) -> io::Result<Metadata> {
        Ok(metadata(&rustix::fs::statat(&self.fd, check(name)?, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of `readlinkat(2)`.
    pub fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.fd, check(name)?, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// The entries, in ascending order of their names' bytes.
    ///
    /// # Errors
    /// Those of `openat(2)` and `getdents64(2)`.
    pub fn list(&self) -> io::Result<Vec<DirEntry>> {
        let fd = self.reopen()?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        let mut raw = RawDir::new(&fd, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push(DirEntry {
                    name: OsStr::from_bytes(name).to_owned(),
                    kind: kind(entry.file_type()),
                });
            }
        }
        entries.sort_unstable_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(entries)
    }

    /// A descriptor of this folder that can do more than be a place.
    fn reopen(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?)
    }

    /// Opens a folder in this one. A link is an error.
    ///
    /// # Errors
    /// Those of `openat(2)`.
    pub fn open_dir(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self { fd: rustix::fs::openat(&self.fd, check(name)?, PLACE | OFlags::NOFOLLOW, Mode::empty())? })
    }

    /// Opens a file for reading, without waiting for the other end of a pipe. A link is an error.
    ///
    /// # Errors
    /// Those of `openat(2)`.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(File::from(rustix::fs::openat(&self.fd, check(name)?, flags, Mode::empty())?))
    }

    /// Creates a regular file that was not there, with exactly these mode bits (whatever the umask), and opens it for
    /// writing. Set-ID bits are best set again after the last write.
    ///
    /// # Errors
    /// Those of `openat(2)`; `AlreadyExists` if there is anything of that name.
    pub fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, check(name)?, flags, Mode::from_raw_mode(mode & 0o7777))?;
        if mode & umask() != 0 {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
        }
        Ok(File::from(fd))
    }

    /// Makes a folder with exactly these mode bits.
    ///
    /// # Errors
    /// Those of `mkdirat(2)` and `chmod(2)`.
    pub fn mkdir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        rustix::fs::mkdirat(&self.fd, check(name)?, Mode::from_raw_mode(mode & 0o777))?;
        // The umask, and a set-group-ID bit that is inherited.
        if self.stat(name)?.mode != mode & 0o7777 { self.chmod(name, mode) } else { Ok(()) }
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of `symlinkat(2)`.
    pub fn symlink(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, check(name)?)?)
    }

    /// Makes a device, pipe or socket file with exactly these mode bits.
    ///
    /// # Errors
    /// Those of `mknodat(2)`; `InvalidInput` for kinds that are made otherwise.
    pub fn mknod(&self, name: &OsStr, kind: Kind, mode: u32, device: (u32, u32)) -> io::Result<()> {
        let kind = match kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::File | Kind::Dir | Kind::Symlink => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let device = rustix::fs::makedev(device.0, device.1);
        let bits = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::mknodat(&self.fd, check(name)?, kind, bits, device)?;
        if mode & umask() != 0 {
            rustix::fs::chmodat(&self.fd, name, bits, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Gives the file `name` a second name in another folder. A link is linked itself.
    ///
    /// # Errors
    /// Those of `linkat(2)`.
    pub fn hard_link(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.fd, check(name)?, &to.fd, check(to_name)?, AtFlags::empty())?)
    }

    /// Renames an entry, replacing what has the new name.
    ///
    /// # Errors
    /// Those of `renameat(2)`.
    pub fn rename(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, check(name)?, &to.fd, check(to_name)?)?)
    }

    /// Renames an entry unless the new name is taken.
    ///
    /// # Errors
    /// Those of `renameat2(2)`, among them `AlreadyExists`.
    pub fn rename_new(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        let (name, to_name) = (check(name)?, check(to_name)?);
        Ok(rustix::fs::renameat_with(&self.fd, name, &to.fd, to_name, RenameFlags::NOREPLACE)?)
    }

    /// Removes anything but a folder.
    ///
    /// # Errors
    /// Those of `unlinkat(2)`.
    pub fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, check(name)?, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// Those of `unlinkat(2)`.
    pub fn rmdir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, check(name)?, AtFlags::REMOVEDIR)?)
    }

    /// Removes an entry with all that is in it. What is not there is removed already.
    ///
    /// # Errors
    /// Those of the calls above.
    pub fn remove_all(&self, name: &OsStr) -> io::Result<()> {
        match self.unlink(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Linux says EISDIR, POSIX allows EPERM.
            Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied) => {}
            done => return done,
        }
        self.empty_dir(name)?;
        ignore_missing(self.rmdir(name))
    }

    /// Removes all that is in a folder. Open folders are bounded: what lies deeper than a limit is moved up first.
    fn empty_dir(&self, name: &OsStr) -> io::Result<()> {
        let top = match self.open_dir(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let mut moved = 0_u64;
        loop {
            let before = moved;
            top.remove_entries(&top, REMOVE_DEPTH, &mut moved)?;
            if moved == before {
                return Ok(());
            }
        }
    }

    fn remove_entries(&self, top: &Self, depth: usize, moved: &mut u64) -> io::Result<()> {
        for entry in self.list()? {
            if entry.kind != Some(Kind::Dir) {
                match self.unlink(&entry.name) {
                    Err(e)
                        if matches!(
                            e.kind(),
                            io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied
                        ) => {}
                    done => {
                        ignore_missing(done)?;
                        continue;
                    }
                }
            }
            if depth == 0 {
                *moved += 1;
                let aside = OsString::from(format!(".removed-{}-{moved}", std::process::id()));
                ignore_missing(self.rename(&entry.name, top, &aside))?;
                continue;
            }
            if self.rmdir(&entry.name).is_ok() {
                continue;
            }
            match self.open_dir(&entry.name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?.remove_entries(top, depth - 1, moved)?,
            }
            ignore_missing(self.rmdir(&entry.name))?;
        }
        Ok(())
    }

    /// Sets owner and group of an entry; a link's own.
    ///
    /// # Errors
    /// Those of `fchownat(2)`.
    pub fn chown(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(rustix::fs::chownat(&self.fd, check(name)?, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the mode bits of an entry that is not a link.
    ///
    /// # Errors
    /// Those of `open(2)` and `fchmod(2)`; a link is an error.
    pub fn chmod(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let bits = Mode::from_raw_mode(mode & 0o7777);
        match self.stat(name)?.kind {
            Kind::Symlink => Err(Errno::LOOP.into()),
            Kind::File | Kind::Dir => match self.open_file(name) {
                Ok(file) => Ok(rustix::fs::fchmod(file, bits)?),
                // Not readable, which the owner may still change.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    Ok(rustix::fs::chmodat(&self.fd, name, bits, AtFlags::empty())?)
                }
                Err(e) => Err(e),
            },
            // Opening a device can do things.
            _ => Ok(rustix::fs::chmodat(&self.fd, name, bits, AtFlags::empty())?),
        }
    }

    /// Sets times of an entry; a link's own.
    ///
    /// # Errors
    /// Those of `utimensat(2)`.
    pub fn set_times(&self, name: &OsStr, times: SetTimes) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.fd, check(name)?, &timestamps(times), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the folder's own times.
    ///
    /// # Errors
    /// Those of `utimensat(2)`.
    pub fn set_times_self(&self, times: SetTimes) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.fd, ".", &timestamps(times), AtFlags::empty())?)
    }

    /// Sets the folder's own mode bits.
    ///
    /// # Errors
    /// Those of `fchmod(2)`.
    pub fn chmod_self(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(self.reopen()?, Mode::from_raw_mode(mode & 0o7777))?)
    }

    /// Sets the folder's own owner and group.
    ///
    /// # Errors
    /// Those of `fchown(2)`.
    pub fn chown_self(&self, uid: u32, gid: u32) -> io::Result<()> {
        Ok(rustix::fs::fchown(self.reopen()?, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
    }

    /// Owner and group that a file gets which is created here now.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn owner_of_new(&self) -> io::Result<(u32, u32)> {
        let own = self.stat_self()?;
        let gid = if own.mode & 0o2000 != 0 { own.gid } else { rustix::process::getegid().as_raw() };
        Ok((rustix::process::geteuid().as_raw(), gid))
    }

    /// Extended attributes of an entry (a link's own), of those that may be read. Empty where there can be none.
    ///
    /// # Errors
    /// Those of `listxattr(2)`.
    pub fn xattrs(&self, name: &OsStr) -> io::Result<Xattrs> {
        xattr::of_entry(self, check(name)?)
    }

    /// Extended attributes of the folder itself.
    ///
    /// # Errors
    /// Those of `flistxattr(2)`.
    pub fn xattrs_self(&self) -> io::Result<Xattrs> {
        xattr::of_file(&File::from(self.reopen()?))
    }

    /// Sets an extended attribute of an entry; a link's own.
    ///
    /// # Errors
    /// Those of `setxattr(2)`.
    pub fn set_xattr(&self, name: &OsStr, key: &str, value: &[u8]) -> io::Result<()> {
        xattr::set(self, check(name)?, key, value)
    }

    /// Removes an extended attribute of an entry; a link's own.
    ///
    /// # Errors
    /// Those of `removexattr(2)`.
    pub fn remove_xattr(&self, name: &OsStr, key: &str) -> io::Result<()> {
        xattr::remove(self, check(name)?, key)
    }
}

/// Owner and group of an open file.
///
/// # Errors
/// Those of `fchown(2)`.
pub fn set_file_owner(file: &File, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

/// Mode bits of an open file.
///
/// # Errors
/// Those of `fchmod(2)`.
pub fn set_file_mode(file: &File, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Times of an open file.
///
/// # Errors
/// Those of `futimens(2)`.
pub fn set_file_times(file: &File, times: SetTimes) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(times))?)
}

/// Metadata of an open file.
///
/// # Errors
/// Those of `fstat(2)`.
pub fn file_metadata(file: &File) -> io::Result<Metadata> {
    Ok(metadata(&rustix::fs::fstat(file)?))
}

fn ignore_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn kind(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return None,
    })
}

#[allow(
    clippy::unnecessary_cast,
    clippy::cast_lossless,
    clippy::allow_attributes,
    reason = "the widths of these fields differ from one architecture to the next"
)]
fn metadata(stat: &rustix::fs::Stat) -> Metadata {
    let mode = stat.st_mode as u32;
    let kind = kind(FileType::from_raw_mode(stat.st_mode)).unwrap_or(Kind::File);
    let device = match kind {
        Kind::CharDevice | Kind::BlockDevice => {
            (rustix::fs::major(stat.st_rdev as _), rustix::fs::minor(stat.st_rdev as _))
        }
        _ => (0, 0),
    };
    Metadata {
        kind,
        mode: mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: Time { secs: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
        atime: Time { secs: stat.st_atime as i64, nanos: stat.st_atime_nsec as u32 },
        device,
        links: stat.st_nlink as u64,
        inode: (stat.st_dev as u64, stat.st_ino as u64),
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
    }
}

fn timestamps(times: SetTimes) -> Timestamps {
    let one = |time: Option<Time>| match time {
        Some(t) => Timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() },
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    Timestamps { last_access: one(times.atime), last_modification: one(times.mtime) }
}

/// The bits that the kernel takes from new files. It can only be asked by setting it or through /proc; where it is not
/// known, every mode is set again.
fn umask() -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        line.and_then(|bits| u32::from_str_radix(bits.trim(), 8).ok()).unwrap_or(0o777)
    })
}
