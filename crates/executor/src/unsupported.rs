//! Hosts without an executor yet: everything says so.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::{BoxFuture, Container, Error, Executor, ExecutorConfig, ProcessIo, Result, RunSpec, Security};

/// Runs steps with the runtime that is part of this binary; Linux only.
#[derive(Debug)]
pub struct EmbeddedExecutor(std::convert::Infallible);

/// Runs steps with an OCI runtime; Linux only.
#[derive(Debug)]
pub struct ExternalExecutor(std::convert::Infallible);

fn unsupported<T>(feature: &str) -> Result<T> {
    Err(Error::Unsupported { feature: feature.to_owned(), place: "on this operating system yet" })
}

impl EmbeddedExecutor {
    /// Says that it is not supported.
    ///
    /// # Errors
    ///
    /// Always [`Error::Unsupported`].
    pub fn new(_: ExecutorConfig) -> Result<Self> {
        unsupported("running build steps (RUN)")
    }
}

impl ExternalExecutor {
    /// Says that it is not supported.
    ///
    /// # Errors
    ///
    /// Always [`Error::Unsupported`].
    pub fn new(_: ExecutorConfig, _: PathBuf, _: PathBuf) -> Result<Self> {
        unsupported("an OCI runtime binary")
    }
}

macro_rules! never {
    ($type:ty) => {
        impl Executor for $type {
            fn start(&self, _: RunSpec, _: ProcessIo) -> BoxFuture<'_, Result<Container>> {
                match self.0 {}
            }
            fn prepare(&self, _: Security) {
                match self.0 {}
            }
            fn sweep(&self) {
                match self.0 {}
            }
            fn shutdown(&self) -> BoxFuture<'_, ()> {
                match self.0 {}
            }
        }
    };
}
never!(EmbeddedExecutor);
never!(ExternalExecutor);

/// This process was started as the runtime helper: never here.
#[must_use]
pub fn is_runtime() -> bool {
    false
}

/// Nothing to do on this operating system.
#[must_use]
pub fn runtime_main() -> ExitCode {
    ExitCode::FAILURE
}
