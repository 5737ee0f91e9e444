//! What can go wrong between a tar stream and a file tree.

use std::io;

use crate::tar::display_path;

/// Why a layer could not be read, unpacked, compared or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream that a layer is read from failed or ended early.
    #[error("read the layer stream: {0}")]
    Read(#[source] io::Error),
    /// The place that a layer is written to refused it.
    #[error("write the layer stream: {0}")]
    Write(#[source] io::Error),
    /// The bytes are no tar archive, or a broken one.
    #[error("invalid tar archive: {0}")]
    Archive(String),
    /// One entry of an archive cannot be unpacked.
    #[error("unpack {path}: {action}: {source}")]
    Unpack {
        /// Name of the entry as the archive spells it, escaped for display.
        path: String,
        /// The step that failed, such as `create file` or `link to etc/passwd`.
        action: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// One file of a tree cannot be read for a layer.
    #[error("read {path}: {action}: {source}")]
    Tree {
        /// Path below the root of the tree, escaped for display.
        path: String,
        /// The step that failed.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The archive asks for something that this program does not do.
    #[error("{path}: {feature} is not supported")]
    UnsupportedEntry {
        /// Name of the entry, escaped for display.
        path: String,
        /// The missing feature.
        feature: &'static str,
    },
    /// A setting or platform that this program does not serve.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// Input exceeds a limit that protects the machine.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What was too large.
        what: String,
        /// The largest value allowed.
        limit: u64,
    },
    /// A compression setting that does not exist.
    #[error("invalid compression setting: {0}")]
    Compression(String),
}

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    #[cfg_attr(not(unix), expect(dead_code, reason = "trees are read on unix only so far"))]
    pub(crate) fn unpack(path: &[u8], action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::Unpack { path: display_path(path), action: action.into(), source: source.into() }
    }

    /// The same, of the entry for whose sake it was done: a folder on the way is not named by the archive.
    #[cfg_attr(not(unix), expect(dead_code, reason = "trees are read on unix only so far"))]
    pub(crate) fn of_entry(self, entry: &[u8]) -> Self {
        match self {
            Error::Unpack { path, action, source } => {
                Error::Unpack { path: display_path(entry), action: format!("{action} {path}"), source }
            }
            other => other,
        }
    }

    #[cfg_attr(not(unix), expect(dead_code, reason = "trees are read on unix only so far"))]
    pub(crate) fn tree(path: &[u8], action: &'static str, source: impl Into<io::Error>) -> Self {
        Error::Tree { path: display_path(path), action, source: source.into() }
    }
}

/// What went wrong between two streams: an error of this crate that passed through [`io::Error`], or the sink's.
pub(crate) fn stream_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::Write(error),
    }
}

/// An error of reading content: the archive's own that passed through [`io::Error`], or the stream's.
pub(crate) fn read_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::Read(error),
    }
}
