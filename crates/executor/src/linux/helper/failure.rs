//! Errors on the way to a running program: each says what was being done.

use std::fmt::Display;
use std::io;

use super::super::wire::Failure;

/// The result of a step of the setup.
pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Names the step that failed.
pub(super) trait Doing<T> {
    /// `step` is what was being done.
    fn doing(self, step: impl Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, step: impl Display) -> Result<T> {
        self.map_err(|error| Failure::Step { step: step.to_string(), errno: errno(&error.into()) })
    }
}

/// The number that crosses the wire.
pub(super) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
