//! The writer thread: takes what is pending, writes it in one durable transaction, tells those who wait.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::{FLUSH_INTERVAL, MAX_PENDING, Mem, Raw, Shared, State, lock, open_file, reserve};

/// How long to wait after a failed round.
const RETRY: Duration = Duration::from_secs(1);

pub(super) fn run(shared: &Shared) {
    while let Some((batch, upto)) = next_batch(shared) {
        let outcome = write(shared, &batch);
        let failed_before = lock(&shared.state).failure.is_some();
        let failed = finish(shared, &batch, upto, outcome);
        if failed {
            reserve::give_up(&shared.path);
        } else if failed_before {
            reserve::keep(&shared.path);
        }
        if failed && !pause(shared) {
            return;
        }
    }
}

/// Waits for work; `None` when the store is closed and nothing is pending.
fn next_batch(shared: &Shared) -> Option<(Arc<Mem>, u64)> {
    let mut state = lock(&shared.state);
    let mut first_seen: Option<Instant> = None;
    loop {
        if state.active.is_empty() {
            state.sync_wanted = false;
            if state.closing {
                close(&mut state);
                return None;
            }
            first_seen = None;
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let since = first_seen.get_or_insert_with(Instant::now).elapsed();
        let due = state.closing || state.sync_wanted || state.active.bytes() > MAX_PENDING / 2;
        if due || since >= FLUSH_INTERVAL {
            break;
        }
        let timeout = FLUSH_INTERVAL - since;
        state = shared.work.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0;
    }
    state.sync_wanted = false;
    let batch = Arc::new(std::mem::take(&mut state.active));
    state.flushing = Some(Arc::clone(&batch));
    Some((batch, state.written))
}

fn close(state: &mut State) {
    state.view = None;
    state.database = None;
}

fn write(shared: &Shared, batch: &Mem) -> Result<Arc<ReadTransaction>, String> {
    let database = database(shared)?;
    let mut txn = database.begin_write().map_err(|e| e.to_string())?;
    // The allocator's state goes into each commit, so that a start after a kill has nothing to rebuild.
    txn.set_quick_repair(true);
    for (name, changes) in batch.tables() {
        let mut table = txn.open_table(Raw::new(name)).map_err(|e| e.to_string())?;
        for (key, value) in changes {
            match value {
                Some(value) => table.insert(key.as_slice(), value.as_slice()).map(drop),
                None => table.remove(key.as_slice()).map(drop),
            }
            .map_err(|e| e.to_string())?;
        }
    }
    txn.commit().map_err(|e| e.to_string())?;
    database.begin_read().map(Arc::new).map_err(|e| e.to_string())
}

/// The open file; opened anew after an error, because redb refuses to go on with a file that failed once.
fn database(shared: &Shared) -> Result<Arc<Database>, String> {
    if let Some(database) = &lock(&shared.state).database {
        return Ok(Arc::clone(database));
    }
    let (database, view) = open_file(&shared.path).map_err(|e| e.to_string())?;
    let mut state = lock(&shared.state);
    state.database = Some(Arc::clone(&database));
    state.view = Some(view);
    Ok(database)
}

/// Records the end of a round; true when it failed.
fn finish(shared: &Shared, batch: &Mem, upto: u64, outcome: Result<Arc<ReadTransaction>, String>) -> bool {
    let mut state = lock(&shared.state);
    state.flushing = None;
    state.rounds += 1;
    let failed = match outcome {
        Ok(view) => {
            state.view = Some(view);
            state.durable = upto;
            state.failure = None;
            false
        }
        Err(message) => {
            tracing::error!(path = %shared.path.display(), %message, "cannot write metadata");
            // What came meanwhile is newer than what failed.
            let newer = std::mem::take(&mut state.active);
            state.active = batch.clone();
            state.active.absorb(newer);
            state.failure = Some(message);
            close(&mut state);
            true
        }
    };
    drop(state);
    shared.done.notify_all();
    failed
}

/// Opens the file again for readers and waits a moment; false when the store is closing, which then gives up.
fn pause(shared: &Shared) -> bool {
    if let Err(message) = database(shared) {
        tracing::error!(path = %shared.path.display(), %message, "cannot open metadata again");
    }
    let state = lock(&shared.state);
    let (mut state, _) = shared
        .work
        .wait_timeout_while(state, RETRY, |state| !state.closing && !state.sync_wanted)
        .unwrap_or_else(PoisonError::into_inner);
    if state.closing {
        close(&mut state);
        return false;
    }
    true
}
