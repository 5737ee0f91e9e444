//! What the engine asks of its user: the op, its result, its errors.

use std::any::Any;
use std::fmt::{self, Debug};
use std::future::Future;

use kiln_oci::Digest;

use crate::{CacheDigest, OpContext};

/// The types that a user of the engine brings. Implemented by a marker type.
pub trait Domain: Sized + Send + Sync + Debug + 'static {
    /// What a vertex does.
    type Op: Op<Self>;
    /// A result. A handle: cloning is cheap, and dropping the last clone lets the result go. An empty result
    /// (scratch) is a value of this type.
    type Output: Clone + Debug + Send + Sync + 'static;
    /// What a job brings for its ops: session, entitlements.
    type Job: Clone + Send + Sync + 'static;
    /// Why an op failed.
    type Error: std::error::Error + Send + Sync + 'static;
    /// What a cache map leaves for later loads of this vertex and its descendants: blob providers, for example.
    type CacheOpts: Clone + Send + Sync + 'static;
    /// What a vertex was made from, for provenance.
    type Material: Clone + Send + Sync + 'static;
}

/// What a vertex does, and by what its result can be found in a cache.
///
/// Every future may be dropped at any await point: that is how work is cancelled.
pub trait Op<D: Domain>: Send + Sync + 'static {
    /// How the op is cached. Only ops without inputs may have several cache maps: they are asked for in turn, from
    /// `index` 0, until one says [`MapsLeft::None`], and a later one is asked for only when the earlier did not match.
    fn cache_map(
        &self,
        cx: &OpContext<D>,
        index: usize,
    ) -> impl Future<Output = Result<(CacheMap<D>, MapsLeft), D::Error>> + Send;

    /// The digest of the content of input `input` as this op sees it (only the selected paths). Asked for inputs whose
    /// [`InputMap::by_content`] is set, once per vertex. `None`: there is none, the input cannot match by content.
    fn content_digest(
        &self,
        cx: &OpContext<D>,
        input: usize,
        result: &D::Output,
    ) -> impl Future<Output = Result<Option<Digest>, D::Error>> + Send {
        let _ = (cx, input, result);
        std::future::ready(Ok(None))
    }

    /// Makes input `input` ready for use (fetches what is lazy). Asked for inputs whose [`InputMap::prepare`] is set,
    /// once per vertex, before [`content_digest`](Op::content_digest) and [`exec`](Op::exec). The progress of `cx` is
    /// that of the input's vertex.
    fn prepare(
        &self,
        cx: &OpContext<D>,
        input: usize,
        result: &D::Output,
    ) -> impl Future<Output = Result<(), D::Error>> + Send {
        let _ = (cx, input, result);
        std::future::ready(Ok(()))
    }

    /// Does it. `inputs` are in the order of the vertex's inputs; the outputs in the order of the op's outputs.
    fn exec(
        &self,
        cx: &OpContext<D>,
        inputs: Vec<D::Output>,
    ) -> impl Future<Output = Result<Vec<D::Output>, ExecError<D>>> + Send;

    /// Waits until the op may run. The permit is held while [`exec`](Op::exec) runs, except while it waits for a
    /// build of its own ([`OpContext::build`]).
    fn acquire(&self) -> impl Future<Output = Permit> + Send {
        std::future::ready(Permit::none())
    }
}

/// Whether an op has more cache maps after this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapsLeft {
    /// The next index may be asked for.
    Some,
    /// This was the last.
    None,
}

/// How an op is cached.
pub struct CacheMap<D: Domain> {
    /// Digest of what the op does, without its inputs.
    pub digest: CacheDigest,
    /// One for each input of the vertex.
    pub inputs: Vec<InputMap>,
    /// For loads of this vertex and its descendants.
    pub opts: Option<D::CacheOpts>,
    /// What the vertex is made from. Recorded whether or not it runs.
    pub materials: Vec<D::Material>,
}

impl<D: Domain> CacheMap<D> {
    /// A map with `digest` and `inputs` plain inputs.
    pub fn new(digest: impl Into<CacheDigest>, inputs: usize) -> Self {
        let inputs = vec![InputMap::default(); inputs];
        Self { digest: digest.into(), inputs, opts: None, materials: Vec::new() }
    }
}

impl<D: Domain> Debug for CacheMap<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheMap")
            .field("digest", &self.digest)
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

/// How one input takes part in the key of an op.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputMap {
    /// What of the input is used. Part of the links from the input's keys, but not of those from its content key.
    pub selector: Option<Digest>,
    /// Whether the input has a content key: [`Op::content_digest`].
    pub by_content: bool,
    /// Whether [`Op::prepare`] is to be asked.
    pub prepare: bool,
}

/// An op failed, and what it leaves for a debugger to look at.
#[derive(Debug)]
pub struct ExecError<D: Domain> {
    /// Why.
    pub error: D::Error,
    /// The results of its inputs, where they are of use.
    pub inputs: Vec<Option<D::Output>>,
    /// What its mounts had become, in the order of the op's mounts.
    pub mounts: Vec<Option<D::Output>>,
}

impl<D: Domain> ExecError<D> {
    /// An error that leaves nothing to look at.
    pub fn new(error: D::Error) -> Self {
        Self { error, inputs: Vec::new(), mounts: Vec::new() }
    }
}

/// The right to run, given back on drop.
#[derive(Default)]
pub struct Permit(Option<Box<dyn Any + Send>>);

impl Permit {
    /// A permit of nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// A permit that drops `guard` in the end.
    pub fn new(guard: impl Any + Send) -> Self {
        Self(Some(Box::new(guard)))
    }
}

impl Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.0.is_some()).finish()
    }
}
