//! From a reference to a manifest, a config and layers.
//!
//! Documents are kept in the content store, so that an image that is named by digest is resolved without the network once its
//! repository served it. Several builds that ask for the same at once share the work.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use kiln_oci::{
    Descriptor, Digest, Hasher, ImageConfig, Index, Manifest, Platform, PlatformMatcher, Reference,
    media_type,
};
use kiln_registry::Registries;
use kiln_session::Group;
use kiln_store::Lease;
use kiln_worker::Worker;
use tokio::sync::OnceCell;

use super::{
    kept::{self, Origin},
    place::{MAX_DOCUMENT, Place, Where, media_type_of},
};
use crate::Error;

/// Manifests deeper than this are refused: an index of an index is odd, a loop is an attack.
const MAX_DEPTH: usize = 4;

/// What to resolve.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    reference: String,
    platform: Platform,
    place: Where,
}

impl Request {
    /// An image of the registry that its reference names.
    #[must_use]
    pub fn registry(reference: &Reference, platform: &Platform) -> Self {
        Self { reference: reference.to_string(), platform: platform.clone(), place: Where::Registry }
    }

    /// The image's name.
    pub(super) fn shown(&self) -> &str {
        &self.reference
    }

    pub(super) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// An image of a client's content store `store`; `session` is asked first.
    #[must_use]
    pub fn layout(
        reference: &Reference,
        platform: &Platform,
        session: Option<String>,
        store: String,
    ) -> Self {
        let place = Where::Layout { session, store };
        Self { reference: reference.to_string(), platform: platform.clone(), place }
    }
}

/// An image that is known, without any of its layers' bytes.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// What the reference stands for: the index, if there is one.
    pub root: Descriptor,
    /// The manifest of the platform.
    pub manifest: Descriptor,
    /// Its config's descriptor.
    pub config_descriptor: Descriptor,
    /// The config as it is stored.
    pub config: Bytes,
    /// Lowest first, with what the manifest says of each.
    pub layers: Vec<Descriptor>,
    /// Of each layer's tar stream, in the same order.
    pub diff_ids: Vec<Digest>,
    /// All documents that lead to it.
    pub documents: Vec<Digest>,
}

/// Resolves images for sources and frontends.
#[derive(Clone, Debug)]
pub struct Resolver {
    worker: Worker,
    registries: Arc<Registries>,
    pending: Arc<Mutex<Pending>>,
}

type Shared = OnceCell<Arc<ResolvedImage>>;
/// By request and the sessions that ask: credentials decide what is seen.
type Pending = HashMap<(Request, Vec<String>), Weak<Shared>>;

impl Resolver {
    pub(crate) fn new(worker: Worker, registries: Arc<Registries>) -> Self {
        Self { worker, registries, pending: Arc::default() }
    }

    pub(super) fn place(&self, request: &Request, reference: &Reference, sessions: &Group) -> Place {
        Place::new(&request.place, &self.registries, reference, sessions)
    }

    pub(super) fn lease(&self) -> Result<Lease, Error> {
        Ok(self.worker.store().lease()?)
    }

    /// Resolves an image, with the credentials of `sessions`.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::NoPlatform`], [`Error::Image`] for documents that make no sense.
    pub async fn resolve(&self, request: &Request, sessions: &Group) -> Result<Arc<ResolvedImage>, Error> {
        let key = (request.clone(), sessions.ids());
        let cell = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            match pending.get(&key).and_then(Weak::upgrade) {
                Some(cell) => cell,
                None => {
                    pending.retain(|_, cell| cell.strong_count() > 0);
                    let cell = Arc::new(Shared::new());
                    pending.insert(key, Arc::downgrade(&cell));
                    cell
                }
            }
        };
        cell.get_or_try_init(|| async { self.fetch(request, sessions).await.map(Arc::new) }).await.cloned()
    }

    async fn fetch(&self, request: &Request, sessions: &Group) -> Result<ResolvedImage, Error> {
        let shown = &request.reference;
        let reference = Reference::parse(shown)
            .map_err(|e| Error::Image { reference: shown.clone(), problem: e.to_string() })?
            .with_default_tag();
        let place = self.place(request, &reference, sessions);
        let origin = Origin::of(&request.place, &reference);
        let lease = self.lease()?;
        let known = match reference.digest() {
            Some(digest) if origin.served(self.worker.store(), digest)? => {
                self.read_here(digest).await?.map(|content| (digest.clone(), content))
            }
            _ => None,
        };
        let root = match known.and_then(|(digest, content)| Some((media_type_of(&content)?, digest, content)))
        {
            Some((media_type, digest, content)) => Descriptor::new(media_type, digest, content.len() as u64),
            None => {
                let mut resolved = place.resolve(&reference).await?;
                if let Some(pinned) = reference.digest() {
                    // Whatever digest the registry names, it is held to the one that was asked for.
                    resolved.descriptor.digest = pinned.clone();
                }
                if let Some(content) = &resolved.content {
                    self.keep(&lease, &resolved.descriptor, content.clone()).await?;
                }
                resolved.descriptor
            }
        };
        let walk = Walk { resolver: self, place: &place, shown, platform: &request.platform, lease: &lease };
        let image = walk.run(root).await?;
        origin.keep(self.worker.store(), &image)?;
        Ok(image)
    }

    /// Ends what is kept of images for coming builds; what refs hold stays with them.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn forget(&self) -> Result<(), Error> {
        let store = self.worker.store().clone();
        let forgotten = tokio::task::spawn_blocking(move || kept::forget(&store)).await??;
        tracing::debug!(images = forgotten, "documents of images are not kept any more");
        Ok(())
    }

    async fn read_here(&self, digest: &Digest) -> Result<Option<Bytes>, Error> {
        let (store, digest) = (self.worker.store().clone(), digest.clone());
        let read = tokio::task::spawn_blocking(move || {
            if store.content().stat(&digest)?.is_none() {
                return Ok(None);
            }
            match store.content().read(&digest, MAX_DOCUMENT) {
                Ok(content) => Ok(Some(Bytes::from(content))),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        });
        Ok(read.await??)
    }

    async fn keep(&self, lease: &Lease, descriptor: &Descriptor, content: Bytes) -> Result<(), Error> {
        let (store, lease, descriptor) =
            (self.worker.store().clone(), lease.id().clone(), descriptor.clone());
        let write = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut ingest = store.content().ingest()?;
            ingest.write_all(&content).map_err(|source| kiln_store::Error::Io {
                action: "write",
                path: store.content().path(&descriptor.digest),
                source,
            })?;
            ingest.commit(&store, &lease, Some(&descriptor.digest), None)
        });
        write.await??;
        Ok(())
    }
}

/// The way from an index to the manifest of one platform.
pub(super) struct Walk<'a> {
    pub(super) resolver: &'a Resolver,
    pub(super) place: &'a Place,
    pub(super) shown: &'a str,
    pub(super) platform: &'a Platform,
    pub(super) lease: &'a Lease,
}

impl Walk<'_> {
    pub(super) fn bad(&self, problem: String) -> Error {
        Error::Image { reference: self.shown.to_owned(), problem }
    }

    pub(super) async fn document(&self, descriptor: &Descriptor, blob: bool) -> Result<Bytes, Error> {
        if let Some(content) = self.resolver.read_here(&descriptor.digest).await? {
            return Ok(content);
        }
        let content = match blob {
            true => self.place.small_blob(self.shown, descriptor).await?,
            false => self.place.manifest(self.shown, descriptor).await?,
        };
        let mut hasher = Hasher::new(descriptor.digest.algorithm());
        hasher.update(&content);
        let got = hasher.finish();
        if got != descriptor.digest {
            return Err(self.bad(format!("{} came with other content, of digest {got}", descriptor.digest)));
        }
        self.resolver.keep(self.lease, descriptor, content.clone()).await?;
        Ok(content)
    }

    async fn run(&self, root: Descriptor) -> Result<ResolvedImage, Error> {
        let mut documents = Vec::new();
        let mut current = root.clone();
        for _ in 0..MAX_DEPTH {
            let content = self.document(&current, false).await?;
            documents.push(current.digest.clone());
            if media_type::is_index(&current.media_type) {
                let index = Index::decode(&content)
                    .map_err(|e| self.bad(format!("index {}: {e}", current.digest)))?;
                current = self.choose(&index)?;
                continue;
            }
            let manifest = Manifest::decode(&content)
                .map_err(|e| self.bad(format!("manifest {}: {e}", current.digest)))?;
            return self.image(root, current, &manifest, documents).await;
        }
        Err(self.bad(format!("its index is nested deeper than {MAX_DEPTH} levels")))
    }

    /// The manifest that fits the platform best; the first of equals.
    pub(super) fn choose(&self, index: &Index) -> Result<Descriptor, Error> {
        let images: Vec<&Descriptor> = index.manifests.iter().filter(|d| is_image(d)).collect();
        let matcher = PlatformMatcher::only(self.platform);
        let mut fitting: Vec<&Descriptor> = images
            .iter()
            .copied()
            .filter(|d| d.platform.as_ref().is_none_or(|p| matcher.matches(p)))
            .collect();
        fitting.sort_by(|a, b| match (&a.platform, &b.platform) {
            (Some(a), Some(b)) => matcher.compare(a, b),
            (a, b) => b.is_some().cmp(&a.is_some()),
        });
        if let Some(best) = fitting.first() {
            return Ok((*best).clone());
        }
        let found = images.iter().filter_map(|d| d.platform.as_ref()).map(Platform::format_all).collect();
        Err(Error::NoPlatform { reference: self.shown.to_owned(), wanted: self.platform.format_all(), found })
    }

    async fn image(
        &self,
        root: Descriptor,
        manifest: Descriptor,
        document: &Manifest,
        mut documents: Vec<Digest>,
    ) -> Result<ResolvedImage, Error> {
        let config = self.document(&document.config, true).await?;
        documents.push(document.config.digest.clone());
        let layers: Vec<Descriptor> = document.layers.clone();
        // An artifact's config says nothing of layers; whoever asks for its files gets an error then.
        let diff_ids = ImageConfig::decode(&config).map(|c| c.rootfs.diff_ids).unwrap_or_default();
        let config_descriptor = document.config.clone();
        Ok(ResolvedImage { root, manifest, config_descriptor, config, layers, diff_ids, documents })
    }
}

/// Attestations stand in an index beside the images that they are about.
fn is_image(descriptor: &Descriptor) -> bool {
    let kind = "vnd.docker.reference.type";
    descriptor.annotations.get(kind).is_none_or(|v| v != "attestation-manifest")
}
