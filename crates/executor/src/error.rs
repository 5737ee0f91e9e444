//! What can go wrong.

use std::path::PathBuf;
use std::sync::Arc;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a container could not be set up, or what became of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The step was cancelled; every process of it is gone.
    #[error("cancelled")]
    Cancelled,
    /// What was asked for does not work here.
    #[error("{feature} is not supported {place}")]
    Unsupported {
        /// What was asked for.
        feature: String,
        /// "on Windows yet", "with …".
        place: &'static str,
    },
    /// The spec makes no sense.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which part of the spec.
        field: &'static str,
        /// What is wrong with it, with the value.
        problem: String,
    },
    /// The user or group is not in the root's files.
    #[error("unable to find {kind} {name}: no matching entries in {file}")]
    NoSuchUser {
        /// "user" or "group".
        kind: &'static str,
        /// As it was asked for.
        name: String,
        /// "passwd file" or "group file".
        file: &'static str,
    },
    /// A file of the root that has to be read is not fit for it.
    #[error("{path} of the step's root: {problem}")]
    RootFile {
        /// Path in the root.
        path: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A mount source cannot be opened.
    #[error("cannot mount {dest}: {path}: {source}")]
    MountSource {
        /// Destination in the container.
        dest: String,
        /// The source, or the selector in it, as it was given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The container's side of the setup failed.
    #[error("cannot start the step: {step}: {source}")]
    Setup {
        /// What was being done, with path.
        step: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program that a device wants run while the container is made failed.
    #[error("the {name} hook {path} failed: {problem}")]
    Hook {
        /// When it is run.
        name: String,
        /// The program.
        path: PathBuf,
        /// How it ended, and what it said last.
        problem: String,
    },
    /// A system call of the daemon's side failed.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The external OCI runtime failed.
    #[error("OCI runtime {runtime}: {problem}")]
    Runtime {
        /// Its path.
        runtime: PathBuf,
        /// What it said.
        problem: String,
    },
    /// The helper process is gone; the next start makes a new one.
    #[error("the runtime helper ended unexpectedly; try again")]
    Lost,
    /// No such container runs (any more).
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The container ended with an error that others see too.
    #[error(transparent)]
    Ended(Arc<Error>),
}
