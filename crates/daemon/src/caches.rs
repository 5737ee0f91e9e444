//! Caches of one build: which it imports, where its own is exported to.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::{BoxFuture, try_join_all};
use kiln_engine::CachedResult;
use kiln_exporter::{Context, InlineCache, Layer, LayerWish, RefError};
use kiln_frontend::{Bridge, BuildRef, CacheImport, FrontendResult, Refs, Step, wire_error};
use kiln_ops::Kiln;
use kiln_proto::{
    control::{CacheOptionsEntry, SolveRequest},
    status::WireError,
};
use kiln_remotecache::{
    Error, ExportOptions, ExportedMount, Imports, Mode, Place, Target, collect, exports, inline, response,
};
use kiln_session::{Session, caller::ContentStore};
use kiln_worker::RemoteOptions;

use crate::build::warn;

/// The caches that a request names to import.
pub(crate) fn imports_of(request: &SolveRequest) -> Vec<CacheImport> {
    let Some(cache) = &request.cache else { return Vec::new() };
    let entry =
        |entry: &CacheOptionsEntry| CacheImport { kind: entry.r#type.clone(), attrs: entry.attrs.clone() };
    // Older clients name registries only.
    let older = cache.import_refs_deprecated.iter().map(|name| CacheImport {
        kind: "registry".into(),
        attrs: [("ref".to_owned(), name.clone())].into(),
    });
    cache.imports.iter().map(entry).chain(older).collect()
}

/// Where a request wants its cache exported to.
pub(crate) fn exports_of(request: &SolveRequest) -> Result<Vec<ExportOptions>, WireError> {
    let cache = request.cache.clone().unwrap_or_default();
    let mut older = cache.export_attrs_deprecated;
    older.insert("ref".to_owned(), cache.export_ref_deprecated.clone());
    let older = (!cache.export_ref_deprecated.is_empty()).then_some(("registry", &older));
    let entries = cache.exports.iter().map(|entry| (entry.r#type.as_str(), &entry.attrs));
    exports(entries.chain(older)).map_err(wire_error)
}

/// What was built for each tree of a result.
async fn built(result: &FrontendResult) -> Result<Vec<&CachedResult<Kiln>>, WireError> {
    try_join_all(result.refs.iter().map(|tree| tree.result())).await
}

/// One export of a build's cache.
pub(crate) struct Export<'a> {
    pub(crate) options: &'a ExportOptions,
    pub(crate) cx: Context,
    pub(crate) session: Option<&'a Arc<Session>>,
    pub(crate) result: &'a FrontendResult,
    pub(crate) bridge: &'a Bridge,
    pub(crate) imports: &'a Imports,
}

impl Export<'_> {
    /// Exports the cache, shown as `step`.
    pub(crate) async fn run(&self, step: Step) -> Result<BTreeMap<String, String>, WireError> {
        let outcome = self.write(&step).await;
        step.end(outcome.as_ref().err().map(|error| error.message.clone()));
        match outcome {
            Err(error) if self.options.ignore_error => {
                tracing::warn!(error = error.message, "a cache was not exported");
                Ok(BTreeMap::new())
            }
            outcome => outcome,
        }
    }

    async fn write(&self, step: &Step) -> Result<BTreeMap<String, String>, WireError> {
        let Self { options, cx, .. } = self;
        let Some(target) = self.target().await? else { return Ok(BTreeMap::new()) };
        let built = built(self.result).await?;
        let prepare = cx.step("preparing build cache for export");
        let collected =
            prepare.end(collect(&built, options.mode, options.layers).await).map_err(wire_error)?;
        let mounts = self.mounts(&target, step).await?;
        let send = cx.step("sending cache export");
        let written = target.write(cx, &collected, options.form, &mounts).await;
        let manifest = send.end(written).map_err(wire_error)?;
        let response = manifest.map(|manifest| response(&manifest)).transpose().map_err(wire_error)?;
        Ok(response.into_iter().collect())
    }

    /// Where the cache goes by itself.
    async fn target(&self) -> Result<Option<Target>, WireError> {
        match &self.options.place {
            Place::Inline => Ok(None),
            Place::Local { dest } => {
                let none = || {
                    wire_error("a local cache is written to the client, but the build came without a session")
                };
                let session = self.session.ok_or_else(none)?;
                let store = ContentStore::new(session.clone(), &format!("local:{dest}"));
                Ok(Some(Target::Store(store.map_err(wire_error)?)))
            }
            Place::Registry { reference, insecure } => {
                Target::registry(&self.cx, reference, *insecure).await.map(Some).map_err(wire_error)
            }
        }
    }

    /// The cache mounts that go along.
    async fn mounts(&self, target: &Target, step: &Step) -> Result<Vec<ExportedMount>, WireError> {
        let selection = &self.options.mounts;
        if selection.is_empty() {
            return Ok(Vec::new());
        }
        let host = self.bridge.host();
        let wanted = self.imports.mounts_wanted(selection).await;
        let from = (&host.worker, &host.hashes);
        let packed = wanted.pack(&self.cx, target, from, self.options.layers.settings).await;
        let (mounts, warnings) = packed.map_err(wire_error)?;
        for warning in warnings {
            warn(self.bridge, step.digest(), Some(warning));
        }
        Ok(mounts)
    }
}

/// The cache that the images of a build carry along.
pub(crate) struct Inline {
    single: Option<Arc<BuildRef>>,
    many: BTreeMap<String, Option<Arc<BuildRef>>>,
}

impl Inline {
    pub(crate) fn new(result: &FrontendResult) -> Self {
        match &result.refs {
            Refs::Single(one) => Self { single: one.clone(), many: BTreeMap::new() },
            Refs::Map(many) => Self { single: None, many: many.clone() },
        }
    }
}

impl InlineCache for Inline {
    fn of<'a>(
        &'a self,
        platform: &'a str,
        layers: &'a [Layer],
        wish: &'a LayerWish,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, RefError>> {
        Box::pin(async move {
            let tree = self.single.as_ref().or_else(|| self.many.get(platform)?.as_ref());
            let Some(built) = tree.and_then(|tree| tree.built()) else { return Ok(None) };
            let options = RemoteOptions { settings: wish.settings, force: wish.force };
            let collected = collect(&[built], Mode::Min, options).await?;
            Ok::<_, Error>(inline(&collected, layers)?).map_err(Into::into)
        })
    }
}
