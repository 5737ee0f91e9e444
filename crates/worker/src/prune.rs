//! Removing what is not needed: by hand and by policy, in the reference's order.

use std::collections::{HashMap, HashSet};

use kiln_store::Json;

use crate::node::{self, now_ms};
use crate::record::{CHILDREN, REFS, lease, ref_of};
use crate::usage::Listed;
use crate::{DiskRecord, Error, Filter, RecordType, RefId, Worker};

/// What to prune.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Only what matches any of these; none: everything.
    pub filters: Vec<String>,
    /// Internal and frontend records too.
    pub all: bool,
    /// What was used within so many milliseconds stays.
    pub keep_duration_ms: u64,
    /// So many bytes may always stay.
    pub reserved_space: u64,
    /// Prune until no more bytes than this are left; 0: no such limit.
    pub max_used_space: u64,
    /// Prune until so many bytes of the disk are free; 0: no such limit.
    pub min_free_space: u64,
}

impl PruneOptions {
    /// Whether nothing that is unused may stay.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        let unlimited = self.reserved_space == 0 && self.max_used_space == 0 && self.min_free_space == 0;
        self.all && self.filters.is_empty() && self.keep_duration_ms == 0 && unlimited
    }
}

/// One rule of garbage collection: a prune that runs by itself.
pub type GcPolicy = PruneOptions;

/// What a prune has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    pub(crate) records: usize,
    /// What they took, as far as known.
    pub(crate) bytes: u64,
}

impl std::ops::AddAssign for Pruned {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

const GB: u64 = 1_000_000_000;

/// The reference's rules for a disk of `disk_bytes`, where the configuration gives none: first what is easily made again and
/// unused for two days, then what is unused for sixty days, then anything over the limits, at last internal records too.
/// Limits that are given replace the default ones, all together.
pub fn default_gc_policy(disk_bytes: u64, limits: Option<(u64, u64, u64)>) -> Vec<GcPolicy> {
    let part = |percent: u64| {
        if disk_bytes == 0 { 2 * GB } else { (disk_bytes.saturating_mul(percent) / 100 / (1 << 30) + 1) * GB }
    };
    let defaults = (part(10).min(10 * GB), part(80).min(100 * GB), part(20));
    let (reserved_space, max_used_space, min_free_space) = limits.unwrap_or(defaults);
    let limited = PruneOptions { reserved_space, max_used_space, min_free_space, ..PruneOptions::default() };
    const HOUR_MS: u64 = 60 * 60 * 1000;
    vec![
        PruneOptions {
            filters: ["source.local", "exec.cachemount", "source.git.checkout"]
                .map(|t| format!("type=={t}"))
                .into(),
            keep_duration_ms: 48 * HOUR_MS,
            max_used_space: 512_000_000,
            ..PruneOptions::default()
        },
        PruneOptions { keep_duration_ms: 60 * 24 * HOUR_MS, ..limited.clone() },
        limited.clone(),
        PruneOptions { all: true, ..limited },
    ]
}

/// How many bytes may stay; 0: there is no limit, so everything that is eligible goes.
fn keep_bytes(total: u64, free: u64, options: &PruneOptions) -> u64 {
    if options.max_used_space == 0 && options.reserved_space == 0 && options.min_free_space == 0 {
        return 0;
    }
    let mut keep = options.max_used_space;
    if options.min_free_space > free {
        let below = total.saturating_sub(options.min_free_space - free);
        keep = if keep == 0 { below } else { keep.min(below) };
    } else if options.min_free_space != 0 && keep == 0 {
        keep = total;
    }
    keep.max(options.reserved_space)
}

/// Orders what may go: what was used rarely and long ago first. Both are ranked, and the ranks, as parts of their range,
/// added.
fn order(candidates: &mut [DiskRecord]) {
    fn rank<K: Ord + Copy>(
        candidates: &[DiskRecord],
        key: impl Fn(&DiskRecord) -> K,
    ) -> (HashMap<RefId, f64>, f64) {
        let mut sorted: Vec<_> = candidates.iter().map(|c| (key(c), c.id.clone())).collect();
        sorted.sort_by_key(|(key, _)| *key);
        let (mut rank, mut last) = (1.0, None);
        let ranks = sorted.into_iter().map(|(key, id)| {
            if last.is_some_and(|last| last != key) {
                rank += 1.0;
            }
            last = Some(key);
            (id, rank)
        });
        let ranks: HashMap<_, _> = ranks.collect();
        (ranks, rank)
    }
    let (used, most_used) = rank(candidates, |c| c.last_used);
    let (counts, most_counts) = rank(candidates, |c| c.usage_count);
    let of = |map: &HashMap<RefId, f64>, id: &RefId| map.get(id).copied().unwrap_or(0.0);
    candidates.sort_by(|a, b| {
        let score = |c: &DiskRecord| of(&used, &c.id) / most_used + of(&counts, &c.id) / most_counts;
        score(a).total_cmp(&score(b)).then_with(|| a.created.cmp(&b.created))
    });
}

impl Worker {
    /// Removes records as `options` say, each of them in turn on what the one before left. `removed` is told of each, from
    /// another thread.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Store`].
    pub async fn prune(
        &self,
        options: Vec<PruneOptions>,
        mut removed: impl FnMut(DiskRecord) + Send + 'static,
    ) -> Result<(), Error> {
        let filters: Vec<Filter> =
            options.iter().map(|o| Filter::parse(&o.filters)).collect::<Result<_, _>>()?;
        let worker = self.clone();
        let _one = self.inner().pruning.lock().await;
        let run = move || {
            for (options, filter) in options.iter().zip(&filters) {
                worker.prune_once(options, filter, &mut removed)?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(run).await?
    }

    /// Free bytes of the disk that everything is kept on, for those who are not root.
    ///
    /// # Errors
    /// What the system says.
    pub fn free_space(&self) -> Result<u64, Error> {
        free_space(self.store().dir())
    }

    fn prune_once(
        &self,
        options: &PruneOptions,
        filter: &Filter,
        removed: &mut impl FnMut(DiskRecord),
    ) -> Result<(), Error> {
        let listed = self.listed()?;
        let limited =
            options.max_used_space != 0 || options.reserved_space != 0 || options.min_free_space != 0;
        let mut total = 0;
        if limited {
            for record in &listed {
                total += self.size_of(record)?;
            }
        }
        let free = if options.min_free_space == 0 { 0 } else { free_space(self.store().dir())? };
        let keep = keep_bytes(total, free, options);
        self.prune_down(listed, (total, keep), options, filter, removed)
    }

    /// Removes records as `options` say, the least used first, until so many bytes of them are gone. Returns what is.
    ///
    /// # Errors
    /// As [`Worker::prune`].
    pub(crate) async fn prune_bytes(&self, options: PruneOptions, bytes: u64) -> Result<Pruned, Error> {
        let filter = Filter::parse(&options.filters)?;
        let worker = self.clone();
        let _one = self.inner().pruning.lock().await;
        let run = move || {
            let mut gone = Pruned::default();
            let count = |record: DiskRecord| gone += Pruned { records: 1, bytes: record.size };
            worker.prune_down(worker.listed()?, (bytes, 1), &options, &filter, &mut { count })?;
            Ok(gone)
        };
        tokio::task::spawn_blocking(run).await?
    }

    /// Bytes that would be free if everything went that nobody uses.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) async fn prunable(&self) -> Result<u64, Error> {
        let worker = self.clone();
        let sum = move || {
            let unused = worker.listed()?.into_iter().filter(|listed| !listed.live);
            let going: HashSet<RefId> =
                unused.flat_map(|listed| std::iter::once(listed.id).chain(listed.record.twin)).collect();
            let store = worker.store();
            let (mut sum, mut seen) = (0, HashSet::new());
            for id in &going {
                for resource in store.held_by(&lease(id))? {
                    let goes = |holder| ref_of(holder).is_some_and(|id| going.contains(&id));
                    if store.holders(&resource)?.iter().all(goes) && seen.insert(resource.clone()) {
                        sum += worker.resource_size(&resource)?;
                    }
                }
            }
            Ok(sum)
        };
        tokio::task::spawn_blocking(sum).await?
    }

    /// Removes what may go of `listed`, which takes `total` bytes, until less than `keep` are left; 0: all of it.
    fn prune_down(
        &self,
        listed: Vec<Listed>,
        (mut total, keep): (u64, u64),
        options: &PruneOptions,
        filter: &Filter,
        removed: &mut impl FnMut(DiskRecord),
    ) -> Result<(), Error> {
        let cut = now_ms().saturating_sub(options.keep_duration_ms);
        let mut left: HashMap<RefId, Listed> = listed.into_iter().map(|l| (l.id.clone(), l)).collect();
        let mut refused: HashSet<RefId> = HashSet::new();
        while keep == 0 || total >= keep {
            let with_children: HashSet<&RefId> =
                left.values().flat_map(|l| l.record.parents.iter()).collect();
            let eligible = |l: &&Listed| {
                let mut both = std::iter::once(&l.id).chain(&l.record.twin);
                let unused =
                    !l.live && !refused.contains(&l.id) && !both.any(|id| with_children.contains(id));
                unused && wanted(l, options, filter, cut)
            };
            let mut candidates: Vec<DiskRecord> =
                left.values().filter(eligible).map(|l| l.describe(0)).collect();
            if candidates.is_empty() {
                return Ok(());
            }
            if keep != 0 {
                order(&mut candidates);
                candidates.truncate(1);
            }
            for mut candidate in candidates {
                let Some(listed) = left.remove(&candidate.id) else { continue };
                candidate.size = self.size_of(&listed)?;
                if self.remove_unused(&listed)? {
                    total = total.saturating_sub(candidate.size);
                    removed(candidate);
                } else {
                    // Somebody uses it since it was listed.
                    refused.insert(listed.id.clone());
                    left.insert(listed.id.clone(), Listed { live: true, ..listed });
                }
            }
        }
        Ok(())
    }

    /// Deletes a record, and its twin's, unless somebody uses it or stands on it.
    fn remove_unused(&self, listed: &Listed) -> Result<bool, Error> {
        let live = self.inner().registry.lock();
        let mut gone = vec![listed.id.clone()];
        gone.extend(listed.record.twin.clone());
        self.store().change(|tx| {
            for id in &gone {
                if node::is_live(&live, id) || !tx.prefix(&CHILDREN, &id.as_str())?.is_empty() {
                    return Ok(false);
                }
            }
            for id in &gone {
                if let Some(Json(record)) = tx.get(&REFS, &id.as_str().to_owned())? {
                    node::delete(tx, id, &record)?;
                }
            }
            Ok(true)
        })
    }
}

fn wanted(listed: &Listed, options: &PruneOptions, filter: &Filter, cut: u64) -> bool {
    let kind = listed.record.record_type;
    if !options.all && matches!(kind, RecordType::Internal | RecordType::Frontend) {
        return false;
    }
    let mut described = listed.describe(0);
    if options.keep_duration_ms != 0 && described.last_used.is_some_and(|last| last > cut) {
        return false;
    }
    // The reference's filters of a prune see no parents.
    described.parents.clear();
    filter.matches(|path| described.field(path))
}

/// Free bytes of the disk below `dir`, for those who are not root.
#[cfg(unix)]
fn free_space(dir: &std::path::Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| kiln_fstree::Error::Io {
        op: "statvfs",
        path: dir.to_owned(),
        source: e.into(),
    })?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(unix))]
fn free_space(_: &std::path::Path) -> Result<u64, Error> {
    Err(Error::Unsupported("minimum free space in garbage collection".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_combine_as_in_the_reference() {
        let of = |max, reserved, min_free| PruneOptions {
            max_used_space: max,
            reserved_space: reserved,
            min_free_space: min_free,
            ..PruneOptions::default()
        };
        assert_eq!(keep_bytes(100, 50, &of(0, 0, 0)), 0);
        assert_eq!(keep_bytes(100, 50, &of(70, 0, 0)), 70);
        assert_eq!(keep_bytes(100, 50, &of(70, 0, 60)), 70);
        assert_eq!(keep_bytes(100, 50, &of(70, 0, 90)), 60);
        assert_eq!(keep_bytes(100, 50, &of(0, 0, 60)), 90);
        assert_eq!(keep_bytes(100, 50, &of(0, 0, 40)), 100);
        assert_eq!(keep_bytes(100, 50, &of(70, 80, 90)), 80);
        assert_eq!(keep_bytes(100, 0, &of(0, 10, 500)), 10);
    }

    #[test]
    fn the_least_used_go_first() {
        let record = |last_used, usage_count| DiskRecord {
            id: RefId::random().unwrap(),
            mutable: false,
            in_use: false,
            size: 0,
            parents: Vec::new(),
            created: 0,
            last_used,
            usage_count,
            description: format!("{last_used:?} {usage_count}"),
            record_type: RecordType::Regular,
            shared: false,
        };
        let mut all = [record(Some(30), 9), record(Some(20), 1), record(None, 0), record(Some(10), 9)];
        order(&mut all);
        let names: Vec<_> = all.iter().map(|r| r.description.as_str()).collect();
        assert_eq!(names, ["None 0", "Some(20) 1", "Some(10) 9", "Some(30) 9"]);
    }

    #[test]
    fn default_rules() {
        let rules = default_gc_policy(1000 << 30, None);
        assert_eq!(rules[0].max_used_space, 512_000_000);
        assert_eq!((rules[2].reserved_space, rules[2].max_used_space), (10 * GB, 100 * GB));
        assert_eq!(rules[2].min_free_space, 201 * GB);
        assert!(rules[3].all && !rules[2].all);
        assert_eq!(default_gc_policy(0, None)[2].max_used_space, 2 * GB);
        assert_eq!(default_gc_policy(0, Some((1, 2, 3)))[1].max_used_space, 2);
    }
}
