//! Caches that a build imports, as its client or its frontend names them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use kiln_engine::CacheStore;
use kiln_ops::{Kiln, NamedMount};
use kiln_proto::{gateway, status::WireError};

/// One cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheImport {
    /// Its kind, such as `registry`.
    pub kind: String,
    /// What there is to know of its place.
    pub attrs: BTreeMap<String, String>,
}

impl From<gateway::CacheOptionsEntry> for CacheImport {
    fn from(entry: gateway::CacheOptionsEntry) -> Self {
        Self { kind: entry.r#type, attrs: entry.attrs }
    }
}

/// Where imported caches come from. One object serves one build.
pub trait CacheImports: Send + Sync + fmt::Debug {
    /// The store of a cache: the same one each time. It is read when the engine first looks into it.
    ///
    /// # Errors
    /// For a kind of cache that there is not.
    fn open(&self, import: &CacheImport) -> Result<Arc<dyn CacheStore<Kiln>>, WireError>;

    /// The build has steps with these cache mounts, whether they will run or not. Those that are to be new are not to be
    /// had from any cache.
    fn note_mounts(&self, mounts: &[NamedMount]);
}
