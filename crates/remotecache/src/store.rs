//! An imported cache as the engine asks it: keys and links from memory, results as lazy refs.
//!
//! A hit downloads nothing: it makes refs that know their blobs. Whoever needs the files later finds a provider among what the
//! load left at its vertex, with the credentials of whichever builds want the vertex then.

use std::{collections::HashMap, fmt, sync::Arc};

use futures::future::BoxFuture;
use kiln_engine::{
    Backlink, CacheStore, Change, KeyId, Link, Loaded, OpContext, Record, RecordId, StoreError,
    VertexProgress,
};
use kiln_frontend::Steps;
use kiln_fstree::Root;
use kiln_oci::{Descriptor, Digest, Reference, Time, media_type};
use kiln_ops::{Kiln, Output, WantedMount};
use kiln_session::Group;
use kiln_source::image::Place;
use kiln_worker::{BlobProvider, ImmutableRef, LayerSource, RefOptions, Worker};
use tokio::sync::OnceCell;

use crate::{
    CacheGraph, Error,
    import::{self, CREATED_AT, DESCRIPTION, UNCOMPRESSED},
    mounts::{KeptMount, MountEntry, restore, shown},
    place::ImportPlace,
};

/// A cache that one build imports. It is read when the engine first wants to look into it.
pub struct ImportedCache {
    /// Names the store in the engine; another build's import is another store, as it has other credentials.
    id: String,
    /// What people call the cache.
    shown: String,
    place: ImportPlace,
    worker: Worker,
    steps: Steps,
    read: OnceCell<Result<Read, String>>,
}

/// A cache that was read.
struct Read {
    graph: CacheGraph,
    place: Place,
    /// The cache mounts that the client wants of it.
    mounts: Vec<MountEntry>,
}

impl fmt::Debug for ImportedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedCache").field("cache", &self.shown).finish_non_exhaustive()
    }
}

impl ImportedCache {
    /// The cache at `place` for one build, which shows in `steps` that it is read.
    pub(crate) fn new(place: ImportPlace, worker: Worker, steps: Steps) -> Self {
        let shown = place.name();
        let id = format!("{shown} {}", kiln_session::random_id());
        Self { id, shown, place, worker, steps, read: OnceCell::new() }
    }

    async fn read(&self) -> Result<Read, Error> {
        let step = self.steps.start(&format!("importing cache manifest from {}", self.shown));
        let outcome = async {
            let (place, root) = self.place.open().await?;
            let imported = import::read(&place, &self.shown, &root).await?;
            self.steps.tell(crate::progress::done(
                step.digest(),
                &format!("inferred cache manifest type: {}", imported.manifest_type),
            ));
            let wanted = &self.place.options.mounts;
            let mounts: Vec<_> = imported.mounts.into_iter().filter(|mount| wanted.has(&mount.id)).collect();
            if !wanted.is_empty() {
                let names: Vec<_> = mounts.iter().map(|mount| shown(&mount.id)).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let told = format!("cache mounts to restore when a step runs: {names}");
                self.steps.tell(crate::progress::done(step.digest(), &told));
            }
            Ok(Read { graph: imported.graph, place, mounts })
        };
        let outcome = outcome.await;
        step.end(outcome.as_ref().err().map(ToString::to_string));
        outcome
    }

    /// The cache mounts that the client wants of this cache. One that cannot be read has none.
    async fn mounts(&self) -> &[MountEntry] {
        if self.place.options.mounts.is_empty() || self.ready().await.is_err() {
            return &[];
        }
        let read = self.read.get().and_then(|read| read.as_ref().ok());
        read.map(|read| read.mounts.as_slice()).unwrap_or_default()
    }

    /// Whether it has a cache mount of this id.
    pub(crate) async fn offers(&self, name: &str, based: bool) -> bool {
        self.mounts().await.iter().any(|mount| mount.id == name && mount.base.is_some() == based)
    }

    /// Puts the content of a cache mount into `root`; false when there is none.
    pub(crate) async fn fill(
        &self,
        wanted: &WantedMount,
        root: Root,
        sessions: &Group,
        progress: &VertexProgress,
    ) -> Result<bool, String> {
        let mounts = self.mounts().await.iter();
        let entry = mounts.into_iter().find(|mount| mount.id == wanted.name && mount.base == wanted.base);
        let Some((entry, Ok(read))) = entry.zip(self.read.get()) else { return Ok(false) };
        let from = (self.shown.as_str(), &read.place);
        restore(&self.worker, from, entry, root, sessions, progress).await?;
        Ok(true)
    }

    /// Its cache mounts, to be passed on.
    pub(crate) async fn kept_mounts(&self) -> Vec<KeptMount> {
        let mounts = self.mounts().await;
        let Some(Ok(read)) = self.read.get() else { return Vec::new() };
        let from: Arc<dyn BlobProvider> = Arc::new(read.place.clone());
        let names = self.place.repository().and_then(|name| Reference::parse(&name).ok());
        let names: Vec<_> = names.into_iter().collect();
        let kept =
            |entry: &MountEntry| KeptMount { entry: entry.clone(), from: from.clone(), names: names.clone() };
        mounts.iter().map(kept).collect()
    }

    fn graph(&self) -> Option<&CacheGraph> {
        self.read.get().and_then(|read| read.as_ref().ok()).map(|read| &read.graph)
    }

    /// Where these layers can be had, for the builds that want the vertex now and later.
    fn offer(&self, cx: &OpContext<Kiln>, read: &Read, layers: &[&Descriptor]) {
        let (jobs, manager) = (cx.group(), self.place.sessions.manager().clone());
        let sessions = Group::new(manager, move || jobs.jobs().into_iter().map(|job| job.session).collect());
        let provider: Arc<dyn BlobProvider> = Arc::new(read.place.with_sessions(sessions));
        let blobs = layers.iter().map(|layer| (layer.digest.clone(), provider.clone()));
        cx.leave_opts(Arc::new(blobs.collect::<HashMap<_, _>>()));
    }

    /// Whether the client still has the layers that are not here. Registries are not asked: they keep what they have.
    async fn is_whole(&self, read: &Read, layers: &[&Descriptor]) -> Result<bool, StoreError> {
        let Place::Layout { .. } = read.place else { return Ok(true) };
        for layer in layers {
            let here = self.worker.store().content().stat(&layer.digest);
            let here = here.map_err(|error| StoreError::Failed(Box::new(error)))?.is_some();
            if !here && read.place.blob_size(&self.shown, &layer.digest).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The refs of a result's layers, lowest first. Blocks.
    fn refs(&self, layers: &[&Descriptor], record: &Record) -> Result<Vec<ImmutableRef>, StoreError> {
        let mut refs: Vec<ImmutableRef> = Vec::with_capacity(layers.len());
        for layer in layers {
            let (source, options) = self.layer(layer).ok_or_else(|| StoreError::Gone(record.id.clone()))?;
            let next = self.worker.get_by_blob(refs.last(), &source, options);
            refs.push(next.map_err(|error| StoreError::Failed(Box::new(error)))?);
        }
        Ok(refs)
    }

    /// A layer as the worker takes it; `None` when the manifest does not say what is in it.
    fn layer(&self, layer: &Descriptor) -> Option<(LayerSource, RefOptions)> {
        let diff_id = Digest::parse(layer.annotations.get(UNCOMPRESSED)?).ok()?;
        let created = layer.annotations.get(CREATED_AT).and_then(|text| text.parse::<Time>().ok());
        let description = layer.annotations.get(DESCRIPTION).cloned();
        let options = RefOptions {
            description: description.unwrap_or_else(|| format!("imported {}", layer.digest)),
            created: created.map(Into::into),
            image_refs: self.place.repository().into_iter().collect(),
            ..RefOptions::default()
        };
        let media_type = media_type::to_oci(&layer.media_type).to_owned();
        let mut descriptor = Descriptor::new(media_type, layer.digest.clone(), layer.size);
        descriptor.urls.clone_from(&layer.urls);
        Some((LayerSource { descriptor, diff_id }, options))
    }
}

impl CacheStore<Kiln> for ImportedCache {
    fn name(&self) -> &str {
        &self.id
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let read = || async { self.read().await.map_err(|error| error.to_string()) };
            let read = self.read.get_or_init(read).await;
            read.as_ref().map(drop).map_err(|text| StoreError::Failed(Box::new(Error::Shared(text.clone()))))
        })
    }

    fn exists(&self, key: &KeyId) -> bool {
        self.graph().is_some_and(|graph| graph.exists(key))
    }

    fn links(&self, from: &KeyId, link: &Link) -> Vec<KeyId> {
        self.graph().map(|graph| graph.links(from, link)).unwrap_or_default()
    }

    fn records(&self, key: &KeyId) -> Vec<Record> {
        self.graph().map(|graph| graph.records(key)).unwrap_or_default()
    }

    fn load<'a>(
        &'a self,
        cx: &'a OpContext<Kiln>,
        key: KeyId,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<Loaded<Kiln>, StoreError>> {
        Box::pin(async move {
            let gone = || StoreError::Gone(record.id.clone());
            let read = self.read.get().and_then(|read| read.as_ref().ok()).ok_or_else(gone)?;
            let graph = &read.graph;
            let layers = graph.layers_of(&record.id).ok_or_else(gone)?;
            if !self.is_whole(read, &layers).await? {
                return Err(gone());
            }
            let refs = self.refs(&layers, record)?;
            let top = refs.last().ok_or_else(gone)?;
            self.offer(cx, read, &layers);
            let lower = graph.lower(&key, &record.id).into_iter();
            let parents = lower.filter_map(|part| {
                let tree = refs.get(part.depth.checked_sub(1)?)?;
                Some((part.key, part.record, Output(Some(tree.clone()))))
            });
            Ok(Loaded { output: Output(Some(top.clone())), parents: parents.collect() })
        })
    }

    fn save<'a>(&'a self, _change: Change<'a, Kiln>) -> BoxFuture<'a, Result<Option<RecordId>, StoreError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn backlinks(&self, key: &KeyId) -> Vec<Backlink> {
        self.graph().map(|graph| graph.backlinks(key)).unwrap_or_default()
    }

    fn keys_of(&self, record: &RecordId) -> Vec<KeyId> {
        self.graph().map(|graph| graph.keys_of(record)).unwrap_or_default()
    }
}
