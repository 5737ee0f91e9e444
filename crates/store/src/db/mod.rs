//! Metadata: tables of records in one redb file behind one writer thread.
//!
//! A change is applied to a table in memory and is visible at once; the writer thread puts all changes that came since
//! its last round into the file in one durable transaction. So a change costs about a microsecond, and nobody waits
//! for a disk but [`Db::sync`].
//!
//! ```text
//! change ─▶ active (in memory) ─▶ flushing (in memory, being written) ─▶ redb
//!   get  ─▶ active, else flushing, else redb
//! ```
//!
//! Beside the file lies `kiln.reserve`, a megabyte that is given up when the disk is full, so that the deletions that make
//! room can be written.
//!
//! Changes of one [`Tx`] are in the file all or none. A process that is killed loses the changes of the last moments,
//! never a part of a change, and never an older change while a newer one stays.

mod mem;
mod reserve;
mod table;
mod tx;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, TableDefinition, TableError};

use crate::Error;
use crate::lock::{AFTERGLOW, PAUSE};
use mem::{Mem, Rows};
pub use table::{Decode, Encode, Json, Table, Value};
pub use tx::Tx;

/// All redb tables hold plain bytes; [`Table`] gives them their types.
type Raw = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// How long a change may stay in memory only.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Above this many bytes of changes in memory, changes wait for the writer.
const MAX_PENDING: usize = 32 << 20;
/// redb's page cache. Records are small and the operating system caches the file too.
const CACHE_BYTES: usize = 4 << 20;

/// The metadata file. Cheap to clone; the last clone dropped writes what is pending and ends the writer thread.
#[derive(Clone)]
pub struct Db {
    owner: Arc<Owner>,
}

/// Ends the writer thread when the last [`Db`] goes.
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What readers, changers and the writer thread share.
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    /// Tells the writer thread that there is work, a wish to sync, or the end.
    work: Condvar,
    /// Tells those who wait in `sync` or for room that a round is over.
    done: Condvar,
    /// One change at a time: a change reads, decides and writes.
    change: Mutex<()>,
}

struct State {
    active: Mem,
    flushing: Option<Arc<Mem>>,
    /// The file as the last round left it. `None` while the file is being opened anew after an error.
    view: Option<Arc<ReadTransaction>>,
    database: Option<Arc<Database>>,
    /// Number of the last change, and of the last change that is durable.
    written: u64,
    durable: u64,
    /// Rounds ended, and the error of the last one.
    rounds: u64,
    failure: Option<String>,
    sync_wanted: bool,
    closing: bool,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("path", &self.owner.shared.path).finish_non_exhaustive()
    }
}

fn open_file(path: &Path) -> Result<(Arc<Database>, Arc<ReadTransaction>), Error> {
    let fail = |message: String| Error::Metadata { path: path.to_owned(), message };
    let start = Instant::now();
    let database = loop {
        match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            // The store's lock is ours, so this one is about to go.
            Err(DatabaseError::DatabaseAlreadyOpen) if start.elapsed() < AFTERGLOW => {
                std::thread::sleep(PAUSE);
            }
            opened => break opened.map_err(|e| fail(e.to_string()))?,
        }
    };
    let view = database.begin_read().map_err(|e| fail(e.to_string()))?;
    Ok((Arc::new(database), Arc::new(view)))
}

impl Db {
    /// Opens or creates the file at `path` and starts its writer thread.
    ///
    /// # Errors
    /// [`Error::Metadata`] when the file is damaged, locked, or cannot be made.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (database, view) = open_file(path)?;
        reserve::keep(path);
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            state: Mutex::new(State {
                active: Mem::default(),
                flushing: None,
                view: Some(view),
                database: Some(database),
                written: 0,
                durable: 0,
                rounds: 0,
                failure: None,
                sync_wanted: false,
                closing: false,
            }),
            work: Condvar::new(),
            done: Condvar::new(),
            change: Mutex::new(()),
        });
        let thread = std::thread::Builder::new()
            .name("kiln-meta".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || writer::run(&shared)
            })
            .map_err(Error::io("start the metadata writer of", path))?;
        Ok(Self { owner: Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) }) })
    }

    /// The value at `key`, or `None`.
    ///
    /// # Errors
    /// [`Error::Metadata`] when the file cannot be read, [`Error::BadRecord`] when the value cannot be decoded.
    pub fn get<K: Encode, V: Value>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>, Error> {
        let key = key.to_key();
        let found = self.owner.shared.get_raw(table.name(), &key)?;
        found.map(|bytes| table.decode_value(&key, &bytes)).transpose()
    }

    /// All records whose key begins with the components of `prefix` (`&()` for all), in key order. For tables and
    /// prefixes that are known to be small; [`Db::page`] reads others piece by piece.
    ///
    /// # Errors
    /// As for [`Db::get`].
    pub fn prefix<K: Encode + Decode, V: Value, P: Encode>(
        &self,
        table: &Table<K, V>,
        prefix: &P,
    ) -> Result<Vec<(K, V)>, Error> {
        let raw = self.owner.shared.scan_raw(table.name(), &prefix.to_key(), None, usize::MAX)?;
        raw.into_iter().map(|(k, v)| table.decode(&k, &v)).collect()
    }

    /// At most `limit` records whose key begins with `prefix`, from the one after `after` on.
    ///
    /// # Errors
    /// As for [`Db::get`].
    pub fn page<K: Encode + Decode, V: Value, P: Encode>(
        &self,
        table: &Table<K, V>,
        prefix: &P,
        after: Option<&K>,
        limit: usize,
    ) -> Result<Vec<(K, V)>, Error> {
        let after = after.map(Encode::to_key);
        let raw = self.owner.shared.scan_raw(table.name(), &prefix.to_key(), after.as_deref(), limit)?;
        raw.into_iter().map(|(k, v)| table.decode(&k, &v)).collect()
    }

    /// Runs one change: `body` reads and writes through the [`Tx`], and what it wrote becomes visible, all at once, when
    /// it returns `Ok`. Changes run one after the other; `body` must not wait for anything and must not start a change.
    ///
    /// # Errors
    /// What `body` returns, or [`Error::Metadata`] when the file is not writable (a full disk).
    pub fn change<T, E: From<Error>>(&self, body: impl FnOnce(&mut Tx<'_>) -> Result<T, E>) -> Result<T, E> {
        let shared = &*self.owner.shared;
        let _one_at_a_time = lock(&shared.change);
        let mut tx = Tx::new(shared);
        let value = body(&mut tx)?;
        let changes = tx.into_changes();
        if !changes.is_empty() {
            shared.apply(changes)?;
        }
        Ok(value)
    }

    /// Whether there is no value at `key`, now or in any state that the file may be found in after a kill: one that was
    /// deleted since the last round, or set in it and deleted again, is not absent yet.
    ///
    /// # Errors
    /// [`Error::Metadata`] when the file cannot be read.
    pub fn is_absent<K: Encode, V>(&self, table: &Table<K, V>, key: &K) -> Result<bool, Error> {
        self.owner.shared.is_absent_raw(table.name(), &key.to_key())
    }

    /// Has what was changed so far written at once, without waiting for it.
    pub fn hurry(&self) {
        let mut state = lock(&self.owner.shared.state);
        if state.durable < state.written {
            state.sync_wanted = true;
            self.owner.shared.work.notify_all();
        }
    }

    /// Waits until every change made before is durable.
    ///
    /// # Errors
    /// [`Error::Metadata`] when the file cannot be written. The changes stay in memory and are tried again.
    pub fn sync(&self) -> Result<(), Error> {
        self.owner.shared.sync()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        lock(&self.shared.state).closing = true;
        self.shared.work.notify_all();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.shared.path.display(), "the metadata writer panicked");
        }
    }
}

impl Shared {
    fn fail(&self, message: impl ToString) -> Error {
        Error::Metadata { path: self.path.clone(), message: message.to_string() }
    }

    fn get_raw(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let view = {
            let state = lock(&self.state);
            let pending = state.active.get(table, key);
            let pending = pending.or_else(|| state.flushing.as_ref().and_then(|mem| mem.get(table, key)));
            if let Some(found) = pending {
                return Ok(found.map(<[u8]>::to_vec));
            }
            self.view(&state)?
        };
        self.stored(&view, table, key)
    }

    fn is_absent_raw(&self, table: &'static str, key: &[u8]) -> Result<bool, Error> {
        let state = lock(&self.state);
        let pending = [Some(&state.active), state.flushing.as_deref()];
        if pending.into_iter().flatten().any(|mem| matches!(mem.get(table, key), Some(Some(_)))) {
            return Ok(false);
        }
        let view = self.view(&state)?;
        drop(state);
        Ok(self.stored(&view, table, key)?.is_none())
    }

    fn view(&self, state: &State) -> Result<Arc<ReadTransaction>, Error> {
        state.view.clone().ok_or_else(|| self.fail("the file is not readable at the moment"))
    }

    fn stored(
        &self,
        view: &ReadTransaction,
        table: &'static str,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        match view.open_table(Raw::new(table)) {
            Ok(table) => {
                let value = table.get(key).map_err(|e| self.fail(e))?;
                Ok(value.map(|guard| guard.value().to_vec()))
            }
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Records from `prefix` on (after `after`), memory laid over the file.
    fn scan_raw(
        &self,
        table: &'static str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Error> {
        let (pending, view) = {
            let state = lock(&self.state);
            let mut pending = std::collections::BTreeMap::new();
            if let Some(flushing) = &state.flushing {
                flushing.collect(table, prefix, after, &mut pending);
            }
            state.active.collect(table, prefix, after, &mut pending);
            (pending, self.view(&state)?)
        };
        let stored = match view.open_table(Raw::new(table)) {
            Ok(table) => Some(table),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(self.fail(error)),
        };
        mem::merge(stored.as_ref(), pending, prefix, after, limit).map_err(|e| self.fail(e))
    }

    fn apply(&self, changes: Mem) -> Result<(), Error> {
        let mut state = lock(&self.state);
        while state.active.bytes() > MAX_PENDING && state.failure.is_none() && !state.closing {
            state = wait(&self.done, state);
        }
        // What only deletes makes room, and must get through.
        if state.failure.is_some() && changes.has_puts() {
            // There may be room since: whoever has something to write finds out now, rather than being told of the past.
            let target = state.rounds + 1 + u64::from(state.flushing.is_some());
            while state.failure.is_some() && state.rounds < target && !state.closing {
                state.sync_wanted = true;
                self.work.notify_all();
                state = wait(&self.done, state);
            }
            if let Some(failure) = &state.failure {
                return Err(self.fail(failure));
            }
        }
        let was_empty = state.active.is_empty();
        state.active.absorb(changes);
        state.written += 1;
        drop(state);
        if was_empty {
            self.work.notify_all();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let target = state.written;
        // A round that has begun may have begun before our change; its failure counts all the same.
        let rounds = state.rounds;
        while state.durable < target {
            state.sync_wanted = true;
            self.work.notify_all();
            state = wait(&self.done, state);
            if state.durable < target
                && state.rounds > rounds
                && let Some(failure) = &state.failure
            {
                return Err(self.fail(failure));
            }
        }
        Ok(())
    }
}

/// A panic elsewhere leaves the maps whole: every critical section here only moves values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
