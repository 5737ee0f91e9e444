//! How a snapshot is mounted, as plain data, and making it so.
//!
//! A mount that [`MountSpec::open_fd`] makes is *detached*: it is in no mount namespace's tree, so it goes when the
//! descriptor closes or the process dies, and nothing is ever left mounted.

use std::path::PathBuf;

use kiln_fstree::Root;
use serde::{Deserialize, Serialize};

use crate::Error;

#[cfg(target_os = "linux")]
mod legacy;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(target_os = "linux")]
mod setattr;

/// The writable layer of an overlay mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayUpper {
    /// Where changes go.
    pub upper: PathBuf,
    /// Overlay's own folder, on the same file system.
    pub work: PathBuf,
    /// Whether unmounting and syncing skip the upper layer. After a power loss the layer is then worth nothing, which
    /// the store's boot id sees to.
    pub volatile: bool,
}

/// A tree to be mounted. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSpec {
    /// A folder as it is.
    Bind {
        /// The folder.
        path: PathBuf,
        /// Whether writing is refused.
        read_only: bool,
    },
    /// Layers one above the other.
    Overlay {
        /// The lower layers, topmost first; at least one with an upper layer, two without.
        lowers: Vec<PathBuf>,
        /// The writable layer; without one the mount is read-only.
        upper: Option<OverlayUpper>,
    },
}

impl MountSpec {
    /// Whether writing is refused.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Bind { read_only, .. } => *read_only,
            Self::Overlay { upper, .. } => upper.is_none(),
        }
    }

    /// The same tree, read-only. An overlay's upper layer becomes its topmost lower one.
    #[must_use]
    pub fn read_only(self) -> Self {
        match self {
            Self::Bind { path, .. } => Self::Bind { path, read_only: true },
            Self::Overlay { mut lowers, upper } => {
                if let Some(upper) = upper {
                    lowers.insert(0, upper.upper);
                }
                Self::Overlay { lowers, upper: None }
            }
        }
    }

    /// Makes the mount, detached, as a tree. Elsewhere than on Linux only a folder as it is can be opened, and refusing to
    /// write is left to the caller.
    ///
    /// # Errors
    /// [`Error::Mount`], [`Error::Tree`]; [`Error::Unsupported`] for overlays on other hosts.
    pub fn open(&self) -> Result<Root, Error> {
        self.open_root()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
