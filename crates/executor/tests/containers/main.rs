//! Containers that really run: needs root and Debian's static busybox, and says so where they are missing.
//!
//! The harness is our own, since the test binary is also started as the runtime helper, before any thread exists.
//! `cargo test -p kiln-executor --test containers -- WORD…` runs the tests whose names contain a word.

#![cfg_attr(
    target_os = "linux",
    expect(
        clippy::unwrap_used,
        reason = "a failed unwrap is a failed test, also under a harness of our own"
    )
)]

#[cfg(target_os = "linux")]
mod basics;
#[cfg(target_os = "linux")]
mod devices;
#[cfg(target_os = "linux")]
mod ends;
#[cfg(target_os = "linux")]
mod external;
#[cfg(target_os = "linux")]
mod guards;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod speed;
#[cfg(target_os = "linux")]
mod support;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: containers run on Linux only");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    if kiln_executor::is_runtime() {
        return kiln_executor::runtime_main();
    }
    if std::env::args().nth(1).is_some_and(|arg| arg == killed::DAEMON) {
        killed::daemon();
    }
    support::run_all(&[
        basics::TESTS,
        mounts::TESTS,
        guards::TESTS,
        hostile::TESTS,
        ends::TESTS,
        killed::TESTS,
        external::TESTS,
        devices::TESTS,
        speed::TESTS,
    ])
}
