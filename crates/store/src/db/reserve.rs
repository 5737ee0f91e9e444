//! Room on the disk that is kept for the moment when there is none.

use std::path::{Path, PathBuf};

/// Enough for many rounds of deletions.
const BYTES: usize = 1 << 20;

fn file(database: &Path) -> PathBuf {
    database.with_extension("reserve")
}

/// Takes the room, if it is not taken and can be.
pub(super) fn keep(database: &Path) {
    let path = file(database);
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == BYTES as u64) {
        return;
    }
    if let Err(error) = std::fs::write(&path, vec![0; BYTES]) {
        tracing::debug!(path = %path.display(), %error, "no room to keep in reserve");
        give_up(database);
    }
}

/// Gives the room up.
pub(super) fn give_up(database: &Path) {
    let path = file(database);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot give up the reserved room");
    }
}
