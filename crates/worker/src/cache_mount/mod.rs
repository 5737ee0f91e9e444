//! Cache mounts: named folders that outlive builds.
//!
//! Each is a kept mutable ref on nothing, so a plain folder that may be mounted in many places at once. One that begins
//! with the files of another ref begins with a copy.
//!
//! Content may come from elsewhere when there is no such mount here ([`MountFiller`]), and be packed to be sent elsewhere
//! ([`FrozenMount`]). While either is under way the mount is *occupied*: whoever wants it waits, in whatever way it is shared.

mod content;
mod frozen;
mod occupied;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use kiln_fstree::Root;
use kiln_store::{MountSpec, SnapshotId, Stack};
use tokio::sync::{Mutex, Notify};

use crate::layers::Change;
use crate::merge::transfer;
use crate::{Error, MutableRef, RecordType, RefId, RefOptions, Unpacked, Worker};

pub use content::{MountContent, unpack_mount};
pub use frozen::{Frozen, FrozenMount, KnownMount};
use occupied::{Occupied, Occupying};

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
    /// Those that are being filled or packed.
    occupied: Occupied,
    freed: Arc<Notify>,
}

/// How a cache mount is wanted.
#[derive(Clone, Copy, Debug)]
pub struct MountWish<'a> {
    /// What it is known by.
    pub name: &'a str,
    /// The files that it began with. One that begins with other files is another one.
    pub base: Option<&'a Unpacked>,
    /// What happens when others want it too.
    pub sharing: Sharing,
    /// What people are told that it is.
    pub description: &'a str,
}

/// Brings the content of a cache mount that is not here.
pub trait MountFiller: Send + Sync {
    /// Puts the content into the empty folder `root`. False when there is none to be had, of which the filler has told
    /// whoever wants to know: what it has put there is thrown away, and the mount begins as it would have without.
    fn fill(&self, root: Root) -> BoxFuture<'_, bool>;
}

impl CacheMount {
    /// The ref that keeps it.
    pub fn id(&self) -> &RefId {
        self.held.mutable.id()
    }

    /// Its snapshot.
    pub fn snapshot(&self) -> &SnapshotId {
        self.held.mutable.snapshot()
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

    /// The cache mount that is wished for. If there is none yet, `filler` is asked for its content first.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Layer`] when `base` cannot be copied.
    pub async fn cache_mount(
        &self,
        wish: MountWish<'_>,
        mut filler: Option<&dyn MountFiller>,
    ) -> Result<CacheMount, Error> {
        let MountWish { name, base, sharing, description } = wish;
        let index = index(name, base);
        let based = base.map(|_| based_index(name));
        let mounts = &self.inner().cache_mounts;
        loop {
            // Registered before looking, so that one freed in between is not missed.
            let freed = mounts.freed.notified();
            let mut shared = mounts.shared.lock().await;
            if mounts.occupied.has(&index) {
                drop(shared);
                wait(freed, name).await;
                continue;
            }
            shared.retain(|_, held| held.strong_count() > 0);
            if sharing == Sharing::Shared
                && let Some(held) = shared.get(&index).and_then(Weak::upgrade)
            {
                return Ok(CacheMount { held });
            }
            let (worker, wanted) = (self.clone(), index.clone());
            let search: Result<_, Error> =
                tokio::task::spawn_blocking(move || worker.free_cache_mount(&wanted)).await?;
            let (mutable, spec) = match (search?, filler.take()) {
                (Search::Free(free), _) => *free,
                (Search::Nothing, Some(filler)) => {
                    let occupying = mounts.occupied.enter(&index, &mounts.freed);
                    drop(shared);
                    let filled =
                        self.filled_cache_mount(&index, based.as_deref(), description, filler).await?;
                    let Some(filled) = filled else {
                        drop(occupying);
                        continue;
                    };
                    shared = mounts.shared.lock().await;
                    filled
                }
                (Search::InUse, asked) if sharing == Sharing::Locked => {
                    filler = asked;
                    drop(shared);
                    wait(freed, name).await;
                    continue;
                }
                (Search::InUse | Search::Nothing, _) => {
                    let (worker, base, index) = (self.clone(), base.cloned(), index.clone());
                    let (description, based) = (description.to_owned(), based.clone());
                    let make =
                        move || worker.new_cache_mount(&index, based.as_deref(), base.as_ref(), description);
                    tokio::task::spawn_blocking(make).await??
                }
            };
            let held = Arc::new(Held { mutable, spec, _told: Told(Arc::clone(&mounts.freed)) });
            if sharing == Sharing::Shared {
                shared.insert(index, Arc::downgrade(&held));
            }
            return Ok(CacheMount { held });
        }
    }

    fn free_cache_mount(&self, index: &str) -> Result<Search, Error> {
        let known = self.find(index)?;
        for id in &known {
            if let Some(mut mutable) = self.reopen(id)? {
                frozen::forget_packed(&mutable)?;
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
        let mutable = self.create(None, kept(description))?;
        if let Some(base) = base
            && let Err(error) = self.fill(&mutable, base)
        {
            mutable.discard()?;
            return Err(error);
        }
        enter(mutable, index, based)
    }

    /// A new cache mount with what `filler` has; `None` when that has nothing.
    async fn filled_cache_mount(
        &self,
        index: &str,
        based: Option<&str>,
        description: &str,
        filler: &dyn MountFiller,
    ) -> Result<Option<(MutableRef, MountSpec)>, Error> {
        let (worker, description) = (self.clone(), description.to_owned());
        let create = move || worker.create(None, kept(description));
        let begun = Begun(Some(tokio::task::spawn_blocking(create).await??));
        let root = match &begun.0 {
            Some(mutable) => Root::open(self.store().snapshots().path(mutable.snapshot()))?,
            None => return Ok(None),
        };
        if !filler.fill(root).await {
            return Ok(None);
        }
        begun.end().map(|mutable| enter(mutable, index, based)).transpose()
    }

    fn fill(&self, mutable: &MutableRef, base: &Unpacked) -> Result<(), Error> {
        let snapshots = &**self.store().snapshots();
        let change = Change { lower: Stack::default(), upper: base.stack().clone(), own: None };
        transfer(mutable.id(), snapshots, &change, &Root::open(snapshots.path(mutable.snapshot()))?)
    }
}

/// Options of a cache mount that is made.
fn kept(description: String) -> RefOptions {
    RefOptions { record_type: RecordType::CacheMount, retain: true, ..RefOptions::described(description) }
}

/// Makes a whole one known to others.
fn enter(
    mut mutable: MutableRef,
    index: &str,
    based: Option<&str>,
) -> Result<(MutableRef, MountSpec), Error> {
    if let Some(based) = based {
        mutable.add_key(based)?;
    }
    mutable.add_key(index)?;
    let spec = mutable.mount_spec()?;
    Ok((mutable, spec))
}

/// Waits until some cache mount is free. The time is for a holder that freed it without the notice, which a later version
/// might bring.
async fn wait(freed: impl Future<Output = ()>, name: &str) {
    if tokio::time::timeout(Duration::from_secs(1), freed).await.is_err() {
        tracing::debug!(name, "still waiting for a cache mount");
    }
}

/// A cache mount that is being filled. Given up, it goes.
struct Begun(Option<MutableRef>);

impl Begun {
    fn end(mut self) -> Option<MutableRef> {
        self.0.take()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(mutable) = self.0.take() else { return };
        if let Err(error) = mutable.discard() {
            tracing::warn!(%error, "half a cache mount stays until it is pruned");
        }
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
