//! The store: opening it, changing it, closing it.
//!
//! ```text
//! table meta        "boot" → boot id, "generation" → how often the store was opened
//! table uncovered   resource → ()    data that no syncfs has passed over
//! ```

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use crate::content::BLOBS;
use crate::lease::{HELD, HOLDS, LEASES, now};
use crate::reaper::{Garbage, Reaper, Uncovered, Work};
use crate::snapshot::SNAPSHOTS;
use crate::{
    Content, Db, Error, Json, Lease, LeaseId, LeaseInfo, NativeSnapshotter, OverlaySnapshotter, Resource,
    RootLock, SnapshotId, SnapshotInfo, Snapshotter, SnapshotterKind, Table, Tx, boot,
};

pub(crate) const UNCOVERED: Table<Resource, ()> = Table::new("uncovered");
const META: Table<String, String> = Table::new("meta");

/// How to open a store.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which snapshotter to use; `None`: overlay where it works, else native.
    pub snapshotter: Option<SnapshotterKind>,
    /// In place of the host's boot id, for tests.
    pub boot_id: Option<String>,
}

/// The store of a state folder. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    // Dropped in this order: the reaper finishes its work on the database, the lock goes last.
    reaper: Reaper,
    work: Arc<Work>,
    generation: u64,
    next_lease: AtomicU64,
    boot: Option<String>,
    lost: Mutex<Vec<Resource>>,
    _lock: RootLock,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.inner.work.dir).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `<root>/kiln`, making it when there is none. Does no work that grows with what the store
    /// holds; call [`Store::sweep`] when there is time.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it open; [`Error::Mount`] when overlay was asked for and does not work
    /// here; [`Error::Io`], [`Error::Metadata`].
    pub fn open(root: &Path, options: &Options) -> Result<Self, Error> {
        let dir = root.join("kiln");
        let lock = RootLock::acquire(&dir)?;
        Self::open_locked(&dir, lock, options)
    }

    /// Opens the store in the folder `dir` (`<root>/kiln`) whose lock the caller took.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_locked(dir: &Path, lock: RootLock, options: &Options) -> Result<Self, Error> {
        let dir = std::path::absolute(dir).map_err(Error::io("find", dir))?;
        let snapshots_dir = dir.join("snapshots");
        std::fs::create_dir_all(&snapshots_dir).map_err(Error::io("create", &snapshots_dir))?;
        let db = Db::open(&dir.join("kiln.redb"))?;
        let generation = next_generation(&db)?;
        let boot = options.boot_id.clone().or_else(boot::id);
        let uncovered: Vec<Resource> = db.prefix(&UNCOVERED, &())?.into_iter().map(|(r, ())| r).collect();
        let same_boot = boot.is_some() && db.get(&META, &"boot".to_owned())? == boot;
        let lost = if same_boot { Vec::new() } else { uncovered.clone() };
        let content = Content::open(dir.join("content"), db.clone(), generation)?;

        let (sender, receiver) = mpsc::channel();
        let snapshots = open_snapshotter(snapshots_dir, &db, generation, sender.clone(), options)?;
        let mut covered_later = Uncovered::default();
        if same_boot && !uncovered.is_empty() {
            covered_later.add(uncovered);
        }
        let work = Arc::new(Work { dir, db, content, snapshots, uncovered: Mutex::new(covered_later) });
        let reaper = Reaper::start(Arc::clone(&work), sender, receiver)?;
        let inner = Inner {
            reaper,
            work,
            generation,
            next_lease: AtomicU64::new(0),
            boot,
            lost: Mutex::new(lost),
            _lock: lock,
        };
        let store = Self { inner: Arc::new(inner) };
        if store.lost().is_empty() {
            store.change(|tx| tx.record_boot(&store))?;
        }
        Ok(store)
    }

    /// The folder `<root>/kiln`.
    pub fn dir(&self) -> &Path {
        &self.inner.work.dir
    }

    /// The metadata.
    pub fn db(&self) -> &Db {
        &self.inner.work.db
    }

    /// The blobs.
    pub fn content(&self) -> &Content {
        &self.inner.work.content
    }

    /// The snapshots.
    pub fn snapshots(&self) -> &Arc<dyn Snapshotter> {
        &self.inner.work.snapshots
    }

    /// How often this store has been opened, this time included.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Runs one change over metadata, leases and snapshots; see [`Db::change`]. Resources that nobody holds afterwards
    /// lose their records with the change and their data soon after.
    ///
    /// # Errors
    /// What `body` returns, or [`Error::Metadata`].
    pub fn change<T, E: From<Error>>(
        &self,
        body: impl FnOnce(&mut StoreTx<'_, '_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut orphans = Vec::new();
        let mut uncovered = Vec::new();
        let value = self.db().change(|tx| {
            let mut tx = StoreTx { tx, orphans: Vec::new(), uncovered: Vec::new() };
            let value = body(&mut tx)?;
            orphans = tx.drop_orphans()?;
            uncovered = tx.uncovered;
            Ok::<T, E>(value)
        })?;
        if !uncovered.is_empty() {
            lock(&self.inner.work.uncovered).add(uncovered);
        }
        for orphan in orphans {
            lock(&self.inner.work.uncovered).set.remove(&orphan);
            self.inner.reaper.send(Garbage::Resource(orphan));
        }
        Ok(value)
    }

    /// A lease for as long as the handle lives, at most until the next start.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn lease(&self) -> Result<Lease, Error> {
        let n = self.inner.next_lease.fetch_add(1, Ordering::Relaxed);
        let id = LeaseId(format!("tmp/{}-{n}", self.inner.generation));
        let info = LeaseInfo { temporary: Some(self.inner.generation), ..LeaseInfo::lasting() };
        self.change(|tx| {
            tx.create_lease(&id, &info);
            Ok::<_, Error>(())
        })?;
        Ok(Lease { store: self.clone(), id })
    }

    /// Releases the leases whose time is over; returns how many.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn release_expired(&self) -> Result<usize, Error> {
        let now = now();
        self.change(|tx| {
            let all = tx.prefix(&LEASES, &())?;
            let over: Vec<_> =
                all.into_iter().filter(|(_, Json(l))| l.expires.is_some_and(|t| t <= now)).collect();
            for (id, _) in &over {
                tx.release(&LeaseId(id.clone()))?;
            }
            Ok(over.len())
        })
    }

    /// Releases the leases whose ids begin with `prefix`; returns how many.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn release_named(&self, prefix: &str) -> Result<usize, Error> {
        self.change(|tx| {
            let all = tx.prefix(&LEASES, &())?;
            let named: Vec<_> = all.into_iter().filter(|(id, _)| id.starts_with(prefix)).collect();
            for (id, _) in &named {
                tx.release(&LeaseId(id.clone()))?;
            }
            Ok(named.len())
        })
    }

    /// What a power loss may have damaged: data that was not yet on disk when the machine went down. Its records are still
    /// there; whoever keeps records of such data drops these, then calls [`Store::forget_lost`].
    pub fn lost(&self) -> Vec<Resource> {
        lock(&self.inner.lost).clone()
    }

    /// The leases that hold `resource`.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn holders(&self, resource: &Resource) -> Result<Vec<LeaseId>, Error> {
        let rows = self.db().prefix(&HOLDS, resource)?;
        Ok(rows.into_iter().map(|((_, lease), ())| LeaseId(lease)).collect())
    }

    /// What `lease` holds.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn held_by(&self, lease: &LeaseId) -> Result<Vec<Resource>, Error> {
        let rows = self.db().prefix(&HELD, &lease.0)?;
        Ok(rows.into_iter().map(|((_, resource), ())| resource).collect())
    }

    /// Drops what [`Store::lost`] names with all holds, and takes note of the boot.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn forget_lost(&self) -> Result<(), Error> {
        let lost = self.lost();
        self.change(|tx| {
            for resource in &lost {
                tx.drop_resource(resource)?;
            }
            tx.record_boot(self)
        })?;
        lock(&self.inner.lost).clear();
        Ok(())
    }

    /// Syncs the file system, so that all that is in the store now outlives a power loss. Takes as long as everybody's
    /// dirty data takes; happens by itself in quiet times.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Metadata`].
    pub fn cover(&self) -> Result<(), Error> {
        self.inner.work.cover()?;
        self.db().sync()
    }

    /// Waits until all data whose records were deleted before is gone from the disk.
    pub fn wait_reaped(&self) {
        let (sender, receiver) = mpsc::channel();
        self.inner.reaper.send(Garbage::Barrier(sender));
        if receiver.recv().is_err() {
            tracing::debug!("the reaper has ended: nothing is left to wait for");
        }
    }
}

fn next_generation(db: &Db) -> Result<u64, Error> {
    let generation = db.change(|tx| {
        let last = tx.get(&META, &"generation".to_owned())?.and_then(|g| g.parse().ok()).unwrap_or(0u64);
        tx.put(&META, &"generation".to_owned(), &(last + 1).to_string());
        Ok::<_, Error>(last + 1)
    })?;
    // Names made from it must be new for ever.
    db.sync()?;
    Ok(generation)
}

fn open_snapshotter(
    dir: PathBuf,
    db: &Db,
    generation: u64,
    reaper: mpsc::Sender<Garbage>,
    options: &Options,
) -> Result<Arc<dyn Snapshotter>, Error> {
    let kind = match options.snapshotter {
        Some(SnapshotterKind::Overlay) => {
            OverlaySnapshotter::probe(&dir)?;
            SnapshotterKind::Overlay
        }
        Some(SnapshotterKind::Native) => SnapshotterKind::Native,
        None => match OverlaySnapshotter::probe(&dir) {
            Ok(()) => SnapshotterKind::Overlay,
            Err(error) => {
                tracing::info!(%error, "overlay does not work here; snapshots are copies");
                SnapshotterKind::Native
            }
        },
    };
    // The folders of one kind mean nothing to the other.
    let key = "snapshotter".to_owned();
    match db.get(&META, &key)? {
        Some(used) if used != kind.name() => {
            return Err(Error::Snapshotter { path: dir, used, wanted: kind.name() });
        }
        Some(_) => {}
        None => db.change(|tx| {
            tx.put(&META, &key, &kind.name().to_owned());
            Ok::<_, Error>(())
        })?,
    }
    Ok(match kind {
        SnapshotterKind::Overlay => Arc::new(OverlaySnapshotter::open(dir, db.clone(), generation, reaper)?),
        SnapshotterKind::Native => Arc::new(NativeSnapshotter::open(dir, generation, reaper)?),
    })
}

/// A change of the store under way: a [`Tx`] that knows leases, blobs and snapshots.
pub struct StoreTx<'a, 't> {
    tx: &'a mut Tx<'t>,
    orphans: Vec<Resource>,
    uncovered: Vec<Resource>,
}

impl<'t> Deref for StoreTx<'_, 't> {
    type Target = Tx<'t>;

    fn deref(&self) -> &Tx<'t> {
        self.tx
    }
}

impl<'t> DerefMut for StoreTx<'_, 't> {
    fn deref_mut(&mut self) -> &mut Tx<'t> {
        self.tx
    }
}

impl StoreTx<'_, '_> {
    /// Makes a lease, or changes what is known of it.
    pub fn create_lease(&mut self, id: &LeaseId, info: &LeaseInfo) {
        self.tx.put(&LEASES, &id.0, &Json(info.clone()));
    }

    /// Lets `lease` hold `resource`.
    ///
    /// # Errors
    /// [`Error::NoBlob`], [`Error::NoSnapshot`] when it is not (any more) in the store; [`Error::NoLease`].
    pub fn hold(&mut self, lease: &LeaseId, resource: &Resource) -> Result<(), Error> {
        match resource {
            Resource::Blob(digest) if self.tx.get(&BLOBS, digest)?.is_none() => {
                return Err(Error::NoBlob(digest.clone()));
            }
            Resource::Snapshot(id) if self.tx.get(&SNAPSHOTS, &id.as_str().to_owned())?.is_none() => {
                return Err(Error::NoSnapshot(id.to_string()));
            }
            _ => {}
        }
        if self.tx.get(&LEASES, &lease.0)?.is_none() {
            return Err(Error::NoLease(lease.0.clone()));
        }
        self.tx.put(&HOLDS, &(resource.clone(), lease.0.clone()), &());
        self.tx.put(&HELD, &(lease.0.clone(), resource.clone()), &());
        Ok(())
    }

    /// Ends one hold of `lease`.
    pub fn unhold(&mut self, lease: &LeaseId, resource: &Resource) {
        self.tx.delete(&HOLDS, &(resource.clone(), lease.0.clone()));
        self.tx.delete(&HELD, &(lease.0.clone(), resource.clone()));
        self.orphans.push(resource.clone());
    }

    /// Ends a lease with all its holds. One that does not exist is fine.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn release(&mut self, lease: &LeaseId) -> Result<(), Error> {
        for ((_, resource), ()) in self.tx.prefix(&HELD, &lease.0)? {
            self.unhold(lease, &resource);
        }
        self.tx.delete(&LEASES, &lease.0);
        Ok(())
    }

    /// Gives a snapshot its record, held by `lease`. Its files must be complete, but for a mutable one that is kept
    /// between builds as it is.
    ///
    /// # Errors
    /// [`Error::NoLease`].
    pub fn add_snapshot(
        &mut self,
        id: &SnapshotId,
        info: &SnapshotInfo,
        lease: &LeaseId,
    ) -> Result<(), Error> {
        self.tx.put(&SNAPSHOTS, &id.as_str().to_owned(), &Json(info.clone()));
        let resource = Resource::Snapshot(id.clone());
        self.add_uncovered(&resource);
        self.hold(lease, &resource)
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotInfo>, Error> {
        Ok(self.tx.get(&SNAPSHOTS, &id.as_str().to_owned())?.map(|Json(info)| info))
    }

    /// Notes that a resource has bytes that are not known to be on disk: a mutable snapshot that is written to again.
    pub fn add_uncovered(&mut self, resource: &Resource) {
        self.tx.put(&UNCOVERED, resource, &());
        self.uncovered.push(resource.clone());
    }

    /// Notes that a mutable snapshot is written to again: its bytes are not known to be on disk, and its size is not known.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn reopen_snapshot(&mut self, id: &SnapshotId) -> Result<(), Error> {
        self.set_snapshot_size(id, None)?;
        self.add_uncovered(&Resource::Snapshot(id.clone()));
        Ok(())
    }

    /// Notes how many bytes a snapshot takes. One without a record stays without.
    pub(crate) fn set_snapshot_size(&mut self, id: &SnapshotId, size: Option<u64>) -> Result<(), Error> {
        match self.snapshot(id)? {
            Some(info) if info.size != size => {
                self.tx.put(&SNAPSHOTS, &id.as_str().to_owned(), &Json(SnapshotInfo { size, ..info }));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends all holds on a resource, and so the resource.
    ///
    /// # Errors
    /// [`Error::Metadata`].
    pub fn drop_resource(&mut self, resource: &Resource) -> Result<(), Error> {
        for ((_, lease), ()) in self.tx.prefix(&HOLDS, resource)? {
            self.unhold(&LeaseId(lease), resource);
        }
        self.orphans.push(resource.clone());
        Ok(())
    }

    fn record_boot(&mut self, store: &Store) -> Result<(), Error> {
        match &store.inner.boot {
            Some(boot) => self.tx.put(&META, &"boot".to_owned(), boot),
            None => self.tx.delete(&META, &"boot".to_owned()),
        }
        Ok(())
    }

    /// Deletes the records of what nobody holds any more; returns what these were.
    fn drop_orphans(&mut self) -> Result<Vec<Resource>, Error> {
        let mut orphans = std::mem::take(&mut self.orphans);
        orphans.sort();
        orphans.dedup();
        let mut gone = Vec::new();
        for resource in orphans {
            if !self.tx.prefix(&HOLDS, &resource)?.is_empty() {
                continue;
            }
            match &resource {
                Resource::Blob(digest) => self.tx.delete(&BLOBS, digest),
                Resource::Snapshot(id) => self.tx.delete(&SNAPSHOTS, &id.as_str().to_owned()),
            }
            self.tx.delete(&UNCOVERED, &resource);
            gone.push(resource);
        }
        Ok(gone)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
