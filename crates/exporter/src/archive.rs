//! Images as archives: the OCI image layout, and with a `manifest.json` what `docker load` reads.
//!
//! ```text
//! blobs/sha256/<hex>   manifests, configs, layers
//! index.json           an index of the roots, one entry for each name
//! manifest.json        (docker) [{"Config":"blobs/…","RepoTags":["name:tag"],"Layers":["blobs/…"]}]
//! oci-layout           {"imageLayoutVersion":"1.0.0"}
//! ```

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use kiln_layer::tar::{Header, Kind, TarWriter};
use kiln_oci::{Descriptor, Digest, Index, Manifest, Reference, gojson, media_type};
use serde::Serialize;

use crate::{
    Context,
    error::{Error, Result, blocking},
    image::Committed,
    pipe,
};

const IMAGE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// One file or folder of the archive.
enum Content {
    Folder,
    Bytes(Vec<u8>),
    Blob(Digest),
}

struct Entry {
    path: String,
    mode: u32,
    size: u64,
    content: Content,
}

/// What `docker load` looks for.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Sends the image as a tar file. All its blobs must be in the content store.
pub(crate) async fn send(
    cx: &Context,
    image: &Committed,
    root: &Descriptor,
    names: &[Reference],
    docker: bool,
    response: &BTreeMap<String, String>,
) -> Result<()> {
    let entries = {
        let (cx, image, root, names) = (cx.clone(), image.clone(), root.clone(), names.to_vec());
        blocking(move || entries(&cx, &image, &root, &names, docker)).await?
    };
    let store = cx.store.clone();
    pipe::send_file(cx, response, move |pipe| {
        let mut tar = TarWriter::new(pipe);
        for entry in entries {
            write(&store, &mut tar, entry)?;
        }
        tar.finish().map_err(Error::io("send the archive"))?;
        Ok(())
    })
    .await
}

/// Sends the blobs of the image one by one into the client's content store, those that others refer to first.
pub(crate) async fn send_blobs(cx: &Context, image: &Committed) -> Result<()> {
    let client = cx.client()?;
    let step = cx.step("copying blobs");
    let layers = image.layer_blobs().into_values().map(|layer| &layer.descriptor);
    let blobs: Vec<_> = layers.chain(&image.documents).collect();
    let total = blobs.iter().map(|blob| blob.size).sum();
    let mut sent = 0;
    let send = async {
        for blob in blobs {
            let (content, digest) = (cx.store.content().clone(), blob.digest.clone());
            let file = blocking(move || Ok(content.blob(&digest)?.into_file())).await?;
            client.put_blob(blob, file).await?;
            sent += blob.size;
            step.moved(sent, total);
        }
        Ok(())
    }
    .await;
    step.end(send)
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn entries(
    cx: &Context,
    image: &Committed,
    root: &Descriptor,
    names: &[Reference],
    docker: bool,
) -> Result<Vec<Entry>> {
    let file = |path: &str, mode, bytes: Vec<u8>| Entry {
        path: path.to_owned(),
        mode,
        size: bytes.len() as u64,
        content: Content::Bytes(bytes),
    };
    let mut all =
        vec![file("oci-layout", 0o444, LAYOUT.to_vec()), file("index.json", 0o644, index(root, names)?)];
    if docker && let Some(manifests) = docker_manifest(cx, image, names)? {
        all.push(file("manifest.json", 0o644, manifests));
    }
    let layers = image.layer_blobs().into_values().map(|layer| &layer.descriptor);
    for blob in layers.chain(&image.documents) {
        for folder in ["blobs/".to_owned(), format!("blobs/{}/", blob.digest.algorithm())] {
            all.push(Entry { path: folder, mode: 0o755, size: 0, content: Content::Folder });
        }
        let content = Content::Blob(blob.digest.clone());
        all.push(Entry { path: path_of(&blob.digest), mode: 0o444, size: blob.size, content });
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all.dedup_by(|a, b| a.path == b.path);
    Ok(all)
}

fn index(root: &Descriptor, names: &[Reference]) -> Result<Vec<u8>> {
    let named = names.iter().map(|name| {
        let mut named = root.clone();
        let reference = name.tag().map(str::to_owned).or_else(|| name.digest().map(ToString::to_string));
        named.annotations.insert(IMAGE_NAME.into(), name.to_string());
        named.annotations.insert(REF_NAME.into(), reference.unwrap_or_default());
        named
    });
    let roots: Vec<_> = if names.is_empty() { vec![root.clone()] } else { named.collect() };
    gojson::to_vec(&Index::new(media_type::OCI_INDEX, roots)).map_err(Error::json("index.json"))
}

fn docker_manifest(cx: &Context, image: &Committed, names: &[Reference]) -> Result<Option<Vec<u8>>> {
    let [single] = image.images.as_slice() else { return Ok(None) };
    let json = cx.read_blob(&single.manifest.digest)?;
    let manifest = Manifest::decode(&json).map_err(Error::json("a manifest"))?;
    let tags: Vec<_> = names.iter().map(Reference::familiar).collect();
    let image = DockerImage {
        config: path_of(&manifest.config.digest),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: manifest.layers.iter().map(|layer| path_of(&layer.digest)).collect(),
    };
    gojson::to_vec(&[image]).map(Some).map_err(Error::json("manifest.json"))
}

fn write(store: &kiln_store::Store, tar: &mut TarWriter<impl Write>, entry: Entry) -> Result<()> {
    let fail = |error| Error::io(format!("send {}", entry.path))(error);
    let kind = if matches!(entry.content, Content::Folder) { Kind::Directory } else { Kind::File };
    let mut header = Header::new(kind, entry.path.clone());
    (header.mode, header.size) = (entry.mode, entry.size);
    tar.header(&header).map_err(fail)?;
    match &entry.content {
        Content::Folder => {}
        Content::Bytes(bytes) => tar.write_all(bytes).map_err(fail)?,
        Content::Blob(digest) => {
            let mut blob = store.content().blob(digest)?.into_file();
            let copied = copy(&mut blob, tar).map_err(fail)?;
            if copied != entry.size {
                let problem = format!("has {copied} bytes in the store instead of {}", entry.size);
                return Err(Error::Blob { digest: digest.clone(), problem });
            }
        }
    }
    Ok(())
}

/// As [`io::copy`], with a larger buffer.
fn copy(from: &mut impl io::Read, to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
