//! From a finished build to what its cache holds: the engine's keys, and for those that are wanted the layers of their results.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use kiln_engine::{CacheExportGraph, CachedResult, ExportRecord, StoreError};
use kiln_oci::{Descriptor, Digest, Time};
use kiln_ops::{Kiln, Output};
use kiln_worker::{BlobProvider, LayerBlob, LayerEvent, Providers, RemoteOptions};

use crate::{
    CacheConfig, Error, Mode,
    config::{self, Input, Layer, LayerResult, Record},
    import::{CREATED_AT, UNCOMPRESSED},
};

/// Results that are made ready at once: most of it is waiting.
const AT_ONCE: usize = 16;
/// Results of one record that are looked at: the first may turn out to be gone.
const CHOICES: usize = 3;

/// The keys of a build, with the layers of the results that are exported.
pub struct Collected {
    graph: CacheExportGraph<Kiln>,
    results: Vec<Option<(SystemTime, Vec<LayerBlob>)>>,
    providers: Arc<dyn Providers>,
}

impl std::fmt::Debug for Collected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collected").field("records", &self.results.len()).finish_non_exhaustive()
    }
}

/// Whoever of several has a blob.
struct AnyOf(Vec<Arc<dyn Providers>>);

impl Providers for AnyOf {
    fn provider(&self, digest: &Digest) -> Option<Arc<dyn BlobProvider>> {
        self.0.iter().find_map(|providers| providers.provider(digest))
    }

    fn event(&self, event: LayerEvent) {
        self.0.iter().for_each(|providers| providers.event(event.clone()));
    }
}

/// Looks through what led to `results`. With [`Mode::Max`] the layers of everything are made; with [`Mode::Min`] those of the
/// results themselves, and of other steps only what is there already.
///
/// # Errors
/// [`Error::Worker`] when a layer cannot be made, [`Error::Store`].
pub async fn collect(
    results: &[&CachedResult<Kiln>],
    mode: Mode,
    options: RemoteOptions,
) -> Result<Collected, Error> {
    let graph = CacheExportGraph::of(results.iter().copied(), true);
    // First, as loads tell where layers can be had.
    let loaded = load_all(&graph).await?;
    let providers: Arc<dyn Providers> =
        Arc::new(AnyOf(results.iter().map(|result| kiln_ops::providers_of(result)).collect()));
    let count = graph.records.len();
    let mut found: Vec<Option<(SystemTime, Vec<LayerBlob>)>> = (0..count).map(|_| None).collect();
    match mode {
        Mode::Max => {
            let each = loaded.iter().enumerate().map(|(at, outputs)| {
                let layers = layers(outputs, options, true, &providers);
                async move { Ok::<_, Error>((at, layers.await?)) }
            });
            let each: Vec<BoxFuture<'_, _>> = each.map(|one| Box::pin(one) as _).collect();
            let mut all = stream::iter(each).buffer_unordered(AT_ONCE);
            while let Some((at, layers)) = all.try_next().await? {
                found[at] = layers;
            }
        }
        Mode::Min => {
            let mut wanted = vec![false; count];
            graph.roots.iter().for_each(|root| wanted[*root] = true);
            // Those that lead to a record come before it.
            for at in (0..count).rev() {
                let record = &graph.records[at];
                found[at] = layers(&loaded[at], options, wanted[at], &providers).await?;
                if wanted[at] && found[at].is_none() {
                    record.inputs.iter().flatten().for_each(|link| wanted[link.record] = true);
                }
            }
        }
    }
    Ok(Collected { graph, results: found, providers })
}

/// A result, and when it was made.
type Loaded = (SystemTime, Output);

/// The results of each record that is exported, those first that are taken if they can be had.
async fn load_all(graph: &CacheExportGraph<Kiln>) -> Result<Vec<Vec<Loaded>>, Error> {
    let each = graph.records.iter().map(load);
    let each: Vec<BoxFuture<'_, _>> = each.map(|one| Box::pin(one) as _).collect();
    stream::iter(each).buffered(AT_ONCE).try_collect().await
}

async fn load(record: &ExportRecord<Kiln>) -> Result<Vec<Loaded>, Error> {
    // What an op without inputs makes is had from its source.
    if record.inputs.is_empty() || record.export == Some(false) {
        return Ok(Vec::new());
    }
    let mut loaded = Vec::new();
    for result in &record.results {
        match result.load().await {
            Ok(output) => loaded.push((result.record.created_at, output)),
            Err(StoreError::Gone(_)) => continue,
            Err(error) => return Err(error.into()),
        }
        if loaded.len() == CHOICES {
            break;
        }
    }
    Ok(loaded)
}

/// The layers of a record's best result that can be had; with `make` those that are missing are made.
async fn layers(
    outputs: &[Loaded],
    options: RemoteOptions,
    make: bool,
    providers: &Arc<dyn Providers>,
) -> Result<Option<(SystemTime, Vec<LayerBlob>)>, Error> {
    for (created_at, output) in outputs {
        let Some(layers) = layers_of(output, options, make, providers).await? else { continue };
        if !layers.is_empty() && all_there(&layers, &**providers)? {
            return Ok(Some((*created_at, layers)));
        }
    }
    Ok(None)
}

async fn layers_of(
    output: &Output,
    options: RemoteOptions,
    make: bool,
    providers: &Arc<dyn Providers>,
) -> Result<Option<Vec<LayerBlob>>, Error> {
    let Some(tree) = output.tree() else { return Ok(None) };
    if make {
        return Ok(Some(tree.layers(options, Arc::clone(providers)).await?));
    }
    Ok(tree.known_layers(options))
}

/// Whether whoever imports the cache could be given these layers.
fn all_there(layers: &[LayerBlob], providers: &dyn Providers) -> Result<bool, Error> {
    for layer in layers {
        if !layer.is_here()? && providers.provider(&layer.descriptor.digest).is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Collected {
    /// Where the layers can be had that are not here.
    pub(crate) fn providers(&self) -> &Arc<dyn Providers> {
        &self.providers
    }

    /// The records without results, and which layers theirs are.
    pub(crate) fn records(&self) -> impl Iterator<Item = (Record, Option<(Time, &[LayerBlob])>)> {
        self.graph.records.iter().zip(&self.results).map(|(record, result)| {
            let link =
                |link: &kiln_engine::ExportLink| Input { selector: link.selector.clone(), link: link.record };
            let inputs = record.inputs.iter().map(|links| links.iter().map(link).collect()).collect();
            let result = result.as_ref().map(|(at, layers)| (config::time(*at), layers.as_slice()));
            (Record::new(record.digest.exported(), inputs), result)
        })
    }

    /// The cache's config, and for each layer in it the blob.
    #[must_use]
    pub fn config(&self) -> (CacheConfig, HashMap<Digest, LayerBlob>) {
        let mut config = CacheConfig::default();
        let mut places: HashMap<(Digest, Option<usize>), usize> = HashMap::new();
        let mut blobs = HashMap::new();
        for (mut record, result) in self.records() {
            if let Some((created_at, layers)) = result {
                let mut below = None;
                for layer in layers {
                    let blob = layer.descriptor.digest.clone();
                    let place = places.entry((blob.clone(), below)).or_insert_with(|| {
                        config.layers.push(Layer { blob: blob.clone(), parent: below });
                        config.layers.len() - 1
                    });
                    below = Some(*place);
                    blobs.entry(blob).or_insert_with(|| layer.clone());
                }
                record.results.extend(below.map(|layer| LayerResult { layer, created_at }));
            }
            config.records.push(record);
        }
        config.sort();
        (config, blobs)
    }
}

/// A layer as a cache's manifest describes it, with OCI's media type.
pub(crate) fn describe(layer: &LayerBlob) -> Descriptor {
    let blob = &layer.descriptor;
    let media_type = kiln_oci::media_type::to_oci(&blob.media_type);
    let mut own = Descriptor::new(media_type, blob.digest.clone(), blob.size);
    let created = Time::from(layer.of.created());
    own.annotations.insert(CREATED_AT.to_owned(), created.to_string());
    own.annotations.insert(UNCOMPRESSED.to_owned(), layer.diff_id.to_string());
    own
}
