//! A registry that does what it is told, on a loopback port.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod pull;
mod push;
mod support;
