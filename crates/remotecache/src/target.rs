//! Writing a cache to its place: layers side by side, then the config, then the manifest that names them.

use std::{io::Cursor, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use kiln_exporter::{Context, blob_body, insecure_remote};
use kiln_oci::{Descriptor, Digest, Index, Manifest, Reference, gojson, media_type};
use kiln_registry::Remote;
use kiln_session::caller::ContentStore;
use kiln_worker::LayerBlob;
use reqwest::Body;

use crate::{Collected, Error, ExportedMount, Form, collect::describe, config};

/// Layers that are written at once. Most of them are there already, and only asked for.
const AT_ONCE: usize = 8;

/// The key of an exporter's response: the descriptor of the cache's manifest, as JSON.
pub const MANIFEST: &str = "cache.manifest";

/// Where a cache is written to.
#[derive(Debug)]
pub enum Target {
    /// A repository, and the name in it.
    Registry(Box<Remote>, Reference),
    /// A content store of the client.
    Store(ContentStore),
}

impl Target {
    /// A registry's repository.
    ///
    /// # Errors
    /// [`Error::Registry`] for an insecure one that does not answer.
    pub async fn registry(cx: &Context, reference: &Reference, insecure: bool) -> Result<Self, Error> {
        let remote = match insecure {
            false => cx.registries.remote(reference, cx.auth.clone()),
            true => {
                let failed = |source| Error::Registry { name: reference.to_string(), source };
                insecure_remote(&cx.auth, reference, &Digest::sha256("")).await.map_err(failed)?
            }
        };
        Ok(Self::Registry(Box::new(remote), reference.clone()))
    }

    /// Writes the cache with the cache mounts that go along, and tells the descriptor of its manifest; `None` when it has
    /// neither layers nor mounts, as then there is nothing to write.
    ///
    /// # Errors
    /// The place's; [`Error::Worker`] for layers that must be fetched first.
    pub async fn write(
        &self,
        cx: &Context,
        collected: &Collected,
        form: Form,
        mounts: &[ExportedMount],
    ) -> Result<Option<Descriptor>, Error> {
        let (config, blobs) = collected.config();
        if config.layers.is_empty() && mounts.is_empty() {
            return cx.step("skipping cache export for empty result").end(Ok(None));
        }
        let mut seen = std::collections::HashSet::new();
        let layers: Vec<&LayerBlob> = config
            .layers
            .iter()
            .filter(|layer| seen.insert(&layer.blob))
            .filter_map(|layer| blobs.get(&layer.blob))
            .collect();
        let each: Vec<BoxFuture<'_, Result<(), Error>>> = layers
            .iter()
            .map(|layer| self.layer(cx, collected, layer).boxed())
            .chain(to_write(mounts).into_iter().map(|mount| self.mount(cx, mount).boxed()))
            .collect();
        stream::iter(each).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;

        let json = config.encode()?;
        let descriptor = Descriptor::of(config::MEDIA_TYPE, &json);
        let step = cx.step(&format!("writing config {}", descriptor.digest));
        step.end(self.blob(&descriptor, json.into()).await)?;
        // A layer that stands on several others is named once for each.
        let layers = config.layers.iter().filter_map(|layer| blobs.get(&layer.blob));
        let mounts = mounts.iter().map(ExportedMount::describe).collect();
        let (manifest, json) = manifest(layers.map(describe).collect(), mounts, descriptor, form)?;
        let what = if form.image_manifest { "cache image manifest" } else { "cache manifest" };
        let step = cx.step(&format!("writing {what} {}", manifest.digest));
        step.end(self.manifest(&manifest, json.into()).await)?;
        Ok(Some(manifest))
    }

    fn failed(&self, source: kiln_registry::Error) -> Error {
        let name = match self {
            Self::Registry(_, reference) => reference.to_string(),
            Self::Store(_) => String::new(),
        };
        Error::Registry { name, source }
    }

    /// A layer that the place has is neither fetched nor sent.
    async fn layer(&self, cx: &Context, collected: &Collected, layer: &LayerBlob) -> Result<(), Error> {
        let step = cx.step(&format!("writing layer {}", layer.descriptor.digest));
        let size = layer.descriptor.size;
        let outcome = self.put_layer(cx, collected, layer).await;
        step.moved(size, size);
        step.end(outcome)
    }

    async fn put_layer(&self, cx: &Context, collected: &Collected, layer: &LayerBlob) -> Result<(), Error> {
        let blob = &layer.descriptor;
        match self {
            Self::Registry(remote, _) => {
                let names = layer.of.image_refs();
                let sources: Vec<_> = names.iter().filter_map(|name| Reference::parse(name).ok()).collect();
                if layer.is_here()? {
                    remote.push_blob(blob, &sources, &opening(cx, blob)).await.map_err(|e| self.failed(e))?;
                } else if remote.spare_blob(blob, &sources).await.map_err(|e| self.failed(e))?.is_none() {
                    layer.fetch(Arc::clone(collected.providers())).await?;
                    self.send(remote, cx, blob).await?;
                }
                layer.of.add_image_ref(remote.name())?;
            }
            Self::Store(store) => {
                if store.size(blob.digest.as_str()).await.is_ok_and(|size| size == blob.size) {
                    return Ok(());
                }
                layer.fetch(Arc::clone(collected.providers())).await?;
                let file = cx.store.content().blob(&blob.digest)?.into_file();
                store.put(blob.digest.as_str(), blob.size, file).await?;
            }
        }
        Ok(())
    }

    /// Has the place have a blob without any of its bytes, if it can: it has it, or another repository of the registry, in
    /// which one of `sources` is, does.
    pub(crate) async fn spare(&self, blob: &Descriptor, sources: &[Reference]) -> Result<bool, Error> {
        match self {
            Self::Registry(remote, _) => {
                let spared = remote.spare_blob(blob, sources).await;
                Ok(spared.map_err(|e| self.failed(e))?.is_some())
            }
            Self::Store(store) => {
                Ok(store.size(blob.digest.as_str()).await.is_ok_and(|size| size == blob.size))
            }
        }
    }

    /// Sends a blob that the registry has nowhere, as it has been asked.
    async fn send(&self, remote: &Remote, cx: &Context, blob: &Descriptor) -> Result<(), Error> {
        remote.send_blob(blob, &opening(cx, blob)).await.map(drop).map_err(|error| self.failed(error))
    }

    /// A cache mount. One that the place has is not sent.
    async fn mount(&self, cx: &Context, mount: &ExportedMount) -> Result<(), Error> {
        let blob = &mount.entry.content.blob;
        let step = cx.step(&format!("writing cache mount {} {}", mount.shown(), blob.digest));
        let outcome = self.put_mount(cx, blob).await;
        step.moved(blob.size, blob.size);
        step.end(outcome)
    }

    async fn put_mount(&self, cx: &Context, blob: &Descriptor) -> Result<(), Error> {
        // The same content may have come there under another name meanwhile.
        if self.spare(blob, &[]).await? {
            return Ok(());
        }
        match self {
            Self::Registry(remote, _) => self.send(remote, cx, blob).await?,
            Self::Store(store) => {
                let file = cx.store.content().blob(&blob.digest)?.into_file();
                store.put(blob.digest.as_str(), blob.size, file).await?;
            }
        }
        Ok(())
    }

    async fn blob(&self, descriptor: &Descriptor, content: Bytes) -> Result<(), Error> {
        match self {
            Self::Registry(remote, _) => {
                let open = move || Body::from(content.clone());
                remote.push_blob(descriptor, &[], &open).await.map_err(|e| self.failed(e))?;
            }
            Self::Store(store) => {
                store.put(descriptor.digest.as_str(), descriptor.size, Cursor::new(content)).await?;
            }
        }
        Ok(())
    }

    async fn manifest(&self, descriptor: &Descriptor, content: Bytes) -> Result<(), Error> {
        match self {
            Self::Registry(remote, reference) => {
                let tag = reference.tag().unwrap_or(descriptor.digest.as_str());
                let pushed = remote.push_manifest(tag, &descriptor.media_type, &content).await;
                pushed.map_err(|e| self.failed(e))
            }
            Self::Store(_) => self.blob(descriptor, content).await,
        }
    }
}

/// One of all cache mounts of equal content that the place does not have yet.
fn to_write(mounts: &[ExportedMount]) -> Vec<&ExportedMount> {
    let mut seen = std::collections::HashSet::new();
    let there = mounts.iter().filter(|mount| mount.there).map(|mount| &mount.entry.content.blob.digest);
    seen.extend(there);
    mounts.iter().filter(|mount| seen.insert(&mount.entry.content.blob.digest)).collect()
}

/// Gives the bytes of a blob in the content store, as often as they are wanted.
fn opening(cx: &Context, blob: &Descriptor) -> impl Fn() -> Body + Sync + use<> {
    let (store, digest) = (cx.store.clone(), blob.digest.clone());
    move || blob_body(&store, &digest)
}

/// What the client is told of a cache that was written.
///
/// # Errors
/// None in practice; the encoder's.
pub fn response(manifest: &Descriptor) -> Result<(String, String), Error> {
    let json = gojson::to_string(manifest).map_err(|error| Error::Config(error.to_string()))?;
    Ok((MANIFEST.to_owned(), json))
}

/// The manifest or index of a cache. Cache mounts stand after the layers, as more of them.
fn manifest(
    mut layers: Vec<Descriptor>,
    mounts: Vec<Descriptor>,
    config: Descriptor,
    form: Form,
) -> Result<(Descriptor, Vec<u8>), Error> {
    if !form.oci {
        for layer in &mut layers {
            layer.media_type = media_type::to_docker(&layer.media_type).to_owned();
        }
    }
    layers.extend(mounts);
    let (kind, json) = match (form.image_manifest, form.oci) {
        (true, _) => {
            let manifest = Manifest::new(media_type::OCI_MANIFEST, config, layers);
            (media_type::OCI_MANIFEST, gojson::to_vec(&manifest))
        }
        (false, oci) => {
            let kind = if oci { media_type::OCI_INDEX } else { media_type::DOCKER_INDEX };
            layers.push(config);
            (kind, gojson::to_vec(&Index::new(kind, layers)))
        }
    };
    let json = json.map_err(|error| Error::Config(error.to_string()))?;
    Ok((Descriptor::of(kind, &json), json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form) -> String {
        written_with(form, vec![])
    }

    fn written_with(form: Form, mounts: Vec<Descriptor>) -> String {
        let mut layer = Descriptor::of(media_type::OCI_LAYER_GZIP, b"layer");
        layer.annotations.insert("a".into(), "b".into());
        let config = Descriptor::of(config::MEDIA_TYPE, b"{}");
        let (descriptor, json) = manifest(vec![layer], mounts, config, form).unwrap();
        assert_eq!(descriptor.digest, Digest::sha256(&json));
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn manifests_have_buildkits_bytes() {
        let (layer, config) = (Digest::sha256("layer"), Digest::sha256("{}"));
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""config":{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{}","size":2}},"#,
                r#""layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":5,"#,
                r#""annotations":{{"a":"b"}}}}]}}"#
            ),
            config, layer
        );
        assert_eq!(written(Form { oci: true, image_manifest: true }), expected);
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","#,
                r#""manifests":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"{}","size":5,"#,
                r#""annotations":{{"a":"b"}}}},"#,
                r#"{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{}","size":2}}]}}"#
            ),
            layer, config
        );
        assert_eq!(written(Form { oci: false, image_manifest: false }), expected);
        assert!(written(Form { oci: true, image_manifest: false }).contains(media_type::OCI_INDEX));
    }

    #[test]
    fn equal_cache_mounts_are_written_once_and_those_that_are_there_not_at_all() {
        let mount = |id: &str, content: &str, there| {
            let blob = Descriptor::of(media_type::OCI_LAYER, content.as_bytes());
            let (diff_id, size) = (blob.digest.clone(), blob.size);
            let content = kiln_worker::MountContent { blob, diff_id, size, uid: 0, gid: 0, mode: 0o755 };
            ExportedMount { entry: crate::mounts::MountEntry { id: id.into(), base: None, content }, there }
        };
        let all = [
            mount("a", "1", false),
            mount("b", "2", false),
            mount("c", "1", false),
            mount("d", "3", true),
            mount("e", "3", false),
        ];
        let ids: Vec<_> = to_write(&all).iter().map(|mount| mount.entry.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn cache_mounts_stand_after_the_layers_and_keep_their_type() {
        let mount = Descriptor::of("application/vnd.kiln.cachemount.v0.tar", b"mount");
        let entry = format!(
            r#"{{"mediaType":"application/vnd.kiln.cachemount.v0.tar","digest":"{}","size":5}}"#,
            Digest::sha256("mount")
        );
        for (oci, image_manifest) in [(true, true), (true, false), (false, false)] {
            let form = Form { oci, image_manifest };
            let (without, with) = (written(form), written_with(form, vec![mount.clone()]));
            assert_eq!(with.replace(&format!(",{entry}"), ""), without);
            assert!(with.find("tar+gzip").or(with.find("tar.gzip")) < with.find(&entry));
        }
    }
}
