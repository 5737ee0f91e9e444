//! What can go wrong between a result and its output.

use kiln_oci::Digest;

/// Any error of the worker that holds the result.
pub type RefError = Box<dyn std::error::Error + Send + Sync>;

/// Why a result could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client asked for an exporter that does not exist.
    #[error("exporter {0:?} is not known: want image, oci, docker, tar or local")]
    UnknownExporter(String),
    /// An exporter has no option of this name.
    #[error("exporter {exporter} has no option {option:?}")]
    UnknownOption {
        /// The exporter's type.
        exporter: &'static str,
        /// The option.
        option: String,
    },
    /// An option's value makes no sense.
    #[error("invalid value {value:?} of exporter option {option}: {want}")]
    OptionValue {
        /// The option.
        option: String,
        /// Its value.
        value: String,
        /// What would do.
        want: String,
    },
    /// Options, or options and result, that do not go together.
    #[error("{0}")]
    Conflict(String),
    /// What the frontend returned is no result that can be exported.
    #[error("the build's result cannot be exported: {0}")]
    Result(String),
    /// Not done by this program.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// The worker could not give layers or files of the result.
    #[error("{action}: {source}")]
    Ref {
        /// What was asked for.
        action: &'static str,
        /// The worker's error.
        #[source]
        source: RefError,
    },
    /// A layer could not be read or written.
    #[error(transparent)]
    Layer(#[from] kiln_layer::Error),
    /// The content store failed.
    #[error(transparent)]
    Store(#[from] kiln_store::Error),
    /// The client failed.
    #[error("send to the client: {0}")]
    Client(#[from] kiln_session::Error),
    /// A tree could not be sent or read.
    #[error(transparent)]
    Tree(#[from] kiln_fstree::Error),
    /// A registry refused.
    #[error("push {name}: {source}")]
    Push {
        /// The image's name.
        name: String,
        /// The registry's error.
        #[source]
        source: kiln_registry::Error,
    },
    /// Reading or writing failed.
    #[error("{action}: {source}")]
    Io {
        /// The step.
        action: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A blob in the content store is not what its descriptor says.
    #[error("blob {digest}: {problem}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        problem: String,
    },
    /// JSON that a frontend made, or that is too large.
    #[error("{what}: {source}")]
    Json {
        /// What was decoded.
        what: String,
        /// Where it is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether a layer of the result cannot be had, or is not what it should be.
    pub fn is_lost_layer(&self) -> bool {
        let Self::Ref { source, .. } = self else { return false };
        source.downcast_ref().is_some_and(kiln_worker::Error::is_lost_layer)
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Error::Io { action, source }
    }

    pub(crate) fn json(what: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.into();
        move |source| Error::Json { what, source }
    }

    pub(crate) fn of_ref(action: &'static str) -> impl FnOnce(RefError) -> Self {
        move |source| Error::Ref { action, source }
    }
}

/// Runs blocking work on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io { action: "run a thread".into(), source: std::io::Error::other(error) }),
    }
}
