//! How much the store takes, measured often: what cannot change any more is measured once.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::snapshot::SNAPSHOTS;
use crate::{Error, Json, SnapshotId, Store};

/// Blobs that are read from the records at a time.
const PAGE: usize = 1000;

/// Remembers sizes from one measurement to the next.
#[derive(Debug, Default)]
pub struct Meter {
    settled: Mutex<Settled>,
    /// One measures at a time: who comes meanwhile finds everything settled.
    measuring: Mutex<()>,
}

#[derive(Debug, Default)]
struct Settled {
    sizes: HashMap<SnapshotId, u64>,
    /// How often a size was forgotten: what was measured across that may be wrong.
    forgotten: u64,
}

/// What the store takes on disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Blobs.
    pub blobs: u64,
    /// Blobs that are being written.
    pub incoming: u64,
    /// Snapshots, those too that are being written or removed.
    pub snapshots: u64,
    /// Of each snapshot that may be written to.
    pub changing: HashMap<SnapshotId, u64>,
}

impl Sizes {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.blobs + self.incoming + self.snapshots
    }
}

impl Meter {
    /// Forgets the size of a snapshot that is about to be written to again. The change that says so to the store
    /// ([`crate::StoreTx::reopen_snapshot`]) comes after.
    pub fn forget(&self, id: &SnapshotId) {
        let mut settled = lock(&self.settled);
        settled.sizes.remove(id);
        settled.forgotten += 1;
    }

    fn known(&self, id: &SnapshotId) -> Option<u64> {
        lock(&self.settled).sizes.get(id).copied()
    }

    /// Remembers a size, unless any was forgotten since there were `forgotten`; whether it does.
    fn settle(&self, id: &SnapshotId, size: u64, forgotten: u64) -> bool {
        let mut settled = lock(&self.settled);
        let same = settled.forgotten == forgotten;
        if same {
            settled.sizes.insert(id.clone(), size);
        }
        same
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Measures the store. `writable` tells of a snapshot with a record whether somebody may write to it all the same; who begins
    /// to has told before there was a record, or else tells [`Meter::forget`] then. Blocks; takes a walk over what is being
    /// written, and a look at the names of everything else.
    ///
    /// # Errors
    /// [`Error::Io`] when the folders cannot be listed.
    pub fn measure(&self, meter: &Meter, writable: impl Fn(&SnapshotId) -> bool) -> Result<Sizes, Error> {
        let _one = lock(&meter.measuring);
        let mut sizes =
            Sizes { blobs: self.blobs_size()?, incoming: self.incoming_size()?, ..Sizes::default() };
        let dir = self.snapshots().dir();
        let (mut seen, mut learnt) = (HashSet::new(), Vec::new());
        for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let entry = entry.map_err(Error::io("list", dir))?;
            let Some(id) = entry.file_name().to_str().and_then(SnapshotId::parse) else { continue };
            let size = match meter.known(&id).filter(|_| !writable(&id)) {
                Some(size) => size,
                None => {
                    let forgotten = lock(&meter.settled).forgotten;
                    let record = self.db().get(&SNAPSHOTS, &id.as_str().to_owned())?;
                    // In this order: one that is made to be kept is told to be written to before it has a record.
                    let record = record.filter(|_| !writable(&id));
                    let known = record.as_ref().and_then(|Json(info)| info.size);
                    // One that goes away meanwhile takes nothing.
                    let measure = || self.snapshots().usage(&id).map_or(0, |usage| usage.bytes);
                    let size = known.unwrap_or_else(measure);
                    if record.is_none() {
                        sizes.changing.insert(id.clone(), size);
                    } else if meter.settle(&id, size, forgotten) && known.is_none() {
                        learnt.push((id.clone(), size));
                    }
                    size
                }
            };
            sizes.snapshots += size;
            seen.insert(id);
        }
        lock(&meter.settled).sizes.retain(|id, _| seen.contains(id) && !sizes.changing.contains_key(id));
        if let Err(error) = self.keep_sizes(meter, &learnt) {
            tracing::debug!(%error, "sizes of snapshots are measured again after the next start");
        }
        Ok(sizes)
    }

    /// Bytes that a snapshot takes on disk, which nobody writes to: what was measured before, or else measured now.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::Io`], [`Error::Metadata`].
    pub fn snapshot_size(&self, id: &SnapshotId) -> Result<u64, Error> {
        match self.db().get(&SNAPSHOTS, &id.as_str().to_owned())? {
            Some(Json(info)) if info.size.is_some() => Ok(info.size.unwrap_or_default()),
            _ => Ok(self.snapshots().usage(id)?.bytes),
        }
    }

    /// Writes sizes into the records of their snapshots, so that the first measurement after a start need not walk.
    fn keep_sizes(&self, meter: &Meter, learnt: &[(SnapshotId, u64)]) -> Result<(), Error> {
        if learnt.is_empty() {
            return Ok(());
        }
        self.change(|tx| {
            for (id, size) in learnt {
                // Who writes to it again has it forgotten first, and then changes the record.
                if meter.known(id) == Some(*size) {
                    tx.set_snapshot_size(id, Some(*size))?;
                }
            }
            Ok(())
        })
    }

    fn blobs_size(&self) -> Result<u64, Error> {
        let (mut total, mut after) = (0, None);
        loop {
            let page = self.content().list(after.as_ref(), PAGE)?;
            total += page.iter().map(|blob| blob.size).sum::<u64>();
            match page.into_iter().last() {
                Some(last) => after = Some(last.digest),
                None => return Ok(total),
            }
        }
    }

    fn incoming_size(&self) -> Result<u64, Error> {
        let dir = self.content().ingest_dir();
        let mut total = 0;
        for entry in std::fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            // One that is done by now is no more there.
            total += entry.ok().and_then(|entry| entry.metadata().ok()).map_or(0, |meta| meta.len());
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::{Options, SnapshotInfo, SnapshotterKind, Stack};

    #[test]
    fn everything_counts_and_what_is_settled_is_measured_once() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { snapshotter: Some(SnapshotterKind::Native), boot_id: Some("b".into()) };
        let store = Store::open(dir.path(), &options).unwrap();
        let (meter, none) = (Meter::default(), |_: &SnapshotId| false);
        let before = store.measure(&meter, none).unwrap();
        let lease = store.lease().unwrap();
        let mut ingest = store.content().ingest().unwrap();
        ingest.write_all(&[1; 1000]).unwrap();
        assert_eq!(store.measure(&meter, none).unwrap().incoming, 1000);
        ingest.commit(&store, lease.id(), None, None).unwrap();
        let sizes = store.measure(&meter, none).unwrap();
        assert_eq!((sizes.incoming, sizes.blobs - before.blobs), (0, 1000));

        let active = store.snapshots().prepare(&Stack::default()).unwrap();
        let path = store.snapshots().path(active.id());
        std::fs::write(path.join("a"), vec![1; 100_000]).unwrap();
        let sizes = store.measure(&meter, none).unwrap();
        assert!(sizes.changing[active.id()] >= 100_000 && sizes.total() >= 101_000);
        store.change(|tx| tx.add_snapshot(active.id(), &SnapshotInfo::default(), lease.id())).unwrap();
        let id = active.keep();
        let settled = store.measure(&meter, none).unwrap();
        assert!(settled.changing.is_empty());
        // Nobody may write to it; who does is not seen, until it is told.
        std::fs::write(path.join("b"), vec![1; 100_000]).unwrap();
        assert_eq!(store.measure(&meter, none).unwrap().snapshots, settled.snapshots);
        let written = store.measure(&meter, |one| *one == id).unwrap();
        assert!(written.changing[&id] >= 200_000);
        store.change(|tx| tx.reopen_snapshot(&id)).unwrap();
        let again = store.measure(&meter, none).unwrap();
        assert_eq!((again.snapshots, again.changing.len()), (written.snapshots, 0));
        std::fs::write(path.join("c"), vec![1; 100_000]).unwrap();
        // Another start, or another who measures, need not walk.
        assert_eq!(store.measure(&Meter::default(), none).unwrap().snapshots, again.snapshots);
        assert_eq!(store.snapshot_size(&id).unwrap(), again.snapshots);
        meter.forget(&id);
        store.change(|tx| tx.reopen_snapshot(&id)).unwrap();
        assert!(store.measure(&meter, none).unwrap().snapshots >= again.snapshots + 100_000);
        assert!(store.snapshot_size(&id).unwrap() >= again.snapshots + 100_000);
    }

    #[test]
    fn what_is_written_to_while_it_is_measured_is_not_settled() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { snapshotter: Some(SnapshotterKind::Native), boot_id: Some("b".into()) };
        let store = Store::open(dir.path(), &options).unwrap();
        let (meter, lease) = (Meter::default(), store.lease().unwrap());
        let active = store.snapshots().prepare(&Stack::default()).unwrap();
        store.change(|tx| tx.add_snapshot(active.id(), &SnapshotInfo::default(), lease.id())).unwrap();
        let id = active.keep();
        let path = store.snapshots().path(&id);
        // Taken up and given back between the question and the walk.
        let before = store.measure(&meter, |_| {
            meter.forget(&id);
            store.change(|tx| tx.reopen_snapshot(&id)).unwrap();
            false
        });
        std::fs::write(path.join("a"), vec![1; 100_000]).unwrap();
        let after = store.measure(&meter, |_| false).unwrap();
        assert!(after.snapshots >= before.unwrap().snapshots + 100_000);
    }
}
