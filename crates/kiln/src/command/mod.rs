//! `kiln <command>`: for people.

use std::{ffi::OsString, process::ExitCode};

/// Runs a command line.
pub fn main(_args: Vec<OsString>) -> ExitCode {
    ExitCode::FAILURE
}
