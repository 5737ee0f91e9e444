//! Whether the records fit together.

use std::collections::BTreeSet;
use std::fmt::Display;

use kiln_store::{Json, LeaseId, Resource, SnapshotId};

use crate::record::{CHILDREN, INDEX, REFS, Record, USED, VALUES, lease};
use crate::{Error, RefId, Worker, engine_cache};

impl Worker {
    /// What does not fit together among the records, in words; nothing, if all is well. Reads everything that there is, so it
    /// is for tests and for those who look for a fault. No build may run.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn problems(&self) -> Result<Vec<String>, Error> {
        let db = self.store().db();
        let mut found = Found(Vec::new());
        let refs = db.prefix(&REFS, &())?;
        let known: BTreeSet<&str> = refs.iter().map(|(id, _)| id.as_str()).collect();
        for (id, Json(record)) in &refs {
            match RefId::parse(id) {
                Some(id) => self.look_at(&id, record, &known, &mut found)?,
                None => found.add(id, "is no name of a ref"),
            }
        }
        let record = |id: &str| refs.iter().find(|(known, _)| known == id).map(|(_, Json(record))| record);
        for ((parent, child), ()) in db.prefix(&CHILDREN, &())? {
            if !record(&child).is_some_and(|r| r.parents.iter().any(|p| p.as_str() == parent)) {
                found.add(&child, format!("is entered below {parent}, which it does not stand on"));
            }
        }
        for ((key, id), ()) in db.prefix(&INDEX, &())? {
            if !record(&id).is_some_and(|r| r.keys.contains(&key)) {
                found.add(&id, format!("is entered under {key}, which it does not name"));
            }
        }
        for ((id, name), _) in db.prefix(&VALUES, &())? {
            if !known.contains(id.as_str()) {
                found.add(&id, format!("has a value {name} and no record"));
            }
        }
        engine_cache::problems(db, |id| known.contains(id), &mut |what, problem| found.add(what, problem))?;
        Ok(found.0)
    }

    fn look_at(
        &self,
        id: &RefId,
        record: &Record,
        known: &BTreeSet<&str>,
        found: &mut Found,
    ) -> Result<(), Error> {
        let db = self.store().db();
        let key = id.as_str().to_owned();
        for parent in record.parents.iter() {
            if !known.contains(parent.as_str()) {
                found.add(id, format!("stands on {parent}, which has no record"));
            }
            if db.get(&CHILDREN, &(parent.as_str().to_owned(), key.clone()))?.is_none() {
                found.add(id, format!("is not entered below {parent}"));
            }
        }
        for name in &record.keys {
            if db.get(&INDEX, &(name.clone(), key.clone()))?.is_none() {
                found.add(id, format!("is not entered under {name}"));
            }
        }
        if db.get(&USED, &key)?.is_none() {
            found.add(id, "has no record of its use");
        }
        let held: Vec<Resource> = self.store().held_by(&lease(id))?;
        for snapshot in record.snapshot.iter().chain(record.stack.iter().flat_map(|stack| &stack.0)) {
            let own = record.snapshot.as_ref() == Some(snapshot);
            self.look_at_snapshot(id, snapshot, own.then(|| lease(id)), found)?;
        }
        for resource in held {
            let there = match &resource {
                Resource::Blob(digest) => self.store().content().stat(digest)?.is_some(),
                Resource::Snapshot(snapshot) => self.store().change(|tx| tx.snapshot(snapshot))?.is_some(),
            };
            if !there {
                found.add(id, format!("holds {resource}, which has no record"));
            }
        }
        Ok(())
    }

    /// A snapshot that a ref shows has a record, is on disk, and is held by whom it belongs to.
    fn look_at_snapshot(
        &self,
        id: &RefId,
        snapshot: &SnapshotId,
        owner: Option<LeaseId>,
        found: &mut Found,
    ) -> Result<(), Error> {
        let store = self.store();
        if store.change(|tx| tx.snapshot(snapshot))?.is_none() {
            found.add(id, format!("shows snapshot {snapshot}, which has no record"));
        }
        if !store.snapshots().path(snapshot).is_dir() {
            found.add(id, format!("shows snapshot {snapshot}, which is not on disk"));
        }
        let holders = store.holders(&Resource::Snapshot(snapshot.clone()))?;
        if owner.is_some_and(|owner| !holders.contains(&owner)) {
            found.add(id, format!("does not hold its snapshot {snapshot}"));
        }
        Ok(())
    }
}

struct Found(Vec<String>);

impl Found {
    fn add(&mut self, what: impl Display, problem: impl Display) {
        self.0.push(format!("{what} {problem}"));
    }
}
