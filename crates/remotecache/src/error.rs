//! What can go wrong with caches that travel.

use kiln_oci::Digest;

/// Why a cache could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kind of cache that there is not.
    #[error("unknown cache {door}: {kind:?}{hint}")]
    Kind {
        /// `importer` or `exporter`.
        door: &'static str,
        /// The kind.
        kind: String,
        /// What there is.
        hint: &'static str,
    },
    /// An attribute that is missing or makes no sense.
    #[error("{kind} cache {door}: {problem}")]
    Attribute {
        /// `importer` or `exporter`.
        door: &'static str,
        /// The kind of cache.
        kind: String,
        /// Which attribute, and what would do.
        problem: String,
    },
    /// Several exports to one place.
    #[error("duplicate cache exports: {0}")]
    Duplicate(String),
    /// A cache config that is damaged or hostile.
    #[error("cache config: {0}")]
    Config(String),
    /// A manifest that is none, or holds no cache.
    #[error("cache manifest {name}: {problem}")]
    Manifest {
        /// What the cache is called.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A document that is not what its digest says.
    #[error("{name}: {expected} was asked for, but {got} came")]
    Mismatch {
        /// What the cache is called.
        name: String,
        /// The digest that it is known by.
        expected: Digest,
        /// The digest that it has.
        got: Digest,
    },
    /// A registry failed.
    #[error("{name}: {source}")]
    Registry {
        /// What the cache is called.
        name: String,
        /// The registry's error.
        #[source]
        source: kiln_registry::Error,
    },
    /// The place of the cache failed.
    #[error(transparent)]
    Source(#[from] kiln_source::Error),
    /// The client failed.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// The worker could not give a layer.
    #[error(transparent)]
    Worker(#[from] kiln_worker::Error),
    /// An image's layers could not be made.
    #[error(transparent)]
    Layer(#[from] kiln_layer::Error),
    /// The engine's store failed.
    #[error(transparent)]
    Store(#[from] kiln_engine::StoreError),
    /// The content store failed.
    #[error(transparent)]
    Content(#[from] kiln_store::Error),
    /// A cache mount could not be sent along.
    #[error("cache mount {id}: {problem}")]
    Mount {
        /// Its id in LLB.
        id: String,
        /// What is wrong.
        problem: String,
    },
    /// Another build's import of the same cache failed.
    #[error("{0}")]
    Shared(String),
}
