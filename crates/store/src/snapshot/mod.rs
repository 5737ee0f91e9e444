//! Snapshots: folders that hold the files of refs.
//!
//! ```text
//! snapshots/<generation>-<n>/fs     overlay: the changes to what is below; native: the whole tree
//! snapshots/<generation>-<n>/work   overlay only, while the snapshot is written
//! snapshots/empty/fs                an empty folder, for overlay mounts that need one
//! table snapshots                   id → {"whiteouts":…,"linked":…,"size":bytes}, each if it is not the default
//! ```
//!
//! A snapshot knows no parent. What a ref shows is a [`Stack`] of snapshots, topmost first, that its owner keeps: with
//! overlay any number of layers, whoever made them, so that merging is putting stacks one above the other; with native
//! one snapshot that holds everything.

mod native;
mod overlay;
mod spread;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use serde::{Deserialize, Serialize};

use crate::reaper::Garbage;
use crate::{Error, Json, MountSpec, Table};
pub use native::NativeSnapshotter;
pub use overlay::OverlaySnapshotter;
pub use usage::Usage;

pub(crate) const SNAPSHOTS: Table<String, Json<SnapshotInfo>> = Table::new("snapshots");

/// The name of a snapshot: `<generation>-<n>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    pub(crate) fn new(generation: u64, n: u64) -> Self {
        Self(format!("{generation}-{n}"))
    }

    /// Reads `<generation>-<n>`; `None` when `id` is something else. A valid id is a plain file name.
    pub fn parse(id: &str) -> Option<Self> {
        let (generation, n) = id.split_once('-')?;
        let number = |s: &str| !s.is_empty() && s.len() <= 20 && s.bytes().all(|b| b.is_ascii_digit());
        (number(generation) && number(n)).then(|| Self(id.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The start of the store that made it.
    pub(crate) fn generation(&self) -> u64 {
        self.0.split_once('-').and_then(|(g, _)| g.parse().ok()).unwrap_or(u64::MAX)
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = String;

    fn try_from(id: String) -> Result<Self, String> {
        Self::parse(&id).ok_or(id)
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl std::fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The snapshots that make up a tree, topmost first. Empty: an empty folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stack(pub Vec<SnapshotId>);

impl Stack {
    /// This stack with `lower` below it.
    #[must_use]
    pub fn over(mut self, lower: &Self) -> Self {
        self.0.extend(lower.0.iter().cloned());
        self
    }

    /// The stack that is one snapshot.
    pub fn single(id: SnapshotId) -> Self {
        Self(vec![id])
    }
}

/// What the store remembers of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Overlay: the layer may hold whiteouts or opaque folders, so that it must not be shown by itself without overlay.
    /// A snapshot prepared on nothing by a step has none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whiteouts: bool,
    /// Files of other snapshots were hard linked into it; these are not counted in its size.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linked: bool,
    /// Bytes that it takes on disk, where that was measured since it was last written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Which snapshotter a store uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotterKind {
    /// Linux overlay filesystem: a snapshot is a layer.
    Overlay,
    /// Plain folders: a snapshot is a whole tree, and a new one begins as a copy.
    Native,
}

impl SnapshotterKind {
    /// The name that the reference uses in `--oci-worker-snapshotter` and worker labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlayfs",
            Self::Native => "native",
        }
    }
}

/// A way to keep trees on this host's disk. All methods block on the file system.
pub trait Snapshotter: Send + Sync + std::fmt::Debug {
    /// Which one it is.
    fn kind(&self) -> SnapshotterKind;

    /// Makes the folders of a new snapshot that begins as `base`. It has no record: if nobody gives it one with
    /// [`StoreTx::add_snapshot`](crate::StoreTx::add_snapshot), it is removed when the [`Active`] is dropped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NoSnapshot`] when a part of `base` is gone.
    fn prepare(&self, base: &Stack) -> Result<Active, Error>;

    /// How to mount the snapshot `id`, prepared on `base`, for writing. At most one such mount may exist at a time, and none
    /// while the snapshot is part of a mounted stack.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`].
    fn writable(&self, id: &SnapshotId, base: &Stack) -> Result<MountSpec, Error>;

    /// How to mount `stack` for reading.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`] when a part of it has no record.
    fn view(&self, stack: &Stack) -> Result<MountSpec, Error>;

    /// The stack that shows the snapshot `id`, prepared on `base`, once nobody writes to it any more.
    fn stack(&self, id: &SnapshotId, base: &Stack) -> Stack;

    /// The folder `fs` of a snapshot: overlay's layer, native's tree.
    fn path(&self, id: &SnapshotId) -> PathBuf;

    /// What the snapshot takes on disk.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be walked.
    fn usage(&self, id: &SnapshotId) -> Result<Usage, Error>;

    /// Removes the folders of a snapshot that has no record (any more).
    ///
    /// # Errors
    /// [`Error::Io`].
    fn remove(&self, id: &SnapshotId) -> Result<(), Error>;

    /// The folder of all snapshots, for the sweep.
    fn dir(&self) -> &Path;
}

/// A snapshot that has no record yet. Dropped, its folders are removed in the background.
#[derive(Debug)]
pub struct Active {
    id: SnapshotId,
    base: Stack,
    folder: PathBuf,
    reaper: Option<Sender<Garbage>>,
}

impl Active {
    /// Its id.
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// What it was prepared on.
    pub fn base(&self) -> &Stack {
        &self.base
    }

    /// The snapshot has a record now: it stays when this is dropped.
    pub fn keep(mut self) -> SnapshotId {
        self.reaper = None;
        self.id.clone()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if let Some(reaper) = &self.reaper
            && reaper.send(Garbage::Unrecorded(self.folder.clone())).is_err()
        {
            tracing::debug!(snapshot = %self.id, "left for the next start to remove");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_pinned() {
        let all = SnapshotInfo { whiteouts: true, linked: true, size: Some(7) };
        for (json, info) in [
            ("{}", SnapshotInfo::default()),
            (r#"{"whiteouts":true}"#, SnapshotInfo { whiteouts: true, ..SnapshotInfo::default() }),
            (r#"{"whiteouts":true,"linked":true,"size":7}"#, all),
        ] {
            assert_eq!(serde_json::to_string(&info).unwrap(), json);
            assert_eq!(serde_json::from_str::<SnapshotInfo>(json).unwrap(), info);
        }
    }

    #[test]
    fn ids_are_plain_names() {
        assert_eq!(SnapshotId::parse("3-17").unwrap().generation(), 3);
        for bad in ["", "-", "3", "3-", "-1", "../3-1", "3-1/..", "a-1", "3-1-2", "3-+1"] {
            assert!(SnapshotId::parse(bad).is_none(), "{bad}");
        }
    }
}
