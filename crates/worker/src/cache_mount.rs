//! Cache mounts: named folders that outlive builds.
//!
//! Each is a kept mutable ref on nothing, so a plain folder that may be mounted in many places at once. One that begins
//! with the files of another ref begins with a copy.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kiln_fstree::Root;
use kiln_store::{MountSpec, Stack};
use tokio::sync::{Mutex, Notify};

use crate::layers::Change;
use crate::merge::transfer;
use crate::{Error, MutableRef, RecordType, RefId, RefOptions, Unpacked, Worker};

/// What happens when several steps want one cache mount at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// They write to it together.
    #[default]
    Shared,
    /// Each gets one of its own; more are made when they do not suffice.
    Private,
    /// One waits for the other.
    Locked,
}

/// A cache mount in use. Cloning is cheap; when the last clone is dropped it is free for others.
#[derive(Clone, Debug)]
pub struct CacheMount {
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    // Dropped before those who wait are told.
    mutable: MutableRef,
    spec: MountSpec,
    _told: Told,
}

#[derive(Debug)]
struct Told(Arc<Notify>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// The cache mounts of a worker.
#[derive(Debug, Default)]
pub(crate) struct CacheMounts {
    /// Those in shared use by key. Held while one is looked for or made, so that two who come at once get one.
    shared: Mutex<HashMap<String, Weak<Held>>>,
    freed: Arc<Notify>,
}

impl CacheMount {
    /// The ref that keeps it.
    pub fn id(&self) -> &RefId {
        self.held.mutable.id()
    }

    /// How to mount it: a plain folder, which any number of containers may mount. Whoever does keeps this value.
    pub fn mount_spec(&self) -> MountSpec {
        self.held.spec.clone()
    }
}

impl Worker {
    /// Removes the cache mounts known as `key` that nobody uses now: the next one begins empty. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn drop_cache_mounts(&self, key: &str) -> Result<(), Error> {
        for id in self.find(&format!("cache-dir:{key}"))? {
            if let Some(mutable) = self.reopen(&id)? {
                mutable.discard()?;
            }
        }
        Ok(())
    }

    /// The cache mount known as `key` (the caller puts everything into it that makes it another one: its name, the id of the
    /// ref that it begins with). A new one begins with the files of `base`.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Layer`] when `base` cannot be copied.
    pub async fn cache_mount(
        &self,
        key: &str,
        base: Option<&Unpacked>,
        sharing: Sharing,
        description: &str,
    ) -> Result<CacheMount, Error> {
        let index = format!("cache-dir:{key}");
        let mounts = &self.inner().cache_mounts;
        loop {
            // Registered before looking, so that one freed in between is not missed.
            let freed = mounts.freed.notified();
            let mut shared = mounts.shared.lock().await;
            shared.retain(|_, held| held.strong_count() > 0);
            if sharing == Sharing::Shared
                && let Some(held) = shared.get(&index).and_then(Weak::upgrade)
            {
                return Ok(CacheMount { held });
            }
            let (worker, base, wanted) = (self.clone(), base.cloned(), index.clone());
            let (may_make, description) = (sharing != Sharing::Locked, description.to_owned());
            let found = tokio::task::spawn_blocking(move || {
                worker.free_or_new(&wanted, base.as_ref(), may_make, description)
            })
            .await??;
            if let Some((mutable, spec)) = found {
                let held = Arc::new(Held { mutable, spec, _told: Told(Arc::clone(&mounts.freed)) });
                if sharing == Sharing::Shared {
                    shared.insert(index, Arc::downgrade(&held));
                }
                return Ok(CacheMount { held });
            }
            drop(shared);
            // The time is for a holder that freed it without the notice, which a later version might bring.
            if tokio::time::timeout(Duration::from_secs(1), freed).await.is_err() {
                tracing::debug!(key, "still waiting for a locked cache mount");
            }
        }
    }

    /// A free cache mount, or a new one: when there is none at all, or when `may_make`.
    fn free_or_new(
        &self,
        index: &str,
        base: Option<&Unpacked>,
        may_make: bool,
        description: String,
    ) -> Result<Option<(MutableRef, MountSpec)>, Error> {
        let known = self.find(index)?;
        for id in &known {
            if let Some(mut mutable) = self.reopen(id)? {
                let spec = mutable.mount_spec()?;
                return Ok(Some((mutable, spec)));
            }
        }
        if !known.is_empty() && !may_make {
            return Ok(None);
        }
        let options = RefOptions {
            description,
            record_type: RecordType::CacheMount,
            retain: true,
            keys: Vec::new(),
            ..RefOptions::default()
        };
        let mut mutable = self.create(None, options)?;
        if let Some(base) = base
            && let Err(error) = self.fill(&mutable, base)
        {
            mutable.discard()?;
            return Err(error);
        }
        // Only a whole one is found by others.
        mutable.add_key(index)?;
        let spec = mutable.mount_spec()?;
        Ok(Some((mutable, spec)))
    }

    fn fill(&self, mutable: &MutableRef, base: &Unpacked) -> Result<(), Error> {
        let snapshots = &**self.store().snapshots();
        let change = Change { lower: Stack::default(), upper: base.stack().clone(), own: None };
        transfer(mutable.id(), snapshots, &change, &Root::open(snapshots.path(mutable.snapshot()))?)
    }
}
