//! Unix sockets.

use std::{io, path::Path};

use tokio::net::UnixStream;

/// Connects to the socket at `path`.
///
/// # Errors
/// If nobody listens there, or we may not.
pub async fn connect_local(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}
