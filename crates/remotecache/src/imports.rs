//! The caches that one build imports, each read once however often it is named.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use kiln_engine::CacheStore;
use kiln_frontend::{CacheImport, CacheImports, Steps, wire_error};
use kiln_ops::Kiln;
use kiln_proto::status::WireError;
use kiln_registry::Registries;
use kiln_session::Group;
use kiln_worker::Worker;

use crate::{ImportOptions, ImportedCache, place::ImportPlace};

/// The caches of one build.
pub struct Imports {
    worker: Worker,
    registries: Arc<Registries>,
    sessions: Group,
    steps: Steps,
    known: Mutex<BTreeMap<CacheImport, Arc<ImportedCache>>>,
}

impl std::fmt::Debug for Imports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imports").finish_non_exhaustive()
    }
}

impl Imports {
    /// The caches of a build whose clients `sessions` are.
    #[must_use]
    pub fn new(worker: Worker, registries: Arc<Registries>, sessions: Group, steps: Steps) -> Self {
        Self { worker, registries, sessions, steps, known: Mutex::default() }
    }
}

impl CacheImports for Imports {
    fn open(&self, import: &CacheImport) -> Result<Arc<dyn CacheStore<Kiln>>, WireError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = known.get(import) {
            return Ok(cache.clone());
        }
        let options = ImportOptions::new(&import.kind, &import.attrs).map_err(wire_error)?;
        let place =
            ImportPlace { options, registries: self.registries.clone(), sessions: self.sessions.clone() };
        let cache = ImportedCache::new(place, self.worker.clone(), self.steps.clone());
        let cache = Arc::new(cache);
        known.insert(import.clone(), cache.clone());
        Ok(cache)
    }
}
