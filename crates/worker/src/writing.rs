//! Snapshots that somebody may write to although they have a record: those of kept refs, while these have a holder.
//!
//! Known apart from the refs, as a look at those would keep them in use.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_store::SnapshotId;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writings(Arc<Mutex<HashSet<SnapshotId>>>);

/// One of them, while this lives.
#[derive(Debug)]
pub(crate) struct Writing {
    of: Writings,
    snapshot: SnapshotId,
}

impl Writings {
    /// Enters a snapshot, which has one holder.
    pub(crate) fn enter(&self, snapshot: &SnapshotId) -> Writing {
        self.lock().insert(snapshot.clone());
        Writing { of: self.clone(), snapshot: snapshot.clone() }
    }

    pub(crate) fn has(&self, snapshot: &SnapshotId) -> bool {
        self.lock().contains(snapshot)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SnapshotId>> {
        // Nothing in between can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.of.lock().remove(&self.snapshot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_written_to_while_it_has_a_holder() {
        let (all, id) = (Writings::default(), SnapshotId::parse("1-2").unwrap());
        let writing = all.enter(&id);
        assert!(all.has(&id) && !all.has(&SnapshotId::parse("1-3").unwrap()));
        drop(writing);
        assert!(!all.has(&id));
    }
}
