//! Where builds come from: images, OCI layouts, local folders, git and HTTP.
//!
//! [`Sources`] opens the [`Source`] that a source op names. A source has cache keys, which cost as little as they can (a manifest, a
//! `HEAD`, nothing at all), and a snapshot, which is made only when somebody needs it and is lazy where it can be: an image is a
//! stack of descriptors until a step reads a file of it.
//!
//! [`image::Resolver`] also answers what frontends ask about images: their digest and config.

mod blob;
mod builds;
mod error;
mod file;
mod git;
mod http;
pub mod image;
mod local;
mod metadata;

use std::sync::Arc;

use kiln_engine::VertexProgress;
use kiln_llb::source::Identifier;
use kiln_oci::Platform;
use kiln_proto::pb;
use kiln_registry::Registries;
use kiln_session::Group;
use kiln_worker::{BlobProvider, ImmutableRef, Worker};

pub use error::Error;
use kiln_oci::Digest;
pub use local::HASHES;
pub use metadata::{GitMetadata, HttpMetadata, Metadata, MetadataRequest, commit_time};

/// What all sources share.
#[derive(Clone, Debug)]
pub struct Sources {
    worker: Worker,
    images: image::Resolver,
    registries: Arc<Registries>,
    builds: builds::Builds,
}

/// What a source may use while it works for a vertex.
#[derive(Clone, Debug)]
pub struct SourceContext {
    /// The sessions of the builds that want it.
    pub sessions: Group,
    /// Where to tell how it goes.
    pub progress: VertexProgress,
}

/// One of a source's cache keys.
#[derive(Clone, Debug)]
pub struct SourceKey {
    /// The key. One that begins with `session:` is good for this session only.
    pub key: String,
    /// Whether this was the last.
    pub last: bool,
    /// What the source turned out to be: the digest of an image's manifest, a commit, a checksum. For provenance.
    pub pin: String,
    /// Where blobs can be had that later loads may need.
    pub blobs: Vec<(Digest, Arc<dyn BlobProvider>)>,
}

/// A source op that has been understood.
#[derive(Debug)]
pub struct Source {
    sources: Sources,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Image(image::ImageSource),
    Local(local::LocalSource),
    Http(http::HttpSource),
    Git(git::GitSource),
    Blob(blob::BlobSource),
}

impl Sources {
    /// Sources that keep what they get in `worker`.
    #[must_use]
    pub fn new(worker: Worker, registries: Arc<Registries>) -> Self {
        let images = image::Resolver::new(worker.clone(), registries.clone());
        Self { worker, images, registries, builds: builds::Builds::default() }
    }

    /// The resolver of images, for frontends.
    #[must_use]
    pub fn images(&self) -> &image::Resolver {
        &self.images
    }

    /// Understands a source op. `default` is the platform of the worker.
    ///
    /// # Errors
    /// [`Error::Identifier`] for what makes no sense, [`Error::Unsupported`] for what there is no source for.
    pub fn open(
        &self,
        op: &pb::SourceOp,
        platform: Option<&pb::Platform>,
        default: &Platform,
    ) -> Result<Source, Error> {
        let kind = match Identifier::parse(op, platform)? {
            Identifier::Image(image) => Kind::Image(image::ImageSource::registry(image, default)),
            Identifier::OciLayout(layout) => Kind::Image(image::ImageSource::layout(layout, default)),
            Identifier::Local(local) => Kind::Local(local::LocalSource::new(local)),
            Identifier::Http(http) => Kind::Http(http::HttpSource::new(http)?),
            Identifier::Git(git) => Kind::Git(git::GitSource::new(*git, &op.identifier)?),
            Identifier::ImageBlob(blob) => Kind::Blob(blob::BlobSource::registry(blob)),
            Identifier::OciBlob(blob) => Kind::Blob(blob::BlobSource::layout(blob)),
        };
        Ok(Source { sources: self.clone(), kind })
    }
}

impl Source {
    /// The cache key number `index`, counted from 0. A later one is asked for only when the earlier ones did not match.
    ///
    /// # Errors
    /// Whatever the source needs for it fails with.
    pub async fn key(&self, cx: &SourceContext, index: usize) -> Result<SourceKey, Error> {
        match &self.kind {
            Kind::Image(image) => image.key(&self.sources.images, cx, index).await,
            Kind::Local(local) => local.key(cx),
            Kind::Http(http) => http.key(&self.sources, &cx.into()).await,
            Kind::Git(git) => git.key(&self.sources, &cx.into()).await,
            Kind::Blob(blob) => blob.key(),
        }
    }

    /// The files. `None` is an empty tree.
    ///
    /// # Errors
    /// Whatever the source needs for it fails with.
    pub async fn snapshot(&self, cx: &SourceContext) -> Result<Option<ImmutableRef>, Error> {
        match &self.kind {
            Kind::Image(image) => image.snapshot(&self.sources, cx).await,
            Kind::Local(local) => local.snapshot(&self.sources.worker, cx).await.map(Some),
            Kind::Http(http) => http.snapshot(&self.sources, &cx.into()).await.map(Some),
            Kind::Git(git) => git.snapshot(&self.sources, &cx.into()).await.map(Some),
            Kind::Blob(blob) => blob.snapshot(&self.sources, cx).await.map(Some),
        }
    }
}

/// Who asks: the sessions, and where to tell how it goes, if anybody looks.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) sessions: Group,
    pub(crate) progress: Option<VertexProgress>,
}

impl From<&SourceContext> for Asking {
    fn from(cx: &SourceContext) -> Self {
        Self { sessions: cx.sessions.clone(), progress: Some(cx.progress.clone()) }
    }
}

impl SourceKey {
    /// The only key of a source whose blobs are nobody's business.
    pub(crate) fn only(key: String, pin: String) -> Self {
        Self { key, last: true, pin, blobs: Vec::new() }
    }
}
