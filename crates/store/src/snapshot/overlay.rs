//! Snapshots as layers of Linux overlay mounts.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::spread::Spread;
use super::{Active, SNAPSHOTS, SnapshotId, Snapshotter, SnapshotterKind, Stack, Usage, usage};
use crate::mount::OverlayUpper;
use crate::reaper::{Garbage, remove_tree};
use crate::{Db, Error, Json, MountSpec};

/// The overlay snapshotter.
#[derive(Debug)]
pub struct OverlaySnapshotter {
    dir: PathBuf,
    db: Db,
    generation: u64,
    next: AtomicU64,
    reaper: Sender<Garbage>,
    spread: Spread,
}

impl OverlaySnapshotter {
    pub(crate) fn open(
        dir: PathBuf,
        db: Db,
        generation: u64,
        reaper: Sender<Garbage>,
    ) -> Result<Self, Error> {
        let empty = dir.join("empty/fs");
        std::fs::create_dir_all(&empty).map_err(Error::io("create", &empty))?;
        let spread = Spread::over(&dir);
        Ok(Self { dir, db, generation, next: AtomicU64::new(Spread::first_number()), reaper, spread })
    }

    /// Whether overlay mounts with an upper layer can be made in `dir` by this process.
    pub(crate) fn probe(dir: &Path) -> Result<(), Error> {
        let probe = dir.join(format!("probe-{}", std::process::id()));
        let [lower, upper, work] = ["lower", "fs", "work"].map(|name| probe.join(name));
        for folder in [&lower, &upper, &work] {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let spec = MountSpec::Overlay {
            lowers: vec![lower],
            upper: Some(OverlayUpper { upper, work, volatile: true }),
        };
        let outcome = spec.open().map(drop);
        remove_tree(&probe)?;
        outcome
    }

    fn folder(&self, id: &SnapshotId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    fn lowers(&self, stack: &Stack) -> Vec<PathBuf> {
        stack.0.iter().map(|id| self.path(id)).collect()
    }

    /// The layer of a single snapshot may be shown as it is only when it has no whiteouts.
    fn is_plain(&self, id: &SnapshotId) -> Result<bool, Error> {
        let info = self.db.get(&SNAPSHOTS, &id.as_str().to_owned())?;
        // A snapshot without a record is being written by its owner, on nothing.
        Ok(info.is_none_or(|Json(info)| !info.whiteouts))
    }

    fn make_folders(&self, base: &Stack) -> Result<SnapshotId, Error> {
        let mut tries = 0;
        loop {
            let id = SnapshotId::new(self.generation, self.next.fetch_add(1, Ordering::Relaxed));
            let folder = self.folder(&id);
            match std::fs::create_dir(&folder) {
                Ok(()) => {}
                // Left by a generation whose number a power loss took back.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::io("create", &folder)(error)),
            }
            let upper = folder.join("fs");
            let begun = Instant::now();
            std::fs::create_dir(&upper).map_err(Error::io("create", &upper))?;
            if self.spread.is_crowded(tries, &folder, &upper, begun.elapsed()) {
                remove_tree(&folder)?;
                tries += 1;
                continue;
            }
            let top = base.0.first().map(|top| self.path(top));
            host::own_root(&upper, top.as_deref())?;
            if !base.0.is_empty() {
                let work = folder.join("work");
                std::fs::create_dir(&work).map_err(Error::io("create", &work))?;
            }
            return Ok(id);
        }
    }
}

impl Snapshotter for OverlaySnapshotter {
    fn kind(&self) -> SnapshotterKind {
        SnapshotterKind::Overlay
    }

    fn prepare(&self, base: &Stack) -> Result<Active, Error> {
        let id = self.make_folders(base)?;
        Ok(Active { folder: self.folder(&id), id, base: base.clone(), reaper: Some(self.reaper.clone()) })
    }

    fn writable(&self, id: &SnapshotId, base: &Stack) -> Result<MountSpec, Error> {
        if base.0.is_empty() {
            return Ok(MountSpec::Bind { path: self.path(id), read_only: false });
        }
        let upper = OverlayUpper { upper: self.path(id), work: self.folder(id).join("work"), volatile: true };
        Ok(MountSpec::Overlay { lowers: self.lowers(base), upper: Some(upper) })
    }

    fn view(&self, stack: &Stack) -> Result<MountSpec, Error> {
        match stack.0.as_slice() {
            [] => Ok(MountSpec::Bind { path: self.dir.join("empty/fs"), read_only: true }),
            [only] if self.is_plain(only)? => Ok(MountSpec::Bind { path: self.path(only), read_only: true }),
            [only] => {
                // Overlay without an upper layer wants two lower ones.
                Ok(MountSpec::Overlay {
                    lowers: vec![self.path(only), self.dir.join("empty/fs")],
                    upper: None,
                })
            }
            _ => Ok(MountSpec::Overlay { lowers: self.lowers(stack), upper: None }),
        }
    }

    fn stack(&self, id: &SnapshotId, base: &Stack) -> Stack {
        Stack::single(id.clone()).over(base)
    }

    fn path(&self, id: &SnapshotId) -> PathBuf {
        self.folder(id).join("fs")
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage, Error> {
        let info = self.db.get(&SNAPSHOTS, &id.as_str().to_owned())?;
        usage::of_tree(&self.path(id), info.is_some_and(|Json(info)| info.linked))
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), Error> {
        remove_tree(&self.folder(id))
    }

    fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(unix)]
mod host {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::path::Path;

    use crate::Error;

    /// The root folder of an overlay mount is the upper layer's: it takes mode and owner from the layer below.
    pub(super) fn own_root(upper: &Path, top: Option<&Path>) -> Result<(), Error> {
        let Some(top) = top else {
            return std::fs::set_permissions(upper, PermissionsExt::from_mode(0o755))
                .map_err(Error::io("change the mode of", upper));
        };
        let meta = std::fs::metadata(top).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NoSnapshot(top.display().to_string()),
            _ => Error::io("stat", top)(source),
        })?;
        let own = std::fs::metadata(upper).map_err(Error::io("stat", upper))?;
        if (own.uid(), own.gid()) != (meta.uid(), meta.gid()) {
            chown(upper, Some(meta.uid()), Some(meta.gid()))
                .map_err(Error::io("change the owner of", upper))?;
        }
        std::fs::set_permissions(upper, PermissionsExt::from_mode(meta.mode() & 0o7777))
            .map_err(Error::io("change the mode of", upper))
    }
}

#[cfg(not(unix))]
mod host {
    use std::path::Path;

    use crate::Error;

    pub(super) fn own_root(_: &Path, _: Option<&Path>) -> Result<(), Error> {
        Err(Error::Unsupported("the overlay snapshotter"))
    }
}
