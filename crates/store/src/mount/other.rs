//! Hosts without mounts: a folder is used where it is.

use kiln_fstree::Root;

use super::MountSpec;
use crate::Error;

impl MountSpec {
    pub(super) fn open_root(&self) -> Result<Root, Error> {
        match self {
            Self::Bind { path, .. } => {
                Root::open(path).map_err(|e| Error::Tree { path: path.clone(), message: e.to_string() })
            }
            Self::Overlay { .. } => Err(Error::Unsupported("an overlay mount")),
        }
    }
}
