//! From a finished build to what its cache holds: the engine's keys, and for those that are wanted the layers of their results.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use kiln_engine::{CacheExportGraph, CachedResult, ExportRecord, RecordRef, StoreError};
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
/// Results of one record that are loaded side by side with those of others. Mostly the first will do; where none of these do, those
/// that are left are looked at one by one.
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
    let providers = providers_of(results);
    let count = graph.records.len();
    let mut found: Vec<Option<(SystemTime, Vec<LayerBlob>)>> = (0..count).map(|_| None).collect();
    match mode {
        Mode::Max => {
            let each = loaded.into_iter().zip(&graph.records).enumerate().map(|(at, (ready, record))| {
                let wish = Wish { results, options, make: true, providers: &providers };
                async move { Ok::<_, Error>((at, wish.layers(ready, record).await?)) }
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
            for (at, ready) in loaded.into_iter().enumerate().rev() {
                let record = &graph.records[at];
                let wish = Wish { results, options, make: wanted[at], providers: &providers };
                found[at] = wish.layers(ready, record).await?;
                if wanted[at] && found[at].is_none() {
                    record.inputs.iter().flatten().for_each(|link| wanted[link.record] = true);
                }
            }
        }
    }
    // Once more: what was loaded late has told of more places.
    Ok(Collected { graph, results: found, providers: providers_of(results) })
}

/// Where layers can be had, as far as known by now.
fn providers_of(results: &[&CachedResult<Kiln>]) -> Arc<dyn Providers> {
    Arc::new(AnyOf(results.iter().map(|result| kiln_ops::providers_of(result)).collect()))
}

/// A result, and when it was made.
type Loaded = (SystemTime, Output);

/// Some of a record's results.
#[derive(Debug, PartialEq, Eq)]
struct Ready<T> {
    /// Those that could be loaded, those first that are taken if they can be had.
    loaded: Vec<T>,
    /// How many of them all have been looked at.
    looked: usize,
}

impl<T> Default for Ready<T> {
    fn default() -> Self {
        Self { loaded: Vec::new(), looked: 0 }
    }
}

/// Loads something, if it is there.
type Load<'a, T> = dyn Fn(usize) -> BoxFuture<'a, Result<Option<T>, Error>> + Send + Sync + 'a;
/// Makes the best of what was loaded, if it is good for anything. True: it was loaded late.
type Try<'a, T, R> = dyn Fn(T, bool) -> BoxFuture<'a, Result<Option<R>, Error>> + Send + Sync + 'a;

/// The first results of each record that is exported.
async fn load_all(graph: &CacheExportGraph<Kiln>) -> Result<Vec<Ready<Loaded>>, Error> {
    let each = graph.records.iter().map(|record| async move {
        first(wanted(record).len(), &move |at| Box::pin(load(record, at))).await
    });
    let each: Vec<BoxFuture<'_, _>> = each.map(|one| Box::pin(one) as _).collect();
    stream::iter(each).buffered(AT_ONCE).try_collect().await
}

/// The results of which one is exported.
fn wanted(record: &ExportRecord<Kiln>) -> &[RecordRef<Kiln>] {
    // What an op without inputs makes is had from its source.
    let none = record.inputs.is_empty() || record.export == Some(false);
    if none { &[] } else { &record.results }
}

async fn load(record: &ExportRecord<Kiln>, at: usize) -> Result<Option<Loaded>, Error> {
    let Some(result) = wanted(record).get(at) else { return Ok(None) };
    match result.load().await {
        Ok(output) => Ok(Some((result.record.created_at, output))),
        Err(StoreError::Gone(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The first few of `count`.
async fn first<T>(count: usize, load: &Load<'_, T>) -> Result<Ready<T>, Error> {
    let mut ready = Ready::default();
    while ready.looked < count && ready.loaded.len() < CHOICES {
        ready.loaded.extend(load(ready.looked).await?);
        ready.looked += 1;
    }
    Ok(ready)
}

/// The first of `count` that is good for anything.
async fn best<T, R>(
    ready: Ready<T>,
    count: usize,
    load: &Load<'_, T>,
    usable: &Try<'_, T, R>,
) -> Result<Option<R>, Error> {
    for one in ready.loaded {
        if let Some(found) = usable(one, false).await? {
            return Ok(Some(found));
        }
    }
    for at in ready.looked..count {
        let Some(one) = load(at).await? else { continue };
        if let Some(found) = usable(one, true).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// How the layers of a record are wanted.
struct Wish<'a> {
    /// Those of the build, which know where layers can be had.
    results: &'a [&'a CachedResult<Kiln>],
    options: RemoteOptions,
    /// Layers that are missing are made.
    make: bool,
    providers: &'a Arc<dyn Providers>,
}

impl Wish<'_> {
    /// The layers of a record's best result that can be had.
    async fn layers(
        &self,
        ready: Ready<Loaded>,
        record: &ExportRecord<Kiln>,
    ) -> Result<Option<(SystemTime, Vec<LayerBlob>)>, Error> {
        let load = move |at| Box::pin(load(record, at)) as _;
        let usable = move |loaded, late| Box::pin(self.layers_of_one(loaded, late)) as _;
        best(ready, wanted(record).len(), &load, &usable).await
    }

    async fn layers_of_one(
        &self,
        (created_at, output): Loaded,
        late: bool,
    ) -> Result<Option<(SystemTime, Vec<LayerBlob>)>, Error> {
        let providers = if late { providers_of(self.results) } else { Arc::clone(self.providers) };
        let layers = layers_of(&output, self.options, self.make, &providers).await?.unwrap_or_default();
        let there = !layers.is_empty() && all_there(&layers, &*providers)?;
        Ok(there.then_some((created_at, layers)))
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Which of so many is found, when only `good` ones are good for anything and every fourth is gone; and which were loaded.
    async fn found(count: usize, good: &'static [usize]) -> (Option<usize>, Vec<usize>) {
        let loaded: Arc<Mutex<Vec<usize>>> = Arc::default();
        let log = loaded.clone();
        let load = move |at: usize| {
            log.lock().unwrap().push(at);
            Box::pin(std::future::ready(Ok((at % 4 != 3).then_some(at)))) as _
        };
        let usable = move |at: usize, late: bool| {
            assert_eq!(late, at > 2, "{at}");
            Box::pin(std::future::ready(Ok(good.contains(&at).then_some(at)))) as _
        };
        let ready = first(count, &load).await.unwrap();
        let found = best(ready, count, &load, &usable).await.unwrap();
        let loaded = loaded.lock().unwrap().clone();
        (found, loaded)
    }

    #[tokio::test]
    async fn a_record_has_a_result_as_long_as_any_can_be_had() {
        assert_eq!(found(9, &[0, 1, 8]).await, (Some(0), vec![0, 1, 2]));
        assert_eq!(found(9, &[8]).await, (Some(8), (0..9).collect()));
        assert_eq!(found(9, &[5, 8]).await.0, Some(5));
        assert_eq!(found(9, &[]).await, (None, (0..9).collect()));
        assert_eq!(found(2, &[1]).await.0, Some(1));
        assert_eq!(found(0, &[]).await, (None, vec![]));
    }
}
