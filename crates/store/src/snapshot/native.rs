//! Snapshots as whole trees in plain folders: works everywhere, costs a copy for each new one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use super::{Active, SnapshotId, Snapshotter, SnapshotterKind, Stack, Usage, usage};
use crate::reaper::{Garbage, remove_tree};
use crate::{Error, MountSpec};

mod copy;

/// The native snapshotter.
#[derive(Debug)]
pub struct NativeSnapshotter {
    dir: PathBuf,
    generation: u64,
    next: AtomicU64,
    reaper: Sender<Garbage>,
}

impl NativeSnapshotter {
    pub(crate) fn open(dir: PathBuf, generation: u64, reaper: Sender<Garbage>) -> Result<Self, Error> {
        let empty = dir.join("empty/fs");
        std::fs::create_dir_all(&empty).map_err(Error::io("create", &empty))?;
        Ok(Self { dir, generation, next: AtomicU64::new(1), reaper })
    }

    fn folder(&self, id: &SnapshotId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    fn make_folder(&self) -> Result<SnapshotId, Error> {
        loop {
            let id = SnapshotId::new(self.generation, self.next.fetch_add(1, Ordering::Relaxed));
            let folder = self.folder(&id);
            match std::fs::create_dir(&folder) {
                Ok(()) => return Ok(id),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", &folder)(error)),
            }
        }
    }

    /// The tree of a stack; a native stack has one snapshot at most.
    fn tree(&self, stack: &Stack) -> Result<PathBuf, Error> {
        match stack.0.as_slice() {
            [] => Ok(self.dir.join("empty/fs")),
            [only] => Ok(self.path(only)),
            _ => Err(Error::Unsupported("a stack of several native snapshots")),
        }
    }
}

impl Snapshotter for NativeSnapshotter {
    fn kind(&self) -> SnapshotterKind {
        SnapshotterKind::Native
    }

    fn prepare(&self, base: &Stack) -> Result<Active, Error> {
        let source = self.tree(base)?;
        let id = self.make_folder()?;
        let active =
            Active { folder: self.folder(&id), id, base: base.clone(), reaper: Some(self.reaper.clone()) };
        copy::tree(&source, &self.path(active.id()))?;
        Ok(active)
    }

    fn writable(&self, id: &SnapshotId, _base: &Stack) -> Result<MountSpec, Error> {
        Ok(MountSpec::Bind { path: self.path(id), read_only: false })
    }

    fn view(&self, stack: &Stack) -> Result<MountSpec, Error> {
        Ok(MountSpec::Bind { path: self.tree(stack)?, read_only: true })
    }

    fn stack(&self, id: &SnapshotId, _base: &Stack) -> Stack {
        Stack::single(id.clone())
    }

    fn path(&self, id: &SnapshotId) -> PathBuf {
        self.folder(id).join("fs")
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage, Error> {
        usage::of_tree(&self.path(id), false)
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), Error> {
        remove_tree(&self.folder(id))
    }

    fn dir(&self) -> &Path {
        &self.dir
    }
}
