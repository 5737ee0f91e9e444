//! What LLB's file operations do to a tree, with the semantics of BuildKit's file backend.

use std::fs::File;
use std::path::Path;

use kiln_proto::pb;

use crate::{Error, Result, Root};

/// A user that files are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How the bytes of a file get from one tree to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transfer {
    /// A new file with its own bytes; shared extents where the file system can.
    #[default]
    Copy,
    /// A second name of the same file where everything about it is equal (metadata, attributes), once per file;
    /// otherwise as `Copy`. Only for sources that nobody ever writes to in place: immutable overlay snapshots.
    HardLink,
}

/// Unpacks an archive: is given the opened source, the destination tree and the path in it of the folder to unpack into, and says whether it was
/// an archive at all. The folder is made by this crate once the callback's probe says yes, see [`Unpack`].
pub trait Unpack {
    /// Whether the file is an archive that can be unpacked. It is rewound afterwards.
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
    /// Whom the files are given to; `None`: they keep their owners.
    pub owner: Option<Owner>,
    /// How bytes are moved.
    pub transfer: Transfer,
    /// Unpacks archives for actions that ask for it.
    pub unpack: Option<&'a dyn Unpack>,
    /// Asked between files; `true` ends the copy with [`Error::Canceled`].
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
}

/// Copies from one tree to another (or the same), as `action` says.
///
/// # Errors
/// If the source is not there, the destination is in the way, or the trees cannot be read or written.
pub fn copy(src: &Root, dest: &Root, action: &pb::FileActionCopy, options: &CopyOptions<'_>) -> Result<()> {
    let _nothing = (src, dest, action, options);
    Err(Error::Unsupported("copy"))
}

/// Makes a folder.
///
/// # Errors
/// If a parent is missing and not to be made, or something else is there.
pub fn mkdir(root: &Root, action: &pb::FileActionMkDir, owner: Option<Owner>) -> Result<()> {
    let _nothing = (root, action, owner);
    Err(Error::Unsupported("mkdir"))
}

/// Writes a file.
///
/// # Errors
/// If its folder is missing or a folder is there.
pub fn mkfile(root: &Root, action: &pb::FileActionMkFile, owner: Option<Owner>) -> Result<()> {
    let _nothing = (root, action, owner);
    Err(Error::Unsupported("mkfile"))
}

/// Makes a symbolic link.
///
/// # Errors
/// If its folder is missing or something is there.
pub fn symlink(root: &Root, action: &pb::FileActionSymlink, owner: Option<Owner>) -> Result<()> {
    let _nothing = (root, action, owner);
    Err(Error::Unsupported("symlink"))
}

/// Removes files and folders.
///
/// # Errors
/// If nothing is there and that is not allowed.
pub fn rm(root: &Root, action: &pb::FileActionRm) -> Result<()> {
    let _nothing = (root, action);
    Err(Error::Unsupported("rm"))
}

/// Who is meant by an LLB owner, names looked up in `/etc/passwd` of `user` and `/etc/group` of `group`.
/// A name that is not there means 0 (and an unknown group the user's group), as in BuildKit.
///
/// # Errors
/// If a name is given but no tree to look it up in, or the file is not a regular one.
pub fn owner(opt: Option<&pb::ChownOpt>, user: Option<&Root>, group: Option<&Root>) -> Result<Option<Owner>> {
    let _nothing = (opt, user, group, Path::new("/etc/passwd"));
    Err(Error::Unsupported("owner"))
}
