//! Why a conversion ended.

use std::fmt;

use super::resolver::BoxError;
use crate::error::{Error, ErrorKind, Errors};
use crate::lint::Warning;
use crate::span::Span;

/// A conversion that ended early.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub failure: Failure,
    /// What the linter found until then.
    pub warnings: Vec<Warning>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failure.source()
    }
}

/// What is wrong in a Dockerfile, or what could not be found out.
#[derive(Debug)]
pub enum Failure {
    /// The Dockerfile, or an option that names something in it.
    Dockerfile(Errors),
    /// The resolver's error.
    Outside {
        /// What it was asked for, empty if its error says so itself.
        what: String,
        /// The instruction that needs it; not known for errors of the build as a whole.
        span: Span,
        /// The resolver's error as it was.
        source: BoxError,
    },
}

impl Failure {
    /// An error of the resolver.
    pub(super) fn outside(what: impl Into<String>, span: Span, source: BoxError) -> Self {
        Self::Outside { what: what.into(), span, source }
    }

    /// The instruction to blame; `None` for errors of the build as a whole. Of several errors it is that of the first,
    /// which the message tells of.
    pub fn span(&self) -> Option<Span> {
        let span = match self {
            Self::Dockerfile(errors) => errors.first().blamed(),
            Self::Outside { span, .. } => *span,
        };
        span.is_known().then_some(span)
    }

    /// Blames an instruction, unless one is blamed already.
    pub(super) fn within(self, instruction: Span) -> Self {
        match self {
            Self::Dockerfile(errors) => match errors.as_slice() {
                [only] => only.clone().within(instruction).into(),
                _ => Self::Dockerfile(errors),
            },
            Self::Outside { what, span, source } if !span.is_known() => {
                Self::Outside { what, span: instruction, source }
            }
            other => other,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dockerfile(errors) => errors.fmt(f),
            Self::Outside { what, source, .. } if what.is_empty() => source.fmt(f),
            Self::Outside { what, source, .. } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Dockerfile(errors) => Some(errors),
            Self::Outside { source, .. } => Some(source.as_ref()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Dockerfile(error.into())
    }
}

impl From<Errors> for Failure {
    fn from(errors: Errors) -> Self {
        Self::Dockerfile(errors)
    }
}

impl From<kiln_llb::Error> for Failure {
    fn from(error: kiln_llb::Error) -> Self {
        refuse(error.to_string()).into()
    }
}

/// An instruction that is well formed but can't be built.
pub(super) fn refuse(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Convert, message)
}
