//! Hosts without mounts: a folder is used where it is.

use std::path::Path;

use super::MountSpec;
use crate::Error;

impl MountSpec {
    /// The folder that shows the tree.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for overlays.
    pub fn folder(&self) -> Result<&Path, Error> {
        match self {
            Self::Bind { path, .. } => Ok(path),
            Self::Overlay { .. } => Err(Error::Unsupported("an overlay mount")),
        }
    }
}
