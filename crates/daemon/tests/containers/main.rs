//! Containers beside a build, and frontends in containers, over the gateway service of a daemon in this process: needs root and Debian's static busybox,
//! and says so where they are missing.
//!
//! The harness is our own, since the test binary is also started as the runtime helper, before any thread
//! exists, and as a frontend.

#![cfg_attr(
    target_os = "linux",
    expect(
        clippy::unwrap_used,
        reason = "a failed unwrap is a failed test, also under a harness of our own"
    )
)]

#[cfg(target_os = "linux")]
mod bench;
#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod frontend;
#[cfg(target_os = "linux")]
mod images;
#[cfg(target_os = "linux")]
mod records;
#[cfg(target_os = "linux")]
mod registry;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: containers run on Linux only");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    if kiln_executor::is_runtime() {
        return kiln_executor::runtime_main();
    }
    if let Some(options) = frontend::options() {
        return frontend::main(&options);
    }
    bench::run_all(&[cases::TESTS, images::TESTS, records::TESTS])
}
