//! A daemon in this process, for when none is running and none is named.

use std::path::Path;

use kiln_client::Error;
use tonic::transport::Channel;

/// Starts a daemon over the state in `root` and connects to it.
///
/// # Errors
/// If it cannot be started.
pub(crate) async fn start(root: &Path) -> Result<Channel, Error> {
    Err(Error::Unsupported(format!(
        "building without a daemon (state would be kept in {}); start buildkitd, or name one with --addr or BUILDKIT_HOST",
        root.display()
    )))
}
