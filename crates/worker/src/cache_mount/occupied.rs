//! Cache mounts that nobody may have for a while.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The keys of those that are being filled or packed.
#[derive(Debug, Default)]
pub(super) struct Occupied(Arc<Mutex<HashSet<String>>>);

/// One of them. Dropped, it is free again, and those who wait are told.
#[derive(Debug)]
pub(super) struct Occupying {
    of: Arc<Mutex<HashSet<String>>>,
    index: String,
    freed: Arc<Notify>,
}

impl Occupied {
    pub(super) fn has(&self, index: &str) -> bool {
        lock(&self.0).contains(index)
    }

    /// Takes one that is free, as the caller has made sure.
    pub(super) fn enter(&self, index: &str, freed: &Arc<Notify>) -> Occupying {
        lock(&self.0).insert(index.to_owned());
        Occupying { of: Arc::clone(&self.0), index: index.to_owned(), freed: Arc::clone(freed) }
    }
}

impl Drop for Occupying {
    fn drop(&mut self) {
        lock(&self.of).remove(&self.index);
        self.freed.notify_waiters();
    }
}

fn lock(set: &Mutex<HashSet<String>>) -> MutexGuard<'_, HashSet<String>> {
    // Nothing in between can panic.
    set.lock().unwrap_or_else(PoisonError::into_inner)
}
