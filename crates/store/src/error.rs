//! What can go wrong in the store. Every variant names the path, digest or id that it is about.

use std::io;
use std::path::{Path, PathBuf};

use kiln_oci::Digest;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call on a file of the store failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive ("create", "rename").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the root's lock.
    #[error("the state folder {} is in use by another kiln process; stop it or choose another --root", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The metadata file cannot be read or written.
    #[error("metadata store {}: {message}", path.display())]
    Metadata {
        /// The metadata file.
        path: PathBuf,
        /// What the database said.
        message: String,
    },
    /// A record's bytes are not what this version writes.
    #[error("record {key} of table {table} cannot be read")]
    BadRecord {
        /// The table's name.
        table: &'static str,
        /// The key, printable bytes as they are and others escaped.
        key: String,
    },
    /// There is no such blob.
    #[error("blob {0} is not in the content store")]
    NoBlob(Digest),
    /// There is no such snapshot.
    #[error("snapshot {0} is not in the store")]
    NoSnapshot(String),
    /// There is no such lease.
    #[error("lease {0} does not exist")]
    NoLease(String),
    /// A blob's bytes have another digest than expected.
    #[error("content has digest {actual}, expected {expected}")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// A blob's bytes have another length than expected.
    #[error("content of {digest} has {actual} bytes, expected {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// The size that was asked for, in bytes.
        expected: u64,
        /// The size that came, in bytes.
        actual: u64,
    },
    /// Two writers want the same ingest.
    #[error("content ingest {0:?} is already being written")]
    IngestBusy(String),
    /// The digest algorithm cannot be verified here.
    #[error("digest algorithm of {0} is not supported")]
    Algorithm(Digest),
    /// A mount could not be made.
    #[error("cannot mount {what}: {source}{}", if hint.is_empty() { String::new() } else { format!(" ({hint})") })]
    Mount {
        /// The mount in words.
        what: String,
        /// What the system said.
        source: io::Error,
        /// What the kernel logged on the mount's context, or what to do.
        hint: String,
    },
    /// The store was made with another snapshotter.
    #[error("the snapshots in {} were made by the {used} snapshotter, not {wanted}; choose {used} or another --root", path.display())]
    Snapshotter {
        /// The snapshots' folder.
        path: PathBuf,
        /// The snapshotter that made them.
        used: String,
        /// The snapshotter that was asked for.
        wanted: &'static str,
    },
    /// This host cannot do what was asked.
    #[error("{0} is not supported on this host")]
    Unsupported(&'static str),
    /// The tree could not be opened.
    #[error("cannot open the tree at {}: {message}", path.display())]
    Tree {
        /// The folder.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Wraps an I/O error with what was done to which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether the error says that there is no such blob, snapshot or lease.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoBlob(_) | Self::NoSnapshot(_) | Self::NoLease(_))
    }

    /// Whether mounting is not permitted to this process, as in an unprivileged container.
    pub fn is_mount_denied(&self) -> bool {
        match self {
            Self::Mount { source, .. } => {
                matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
            }
            Self::Unsupported(_) => true,
            _ => false,
        }
    }
}
