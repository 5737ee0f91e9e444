//! One open folder, and everything that can be done to the entries in it.
//!
//! A [`Dir`] never resolves a path: each name is one component, checked, and never followed if it is a symbolic link.
//! Whoever has paths asks a [`Root`](crate::Root) for the folder that they lie in. All reading and writing of
//! ownership, modes, times, devices and extended attributes in the project goes through this module.

use std::ffi::{OsStr, OsString};
use std::io;

use crate::meta::Kind;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;
#[cfg(unix)]
mod xattr;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub use system::Dir;

/// The same door for a file that is open already.
pub mod file {
    pub use super::system::{
        file_metadata as metadata, set_file_mode as set_mode, set_file_owner as set_owner,
        set_file_times as set_times,
    };
    #[cfg(windows)]
    pub use super::system::{file_xattrs as xattrs, set_file_xattr as set_xattr};
    #[cfg(unix)]
    pub use super::xattr::{of_file as xattrs, set_of_file as set_xattr};
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name: one component.
    pub name: OsString,
    /// What it is, if the file system says so without being asked for each file.
    pub kind: Option<Kind>,
}

/// What to do to the times of a file: `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetTimes {
    /// Last read.
    pub atime: Option<crate::meta::Time>,
    /// Content last changed.
    pub mtime: Option<crate::meta::Time>,
}

impl SetTimes {
    /// Sets both to one time.
    #[must_use]
    pub fn both(time: crate::meta::Time) -> Self {
        Self { atime: Some(time), mtime: Some(time) }
    }
}

/// Refuses whatever is not a single, ordinary component.
fn check(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_encoded_bytes();
    let separator = |b: &u8| *b == b'/' || *b == 0 || (cfg!(windows) && (*b == b'\\' || *b == b':'));
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.iter().any(separator) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a file name")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
