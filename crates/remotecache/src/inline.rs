//! The cache that an image carries along: records in its config, whose layers are the image's own.

use std::collections::HashMap;

use kiln_exporter::Layer;
use kiln_oci::Digest;
use kiln_worker::LayerBlob;

use crate::{
    Collected, Error,
    config::{CacheConfig, ChainResult, LayerResult},
};

/// The records for the config of an image with these layers; `None` when no result is made of them.
///
/// # Errors
/// The encoder's.
pub fn inline(collected: &Collected, layers: &[Layer]) -> Result<Option<Vec<u8>>, Error> {
    let image = Image::new(layers);
    let mut config = CacheConfig::default();
    let mut any = false;
    for (mut record, result) in collected.records() {
        if let Some((created_at, blobs)) = result {
            match image.place(blobs) {
                Some(Placed::Below(layer)) => record.results.push(LayerResult { layer, created_at }),
                Some(Placed::Apart(layers)) => record.chains.push(ChainResult { layers, created_at }),
                None => {}
            }
        }
        any |= !record.results.is_empty() || !record.chains.is_empty();
        config.records.push(record);
    }
    if !any {
        return Ok(None);
    }
    // The order of the layers is the image's.
    config.layers = layers
        .iter()
        .map(|layer| crate::config::Layer { blob: layer.descriptor.digest.clone(), parent: None })
        .collect();
    config.sort_records();
    config.encode_inline().map(Some)
}

/// Where the layers of a result are in an image.
#[derive(Debug, PartialEq, Eq)]
enum Placed {
    /// The result is this layer with all below it.
    Below(usize),
    /// It is these, in another order or with others between them.
    Apart(Vec<usize>),
}

/// The layers of an image, whatever their compression.
struct Image<'a> {
    layers: &'a [Layer],
    by_diff_id: HashMap<&'a Digest, usize>,
}

impl<'a> Image<'a> {
    fn new(layers: &'a [Layer]) -> Self {
        let by_diff_id = layers.iter().enumerate().map(|(at, layer)| (&layer.diff_id, at)).collect();
        Self { layers, by_diff_id }
    }

    fn place(&self, blobs: &[LayerBlob]) -> Option<Placed> {
        self.place_ids(blobs.iter().map(|blob| &blob.diff_id))
    }

    fn place_ids<'d>(&self, ids: impl ExactSizeIterator<Item = &'d Digest> + Clone) -> Option<Placed> {
        let as_in_image = || ids.clone().zip(self.layers).all(|(id, layer)| *id == layer.diff_id);
        if ids.len() > 0 && ids.len() <= self.layers.len() && as_in_image() {
            return Some(Placed::Below(ids.len() - 1));
        }
        let places: Option<Vec<usize>> = ids.map(|id| self.by_diff_id.get(id).copied()).collect();
        places.filter(|places| !places.is_empty()).map(Placed::Apart)
    }
}

#[cfg(test)]
mod tests {
    use kiln_oci::{Descriptor, media_type};

    use super::*;

    fn layer(name: &str) -> Layer {
        Layer {
            descriptor: Descriptor::of(media_type::OCI_LAYER_GZIP, name.as_bytes()),
            diff_id: Digest::sha256(name),
            created: None,
            description: String::new(),
            repositories: Vec::new(),
        }
    }

    #[test]
    fn results_are_found_in_the_image() {
        let layers = ["base", "empty", "copy", "empty"].map(layer);
        let image = Image::new(&layers);
        let place = |names: &[&str]| {
            let ids: Vec<Digest> = names.iter().map(Digest::sha256).collect();
            image.place_ids(ids.iter())
        };
        assert_eq!(place(&["base"]), Some(Placed::Below(0)));
        assert_eq!(place(&["base", "empty", "copy"]), Some(Placed::Below(2)));
        assert_eq!(place(&["base", "empty", "copy", "empty"]), Some(Placed::Below(3)));
        assert_eq!(place(&["base", "copy"]), Some(Placed::Apart(vec![0, 2])));
        assert_eq!(place(&["copy"]), Some(Placed::Apart(vec![2])));
        assert_eq!(place(&["base", "other"]), None);
        assert_eq!(place(&[]), None);
    }
}
