//! The lock of a state folder: one process writes, all others become its clients.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;

/// How long a lock may outlive its holder: a child that the holder had just forked has it too, until it executes its program.
pub(crate) const AFTERGLOW: Duration = Duration::from_millis(500);
/// Between two tries.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// Holds `<root>/kiln/lock` until it is dropped or the process ends.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Takes the lock of the folder `dir` (`<root>/kiln`), making the folder when it does not exist. Waits for a moment for
    /// one that is held.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process holds it; [`Error::Io`] when the file cannot be made.
    pub fn acquire(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if start.elapsed() < AFTERGLOW => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
                Err(TryLockError::Error(source)) => return Err(Error::Io { action: "lock", path, source }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let held = RootLock::acquire(dir.path()).unwrap();
        assert!(matches!(RootLock::acquire(dir.path()), Err(Error::Locked { .. })));
        drop(held);
        RootLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_that_a_child_still_has_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let held = RootLock::acquire(dir.path()).unwrap();
        // As after a fork: the same open file, once more.
        let inherited = held._file.try_clone().unwrap();
        drop(held);
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(inherited);
        });
        RootLock::acquire(dir.path()).unwrap();
        child.join().unwrap();
    }
}
