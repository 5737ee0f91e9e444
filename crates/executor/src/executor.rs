//! The door to all executors.

use std::future::Future;
use std::pin::Pin;

use tokio_util::sync::CancellationToken;

use crate::{Container, Error, Exit, ProcessIo, Result, RunSpec};

/// A boxed future: which executor runs is chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts containers.
pub trait Executor: Send + Sync + std::fmt::Debug {
    /// Starts `spec`; resolves once its first process runs (the program was loaded).
    ///
    /// A program that cannot be loaded (missing, not executable) is not an error: a message goes to the standard error
    /// stream and the container ends with code 1, as OCI runtimes have it.
    ///
    /// # Errors
    ///
    /// [`Error`] if the container cannot be set up: a mount source or user that does not exist, and so on. Nothing is
    /// left behind then.
    fn start(&self, spec: RunSpec, io: ProcessIo) -> BoxFuture<'_, Result<Container>>;

    /// Says that a container will be started soon: what does not depend on its spec can be prepared in the background.
    fn prepare(&self, security: crate::Security);

    /// Removes what executors of processes that were killed have left. To be called after the start, when there is time. Blocks.
    fn sweep(&self);

    /// Ends every container, waits for that, and releases what the executor holds.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// Runs `spec` to its end. When `cancel` is cancelled, every process of the container is killed.
///
/// Returns when all its output was delivered, all its processes are gone, its root is unmounted and every mount point
/// that had to be made is removed again.
///
/// # Errors
///
/// As [`Executor::start`]; [`Error::Cancelled`] after `cancel`.
pub async fn run(
    executor: &dyn Executor,
    spec: RunSpec,
    io: ProcessIo,
    cancel: &CancellationToken,
) -> Result<Exit> {
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let id = spec.id.clone();
    let container = executor.start(spec, io).await?;
    let ended = tokio::select! {
        ended = container.wait() => return ended,
        () = cancel.cancelled() => {
            container.kill();
            container.wait().await
        }
    };
    match ended {
        Err(error) => Err(error),
        Ok(_) => {
            tracing::debug!(container = id, "cancelled");
            Err(Error::Cancelled)
        }
    }
}

/// What an executor is told once.
#[derive(Debug, Clone, Default)]
pub struct ExecutorConfig {
    /// Name resolution in steps.
    pub dns: crate::DnsConfig,
    /// Parent cgroup of containers that name none.
    pub cgroup_parent: Option<crate::CgroupParent>,
    /// Written to `oom_score_adj` of containers' processes.
    pub oom_score_adj: Option<i32>,
    /// Folder of the host, nobody else's, in which bundles are made for containers with hooks; `None`: the embedded runtime
    /// refuses hooks.
    pub bundles: Option<std::path::PathBuf>,
}
