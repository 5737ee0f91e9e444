//! Where builds come from: images, OCI layouts, local folders, git and HTTP.
//!
//! [`Sources`] opens the [`Source`] that a source op names. A source has cache keys, which cost as little as they can (a manifest, a
//! `HEAD`, nothing at all), and a snapshot, which is made only when somebody needs it and is lazy where it can be: an image is a
//! stack of descriptors until a step reads a file of it.
//!
//! [`image::Resolver`] also answers what frontends ask about images: their digest and config.

mod error;
pub mod image;
mod local;

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

/// What all sources share.
#[derive(Clone, Debug)]
pub struct Sources {
    worker: Worker,
    images: image::Resolver,
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
}

impl Sources {
    /// Sources that keep what they get in `worker`.
    #[must_use]
    pub fn new(worker: Worker, registries: Arc<Registries>) -> Self {
        let images = image::Resolver::new(worker.clone(), registries);
        Self { worker, images }
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
            _ => return Err(Error::Unsupported { identifier: op.identifier.clone() }),
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
        }
    }
}
