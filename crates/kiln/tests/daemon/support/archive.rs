//! What an OCI archive holds.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

/// The digests of the layers of the one image in an archive, lowest first. All blobs are what their names say.
pub(crate) fn layers(archive: &Path) -> Vec<String> {
    let bytes = std::fs::read(archive).unwrap();
    let files: BTreeMap<_, _> = super::tar::files(&bytes).into_iter().collect();
    for (path, bytes) in &files {
        if let Some(hex) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(kiln_oci::Digest::sha256(bytes).hex(), hex, "a blob of the archive");
        }
    }
    let json = |path: &str| -> Value { serde_json::from_slice(files[path]).unwrap() };
    let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    let manifest = json(&blob(&json("index.json")["manifests"][0]["digest"]));
    let layers = manifest["layers"].as_array().unwrap();
    for layer in layers {
        assert!(files.contains_key(blob(&layer["digest"]).as_str()), "the archive lacks a layer");
    }
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}
