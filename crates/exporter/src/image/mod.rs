//! Makes manifests: one of an image, or an index of several with their attestations.
//!
//! ```text
//! single tree, no attestations          several platforms, or attestations
//!   manifest ─▶ config, layers            index ─▶ manifest of platform 1 ─▶ config, layers
//!                                               ─▶ manifest of platform 2 ─▶ …
//!                                               ─▶ attestation manifest of 1 ─▶ statements
//! ```

mod attest;
mod config;
mod sbom;

use std::{collections::BTreeMap, sync::Arc};

use futures::future::{BoxFuture, try_join_all};
use kiln_layer::Compression;
use kiln_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, media_type};

use crate::{
    Context,
    annotations::Annotations,
    attestation::{Subject, image_purl},
    error::{Error, Result, blocking},
    options::{ImageOptions, parse_epoch},
    source::{BASE_CONFIG, EPOCH, IMAGE_CONFIG, Layer, ResultPlatform, ResultRef, Source},
};

/// The most that a manifest, index or config that we read back may have, in bytes.
pub(crate) const MAX_JSON: u64 = 16 << 20;

/// What was made: everything but lazy layers lies in the content store.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    /// The manifest or index, with platform and annotations.
    pub(crate) descriptor: Descriptor,
    /// The config's digest, of a single image.
    pub(crate) config: Option<Digest>,
    /// The images that it consists of, in order.
    pub(crate) images: Vec<Image>,
    /// Manifests and configs, those that others refer to first; the root is the last.
    pub(crate) documents: Vec<Descriptor>,
    /// `SOURCE_DATE_EPOCH`, if there is one for all.
    pub(crate) epoch: Option<i64>,
}

/// One image of a result.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) manifest: Descriptor,
    pub(crate) layers: Vec<Layer>,
    pub(crate) tree: Option<Arc<dyn ResultRef>>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("manifest", &self.manifest)
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

/// Everything that one commit works with.
struct Writer<'a> {
    cx: &'a Context,
    source: &'a Source,
    options: &'a ImageOptions,
    platforms: Vec<ResultPlatform>,
    documents: Vec<Descriptor>,
}

/// Makes the image or index of `source` and puts it into the content store, held by the context's lease.
pub(crate) async fn commit(cx: &Context, source: &Source, options: &ImageOptions) -> Result<Committed> {
    let platforms = source.platforms()?;
    let writer = Writer { cx, source, options, platforms, documents: Vec::new() };
    writer.check_annotations()?;
    let attested = writer.platforms.iter().any(|p| !writer.attestations(&p.id).is_empty());
    if attested && !options.oci_types() {
        return Err(Error::Conflict("attestations cannot be exported with oci-mediatypes=false".into()));
    }
    if source.is_multi() || attested { writer.index().await } else { writer.single().await }
}

impl Writer<'_> {
    fn check_annotations(&self) -> Result<()> {
        let annotations = &self.options.annotations;
        for platform in annotations.platforms() {
            if !self.platforms.iter().any(|p| p.id == platform || p.platform.format_all() == platform) {
                return Err(Error::Conflict(format!(
                    "invalid annotation: the result has no platform {platform}"
                )));
            }
        }
        if annotations.beyond_manifests() && !self.options.oci_types() {
            let text = "annotations of indexes and descriptors cannot be exported with oci-mediatypes=false";
            return Err(Error::Conflict(text.into()));
        }
        Ok(())
    }

    fn attestations(&self, platform: &str) -> Vec<crate::attestation::Attestation> {
        let all = self.source.attestations.get(platform).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|a| self.options.inline_attestations || !a.is_inline_only()).cloned().collect()
    }

    /// `SOURCE_DATE_EPOCH` for a platform, or for all.
    fn epoch(&self, platform: Option<&str>) -> Result<Option<i64>> {
        if let Some(epoch) = self.options.epoch {
            return Ok(epoch);
        }
        let value = match platform {
            Some(platform) => self.source.value(EPOCH, platform),
            None => self.source.metadata.get(EPOCH).map(Vec::as_slice),
        };
        let Some(value) = value else { return Ok(None) };
        parse_epoch("SOURCE_DATE_EPOCH", &String::from_utf8_lossy(value))
    }

    async fn single(mut self) -> Result<Committed> {
        let platform = self.platforms[0].clone();
        let annotations = self.options.annotations.of(Some(&platform.platform));
        if !annotations.index.is_empty() || !annotations.index_descriptor.is_empty() {
            let text = "index annotations are not supported for a single platform export: there is no index";
            return Err(Error::Conflict(text.into()));
        }
        let layers = self.layers(std::slice::from_ref(&platform)).await?.remove(0);
        let (image, config) = self.image(&platform, layers, annotations).await?;
        Ok(Committed {
            descriptor: image.manifest.clone(),
            config: Some(config),
            images: vec![image],
            epoch: self.epoch(None)?,
            documents: self.documents,
        })
    }

    async fn index(mut self) -> Result<Committed> {
        let platforms = self.platforms.clone();
        let annotations = self.options.annotations.of(None);
        let media_type =
            if self.options.oci_types() { media_type::OCI_INDEX } else { media_type::DOCKER_INDEX };
        let (mut images, mut attestations) = (Vec::new(), Vec::new());
        let layers = self.layers(&platforms).await?;
        for (platform, layers) in platforms.iter().zip(layers) {
            let own = self.options.annotations.of(Some(&platform.platform));
            let (image, _) = self.image(platform, layers, own).await?;
            let statements = self.attestations(&platform.id);
            if self.source.attestations.contains_key(&platform.id) && !statements.is_empty() {
                let subjects = self.subjects(&image.manifest, &platform.platform)?;
                attestations.push(self.attestation_manifest(&image, &statements, &subjects).await?);
            }
            images.push(image);
        }
        let manifests = images.iter().map(|image| image.manifest.clone()).chain(attestations).collect();
        let mut index = Index::new(media_type, manifests);
        index.annotations = annotations.index;
        let json = index.encode();
        let mut descriptor = Descriptor::of(media_type, &json);
        self.write(&descriptor, json, &format!("exporting manifest list {}", descriptor.digest)).await?;
        descriptor.annotations = annotations.index_descriptor;
        Ok(Committed {
            descriptor,
            config: None,
            images,
            epoch: self.epoch(None)?,
            documents: self.documents,
        })
    }

    /// What statements about an image call it.
    fn subjects(&self, manifest: &Descriptor, platform: &Platform) -> Result<Vec<Subject>> {
        let names = self.options.name.split(',').filter(|name| !name.is_empty() && *name != "*");
        names
            .map(|name| {
                let reference = parse_name(name)?;
                Ok(Subject::new(image_purl("docker", &reference, Some(platform)), &manifest.digest))
            })
            .collect()
    }

    /// The layers of each platform's tree.
    async fn layers(&self, platforms: &[ResultPlatform]) -> Result<Vec<Vec<Layer>>> {
        let step = self.cx.step("exporting layers");
        let wish = &self.options.layers;
        let of = |platform: &ResultPlatform| -> BoxFuture<'_, Result<Vec<Layer>>> {
            let tree = self.source.tree(&platform.id);
            Box::pin(async move {
                let Some(tree) = tree? else { return Ok(Vec::new()) };
                tree.layers(wish).await.map_err(Error::of_ref("make the layers"))
            })
        };
        let each: Vec<_> = platforms.iter().map(of).collect();
        step.end(try_join_all(each).await)
    }

    async fn image(
        &mut self,
        platform: &ResultPlatform,
        mut layers: Vec<Layer>,
        annotations: Annotations,
    ) -> Result<(Image, Digest)> {
        let tree = self.source.tree(&platform.id)?.clone();
        let config = match self.source.value(IMAGE_CONFIG, &platform.id) {
            Some(config) if !config.is_empty() => config.to_vec(),
            _ => config::empty(&Platform::host()).encode(),
        };
        let base = match self.source.value(BASE_CONFIG, &platform.id) {
            Some(base) if !base.is_empty() => {
                Some(ImageConfig::decode(base).map_err(Error::json("the base image's config"))?)
            }
            _ => None,
        };
        let epoch = self.epoch(Some(&platform.id))?;
        let cache = self.inline_cache(platform, &layers).await?;
        if let (true, Some(epoch), Some(tree)) = (self.options.rewrite_timestamp, epoch, &tree) {
            layers = self.rewrite(tree, layers, base.as_ref(), epoch).await?;
        }
        let config = config::patch(&config, &layers, epoch, base.as_ref(), cache.as_deref())?;
        let (config_type, manifest_type) = if self.options.oci_types() {
            (media_type::OCI_CONFIG, media_type::OCI_MANIFEST)
        } else {
            (media_type::DOCKER_CONFIG, media_type::DOCKER_MANIFEST)
        };
        let config_descriptor = Descriptor::of(config_type, &config);
        let blobs = layers.iter().map(|layer| self.layer_descriptor(&layer.descriptor)).collect();
        let mut manifest = Manifest::new(manifest_type, config_descriptor.clone(), blobs);
        manifest.annotations = annotations.manifest;
        let json = manifest.encode();
        let mut descriptor = Descriptor::of(manifest_type, &json);
        let step = format!("exporting config {}", config_descriptor.digest);
        self.write(&config_descriptor, config, &step).await?;
        let step = format!("exporting manifest {}", descriptor.digest);
        self.write(&descriptor, json, &step).await?;
        descriptor.annotations = annotations.manifest_descriptor;
        descriptor.platform = Some(platform.platform.clone());
        Ok((Image { manifest: descriptor, layers, tree }, config_descriptor.digest))
    }

    /// What the image carries along of the build's cache. The layers count as they were built: those that are rewritten
    /// keep their places.
    async fn inline_cache(&self, platform: &ResultPlatform, layers: &[Layer]) -> Result<Option<Vec<u8>>> {
        let Some(cache) = &self.cx.inline_cache else { return Ok(None) };
        let step = self.cx.step("preparing layers for inline cache");
        let cache = cache.of(&platform.id, layers, &self.options.layers).await;
        step.end(cache.map_err(Error::of_ref("make the inline cache")))
    }

    /// A layer as the manifest names it: of the asked family of media types, without what is only for us.
    fn layer_descriptor(&self, descriptor: &Descriptor) -> Descriptor {
        let mut own =
            Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size);
        if self.options.layers.prefer_nondistributable {
            own.urls.clone_from(&descriptor.urls);
        } else if let Some(compression) = Compression::from_media_type(&own.media_type) {
            own.media_type = compression.media_type().to_owned();
        }
        own.media_type = if self.options.oci_types() {
            media_type::to_oci(&own.media_type).to_owned()
        } else {
            media_type::to_docker(&own.media_type).to_owned()
        };
        if self.options.oci_types() {
            own.annotations.clone_from(&descriptor.annotations);
            own.annotations.retain(|key, _| !is_internal(key));
        }
        own
    }

    /// Layers above the base image's, with no file younger than `epoch`.
    async fn rewrite(
        &self,
        tree: &Arc<dyn ResultRef>,
        layers: Vec<Layer>,
        base: Option<&ImageConfig>,
        epoch: i64,
    ) -> Result<Vec<Layer>> {
        let step = self.cx.step(&format!("rewriting layers with source-date-epoch {epoch}"));
        let below = base.map(|base| base.rootfs.diff_ids.as_slice()).unwrap_or_default();
        let shared =
            layers.iter().zip(below).take_while(|(layer, diff_id)| layer.diff_id == **diff_id).count();
        let rewrite = |(at, layer): (usize, Layer)| -> BoxFuture<'_, Result<Layer>> {
            Box::pin(async move {
                if at < shared {
                    return Ok(layer);
                }
                tree.fetch(&layer).await.map_err(Error::of_ref("fetch a layer"))?;
                let (cx, mut settings) = (self.cx.clone(), self.options.layers.settings);
                settings.compression = Compression::from_media_type(&layer.descriptor.media_type)
                    .unwrap_or(settings.compression);
                blocking(move || rewrite_layer(&cx, layer, settings, epoch)).await
            })
        };
        let each: Vec<_> = layers.into_iter().enumerate().map(rewrite).collect();
        step.end(try_join_all(each).await)
    }

    async fn write(&mut self, descriptor: &Descriptor, json: Vec<u8>, step: &str) -> Result<()> {
        let step = self.cx.step(step);
        let (cx, expected) = (self.cx.clone(), descriptor.digest.clone());
        let written = blocking(move || cx.write_blob(&json, &expected)).await;
        self.documents.push(descriptor.clone());
        step.end(written)
    }
}

fn is_internal(key: &str) -> bool {
    matches!(key, "containerd.io/uncompressed" | "buildkit/createdat")
        || key.starts_with("containerd.io/distribution.source.")
}

fn rewrite_layer(cx: &Context, layer: Layer, settings: kiln_layer::Settings, epoch: i64) -> Result<Layer> {
    let content = cx.store.content();
    let blob = content.blob(&layer.descriptor.digest)?.into_file();
    let (ingest, written) = kiln_layer::diff::clamp_times(blob, content.ingest_digested()?, settings, epoch)?;
    ingest.commit(&cx.store, cx.lease(), Some(&written.digest), Some(written.size))?;
    let mut descriptor = layer.descriptor.clone();
    (descriptor.digest, descriptor.size) = (written.digest, written.size);
    Ok(Layer { descriptor, diff_id: written.diff_id, ..layer })
}

/// A name of an image, as users write it.
pub(crate) fn parse_name(name: &str) -> Result<Reference> {
    Reference::parse(name).map_err(|error| Error::OptionValue {
        option: "name".into(),
        value: name.into(),
        want: error.to_string(),
    })
}

/// The names of an output, complete with registry and tag.
pub(crate) fn full_names(names: &str) -> Result<Vec<Reference>> {
    let each = names.split(',').filter(|name| !name.is_empty());
    each.map(|name| Ok(parse_name(name)?.with_default_tag())).collect()
}

impl Committed {
    /// Brings all layers to the content store.
    pub(crate) async fn fetch(&self) -> Result<()> {
        let layers =
            self.images.iter().flat_map(|image| image.layers.iter().map(move |layer| (image, layer)));
        let each: Vec<BoxFuture<'_, Result<()>>> = layers
            .filter_map(|(image, layer)| image.tree.as_ref().map(|tree| (tree, layer)))
            .map(|(tree, layer)| -> BoxFuture<'_, Result<()>> {
                Box::pin(async move { tree.fetch(layer).await.map_err(Error::of_ref("fetch a layer")) })
            })
            .collect();
        try_join_all(each).await.map(drop)
    }

    /// The blobs of all layers, each once.
    pub(crate) fn layer_blobs(&self) -> BTreeMap<Digest, &Layer> {
        let layers = self.images.iter().flat_map(|image| &image.layers);
        layers.map(|layer| (layer.descriptor.digest.clone(), layer)).collect()
    }
}
