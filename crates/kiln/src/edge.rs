//! Errors as people and scripts see them: text on standard error, and an exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use kiln_client::{Error, excerpt};

/// Prints an error, with the lines of the Dockerfile that it points to.
pub(crate) fn report(error: &Error) -> ExitCode {
    let mut err = io::stderr().lock();
    let mut print = || {
        if let Some(wire) = error.wire() {
            excerpt::write_excerpts(&mut err, wire)?;
        }
        writeln!(err, "error: {error}")
    };
    // Who cannot be told has the exit code.
    drop(print());
    ExitCode::FAILURE
}
