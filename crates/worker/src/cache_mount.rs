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
    /// Removes the cache mounts `name` that nobody uses now, those that began empty or (`based`) those that began with the
    /// files of some ref: the next one is a new one. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn drop_cache_mounts(&self, name: &str, based: bool) -> Result<(), Error> {
        let index = if based { based_index(name) } else { index(name, None) };
        for id in self.find(&index)? {
            if let Some(mutable) = self.reopen(&id)? {
                mutable.discard()?;
            }
        }
        Ok(())
    }

    /// The cache mount `name` that began with the files of `base`. One that begins with other files is another one.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Layer`] when `base` cannot be copied.
    pub async fn cache_mount(
        &self,
        name: &str,
        base: Option<&Unpacked>,
        sharing: Sharing,
        description: &str,
    ) -> Result<CacheMount, Error> {
        let index = index(name, base);
        let based = base.map(|_| based_index(name));
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
            let (may_make, description, based) =
                (sharing != Sharing::Locked, description.to_owned(), based.clone());
            let found = tokio::task::spawn_blocking(move || match worker.free_cache_mount(&wanted)? {
                Search::Free(free) => Ok(Some(*free)),
                Search::InUse if !may_make => Ok(None),
                Search::InUse | Search::Nothing => {
                    worker.new_cache_mount(&wanted, based.as_deref(), base.as_ref(), description).map(Some)
                }
            });
            let found: Result<_, Error> = found.await?;
            let found = found?;
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
                tracing::debug!(name, "still waiting for a locked cache mount");
            }
        }
    }

    fn free_cache_mount(&self, index: &str) -> Result<Search, Error> {
        let known = self.find(index)?;
        for id in &known {
            if let Some(mut mutable) = self.reopen(id)? {
                let spec = mutable.mount_spec()?;
                return Ok(Search::Free(Box::new((mutable, spec))));
            }
        }
        Ok(if known.is_empty() { Search::Nothing } else { Search::InUse })
    }

    fn new_cache_mount(
        &self,
        index: &str,
        based: Option<&str>,
        base: Option<&Unpacked>,
        description: String,
    ) -> Result<(MutableRef, MountSpec), Error> {
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
        if let Some(based) = based {
            mutable.add_key(based)?;
        }
        mutable.add_key(index)?;
        let spec = mutable.mount_spec()?;
        Ok((mutable, spec))
    }

    fn fill(&self, mutable: &MutableRef, base: &Unpacked) -> Result<(), Error> {
        let snapshots = &**self.store().snapshots();
        let change = Change { lower: Stack::default(), upper: base.stack().clone(), own: None };
        transfer(mutable.id(), snapshots, &change, &Root::open(snapshots.path(mutable.snapshot()))?)
    }
}

/// What a look for a cache mount brought.
enum Search {
    Free(Box<(MutableRef, MountSpec)>),
    InUse,
    Nothing,
}

/// The key under which the cache mount is found.
fn index(name: &str, base: Option<&Unpacked>) -> String {
    match base {
        None => format!("cache-dir:{name}"),
        Some(base) => format!("cache-dir:{name}:{}", base.as_ref().id()),
    }
}

/// The key under which all cache mounts of a name are found that began with files.
fn based_index(name: &str) -> String {
    format!("cache-dir-based:{name}")
}
