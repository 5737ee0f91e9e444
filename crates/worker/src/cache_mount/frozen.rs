//! Cache mounts that nobody writes to for a while, to be packed.
//!
//! What was packed is remembered with the mount (value `packed`, JSON) until a step takes the mount again, so that one that
//! nobody has used need not be packed anew to know that it has not changed.

use std::time::{Duration, Instant};

use kiln_fstree::Root;
use kiln_layer::{DiffOptions, Settings, diff};
use kiln_oci::Descriptor;
use kiln_store::{Json, LeaseId};
use serde::{Deserialize, Serialize};

use super::{MountContent, Occupying, based_index, index, wait};
use crate::record::{REFS, Record, USED};
use crate::{Error, MutableRef, RefId, Worker};

/// The value that remembers what was packed.
const PACKED: &str = "packed";

/// A cache mount that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMount {
    /// What it is known by.
    pub name: String,
    /// The ref whose files it began with.
    pub base: Option<RefId>,
    index: String,
}

/// What became of the wish to freeze a cache mount.
#[derive(Debug)]
pub enum Frozen {
    /// It is frozen.
    Now(Box<FrozenMount>),
    /// Others have used it all the time.
    InUse,
    /// It was pruned.
    Gone,
}

/// A cache mount that stays as it is while this lives: steps that want it wait.
#[derive(Debug)]
pub struct FrozenMount {
    // Free for others before those are told.
    mutable: MutableRef,
    worker: Worker,
    _occupying: Occupying,
}

#[derive(Serialize, Deserialize)]
struct Packed {
    settings: String,
    content: MountContent,
}

impl Worker {
    /// The cache mounts `name`, with whatever files they began: the one without any first, then those that were used last.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn known_cache_mounts(&self, name: &str) -> Result<Vec<KnownMount>, Error> {
        let mut known = Vec::new();
        let plain = index(name, None);
        if !self.find(&plain)?.is_empty() {
            known.push(KnownMount { name: name.to_owned(), base: None, index: plain.clone() });
        }
        let mut based = Vec::new();
        for id in self.find(&based_index(name))? {
            let Some(Json(record)) = self.store().db().get(&REFS, &id.as_str().to_owned())? else { continue };
            let Some((index, base)) = base_of(&record, &plain) else { continue };
            let known = KnownMount { name: name.to_owned(), base: Some(base), index };
            based.push((self.last_used(&id)?, known));
        }
        based.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (_, mount) in based {
            if !known.contains(&mount) {
                known.push(mount);
            }
        }
        Ok(known)
    }

    /// Takes a cache mount when no step has it, waiting up to `patience`; of several that each step had for itself, the one
    /// that was used last.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn freeze_cache_mount(&self, mount: &KnownMount, patience: Duration) -> Result<Frozen, Error> {
        let mounts = &self.inner().cache_mounts;
        let start = Instant::now();
        loop {
            let freed = mounts.freed.notified();
            let shared = mounts.shared.lock().await;
            if !mounts.occupied.has(&mount.index) {
                let (worker, index) = (self.clone(), mount.index.clone());
                let found = tokio::task::spawn_blocking(move || worker.last_free(&index)).await??;
                match found {
                    Some(Some(mutable)) => {
                        let occupying = mounts.occupied.enter(&mount.index, &mounts.freed);
                        let worker = self.clone();
                        let frozen = FrozenMount { mutable, worker, _occupying: occupying };
                        return Ok(Frozen::Now(Box::new(frozen)));
                    }
                    Some(None) => {}
                    None => return Ok(Frozen::Gone),
                }
            }
            drop(shared);
            if start.elapsed() >= patience {
                return Ok(Frozen::InUse);
            }
            wait(freed, &mount.name).await;
        }
    }

    /// The free one that was used last; `None` when there is none, free or not.
    fn last_free(&self, index: &str) -> Result<Option<Option<MutableRef>>, Error> {
        let mut known = Vec::new();
        for id in self.find(index)? {
            known.push((self.last_used(&id)?, id));
        }
        known.sort_by(|a, b| b.cmp(a));
        for (_, id) in &known {
            if let Some(mutable) = self.reopen(id)? {
                return Ok(Some(Some(mutable)));
            }
        }
        Ok((!known.is_empty()).then_some(None))
    }

    fn last_used(&self, id: &RefId) -> Result<u64, Error> {
        Ok(self.store().db().get(&USED, &id.as_str().to_owned())?.map_or(0, |Json(used)| used.last))
    }
}

/// The key under which a mount with a base is found, and that base.
fn base_of(record: &Record, plain: &str) -> Option<(String, RefId)> {
    record.keys.iter().find_map(|key| {
        let base = RefId::parse(key.strip_prefix(plain)?.strip_prefix(':')?)?;
        Some((key.clone(), base))
    })
}

impl FrozenMount {
    /// What the mount was packed as with these settings, if no step has had it since.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn known(&self, settings: Settings) -> Result<Option<MountContent>, Error> {
        let value = self.mutable.value(PACKED)?.unwrap_or_default();
        let packed: Option<Packed> = serde_json::from_slice(&value).ok();
        Ok(packed.filter(|packed| packed.settings == named(settings)).map(|packed| packed.content))
    }

    /// Packs the mount into a blob that `lease` holds. Equal files give equal bytes. Blocks.
    ///
    /// # Errors
    /// [`Error::Layer`] for files that cannot be read, [`Error::Store`].
    pub fn pack(&self, settings: Settings, lease: &LeaseId) -> Result<MountContent, Error> {
        let store = self.worker.store();
        let root = Root::open(store.snapshots().path(self.mutable.snapshot()))?;
        let options = DiffOptions { settings, ..DiffOptions::default() };
        let written = diff::upper(&root, None, store.content().ingest_digested()?, &options);
        let (ingest, written) = written.map_err(Error::layer(self.mutable.id()))?;
        ingest.commit(store, lease, Some(&written.digest), Some(written.size))?;
        let own = root.dir().stat_self().map_err(|source| kiln_fstree::Error::Io {
            op: "stat",
            path: store.snapshots().path(self.mutable.snapshot()),
            source,
        })?;
        let content = MountContent {
            blob: Descriptor::new(settings.compression.media_type(), written.digest, written.size),
            diff_id: written.diff_id,
            size: written.diff_size,
            uid: own.uid,
            gid: own.gid,
            mode: own.mode,
        };
        let packed = Packed { settings: named(settings), content: content.clone() };
        if let Ok(value) = serde_json::to_vec(&packed) {
            self.mutable.set_value(PACKED, value)?;
        }
        Ok(content)
    }
}

fn named(settings: Settings) -> String {
    let level = settings.level.map(|level| level.to_string()).unwrap_or_default();
    format!("{}:{level}", settings.compression.as_str())
}

/// Forgets what a mount was packed as, durably: its files are about to change, and after a kill they would be others than
/// those that the record tells of. Blocks, where there is something to forget.
pub(super) fn forget_packed(mutable: &MutableRef) -> Result<(), Error> {
    if mutable.value(PACKED)?.is_none_or(|value| value.is_empty()) {
        return Ok(());
    }
    mutable.set_value(PACKED, Vec::new())?;
    Ok(mutable.worker().store().db().sync()?)
}
