//! What the tests of refs share.
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "a module of tests has no outside")]

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use kiln_layer::tar::{Header, Kind, TarWriter};
use kiln_oci::{Descriptor, Digest, media_type};
use kiln_store::{Options, SnapshotterKind, Store};
use kiln_worker::{
    BlobProvider, BlobStream, ImmutableRef, LayerEvent, LayerSource, ProviderError, Providers, RefOptions,
    Unpacked, Worker,
};

pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub worker: Worker,
}

pub fn open(dir: &std::path::Path, kind: SnapshotterKind) -> Option<Worker> {
    match Store::open(dir, &Options { snapshotter: Some(kind), boot_id: Some("boot".into()) }) {
        Ok(store) => Some(Worker::open(store).unwrap()),
        Err(error) if error.is_mount_denied() => {
            println!("skipped: mounting is not permitted here: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A worker with each kind of snapshots that works here.
pub fn fixtures() -> Vec<Fixture> {
    [SnapshotterKind::Native, SnapshotterKind::Overlay]
        .into_iter()
        .filter_map(|kind| {
            let dir = tempfile::tempdir().unwrap();
            let worker = open(dir.path(), kind)?;
            Some(Fixture { dir, worker })
        })
        .collect()
}

/// Blobs in memory, and what was told of them.
#[derive(Debug, Default)]
pub struct Memory {
    pub blobs: Mutex<HashMap<Digest, Bytes>>,
    pub events: Mutex<Vec<LayerEvent>>,
    pub opened: Mutex<Vec<(Digest, u64)>>,
    /// Cut streams after so many bytes.
    pub cut: Mutex<Option<usize>>,
}

#[derive(Debug)]
pub struct Shared(pub Arc<Memory>);

impl Memory {
    pub fn providers(self: &Arc<Self>) -> Arc<dyn Providers> {
        Arc::new(Shared(Arc::clone(self)))
    }

    pub fn add(&self, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type::OCI_LAYER_GZIP, &bytes);
        self.blobs.lock().unwrap().insert(descriptor.digest.clone(), bytes.into());
        descriptor
    }
}

impl Providers for Shared {
    fn provider(&self, digest: &Digest) -> Option<Arc<dyn BlobProvider>> {
        self.0.blobs.lock().unwrap().contains_key(digest).then(|| Arc::new(Self(Arc::clone(&self.0))) as _)
    }

    fn event(&self, event: LayerEvent) {
        self.0.events.lock().unwrap().push(event);
    }
}

impl BlobProvider for Shared {
    fn open<'a>(
        &'a self,
        blob: &'a Descriptor,
        offset: u64,
    ) -> BoxFuture<'a, Result<BlobStream, ProviderError>> {
        self.0.opened.lock().unwrap().push((blob.digest.clone(), offset));
        let bytes = self.0.blobs.lock().unwrap()[&blob.digest].slice(offset as usize..);
        let cut = self.0.cut.lock().unwrap().take();
        let mut pieces: Vec<Result<Bytes, ProviderError>> =
            bytes.chunks(100).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        if let Some(cut) = cut {
            pieces.truncate(cut / 100);
            pieces.push(Err("the connection was cut".into()));
        }
        Box::pin(async move { Ok(Box::pin(futures::stream::iter(pieces)) as BlobStream) })
    }
}

/// A gzip layer of `files` (a name that ends in `/` is a folder) and its diff id.
pub fn layer(memory: &Memory, files: &[(&str, &str)]) -> LayerSource {
    let sink = kiln_layer::LayerWriter::new(Vec::new(), kiln_layer::Compression::Gzip.into());
    let mut tar = TarWriter::new(sink);
    for (name, content) in files {
        let folder = name.ends_with('/');
        let kind = if folder { Kind::Directory } else { Kind::File };
        let mut header = Header::new(kind, name.trim_end_matches('/'));
        header.mode = if folder { 0o755 } else { 0o644 };
        header.size = content.len() as u64;
        tar.header(&header).unwrap();
        tar.write_all(content.as_bytes()).unwrap();
    }
    let (bytes, written) = tar.finish().unwrap().finish().unwrap();
    LayerSource { descriptor: memory.add(bytes), diff_id: written.diff_id }
}

pub fn image(worker: &Worker, layers: &[LayerSource]) -> ImmutableRef {
    let mut current = None;
    for layer in layers {
        let options = RefOptions {
            image_refs: vec!["docker.io/library/x:1".into()],
            ..RefOptions::described("pulled")
        };
        current = Some(worker.get_by_blob(current.as_ref(), layer, options).unwrap());
    }
    current.unwrap()
}

/// A ref on `parent` that a step has written to.
pub fn step(
    worker: &Worker,
    parent: Option<&Unpacked>,
    work: impl FnOnce(&kiln_fstree::Root),
) -> ImmutableRef {
    let mut mutable = worker.create(parent, RefOptions::described("step")).unwrap();
    let root = mutable.open().unwrap();
    work(&root);
    drop(root);
    mutable.commit().unwrap()
}

/// All files of a tree with their content, folders with a slash.
pub fn files(unpacked: &Unpacked) -> Vec<String> {
    fn walk(root: &kiln_fstree::Root, path: &str, out: &mut Vec<String>) {
        for entry in root.list(path).unwrap() {
            let path = format!("{path}{}", entry.name.to_str().unwrap());
            if root.stat(&path).unwrap().is_dir() {
                out.push(format!("{path}/"));
                walk(root, &format!("{path}/"), out);
            } else {
                out.push(format!(
                    "{path}={}",
                    String::from_utf8(root.read(&path, 1 << 20).unwrap()).unwrap()
                ));
            }
        }
    }
    let mut out = Vec::new();
    walk(&unpacked.open().unwrap(), "", &mut out);
    out
}
