//! What can be wrong with a definition or a source.

use kiln_oci::Digest;

/// A definition, an op or a source identifier that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The definition has no ops. (An empty definition stands for scratch; whoever allows that asks before decoding.)
    #[error("invalid empty definition")]
    Empty,
    /// More ops than a daemon looks at.
    #[error("definition has {0} ops, more than {max}", max = crate::MAX_OPS)]
    TooManyOps(usize),
    /// An op's bytes are not an op.
    #[error("failed to parse op {index} of the definition: {source}")]
    Decode {
        /// Position in the definition.
        index: usize,
        /// What the decoder says.
        source: prost::DecodeError,
    },
    /// The definition's last op must name one result.
    #[error("invalid definition: the last op must have an input, the result")]
    NoRoot,
    /// An op names an input that the definition doesn't hold.
    #[error("invalid missing input digest {input} of {vertex}")]
    MissingInput {
        /// Who needs it.
        vertex: String,
        /// What is missing.
        input: String,
    },
    /// An op depends on itself.
    #[error("invalid definition: {0} depends on itself")]
    Cycle(Digest),
    /// An op is malformed.
    #[error("invalid {kind} op {vertex}: {reason}")]
    Op {
        /// Its digest.
        vertex: Digest,
        /// `exec`, `source`, …
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The source map points outside of itself.
    #[error("invalid source location of {vertex}: there is no source {index}")]
    SourceIndex {
        /// Whose location.
        vertex: String,
        /// The index.
        index: i32,
    },
    /// A source identifier or attribute is malformed.
    #[error("invalid source {identifier:?}: {reason}")]
    Source {
        /// The identifier.
        identifier: String,
        /// What is wrong.
        reason: String,
    },
    /// The builder was asked for something that LLB can't say.
    #[error("invalid state: {0}")]
    Build(String),
}

impl Error {
    pub(crate) fn op(vertex: &Digest, kind: &'static str, reason: impl Into<String>) -> Self {
        Self::Op { vertex: vertex.clone(), kind, reason: reason.into() }
    }

    pub(crate) fn source(identifier: &str, reason: impl ToString) -> Self {
        Self::Source { identifier: identifier.chars().take(300).collect(), reason: reason.to_string() }
    }
}
