//! Stopping work on a thread, which nothing can drop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Says that work on another thread is to stop. Clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// Set by the engine.
    cancelled: Arc<AtomicBool>,
    /// Set by ourselves.
    own: Arc<AtomicBool>,
}

impl Stop {
    /// Set when `cancelled` is.
    pub(crate) fn new(cancelled: Arc<AtomicBool>) -> Self {
        Self { cancelled, own: Arc::default() }
    }

    pub(crate) fn set(&self) {
        self.own.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.own.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_side_stops() {
        let cancelled = Arc::new(AtomicBool::new(false));
        let (stop, other) = (Stop::new(cancelled.clone()), Stop::new(cancelled.clone()));
        stop.clone().set();
        assert!(stop.is_set() && !other.is_set());
        cancelled.store(true, Ordering::Release);
        assert!(other.is_set());
    }
}
