//! What can go wrong with a file tree.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed. `path` is the path inside the tree.
    #[error("{op} {}: {}", path.display(), Plain(source))]
    Io {
        /// What was tried, in the words of the system call.
        op: &'static str,
        /// Where, relative to the root of the tree.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A path that an operation needs is not there.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// A pattern of an include, exclude or wildcard does not parse.
    #[error("invalid {list}: {source}")]
    Pattern {
        /// Which list it came in, as the protocol names it (`includepatterns`).
        list: &'static str,
        /// What is wrong with it.
        source: kiln_pattern::Error,
    },
    /// The other end of a transfer broke the protocol.
    #[error("protocol error in file transfer: {0}")]
    Protocol(String),
    /// The sending end of a transfer reported an error.
    #[error("error from sender: {0}")]
    Sender(String),
    /// The receiving end of a transfer reported an error.
    #[error("error from receiver: {0}")]
    Receiver(String),
    /// The stream under a transfer failed or ended too early.
    #[error("file transfer broke off: {0}")]
    Transport(String),
    /// The transfer or operation was given up by its caller.
    #[error("canceled")]
    Canceled,
    /// A rule of the operation forbids it (for example a file where a folder must be).
    #[error("{0}")]
    Refused(String),
    /// Something that this platform or version cannot do.
    #[error("{0} is not supported here")]
    Unsupported(&'static str),
}

impl Error {
    /// The kind of the underlying system error; `Other` if there is none.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { source, .. } => source.kind(),
            Self::NotFound(_) => io::ErrorKind::NotFound,
            Self::Unsupported(_) => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        }
    }

    /// Whether the error says that a path does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the operation and path of an [`io::Error`].
pub trait Context<T> {
    /// Wraps the error into [`Error::Io`].
    ///
    /// # Errors
    /// The error of `self`, wrapped.
    fn at(self, op: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn at(self, op: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::Io { op, path: path.as_ref().to_owned(), source: e.into() })
    }
}

/// A system error in the words that the tools of this field use: `no such file or directory`, without a number.
struct Plain<'a>(&'a io::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_ascii_lowercase(), chars.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_operation_and_path() {
        let failed: std::result::Result<(), _> = Err(io::Error::from_raw_os_error(2));
        let error = failed.at("open", "/a/b").expect_err("is an error");
        #[cfg(unix)]
        assert_eq!(error.to_string(), "open /a/b: no such file or directory");
        assert!(error.is_not_found());
    }
}
