//! Reading a cache from its place: manifest or index, then the config, or the records that image configs have inline.
//!
//! ```text
//! index    ─▶ layers, and the config among them       what BuildKit calls a manifest list
//! manifest ─▶ config; layers                          image-manifest=true
//! manifest ─▶ image config with inline records; layers
//! index    ─▶ such manifests, one for each platform
//! ```

use std::collections::HashMap;

use bytes::Bytes;
use kiln_oci::{Descriptor, Digest, Hasher, Index, Manifest, media_type};
use kiln_source::image::{Place, media_type_of};
use serde::Deserialize;

use crate::{
    CacheConfig, CacheGraph, Error, config,
    mounts::{self, MountEntry},
};

/// Annotation of a layer: the digest of its tar stream.
pub(crate) const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Annotation of a layer: when it was made.
pub(crate) const CREATED_AT: &str = "buildkit/createdat";
/// Annotation of a layer: what made it, for people.
pub(crate) const DESCRIPTION: &str = "buildkit/description";

/// The most images of an index that are looked into.
const MAX_IMAGES: usize = 64;

/// A cache that was read.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) graph: CacheGraph,
    /// What kind of manifest it was, for people.
    pub(crate) manifest_type: String,
    /// The cache mounts beside it.
    pub(crate) mounts: Vec<MountEntry>,
}

/// Reads the cache whose manifest or index is `root`. `name` is what people call it.
pub(crate) async fn read(place: &Place, name: &str, root: &Descriptor) -> Result<Imported, Error> {
    let reader = Reader { place, name };
    let json = reader.document(root).await?;
    let kind = media_type_of(&json).ok_or_else(|| reader.bad("is neither a manifest nor an index"))?;
    let mut graph = CacheGraph::default();
    let mut mounts = Vec::new();
    if media_type::is_index(&kind) {
        let index = Index::decode(&json).map_err(|error| reader.bad(error))?;
        match index.manifests.iter().find(|one| one.media_type == config::MEDIA_TYPE) {
            Some(config) => mounts = reader.add(&mut graph, config, &index.manifests).await?,
            None => reader.add_images(&mut graph, &index).await?,
        }
    } else if media_type::is_manifest(&kind) {
        let manifest = Manifest::decode(&json).map_err(|error| reader.bad(error))?;
        if manifest.config.media_type == config::MEDIA_TYPE {
            mounts = reader.add(&mut graph, &manifest.config, &manifest.layers).await?;
        } else {
            reader.add_image(&mut graph, manifest).await?;
        }
    } else {
        return Err(reader.bad(format_args!("has the type {kind}")));
    }
    Ok(Imported { graph, manifest_type: kind, mounts })
}

struct Reader<'a> {
    place: &'a Place,
    name: &'a str,
}

impl Reader<'_> {
    fn bad(&self, problem: impl std::fmt::Display) -> Error {
        Error::Manifest { name: self.name.to_owned(), problem: problem.to_string() }
    }

    fn verified(&self, expected: &Digest, content: Bytes) -> Result<Bytes, Error> {
        let mut hasher = Hasher::new(expected.algorithm());
        hasher.update(&content);
        let got = hasher.finish();
        if got == *expected {
            return Ok(content);
        }
        Err(Error::Mismatch { name: self.name.to_owned(), expected: expected.clone(), got })
    }

    async fn document(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let content = self.place.manifest(self.name, descriptor).await?;
        self.verified(&descriptor.digest, content)
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let content = self.place.small_blob(self.name, descriptor).await?;
        self.verified(&descriptor.digest, content)
    }

    /// A cache with a config of its own. Gives the cache mounts among what is listed beside it.
    async fn add(
        &self,
        graph: &mut CacheGraph,
        config: &Descriptor,
        listed: &[Descriptor],
    ) -> Result<Vec<MountEntry>, Error> {
        let config = CacheConfig::decode(&self.blob(config).await?)?;
        let (mounts, layers) = mounts::read(listed);
        let layers = layers.into_iter().map(|layer| (layer.digest.clone(), layer.clone())).collect();
        graph.add(&config, &layers)?;
        Ok(mounts)
    }

    /// The inline caches of an index's images.
    async fn add_images(&self, graph: &mut CacheGraph, index: &Index) -> Result<(), Error> {
        let images = index.manifests.iter().filter(|one| {
            media_type::is_manifest(&one.media_type)
                && !one.annotations.contains_key("vnd.docker.reference.type")
        });
        for descriptor in images.take(MAX_IMAGES) {
            let json = self.document(descriptor).await?;
            let manifest = Manifest::decode(&json).map_err(|error| self.bad(error))?;
            self.add_image(graph, manifest).await?;
        }
        Ok(())
    }

    /// The inline cache of an image, if it has one.
    async fn add_image(&self, graph: &mut CacheGraph, manifest: Manifest) -> Result<(), Error> {
        if !media_type::is_config(&manifest.config.media_type) || manifest.layers.is_empty() {
            return Ok(());
        }
        let json = self.blob(&manifest.config).await?;
        let image: InlineConfig = serde_json::from_slice(&json).map_err(|error| self.bad(error))?;
        let Some(records) = image.records().map_err(|error| self.bad(error))? else { return Ok(()) };
        if image.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(self.bad("the image's config and manifest have different numbers of layers"));
        }
        let layers = manifest.layers.iter().map(|layer| layer.digest.clone()).collect();
        let config = CacheConfig::decode_inline(&records, layers)?;
        let blobs: HashMap<_, _> =
            image.describe(manifest.layers).into_iter().map(|layer| (layer.digest.clone(), layer)).collect();
        graph.add(&config, &blobs)
    }
}

/// What an image config says of its layers, and the records that it has inline.
#[derive(Deserialize)]
struct InlineConfig {
    #[serde(default)]
    rootfs: InlineRoot,
    #[serde(default)]
    history: Option<Vec<InlineHistory>>,
    #[serde(rename = "moby.buildkit.cache.v0", default)]
    cache: Option<String>,
}

#[derive(Default, Deserialize)]
struct InlineRoot {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct InlineHistory {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    empty_layer: bool,
}

impl InlineConfig {
    fn records(&self) -> Result<Option<Vec<u8>>, base64::DecodeError> {
        use base64::Engine as _;
        let text = self.cache.as_deref().filter(|text| !text.is_empty());
        text.map(|text| base64::engine::general_purpose::STANDARD.decode(text)).transpose()
    }

    /// The image's layers with what a cache manifest would say of them.
    fn describe(&self, mut layers: Vec<Descriptor>) -> Vec<Descriptor> {
        let mut told = self.history.iter().flatten().filter(|entry| !entry.empty_layer);
        for (layer, diff_id) in layers.iter_mut().zip(&self.rootfs.diff_ids) {
            layer.annotations.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
            let Some(entry) = told.next() else { continue };
            if let Some(created) = &entry.created {
                layer.annotations.insert(CREATED_AT.to_owned(), created.clone());
            }
            if !entry.created_by.is_empty() {
                layer.annotations.insert(DESCRIPTION.to_owned(), entry.created_by.clone());
            }
        }
        layers
    }
}
