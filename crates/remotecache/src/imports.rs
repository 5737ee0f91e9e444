//! The caches that one build imports, each read once however often it is named.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;
use kiln_engine::{CacheStore, VertexProgress};
use kiln_frontend::{CacheImport, CacheImports, Steps, wire_error};
use kiln_fstree::Root;
use kiln_ops::{Kiln, MountSource, NamedMount, WantedMount};
use kiln_proto::status::WireError;
use kiln_registry::Registries;
use kiln_session::Group;
use kiln_worker::Worker;

use crate::{ImportOptions, ImportedCache, MountSelection, MountsWanted, place::ImportPlace};

/// The caches of one build.
pub struct Imports {
    worker: Worker,
    registries: Arc<Registries>,
    sessions: Group,
    steps: Steps,
    /// In the order in which they were named first.
    known: Mutex<Vec<(CacheImport, Arc<ImportedCache>)>>,
    /// The cache mounts of the build's steps.
    mounts: Mutex<BTreeSet<NamedMount>>,
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
        Self { worker, registries, sessions, steps, known: Mutex::default(), mounts: Mutex::default() }
    }

    fn caches(&self) -> Vec<Arc<ImportedCache>> {
        lock(&self.known).iter().map(|(_, cache)| cache.clone()).collect()
    }

    /// The cache mounts that the client chose of those that the build's steps name and the imported caches have.
    pub async fn mounts_wanted<'a>(&self, selection: &'a MountSelection) -> MountsWanted<'a> {
        let mut named: Vec<String> = lock(&self.mounts).iter().map(|mount| mount.name.clone()).collect();
        named.dedup();
        let mut imported = Vec::new();
        for cache in self.caches() {
            imported.extend(cache.kept_mounts().await);
        }
        MountsWanted { selection, named, imported }
    }
}

impl CacheImports for Imports {
    fn open(&self, import: &CacheImport) -> Result<Arc<dyn CacheStore<Kiln>>, WireError> {
        let mut known = lock(&self.known);
        if let Some((_, cache)) = known.iter().find(|(known, _)| known == import) {
            return Ok(cache.clone());
        }
        let options = ImportOptions::new(&import.kind, &import.attrs).map_err(wire_error)?;
        let place =
            ImportPlace { options, registries: self.registries.clone(), sessions: self.sessions.clone() };
        let cache = ImportedCache::new(place, self.worker.clone(), self.steps.clone());
        let cache = Arc::new(cache);
        known.push((import.clone(), cache.clone()));
        Ok(cache)
    }

    fn note_mounts(&self, mounts: &[NamedMount]) {
        lock(&self.mounts).extend(mounts.iter().cloned());
    }
}

impl MountSource for Imports {
    fn offers<'a>(&'a self, name: &'a str, based: bool) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            // A step that ignores the cache begins with a new mount.
            let is_fresh = |m: &NamedMount| m.fresh && m.name == name && m.based == based;
            if lock(&self.mounts).iter().any(is_fresh) {
                return false;
            }
            for cache in self.caches() {
                if cache.offers(name, based).await {
                    return true;
                }
            }
            false
        })
    }

    fn fill<'a>(
        &'a self,
        mount: &'a WantedMount,
        root: Root,
        sessions: &'a Group,
        progress: &'a VertexProgress,
    ) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async move {
            let mut problems = Vec::new();
            for cache in self.caches() {
                let folder = root.try_clone().map_err(|error| error.to_string())?;
                match cache.fill(mount, folder, sessions, progress).await {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(problem) => {
                        tracing::warn!(
                            name = mount.name,
                            problem,
                            "a cache mount is looked for in other caches"
                        );
                        problems.push(problem);
                        emptied(&root).await?;
                    }
                }
            }
            if problems.is_empty() { Ok(false) } else { Err(problems.join("; ")) }
        })
    }
}

/// Takes out of a folder what one cache has put there, for another.
async fn emptied(root: &Root) -> Result<(), String> {
    let root = root.try_clone().map_err(|error| error.to_string())?;
    let cleared = tokio::task::spawn_blocking(move || root.clear()).await;
    cleared.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that happens under it can leave it half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
