//! The asynchronous runtime of client commands, and interruption by the user.

use std::process::ExitCode;

use kiln_client::Error;

/// Exit code of a command that a second interrupt ended at once.
const KILLED: i32 = 130;

/// Runs a command to its end.
///
/// # Errors
/// The command's own.
pub(crate) fn block_on<T>(command: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("starting the asynchronous runtime"))?;
    let result = runtime.block_on(command);
    // Nothing that is still running matters once the command has its result.
    runtime.shutdown_background();
    result
}

/// Completes when the user or the system asks the process to end. Asked once more, the process ends at once.
pub(crate) async fn interrupted() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        std::process::exit(KILLED);
    });
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(signal) => signal,
        // Without handlers the signals do what they do by themselves.
        Err(_) => return std::future::pending().await,
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => if result.is_err() { std::future::pending().await },
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Success, or the error on standard error and the exit code that it means.
pub(crate) fn finish(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => crate::edge::report(&error),
    }
}
