//! What can go wrong with an op.

use crate::Entitlement;

/// Why an op failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// A source failed.
    #[error(transparent)]
    Source(#[from] kiln_source::Error),
    /// The worker failed.
    #[error(transparent)]
    Worker(#[from] kiln_worker::Error),
    /// A client could not be asked.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// The step could not be run.
    #[error(transparent)]
    Executor(#[from] kiln_executor::Error),
    /// A step's process failed.
    #[error("process \"{command}\" did not complete successfully: exit code: {code}{}", if *.oom { " (out of memory: the kernel killed it)" } else { "" })]
    Exit {
        /// Its arguments, joined by spaces.
        command: String,
        /// Its exit code.
        code: u32,
        /// Whether it was killed because memory ran out.
        oom: bool,
    },
    /// An action of a file op failed.
    #[error("{source}")]
    File {
        /// The action's index in the op.
        action: usize,
        /// The cause.
        source: kiln_fstree::Error,
    },
    /// A content hash could not be computed.
    #[error("failed to calculate checksum of ref {tree}: {source}")]
    Checksum {
        /// The ref's id.
        tree: String,
        /// The cause.
        source: kiln_fstree::Error,
    },
    /// A secret that the step needs is not there.
    #[error("secret {id}: not found (give it with --secret id={id},src=FILE)")]
    NoSecret {
        /// The secret's id.
        id: String,
    },
    /// An ssh agent that the step needs is not there.
    #[error(
        "no SSH key {id:?} forwarded from the client: unset ssh forward key {id} (give it with --ssh {id})"
    )]
    NoAgent {
        /// The agent's id.
        id: String,
    },
    /// A process wants what the build may not do.
    #[error(
        "{0} is not allowed (the client must ask for it with --allow {0}, and the daemon's insecure-entitlements must list it)"
    )]
    NotAllowed(Entitlement),
    /// A device that the step asks for cannot be had.
    #[error(transparent)]
    Device(#[from] crate::DeviceError),
    /// What a device needs cannot be had.
    #[error("device {devices}: {problem}")]
    DeviceEdit {
        /// The devices of the step.
        devices: String,
        /// What.
        problem: String,
    },
    /// The op asks for what makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The op asks for what is not there yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// The build may not use what a definition within it names.
    #[error("{0}")]
    Refused(String),
    /// A build within the build failed.
    #[error("{error}")]
    Build {
        /// What happened there.
        error: kiln_engine::SolveError<crate::Kiln>,
        /// What was to be built.
        graph: std::sync::Arc<kiln_llb::Graph>,
    },
    /// A cache key could not be encoded.
    #[error("encoding a cache key: {0}")]
    Json(#[from] serde_json::Error),
    /// A task was lost.
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
    /// The machine failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl OpError {
    /// The exit code of the process that failed, if that is what happened.
    #[must_use]
    pub fn exit_code(&self) -> Option<u32> {
        match self {
            Self::Exit { code, .. } => Some(*code),
            Self::Build { error, .. } => error.op_error().and_then(Self::exit_code),
            _ => None,
        }
    }

    /// Which action of a file op failed, if that is what happened.
    #[must_use]
    pub fn file_action(&self) -> Option<usize> {
        match self {
            Self::File { action, .. } => Some(*action),
            _ => None,
        }
    }
}

impl OpError {
    /// Whether the files of an input could not be brought here: its layers are gone, or damaged.
    #[must_use]
    pub fn is_lost_input(&self) -> bool {
        matches!(self, Self::Worker(error) if error.is_lost_layer())
    }
}
