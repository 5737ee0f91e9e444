//! The worker: making refs, finding them, dropping what a power loss took.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use kiln_oci::{Descriptor, Digest};
use kiln_store::{Json, Stack, Store, StoreTx};

use crate::cache_mount::CacheMounts;
use crate::ceiling::Ceiling;
use crate::node::{self, Node, Registry};
use crate::record::{
    CHILDREN, INDEX, REFS, Record, VALUES, blob_chain_key, chain_id, chain_key, lease, ref_of,
};
use crate::unlazy::Fetching;
use crate::writing::Writings;
use crate::{Error, ImmutableRef, MutableRef, Parents, RecordType, RefId, Unpacked};

/// How many layers are fetched and unpacked at once.
const UNPACK_AT_ONCE: usize = 4;

/// The most layers of a merge: merges of merges double them with each step.
const MAX_LAYERS: usize = 4096;

/// Everything that is kept of builds on one store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Worker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) cache_mounts: CacheMounts,
    pub(crate) unpack_permits: Arc<tokio::sync::Semaphore>,
    pub(crate) pack_permits: Arc<tokio::sync::Semaphore>,
    pub(crate) fetching: Fetching,
    /// Snapshots with a record that somebody may write to.
    pub(crate) writing: Writings,
    /// One prune at a time, so that each sees what the one before left.
    pub(crate) pruning: tokio::sync::Mutex<()>,
    /// What the store may take at most; not set: anything.
    pub(crate) ceiling: std::sync::OnceLock<Ceiling>,
}

/// What a new ref is told about itself.
#[derive(Clone, Debug, Default)]
pub struct RefOptions {
    /// What people are told that it is.
    pub description: String,
    /// What it was made for.
    pub record_type: RecordType,
    /// A mutable ref only: it has a record from the start and stays, as it is, when it is dropped.
    pub retain: bool,
    /// Keys under which [`Worker::find`] has it.
    pub keys: Vec<String>,
    /// `windows` for the tree of a Windows image. Else a layer takes its parent's.
    pub layer_type: String,
    /// Images that it is a layer of.
    pub image_refs: Vec<String>,
    /// When it was made, for a layer that came from elsewhere; else it is made now.
    pub created: Option<SystemTime>,
    /// The maker writes whiteouts into the layer although it stands on nothing.
    pub whiteouts: bool,
    /// The maker hard links files of other snapshots into it.
    pub linked: bool,
}

impl RefOptions {
    /// Options with a description.
    pub fn described(description: impl Into<String>) -> Self {
        Self { description: description.into(), ..Self::default() }
    }
}

/// A layer that is known by its blob.
#[derive(Clone, Debug)]
pub struct LayerSource {
    /// The blob, with all that an image says of it (media type, URLs).
    pub descriptor: Descriptor,
    /// The digest of its tar stream, from the image's config.
    pub diff_id: Digest,
}

impl Worker {
    /// A worker over `store`. What a power loss may have damaged is dropped first, with all refs above it and their cache
    /// results.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(store: Store) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let inner = Inner {
            store,
            registry: Registry::default(),
            cache_mounts: CacheMounts::default(),
            unpack_permits: Arc::new(tokio::sync::Semaphore::new(UNPACK_AT_ONCE)),
            pack_permits: Arc::new(tokio::sync::Semaphore::new(cores)),
            fetching: Fetching::default(),
            writing: Writings::default(),
            pruning: tokio::sync::Mutex::new(()),
            ceiling: std::sync::OnceLock::new(),
        };
        let worker = Self { inner: Arc::new(inner) };
        worker.drop_lost()?;
        Ok(worker)
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Removes what earlier processes left half-made, and refs whose data somebody took away. To be called after the
    /// start, when there is time. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn sweep(&self) -> Result<kiln_store::Swept, Error> {
        let swept = self.store().sweep()?;
        let mut broken = BTreeSet::new();
        for resource in &swept.missing {
            broken.extend(self.store().holders(resource)?.iter().filter_map(ref_of));
        }
        self.drop_refs(broken)?;
        for resource in &swept.missing {
            self.store().change(|tx| tx.drop_resource(resource))?;
        }
        Ok(swept)
    }

    fn drop_lost(&self) -> Result<(), Error> {
        let lost = self.store().lost();
        if lost.is_empty() {
            return Ok(());
        }
        let mut broken = BTreeSet::new();
        for resource in &lost {
            broken.extend(self.store().holders(resource)?.iter().filter_map(ref_of));
        }
        let dropped = self.drop_refs(broken)?;
        tracing::warn!(
            refs = dropped,
            "the machine went down before some cache records were on disk; they are dropped"
        );
        Ok(self.store().forget_lost()?)
    }

    /// Deletes the records of `broken` and of all refs that stand on them; returns how many.
    fn drop_refs(&self, broken: BTreeSet<RefId>) -> Result<usize, Error> {
        let mut all = BTreeSet::new();
        let mut todo: Vec<RefId> = broken.into_iter().collect();
        while let Some(id) = todo.pop() {
            if all.insert(id.clone()) {
                let children = self.store().db().prefix(&CHILDREN, &id.as_str())?;
                todo.extend(children.iter().filter_map(|((_, child), ())| RefId::parse(child)));
            }
        }
        for id in &all {
            self.store().change(|tx| match tx.get(&REFS, &id.as_str().to_owned())? {
                Some(Json(record)) => node::delete(tx, id, &record),
                None => Ok(()),
            })?;
        }
        Ok(all.len())
    }

    /// Makes a new mutable ref on `parent`, or on nothing. Blocks: a few folders with overlay, a copy with native
    /// snapshots.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn create(&self, parent: Option<&Unpacked>, options: RefOptions) -> Result<MutableRef, Error> {
        let parent = parent.map(|parent| (parent.as_ref().clone(), parent.stack().clone()));
        MutableRef::create(self, parent, options)
    }

    /// The ref of an immutable record.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Kind`] when it is mutable.
    pub fn get(&self, id: &RefId) -> Result<ImmutableRef, Error> {
        let node = self.load(id)?;
        if node.with(|record| record.mutable) {
            return Err(Error::Kind(id.clone(), "mutable"));
        }
        Ok(ImmutableRef::new(node, true))
    }

    /// Takes up a mutable ref that was kept.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Busy`] while it has another holder; [`Error::Kind`] when it is not mutable.
    pub fn get_mutable(&self, id: &RefId) -> Result<MutableRef, Error> {
        let mut made = Vec::new();
        let mut live = self.inner.registry.lock();
        if node::is_live(&live, id) {
            return Err(Error::Busy(id.clone()));
        }
        self.drop_twin(&live, id)?;
        let node = node::load(&self.inner, &mut live, id, &mut made);
        drop(live);
        let node = node?;
        if !node.with(|record| record.mutable) {
            return Err(Error::Kind(id.clone(), "not mutable"));
        }
        MutableRef::take_up(self, node)
    }

    /// Takes up a mutable ref that was kept, if it is there and free; see [`Worker::get_mutable`]. What
    /// [`MutableRef::commit_kept`] made of it goes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn reopen(&self, id: &RefId) -> Result<Option<MutableRef>, Error> {
        match self.get_mutable(id) {
            Ok(found) => Ok(Some(found)),
            Err(Error::Gone(_) | Error::Busy(_) | Error::Kind(..)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the immutable ref that shares the snapshot of the kept ref `id`, which is about to change. What was learnt
    /// of the files meanwhile goes over to the kept ref: they are still the same.
    fn drop_twin(&self, live: &node::Live<'_>, id: &RefId) -> Result<(), Error> {
        let record = |id: &RefId| self.store().db().get(&REFS, &id.as_str().to_owned());
        let Some(twin) = record(id)?.and_then(|Json(record)| record.twin) else { return Ok(()) };
        let Some(Json(twin_record)) = record(&twin)? else { return Ok(()) };
        let has_children = !self.store().db().prefix(&CHILDREN, &twin.as_str())?.is_empty();
        if node::is_live(live, &twin) || has_children {
            return Err(Error::Busy(id.clone()));
        }
        self.store().change(|tx| {
            for ((_, name), value) in tx.prefix(&VALUES, &twin.as_str())? {
                tx.put(&VALUES, &(id.as_str().to_owned(), name), &value);
            }
            node::delete(tx, &twin, &twin_record)
        })
    }

    /// The refs that are entered under `key`, mutable ones too.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn find(&self, key: &str) -> Result<Vec<RefId>, Error> {
        let rows = self.store().db().prefix(&INDEX, &key)?;
        Ok(rows.into_iter().filter_map(|((_, id), ())| RefId::parse(&id)).collect())
    }

    /// Whether there is a record of an immutable ref `id` whose files or blobs are here or may be had.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn exists(&self, id: &RefId) -> Result<bool, Error> {
        Ok(self.store().db().get(&REFS, &id.as_str().to_owned())?.is_some())
    }

    /// The ref of an image's layer on `parent`, lazy unless these very layers were unpacked before: then that ref itself,
    /// or a ref that shares its snapshot.
    ///
    /// # Errors
    /// [`Error::NotAddressable`] when `parent` is not known by blobs.
    pub fn get_by_blob(
        &self,
        parent: Option<&ImmutableRef>,
        layer: &LayerSource,
        options: RefOptions,
    ) -> Result<ImmutableRef, Error> {
        let below = parent.map(|parent| match (parent.chain_id(), parent.blob_chain_id()) {
            (Some(chain), Some(blob_chain)) => Ok((chain, blob_chain)),
            _ => Err(Error::NotAddressable(parent.id().clone())),
        });
        let below = below.transpose()?;
        let own = Digest::sha256(format!("{} {}", layer.descriptor.digest, layer.diff_id));
        let chain = chain_id(below.as_ref().map(|(chain, _)| chain), &layer.diff_id);
        let blob_chain = chain_id(below.as_ref().map(|(_, blob_chain)| blob_chain), &own);

        if let Some(known) = self.find_immutable(&blob_chain_key(&blob_chain))? {
            for name in &options.image_refs {
                known.add_image_ref(name)?;
            }
            return Ok(known);
        }
        let twin = self.find_immutable(&chain_key(&chain))?;
        // The same files in another compression: the new ref shares the snapshot, if the layer stands on the same.
        let shared = twin.and_then(|twin| self.shareable(&twin, parent));
        let mut keys = options.keys.clone();
        keys.extend([chain_key(&chain), blob_chain_key(&blob_chain)]);
        let mut record = Record {
            parents: parent.map_or(Parents::None, |parent| Parents::Layer(parent.id().clone())),
            snapshot: shared.as_ref().map(|(_, snapshot)| snapshot.clone()),
            diff_id: Some(layer.diff_id.clone()),
            chain_id: Some(chain),
            blob_chain_id: Some(blob_chain),
            blobs: vec![layer.descriptor.clone()],
            image_refs: options.image_refs,
            layer_type: options.layer_type,
            record_type: options.record_type,
            description: options.description,
            keys,
            ..Record::new()
        };
        if let Some(created) = options.created {
            record.set_created(created);
        }
        let blob = kiln_store::Resource::Blob(layer.descriptor.digest.clone());
        let node = self.insert(RefId::random()?, record, parent, |tx, id| {
            match tx.hold(&lease(id), &blob) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                // It will be held when it has been fetched.
                _ => {}
            }
            if let Some((_, snapshot)) = &shared {
                tx.hold(&lease(id), &kiln_store::Resource::Snapshot(snapshot.clone()))?;
            }
            Ok(())
        })?;
        Ok(ImmutableRef::new(node, true))
    }

    /// The snapshot of `twin`, when a layer with its chain id on `parent` may use it: always with whole trees, and with
    /// overlay because a layer's own folder does not depend on what it stands on.
    fn shareable(
        &self,
        twin: &ImmutableRef,
        parent: Option<&ImmutableRef>,
    ) -> Option<(ImmutableRef, kiln_store::SnapshotId)> {
        let same_shape = matches!(twin.node().parents, Parents::Layer(_)) == parent.is_some();
        let snapshot = twin.node().with(|record| record.snapshot.clone());
        (same_shape && !twin.is_lazy()).then_some(snapshot?).map(|snapshot| (twin.clone(), snapshot))
    }

    fn find_immutable(&self, key: &str) -> Result<Option<ImmutableRef>, Error> {
        for id in self.find(key)? {
            match self.get(&id) {
                Ok(found) => return Ok(Some(found)),
                Err(Error::Gone(_) | Error::Kind(..)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The ref that shows `parents`, each above the ones before. Nothing is done until its files are needed. With fewer
    /// than two parents there is nothing to merge: none gives `None`, one gives itself.
    ///
    /// # Errors
    /// [`Error::Layers`], [`Error::Store`].
    pub fn merge(
        &self,
        parents: &[ImmutableRef],
        options: RefOptions,
    ) -> Result<Option<ImmutableRef>, Error> {
        let [first, _, ..] = parents else { return Ok(parents.first().cloned()) };
        let count = parents.iter().map(|parent| parent.node().layers).fold(0, usize::saturating_add);
        if count > MAX_LAYERS {
            return Err(Error::Layers { count, limit: MAX_LAYERS });
        }
        let record = Record {
            parents: Parents::Merge(parents.iter().map(|parent| parent.id().clone()).collect()),
            description: options.description,
            record_type: options.record_type,
            layer_type: first.layer_type(),
            keys: options.keys,
            ..Record::new()
        };
        let nodes = Parents::Merge(parents.iter().map(|parent| Arc::clone(parent.node())).collect());
        let node = self.insert_with(RefId::random()?, record, nodes, |_, _| Ok(()))?;
        Ok(Some(ImmutableRef::new(node, true)))
    }

    /// The ref that shows what `upper` changes in `lower`. Nothing is done until its files are needed. Equal refs differ in
    /// nothing (`None`), and without a lower one it is `upper` itself.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn diff(
        &self,
        lower: Option<&ImmutableRef>,
        upper: Option<&ImmutableRef>,
        options: RefOptions,
    ) -> Result<Option<ImmutableRef>, Error> {
        let Some(below) = lower else { return Ok(upper.cloned()) };
        if upper.is_some_and(|upper| upper == below) {
            return Ok(None);
        }
        let parents = Parents::Diff { lower: lower.cloned(), upper: upper.cloned() };
        let record = Record {
            parents: parents.map(|parent| parent.id().clone()),
            description: options.description,
            record_type: options.record_type,
            layer_type: upper.unwrap_or(below).layer_type(),
            keys: options.keys,
            ..Record::new()
        };
        let nodes = parents.map(|parent| Arc::clone(parent.node()));
        let node = self.insert_with(RefId::random()?, record, nodes, |_, _| Ok(()))?;
        Ok(Some(ImmutableRef::new(node, true)))
    }

    pub(crate) fn load(&self, id: &RefId) -> Result<Arc<Node>, Error> {
        let mut made = Vec::new();
        let mut live = self.inner.registry.lock();
        let node = node::load(&self.inner, &mut live, id, &mut made);
        drop(live);
        node
    }

    /// Writes a new record of a layer on `parent` together with what `more` writes, and enters its node.
    pub(crate) fn insert(
        &self,
        id: RefId,
        record: Record,
        parent: Option<&ImmutableRef>,
        more: impl FnOnce(&mut StoreTx<'_, '_>, &RefId) -> Result<(), Error>,
    ) -> Result<Arc<Node>, Error> {
        let parents = parent.map_or(Parents::None, |parent| Parents::Layer(Arc::clone(parent.node())));
        self.insert_with(id, record, parents, more)
    }

    fn insert_with(
        &self,
        id: RefId,
        record: Record,
        parents: Parents<Arc<Node>>,
        more: impl FnOnce(&mut StoreTx<'_, '_>, &RefId) -> Result<(), Error>,
    ) -> Result<Arc<Node>, Error> {
        let mut made = Vec::new();
        // From the moment that the record can be seen the ref is in use.
        let mut live = self.inner.registry.lock();
        self.store().change(|tx| {
            node::write_new(tx, &id, &record);
            more(tx, &id)
        })?;
        let node = node::insert(&self.inner, &mut live, id, record, parents, &mut made);
        drop(live);
        Ok(node)
    }

    /// The stack of an unpacked ref.
    pub(crate) fn stack_of(node: &Node) -> Result<Stack, Error> {
        node.stack().ok_or_else(|| Error::Gone(node.id.clone()))
    }
}
