//! What can go wrong with the daemon itself.

use std::path::PathBuf;

/// An error of starting or running the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("{}: {problem}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it: line, key, what is known.
        problem: String,
    },
    /// A flag or key asks for what is not there yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// A flag or key has a bad value.
    #[error("{option}: {problem}")]
    Option {
        /// The flag or key.
        option: String,
        /// What is wrong.
        problem: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{}: {problem}", .path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The state folder cannot be used.
    #[error(transparent)]
    Store(#[from] kiln_store::Error),
    /// The state folder cannot be used.
    #[error(transparent)]
    Worker(#[from] kiln_worker::Error),
    /// Steps cannot be run here.
    #[error(transparent)]
    Executor(#[from] kiln_executor::Error),
    /// The machine failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done to which file.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}
