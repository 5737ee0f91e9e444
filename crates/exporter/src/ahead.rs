//! What can be done of an export while the build's last steps still run: layers that are there already are packed, and
//! blobs pushed. Whatever fails here is done again, and told, by the export itself.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use kiln_oci::{Digest, media_type};

use crate::{
    Context, Exporter,
    error::{Error, Result},
    options::{ImageOptions, StoreOptions},
    push,
    source::{Layer, ResultRef},
};

/// The blobs that an export has sent ahead, or is about to.
#[derive(Debug, Default)]
pub struct Sent(Mutex<HashSet<Digest>>);

impl Sent {
    /// Whether nobody else sends the blob.
    fn claim(&self, digest: &Digest) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone())
    }
}

impl Exporter {
    /// Whether anything can be done before the result is there.
    #[must_use]
    pub fn works_ahead(&self) -> bool {
        match self {
            // Layers whose times are rewritten are packed of the whole.
            Exporter::Image(image, _) | Exporter::Oci(image, _) | Exporter::Docker(image, _) => {
                !image.rewrite_timestamp && !image.layers.force
            }
            Exporter::Tar(_) | Exporter::Local(_) => false,
        }
    }

    /// Packs the layers of `tree`, on which the result will stand, and pushes those that lie here.
    ///
    /// # Errors
    /// As [`Exporter::export`].
    pub async fn ahead(&self, cx: &Context, tree: &dyn ResultRef, sent: &Sent) -> Result<()> {
        let (image, store): (&ImageOptions, Option<&StoreOptions>) = match self {
            Exporter::Image(image, store) => (image, Some(store)),
            Exporter::Oci(image, _) | Exporter::Docker(image, _) => (image, None),
            Exporter::Tar(_) | Exporter::Local(_) => return Ok(()),
        };
        let layers = tree.layers(&image.layers).await.map_err(Error::of_ref("make the layers"))?;
        let name = image.name.split(',').next().filter(|name| !name.is_empty() && *name != "*");
        let (Some(name), Some(store)) = (name, store.filter(|store| store.push)) else { return Ok(()) };
        let here = |layer: &&Layer| {
            if media_type::is_foreign_layer(&layer.descriptor.media_type) {
                return false;
            }
            let stat = cx.store.content().stat(&layer.descriptor.digest);
            stat.is_ok_and(|blob| blob.is_some()) && sent.claim(&layer.descriptor.digest)
        };
        let here: Vec<_> = layers.iter().filter(here).collect();
        push::ahead(cx, name, store.insecure, &here).await
    }
}
