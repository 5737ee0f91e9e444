//! The types that the engine is generic over.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use kiln_engine::{CacheMap, CachedResult, Domain, ExecError, MapsLeft, Op, OpContext, Permit};
use kiln_oci::Digest;
use kiln_proto::pb;
use kiln_worker::{BlobProvider, ImmutableRef, LayerEvent, Parents, Providers, Unpacked};

use crate::{
    Entitlements, Gate, Host, MountSource, OpError, Witness, build::BuildOp, exec::ExecOp, file::FileOp,
    passthrough::PassthroughOp, source::SourceOp,
};

/// The engine's domain: LLB.
#[derive(Debug)]
pub enum Kiln {}

impl Domain for Kiln {
    type Op = KilnOp;
    type Output = Output;
    type Job = JobData;
    type Error = OpError;
    type CacheOpts = Arc<HashMap<Digest, Arc<dyn BlobProvider>>>;
    type Material = Material;
}

/// What one client's solve brings along.
#[derive(Clone, Debug, Default)]
pub struct JobData {
    /// Its session's id; empty for none.
    pub session: String,
    /// What its steps may do.
    pub entitlements: Entitlements,
    /// Looks at definitions that steps of it bring along; none lets them all pass.
    pub gate: Option<Arc<dyn Gate>>,
    /// Where the content of cache mounts can be had that are not here; none: nowhere.
    pub mounts: Option<Arc<dyn MountSource>>,
    /// Are told what its steps look at and make.
    pub witnesses: Vec<Arc<dyn Witness>>,
}

/// The result of an op: a file tree, or the empty one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output(pub Option<ImmutableRef>);

impl Output {
    /// The ref, unless the tree is empty.
    #[must_use]
    pub fn tree(&self) -> Option<&ImmutableRef> {
        self.0.as_ref()
    }

    /// The ref with its files on disk.
    ///
    /// # Errors
    /// [`OpError::Worker`] when they cannot be had.
    pub async fn unpack(&self, cx: &OpContext<Kiln>) -> Result<Option<Unpacked>, OpError> {
        let Some(tree) = &self.0 else { return Ok(None) };
        if let Some(unpacked) = tree.unpacked() {
            return Ok(Some(unpacked));
        }
        Ok(Some(tree.unpack(Arc::new(JobProviders::new(cx))).await?))
    }
}

impl From<ImmutableRef> for Output {
    fn from(tree: ImmutableRef) -> Self {
        Self(Some(tree))
    }
}

/// Where the blobs of a vertex's ancestors can be had, with progress told to the vertex.
pub(crate) struct JobProviders {
    blobs: HashMap<Digest, Arc<dyn BlobProvider>>,
    progress: Option<kiln_engine::VertexProgress>,
    parts: Mutex<HashMap<(Digest, bool), kiln_engine::Part>>,
}

impl JobProviders {
    fn new(cx: &OpContext<Kiln>) -> Self {
        let mut blobs = HashMap::new();
        cx.find_opts(|known| {
            for (digest, provider) in known.iter() {
                blobs.entry(digest.clone()).or_insert_with(|| provider.clone());
            }
            None::<()>
        });
        Self { blobs, progress: Some(cx.progress().clone()), parts: Mutex::default() }
    }
}

/// Where the blobs of a vertex's ancestors can be had.
pub fn providers_for(cx: &OpContext<Kiln>) -> Arc<dyn Providers> {
    Arc::new(JobProviders::new(cx))
}

/// Where the blobs can be had that a finished build's result may still need.
pub fn providers_of(result: &CachedResult<Kiln>) -> Arc<dyn Providers> {
    let mut blobs = HashMap::new();
    result.visit(|vertex| {
        for known in vertex.opts() {
            for (digest, provider) in known.iter() {
                blobs.entry(digest.clone()).or_insert_with(|| provider.clone());
            }
        }
    });
    Arc::new(JobProviders { blobs, progress: None, parts: Mutex::default() })
}

impl Providers for JobProviders {
    fn provider(&self, digest: &Digest) -> Option<Arc<dyn BlobProvider>> {
        self.blobs.get(digest).cloned()
    }

    fn event(&self, event: LayerEvent) {
        let Some(progress) = &self.progress else { return };
        let Ok(mut parts) = self.parts.lock() else { return };
        match event {
            LayerEvent::Fetching { digest, current, total } => {
                let part =
                    parts.entry((digest.clone(), false)).or_insert_with(|| progress.part(digest.to_string()));
                part.update(to_i64(current), to_i64(total));
            }
            LayerEvent::Fetched { digest, total } => {
                if let Some(mut part) = parts.remove(&(digest, false)) {
                    part.update(to_i64(total), to_i64(total));
                }
            }
            LayerEvent::Unpacking { digest } => {
                let part = progress.part(format!("extracting {digest}"));
                parts.insert((digest, true), part);
            }
            LayerEvent::Unpacked { digest } => {
                parts.remove(&(digest, true));
            }
        }
    }
}

fn to_i64(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// What a vertex was made from, for provenance.
#[derive(Clone, Debug, PartialEq)]
pub struct Material {
    /// The source op.
    pub source: pb::SourceOp,
    /// The platform that was asked for.
    pub platform: Option<pb::Platform>,
    /// The digest of an image's manifest, a commit, a checksum.
    pub pin: String,
}

/// An op of LLB, ready to be asked.
#[derive(Debug)]
pub enum KilnOp {
    /// Brings files from outside.
    Source(Box<SourceOp>),
    /// Runs a process.
    Exec(Box<ExecOp>),
    /// Copies, makes and removes files.
    File(FileOp),
    /// Lays trees over each other.
    Merge(MergeOp),
    /// Takes a tree out of another.
    Diff(DiffOp),
    /// Builds a definition that an input holds.
    Build(BuildOp),
    /// Hands inputs on.
    Passthrough(PassthroughOp),
}

impl Op<Kiln> for KilnOp {
    async fn cache_map(
        &self,
        cx: &OpContext<Kiln>,
        index: usize,
    ) -> Result<(CacheMap<Kiln>, MapsLeft), OpError> {
        match self {
            Self::Source(op) => op.cache_map(cx, index).await,
            Self::Exec(op) => Ok((op.cache_map()?, MapsLeft::None)),
            Self::File(op) => Ok((op.cache_map()?, MapsLeft::None)),
            Self::Merge(op) => Ok((op.cache_map()?, MapsLeft::None)),
            Self::Diff(op) => Ok((op.cache_map()?, MapsLeft::None)),
            Self::Build(op) => Ok((op.cache_map()?, MapsLeft::None)),
            Self::Passthrough(op) => Ok((op.cache_map()?, MapsLeft::None)),
        }
    }

    async fn content_digest(
        &self,
        cx: &OpContext<Kiln>,
        input: usize,
        result: &Output,
    ) -> Result<Option<Digest>, OpError> {
        match self {
            Self::Exec(op) => op.content_digest(cx, input, result).await,
            Self::File(op) => op.content_digest(cx, input, result).await,
            _ => Ok(None),
        }
    }

    async fn prepare(&self, cx: &OpContext<Kiln>, _input: usize, result: &Output) -> Result<(), OpError> {
        // A merge has only named its trees so far, and an imported result its layers; bringing the files here is their own
        // work, done for whoever needs them.
        let left = result
            .tree()
            .filter(|tree| !matches!(tree.parents(), Parents::Diff { .. }) && tree.unpacked().is_none());
        let _shown = left.map(|_| cx.progress().resume());
        let Some(tree) = result.tree() else { return Ok(()) };
        if tree.unpacked().is_some() {
            return Ok(());
        }
        tree.worker().growing(result.unpack(cx)).await.map_err(OpError::from).flatten().map(drop)
    }

    async fn exec(&self, cx: &OpContext<Kiln>, inputs: Vec<Output>) -> Result<Vec<Output>, ExecError<Kiln>> {
        match self {
            Self::Source(op) => {
                let done = op.host.worker.growing(op.exec(cx)).await;
                done.map_err(OpError::from).flatten().map_err(ExecError::new)
            }
            // These two know which trees they write to.
            Self::Exec(op) => op.exec(cx, inputs).await.inspect(|made| told(cx, made)),
            Self::File(op) => op.exec(cx, inputs).await.inspect(|made| told(cx, made)),
            Self::Merge(op) => op.exec(cx, inputs).await.map_err(ExecError::new),
            Self::Diff(op) => op.exec(cx, inputs).await.map_err(ExecError::new),
            Self::Build(op) => op.exec(cx, inputs).await.map_err(ExecError::new),
            Self::Passthrough(op) => op.exec(&inputs).map_err(ExecError::new),
        }
    }

    async fn acquire(&self) -> Permit {
        match self {
            Self::Source(op) => op.host.permit().await,
            Self::Exec(op) => op.host.permit().await,
            Self::File(op) => op.host.permit().await,
            // None of them costs anything by itself.
            Self::Merge(_) | Self::Diff(_) | Self::Build(_) | Self::Passthrough(_) => Permit::none(),
        }
    }
}

/// Tells the witnesses what a step has made.
fn told(cx: &OpContext<Kiln>, made: &[Output]) {
    for witness in cx.jobs().into_iter().flat_map(|job| job.witnesses) {
        witness.made(cx.vertex(), made);
    }
}

/// Lays trees over each other, the later above the earlier.
#[derive(Debug)]
pub struct MergeOp {
    pub(crate) op: pb::MergeOp,
    pub(crate) name: String,
    pub(crate) host: Arc<Host>,
}

impl MergeOp {
    fn cache_map(&self) -> Result<CacheMap<Kiln>, OpError> {
        Ok(CacheMap::new(crate::canonical::merge(&self.op)?, self.op.inputs.len()))
    }

    async fn exec(&self, _cx: &OpContext<Kiln>, inputs: Vec<Output>) -> Result<Vec<Output>, OpError> {
        let trees: Vec<ImmutableRef> = inputs.into_iter().filter_map(|output| output.0).collect();
        let (worker, options) = (self.host.worker.clone(), kiln_worker::RefOptions::described(&self.name));
        let merged = tokio::task::spawn_blocking(move || worker.merge(&trees, options)).await??;
        Ok(vec![Output(merged)])
    }
}

/// Takes a tree out of another: what the upper changes in the lower.
#[derive(Debug)]
pub struct DiffOp {
    pub(crate) op: pb::DiffOp,
    pub(crate) name: String,
    pub(crate) host: Arc<Host>,
}

impl DiffOp {
    fn sides(&self) -> (bool, bool) {
        let given = |input: Option<i64>| input.is_some_and(|input| input != kiln_llb::EMPTY);
        (given(self.op.lower.map(|l| l.input)), given(self.op.upper.map(|u| u.input)))
    }

    fn cache_map(&self) -> Result<CacheMap<Kiln>, OpError> {
        let (lower, upper) = self.sides();
        Ok(CacheMap::new(crate::canonical::diff(&self.op)?, usize::from(lower) + usize::from(upper)))
    }

    async fn exec(&self, _cx: &OpContext<Kiln>, inputs: Vec<Output>) -> Result<Vec<Output>, OpError> {
        let (lower, upper) = self.sides();
        let mut inputs = inputs.into_iter();
        let mut side = |given: bool| if given { inputs.next().and_then(|output| output.0) } else { None };
        let (lower, upper) = (side(lower), side(upper));
        let (worker, options) = (self.host.worker.clone(), kiln_worker::RefOptions::described(&self.name));
        let diff = tokio::task::spawn_blocking(move || worker.diff(lower.as_ref(), upper.as_ref(), options))
            .await??;
        Ok(vec![Output(diff)])
    }
}
