//! Pushes images: blobs side by side, then manifests from the leaves to the root, which gets the tag.

use std::{collections::HashSet, fs::File, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use kiln_oci::{Descriptor, Digest, Manifest, Reference, media_type};
use kiln_registry::{Auth, Registries, Remote};
use kiln_store::Store;
use reqwest::Body;
use tokio_util::io::ReaderStream;

use crate::{
    Context,
    error::{Error, Result, blocking},
    image::{Committed, Image, parse_name},
    source::Layer,
};

/// Blobs that are pushed at once.
const AT_ONCE: usize = 4;
/// Bytes that are read of a blob at once.
const CHUNK: usize = 256 << 10;

/// An image that waits to be pushed, when all exporters of a build have succeeded.
#[derive(Clone, Debug)]
pub struct Push {
    pub(crate) image: Committed,
    pub(crate) names: Vec<String>,
    pub(crate) by_digest: bool,
    pub(crate) insecure: bool,
}

impl Push {
    /// Pushes the image under each of its names.
    ///
    /// # Errors
    ///
    /// [`Error::Push`] with the name, and what the worker says of layers that have to be fetched first.
    pub async fn run(&self, cx: &Context) -> Result<()> {
        for name in &self.names {
            self.push(cx, name).await?;
        }
        Ok(())
    }

    async fn push(&self, cx: &Context, name: &str) -> Result<()> {
        let reference = parse_name(name)?.without_digest().with_default_tag();
        let target = Target::of(cx, name, self.insecure, &self.image.descriptor.digest).await?;
        let step = cx.step("pushing layers");
        step.end(target.push_blobs(&self.image).await)?;
        let root = &self.image.descriptor;
        let step = cx.step(&format!("pushing manifest for {reference}@{}", root.digest));
        step.end(self.push_manifests(&target, &reference).await)
    }

    async fn push_manifests(&self, target: &Target<'_>, reference: &Reference) -> Result<()> {
        let root = &self.image.descriptor.digest;
        for document in &self.image.documents {
            if !is_manifest(document) {
                continue;
            }
            let tag = if document.digest == *root && !self.by_digest { reference.tag() } else { None };
            let content = Bytes::from(target.read(document).await?);
            let under = tag.unwrap_or(document.digest.as_str());
            let pushed = target.remote.push_manifest(under, &document.media_type, &content).await;
            pushed.map_err(|source| target.failed(source))?;
        }
        Ok(())
    }
}

fn is_manifest(document: &Descriptor) -> bool {
    media_type::is_manifest(&document.media_type) || media_type::is_index(&document.media_type)
}

fn failed(name: &str, source: kiln_registry::Error) -> Error {
    Error::Push { name: name.to_owned(), source }
}

/// The repository on a registry whose certificate does not matter, or that speaks no TLS: whichever answers a question
/// for `digest`.
///
/// # Errors
/// The first one's, when neither answers.
pub async fn insecure(
    auth: &Auth,
    reference: &Reference,
    digest: &Digest,
) -> Result<Remote, kiln_registry::Error> {
    let [first, second] = Registries::insecure(reference, auth);
    let Err(error) = first.has_blob(digest).await else { return Ok(first) };
    match second.has_blob(digest).await {
        Ok(_) => Ok(second),
        Err(_) => Err(error),
    }
}

/// One repository that an image goes to.
struct Target<'a> {
    cx: &'a Context,
    name: &'a str,
    remote: Remote,
}

impl<'a> Target<'a> {
    /// The repository of the image `name`. An insecure registry is asked for `digest`, to see what it speaks.
    async fn of(cx: &'a Context, name: &'a str, is_insecure: bool, digest: &Digest) -> Result<Self> {
        let reference = parse_name(name)?;
        let remote = match is_insecure {
            true => insecure(&cx.auth, &reference, digest).await.map_err(|source| failed(name, source))?,
            false => cx.registries.remote(&reference, cx.auth.clone()),
        };
        Ok(Target { cx, name, remote })
    }

    fn failed(&self, source: kiln_registry::Error) -> Error {
        failed(self.name, source)
    }

    async fn read(&self, document: &Descriptor) -> Result<Vec<u8>> {
        let (cx, digest) = (self.cx.clone(), document.digest.clone());
        blocking(move || cx.read_blob(&digest)).await
    }

    async fn push_blobs(&self, image: &Committed) -> Result<()> {
        let mut manifests = Vec::new();
        for document in image.documents.iter().filter(|d| media_type::is_manifest(&d.media_type)) {
            let content = self.read(document).await?;
            manifests.push(Manifest::decode(&content).map_err(Error::json("a manifest"))?);
        }
        // Layers that stay marked as not to be distributed are not: registries need not take them.
        let kept_back = manifests.iter().flat_map(|manifest| &manifest.layers);
        let kept_back = kept_back.filter(|layer| media_type::is_foreign_layer(&layer.media_type));
        let mut seen: HashSet<Digest> = kept_back.map(|layer| layer.digest.clone()).collect();
        let layers =
            image.images.iter().flat_map(|image| image.layers.iter().map(move |layer| (image, layer)));
        let layers: Vec<_> =
            layers.filter(|(_, layer)| seen.insert(layer.descriptor.digest.clone())).collect();
        let mut others = Vec::new();
        for manifest in manifests {
            others.push(manifest.config);
            others
                .extend(manifest.layers.into_iter().filter(|layer| layer.media_type == media_type::IN_TOTO));
        }
        others.retain(|blob| seen.insert(blob.digest.clone()));
        let layers = layers.into_iter().map(|(image, layer)| self.push_layer(image, layer).boxed());
        let others = others.iter().map(|blob| self.push_blob(blob, Some(&[])).boxed());
        let push: Vec<BoxFuture<'_, Result<()>>> = layers.chain(others).collect();
        stream::iter(push).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// A layer that is elsewhere is fetched only if the registry has it nowhere.
    async fn push_layer(&self, image: &Image, layer: &Layer) -> Result<()> {
        let blob = &layer.descriptor;
        let sources: Vec<_> =
            layer.repositories.iter().filter_map(|name| Reference::parse(name).ok()).collect();
        let here = self.cx.store.content().stat(&blob.digest)?.is_some();
        if here {
            self.push_blob(blob, Some(&sources)).await?;
        } else {
            let spared = self.remote.spare_blob(blob, &sources).await;
            if spared.map_err(|source| self.failed(source))?.is_none() {
                if let Some(tree) = &image.tree {
                    tree.fetch(layer).await.map_err(Error::of_ref("fetch a layer"))?;
                }
                self.push_blob(blob, None).await?;
            }
        }
        if let Some(tree) = &image.tree {
            tree.pushed(layer, self.remote.name()).map_err(Error::of_ref("note where a layer is"))?;
        }
        Ok(())
    }

    /// Sends a blob; with `sources`, repositories that may have it, the registry is asked first.
    async fn push_blob(&self, blob: &Descriptor, sources: Option<&[Reference]>) -> Result<()> {
        // Fails here rather than in the middle of an upload.
        self.cx.store.content().blob(&blob.digest)?;
        let step = format!("pushing {}", blob.digest);
        let (store, digest) = (Arc::new(self.cx.store.clone()), blob.digest.clone());
        let open = move || body(&store, &digest);
        let step = self.cx.step(&step);
        let pushed = match sources {
            Some(sources) => self.remote.push_blob(blob, sources, &open).await,
            None => self.remote.send_blob(blob, &open).await,
        };
        step.moved(blob.size, blob.size);
        step.end(pushed.map(drop).map_err(|source| self.failed(source)))
    }
}

/// Pushes layers that lie in the content store to the repository of the image `name`, one after the other: the build goes on
/// meanwhile.
pub(crate) async fn ahead(cx: &Context, name: &str, insecure: bool, layers: &[&Layer]) -> Result<()> {
    let Some(first) = layers.first() else { return Ok(()) };
    let target = Target::of(cx, name, insecure, &first.descriptor.digest).await?;
    for layer in layers {
        let sources: Vec<_> =
            layer.repositories.iter().filter_map(|name| Reference::parse(name).ok()).collect();
        target.push_blob(&layer.descriptor, Some(&sources)).await?;
    }
    Ok(())
}

/// The bytes of a blob in the content store as the body of a request.
pub fn body(store: &Store, digest: &Digest) -> Body {
    let open: std::io::Result<File> =
        store.content().blob(digest).map(kiln_store::Blob::into_file).map_err(std::io::Error::other);
    match open {
        Ok(file) => Body::wrap_stream(ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK)),
        Err(error) => Body::wrap_stream(stream::once(async { Err::<Bytes, _>(error) })),
    }
}
