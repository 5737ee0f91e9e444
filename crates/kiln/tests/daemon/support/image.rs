//! A small image to build on.

use std::io::Write as _;

use kiln_oci::{Descriptor, Digest, media_type};
use serde_json::{Value, json};

use super::tar::Tar;

pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// An image: its manifest, and everything that belongs to it.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
    /// Those of `blobs` that are layers.
    pub(crate) layers: Vec<Digest>,
}

impl Image {
    /// Busybox with its links, below layers with many small files.
    pub(crate) fn new() -> Self {
        let mut base = Tar::default();
        base.folder("bin");
        base.folder("etc");
        base.folder("tmp");
        base.file("bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap());
        for name in
            ["sh", "cat", "cp", "ls", "mkdir", "mv", "rm", "seq", "setsid", "sleep", "stat", "true", "wget"]
        {
            base.link(&format!("bin/{name}"), "busybox");
        }
        base.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n");
        let mut tars = vec![base];
        for layer in 0..3 {
            let mut tar = Tar::default();
            tar.folder(&format!("layer{layer}"));
            for n in 0..150_u32 {
                let text = format!("{layer} {n} ").repeat(100 + n as usize * 7);
                tar.file(&format!("layer{layer}/file{n}"), 0o644, text.as_bytes());
            }
            // Later layers take away and replace what earlier ones have.
            if layer > 0 {
                tar.file(&format!("layer{}/.wh.file0", layer - 1), 0o644, b"");
                tar.file(&format!("layer{}/file1", layer - 1), 0o644, b"replaced\n");
            }
            tars.push(tar);
        }
        Self::of(tars.into_iter().map(Tar::finish).collect())
    }

    /// Of layers as tars.
    pub(crate) fn of(tars: Vec<Vec<u8>>) -> Self {
        let layers = tars.iter().map(|tar| gzip(tar)).collect();
        Self::from_parts(layers, &tars)
    }

    /// Of one layer as a blob, which the config takes for a packed `tar`.
    pub(crate) fn with_layer(layer: Vec<u8>, tar: &[u8]) -> Self {
        Self::from_parts(vec![layer], &[tar.to_vec()])
    }

    /// The same with an entrypoint.
    pub(crate) fn with_entrypoint(mut self, args: &[&str]) -> Self {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        let (digest, config) = self.blobs.last_mut().unwrap();
        let mut changed: Value = serde_json::from_slice(config).unwrap();
        changed["config"]["Entrypoint"] = json!(args);
        *config = serde_json::to_vec(&changed).unwrap();
        *digest = Digest::sha256(&*config);
        manifest["config"] = json!(Descriptor::of(media_type::OCI_CONFIG, config));
        self.manifest = serde_json::to_vec(&manifest).unwrap();
        self
    }

    fn from_parts(layers: Vec<Vec<u8>>, tars: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<String> = tars.iter().map(|tar| Digest::sha256(tar).to_string()).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": kiln_oci::Platform::host().architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
        .unwrap();
        let described = |layer: &Vec<u8>| Descriptor::of(media_type::OCI_LAYER_GZIP, layer);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": Descriptor::of(media_type::OCI_CONFIG, &config),
            "layers": layers.iter().map(described).collect::<Vec<_>>(),
        }))
        .unwrap();
        let blobs: Vec<_> =
            layers.into_iter().chain([config]).map(|blob| (Digest::sha256(&blob), blob)).collect();
        let layers = blobs[..blobs.len() - 1].iter().map(|(digest, _)| digest.clone()).collect();
        Self { manifest, blobs, layers }
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
