//! What can go wrong with a registry.

use std::{path::PathBuf, time::Duration};

use http::StatusCode;
use kiln_oci::Digest;

/// An error of a registry, or on the way to one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server has the reference.
    #[error("{reference}: not found")]
    NotFound {
        /// The image's reference, or repository and digest of a blob.
        reference: String,
    },
    /// The registry refuses to let us.
    #[error("{reference}: {}: {message}", refusal(*.status))]
    Denied {
        /// What was asked for.
        reference: String,
        /// 401 or 403.
        status: StatusCode,
        /// The registry's words.
        message: String,
    },
    /// Any other answer that is no success.
    #[error("{method} {url}: {status}: {message}{}", later(*.retry_after))]
    Status {
        /// The request's method.
        method: &'static str,
        /// The request's URL, without its query.
        url: String,
        /// The answer's status.
        status: StatusCode,
        /// The registry's words.
        message: String,
        /// When the registry wants to be asked again (`Retry-After`, RFC 9110, section 10.2.3).
        retry_after: Option<Duration>,
    },
    /// The connection failed.
    #[error("{url}: {}", causes(.source))]
    Http {
        /// The request's URL, without its query.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The connection stands still.
    #[error("{url}: nothing moved for {} s", .patience.as_secs())]
    Stalled {
        /// The request's URL, without its query.
        url: String,
        /// How long nothing moved.
        patience: Duration,
    },
    /// The content is not what its digest promises.
    #[error(
        "{reference}: content has digest {got} in place of {expected}; the registry or a proxy damages it"
    )]
    Digest {
        /// What was read.
        reference: String,
        /// The promise.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// The content is longer or shorter than its descriptor promises.
    #[error("{reference}: {got} bytes in place of {expected}")]
    Size {
        /// What was read.
        reference: String,
        /// The promise.
        expected: u64,
        /// What came, or had come when it was too much.
        got: u64,
    },
    /// An answer makes no sense.
    #[error("{url}: {problem}")]
    Answer {
        /// The request's URL, without its query.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A certificate or key cannot be used.
    #[error("{}: {problem}", .path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The client gave no credentials.
    #[error("credentials for {host}: {source}")]
    Credentials {
        /// The registry.
        host: String,
        /// The cause.
        source: kiln_session::Error,
    },
    /// The blob to push cannot be read.
    #[error("reading {digest} to push it: {source}")]
    Read {
        /// The blob.
        digest: Digest,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether another try may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Stalled { .. } => true,
            Self::Http { source, .. } => !source.is_builder() && !is_tls(source),
            _ => false,
        }
    }

    /// How long the registry wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the registry does not have what was asked for.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

fn later(retry_after: Option<Duration>) -> String {
    retry_after
        .map(|wait| format!(" (the registry asks to come back in {} s)", wait.as_secs()))
        .unwrap_or_default()
}

fn refusal(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "authorization failed (log in to the registry, or check the image's name)"
        }
        _ => "pull access denied, repository does not exist or may require authorization",
    }
}

/// An error with everything that led to it: reqwest's own message ends before the cause.
fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        // reqwest repeats the URL, which the caller shows already.
        let part = part.split(" (http").next().unwrap_or(&part).split(" for url").next().unwrap_or_default();
        if !part.is_empty() && !text.ends_with(part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(part);
        }
        next = error.source();
    }
    text
}

/// Whether the two ends do not agree on TLS, which another try does not change: a certificate that is not trusted, a server
/// that speaks plain HTTP.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    // The source of an I/O error is that of the error in it, which is passed over.
    let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || within.is_some_and(|inner| is_tls(inner))
        || error.source().is_some_and(is_tls)
}
