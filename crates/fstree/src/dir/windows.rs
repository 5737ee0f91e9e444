//! Folders by path: Windows has no calls relative to a folder in Rust's standard library. Names are checked all the
//! same, and links never followed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::windows::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DirEntry, SetTimes, check};
use crate::meta::{Kind, Metadata, Time, Xattrs};

/// An open folder.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
}

/// How often links are followed in one resolution.
const LINKS_MAX: usize = 255;
/// `FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT`: opens folders too, and links themselves.
const OPEN_ITSELF: u32 = 0x0200_0000 | 0x0020_0000;

impl Dir {
    /// Opens a folder of the host by path.
    ///
    /// # Errors
    /// If it is not there or no folder.
    pub fn open_host(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        if !fs::metadata(&path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path })
    }

    /// The path that the handle stands for.
    #[must_use]
    pub fn host_path(&self) -> &Path {
        &self.path
    }

    /// A second handle on the same folder.
    ///
    /// # Errors
    /// None on this platform.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { path: self.path.clone() })
    }

    /// Follows a relative path component by component; absolute targets of links start at this folder again.
    fn resolve(&self, path: &Path, follow: bool) -> io::Result<PathBuf> {
        let mut done: Vec<std::ffi::OsString> = Vec::new();
        let mut todo: Vec<std::ffi::OsString> = components(path);
        todo.reverse();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let here = done.iter().fold(self.path.clone(), |p, c| p.join(c)).join(check(&part)?);
            let last = todo.is_empty();
            let meta = fs::symlink_metadata(&here)?;
            if meta.is_symlink() && (follow || !last) {
                links += 1;
                if links > LINKS_MAX {
                    return Err(io::Error::other("too many levels of symbolic links"));
                }
                let target = fs::read_link(&here)?;
                if target.has_root() {
                    done.clear();
                }
                todo.extend(components(&target).into_iter().rev());
                continue;
            }
            done.push(part);
        }
        Ok(done.iter().fold(self.path.clone(), |p, c| p.join(c)))
    }

    pub(crate) fn resolve_dir(&self, path: &Path) -> io::Result<Self> {
        let path = self.resolve(path, true)?;
        if !fs::symlink_metadata(&path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path })
    }

    pub(crate) fn resolve_file(&self, path: &Path) -> io::Result<File> {
        File::open(self.resolve(path, true)?)
    }

    pub(crate) fn resolve_stat(&self, path: &Path, follow: bool) -> io::Result<Metadata> {
        Ok(metadata(&fs::symlink_metadata(self.resolve(path, follow)?)?))
    }

    pub(crate) fn resolve_link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(self.resolve(path, false)?)
    }

    /// The folder's own metadata.
    ///
    /// # Errors
    /// If it has gone.
    pub fn stat_self(&self) -> io::Result<Metadata> {
        Ok(metadata(&fs::symlink_metadata(&self.path)?))
    }

    /// Metadata of an entry; a link's own.
    ///
    /// # Errors
    /// If it is not there.
    pub fn stat(&self, name: &OsStr) -> io::Result<Metadata> {
        Ok(metadata(&fs::symlink_metadata(self.at(name)?)?))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// If it is no link.
    pub fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        fs::read_link(self.at(name)?)
    }

    /// The entries, in ascending order of their names' bytes.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            entries.push(DirEntry { name: entry.file_name(), kind: entry.file_type().ok().map(|t| kind(t)) });
        }
        entries.sort_unstable_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
        Ok(entries)
    }

    /// Opens a folder in this one. A link is an error.
    ///
    /// # Errors
    /// If it is no folder.
    pub fn open_dir(&self, name: &OsStr) -> io::Result<Self> {
        let path = self.at(name)?;
        if !fs::symlink_metadata(&path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path })
    }

    /// Opens a file for reading. A link is an error.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        let path = self.at(name)?;
        if fs::symlink_metadata(&path)?.is_symlink() {
            return Err(io::Error::other("is a symbolic link"));
        }
        File::open(path)
    }

    /// Creates a regular file that was not there and opens it for writing. Windows keeps no mode bits.
    ///
    /// # Errors
    /// `AlreadyExists` if there is anything of that name.
    pub fn create_new(&self, name: &OsStr, _mode: u32) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.at(name)?)
    }

    /// Makes a folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn mkdir(&self, name: &OsStr, _mode: u32) -> io::Result<()> {
        fs::create_dir(self.at(name)?)
    }

    /// Makes a symbolic link, to a folder if its target is one now.
    ///
    /// # Errors
    /// If the user may not make links.
    pub fn symlink(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        let link = self.at(name)?;
        if self.path.join(target).is_dir() {
            std::os::windows::fs::symlink_dir(target, link)
        } else {
            std::os::windows::fs::symlink_file(target, link)
        }
    }

    /// Windows has no such files.
    ///
    /// # Errors
    /// Always `Unsupported`.
    pub fn mknod(&self, name: &OsStr, _kind: Kind, _mode: u32, _device: (u32, u32)) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{name:?}: no devices or pipes on Windows")))
    }

    /// Gives the file `name` a second name in another folder.
    ///
    /// # Errors
    /// If the file system cannot.
    pub fn hard_link(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        fs::hard_link(self.at(name)?, to.at(to_name)?)
    }

    /// Renames an entry, replacing what has the new name.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn rename(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        fs::rename(self.at(name)?, to.at(to_name)?)
    }

    /// Renames an entry unless the new name is taken.
    ///
    /// # Errors
    /// `AlreadyExists`.
    pub fn rename_new(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        let target = to.at(to_name)?;
        if fs::symlink_metadata(&target).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(self.at(name)?, target)
    }

    /// Removes anything but a folder.
    ///
    /// # Errors
    /// If it is not there.
    pub fn unlink(&self, name: &OsStr) -> io::Result<()> {
        let path = self.at(name)?;
        // A link to a folder is removed as a folder.
        if fs::symlink_metadata(&path)?.file_type().is_symlink_dir() {
            fs::remove_dir(path)
        } else {
            fs::remove_file(path)
        }
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// If it is not empty.
    pub fn rmdir(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_dir(self.at(name)?)
    }

    /// Removes an entry with all that is in it. What is not there is removed already.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove_all(&self, name: &OsStr) -> io::Result<()> {
        let path = self.at(name)?;
        let done = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => self.unlink(name),
            Err(e) => Err(e),
        };
        match done {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Owners are not kept on Windows.
    ///
    /// # Errors
    /// None.
    pub fn chown(&self, name: &OsStr, _uid: u32, _gid: u32) -> io::Result<()> {
        self.stat(name).map(drop)
    }

    /// Mode bits are not kept on Windows.
    ///
    /// # Errors
    /// None.
    pub fn chmod(&self, name: &OsStr, _mode: u32) -> io::Result<()> {
        self.stat(name).map(drop)
    }

    /// Sets times of an entry; a link's own.
    ///
    /// # Errors
    /// If it may not be written.
    pub fn set_times(&self, name: &OsStr, times: SetTimes) -> io::Result<()> {
        set_path_times(&self.at(name)?, times)
    }

    /// Sets the folder's own times.
    ///
    /// # Errors
    /// If it may not be written.
    pub fn set_times_self(&self, times: SetTimes) -> io::Result<()> {
        set_path_times(&self.path, times)
    }

    /// Mode bits are not kept on Windows.
    ///
    /// # Errors
    /// None.
    pub fn chmod_self(&self, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    /// Owners are not kept on Windows.
    ///
    /// # Errors
    /// None.
    pub fn chown_self(&self, _uid: u32, _gid: u32) -> io::Result<()> {
        Ok(())
    }

    /// Owner and group that a file gets which is created here now.
    ///
    /// # Errors
    /// None.
    pub fn owner_of_new(&self) -> io::Result<(u32, u32)> {
        Ok((0, 0))
    }

    /// Windows files have none.
    ///
    /// # Errors
    /// None.
    pub fn xattrs(&self, _name: &OsStr) -> io::Result<Xattrs> {
        Ok(Xattrs::new())
    }

    /// Windows folders have none.
    ///
    /// # Errors
    /// None.
    pub fn xattrs_self(&self) -> io::Result<Xattrs> {
        Ok(Xattrs::new())
    }

    /// Windows files have no extended attributes.
    ///
    /// # Errors
    /// Always `Unsupported`.
    pub fn set_xattr(&self, _name: &OsStr, _key: &str, _value: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Windows files have no extended attributes.
    ///
    /// # Errors
    /// Always `Unsupported`.
    pub fn remove_xattr(&self, _name: &OsStr, _key: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn at(&self, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path.join(check(name)?))
    }
}

/// Windows files have none.
///
/// # Errors
/// None.
pub fn file_xattrs(_file: &File) -> io::Result<Xattrs> {
    Ok(Xattrs::new())
}

/// Windows files have no extended attributes.
///
/// # Errors
/// Always `Unsupported`.
pub fn set_file_xattr(_file: &File, _key: &str, _value: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Owners are not kept on Windows.
///
/// # Errors
/// None.
pub fn set_file_owner(_file: &File, _uid: u32, _gid: u32) -> io::Result<()> {
    Ok(())
}

/// Mode bits are not kept on Windows.
///
/// # Errors
/// None.
pub fn set_file_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Times of an open file.
///
/// # Errors
/// If it may not be written.
pub fn set_file_times(file: &File, times: SetTimes) -> io::Result<()> {
    let mut to = fs::FileTimes::new();
    if let Some(time) = times.atime {
        to = to.set_accessed(time.into());
    }
    if let Some(time) = times.mtime {
        to = to.set_modified(time.into());
    }
    file.set_times(to)
}

/// Metadata of an open file.
///
/// # Errors
/// If the system cannot say.
pub fn file_metadata(file: &File) -> io::Result<Metadata> {
    Ok(metadata(&file.metadata()?))
}

fn set_path_times(path: &Path, times: SetTimes) -> io::Result<()> {
    // FILE_WRITE_ATTRIBUTES
    let file = OpenOptions::new().access_mode(0x0100).custom_flags(OPEN_ITSELF).open(path)?;
    set_file_times(&file, times)
}

fn components(path: &Path) -> Vec<std::ffi::OsString> {
    use std::path::Component;
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        })
        .collect()
}

fn kind(file_type: fs::FileType) -> Kind {
    if file_type.is_symlink() {
        Kind::Symlink
    } else if file_type.is_dir() {
        Kind::Dir
    } else {
        Kind::File
    }
}

/// Modes as a Windows client sends them: everything executable, nothing writable by others.
fn metadata(meta: &fs::Metadata) -> Metadata {
    // 100 ns since 1601.
    let time = |ticks: u64| Time::from_nanos((ticks as i64 - 116_444_736_000_000_000).saturating_mul(100));
    Metadata {
        kind: kind(meta.file_type()),
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: meta.len(),
        mtime: time(meta.last_write_time()),
        atime: time(meta.last_access_time()),
        device: (0, 0),
        links: 1,
        inode: (0, 0),
        allocated: meta.len(),
    }
}
