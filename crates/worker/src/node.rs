//! Records in memory: one node for each record that is in use, holding its parents' nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_store::{Json, Stack, StoreTx};

use crate::record::{CHILDREN, INDEX, REFS, Record, USED, Used, VALUES, lease};
use crate::worker::Inner;
use crate::{Error, Parents, RefId};

/// A record that is in use: by a handle, or by a node that stands on it.
pub(crate) struct Node {
    pub(crate) id: RefId,
    pub(crate) worker: Arc<Inner>,
    pub(crate) parents: Parents<Arc<Node>>,
    /// At most so many layers make it up.
    pub(crate) layers: usize,
    record: Mutex<Record>,
    /// Held by the one who unpacks it.
    pub(crate) unpacking: tokio::sync::Mutex<()>,
    /// Held by the one who makes its blobs.
    pub(crate) packing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.id).finish()
    }
}

/// The nodes of a worker.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    live: Mutex<HashMap<RefId, Weak<Node>>>,
}

impl Registry {
    /// Held while it is decided whether a record is in use.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<RefId, Weak<Node>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) type Live<'a> = MutexGuard<'a, HashMap<RefId, Weak<Node>>>;

/// Whether a handle or a node above it uses the record.
pub(crate) fn is_live(live: &Live<'_>, id: &RefId) -> bool {
    live.get(id).is_some_and(|node| node.strong_count() > 0)
}

/// The node of the record `id`, read with those of its parents when it is not in use yet. Nodes met meanwhile are kept
/// alive in `made`, which must be dropped after the lock: dropping a node takes it.
pub(crate) fn load(
    worker: &Arc<Inner>,
    live: &mut Live<'_>,
    id: &RefId,
    made: &mut Vec<Arc<Node>>,
) -> Result<Arc<Node>, Error> {
    if let Some(node) = live.get(id).and_then(Weak::upgrade) {
        return Ok(node);
    }
    // Chains may be long: those that are to be made, each after something that stands on it.
    let mut todo = vec![id.clone()];
    let mut read: HashMap<RefId, Record> = HashMap::new();
    while let Some(id) = todo.last() {
        if let Some(node) = live.get(id).and_then(Weak::upgrade) {
            made.push(node);
            todo.pop();
            continue;
        }
        let record = match read.get(id) {
            Some(record) => record.clone(),
            None => match worker.store.db().get(&REFS, &id.as_str().to_owned())? {
                Some(Json(record)) => record,
                None => return Err(Error::Gone(id.clone())),
            },
        };
        let mut missing = Vec::new();
        for parent in record.parents.iter() {
            match live.get(parent).and_then(Weak::upgrade) {
                Some(node) => made.push(node),
                // No worker writes records that stand on themselves.
                None if parent == id || read.contains_key(parent) => return Err(Error::Gone(parent.clone())),
                None => missing.push(parent.clone()),
            }
        }
        if !missing.is_empty() {
            read.insert(id.clone(), record);
            todo.append(&mut missing);
            continue;
        }
        let node = |parent: &RefId| {
            live.get(parent).and_then(Weak::upgrade).ok_or_else(|| Error::Gone(parent.clone()))
        };
        let parents = record.parents.try_map(node)?;
        let id = id.clone();
        read.remove(&id);
        insert(worker, live, id, record, parents, made);
    }
    live.get(id).and_then(Weak::upgrade).ok_or_else(|| Error::Gone(id.clone()))
}

/// Makes the node of a record and enters it.
pub(crate) fn insert(
    worker: &Arc<Inner>,
    live: &mut Live<'_>,
    id: RefId,
    record: Record,
    parents: Parents<Arc<Node>>,
    made: &mut Vec<Arc<Node>>,
) -> Arc<Node> {
    let layers = match &parents {
        Parents::None => 1,
        Parents::Layer(parent) => parent.layers.saturating_add(1),
        Parents::Merge(parents) => parents.iter().map(|p| p.layers).fold(0, usize::saturating_add),
        Parents::Diff { upper, .. } => upper.as_ref().map_or(1, |upper| upper.layers),
    };
    let node = Arc::new(Node {
        id: id.clone(),
        worker: Arc::clone(worker),
        parents,
        layers,
        record: Mutex::new(record),
        unpacking: tokio::sync::Mutex::new(()),
        packing: tokio::sync::Mutex::new(()),
    });
    made.push(Arc::clone(&node));
    live.insert(id, Arc::downgrade(&node));
    node
}

/// Writes a new record with its lease, its place below its parents and its keys.
pub(crate) fn write_new(tx: &mut StoreTx<'_, '_>, id: &RefId, record: &Record) {
    let key = id.as_str().to_owned();
    tx.create_lease(&lease(id), &kiln_store::LeaseInfo::lasting());
    tx.put(&REFS, &key, &Json(record.clone()));
    tx.put(&USED, &key, &Json(Used { last: now_ms(), count: 0 }));
    for parent in record.parents.iter() {
        tx.put(&CHILDREN, &(parent.as_str().to_owned(), key.clone()), &());
    }
    for index in &record.keys {
        tx.put(&INDEX, &(index.clone(), key.clone()), &());
    }
}

/// Deletes a record with all that belongs to it; its cache results too.
pub(crate) fn delete(tx: &mut StoreTx<'_, '_>, id: &RefId, record: &Record) -> Result<(), Error> {
    let key = id.as_str().to_owned();
    tx.delete(&REFS, &key);
    tx.delete(&USED, &key);
    for parent in record.parents.iter() {
        tx.delete(&CHILDREN, &(parent.as_str().to_owned(), key.clone()));
    }
    for index in &record.keys {
        tx.delete(&INDEX, &(index.clone(), key.clone()));
    }
    for (value, _) in tx.prefix(&VALUES, &id.as_str())? {
        tx.delete(&VALUES, &value);
    }
    crate::engine_cache::release_result(tx, id.as_str())?;
    tx.release(&lease(id))?;
    Ok(())
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Node {
    pub(crate) fn record(&self) -> Record {
        self.with(Record::clone)
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&Record) -> T) -> T {
        f(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the record, in memory and on disk, together with what `more` writes.
    pub(crate) fn update(
        &self,
        change: impl FnOnce(&mut Record),
        more: impl FnOnce(&mut StoreTx<'_, '_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = record.clone();
        change(&mut changed);
        let key = self.id.as_str().to_owned();
        self.worker.store.change(|tx| {
            for old in record.keys.iter().filter(|k| !changed.keys.contains(k)) {
                tx.delete(&INDEX, &(old.clone(), key.clone()));
            }
            for new in changed.keys.iter().filter(|k| !record.keys.contains(k)) {
                tx.put(&INDEX, &(new.clone(), key.clone()), &());
            }
            tx.put(&REFS, &key, &Json(changed.clone()));
            more(tx)
        })?;
        *record = changed;
        Ok(())
    }

    /// Has its size measured again: it holds more than before.
    pub(crate) fn forget_size(&self) -> Result<(), Error> {
        match self.with(|record| record.size) {
            Some(_) => self.update(|record| record.size = None, |_| Ok(())),
            None => Ok(()),
        }
    }

    /// What the tree is made of on disk; `None` while it, or something that it stands on, is lazy.
    pub(crate) fn stack(&self) -> Option<Stack> {
        let (mut node, mut layers) = (self, Vec::new());
        let base = loop {
            let (whole, own) = node.with(|record| (record.stack.clone(), record.snapshot.clone()));
            if let Some(whole) = whole {
                break whole;
            }
            layers.push(own?);
            match &node.parents {
                Parents::Layer(parent) => node = parent,
                _ => break Stack::default(),
            }
        };
        let snapshots = self.worker.store.snapshots();
        Some(layers.iter().rev().fold(base, |base, own| snapshots.stack(own, &base)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut live = self.worker.registry.lock();
        // A node of the same record may have been made since.
        if !is_live(&live, &self.id) {
            live.remove(&self.id);
        }
        drop(live);
        // Long chains are let go one by one, not by recursion.
        let mut rest: Vec<Arc<Self>> = std::mem::take(&mut self.parents).into_vec();
        while let Some(node) = rest.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                rest.append(&mut std::mem::take(&mut node.parents).into_vec());
            }
        }
    }
}

impl<T> Parents<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::None => Vec::new(),
            Self::Layer(parent) => vec![parent],
            Self::Merge(parents) => parents,
            Self::Diff { lower, upper } => lower.into_iter().chain(upper).collect(),
        }
    }
}
