//! Work that makes the store grow, and which of it has to end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kiln_store::SnapshotId;
use tokio::sync::oneshot;

use super::Ceiling;
use crate::{Error, Worker};

/// Work that may make the store grow, for as long as it, or an [`Announcement`] of it, lives.
#[derive(Debug)]
pub struct Growth {
    worker: Worker,
    /// `None` where there is no ceiling.
    watched: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    id: u64,
    full: oneshot::Receiver<Error>,
    announced: Arc<Announced>,
}

/// Keeps work announced when it is over, while something of it is still there. Clones are one.
#[derive(Clone, Debug)]
pub struct Announcement {
    _announced: Option<Arc<Announced>>,
}

#[derive(Debug)]
struct Announced {
    worker: Worker,
    id: u64,
}

/// All work that is under way, the first to come first.
#[derive(Debug, Default)]
pub(super) struct Works {
    next: u64,
    watching: bool,
    works: BTreeMap<u64, Work>,
    /// Sizes of snapshots at the last measurement.
    last: HashMap<SnapshotId, u64>,
    /// By how much each has grown since the one before.
    grown: HashMap<SnapshotId, u64>,
}

#[derive(Debug)]
struct Work {
    /// Ends it; gone once it was used.
    full: Option<oneshot::Sender<Error>>,
    /// Dropped when the work is over.
    gone: Option<oneshot::Sender<()>>,
    snapshots: Vec<SnapshotId>,
}

impl Works {
    fn enter(&mut self) -> (u64, oneshot::Receiver<Error>) {
        let (sender, full) = oneshot::channel();
        let id = self.next;
        self.next += 1;
        self.works.insert(id, Work { full: Some(sender), gone: None, snapshots: Vec::new() });
        (id, full)
    }

    /// Notes the sizes of what is written to.
    pub(super) fn note(&mut self, sizes: &HashMap<SnapshotId, u64>) {
        let last = std::mem::replace(&mut self.last, sizes.clone());
        let grown = |(id, size): (&SnapshotId, &u64)| {
            let before = last.get(id).copied().unwrap_or_default();
            (id.clone(), size.saturating_sub(before))
        };
        self.grown = sizes.iter().map(grown).collect();
    }

    /// Ends one work: the one whose trees have grown most since the last measurement, or where none has, the last to come.
    /// What is given resolves when it has gone.
    pub(super) fn end_one(&mut self, why: impl FnOnce() -> Error) -> Option<oneshot::Receiver<()>> {
        let grown = |work: &Work| work.snapshots.iter().filter_map(|id| self.grown.get(id)).sum::<u64>();
        let left = self.works.iter().filter(|(_, work)| work.full.is_some());
        let (_, id) = left.map(|(id, work)| (grown(work), *id)).max()?;
        let work = self.works.get_mut(&id)?;
        // One that has just ended by itself is no less gone.
        drop(work.full.take()?.send(why()));
        let (gone, when) = oneshot::channel();
        work.gone = Some(gone);
        Some(when)
    }

    /// Whether the watch is over, as nothing is under way.
    pub(super) fn end_watch(&mut self) -> bool {
        self.watching = !self.works.is_empty();
        !self.watching
    }
}

impl Worker {
    /// Announces work that may make the store grow.
    ///
    /// # Errors
    /// [`Error::Full`] when the store is at its ceiling and nothing can be pruned.
    pub async fn grow(&self) -> Result<Growth, Error> {
        self.make_room(0).await?;
        let watched = self.ceiling().map(|ceiling| {
            let mut works = ceiling.works();
            let (id, full) = works.enter();
            if !std::mem::replace(&mut works.watching, true) {
                tokio::spawn(self.clone().watch());
            }
            Watched { id, full, announced: Arc::new(Announced { worker: self.clone(), id }) }
        });
        Ok(Growth { worker: self.clone(), watched })
    }

    /// Does `work`, which may make the store grow; it is dropped when the store would grow past its ceiling for it.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub async fn growing<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        self.grow().await?.run(work).await
    }
}

/// Says what work that grows writes to, from whichever thread finds out.
#[derive(Clone, Debug)]
pub struct Writes {
    worker: Worker,
    work: Option<u64>,
}

impl Writes {
    /// The work writes to this snapshot.
    pub fn to(&self, snapshot: &SnapshotId) {
        let Some((work, ceiling)) = self.work.zip(self.worker.ceiling()) else { return };
        if let Some(work) = ceiling.works().works.get_mut(&work) {
            work.snapshots.push(snapshot.clone());
        }
    }
}

impl Growth {
    /// For whoever learns only in the course of the work what it writes to.
    #[must_use]
    pub fn writing(&self) -> Writes {
        Writes { worker: self.worker.clone(), work: self.watched.as_ref().map(|watched| watched.id) }
    }

    /// The work writes to this snapshot.
    pub fn writes(&self, snapshot: &SnapshotId) {
        self.writing().to(snapshot);
    }

    /// To be dropped after the last of what the work writes to.
    #[must_use]
    pub fn announcement(&self) -> Announcement {
        Announcement { _announced: self.watched.as_ref().map(|watched| watched.announced.clone()) }
    }

    /// Does the work; it is dropped when the store would grow past its ceiling for it, and so is its result when it was done
    /// before anybody looked.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub async fn run<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        let Some(watched) = &mut self.watched else { return Ok(work.await) };
        let done = tokio::select! {
            biased;
            done = work => done,
            Ok(full) = &mut watched.full => return Err(full),
        };
        if self.worker.ceiling().is_some_and(Ceiling::was_looked_at) {
            return Ok(done);
        }
        let worker = self.worker.clone();
        // What it finds has to outlive this work, which it may end.
        let look = tokio::spawn(async move { worker.look().await });
        tokio::select! {
            biased;
            Ok(full) = &mut watched.full => Err(full),
            _ = look => Ok(done),
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if let Some(ceiling) = self.worker.ceiling() {
            ceiling.works().works.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> SnapshotId {
        SnapshotId::parse(&format!("1-{n}")).unwrap()
    }

    fn sizes(all: &[(u32, u64)]) -> HashMap<SnapshotId, u64> {
        all.iter().map(|(n, size)| (id(*n), *size)).collect()
    }

    #[test]
    fn the_one_that_grows_most_ends_first() {
        let mut works = Works::default();
        let mut watched: Vec<_> = (0..4).map(|_| works.enter()).collect();
        for (at, snapshots) in [(0, vec![1, 2]), (1, vec![3]), (2, vec![])] {
            works.works.get_mut(&at).unwrap().snapshots = snapshots.into_iter().map(id).collect();
        }
        works.note(&sizes(&[(1, 10), (2, 10), (3, 900)]));
        // The third has stopped growing.
        works.note(&sizes(&[(1, 40), (2, 40), (3, 900)]));
        let full = || Error::Full { limit: 1, used: 2, wanted: 0 };
        let mut order = Vec::new();
        while let Some(mut gone) = works.end_one(full) {
            let at = watched.iter_mut().position(|(_, full)| full.try_recv().is_ok()).unwrap();
            order.push(at);
            assert!(matches!(gone.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
            works.works.remove(&(at as u64));
            assert!(matches!(gone.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        }
        assert_eq!(order, [0, 3, 2, 1]);
        works.watching = true;
        assert!(works.end_watch());
    }

    #[test]
    fn a_watch_goes_on_while_something_is_under_way() {
        let mut works = Works { watching: true, ..Works::default() };
        let _watched = works.enter();
        assert!(!works.end_watch() && works.watching);
    }
}
