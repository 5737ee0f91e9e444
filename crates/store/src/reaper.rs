//! The background thread that removes data whose records are gone, and covers data by `syncfs` when the store is quiet.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::store::UNCOVERED;
use crate::{Content, Db, Error, Resource, Snapshotter};

/// How long nothing new must have come before uncovered data is synced.
const QUIET: Duration = Duration::from_secs(30);
/// How long data may stay uncovered in a store that never rests.
const AT_MOST: Duration = Duration::from_secs(300);
/// How much is removed under one durable deletion.
const BATCH: usize = 512;

/// What is to be removed.
pub(crate) enum Garbage {
    /// A resource whose record was deleted.
    Resource(Resource),
    /// A snapshot folder that never had a record.
    Unrecorded(PathBuf),
    /// Says when all that was sent before is gone.
    Barrier(Sender<()>),
    /// Ends the thread when all that was sent before is gone. (Snapshotters keep senders, so the channel never closes.)
    Stop,
}

/// Resources that no `syncfs` has passed over.
#[derive(Debug, Default)]
pub(crate) struct Uncovered {
    pub(crate) set: BTreeSet<Resource>,
    oldest: Option<Instant>,
    newest: Option<Instant>,
}

impl Uncovered {
    pub(crate) fn add(&mut self, resources: impl IntoIterator<Item = Resource>) {
        self.set.extend(resources);
        let now = Instant::now();
        self.oldest.get_or_insert(now);
        self.newest = Some(now);
    }

    fn due(&self) -> bool {
        !self.set.is_empty()
            && (self.newest.is_none_or(|t| t.elapsed() >= QUIET)
                || self.oldest.is_none_or(|t| t.elapsed() >= AT_MOST))
    }
}

/// What the thread works on.
pub(crate) struct Work {
    pub(crate) dir: PathBuf,
    pub(crate) db: Db,
    pub(crate) content: Content,
    pub(crate) snapshots: Arc<dyn Snapshotter>,
    pub(crate) uncovered: Mutex<Uncovered>,
}

/// The thread's handle; dropped, it ends when all that was sent is done.
pub(crate) struct Reaper {
    sender: Sender<Garbage>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    pub(crate) fn start(
        work: Arc<Work>,
        sender: Sender<Garbage>,
        receiver: Receiver<Garbage>,
    ) -> Result<Self, Error> {
        let dir = work.dir.clone();
        let thread = std::thread::Builder::new()
            .name("kiln-reaper".into())
            .spawn(move || run(&work, &receiver))
            .map_err(Error::io("start the reaper of", &dir))?;
        Ok(Self { sender, thread: Some(thread) })
    }

    pub(crate) fn send(&self, garbage: Garbage) {
        if self.sender.send(garbage).is_err() {
            tracing::error!("the reaper is gone; the next start removes what is left");
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.send(Garbage::Stop);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the reaper panicked");
        }
    }
}

fn run(work: &Work, receiver: &Receiver<Garbage>) {
    let mut kept: Vec<Resource> = Vec::new();
    loop {
        let wait = if kept.is_empty() { QUIET / 3 } else { Duration::from_secs(2) };
        let mut batch = Vec::new();
        match receiver.recv_timeout(wait) {
            Ok(garbage) => batch.push(garbage),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        batch.extend(receiver.try_iter().take(BATCH));
        if reap(work, batch, &mut kept) {
            return;
        }
        let due = work.uncovered.lock().unwrap_or_else(PoisonError::into_inner).due();
        if due && let Err(error) = work.cover() {
            tracing::warn!(%error, "cannot sync the store");
        }
    }
}

/// Removes a batch; true when it is the last.
fn reap(work: &Work, batch: Vec<Garbage>, kept: &mut Vec<Resource>) -> bool {
    let mut barriers = Vec::new();
    let mut stop = false;
    for garbage in batch {
        match garbage {
            Garbage::Resource(resource) => kept.push(resource),
            Garbage::Unrecorded(path) => report(remove_tree(&path)),
            Garbage::Barrier(sender) => barriers.push(sender),
            Garbage::Stop => stop = true,
        }
    }
    if !kept.is_empty() {
        // Only when the deletion of a record is durable may its data go.
        // On a full disk the first try makes the writer give up its reserve, and the second has it.
        match work.db.sync().or_else(|_| work.db.sync()) {
            Ok(()) => kept.drain(..).for_each(|resource| report(work.remove(&resource))),
            Err(error) => tracing::warn!(%error, "cannot make deletions durable; data stays for now"),
        }
    }
    for barrier in barriers {
        if barrier.send(()).is_err() {
            tracing::debug!("nobody waits for the reaper any more");
        }
    }
    stop
}

fn report(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot remove data; the next start will");
    }
}

/// Removes a folder tree; one that is not there is fine.
pub(crate) fn remove_tree(path: &std::path::Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

impl Work {
    fn remove(&self, resource: &Resource) -> Result<(), Error> {
        match resource {
            Resource::Blob(digest) => self.content.remove_data(digest),
            Resource::Snapshot(id) => self.snapshots.remove(id),
        }
    }

    /// See [`Store::cover`](crate::Store::cover).
    pub(crate) fn cover(&self) -> Result<(), Error> {
        let taken = std::mem::take(&mut *self.uncovered.lock().unwrap_or_else(PoisonError::into_inner));
        if taken.set.is_empty() {
            return Ok(());
        }
        let outcome = sync_files(&self.dir).and_then(|()| {
            self.db.change(|tx| {
                for resource in &taken.set {
                    tx.delete(&UNCOVERED, resource);
                }
                Ok(())
            })
        });
        if outcome.is_err() {
            self.uncovered.lock().unwrap_or_else(PoisonError::into_inner).add(taken.set);
        }
        outcome
    }
}

#[cfg(target_os = "linux")]
fn sync_files(dir: &std::path::Path) -> Result<(), Error> {
    let file = std::fs::File::open(dir).map_err(Error::io("open", dir))?;
    rustix::fs::syncfs(&file).map_err(|e| Error::io("sync", dir)(e.into()))
}

/// Elsewhere every file is synced by itself.
#[cfg(not(target_os = "linux"))]
fn sync_files(dir: &std::path::Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("stat", &path))?;
        if kind.is_dir() {
            sync_files(&path)?;
        } else if kind.is_file() && entry.file_name() != "kiln.redb" && entry.file_name() != "lock" {
            let file =
                std::fs::OpenOptions::new().write(true).open(&path).map_err(Error::io("open", &path))?;
            file.sync_all().map_err(Error::io("sync", &path))?;
        }
    }
    Ok(())
}
