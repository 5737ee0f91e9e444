//! How many threads are worth having.

use std::sync::OnceLock;

/// Cores that this process may use, at least 1. Asked for once: on Linux an answer takes reading several files.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}
