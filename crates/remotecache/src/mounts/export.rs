//! Cache mounts as they are sent along with a cache: packed here, or passed on from a cache that was imported.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kiln_exporter::Context;
use kiln_layer::Settings;
use kiln_oci::{Descriptor, Digest, Reference};
use kiln_ops::Hashes;
use kiln_worker::{BlobProvider, Frozen, FrozenMount, KnownMount, MountContent, Worker};

use super::{MountEntry, MountSelection, carry, selection::shown};
use crate::{Error, Target};

/// How long an export waits for steps of other builds that use a mount.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cache mount that goes out.
#[derive(Clone, Debug)]
pub struct ExportedMount {
    pub(crate) entry: MountEntry,
    /// The target has its blob.
    pub(crate) there: bool,
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
                if exported.is_none() {
                    exported = packing.keep(self.imported_as(&id, base.as_ref())).await?;
                }
                all.extend(exported.map(|exported| ((id.clone(), base), exported)));
            }
            if !any {
                let bases = self.imported.iter().filter(|kept| kept.entry.id == id);
                for base in bases.map(|kept| &kept.entry.base).collect::<BTreeSet<_>>() {
                    let exported = packing.keep(self.imported_as(&id, base.as_ref())).await?;
                    all.extend(exported.map(|exported| ((id.clone(), base.clone()), exported)));
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

    /// What the imported caches have for one mount.
    fn imported_as<'a>(
        &'a self,
        id: &'a str,
        base: Option<&'a Digest>,
    ) -> impl Iterator<Item = &'a KeptMount> {
        self.imported.iter().filter(move |kept| kept.entry.id == id && kept.entry.base.as_ref() == base)
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
        let entry = |content| MountEntry { id: mount.name.clone(), base, content };
        let Some(mut frozen) = self.freeze(mount).await? else { return Ok(None) };
        if let Some(content) = frozen.known(self.settings)? {
            // Steps need not wait for what the target says.
            drop(frozen);
            if self.is_there(&content).await? {
                return Ok(Some(ExportedMount { entry: entry(content), there: true }));
            }
            let Some(again) = self.freeze(mount).await? else { return Ok(None) };
            frozen = again;
        }
        let (settings, lease) = (self.settings, self.cx.lease.clone());
        let packing = tokio::task::spawn_blocking(move || frozen.pack(settings, lease.id())).await;
        let content = packing.map_err(kiln_worker::Error::from)??;
        Ok(Some(ExportedMount { entry: entry(content), there: false }))
    }

    /// Takes a mount away from steps; `None` when it is gone, or in use all the time, which is told.
    async fn freeze(&mut self, mount: &KnownMount) -> Result<Option<Box<FrozenMount>>, Error> {
        match self.worker.freeze_cache_mount(mount, PATIENCE).await? {
            Frozen::Now(frozen) => Ok(Some(frozen)),
            Frozen::Gone => Ok(None),
            Frozen::InUse => {
                self.warnings.push(format!(
                    "cache mount {} is not exported: steps of other builds have used it for {} s",
                    shown(&mount.name),
                    PATIENCE.as_secs()
                ));
                Ok(None)
            }
        }
    }

    /// A mount that is passed on, from the first cache that still has it. One that cannot be had any more stays behind, with a
    /// warning.
    async fn keep(
        &mut self,
        caches: impl Iterator<Item = &KeptMount>,
    ) -> Result<Option<ExportedMount>, Error> {
        let mut warnings = Vec::new();
        for KeptMount { entry, from, names } in caches {
            let blob = &entry.content.blob;
            let there = self.target.spare(blob, names).await?;
            let fetched = match there {
                true => Ok(()),
                false => carry::fetch(self.cx, self.worker, blob, &**from).await,
            };
            match fetched {
                Ok(()) => return Ok(Some(ExportedMount { entry: entry.clone(), there })),
                Err(error) => warnings.push(format!(
                    "cache mount {} of an imported cache is not passed on: {error}",
                    shown(&entry.id)
                )),
            }
        }
        self.warnings.append(&mut warnings);
        Ok(None)
    }

    /// Whether the target has this content, so that nothing needs to be packed.
    async fn is_there(&self, content: &MountContent) -> Result<bool, Error> {
        self.target.spare(&content.blob, &[]).await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use kiln_layer::Compression;
    use kiln_registry::{Auth, Registries};
    use kiln_store::{Options, SnapshotterKind, Store};
    use kiln_worker::{MountWish, Sharing};
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    const WISH: MountWish<'static> =
        MountWish { name: "/m", base: None, sharing: Sharing::Locked, description: "" };

    fn worker(dir: &Path) -> Worker {
        let options = Options { snapshotter: Some(SnapshotterKind::Native), boot_id: Some("b".into()) };
        Worker::open(Store::open(dir, &options).unwrap()).unwrap()
    }

    /// A registry that has every blob, but says so only when a step could have the cache mount.
    async fn registry(worker: Worker) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let had = Arc::new(AtomicUsize::new(0));
        let count = had.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut line = String::from("-");
                while !line.trim().is_empty() {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                let mount = worker.cache_mount(WISH, None);
                if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(5), mount).await {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        (address, had)
    }

    #[tokio::test]
    async fn steps_have_a_mount_while_the_target_is_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let worker = worker(dir.path());
        drop(worker.cache_mount(WISH, None).await.unwrap());
        let settings = Settings::from(Compression::Gzip);
        let lease = Arc::new(worker.store().lease().unwrap());
        let [known] = &worker.known_cache_mounts("/m").unwrap()[..] else { panic!("one mount") };
        let Frozen::Now(frozen) = worker.freeze_cache_mount(known, PATIENCE).await.unwrap() else {
            panic!("free")
        };
        frozen.pack(settings, lease.id()).unwrap();
        drop(frozen);

        let (address, had) = registry(worker.clone()).await;
        let cx = Context {
            store: worker.store().clone(),
            lease,
            client: None,
            reporter: Arc::new(kiln_exporter::Silent),
            registries: Registries::new(Default::default(), "kiln/test"),
            auth: Auth::Anonymous,
            inline_cache: None,
        };
        let reference = Reference::parse(&format!("{address}/cache")).unwrap();
        let target = Target::registry(&cx, &reference, false).await.unwrap();
        let selection = MountSelection::parse("m").unwrap();
        let wanted = MountsWanted { selection: &selection, named: vec!["/m".into()], imported: Vec::new() };
        let (mounts, warnings) =
            wanted.pack(&cx, &target, (&worker, &Arc::default()), settings).await.unwrap();
        assert!(mounts.len() == 1 && mounts[0].there && warnings.is_empty(), "{warnings:?}");
        assert_eq!(had.load(Ordering::SeqCst), 1, "the step need not wait for the registry's answer");
    }
}
