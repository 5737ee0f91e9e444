//! The socket of whoever holds a state folder: another process over the same folder becomes its client.

use std::path::{Path, PathBuf};

use kiln_daemon::Listener;

/// Where the holder of `root` listens.
pub(crate) fn socket_of(root: &Path) -> PathBuf {
    root.join("kiln").join("kiln.sock")
}

/// The socket while it is listened on. Dropped, it is removed.
pub(crate) struct Socket(PathBuf);

impl Socket {
    /// Listens there. The caller holds the folder. Where it cannot be done, others cannot build at the same time.
    pub(crate) async fn listen(root: &Path) -> (Self, Vec<Listener>) {
        let path = socket_of(root);
        // A socket without a holder of the folder is left from a process that was killed.
        drop(std::fs::remove_file(&path));
        let listeners = if cfg!(unix) {
            Listener::open(&format!("unix://{}", path.display()), None, (None, None)).await
        } else {
            Ok(Vec::new())
        };
        let listeners = listeners.unwrap_or_else(|error| {
            tracing::warn!(%error, "other processes over the same state folder cannot join this one");
            Vec::new()
        });
        (Self(path), listeners)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Nobody can reach us by it any more, whether or not it stays.
        drop(std::fs::remove_file(&self.0));
    }
}
