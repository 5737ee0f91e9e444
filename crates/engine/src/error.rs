//! Why a build failed.

use std::fmt;
use std::sync::Arc;

use kiln_oci::Digest;

use crate::{Domain, GraphError, StoreError};

/// A build failed. Cheap to clone: everybody who waited for the vertex gets the same one.
pub struct SolveError<D: Domain> {
    /// The vertex that failed, as the caller knows it.
    pub vertex: Option<Digest>,
    /// Its name.
    pub name: Option<Arc<str>>,
    /// What happened.
    pub cause: Arc<SolveCause<D>>,
}

/// What happened to a vertex.
#[derive(Debug)]
pub enum SolveCause<D: Domain> {
    /// The op could not say how it is cached.
    CacheMap(D::Error),
    /// An input could not be prepared or hashed; its result is beside the error.
    Input {
        /// Why.
        error: D::Error,
        /// Which input.
        input: usize,
        /// The input's result.
        result: D::Output,
    },
    /// The op ran and failed.
    Exec {
        /// Why.
        error: D::Error,
        /// The results of its inputs, where the op gave them back.
        inputs: Vec<Option<D::Output>>,
        /// What its mounts had become.
        mounts: Vec<Option<D::Output>>,
    },
    /// The op breaks the contract of [`Op`](crate::Op).
    Contract(String),
    /// The op panicked.
    Panic(String),
    /// The result could not be saved.
    Store(StoreError),
    /// What was asked to be built is not a graph.
    Graph(GraphError),
    /// A build that an op started needs that op's own result.
    Cycle,
    /// The job is closed, or the engine is gone or has failed (its log says why).
    Closed,
}

impl<D: Domain> SolveError<D> {
    pub(crate) fn bare(cause: SolveCause<D>) -> Self {
        Self { vertex: None, name: None, cause: Arc::new(cause) }
    }

    /// The op's own error, if an op failed.
    pub fn op_error(&self) -> Option<&D::Error> {
        match &*self.cause {
            SolveCause::CacheMap(error)
            | SolveCause::Input { error, .. }
            | SolveCause::Exec { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl<D: Domain> Clone for SolveError<D> {
    fn clone(&self) -> Self {
        Self { vertex: self.vertex.clone(), name: self.name.clone(), cause: self.cause.clone() }
    }
}

impl<D: Domain> fmt::Debug for SolveError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SolveError").field("vertex", &self.vertex).field("cause", &self.cause).finish()
    }
}

impl<D: Domain> fmt::Display for SolveCause<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CacheMap(e) => write!(f, "failed to load cache key: {e}"),
            Self::Input { error, .. } => write!(f, "failed to compute cache key: {error}"),
            Self::Exec { error, .. } => write!(f, "{error}"),
            Self::Contract(what) => write!(f, "the op broke its contract: {what}"),
            Self::Panic(what) => write!(f, "the op panicked: {what}"),
            Self::Store(e) => write!(f, "failed to save the result: {e}"),
            Self::Graph(e) => write!(f, "{e}"),
            Self::Cycle => f.write_str("the op started a build that needs the op's own result"),
            Self::Closed => {
                f.write_str("the build was given up: its job is closed, or the engine has failed")
            }
        }
    }
}

impl<D: Domain> fmt::Display for SolveError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl<D: Domain> std::error::Error for SolveError<D> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.cause {
            SolveCause::CacheMap(error)
            | SolveCause::Input { error, .. }
            | SolveCause::Exec { error, .. } => Some(error),
            SolveCause::Store(error) => Some(error),
            SolveCause::Graph(error) => Some(error),
            _ => None,
        }
    }
}
