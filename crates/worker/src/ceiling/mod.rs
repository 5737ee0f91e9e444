//! A ceiling that the store does not grow past while builds run.
//!
//! ```text
//! step ─▶ Growth ─▶ room? ──no──▶ prune what nobody uses ──still no──▶ Error::Full
//!            │
//!            └─ while it works, a watch measures; over the ceiling: prune; still over: the step that grows most is ended
//! ```
//!
//! The watch runs only while something grows, and takes at most a tenth of a core: it measures ten times a second near the ceiling
//! and twice a second elsewhere, unless that costs too much. What was faster is looked at when it is done.

mod growth;
mod policy;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kiln_store::{Meter, Sizes};

use growth::Works;
pub use growth::{Announcement, Growth, Writes};
pub use policy::ceiling_of;

use crate::prune::Pruned;
use crate::{Error, PruneOptions, Worker};

/// How old a measurement may be for a step that begins.
const FRESH: Duration = Duration::from_millis(500);
/// How long before its end a step that ends must have been looked at: no disk takes much in that time.
const JUST_NOW: Duration = Duration::from_millis(20);
/// How long a step that was ended may take to go.
const GOING: Duration = Duration::from_secs(10);

/// The ceiling of a worker, and what is known of the room below it.
#[derive(Debug)]
pub(crate) struct Ceiling {
    /// Bytes.
    limit: u64,
    pub(crate) meter: Meter,
    works: Mutex<Works>,
    measured: Mutex<Option<Measured>>,
    /// One makes room at a time, so that each sees what the one before made.
    relieving: tokio::sync::Mutex<()>,
}

/// What was found last.
#[derive(Clone, Copy, Debug)]
struct Measured {
    at: Instant,
    used: u64,
    /// How long it took.
    cost: Duration,
}

impl Ceiling {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            meter: Meter::default(),
            works: Mutex::default(),
            measured: Mutex::default(),
            relieving: tokio::sync::Mutex::default(),
        }
    }

    fn works(&self) -> MutexGuard<'_, Works> {
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> Option<Measured> {
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store was measured just now.
    fn was_looked_at(&self) -> bool {
        self.last().is_some_and(|last| last.at.elapsed() < JUST_NOW)
    }

    fn full(&self, used: u64, wanted: u64) -> Error {
        Error::Full { limit: self.limit, used, wanted }
    }
}

impl Worker {
    /// Keeps the store below `limit` bytes from now on. The first that is set stays.
    pub fn set_ceiling(&self, limit: u64) {
        if self.inner().ceiling.set(Ceiling::new(limit)).is_err() {
            tracing::warn!(limit, "the store has a ceiling already");
        }
    }

    pub(crate) fn ceiling(&self) -> Option<&Ceiling> {
        self.inner().ceiling.get()
    }

    /// Makes sure that there is room for `bytes` more, by pruning what nobody uses, the least recently used first. Where even
    /// all of that would not do, it stays: `bytes` may be what a stranger says.
    ///
    /// # Errors
    /// [`Error::Full`] when there is not enough to prune.
    pub async fn make_room(&self, bytes: u64) -> Result<(), Error> {
        let Some(ceiling) = self.ceiling() else { return Ok(()) };
        let wanted = bytes.max(1);
        let fits = |used: u64| used.saturating_add(wanted) <= ceiling.limit;
        if ceiling.last().is_some_and(|last| last.at.elapsed() < FRESH && fits(last.used)) {
            return Ok(());
        }
        let _one = ceiling.relieving.lock().await;
        let mut used = self.measured(ceiling).await?.total();
        if !fits(used) {
            // What was pruned before may still be on its way.
            self.reaped().await?;
            used = self.measured(ceiling).await?.total();
        }
        if bytes > 0 && !fits(used) {
            let never = wanted > ceiling.limit || !fits(used.saturating_sub(self.prunable().await?));
            if never {
                return Err(ceiling.full(used, bytes));
            }
        }
        let missing = |used: u64| used.saturating_add(wanted) - ceiling.limit;
        used = self.relieve(ceiling, used, fits, missing).await?;
        if fits(used) { Ok(()) } else { Err(ceiling.full(used, bytes)) }
    }

    /// Prunes until what is used `fits`, each time as much as is `missing` then, for as long as there is anything that nobody
    /// uses: records may take less than they seem to, and may come out of use meanwhile. Returns what is used at last.
    async fn relieve(
        &self,
        ceiling: &Ceiling,
        mut used: u64,
        fits: impl Fn(u64) -> bool,
        missing: impl Fn(u64) -> u64,
    ) -> Result<u64, Error> {
        // What is used when all that was removed is gone from the disk.
        let mut left = used;
        while !fits(used) {
            if fits(left) {
                // That takes a while, in which more may come.
                self.reaped().await?;
                used = self.measured(ceiling).await?.total();
                left = used;
            } else {
                let pruned = self.free_up(missing(left)).await?;
                if pruned.records == 0 {
                    return Ok(left);
                }
                left = left.saturating_sub(pruned.bytes);
            }
        }
        Ok(used)
    }

    /// Measures the store.
    async fn measured(&self, ceiling: &Ceiling) -> Result<Sizes, Error> {
        let worker = self.clone();
        let measure = tokio::task::spawn_blocking(move || {
            let Some(ceiling) = worker.ceiling() else { return Ok((Sizes::default(), Duration::ZERO)) };
            let start = Instant::now();
            let sizes = worker.store().measure(&ceiling.meter, |id| worker.inner().writing.has(id))?;
            Ok::<_, Error>((sizes, start.elapsed()))
        });
        let (sizes, cost) = measure.await??;
        let now = Measured { at: Instant::now(), used: sizes.total(), cost };
        *ceiling.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        Ok(sizes)
    }

    /// Prunes until so many bytes are freed, or nothing is left that nobody uses; internal records last. Returns what goes
    /// from the disk in a while.
    async fn free_up(&self, bytes: u64) -> Result<Pruned, Error> {
        let mut gone = Pruned::default();
        for all in [false, true] {
            if gone.bytes < bytes {
                let options = PruneOptions { all, ..PruneOptions::default() };
                gone += self.prune_bytes(options, bytes - gone.bytes).await?;
            }
        }
        tracing::debug!(bytes, ?gone, "made room below the ceiling");
        Ok(gone)
    }

    /// Waits until what was pruned is gone from the disk.
    async fn reaped(&self) -> Result<(), Error> {
        let worker = self.clone();
        Ok(tokio::task::spawn_blocking(move || worker.store().wait_reaped()).await?)
    }

    /// Looks after the ceiling for as long as something grows.
    async fn watch(self) {
        let Some(ceiling) = self.ceiling() else { return };
        loop {
            self.look().await;
            let (used, cost) = ceiling.last().map_or((0, FRESH), |last| (last.used, last.cost));
            tokio::time::sleep(policy::pause(ceiling.limit, used, cost)).await;
            if ceiling.works().end_watch() {
                return;
            }
        }
    }

    /// Looks after the ceiling once.
    async fn look(&self) {
        let Some(ceiling) = self.ceiling() else { return };
        if let Err(error) = self.keep_below(ceiling).await {
            tracing::warn!(%error, "cannot look after the ceiling of the store");
        }
    }

    /// Measures, and makes room where the store has grown too far: of what nobody uses, then of what is growing, one work
    /// after the other.
    async fn keep_below(&self, ceiling: &Ceiling) -> Result<(), Error> {
        let _one = ceiling.relieving.lock().await;
        let (fits, missing) = (|used| used <= ceiling.limit, |used| policy::to_free(ceiling.limit, used));
        loop {
            let sizes = self.measured(ceiling).await?;
            ceiling.works().note(&sizes.changing);
            if fits(sizes.total()) {
                return Ok(());
            }
            let used = self.relieve(ceiling, sizes.total(), fits, missing).await?;
            if fits(used) {
                return Ok(());
            }
            let ended = ceiling.works().end_one(|| ceiling.full(used, 0));
            let Some(gone) = ended else { return Ok(()) };
            // Its files go with it, or nobody uses them any more. Until then nobody else is to blame.
            if tokio::time::timeout(GOING, gone).await.is_err() {
                return Ok(());
            }
            self.reaped().await?;
        }
    }
}
