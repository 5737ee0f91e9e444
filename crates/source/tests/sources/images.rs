//! Images of a registry.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    sync::{Arc, Mutex},
};

use kiln_layer::{
    Compression, LayerWriter,
    tar::{Header, Kind, TarWriter},
};
use kiln_oci::{Descriptor, Digest, Index, Manifest, Platform, Reference, media_type};
use kiln_session::Group;
use kiln_source::{Error, image};
use kiln_worker::{BlobProvider, Providers};

use crate::support::{Answer, Fixture, Server, context, files, files_of, fixture, nobody, op};

/// What a registry has: content and media type, by tag or digest.
#[derive(Clone, Default)]
struct Registry(Arc<Mutex<Contents>>);

type Contents = HashMap<String, (Vec<u8>, String)>;

impl Registry {
    fn put(&self, content: Vec<u8>, media_type: &str) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &content);
        let mut all = self.0.lock().unwrap();
        all.insert(descriptor.digest.to_string(), (content, media_type.to_owned()));
        descriptor
    }

    fn tag(&self, name: &str, descriptor: &Descriptor) {
        let mut all = self.0.lock().unwrap();
        let found = all[descriptor.digest.as_str()].clone();
        all.insert(name.to_owned(), found);
    }

    /// An image with one file, and its layer.
    fn image(&self, name: &str, content: &str) -> (Descriptor, Descriptor) {
        let mut tar = TarWriter::new(LayerWriter::new(Vec::new(), Compression::Gzip.into()));
        let mut header = Header::new(Kind::File, name);
        (header.mode, header.size) = (0o644, content.len() as u64);
        tar.header(&header).unwrap();
        tar.write_all(content.as_bytes()).unwrap();
        let (bytes, written) = tar.finish().unwrap().finish().unwrap();
        let layer = self.put(bytes, media_type::OCI_LAYER_GZIP);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            written.diff_id
        );
        let config = self.put(config.into_bytes(), media_type::OCI_CONFIG);
        let manifest = Manifest::new(media_type::OCI_MANIFEST, config, vec![layer.clone()]);
        (self.put(manifest.encode(), media_type::OCI_MANIFEST), layer)
    }

    fn index(&self, entries: &[(&Descriptor, Option<&str>)]) -> Descriptor {
        let manifests = entries.iter().map(|(descriptor, platform)| {
            let platform = platform.map(|p| Platform::parse(p).unwrap());
            Descriptor { platform, ..(*descriptor).clone() }
        });
        let index = Index::new(media_type::OCI_INDEX, manifests.collect());
        self.put(index.encode(), media_type::OCI_INDEX)
    }

    async fn serve(&self) -> Server {
        let all = self.0.clone();
        Server::start(move |request| {
            let name = request.path.rsplit('/').next().unwrap_or_default();
            match all.lock().unwrap().get(name) {
                Some((content, kind)) => Answer::ok(content.clone())
                    .header("Content-Type", kind)
                    .header("Docker-Content-Digest", Digest::sha256(content)),
                None => Answer::status("404 Not Found"),
            }
        })
        .await
    }
}

fn platform(name: &str) -> Platform {
    Platform::parse(name).unwrap()
}

async fn resolve(
    fixture: &Fixture,
    name: &str,
    platform: &Platform,
) -> Result<Arc<image::ResolvedImage>, Error> {
    let request = image::Request::registry(&Reference::parse(name).unwrap(), platform);
    fixture.sources.images().resolve(&request, &nobody()).await
}

#[tokio::test]
async fn the_manifest_of_the_platform_is_chosen() {
    let Some(fixture) = fixture() else { return };
    let registry = Registry::default();
    let ((amd, _), (arm, _)) = (registry.image("a", "amd"), registry.image("a", "arm"));
    let index = registry.index(&[(&amd, Some("linux/amd64")), (&arm, Some("linux/arm64"))]);
    registry.tag("v1", &index);
    let server = registry.serve().await;
    let name = format!("{}/a/b:v1", server.address);
    for (wanted, manifest) in [("linux/amd64", &amd), ("linux/arm64", &arm)] {
        let image = resolve(&fixture, &name, &platform(wanted)).await.unwrap();
        assert_eq!((&image.root.digest, &image.manifest.digest), (&index.digest, &manifest.digest));
    }
    let error = resolve(&fixture, &name, &platform("linux/s390x")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(error.to_string().contains("linux/s390x is not among linux/amd64, linux/arm64"), "{error}");
}

#[tokio::test]
async fn a_digest_needs_the_network_once() {
    let Some(fixture) = fixture() else { return };
    let registry = Registry::default();
    let (manifest, _) = registry.image("a", "x");
    let server = registry.serve().await;
    let name = format!("{}/a/b@{}", server.address, manifest.digest);
    resolve(&fixture, &name, &platform("linux/amd64")).await.unwrap();
    assert!(!server.asked().is_empty());
    let again = resolve(&fixture, &name, &platform("linux/amd64")).await.unwrap();
    assert_eq!((again.manifest.digest.clone(), server.asked()), (manifest.digest, Vec::new()));
}

#[tokio::test]
async fn a_digest_is_not_had_from_another_repository() {
    let Some(fixture) = fixture() else { return };
    let registry = Registry::default();
    let (manifest, _) = registry.image("a", "x");
    let (server, empty) = (registry.serve().await, Registry::default().serve().await);
    let named = |address: &str, path: &str| format!("{address}/{path}@{}", manifest.digest);
    resolve(&fixture, &named(&server.address, "a/b"), &platform("linux/amd64")).await.unwrap();
    let error = resolve(&fixture, &named(&empty.address, "a/b"), &platform("linux/amd64")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    drop(server.asked());
    resolve(&fixture, &named(&server.address, "a/c"), &platform("linux/amd64")).await.unwrap();
    assert!(!server.asked().is_empty());
}

#[tokio::test]
async fn documents_that_are_forgotten_are_asked_for_again() {
    let Some(fixture) = fixture() else { return };
    let registry = Registry::default();
    let (manifest, _) = registry.image("a", "x");
    let server = registry.serve().await;
    let name = format!("{}/a/b@{}", server.address, manifest.digest);
    resolve(&fixture, &name, &platform("linux/amd64")).await.unwrap();
    drop(server.asked());
    fixture.sources.images().forget().await.unwrap();
    resolve(&fixture, &name, &platform("linux/amd64")).await.unwrap();
    assert!(!server.asked().is_empty());
}

#[tokio::test]
async fn what_has_another_digest_is_refused() {
    let Some(fixture) = fixture() else { return };
    let registry = Registry::default();
    let (manifest, _) = registry.image("a", "x");
    let (other, _) = registry.image("a", "y");
    registry.tag("v1", &manifest);
    let server = registry.serve().await;
    let name = format!("docker-image://{}/a/b:v1", server.address);
    let pinned = op(name.clone(), &[("image.checksum", other.digest.as_str())]);
    let error = fixture.build(&pinned, &nobody()).await.unwrap_err().to_string();
    assert!(error.contains(other.digest.as_str()) && error.contains("does not match"), "{error}");
    // The registry lies about the content of a digest.
    registry.tag(other.digest.as_str(), &manifest);
    let lie = format!("{}/a/b@{}", server.address, other.digest);
    assert!(resolve(&fixture, &lie, &platform("linux/amd64")).await.is_err());
}

#[tokio::test]
async fn indexes_are_nested_only_so_deep() {
    let Some(fixture) = fixture() else { return };
    let registry = Registry::default();
    let (mut current, _) = registry.image("a", "x");
    for depth in 0..6 {
        current = registry.index(&[(&current, None)]);
        registry.tag(&format!("d{depth}"), &current);
    }
    let server = registry.serve().await;
    let at = async |tag: &str| {
        resolve(&fixture, &format!("{}/a/b:{tag}", server.address), &platform("linux/amd64")).await
    };
    at("d1").await.unwrap();
    let error = at("d5").await.unwrap_err().to_string();
    assert!(error.contains("nested deeper"), "{error}");
}

#[derive(Debug)]
struct Blobs(BTreeMap<Digest, Arc<dyn BlobProvider>>);

impl Providers for Blobs {
    fn provider(&self, digest: &Digest) -> Option<Arc<dyn BlobProvider>> {
        self.0.get(digest).cloned()
    }
}

#[tokio::test]
async fn layers_come_when_somebody_reads_them() {
    let Some(fixture) = fixture() else { return };
    let registry = Registry::default();
    let (manifest, layer) = registry.image("a", "x");
    registry.tag("v1", &manifest);
    let server = registry.serve().await;
    let op = op(format!("docker-image://{}/a/b:v1", server.address), &[]);
    let (source, cx) = (fixture.open(&op).unwrap(), context(&nobody()));
    let (first, second) = (source.key(&cx, 0).await.unwrap(), source.key(&cx, 1).await.unwrap());
    assert_eq!((first.pin.as_str(), first.last, second.last), (manifest.digest.as_str(), false, true));
    assert_ne!(first.key, second.key);
    let tree = source.snapshot(&cx).await.unwrap().unwrap();
    let wanted = format!("GET /v2/a/b/blobs/{}", layer.digest);
    assert!(tree.is_lazy() && !server.asked().contains(&wanted));
    let blobs = Arc::new(Blobs(second.blobs.into_iter().collect()));
    let unpacked = tree.unpack(blobs).await.unwrap();
    assert_eq!((files_of(&unpacked), server.asked().contains(&wanted)), (vec!["a=x".to_owned()], true));
}

#[tokio::test]
async fn a_blob_is_a_file() {
    let Some(fixture) = fixture() else { return };
    let registry = Registry::default();
    let blob = registry.put(b"content".to_vec(), "text/plain");
    let server = registry.serve().await;
    let id = format!("docker-image+blob://{}/a/b@{}", server.address, blob.digest);
    let sessions: Group = nobody();
    let (key, tree) = fixture.build(&op(id.clone(), &[]), &sessions).await.unwrap();
    assert_eq!(
        (key.pin.as_str(), files(&tree)),
        (blob.digest.as_str(), vec![format!("{}=content", blob.digest.hex())])
    );
    let named = op(id, &[("http.filename", "../n"), ("http.perm", "0644")]);
    let (other, tree) = fixture.build(&named, &sessions).await.unwrap();
    assert_ne!(other.key, key.key);
    assert_eq!(files(&tree), ["n=content"]);
    assert_eq!(tree.unpacked().unwrap().open().unwrap().stat("n").unwrap().mode, 0o644);
    let none = format!("docker-image+blob://{}/a/b@{}", server.address, Digest::sha256("none"));
    assert!(fixture.build(&op(none, &[]), &sessions).await.is_err());
}
