//! The daemon as a process: killed at random moments, given bad input, left by its clients.
//!
//! | variable | is |
//! |---|---|
//! | `KILN_TEST_SEED` | what decides the moments; a run prints its own |
//! | `KILN_TEST_KILLS` | how often the daemon is killed in each phase of a build |
//! | `KILN_TEST_CANCELS` | how many steps are cancelled |
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod ahead;
mod bad_input;
mod cancel;
mod ceiling;
mod devices;
mod full_disk;
mod history;
mod join;
mod kill;
mod mounts;
mod nested;
mod sbom;
mod support;
mod why;
