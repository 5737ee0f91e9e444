//! Removes what earlier generations left half-made. Runs beside everything else: it touches only names that this
//! generation does not use, and checks each blob against its record while no blob can be placed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use kiln_oci::Digest;

use crate::content::BLOBS;
use crate::lease::LEASES;
use crate::reaper::remove_tree;
use crate::snapshot::SNAPSHOTS;
use crate::{Error, Json, LeaseId, Resource, SnapshotId, Store};

/// How long a resumable ingest is kept after its last byte.
const KEEP_INGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Records read at a time.
const PAGE: usize = 1000;

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Snapshots without a record that were removed.
    pub snapshots: usize,
    /// Blobs without a record that were removed.
    pub blobs: usize,
    /// Unfinished ingests that were removed.
    pub ingests: usize,
    /// Temporary leases of earlier generations that were released.
    pub leases: usize,
    /// Records whose data is missing. This cannot come from a kill; somebody has removed files. The owner of the records
    /// drops them, then calls [`StoreTx::drop_resource`](crate::StoreTx::drop_resource).
    pub missing: Vec<Resource>,
}

impl Store {
    /// Sweeps the store once. To be called after the start, when there is time.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be listed, [`Error::Metadata`]. A single thing that cannot be removed is logged.
    pub fn sweep(&self) -> Result<Swept, Error> {
        let mut swept = Swept { leases: self.sweep_leases()?, ..Swept::default() };
        self.sweep_snapshots(&mut swept)?;
        self.sweep_ingests(&mut swept)?;
        self.sweep_blobs(&mut swept)?;
        self.find_missing(&mut swept)?;
        Ok(swept)
    }

    fn sweep_leases(&self) -> Result<usize, Error> {
        self.change(|tx| {
            let all = tx.prefix(&LEASES, &())?;
            let old = |generation: Option<u64>| generation.is_some_and(|g| g < self.generation());
            let mut count = 0;
            for (id, Json(info)) in all {
                if old(info.temporary) {
                    tx.release(&LeaseId(id))?;
                    count += 1;
                }
            }
            Ok(count)
        })
    }

    fn sweep_snapshots(&self, swept: &mut Swept) -> Result<(), Error> {
        let dir = self.snapshots().dir();
        let mut stale = Vec::new();
        for name in names(dir)? {
            let recorded = match SnapshotId::parse(&name).filter(|id| id.generation() < self.generation()) {
                Some(id) => self.db().get(&SNAPSHOTS, &id.as_str().to_owned())?.is_some(),
                None => !name.starts_with("probe-"),
            };
            if !recorded {
                stale.push(dir.join(name));
            }
        }
        // A record may have been deleted a moment ago; that must be durable before its data goes.
        self.db().sync()?;
        swept.snapshots = stale.iter().filter(|path| log(remove_tree(path))).count();
        Ok(())
    }

    fn sweep_ingests(&self, swept: &mut Swept) -> Result<(), Error> {
        let dir = self.content().dir().join("ingest");
        for name in names(&dir)? {
            let path = dir.join(&name);
            let (kind, rest) = name.split_at(name.len().min(1));
            let stale = match kind {
                "t" | "d" => {
                    let generation = rest.split_once('-').and_then(|(g, _)| g.parse::<u64>().ok());
                    generation.is_some_and(|g| g < self.generation())
                }
                "k" => !self.content().has_writer(&name) && is_old(&path),
                _ => false,
            };
            if stale && log(std::fs::remove_file(&path).map_err(Error::io("remove", &path))) {
                swept.ingests += 1;
            }
        }
        Ok(())
    }

    fn sweep_blobs(&self, swept: &mut Swept) -> Result<(), Error> {
        let dir = self.content().dir().join("blobs");
        let mut stale = Vec::new();
        for algorithm in names(&dir)? {
            for hex in names(&dir.join(&algorithm))? {
                let Ok(digest) = Digest::parse(&format!("{algorithm}:{hex}")) else { continue };
                if self.content().stat(&digest)?.is_none() {
                    stale.push(digest);
                }
            }
        }
        self.db().sync()?;
        // Looks again at the record while no writer can place this blob.
        swept.blobs = stale.iter().filter(|digest| log(self.content().remove_data(digest))).count();
        Ok(())
    }

    fn find_missing(&self, swept: &mut Swept) -> Result<(), Error> {
        let on_disk: BTreeSet<String> = names(self.snapshots().dir())?.into_iter().collect();
        let mut missing = Vec::new();
        let mut after = None;
        loop {
            let page = self.db().page(&SNAPSHOTS, &(), after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let gone = page
                .into_iter()
                .filter_map(|(id, _)| SnapshotId::parse(&id))
                .filter(|id| id.generation() < self.generation() && !on_disk.contains(id.as_str()));
            missing.extend(gone.map(Resource::Snapshot));
        }
        let mut after = None;
        loop {
            let page = self.db().page(&BLOBS, &(), after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let gone = page.into_iter().filter(|(digest, _)| !self.content().path(digest).exists());
            missing.extend(gone.map(|(digest, _)| Resource::Blob(digest)));
        }
        // What went by the ordinary way meanwhile is not missing.
        for resource in missing {
            if !self.holders(&resource)?.is_empty() {
                tracing::error!(%resource, "a record's data is gone from the state folder");
                swept.missing.push(resource);
            }
        }
        Ok(())
    }
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = std::fs::read_dir(dir).map_err(Error::io("list", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        // We make no name that is not text.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn is_old(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > KEEP_INGEST))
}

/// Whether it went well; if not, says so in the log.
fn log(result: Result<(), Error>) -> bool {
    result.inspect_err(|error| tracing::warn!(%error, "cannot remove a leftover")).is_ok()
}
