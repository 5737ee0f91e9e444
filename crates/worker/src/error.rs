//! What can go wrong with refs.

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

impl Error {
    /// Whether a cached result with this error is a miss: the ref or a layer of it cannot be had any more.
    pub fn is_miss(&self) -> bool {
        match self {
            Self::Gone(_) | Self::NoProvider(_) => true,
            Self::Store(error) => error.is_not_found(),
            _ => false,
        }
    }

    pub(crate) fn layer(what: impl std::fmt::Display) -> impl FnOnce(kiln_layer::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Layer { what, source }
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Task(error.to_string())
    }
}
