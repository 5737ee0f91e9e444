//! Users and groups by the files of a root (`passwd(5)`, `group(5)`).

use crate::{Error, Result};

/// A user as the kernel wants it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, without duplicates; `gid` is among them.
    pub groups: Vec<u32>,
}

/// The contents of a root's user files; `None` where one does not exist.
#[derive(Debug, Clone, Default)]
pub struct UserFiles {
    /// `/etc/passwd`.
    pub passwd: Option<Vec<u8>>,
    /// `/etc/group`.
    pub group: Option<Vec<u8>>,
}

/// Resolves `spec` (`""`, `user`, `uid`, `user:group`, `uid:gid`, …).
///
/// # Errors
///
/// [`Error::NoSuchUser`] for a name that the files do not have, [`Error::Invalid`] for a number out of range.
pub fn resolve(spec: &str, files: &UserFiles) -> Result<ResolvedUser> {
    let _ = (spec, files);
    Err(Error::Lost)
}
