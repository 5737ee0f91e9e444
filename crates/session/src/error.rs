//! What can go wrong between daemon and client.

use std::time::Duration;

use tonic::Code;

/// An error of a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No client is there that could be asked.
    #[error(
        "no active session for {ids}: the client has disconnected, or has not connected within {waited:?}"
    )]
    NoActiveSession {
        /// The sessions that were waited for.
        ids: String,
        /// How long.
        waited: Duration,
    },
    /// The build has no session at all.
    #[error("the build came without a session, so {wanted} cannot be had from its client")]
    NoSession {
        /// What was to be asked for.
        wanted: String,
    },
    /// The client does not serve the method.
    #[error("the client does not serve {method}{}", hint(method))]
    Unsupported {
        /// The method's path.
        method: String,
    },
    /// A header that opens a session is missing or malformed.
    #[error("session header {name}: {problem}")]
    Header {
        /// The header's name.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The client answered with an error.
    #[error("{0}")]
    Status(#[from] StatusError),
    /// The connection failed.
    #[error("session connection: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Local input or output failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done to which file.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// The client's answer to a call, when it is an error.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message())]
pub struct StatusError(pub tonic::Status);

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Status(StatusError(status))
    }
}

impl Error {
    /// The client's gRPC code, if it is the client's answer.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(StatusError(status)) => Some(status.code()),
            _ => None,
        }
    }
}

/// What a user can do about a method that is missing.
fn hint(method: &str) -> &'static str {
    match method.split('/').nth(1).unwrap_or_default() {
        "moby.filesync.v1.FileSync" => ": no local folders were given (--local, or a build context)",
        "moby.filesync.v1.FileSend" => ": no output was given to write the result to (--output)",
        "moby.buildkit.secrets.v1.Secrets" => ": no secrets were given (--secret)",
        "moby.sshforward.v1.SSH" => ": no ssh agent was given (--ssh)",
        "containerd.services.content.v1.Content" => ": no OCI layout was given (--oci-layout)",
        _ => "",
    }
}
