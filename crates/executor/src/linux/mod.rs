//! The executors of Linux.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::{BoxFuture, Container, Error, Executor, ExecutorConfig, ProcessIo, Result, RunSpec, Security};

/// Runs steps with the OCI runtime that is part of this binary.
#[derive(Debug)]
pub struct EmbeddedExecutor {
    config: ExecutorConfig,
}

/// Runs steps with an OCI runtime binary (`runc`, `crun`).
#[derive(Debug)]
pub struct ExternalExecutor {
    config: ExecutorConfig,
    runtime: PathBuf,
}

impl EmbeddedExecutor {
    /// Prepares an executor; helpers are started when the first container is.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if this executable cannot be opened to be started anew.
    pub fn new(config: ExecutorConfig) -> Result<Self> {
        Ok(Self { config })
    }
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

impl Executor for EmbeddedExecutor {
    fn start(&self, spec: RunSpec, io: ProcessIo) -> BoxFuture<'_, Result<Container>> {
        drop((spec, io, &self.config));
        Box::pin(async { Err(Error::Lost) })
    }

    fn prepare(&self, _: Security) {}

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
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

/// This process was started to be the runtime helper: `main` must call [`runtime_main`] at once.
#[must_use]
pub fn is_runtime() -> bool {
    false
}

/// Serves as the runtime helper until its daemon ends.
#[must_use]
pub fn runtime_main() -> ExitCode {
    ExitCode::FAILURE
}
