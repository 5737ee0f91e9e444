//! How much the store takes, measured often: what cannot change any more is measured once.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::snapshot::SNAPSHOTS;
use crate::{Error, SnapshotId, Store};

/// Blobs that are read from the records at a time.
const PAGE: usize = 1000;

/// Remembers sizes from one measurement to the next.
#[derive(Debug, Default)]
pub struct Meter {
    settled: Mutex<HashMap<SnapshotId, u64>>,
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
    /// Forgets the size of a snapshot that is about to be written to again.
    pub fn forget(&self, id: &SnapshotId) {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Store {
    /// Measures the store. `writable` are snapshots with a record that somebody may write to all the same. Blocks; takes a walk
    /// over what is being written, and a look at the names of everything else.
    ///
    /// # Errors
    /// [`Error::Io`] when the folders cannot be listed.
    pub fn measure(&self, meter: &Meter, writable: &HashSet<SnapshotId>) -> Result<Sizes, Error> {
        let mut sizes =
            Sizes { blobs: self.blobs_size()?, incoming: self.incoming_size()?, ..Sizes::default() };
        let dir = self.snapshots().dir();
        let mut known = std::mem::take(&mut *meter.settled.lock().unwrap_or_else(PoisonError::into_inner));
        let mut settled = HashMap::with_capacity(known.len());
        for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let entry = entry.map_err(Error::io("list", dir))?;
            let Some(id) = entry.file_name().to_str().and_then(SnapshotId::parse) else { continue };
            let writable = writable.contains(&id);
            let size = match known.remove(&id).filter(|_| !writable) {
                Some(size) => {
                    settled.insert(id, size);
                    size
                }
                None => {
                    let recorded = self.db().get(&SNAPSHOTS, &id.as_str().to_owned())?.is_some();
                    // One that goes away meanwhile takes nothing.
                    let size = self.snapshots().usage(&id).map_or(0, |usage| usage.bytes);
                    let kept = if recorded && !writable { &mut settled } else { &mut sizes.changing };
                    kept.insert(id, size);
                    size
                }
            };
            sizes.snapshots += size;
        }
        *meter.settled.lock().unwrap_or_else(PoisonError::into_inner) = settled;
        Ok(sizes)
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
        let (meter, none) = (Meter::default(), HashSet::new());
        let before = store.measure(&meter, &none).unwrap();
        let lease = store.lease().unwrap();
        let mut ingest = store.content().ingest().unwrap();
        ingest.write_all(&[1; 1000]).unwrap();
        assert_eq!(store.measure(&meter, &none).unwrap().incoming, 1000);
        ingest.commit(&store, lease.id(), None, None).unwrap();
        let sizes = store.measure(&meter, &none).unwrap();
        assert_eq!((sizes.incoming, sizes.blobs - before.blobs), (0, 1000));

        let active = store.snapshots().prepare(&Stack::default()).unwrap();
        let path = store.snapshots().path(active.id());
        std::fs::write(path.join("a"), vec![1; 100_000]).unwrap();
        let sizes = store.measure(&meter, &none).unwrap();
        assert!(sizes.changing[active.id()] >= 100_000 && sizes.total() >= 101_000);
        store.change(|tx| tx.add_snapshot(active.id(), &SnapshotInfo::default(), lease.id())).unwrap();
        let id = active.keep();
        let settled = store.measure(&meter, &none).unwrap();
        assert!(settled.changing.is_empty());
        // Nobody may write to it; who does is not seen, until it is told.
        std::fs::write(path.join("b"), vec![1; 100_000]).unwrap();
        assert_eq!(store.measure(&meter, &none).unwrap().snapshots, settled.snapshots);
        let written = store.measure(&meter, &[id.clone()].into()).unwrap();
        assert!(written.changing[&id] >= 200_000);
        let again = store.measure(&meter, &none).unwrap();
        assert_eq!((again.snapshots, again.changing.len()), (written.snapshots, 0));
        std::fs::write(path.join("c"), vec![1; 100_000]).unwrap();
        meter.forget(&id);
        assert!(store.measure(&meter, &none).unwrap().snapshots >= again.snapshots + 100_000);
    }
}
