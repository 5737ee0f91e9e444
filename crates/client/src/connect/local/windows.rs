//! Named pipes.

use std::{io, path::Path, time::Duration};

use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient};

/// All instances of the pipe are taken; one is free again soon.
const ERROR_PIPE_BUSY: i32 = 231;

/// Connects to the pipe named `path`, such as `\\.\pipe\buildkitd`.
///
/// # Errors
/// If nobody listens there, or we may not.
pub async fn connect_local(path: &Path) -> io::Result<NamedPipeClient> {
    loop {
        match ClientOptions::new().open(path) {
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}
