//! What LLB's file operations do to a tree, with the semantics of BuildKit's file backend.
//!
//! Every path is resolved inside its tree, whatever links lie there. New files are written aside or under a name that was
//! free, and never into an inode that has other names.

mod chmod;
mod copy;
mod files;
mod owner;
mod paths;
mod tree;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kiln_proto::pb;

use crate::dir::SetTimes;
use crate::error::{Context as _, Error, Result};
use crate::meta::Time;
use crate::root::inside;
use crate::{Dir, Root};
use paths::{expand, show, shown, tidy};

pub use copy::copy;
pub use owner::owner;

/// A user that files are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How the bytes of a file get from one tree to another.
#[derive(Debug, Clone, Copy, Default)]
pub enum Transfer<'a> {
    /// A new file with its own bytes; shared extents where the file system can.
    #[default]
    Copy,
    /// A second name of the same file where everything about it is equal (owner, mode, times; attributes are the
    /// file's anyway), once per file; otherwise, and where the two trees are not on one mount, as `Copy`.
    /// Only for sources that nobody ever writes to in place: immutable overlay snapshots and the local tree.
    HardLink(&'a Linked),
}

/// The files that have been given a second name in one result. One of these for all copies that make a layer.
#[derive(Debug, Default)]
pub struct Linked(Mutex<std::collections::HashSet<(u64, u64)>>);

/// Unpacks archives for copies that ask for it.
pub trait Unpack: Sync {
    /// Whether the file is an archive that can be unpacked. The file is at its start, and is rewound afterwards.
    ///
    /// # Errors
    /// If it cannot be read.
    fn probe(&self, file: &mut File) -> Result<bool>;

    /// Unpacks it into `dest`, a folder that exists. Entries belong to `owner` if there is one.
    ///
    /// # Errors
    /// If the archive is broken or the tree cannot be written.
    fn unpack(&self, file: File, dest: &Root, owner: Option<Owner>) -> Result<()>;
}

/// What a copy needs to know beside its action.
#[derive(Default)]
pub struct CopyOptions<'a> {
    /// Whom the files are given to; `None`: they keep their owners. See [`owner`].
    pub owner: Option<Owner>,
    /// How bytes are moved.
    pub transfer: Transfer<'a>,
    /// Unpacks archives for actions that ask for it.
    pub unpack: Option<&'a dyn Unpack>,
    /// Asked between files; `true` ends the copy with [`Error::Canceled`].
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl std::fmt::Debug for CopyOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyOptions")
            .field("owner", &self.owner)
            .field("transfer", &self.transfer)
            .finish_non_exhaustive()
    }
}

/// Makes a folder. Without `make_parents`, something that is there already is left alone.
///
/// # Errors
/// If a parent is missing and not to be made, or is no folder.
pub fn mkdir(root: &Root, action: &pb::FileActionMkDir, owner: Option<Owner>) -> Result<()> {
    let mode = mode_bits(action.mode) & 0o777;
    let time = timestamp(action.timestamp);
    let path = root.resolve(&action.path)?;
    if action.make_parents {
        return make_folders(root, &path, mode, owner, time).map(drop);
    }
    let Some((dir, name)) = place(root, &path)? else { return Ok(()) };
    match dir.mkdir(&name, mode) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.at("mkdir", shown(&path))?,
    }
    give(&dir, &name, owner, time).at("mkdir", shown(&path))
}

/// Writes a file. One that is there keeps what is not its content, unless the action says otherwise.
///
/// # Errors
/// If its folder is missing or a folder is there.
pub fn mkfile(root: &Root, action: &pb::FileActionMkFile, owner: Option<Owner>) -> Result<()> {
    let path = root.resolve(&action.path)?;
    let at = || shown(&path);
    let existing = match root.stat(&path) {
        Err(e) if e.is_not_found() => None,
        Err(e) => return Err(show(e, &path)),
        Ok(meta) if meta.is_file() => Some(meta),
        Ok(meta) if meta.is_dir() => {
            return Err(io::Error::from(io::ErrorKind::IsADirectory)).at("open", at());
        }
        Ok(_) => return Err(Error::Refused(format!("{} is not a regular file", at().display()))),
    };
    let mode = existing.as_ref().map_or(mode_bits(action.mode) & 0o777, |meta| meta.mode);
    let Some((dir, name)) = place(root, &path)? else {
        return Err(io::Error::from(io::ErrorKind::IsADirectory)).at("open", at());
    };
    let kept =
        if existing.is_some() { dir.xattrs(&name).at("listxattr", at())? } else { crate::Xattrs::new() };
    root.write(&path, &action.data, mode).map_err(|e| show(e, &path))?;
    for (key, value) in &kept {
        dir.set_xattr(&name, key, value).at("setxattr", at())?;
    }
    if let Some(meta) = existing.filter(|_| owner.is_none()) {
        dir.chown(&name, meta.uid, meta.gid).and_then(|()| dir.chmod(&name, mode)).at("chown", at())?;
    }
    give(&dir, &name, owner, timestamp(action.timestamp)).at("open", at())
}

/// Makes a symbolic link.
///
/// # Errors
/// If its folder is missing or something is there.
pub fn symlink(root: &Root, action: &pb::FileActionSymlink, owner: Option<Owner>) -> Result<()> {
    let path = root.resolve(&action.newpath)?;
    let Some((dir, name)) = place(root, &path)? else {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists)).at("symlink", shown(&path));
    };
    dir.symlink(Path::new(&action.oldpath), &name).at("symlink", shown(&path))?;
    give(&dir, &name, owner, timestamp(action.timestamp)).at("symlink", shown(&path))
}

/// Removes files and folders.
///
/// # Errors
/// If nothing is there and that is not allowed, or if the path is that of the root.
pub fn rm(root: &Root, action: &pb::FileActionRm) -> Result<()> {
    if !action.allow_wildcard {
        return remove(root, &inside(Path::new(&action.path)), action.allow_not_found);
    }
    expand(root, &tidy(&action.path), false)?
        .iter()
        .try_for_each(|path| remove(root, path, action.allow_not_found))
}

fn remove(root: &Root, path: &Path, allow_not_found: bool) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::Refused("rm: invalid empty path".to_owned()));
    };
    let folder = root.resolve(path.parent().unwrap_or(Path::new("")))?;
    let path = folder.join(name);
    if !allow_not_found {
        root.stat_follow(&path).map_err(|e| show(e, &path))?;
    }
    root.remove_all(&path).map_err(|e| show(e, &path))
}

/// The folder that a resolved path lies in, and its name there; `None` for the root.
fn place(root: &Root, path: &Path) -> Result<Option<(Dir, std::ffi::OsString)>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    root.parent(path).map(Some).map_err(|e| show(e, path))
}

/// Makes a folder and what is missing above it, all alike. Returns what was made, outermost first.
fn make_folders(
    root: &Root,
    path: &Path,
    mode: u32,
    owner: Option<Owner>,
    time: Option<Time>,
) -> Result<Vec<PathBuf>> {
    let made = root.mkdir_all(path, mode).map_err(|e| show(e, path))?;
    for path in &made {
        if let Some((dir, name)) = place(root, path)? {
            give(&dir, &name, owner, time).at("mkdir", shown(path))?;
        }
    }
    Ok(made)
}

fn give(dir: &Dir, name: &std::ffi::OsStr, owner: Option<Owner>, time: Option<Time>) -> io::Result<()> {
    if let Some(owner) = owner {
        dir.chown(name, owner.uid, owner.gid)?;
    }
    time.map_or(Ok(()), |time| dir.set_times(name, SetTimes::both(time)))
}

/// -1 stands for none.
fn timestamp(nanos: i64) -> Option<Time> {
    (nanos != -1).then(|| Time::from_nanos(nanos))
}

/// The bits of a mode that the wire carries as a signed number.
fn mode_bits(mode: i32) -> u32 {
    mode.cast_unsigned()
}

#[cfg(all(test, unix))]
mod tests;
