//! What can go wrong on the client's side.

use kiln_proto::status::WireError;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the user asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// What the user asked for makes sense, but is not there yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// No daemon was reached.
    #[error(
        "could not connect to {address}: {problem}; make sure that buildkitd is running, or name another with --addr"
    )]
    Connect {
        /// As it was given.
        address: String,
        /// What went wrong.
        problem: String,
    },
    /// No daemon is running, and none could be started in this process.
    #[error("no daemon is running, and building in this process failed to start over {root}: {problem}")]
    Local {
        /// The state folder.
        root: String,
        /// What went wrong.
        problem: String,
    },
    /// The daemon answered with an error.
    #[error("{doing}: {error}")]
    Daemon {
        /// What was asked of it.
        doing: &'static str,
        /// Its answer, with details.
        error: WireError,
    },
    /// The user interrupted the command.
    #[error("{0}: Canceled: context canceled")]
    Canceled(&'static str),
    /// Local input or output failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done to which file.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The session with the daemon failed.
    #[error("session: {0}")]
    Session(#[from] kiln_session::Error),
}

impl Error {
    /// An error of the daemon.
    pub fn daemon(doing: &'static str) -> impl Fn(tonic::Status) -> Self {
        move |status| Self::Daemon { doing, error: status.into() }
    }

    /// An error of the file system.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    /// The details that came with the daemon's answer.
    #[must_use]
    pub fn wire(&self) -> Option<&WireError> {
        match self {
            Self::Daemon { error, .. } => Some(error),
            _ => None,
        }
    }
}
