//! Layers as blobs: what exporters and caches send.
//!
//! A ref is a chain of layers. A layer that came as a blob keeps it; of any other the blob is made from its snapshot, the
//! layers of a chain side by side, each once however many ask. One tar stream may be kept in several compressions.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use kiln_fstree::Root;
use kiln_layer::{Compression, DiffOptions, LayerFormat, Settings, Written, diff};
use kiln_oci::{Descriptor, Digest};
use kiln_store::{Ingest, Snapshotter, SnapshotterKind, Stack};

use crate::node::Node;
use crate::record::{blob_chain_key, chain_id, chain_key, lease};
use crate::unlazy::{fetch, unpack};
use crate::{Error, ImmutableRef, Parents, Providers, Worker};

/// How layers are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How new layers are packed.
    pub settings: Settings,
    /// Whether layers that exist in another compression are packed anew.
    pub force: bool,
}

/// A layer as a blob. The blob need not be in the content store: [`LayerBlob::fetch`] brings it there.
#[derive(Clone, Debug)]
pub struct LayerBlob {
    /// The blob, as the image that it came with describes it.
    pub descriptor: Descriptor,
    /// The digest of its tar stream.
    pub diff_id: Digest,
    /// The ref whose layer it is, for its description, date and image names.
    pub of: ImmutableRef,
}

impl LayerBlob {
    /// Whether the blob is in the content store.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn is_here(&self) -> Result<bool, Error> {
        Ok(self.of.node().worker.store.content().stat(&self.descriptor.digest)?.is_some())
    }

    /// Brings the blob to the content store.
    ///
    /// # Errors
    /// [`Error::NoProvider`], [`Error::Fetch`], [`Error::Store`].
    pub async fn fetch(&self, providers: Arc<dyn Providers>) -> Result<(), Error> {
        fetch(Arc::clone(self.of.node()), self.descriptor.clone(), providers).await
    }
}

impl ImmutableRef {
    /// The layers of the ref as blobs, lowest first. Those that have none yet get one in the content store; lazy ones stay
    /// where they are, unless they must be packed anew.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::Store`]; those of [`ImmutableRef::unpack`] for what must be fetched.
    pub async fn layers(
        &self,
        options: RemoteOptions,
        providers: Arc<dyn Providers>,
    ) -> Result<Vec<LayerBlob>, Error> {
        let nodes = flatten(self.node());
        let blobs = nodes.iter().map(|node| ensure_blob(node, options, &providers));
        let blobs: Vec<_> = futures::future::try_join_all(blobs).await?;
        note_chains(self.node(), &nodes, &blobs)?;
        let layers = nodes.into_iter().zip(blobs);
        Ok(layers
            .map(|(node, (descriptor, diff_id))| LayerBlob {
                descriptor,
                diff_id,
                of: Self::new(node, false),
            })
            .collect())
    }

    /// The layers of the ref as blobs, lowest first, if all of them are known; nothing is made.
    pub fn known_layers(&self, options: RemoteOptions) -> Option<Vec<LayerBlob>> {
        flatten(self.node())
            .into_iter()
            .map(|node| {
                let (descriptor, diff_id) = known(&node, options)?;
                Some(LayerBlob { descriptor, diff_id, of: Self::new(node, false) })
            })
            .collect()
    }
}

/// The refs whose layers, one above the other, make up `node`, lowest first: each is a layer on something, or a difference
/// that is a layer of its own.
pub(crate) fn flatten(node: &Arc<Node>) -> Vec<Arc<Node>> {
    // Merges and differences may be deep within one another, and one may be in many: each is looked at once.
    let mut known: Flat = HashMap::new();
    let mut todo = vec![node];
    while let Some(&at) = todo.last() {
        let (foot, above) = down(at);
        let parts = match &foot.parents {
            Parents::Merge(_) | Parents::Diff { .. } => Some(foot.parents.iter()),
            Parents::None | Parents::Layer(_) => None,
        };
        let missing = parts.into_iter().flatten().filter(|part| !known.contains_key(&Arc::as_ptr(part)));
        let before = todo.len();
        todo.extend(missing);
        if todo.len() == before {
            let mut layers = foot_layers(foot, &known);
            layers.extend(above.into_iter().rev().cloned());
            known.insert(Arc::as_ptr(at), layers);
            todo.pop();
        }
    }
    known.remove(&Arc::as_ptr(node)).unwrap_or_default()
}

/// Refs and their layers.
type Flat = HashMap<*const Node, Vec<Arc<Node>>>;

/// What the layers of `node` stand on in the end, and those layers, topmost first.
fn down(mut node: &Arc<Node>) -> (&Arc<Node>, Vec<&Arc<Node>>) {
    let mut above = Vec::new();
    while let Parents::Layer(parent) = &node.parents {
        above.push(node);
        node = parent;
    }
    (node, above)
}

/// The layers of a ref that is not a layer on another, where those of its parents are known.
fn foot_layers(foot: &Arc<Node>, known: &Flat) -> Vec<Arc<Node>> {
    let of = |part: &Arc<Node>| known.get(&Arc::as_ptr(part)).map(Vec::as_slice).unwrap_or_default();
    match &foot.parents {
        Parents::Merge(parents) => parents.iter().flat_map(of).cloned().collect(),
        Parents::Diff { lower, upper: Some(upper) } => {
            let (below, whole) = (lower.as_ref().map(of).unwrap_or_default(), of(upper));
            let stands_on = whole.len() >= below.len() && below.iter().zip(whole).all(|(a, b)| a.id == b.id);
            if stands_on { whole[below.len()..].to_vec() } else { vec![Arc::clone(foot)] }
        }
        Parents::Diff { upper: None, .. } | Parents::None | Parents::Layer(_) => vec![Arc::clone(foot)],
    }
}

/// What a layer changes, and in what.
pub(crate) struct Change {
    pub(crate) lower: Stack,
    pub(crate) upper: Stack,
    /// Overlay's folder of the layer, which tells what changed without comparing the trees.
    pub(crate) own: Option<PathBuf>,
}

impl Change {
    /// Writes the change as a layer.
    pub(crate) fn write<W: Write>(
        &self,
        snapshots: &dyn Snapshotter,
        sink: W,
        options: &DiffOptions,
    ) -> Result<(W, Written), Error> {
        let lower = match self.lower.0.is_empty() {
            true => None,
            false => Some(snapshots.view(&self.lower)?.open()?),
        };
        let outcome = match &self.own {
            Some(own) => diff::upper(&Root::open(own)?, lower.as_ref(), sink, options),
            None => diff::trees(lower.as_ref(), &snapshots.view(&self.upper)?.open()?, sink, options),
        };
        outcome.map_err(Error::layer("written"))
    }
}

/// What the own layer of an unpacked ref of [`flatten`] changes.
pub(crate) fn change_of(node: &Node) -> Result<Change, Error> {
    let of = |node: Option<&Arc<Node>>| node.map_or(Ok(Stack::default()), |node| Worker::stack_of(node));
    let (lower, upper) = match &node.parents {
        Parents::Layer(parent) => (of(Some(parent))?, Worker::stack_of(node)?),
        Parents::Diff { lower, upper } => {
            return Ok(Change { lower: of(lower.as_ref())?, upper: of(upper.as_ref())?, own: None });
        }
        Parents::None | Parents::Merge(_) => (Stack::default(), Worker::stack_of(node)?),
    };
    let snapshots = node.worker.store.snapshots();
    let own = node.with(|record| record.snapshot.clone());
    let own = own.filter(|_| snapshots.kind() == SnapshotterKind::Overlay).map(|own| snapshots.path(&own));
    Ok(Change { lower, upper, own })
}

/// The blob of a layer that serves `options`, if there is one.
fn known(node: &Node, options: RemoteOptions) -> Option<(Descriptor, Digest)> {
    node.with(|record| {
        let wanted = |blob: &&Descriptor| {
            Compression::from_media_type(&blob.media_type) == Some(options.settings.compression)
        };
        let exact = record.blobs.iter().find(wanted);
        let blob = if options.force { exact } else { exact.or(record.blobs.first()) };
        Some((blob?.clone(), record.diff_id.clone()?))
    })
}

async fn ensure_blob(
    node: &Arc<Node>,
    options: RemoteOptions,
    providers: &Arc<dyn Providers>,
) -> Result<(Descriptor, Digest), Error> {
    if let Some(found) = known(node, options) {
        return Ok(found);
    }
    let _mine = node.packing.lock().await;
    if let Some(found) = known(node, options) {
        return Ok(found);
    }
    let others = node.with(|record| record.blobs.clone());
    let permits = Arc::clone(&node.worker.pack_permits);
    let from = match others.into_iter().next() {
        Some(blob) => {
            let here = hold_one(node)?;
            let blob = here.unwrap_or(blob);
            fetch(Arc::clone(node), blob.clone(), Arc::clone(providers)).await?;
            Some(blob)
        }
        None => {
            // A difference is known by its sides.
            for side in match &node.parents {
                Parents::Diff { .. } => node.parents.iter().cloned().collect(),
                _ => vec![Arc::clone(node)],
            } {
                unpack(side, Arc::clone(providers)).await?;
            }
            None
        }
    };
    let _permit = permits.acquire_owned().await.map_err(|e| Error::Task(e.to_string()))?;
    let (made, settings) = (Arc::clone(node), options.settings);
    tokio::task::spawn_blocking(move || make(&made, from.as_ref(), settings)).await?
}

/// A blob of the layer that is in the content store.
fn hold_one(node: &Node) -> Result<Option<Descriptor>, Error> {
    for blob in node.with(|record| record.blobs.clone()) {
        if node.worker.store.content().stat(&blob.digest)?.is_some() {
            return Ok(Some(blob));
        }
    }
    Ok(None)
}

/// Makes a blob of the layer, from another blob of it or from its files, and records it.
fn make(node: &Node, from: Option<&Descriptor>, settings: Settings) -> Result<(Descriptor, Digest), Error> {
    let content = node.worker.store.content();
    let ingest = content.ingest_digested()?;
    let (ingest, written) = match from {
        Some(blob) => {
            let file = content.blob(&blob.digest)?.into_file();
            diff::repack(file.take(blob.size), ingest, settings).map_err(Error::layer(&blob.digest))?
        }
        None => write_layer(node, ingest, settings)?,
    };
    if let Some(expected) = node.with(|record| record.diff_id.clone()).filter(|id| *id != written.diff_id) {
        return Err(Error::DiffId { blob: written.digest, expected, actual: written.diff_id });
    }
    ingest.commit(&node.worker.store, &lease(&node.id), Some(&written.digest), Some(written.size))?;
    let descriptor = Descriptor::new(settings.compression.media_type(), written.digest, written.size);
    node.update(
        |record| {
            record.diff_id = Some(written.diff_id.clone());
            record.blobs.push(descriptor.clone());
            record.size = None;
        },
        |_| Ok(()),
    )?;
    Ok((descriptor, written.diff_id))
}

fn write_layer(node: &Node, ingest: Ingest, settings: Settings) -> Result<(Ingest, Written), Error> {
    let windows = node.with(|record| record.layer_type == "windows");
    let format = if windows { LayerFormat::Windows } else { LayerFormat::Unix };
    let options = DiffOptions { format, settings, ..DiffOptions::default() };
    change_of(node)?.write(&**node.worker.store.snapshots(), ingest, &options)
}

/// Gives the chain of `target` its ids, and every ref whose own chain is a part of it from below.
fn note_chains(target: &Arc<Node>, nodes: &[Arc<Node>], blobs: &[(Descriptor, Digest)]) -> Result<(), Error> {
    let (mut chain, mut blob_chain) = (None, None);
    let mut whole = true;
    for (n, (node, (_, diff_id))) in nodes.iter().zip(blobs).enumerate() {
        // The id over blobs is that of the blob that the ref is known by, whichever was asked for.
        let first = node.with(|record| record.blobs.first().map(|blob| blob.digest.clone()));
        let Some(first) = first else { return Ok(()) };
        let own = Digest::sha256(format!("{first} {diff_id}"));
        chain = Some(chain_id(chain.as_ref(), diff_id));
        blob_chain = Some(chain_id(blob_chain.as_ref(), &own));
        // A ref stands on the layers before it, unless a merge or difference put it here.
        whole &= match &node.parents {
            Parents::None => n == 0,
            Parents::Layer(parent) => n > 0 && parent.id == nodes[n - 1].id,
            Parents::Merge(_) | Parents::Diff { .. } => false,
        };
        if whole || (n + 1 == nodes.len() && (node.id == target.id)) {
            note(node, chain.as_ref(), blob_chain.as_ref())?;
        }
    }
    note(target, chain.as_ref(), blob_chain.as_ref())
}

fn note(node: &Node, chain: Option<&Digest>, blob_chain: Option<&Digest>) -> Result<(), Error> {
    let (Some(chain), Some(blob_chain)) = (chain, blob_chain) else { return Ok(()) };
    if node.with(|record| record.chain_id.is_some()) {
        return Ok(());
    }
    node.update(
        |record| {
            record.chain_id = Some(chain.clone());
            record.blob_chain_id = Some(blob_chain.clone());
            // A merge or difference is no layer, so that nothing may be found to stand on it by layers.
            if matches!(node.parents, Parents::None | Parents::Layer(_)) {
                record.keys.extend([chain_key(chain), blob_chain_key(blob_chain)]);
            }
        },
        |_| Ok(()),
    )
}
