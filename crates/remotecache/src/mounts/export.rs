//! Cache mounts as they are sent along with a cache: packed here, or passed on from a cache that was imported.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kiln_exporter::Context;
use kiln_layer::Settings;
use kiln_oci::{Descriptor, Digest, Reference};
use kiln_ops::Hashes;
use kiln_worker::{BlobProvider, Frozen, KnownMount, MountContent, Worker};

use super::{MountEntry, MountSelection, carry, selection::shown};
use crate::{Error, Target};

/// How long an export waits for steps of other builds that use a mount.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cache mount that goes out.
#[derive(Clone, Debug)]
pub struct ExportedMount {
    pub(crate) entry: MountEntry,
}

/// A cache mount of an imported cache.
#[derive(Clone, Debug)]
pub(crate) struct KeptMount {
    pub(crate) entry: MountEntry,
    /// Where its blob can be had.
    pub(crate) from: Arc<dyn BlobProvider>,
    /// The cache's own name, if it is in a registry.
    pub(crate) names: Vec<Reference>,
}

impl ExportedMount {
    pub(crate) fn describe(&self) -> Descriptor {
        self.entry.describe()
    }

    /// What people call it.
    pub(crate) fn shown(&self) -> &str {
        shown(&self.entry.id)
    }
}

/// Which cache mounts go out of a build.
#[derive(Debug)]
pub struct MountsWanted<'a> {
    /// Those that the client names.
    pub selection: &'a MountSelection,
    /// The ids of those that the build's steps name, whether they ran or not.
    pub named: Vec<String>,
    /// Those of the caches that the build imported, which stay where no step needed them.
    pub(crate) imported: Vec<KeptMount>,
}

/// Packs cache mounts for one target.
struct Packing<'a> {
    cx: &'a Context,
    target: &'a Target,
    worker: &'a Worker,
    hashes: &'a Arc<Hashes>,
    settings: Settings,
    warnings: Vec<String>,
}

impl MountsWanted<'_> {
    /// Packs those that are here, in the order of their ids, and adds those that a cache has. What is in use all the time is
    /// left out, with a warning, unless an imported cache has it.
    ///
    /// # Errors
    /// [`Error::Worker`] when a mount cannot be read.
    pub async fn pack(
        self,
        cx: &Context,
        target: &Target,
        (worker, hashes): (&Worker, &Arc<Hashes>),
        settings: Settings,
    ) -> Result<(Vec<ExportedMount>, Vec<String>), Error> {
        let mut packing = Packing { cx, target, worker, hashes, settings, warnings: Vec::new() };
        let mut all: BTreeMap<(String, Option<Digest>), ExportedMount> = BTreeMap::new();
        let ids = self.ids(worker)?;
        for id in ids {
            let known = worker.known_cache_mounts(&id)?;
            let mut any = false;
            for mount in known {
                // One whose files to begin with were pruned is not found by any step any more.
                let Some(base) = packing.base(&mount).await? else { continue };
                any = true;
                if all.contains_key(&(id.clone(), base.clone())) {
                    continue;
                }
                let mut exported = packing.mount(&mount, base.clone()).await?;
                let same = |kept: &&KeptMount| kept.entry.id == id && kept.entry.base == base;
                if exported.is_none()
                    && let Some(kept) = self.imported.iter().find(same)
                {
                    exported = packing.keep(kept).await?;
                }
                all.extend(exported.map(|exported| ((id.clone(), base), exported)));
            }
            if !any {
                for kept in self.imported.iter().filter(|kept| kept.entry.id == id) {
                    let key = (id.clone(), kept.entry.base.clone());
                    if !all.contains_key(&key) {
                        all.extend(packing.keep(kept).await?.map(|exported| (key, exported)));
                    }
                }
            }
        }
        for (name, ids) in self.selection.names() {
            if !all.keys().any(|(id, _)| ids.contains(id)) {
                packing.warnings.push(format!(
                    "cache mount {name} is not exported: this builder has none, nor has an imported cache"
                ));
            }
        }
        Ok((all.into_values().collect(), packing.warnings))
    }

    /// The ids of all that may be meant.
    fn ids(&self, worker: &Worker) -> Result<Vec<String>, Error> {
        let mut ids: Vec<String> = self.named.iter().filter(|id| self.selection.has(id)).cloned().collect();
        for (_, candidates) in self.selection.names() {
            for id in candidates {
                let imported = self.imported.iter().any(|kept| kept.entry.id == id);
                if imported || !worker.known_cache_mounts(&id)?.is_empty() {
                    ids.push(id);
                }
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }
}

impl Packing<'_> {
    /// What a mount begins with, as it is known everywhere; `None` when that is not here any more.
    async fn base(&self, mount: &KnownMount) -> Result<Option<Option<Digest>>, Error> {
        let Some(base) = &mount.base else { return Ok(Some(None)) };
        let tree = match self.worker.get(base) {
            Ok(tree) => tree,
            Err(error) if error.is_miss() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(unpacked) = tree.unpacked() else { return Ok(None) };
        let hashes = self.hashes.clone();
        let digest = tokio::task::spawn_blocking(move || hashes.whole(&unpacked)).await;
        let digest = digest.map_err(kiln_worker::Error::from)?;
        Ok(Some(Some(
            digest.map_err(|error| Error::Mount { id: mount.name.clone(), problem: error.to_string() })?,
        )))
    }

    async fn mount(
        &mut self,
        mount: &KnownMount,
        base: Option<Digest>,
    ) -> Result<Option<ExportedMount>, Error> {
        let step = self.cx.step(&format!("packing cache mount {}", shown(&mount.name)));
        let outcome = self.pack(mount, base).await;
        step.end(outcome)
    }

    async fn pack(
        &mut self,
        mount: &KnownMount,
        base: Option<Digest>,
    ) -> Result<Option<ExportedMount>, Error> {
        let name = shown(&mount.name);
        let frozen = match self.worker.freeze_cache_mount(mount, PATIENCE).await? {
            Frozen::Now(frozen) => frozen,
            Frozen::Gone => return Ok(None),
            Frozen::InUse => {
                self.warnings.push(format!(
                    "cache mount {name} is not exported: steps of other builds have used it for {} s",
                    PATIENCE.as_secs()
                ));
                return Ok(None);
            }
        };
        let entry = |content| MountEntry { id: mount.name.clone(), base, content };
        if let Some(content) = frozen.known(self.settings)?
            && self.is_there(&content).await?
        {
            return Ok(Some(ExportedMount { entry: entry(content) }));
        }
        let (settings, lease) = (self.settings, self.cx.lease.clone());
        let packing = tokio::task::spawn_blocking(move || frozen.pack(settings, lease.id())).await;
        let content = packing.map_err(kiln_worker::Error::from)??;
        Ok(Some(ExportedMount { entry: entry(content) }))
    }

    /// A mount that is passed on. One that cannot be had any more stays behind, with a warning.
    async fn keep(&mut self, kept: &KeptMount) -> Result<Option<ExportedMount>, Error> {
        let KeptMount { entry, from, names } = kept;
        let blob = &entry.content.blob;
        if !self.target.spare(blob, names).await?
            && let Err(error) = carry::fetch(self.cx, blob, &**from).await
        {
            let name = shown(&entry.id);
            self.warnings.push(format!("cache mount {name} of an imported cache is not passed on: {error}"));
            return Ok(None);
        }
        Ok(Some(ExportedMount { entry: entry.clone() }))
    }

    /// Whether the target has this content, so that nothing needs to be packed.
    async fn is_there(&self, content: &MountContent) -> Result<bool, Error> {
        self.target.spare(&content.blob, &[]).await
    }
}
