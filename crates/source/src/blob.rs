//! Single blobs of registries and of a client's OCI layouts, as files.

use futures::TryStreamExt as _;
use kiln_llb::source::Blob;
use kiln_oci::{Descriptor, Digest};
use kiln_worker::{BlobProvider as _, ImmutableRef};
use serde::Serialize;

use crate::{
    Error, SourceContext, SourceKey, Sources,
    file::NewFile,
    http::safe_name,
    image::{Place, Where},
};

/// What is known of a blob that no manifest describes.
const OCTETS: &str = "application/octet-stream";

/// A blob as a source.
#[derive(Debug)]
pub(crate) struct BlobSource {
    blob: Blob,
    place: Where,
}

impl BlobSource {
    pub(crate) fn registry(blob: Blob) -> Self {
        Self { blob, place: Where::Registry }
    }

    pub(crate) fn layout(blob: Blob) -> Self {
        let store = blob.store.clone().unwrap_or_else(|| blob.reference.path().to_owned());
        let place = Where::Layout { session: blob.session.clone(), store };
        Self { blob, place }
    }

    /// A digest says all, so nobody is asked.
    pub(crate) fn key(&self) -> Result<SourceKey, Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Key<'a> {
            digest: &'a Digest,
            filename: String,
            perm: u32,
            #[serde(rename = "UID")]
            uid: u32,
            #[serde(rename = "GID")]
            gid: u32,
        }
        let file = &self.blob.file;
        let json = kiln_oci::gojson::to_vec(&Key {
            digest: &self.blob.digest,
            filename: file.filename.as_deref().map(safe_name).unwrap_or_default(),
            perm: file.mode.unwrap_or(0),
            uid: file.uid,
            gid: file.gid,
        })?;
        Ok(SourceKey::only(Digest::sha256(json).to_string(), self.blob.digest.to_string()))
    }

    pub(crate) async fn snapshot(
        &self,
        sources: &Sources,
        cx: &SourceContext,
    ) -> Result<ImmutableRef, Error> {
        let (blob, shown) = (&self.blob, self.blob.reference.to_string());
        let place = Place::new(&self.place, &sources.registries, &blob.reference, &cx.sessions);
        let part = cx.progress.part(format!("pull {shown}"));
        let size = place.blob_size(&shown, &blob.digest).await?;
        let descriptor = Descriptor::new(OCTETS, blob.digest.clone(), size);
        let failed =
            |e: kiln_worker::ProviderError| Error::Image { reference: shown.clone(), problem: e.to_string() };
        let stream = place.open(&descriptor, 0).await.map_err(failed)?.map_err(failed);
        let file = NewFile {
            origin: shown.clone(),
            name: match &blob.file.filename {
                Some(name) => safe_name(name),
                None => blob.digest.hex().to_owned(),
            },
            meta: blob.file.clone(),
            mtime: 0,
            gzip: false,
            algorithm: blob.digest.algorithm(),
        };
        let (tree, got) = file.receive(&sources.worker, format!("blob {shown}"), stream).await?;
        drop(part);
        if got != blob.digest {
            return Err(Error::Mismatch { name: shown, expected: blob.digest.clone(), got });
        }
        Ok(tree)
    }
}
