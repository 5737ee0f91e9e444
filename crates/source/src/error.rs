//! What can go wrong with a source.

use kiln_oci::Digest;

/// An error of a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The op's identifier or attributes make no sense.
    #[error(transparent)]
    Identifier(#[from] kiln_llb::Error),
    /// There is no source for this scheme.
    #[error("{identifier}: sources of this kind are not supported yet")]
    Unsupported {
        /// The identifier.
        identifier: String,
    },
    /// An attribute asks for something that is not there.
    #[error("{identifier}: {feature} is not supported yet")]
    Feature {
        /// The identifier.
        identifier: String,
        /// What was asked for.
        feature: &'static str,
    },
    /// A web server could not be asked, or said no.
    #[error("{url}: {problem}")]
    Http {
        /// The URL, without credentials.
        url: String,
        /// What went wrong.
        problem: String,
    },
    /// The HTTP client could not be made.
    #[error(transparent)]
    Client(#[from] kiln_registry::Error),
    /// What came is not what was asked for.
    #[error("digest mismatch for {name}: {got} (expected: {expected})")]
    Mismatch {
        /// The URL or reference.
        name: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// A repository is not what it should be, or git failed.
    #[error("{0}")]
    Git(String),
    /// A file or folder of a new tree could not be made.
    #[error("{name}: {source}")]
    Tree {
        /// What the tree is of.
        name: String,
        /// The cause.
        source: kiln_fstree::Error,
    },
    /// The system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A registry could not be asked, or said no.
    #[error("failed to resolve source metadata for {reference}: {source}")]
    Registry {
        /// The image.
        reference: String,
        /// The cause.
        source: kiln_registry::Error,
    },
    /// A client could not be asked, or said no.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// The worker or its store failed.
    #[error(transparent)]
    Worker(#[from] kiln_worker::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] kiln_store::Error),
    /// A transfer of files failed.
    #[error("transferring {name}: {source}")]
    Transfer {
        /// The folder's name on the client.
        name: String,
        /// The cause.
        source: kiln_fstree::Error,
    },
    /// An image is not what its documents say.
    #[error("{reference}: {problem}")]
    Image {
        /// The image.
        reference: String,
        /// What is wrong.
        problem: String,
    },
    /// An index has nothing for the platform.
    #[error("failed to resolve source metadata for {reference}: no match for platform in manifest: {wanted} is not among {}: not found", .found.join(", "))]
    NoPlatform {
        /// The image.
        reference: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The image's digest is not the one that was asked for.
    #[error("image digest {got} for {reference} does not match expected checksum {expected}")]
    Checksum {
        /// The image.
        reference: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// A task was lost.
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
    /// A document could not be encoded.
    #[error("encoding a cache key: {0}")]
    Json(#[from] serde_json::Error),
    /// The same work failed for another build.
    #[error(transparent)]
    Shared(std::sync::Arc<Error>),
}

impl Error {
    /// For `map_err` on input and output.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether the source does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Registry { source, .. } => source.is_not_found(),
            Self::NoPlatform { .. } => true,
            Self::Shared(error) => error.is_not_found(),
            _ => false,
        }
    }
}
