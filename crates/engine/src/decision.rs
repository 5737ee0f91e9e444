//! Why a vertex ran, or why it did not: the records behind `kiln why`.

use std::sync::Arc;
use std::time::SystemTime;

use kiln_oci::Digest;

use crate::{CacheDigest, Edge, KeyId, RecordId};

/// What became of an edge, and by which keys. Two builds differ where these records differ.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The edge.
    pub edge: Edge,
    /// The name of its vertex.
    pub name: Arc<str>,
    /// When it was decided.
    pub time: SystemTime,
    /// What was decided.
    pub outcome: Outcome,
    /// The digests of the op's cache maps, as far as they were asked for.
    pub cache_maps: Vec<CacheDigest>,
    /// What was known of each input.
    pub inputs: Vec<InputTrace>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A result was found and is loaded.
    Load {
        /// How it was found.
        way: Way,
        /// Which store has it.
        store: Arc<str>,
        /// Under which key.
        key: KeyId,
        /// Which record.
        record: RecordId,
    },
    /// A load failed: the record is treated as not there.
    Gone {
        /// Which store had it.
        store: Arc<str>,
        /// Which record.
        record: RecordId,
        /// Why.
        error: Arc<str>,
    },
    /// The op runs.
    Run(Reason),
    /// Another vertex with the same key is at it, or has done it: its result is used.
    Join(Digest),
}

/// By which way a key was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the definition of the op and its inputs' keys.
    Definition,
    /// The content of at least one input was hashed first.
    Content,
}

/// Why an op runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The vertex asks for it.
    IgnoreCache,
    /// No key of this input leads to a key of the op.
    NoMatch {
        /// Which input.
        input: usize,
    },
    /// Every input leads to keys of the op, but no key is led to by all.
    NoCommonKey,
    /// The op has no inputs, and no store knows its digest.
    UnknownDigest,
    /// The key is known, but no result under it is left.
    NoResult,
}

/// What was known of an input when the decision fell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputTrace {
    /// The input.
    pub edge: Edge,
    /// What of it the op uses.
    pub selector: Option<Digest>,
    /// The digest of its content, if it was hashed.
    pub content: Option<Digest>,
    /// How many keys of the op it led to.
    pub matches: usize,
}

/// What is known of an edge that a job holds, whether or not anything was decided for it: of what nobody needed the result
/// there are keys all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeTrace {
    /// Which output of its vertex.
    pub output: usize,
    /// What was known of each input.
    pub inputs: Vec<InputTrace>,
    /// Whether a key of it is known to a store.
    pub found: bool,
}
