//! What can go wrong with refs.

use std::io::ErrorKind;

use kiln_oci::Digest;

use crate::{FilterError, ProviderError, RefId};

/// An error of the worker. Cloneable where several wait for one thing is not needed: each tries for itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ref was pruned, or never was.
    #[error("ref {0} is not in the cache")]
    Gone(RefId),
    /// The ref is written by somebody else.
    #[error("ref {0} is in use")]
    Busy(RefId),
    /// The ref is of the other kind.
    #[error("ref {0} is {1}")]
    Kind(RefId, &'static str),
    /// A lazy layer is needed, and nobody offers its bytes. For a cached result this is a miss, not a failure.
    #[error("layer {0} is not here and nothing offers it")]
    NoProvider(Digest),
    /// Fetching a layer failed.
    #[error("cannot fetch layer {digest}: {source}")]
    Fetch {
        /// The blob.
        digest: Digest,
        /// What the provider said.
        source: ProviderError,
    },
    /// Unpacking or making a layer failed.
    #[error("layer {what}: {source}")]
    Layer {
        /// The layer's digest or the ref.
        what: String,
        /// What went wrong.
        source: kiln_layer::Error,
    },
    /// A layer's tar stream has another digest than its image says.
    #[error("layer {blob} unpacks to diff id {actual}, its image says {expected}")]
    DiffId {
        /// The blob.
        blob: Digest,
        /// The image's diff id.
        expected: Digest,
        /// The stream's digest.
        actual: Digest,
    },
    /// A ref has no addressable parent: a layer by blob can only stand on layers by blob.
    #[error("ref {0} has no layer digest to build upon")]
    NotAddressable(RefId),
    /// A merge is of too much.
    #[error("a merge of {count} layers is too large: at most {limit} can be laid over each other")]
    Layers {
        /// How many layers it would have.
        count: usize,
        /// The most that it may have.
        limit: usize,
    },
    /// The store is at its ceiling, and nothing is left that nobody uses.
    #[error(
        "the builder's storage is full: {} of at most {} (maxUsedSpace) are in use{}, and nothing is left to prune: raise maxUsedSpace in buildkitd.toml, run fewer builds at once, or make the build need less (`du` lists what there is)",
        Bytes(*.used),
        Bytes(*.limit),
        if *.wanted > 0 { format!(", {} more are needed", Bytes(*.wanted)) } else { String::new() },
    )]
    Full {
        /// The most bytes that the store may take.
        limit: u64,
        /// Bytes that it takes.
        used: u64,
        /// Bytes that were to be added, as far as known.
        wanted: u64,
    },
    /// A filter of disk usage or prune.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The store.
    #[error(transparent)]
    Store(#[from] kiln_store::Error),
    /// Files of a snapshot.
    #[error(transparent)]
    Tree(#[from] kiln_fstree::Error),
    /// The system gave no random bytes.
    #[error("no random numbers: {0}")]
    Random(String),
    /// A worker thread panicked, which is that task's error.
    #[error("internal error: a task of the worker ended early: {0}")]
    Task(String),
    /// This build of Kiln cannot do it.
    #[error("{0} is not supported")]
    Unsupported(String),
}

/// An amount as people read it, in decimal units.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mut amount, mut unit) = (self.0 as f64, "B");
        for next in ["kB", "MB", "GB", "TB"] {
            if amount < 1000.0 {
                break;
            }
            (amount, unit) = (amount / 1000.0, next);
        }
        let digits = if unit == "B" { 0 } else { 2 };
        write!(f, "{amount:.digits$} {unit}")
    }
}

impl Error {
    /// Whether a cached result with this error is a miss: the ref or a layer of it cannot be had any more.
    pub fn is_miss(&self) -> bool {
        match self {
            Self::Gone(_) | Self::NoProvider(_) => true,
            Self::Store(error) => error.is_not_found(),
            _ => false,
        }
    }

    /// Whether a layer is lost: gone, damaged, or not to be had from where it should be. What has no room here is not lost.
    #[must_use]
    pub fn is_lost_layer(&self) -> bool {
        let lost = match self {
            Self::NoProvider(_) | Self::Fetch { .. } | Self::Layer { .. } | Self::DiffId { .. } => true,
            // The records as a whole are no layer's.
            Self::Store(error) => !matches!(
                error,
                kiln_store::Error::Metadata { .. }
                    | kiln_store::Error::Closed
                    | kiln_store::Error::Locked { .. }
            ),
            _ => false,
        };
        lost && !is_disk_full(self)
    }

    pub(crate) fn layer(what: impl std::fmt::Display) -> impl FnOnce(kiln_layer::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Layer { what, source }
    }
}

/// Whether what is at the bottom of an error is a disk, or a share of one, that is full.
fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        next = match error.downcast_ref::<std::io::Error>() {
            Some(io) if matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                return true;
            }
            // What an I/O error carries is not its source.
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    false
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Task(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_loses_no_layer() {
        let fetch = |source: ProviderError| Error::Fetch { digest: Digest::sha256("x"), source };
        let layer = |source| Error::Layer { what: "x".into(), source };
        let io = |kind: ErrorKind| std::io::Error::from(kind);
        let store = |source| kiln_store::Error::Io { action: "write", path: "/x".into(), source };
        let wrapped = |kind| std::io::Error::other(kiln_layer::Error::Write(io(kind)));
        for (kind, lost) in [
            (ErrorKind::StorageFull, false),
            (ErrorKind::QuotaExceeded, false),
            (ErrorKind::NotFound, true),
            (ErrorKind::InvalidData, true),
        ] {
            for error in [
                fetch(Box::new(io(kind))),
                fetch(Box::new(store(io(kind)))),
                layer(kiln_layer::Error::Read(wrapped(kind))),
                layer(kiln_layer::Error::Unpack {
                    path: "p".into(),
                    action: "create".into(),
                    source: io(kind),
                }),
                Error::Store(store(io(kind))),
            ] {
                assert_eq!(error.is_lost_layer(), lost, "{error:?}");
            }
        }
        assert!(Error::NoProvider(Digest::sha256("x")).is_lost_layer());
        assert!(layer(kiln_layer::Error::Archive("no".into())).is_lost_layer());
        let metadata = kiln_store::Error::Metadata { path: "/x".into(), message: "no space left".into() };
        for other in [Error::Full { limit: 1, used: 1, wanted: 1 }, Error::Store(metadata)] {
            assert!(!other.is_lost_layer(), "{other:?}");
        }
    }

    #[test]
    fn a_full_store_says_what_is_full_and_what_to_do() {
        let error = Error::Full { limit: 50_000_000_000, used: 50_123_000_000, wanted: 0 }.to_string();
        assert!(error.contains("50.12 GB of at most 50.00 GB (maxUsedSpace) are in use, and"), "{error}");
        assert!(error.contains("raise maxUsedSpace"), "{error}");
        let error = Error::Full { limit: 999, used: 1, wanted: 123_456_789 }.to_string();
        assert!(
            error.contains("1 B of at most 999 B") && error.contains(", 123.46 MB more are needed"),
            "{error}"
        );
    }
}
