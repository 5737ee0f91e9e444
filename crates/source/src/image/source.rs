//! The source op of an image.

use std::sync::Arc;

use kiln_llb::source::{Image, OciLayout};
use kiln_oci::{Digest, Platform, Reference};
use kiln_store::{LeaseId, Resource};
use kiln_worker::{BlobProvider, ImmutableRef, LayerSource, RecordType, RefOptions};
use serde::Serialize;

use super::{Request, ResolvedImage};
use crate::{Error, SourceContext, SourceKey, Sources, image::Resolver};

/// An image as a source.
#[derive(Debug)]
pub(crate) struct ImageSource {
    request: Request,
    reference: Reference,
    platform: Platform,
    layer_limit: Option<usize>,
    checksum: Option<Digest>,
    record_type: Option<String>,
}

impl ImageSource {
    pub(crate) fn registry(image: Image, default: &Platform) -> Self {
        let platform = image.platform.unwrap_or_else(|| default.clone());
        Self {
            request: Request::registry(&image.reference, &platform),
            reference: image.reference,
            platform,
            layer_limit: image.layer_limit,
            checksum: image.checksum,
            record_type: image.record_type,
        }
    }

    pub(crate) fn layout(layout: OciLayout, default: &Platform) -> Self {
        let platform = layout.platform.unwrap_or_else(|| default.clone());
        let store = layout.store.unwrap_or_else(|| layout.reference.path().to_owned());
        Self {
            request: Request::layout(&layout.reference, &platform, layout.session, store),
            reference: layout.reference,
            platform,
            layer_limit: layout.layer_limit,
            checksum: None,
            record_type: None,
        }
    }

    async fn resolve(&self, images: &Resolver, cx: &SourceContext) -> Result<Arc<ResolvedImage>, Error> {
        let image = images.resolve(&self.request, &cx.sessions).await?;
        let reference = || self.reference.to_string();
        if let Some(expected) = &self.checksum
            && image.root.digest != *expected
        {
            let (expected, got) = (expected.clone(), image.root.digest.clone());
            return Err(Error::Checksum { reference: reference(), expected, got });
        }
        if let Some(limit) = self.layer_limit
            && limit > image.layers.len()
        {
            let problem =
                format!("layer limit {limit} is greater than its number of layers, {}", image.layers.len());
            return Err(Error::Image { reference: reference(), problem });
        }
        Ok(image)
    }

    /// Two keys: the manifest's digest with the platform, then the chain of the layers, which images with equal files share.
    pub(crate) async fn key(
        &self,
        images: &Resolver,
        cx: &SourceContext,
        index: usize,
    ) -> Result<SourceKey, Error> {
        let part = (index == 0).then(|| cx.progress.part(format!("resolve {}", self.reference)));
        let image = self.resolve(images, cx).await?;
        drop(part);
        let provider: Arc<dyn BlobProvider> =
            Arc::new(images.place(&self.request, &self.reference, &cx.sessions));
        let layers = &image.layers[..self.layer_limit.unwrap_or(image.layers.len())];
        let blobs = layers.iter().map(|layer| (layer.digest.clone(), provider.clone())).collect();
        let chain = if index == 0 { None } else { self.chain_key(&image) };
        let key = match chain {
            Some(chain) => chain,
            None => self.manifest_key(&image)?,
        };
        Ok(SourceKey { key, last: index > 0, pin: image.root.digest.to_string(), blobs })
    }

    fn manifest_key(&self, image: &ResolvedImage) -> Result<String, Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Key<'a> {
            digest: &'a Digest,
            #[serde(rename = "OS")]
            os: &'a str,
            arch: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            variant: &'a str,
            #[serde(rename = "OSVersion", skip_serializing_if = "str::is_empty")]
            os_version: &'a str,
            #[serde(rename = "OSFeatures", skip_serializing_if = "<[_]>::is_empty")]
            os_features: &'a [String],
            #[serde(skip_serializing_if = "Option::is_none")]
            limit: Option<usize>,
        }
        let json = kiln_oci::gojson::to_vec(&Key {
            digest: &image.root.digest,
            os: &self.platform.os,
            arch: &self.platform.architecture,
            variant: &self.platform.variant,
            os_version: &self.platform.os_version,
            os_features: &self.platform.os_features,
            limit: self.layer_limit,
        })?;
        Ok(Digest::sha256(json).to_string())
    }

    /// The chain ID of the layers; `None` for a config that lists none.
    fn chain_key(&self, image: &ResolvedImage) -> Option<String> {
        let limit = self.layer_limit.unwrap_or(image.diff_ids.len());
        let mut chain: Option<Digest> = None;
        for diff_id in image.diff_ids.get(..limit)? {
            chain = Some(match chain {
                None => diff_id.clone(),
                Some(below) => Digest::sha256(format!("{below} {diff_id}")),
            });
        }
        chain.map(|digest| digest.to_string())
    }

    /// The image's files: a stack of lazy layers.
    pub(crate) async fn snapshot(
        &self,
        sources: &Sources,
        cx: &SourceContext,
    ) -> Result<Option<ImmutableRef>, Error> {
        let image = self.resolve(&sources.images, cx).await?;
        let limit = self.layer_limit.unwrap_or(image.layers.len());
        if image.diff_ids.len() < limit {
            let problem = format!("its config lists {} layers, its manifest {limit}", image.diff_ids.len());
            return Err(Error::Image { reference: self.reference.to_string(), problem });
        }
        let options = RefOptions {
            description: format!("pulled from {}", self.reference),
            record_type: match self.record_type.as_deref() {
                Some("internal") => RecordType::Internal,
                Some("frontend") => RecordType::Frontend,
                _ => RecordType::Regular,
            },
            layer_type: if self.platform.is_windows() && !cfg!(windows) {
                "windows".into()
            } else {
                String::new()
            },
            image_refs: vec![self.reference.to_string()],
            ..RefOptions::default()
        };
        let (worker, layers, diff_ids) =
            (sources.worker.clone(), image.layers.clone(), image.diff_ids.clone());
        let stack = tokio::task::spawn_blocking(move || {
            let mut current: Option<ImmutableRef> = None;
            for (descriptor, diff_id) in layers.into_iter().zip(diff_ids).take(limit) {
                let layer = LayerSource { descriptor, diff_id };
                current = Some(worker.get_by_blob(current.as_ref(), &layer, options.clone())?);
            }
            Ok::<_, Error>(current)
        });
        let Some(top) = stack.await?? else { return Ok(None) };
        self.keep_documents(sources, &image, &top)?;
        Ok(Some(top))
    }

    /// Manifest and config stay for as long as the image's top layer does.
    fn keep_documents(
        &self,
        sources: &Sources,
        image: &ResolvedImage,
        top: &ImmutableRef,
    ) -> Result<(), Error> {
        let lease = LeaseId(format!("ref/{}", top.id().as_str()));
        let held = sources.worker.store().change(|tx| {
            for digest in &image.documents {
                tx.hold(&lease, &Resource::Blob(digest.clone()))?;
            }
            Ok::<_, kiln_store::Error>(())
        });
        match held {
            // The documents have a lease of their own for now; without the ref's they only go sooner.
            Err(error) => {
                tracing::debug!(%error, image = %self.reference, "documents are not kept with the image");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
