//! Bringing lazy refs to disk: layers are fetched and unpacked side by side, each while it comes.
//!
//! ```text
//! provider ─▶ channel ─▶ writer thread: blob in the content store, digest
//!                              │ bytes written so far
//!                              └─▶ unpacking thread: reads behind the writer, own snapshot
//! ```
//!
//! With overlay a layer's folder does not depend on the layers below, so all layers of an image are unpacked at once; with
//! native snapshots they follow one another.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kiln_fstree::Root;
use kiln_layer::{ApplyOptions, LayerFormat};
use kiln_oci::{Descriptor, Digest};
use kiln_store::{Active, Resource, SnapshotInfo, SnapshotterKind, Stack};
use tokio_util::task::AbortOnDropHandle;

use crate::node::Node;
use crate::record::lease;
use crate::worker::Inner;
use crate::{Error, ImmutableRef, Parents, Unpacked, Worker, merge};

/// How long a transfer waits for one of the same blob that was given up.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// Why a provider could not give a blob.
pub type ProviderError = Box<dyn std::error::Error + Send + Sync>;

/// A blob's bytes as they come.
pub type BlobStream = BoxStream<'static, Result<Bytes, ProviderError>>;

/// Where blobs can be had: a registry, a client's OCI layout, another cache.
pub trait BlobProvider: Send + Sync + std::fmt::Debug {
    /// Opens `blob` from the byte `offset` on. A provider that resumes broken connections does so inside the stream.
    fn open<'a>(
        &'a self,
        blob: &'a Descriptor,
        offset: u64,
    ) -> BoxFuture<'a, Result<BlobStream, ProviderError>>;
}

/// What has become of a layer, for progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerEvent {
    /// Bytes have come.
    Fetching {
        /// The blob.
        digest: Digest,
        /// How many bytes are here.
        current: u64,
        /// How many there will be.
        total: u64,
    },
    /// The blob is here.
    Fetched {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        total: u64,
    },
    /// Unpacking has begun.
    Unpacking {
        /// The blob.
        digest: Digest,
    },
    /// The layer's files are here.
    Unpacked {
        /// The blob.
        digest: Digest,
    },
}

/// What the current job knows of blobs: its cache maps name the providers, its progress is told what happens.
pub trait Providers: Send + Sync {
    /// Where the blob `digest` can be had; `None`: nowhere that this job knows of.
    fn provider(&self, digest: &Digest) -> Option<Arc<dyn BlobProvider>>;

    /// Something happened. Called from any thread; must not block.
    fn event(&self, event: LayerEvent) {
        let _ = event;
    }
}

/// No blob can be had from anywhere.
#[derive(Debug)]
pub struct NoProviders;

impl Providers for NoProviders {
    fn provider(&self, _: &Digest) -> Option<Arc<dyn BlobProvider>> {
        None
    }
}

/// Locks by blob: who fetches which.
pub(crate) type Fetching = Mutex<HashMap<Digest, std::sync::Weak<tokio::sync::Mutex<()>>>>;

impl ImmutableRef {
    /// The ref with its files on disk: fetches and unpacks its layers, puts merges and differences together. Several who
    /// ask at once share the work. Dropping the future ends it.
    ///
    /// # Errors
    /// [`Error::NoProvider`] when a layer is not here and nothing offers it; [`Error::Fetch`], [`Error::Layer`],
    /// [`Error::DiffId`], [`Error::Store`].
    pub async fn unpack(&self, providers: Arc<dyn Providers>) -> Result<Unpacked, Error> {
        let stack = unpack(Arc::clone(self.node()), providers).await?;
        Ok(Unpacked::new(self.clone(), stack))
    }

    /// Whether [`ImmutableRef::unpack`] would find all that it needs, here or with `providers`.
    pub fn is_available(&self, providers: &dyn Providers) -> Result<bool, Error> {
        available(self.node(), providers)
    }

    /// Brings one of the blobs of this ref's layers to the content store, without unpacking it.
    ///
    /// # Errors
    /// As for [`ImmutableRef::unpack`].
    pub async fn fetch(&self, blob: &Descriptor, providers: Arc<dyn Providers>) -> Result<(), Error> {
        fetch(Arc::clone(self.node()), blob.clone(), providers).await
    }
}

fn available(node: &Node, providers: &dyn Providers) -> Result<bool, Error> {
    let (mut todo, mut seen) = (vec![node], HashSet::new());
    while let Some(node) = todo.pop() {
        if !seen.insert(&node.id) || node.stack().is_some() {
            continue;
        }
        if matches!(node.parents, Parents::None | Parents::Layer(_)) && !has_layer(node, providers)? {
            return Ok(false);
        }
        todo.extend(node.parents.iter().map(|parent| &**parent));
    }
    Ok(true)
}

/// Whether the own layer of `node` is here, or can be had.
fn has_layer(node: &Node, providers: &dyn Providers) -> Result<bool, Error> {
    let (unpacked, blobs) = node.with(|record| (record.snapshot.is_some(), record.blobs.clone()));
    let mut here = unpacked;
    for blob in &blobs {
        here = here
            || node.worker.store.content().stat(&blob.digest)?.is_some()
            || providers.provider(&blob.digest).is_some();
    }
    Ok(here)
}

/// The stack of `node`, with all that it stands on unpacked. Each ref of a chain is a task of its own: polled within one
/// another, a few hundred layers would not fit on a thread's stack. Dropping the future ends them all.
pub(crate) fn unpack(
    node: Arc<Node>,
    providers: Arc<dyn Providers>,
) -> BoxFuture<'static, Result<Stack, Error>> {
    Box::pin(async move {
        if let Some(stack) = node.stack() {
            return Ok(stack);
        }
        let unpacked = AbortOnDropHandle::new(tokio::spawn(unpack_one(node, providers)));
        unpacked.await.map_err(|error| Error::Task(error.to_string()))?
    })
}

async fn unpack_one(node: Arc<Node>, providers: Arc<dyn Providers>) -> Result<Stack, Error> {
    // Locks are taken from a ref to what it stands on, so that nobody waits in a circle.
    let _mine = node.unpacking.lock().await;
    if let Some(stack) = node.stack() {
        return Ok(stack);
    }
    match &node.parents {
        Parents::None => unpack_layer(&node, None, &providers).await?,
        Parents::Layer(parent) => unpack_layer(&node, Some(parent), &providers).await?,
        parents => {
            let each = parents.iter().map(|parent| unpack(Arc::clone(parent), Arc::clone(&providers)));
            futures::future::try_join_all(each).await?;
            merge::assemble(&node).await?;
        }
    }
    node.stack().ok_or_else(|| Error::Gone(node.id.clone()))
}

async fn unpack_layer(
    node: &Arc<Node>,
    parent: Option<&Arc<Node>>,
    providers: &Arc<dyn Providers>,
) -> Result<(), Error> {
    let below = |parent: &Arc<Node>| unpack(Arc::clone(parent), Arc::clone(providers));
    if node.with(|record| record.snapshot.is_some()) {
        // It shares a snapshot; only what it stands on is missing.
        if let Some(parent) = parent {
            below(parent).await?;
        }
        return Ok(());
    }
    let side_by_side = node.worker.store.snapshots().kind() == SnapshotterKind::Overlay;
    let (layer, base) = match parent {
        None => (bring(node, Stack::default(), providers).await?, Stack::default()),
        Some(parent) if side_by_side => {
            let layer = bring(node, Stack::default(), providers);
            futures::future::try_join(layer, below(parent)).await?
        }
        Some(parent) => {
            let base = below(parent).await?;
            (bring(node, base.clone(), providers).await?, base)
        }
    };
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || finish(&node, layer, &base, side_by_side)).await?
}

/// A layer whose files are in a snapshot without a record.
struct Layer {
    active: Active,
    implied: Vec<PathBuf>,
}

/// Records an unpacked layer.
fn finish(node: &Node, layer: Layer, base: &Stack, overlay: bool) -> Result<(), Error> {
    let store = &node.worker.store;
    if overlay && !layer.implied.is_empty() && !base.0.is_empty() {
        let upper = Root::open(store.snapshots().path(layer.active.id()))?;
        let lower = store.snapshots().view(base)?.open()?;
        kiln_layer::apply::adopt_parents(&upper, &layer.implied, &lower).map_err(Error::layer(&node.id))?;
    }
    let id = layer.active.id().clone();
    let info = SnapshotInfo { whiteouts: overlay, ..SnapshotInfo::default() };
    node.update(
        |record| {
            record.snapshot = Some(id.clone());
            record.size = None;
        },
        |tx| Ok(tx.add_snapshot(&id, &info, &lease(&node.id))?),
    )?;
    layer.active.keep();
    Ok(())
}

/// Unpacks the layer of `node` into a new snapshot, fetching its blob on the way when it is not here.
async fn bring(node: &Arc<Node>, base: Stack, providers: &Arc<dyn Providers>) -> Result<Layer, Error> {
    let permits = Arc::clone(&node.worker.unpack_permits);
    let _permit = permits.acquire_owned().await.map_err(|e| Error::Task(e.to_string()))?;
    let blobs = node.with(|record| record.blobs.clone());
    let Some(first) = blobs.first().cloned() else { return Err(Error::Gone(node.id.clone())) };
    let content = node.worker.store.content();
    for blob in &blobs {
        if content.stat(&blob.digest)?.is_some() {
            let file = content.blob(&blob.digest)?.into_file();
            return apply(node, blob, base, Source::File(file), providers).await;
        }
    }
    let (blob, provider) = offered(&blobs, &**providers).ok_or(Error::NoProvider(first.digest))?;

    let lock = fetch_lock(&node.worker, &blob.digest);
    let _fetching = lock.lock().await;
    if content.stat(&blob.digest)?.is_some() {
        let file = content.blob(&blob.digest)?.into_file();
        return apply(node, &blob, base, Source::File(file), providers).await;
    }
    Worker::from_inner(Arc::clone(&node.worker)).make_room(blob.size).await?;
    let transfer = Transfer::begin(node, &blob).await?;
    let behind = transfer.behind()?;
    let fetched = transfer.run(&provider, providers);
    let applied = apply(node, &blob, base, Source::Behind(behind), providers);
    let ((), layer) = futures::future::try_join(fetched, applied).await?;
    Ok(layer)
}

fn offered(blobs: &[Descriptor], providers: &dyn Providers) -> Option<(Descriptor, Arc<dyn BlobProvider>)> {
    blobs.iter().find_map(|blob| Some((blob.clone(), providers.provider(&blob.digest)?)))
}

fn fetch_lock(worker: &Inner, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
    let mut all = worker.fetching.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lock) = all.get(digest).and_then(std::sync::Weak::upgrade) {
        return lock;
    }
    all.retain(|_, lock| lock.strong_count() > 0);
    let lock = Arc::default();
    all.insert(digest.clone(), Arc::downgrade(&lock));
    lock
}

/// Brings `blob` to the content store, held by the record of `node`.
pub(crate) async fn fetch(
    node: Arc<Node>,
    blob: Descriptor,
    providers: Arc<dyn Providers>,
) -> Result<(), Error> {
    let lock = fetch_lock(&node.worker, &blob.digest);
    let _fetching = lock.lock().await;
    if hold_if_here(&node, &blob.digest)? {
        return Ok(());
    }
    let provider = providers.provider(&blob.digest).ok_or_else(|| Error::NoProvider(blob.digest.clone()))?;
    Worker::from_inner(Arc::clone(&node.worker)).make_room(blob.size).await?;
    Transfer::begin(&node, &blob).await?.run(&provider, &providers).await
}

/// Lets the record of `node` hold a blob that is here; false when it is not.
fn hold_if_here(node: &Node, digest: &Digest) -> Result<bool, Error> {
    let resource = Resource::Blob(digest.clone());
    match node.worker.store.change(|tx| tx.hold(&lease(&node.id), &resource)) {
        Ok(()) => node.forget_size().map(|()| true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn apply(
    node: &Arc<Node>,
    blob: &Descriptor,
    base: Stack,
    source: Source,
    providers: &Arc<dyn Providers>,
) -> Result<Layer, Error> {
    let (node, digest, providers) = (Arc::clone(node), blob.digest.clone(), Arc::clone(providers));
    tokio::task::spawn_blocking(move || {
        hold_if_here(&node, &digest)?;
        let snapshots = node.worker.store.snapshots();
        let active = snapshots.prepare(&base)?;
        let root = snapshots.writable(active.id(), &base)?.open()?;
        let overlay = snapshots.kind() == SnapshotterKind::Overlay;
        let mut options = if overlay { ApplyOptions::overlay() } else { ApplyOptions::native() };
        let (windows, expected) =
            node.with(|record| (record.layer_type == "windows", record.diff_id.clone()));
        if windows {
            options.format = LayerFormat::Windows;
        }
        providers.event(LayerEvent::Unpacking { digest: digest.clone() });
        let applied = kiln_layer::apply(source, &root, &options).map_err(Error::layer(&digest))?;
        if let Some(expected) = expected.filter(|expected| *expected != applied.diff_id) {
            return Err(Error::DiffId { blob: digest, expected, actual: applied.diff_id });
        }
        providers.event(LayerEvent::Unpacked { digest });
        Ok(Layer { active, implied: applied.implied })
    })
    .await?
}

/// How far the writer of a blob is.
#[derive(Debug, Default)]
struct Reached {
    bytes: u64,
    done: bool,
    failed: bool,
}

type Progress = Arc<(Mutex<Reached>, Condvar)>;

fn reach(progress: &Progress, change: impl FnOnce(&mut Reached)) {
    change(&mut progress.0.lock().unwrap_or_else(PoisonError::into_inner));
    progress.1.notify_all();
}

/// A layer's bytes for unpacking.
enum Source {
    File(File),
    Behind(Behind),
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Behind(behind) => behind.read(buffer),
        }
    }
}

/// Reads a file behind the one who writes it.
struct Behind {
    file: File,
    position: u64,
    progress: Progress,
}

impl Read for Behind {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reached = self.progress.0.lock().unwrap_or_else(PoisonError::into_inner);
        while reached.bytes <= self.position && !reached.done && !reached.failed {
            reached = self.progress.1.wait(reached).unwrap_or_else(PoisonError::into_inner);
        }
        if reached.failed {
            return Err(io::Error::other("the layer's transfer ended early"));
        }
        drop(reached);
        let n = self.file.read(buffer)?;
        self.position += n as u64;
        Ok(n)
    }
}

/// Marks a transfer as failed unless it got to its end: the reader behind must not wait for ever.
struct Ending(Progress);

impl Drop for Ending {
    fn drop(&mut self) {
        reach(&self.0, |reached| reached.failed = !reached.done);
    }
}

/// A blob on its way from a provider to the content store.
struct Transfer {
    node: Arc<Node>,
    blob: Descriptor,
    ingest: kiln_store::Ingest,
    progress: Progress,
}

impl Transfer {
    async fn begin(node: &Arc<Node>, blob: &Descriptor) -> Result<Self, Error> {
        let content = node.worker.store.content().clone();
        let key = format!("blob/{}", blob.digest);
        let resume = move || {
            // A transfer that was given up a moment ago may still be writing its last bytes.
            let start = Instant::now();
            loop {
                match content.resume(&key) {
                    Err(kiln_store::Error::IngestBusy(_)) if start.elapsed() < GIVEN_UP => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    outcome => return outcome,
                }
            }
        };
        let mut ingest = tokio::task::spawn_blocking(resume).await??;
        if ingest.offset() > blob.size {
            ingest.restart()?;
        }
        let reached = Reached { bytes: ingest.offset(), ..Reached::default() };
        let progress = Arc::new((Mutex::new(reached), Condvar::new()));
        Ok(Self { node: Arc::clone(node), blob: blob.clone(), ingest, progress })
    }

    fn behind(&self) -> Result<Behind, Error> {
        Ok(Behind { file: self.ingest.reader()?, position: 0, progress: Arc::clone(&self.progress) })
    }

    async fn run(
        self,
        provider: &Arc<dyn BlobProvider>,
        providers: &Arc<dyn Providers>,
    ) -> Result<(), Error> {
        let Self { node, blob, ingest, progress } = self;
        // The ending comes with this future or with the writer, whichever is dropped last without success.
        let ending = Ending(Arc::clone(&progress));
        let failed = |source: ProviderError| Error::Fetch { digest: blob.digest.clone(), source };
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(32);
        let offset = ingest.offset();
        let writer = {
            let (blob, providers) = (blob.clone(), Arc::clone(providers));
            tokio::task::spawn_blocking(move || write(&node, &blob, ingest, receiver, &progress, &*providers))
        };
        let sent = async {
            if offset < blob.size {
                let mut stream = provider.open(&blob, offset).await.map_err(failed)?;
                while let Some(bytes) = stream.next().await {
                    if sender.send(bytes.map_err(failed)?).await.is_err() {
                        // The writer has failed and says why.
                        break;
                    }
                }
            }
            Ok(())
        }
        .await;
        drop(sender);
        // What came before an error is kept for a later try: it must be written before anybody looks at it.
        let written = writer.await?;
        sent.and(written)?;
        drop(ending);
        Ok(())
    }
}

/// Writes what comes into the ingest, telling the reader behind, and commits the blob.
fn write(
    node: &Node,
    blob: &Descriptor,
    mut ingest: kiln_store::Ingest,
    mut receiver: tokio::sync::mpsc::Receiver<Bytes>,
    progress: &Progress,
    providers: &dyn Providers,
) -> Result<(), Error> {
    let (digest, total) = (blob.digest.clone(), blob.size);
    let too_long = || kiln_store::Error::SizeMismatch {
        digest: blob.digest.clone(),
        expected: total,
        actual: total + 1,
    };
    providers.event(LayerEvent::Fetching { digest: digest.clone(), current: ingest.offset(), total });
    let mut told = ingest.offset();
    while let Some(bytes) = receiver.blocking_recv() {
        if ingest.offset() + bytes.len() as u64 > total {
            return Err(too_long().into());
        }
        ingest.write_all(&bytes).map_err(|e| Error::Fetch { digest: digest.clone(), source: e.into() })?;
        let current = ingest.offset();
        reach(progress, |reached| reached.bytes = current);
        if current - told >= total / 64 {
            told = current;
            providers.event(LayerEvent::Fetching { digest: digest.clone(), current, total });
        }
    }
    if ingest.offset() < total {
        // What came is kept for a later try.
        let actual = ingest.offset();
        let error = kiln_store::Error::SizeMismatch { digest: digest.clone(), expected: total, actual };
        return Err(Error::Fetch { digest, source: error.into() });
    }
    ingest.commit(&node.worker.store, &lease(&node.id), Some(&digest), Some(total))?;
    node.forget_size()?;
    reach(progress, |reached| reached.done = true);
    providers.event(LayerEvent::Fetched { digest, total });
    Ok(())
}
