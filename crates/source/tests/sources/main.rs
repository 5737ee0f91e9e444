//! Sources against servers and clients that do what they are told.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod images;
mod local;
mod support;
mod web;

#[cfg(unix)]
mod git;
