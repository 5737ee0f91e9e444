//! Refs that are being written.

use std::sync::Arc;
use std::time::SystemTime;

use kiln_fstree::Root;
use kiln_store::{Active, MountSpec, Resource, SnapshotId, SnapshotInfo, Stack};

use crate::node::{self, Node};
use crate::record::{Record, VALUES, lease};
use crate::writing::Writing;
use crate::{Error, ImmutableRef, Parents, RefId, RefOptions, Worker};

/// A tree that is being written by its one holder. Dropped, it is removed in the background, or kept as it is when it was
/// made with [`RefOptions::retain`].
#[derive(Debug)]
pub struct MutableRef {
    worker: Worker,
    parent: Option<ImmutableRef>,
    base: Stack,
    options: RefOptions,
    state: State,
}

/// Where the record is.
#[derive(Debug)]
enum State {
    /// There is none: the folders go when this is dropped.
    Fresh { id: RefId, active: Active },
    /// A record keeps it between builds. The handle counts the use.
    // Written to no more before another may take it up.
    Kept { _writing: Writing, handle: ImmutableRef, snapshot: SnapshotId },
}

impl MutableRef {
    /// Makes a new one on `parent`.
    pub(crate) fn create(
        worker: &Worker,
        parent: Option<(ImmutableRef, Stack)>,
        options: RefOptions,
    ) -> Result<Self, Error> {
        let (parent, base) = parent.map_or((None, Stack::default()), |(parent, stack)| (Some(parent), stack));
        let active = worker.store().snapshots().prepare(&base)?;
        let id = RefId::random()?;
        let state = if options.retain {
            let record =
                Record { mutable: true, retain: true, ..new_record(&options, parent.as_ref(), &active) };
            let writing = worker.inner().writing.enter(active.id());
            let node = worker.insert(id, record, parent.as_ref(), |tx, id| {
                Ok(tx.add_snapshot(active.id(), &SnapshotInfo::default(), &lease(id))?)
            })?;
            let handle = ImmutableRef::new(node, true);
            State::Kept { _writing: writing, handle, snapshot: active.keep() }
        } else {
            State::Fresh { id, active }
        };
        Ok(Self { worker: worker.clone(), parent, base, options, state })
    }

    /// Takes up one that was kept.
    pub(crate) fn take_up(worker: &Worker, node: Arc<Node>) -> Result<Self, Error> {
        let (snapshot, base) = match (node.with(|record| record.snapshot.clone()), &node.parents) {
            (Some(snapshot), Parents::Layer(parent)) => {
                (snapshot, parent.stack().ok_or_else(|| Error::Gone(node.id.clone()))?)
            }
            (Some(snapshot), _) => (snapshot, Stack::default()),
            (None, _) => return Err(Error::Gone(node.id.clone())),
        };
        let parent = match &node.parents {
            Parents::Layer(parent) => Some(ImmutableRef::new(Arc::clone(parent), false)),
            _ => None,
        };
        let writing = worker.inner().writing.enter(&snapshot);
        // Before the record forgets it, so that no measurement that is under way writes it there again.
        if let Some(ceiling) = worker.ceiling() {
            ceiling.meter.forget(&snapshot);
        }
        worker.store().change(|tx| tx.reopen_snapshot(&snapshot))?;
        let handle = ImmutableRef::new(node, true);
        let state = State::Kept { _writing: writing, handle, snapshot };
        Ok(Self { worker: worker.clone(), parent, base, options: RefOptions::default(), state })
    }

    /// Its id. [`MutableRef::commit`] keeps it, unless the ref is kept.
    pub fn id(&self) -> &RefId {
        match &self.state {
            State::Fresh { id, .. } => id,
            State::Kept { handle, .. } => handle.id(),
        }
    }

    /// What it stands on.
    pub fn parent(&self) -> Option<&ImmutableRef> {
        self.parent.as_ref()
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The snapshots below it.
    pub(crate) fn base(&self) -> &Stack {
        &self.base
    }

    /// Its snapshot.
    pub fn snapshot(&self) -> &SnapshotId {
        match &self.state {
            State::Fresh { active, .. } => active.id(),
            State::Kept { snapshot, .. } => snapshot,
        }
    }

    /// How to mount it for writing. At most one such mount at a time; none may be left when it is committed.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn mount_spec(&mut self) -> Result<MountSpec, Error> {
        Ok(self.worker.store().snapshots().writable(self.snapshot(), &self.base)?)
    }

    /// The tree itself for writing, as a mount that is attached nowhere. To be dropped before
    /// [`commit`](MutableRef::commit). Blocks for a moment.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(&mut self) -> Result<Root, Error> {
        Ok(self.mount_spec()?.open()?)
    }

    /// Says what people are told that it is.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn set_description(&mut self, text: &str) -> Result<(), Error> {
        match &self.state {
            State::Fresh { .. } => text.clone_into(&mut self.options.description),
            State::Kept { handle, .. } => handle.set_description(text)?,
        }
        Ok(())
    }

    /// Enters a kept ref under `key`, for [`Worker::find`].
    ///
    /// # Errors
    /// [`Error::Kind`] when the ref is not kept; [`Error::Store`].
    pub fn add_key(&self, key: &str) -> Result<(), Error> {
        match &self.state {
            State::Fresh { id, .. } => Err(Error::Kind(id.clone(), "not kept, so it cannot be found")),
            State::Kept { handle, .. } => handle.add_key(key),
        }
    }

    /// A value that was kept with the ref.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn value(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match &self.state {
            State::Fresh { .. } => Ok(None),
            State::Kept { handle, .. } => handle.value(name),
        }
    }

    /// Keeps a value with a kept ref.
    ///
    /// # Errors
    /// [`Error::Kind`] when the ref is not kept; [`Error::Store`].
    pub fn set_value(&self, name: &str, value: Vec<u8>) -> Result<(), Error> {
        match &self.state {
            State::Fresh { id, .. } => Err(Error::Kind(id.clone(), "not kept, so it can keep no values")),
            State::Kept { handle, .. } => handle.set_value(name, value),
        }
    }

    /// Ends writing. A kept ref loses its keys and values, and becomes an ordinary ref that a prune may take.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn commit(self) -> Result<ImmutableRef, Error> {
        let Self { worker, parent, options, state, .. } = self;
        match state {
            State::Fresh { id, active } => {
                let record = new_record(&options, parent.as_ref(), &active);
                let whiteouts = options.whiteouts || parent.is_some();
                let info = SnapshotInfo { whiteouts, linked: options.linked, ..SnapshotInfo::default() };
                let node = worker.insert(id, record, parent.as_ref(), |tx, id| {
                    Ok(tx.add_snapshot(active.id(), &info, &lease(id))?)
                })?;
                active.keep();
                Ok(ImmutableRef::new(node, true))
            }
            State::Kept { handle, snapshot, .. } => {
                let node = handle.node();
                node.update(
                    |record| {
                        record.mutable = false;
                        record.retain = false;
                        record.keys.clear();
                        record.size = None;
                        record.set_created(SystemTime::now());
                    },
                    |tx| {
                        for (value, _) in tx.prefix(&VALUES, &node.id.as_str())? {
                            tx.delete(&VALUES, &value);
                        }
                        let info = SnapshotInfo { whiteouts: parent.is_some(), ..SnapshotInfo::default() };
                        Ok(tx.add_snapshot(&snapshot, &info, &lease(&node.id))?)
                    },
                )?;
                Ok(handle)
            }
        }
    }

    /// Ends writing for now: gives an immutable ref of the tree as it is, with a copy of the values, while the kept ref
    /// stays to be written again. The two share their files, so the kept ref cannot be taken up again while the immutable
    /// one is in use or has refs upon it; when it is taken up, the immutable one goes. Nothing may be mounted.
    ///
    /// # Errors
    /// [`Error::Kind`] when the ref is not kept; [`Error::Store`].
    pub fn commit_kept(self) -> Result<ImmutableRef, Error> {
        let State::Kept { handle, snapshot, .. } = &self.state else {
            return Err(Error::Kind(self.id().clone(), "not kept"));
        };
        let kept = handle.node();
        let id = RefId::random()?;
        // First, so that the kept ref never changes under an immutable one that it does not know of.
        kept.update(|record| record.twin = Some(id.clone()), |_| Ok(()))?;
        let mut record = kept.record();
        record.mutable = false;
        record.retain = false;
        record.keys.clear();
        record.size = None;
        record.set_created(SystemTime::now());
        record.twin = Some(kept.id.clone());
        let values = self.worker.store().db().prefix(&VALUES, &kept.id.as_str())?;
        let resource = Resource::Snapshot(snapshot.clone());
        let node = self.worker.insert(id, record, self.parent.as_ref(), |tx, id| {
            for ((_, name), value) in &values {
                tx.put(&VALUES, &(id.as_str().to_owned(), name.clone()), value);
            }
            tx.add_uncovered(&resource);
            Ok(tx.hold(&lease(id), &resource)?)
        })?;
        Ok(ImmutableRef::new(node, true))
    }

    /// Removes a kept ref with its record, for a tree that is not to be used again.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn discard(self) -> Result<(), Error> {
        if let State::Kept { handle, .. } = &self.state {
            let record = handle.node().record();
            self.worker.store().change(|tx| node::delete(tx, handle.id(), &record))?;
        }
        Ok(())
    }
}

fn new_record(options: &RefOptions, parent: Option<&ImmutableRef>, active: &Active) -> Record {
    Record {
        parents: parent.map_or(Parents::None, |parent| Parents::Layer(parent.id().clone())),
        snapshot: Some(active.id().clone()),
        description: options.description.clone(),
        record_type: options.record_type,
        image_refs: options.image_refs.clone(),
        layer_type: match parent {
            Some(parent) if options.layer_type.is_empty() => parent.layer_type(),
            _ => options.layer_type.clone(),
        },
        keys: options.keys.clone(),
        ..Record::new()
    }
}
