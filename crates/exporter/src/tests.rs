//! Whole exports: trees of this machine's temporary folder, a real store, a client in memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Cursor, Read},
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kiln_fstree::{Root, diffcopy};
use kiln_layer::{Compression, DiffOptions, diff, tar::TarReader};
use kiln_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, Time, media_type};
use kiln_registry::{Auth, Registries};
use kiln_store::{SnapshotterKind, Store};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Attestation, Client, Context, Exported, Exporter, FileSink, Images, Layer, LayerWish, RefError, Reporter,
    Result, ResultRef, Source,
    source::{EPOCH, IMAGE_CONFIG, PLATFORMS},
};

const CONFIG: &str =
    r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["x"]},"history":[{"created_by":"COPY"}]}"#;

/// A folder as the result of a build, with one layer.
struct Folder {
    store: Store,
    lease: kiln_store::LeaseId,
    folder: TempDir,
}

impl ResultRef for Folder {
    fn layers<'a>(&'a self, wish: &'a LayerWish) -> BoxFuture<'a, Result<Vec<Layer>, RefError>> {
        Box::pin(async move {
            let options = DiffOptions { settings: wish.settings, ..DiffOptions::default() };
            let root = Root::open(self.folder.path())?;
            let (ingest, written) = diff::upper(&root, None, self.store.content().ingest()?, &options)?;
            ingest.commit(&self.store, &self.lease, Some(&written.digest), None)?;
            let media_type = wish.settings.compression.media_type();
            Ok(vec![Layer {
                descriptor: Descriptor::new(media_type, written.digest, written.size),
                diff_id: written.diff_id,
                created: Some(Time::from_unix(1_700_000_000)),
                description: "made".into(),
                repositories: Vec::new(),
            }])
        })
    }

    fn fetch<'a>(&'a self, _: &'a Layer) -> BoxFuture<'a, Result<(), RefError>> {
        Box::pin(async { Ok(()) })
    }

    fn pushed(&self, _: &Layer, _: &str) -> Result<(), RefError> {
        Ok(())
    }

    fn open(&self) -> BoxFuture<'_, Result<Root, RefError>> {
        Box::pin(async { Ok(Root::open(self.folder.path())?) })
    }
}

type Blobs = Vec<(Digest, Vec<u8>)>;

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Memory {
    file: Arc<Mutex<Vec<u8>>>,
    response: Arc<Mutex<BTreeMap<String, String>>>,
    blobs: Arc<Mutex<Blobs>>,
    trees: Arc<Mutex<Vec<diffcopy::Tree>>>,
}

impl FileSink for Memory {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        self.file.lock().expect("lock").extend_from_slice(&bytes);
        Box::pin(async { Ok(()) })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl Client for Memory {
    fn open_file(&self, response: &BTreeMap<String, String>) -> Result<Box<dyn FileSink>> {
        self.response.lock().expect("lock").clone_from(response);
        Ok(Box::new(self.clone()))
    }

    fn send_trees(&self, trees: Vec<diffcopy::Tree>, _: diffcopy::Progress) -> BoxFuture<'_, Result<()>> {
        self.trees.lock().expect("lock").extend(trees);
        Box::pin(async { Ok(()) })
    }

    fn put_blob<'a>(&'a self, descriptor: &'a Descriptor, mut blob: File) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut bytes = Vec::new();
            blob.read_to_end(&mut bytes).expect("a blob");
            self.blobs.lock().expect("lock").push((descriptor.digest.clone(), bytes));
            Ok(())
        })
    }
}

#[derive(Default)]
struct Steps(Mutex<Vec<String>>);

impl Reporter for Steps {
    fn started(&self, step: &str) {
        self.0.lock().expect("lock").push(format!("> {step}"));
    }
    fn moved(&self, _: &str, _: u64, _: u64) {}
    fn ended(&self, step: &str, error: Option<&str>) {
        let outcome = error.map_or_else(|| "ok".to_owned(), str::to_owned);
        self.0.lock().expect("lock").push(format!("< {step}: {outcome}"));
    }
}

struct Bench {
    cx: Context,
    client: Memory,
    steps: Arc<Steps>,
    _root: TempDir,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let options = kiln_store::Options {
            snapshotter: Some(SnapshotterKind::Native),
            ..kiln_store::Options::default()
        };
        let store = Store::open(root.path(), &options).expect("a store");
        let (client, steps) = (Memory::default(), Arc::new(Steps::default()));
        let cx = Context {
            lease: Arc::new(store.lease().expect("a lease")),
            store,
            client: Some(Arc::new(client.clone())),
            reporter: steps.clone(),
            registries: Registries::new(BTreeMap::new(), "test"),
            auth: Auth::Anonymous,
            inline_cache: None,
        };
        Bench { cx, client, steps, _root: root }
    }

    fn tree(&self, files: &[(&str, &str)]) -> Arc<dyn ResultRef> {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, content) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, content).expect("a file");
        }
        Arc::new(Folder { store: self.cx.store.clone(), lease: self.cx.lease.id().clone(), folder })
    }

    /// A result of one platform.
    fn single(&self, files: &[(&str, &str)]) -> Source {
        let metadata = [(IMAGE_CONFIG.to_owned(), CONFIG.as_bytes().to_vec())].into();
        Source { single: Some(self.tree(files)), metadata, ..Source::default() }
    }

    /// A result of amd64 and arm64, each with a file named after it.
    fn multi(&self) -> Source {
        let mut source = Source::default();
        let mut list = Vec::new();
        for arch in ["amd64", "arm64"] {
            let id = format!("linux/{arch}");
            source.trees.insert(id.clone(), Some(self.tree(&[(arch, arch)])));
            source
                .metadata
                .insert(format!("{IMAGE_CONFIG}/{id}"), CONFIG.replace("amd64", arch).into_bytes());
            list.push(serde_json::json!({"ID": id, "Platform": {"os": "linux", "architecture": arch}}));
        }
        let list = serde_json::json!({ "Platforms": list }).to_string();
        source.metadata.insert(PLATFORMS.into(), list.into_bytes());
        source
    }

    fn export(&self, kind: &str, options: &[(&str, &str)], source: &Source) -> Result<Exported> {
        let options = options.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let exporter = Exporter::new(kind, &options)?;
        assert_eq!(exporter.kind(), kind);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(exporter.export(&self.cx, source))
    }

    fn blob(&self, digest: &Digest) -> Vec<u8> {
        self.cx.store.content().read(digest, 1 << 20).expect("a blob")
    }

    fn archive(&self) -> BTreeMap<String, Vec<u8>> {
        read_tar(&self.client.file.lock().expect("lock"))
    }
}

fn read_tar(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut tar = TarReader::new(Cursor::new(bytes));
    let mut files = BTreeMap::new();
    while let Some(header) = tar.next_entry().expect("an entry") {
        let mut content = Vec::new();
        tar.read_to_end(&mut content).expect("content");
        files.insert(String::from_utf8(header.path).expect("a name"), content);
    }
    files
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("json")
}

fn provenance() -> Attestation {
    Attestation::generated("provenance.json", "https://slsa.dev/provenance/v1", r#"{"a":1}"#, true)
}

#[test]
fn an_oci_archive_of_one_image() {
    let bench = Bench::new();
    let made =
        bench.export("oci", &[("name", "acme/tool")], &bench.single(&[("f", "content")])).expect("export");
    let files = bench.archive();
    assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = Index::decode(&files["index.json"]).expect("index");
    let root = &index.manifests[0];
    assert_eq!(root.annotations["io.containerd.image.name"], "docker.io/acme/tool:latest");
    assert_eq!(root.annotations["org.opencontainers.image.ref.name"], "latest");
    assert!(root.annotations.contains_key("org.opencontainers.image.created"));
    assert_eq!(root.platform.as_ref().expect("platform").format(), "linux/amd64");
    let blob = |digest: &Digest| &files[&format!("blobs/sha256/{}", digest.hex())];
    let manifest = Manifest::decode(blob(&root.digest)).expect("manifest");
    assert_eq!(manifest.layers[0].media_type, media_type::OCI_LAYER_GZIP);
    let config = ImageConfig::decode(blob(&manifest.config.digest)).expect("config");
    assert_eq!((config.history.len(), config.created.expect("date").unix()), (1, 1_700_000_000));
    let mut layer = Vec::new();
    let packed = Cursor::new(blob(&manifest.layers[0].digest).clone());
    kiln_layer::decompress(packed).expect("gzip").read_to_end(&mut layer).expect("layer");
    assert_eq!(Digest::sha256(&layer), config.rootfs.diff_ids[0]);
    assert_eq!(read_tar(&layer)["f"], b"content");

    assert_eq!(made.response["containerimage.digest"], root.digest.to_string());
    assert_eq!(made.response["containerimage.config.digest"], manifest.config.digest.to_string());
    assert_eq!(made.response["image.name"], "docker.io/acme/tool:latest");
    assert_eq!(*bench.client.response.lock().expect("lock"), made.response);
    let steps = bench.steps.0.lock().expect("lock").join("\n");
    assert!(steps.contains("< exporting layers: ok") && steps.contains("< sending tarball: ok"), "{steps}");
}

#[test]
fn a_docker_archive_has_its_own_manifest() {
    let bench = Bench::new();
    let mut source = bench.single(&[("f", "1")]);
    // Inline attestations do not go into archives.
    let mut inline = provenance();
    inline.metadata.insert("inline-only".into(), b"true".to_vec());
    source.attestations.insert("linux/amd64".into(), vec![inline]);
    bench.export("docker", &[("name", "acme/tool:1.2,other")], &source).expect("export");
    let files = bench.archive();
    let images = json(&files["manifest.json"]);
    assert_eq!(images[0]["RepoTags"], serde_json::json!(["acme/tool:1.2", "other:latest"]));
    for path in [&images[0]["Config"], &images[0]["Layers"][0]] {
        assert!(files.contains_key(path.as_str().expect("a path")));
    }
    assert_eq!(Index::decode(&files["index.json"]).expect("index").manifests.len(), 2);
    assert!(bench.export("docker", &[], &bench.multi()).is_err());
}

#[test]
fn docker_media_types() {
    let bench = Bench::new();
    bench.export("oci", &[("oci-mediatypes", "false")], &bench.multi()).expect("export");
    let files = bench.archive();
    let root = Index::decode(&files["index.json"]).expect("index").manifests.remove(0);
    assert_eq!(root.media_type, media_type::DOCKER_INDEX);
    let index = Index::decode(&files[&format!("blobs/sha256/{}", root.digest.hex())]).expect("index");
    assert_eq!(index.manifests[1].media_type, media_type::DOCKER_MANIFEST);
    let manifest = &files[&format!("blobs/sha256/{}", index.manifests[1].digest.hex())];
    let manifest = Manifest::decode(manifest).expect("manifest");
    assert_eq!(manifest.config.media_type, media_type::DOCKER_CONFIG);
    assert_eq!(manifest.layers[0].media_type, media_type::DOCKER_LAYER_GZIP);
    let mut source = bench.multi();
    source.attestations.insert("linux/amd64".into(), vec![provenance()]);
    assert!(bench.export("oci", &[("oci-mediatypes", "false")], &source).is_err());
}

#[test]
fn blobs_one_by_one_roots_last() {
    let bench = Bench::new();
    let options = [
        ("tar", "false"),
        ("compression", "zstd"),
        ("annotation-index.a", "b"),
        ("annotation-index-descriptor.c", "d"),
    ];
    let made = bench.export("oci", &options, &bench.multi()).expect("export");
    let blobs = bench.client.blobs.lock().expect("lock");
    let (last, bytes) = blobs.last().expect("blobs");
    assert_eq!(last.to_string(), made.response["containerimage.digest"]);
    assert_eq!(Index::decode(bytes).expect("index").annotations["a"], "b");
    assert_eq!(made.descriptor.expect("descriptor").annotations["c"], "d");
    assert_eq!(blobs.len(), 2 + 2 + 2 + 1);
    assert!(!made.response.contains_key("containerimage.config.digest"));
}

#[test]
fn attestations_make_an_index() {
    for (artifact, config) in [("true", media_type::OCI_EMPTY), ("false", media_type::OCI_CONFIG)] {
        let bench = Bench::new();
        let mut source = bench.single(&[("f", "1")]);
        source.attestations.insert("linux/amd64".into(), vec![provenance()]);
        let options = [("name", "acme/x:1"), ("oci-artifact", artifact)];
        let made = bench.export("oci", &options, &source).expect("export");
        let root = made.descriptor.expect("descriptor");
        let index = Index::decode(&bench.blob(&root.digest)).expect("index");
        let [image, attested] = index.manifests.as_slice() else { panic!("two manifests") };
        assert_eq!(attested.annotations["vnd.docker.reference.digest"], image.digest.to_string());
        assert_eq!(attested.platform.as_ref().expect("platform").os, "unknown");
        let manifest = Manifest::decode(&bench.blob(&attested.digest)).expect("manifest");
        assert_eq!(manifest.config.media_type, config);
        assert_eq!(manifest.subject.is_some(), artifact == "true");
        assert_eq!(
            manifest.layers[0].annotations["in-toto.io/predicate-type"],
            "https://slsa.dev/provenance/v1"
        );
        let statement = json(&bench.blob(&manifest.layers[0].digest));
        assert_eq!(statement["subject"][0]["name"], "pkg:docker/acme/x@1?platform=linux%2Famd64");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], image.digest.hex());
        assert_eq!(statement["predicate"], serde_json::json!({"a": 1}));
    }
}

#[test]
fn the_main_sbom_says_in_which_layer_a_file_is() {
    let bench = Bench::new();
    let document = br#"{"spdxVersion":"SPDX-2.3","files":[{"fileName":"/f"},{"fileName":"/g"}]}"#;
    let sbom = |path: &str| {
        let mut sbom = Attestation::generated(path, "https://spdx.dev/Document", document.as_slice(), true);
        sbom.metadata.insert("sbom-core".into(), b"sbom".to_vec());
        sbom
    };
    let mut source = bench.single(&[("f", "1")]);
    source
        .attestations
        .insert("linux/amd64".into(), vec![sbom("/sbom.spdx.json"), sbom("/sbom-base.spdx.json")]);
    let made = bench.export("oci", &[], &source).expect("export");
    let index = Index::decode(&bench.blob(&made.descriptor.expect("descriptor").digest)).expect("index");
    let manifest = |at: usize| Manifest::decode(&bench.blob(&index.manifests[at].digest)).expect("manifest");
    let layer = manifest(0).layers[0].digest.clone();
    let statements = manifest(1).layers;
    let mut files =
        statements.iter().map(|statement| json(&bench.blob(&statement.digest))["predicate"].clone());
    let main = files.next().expect("the main SBOM");
    assert_eq!(
        main["files"],
        serde_json::json!([{"fileName": "/f", "comment": format!("layerID: {layer}")}, {"fileName": "/g"}])
    );
    assert_eq!(main["creationInfo"]["creators"].as_array().expect("creators").len(), 1);
    assert_eq!(files.next().expect("another"), json(document));
}

#[test]
fn annotations_need_an_index_and_a_platform() {
    let bench = Bench::new();
    let source = bench.single(&[("f", "1")]);
    assert!(bench.export("oci", &[("annotation-index.a", "b")], &source).is_err());
    assert!(bench.export("oci", &[("annotation[linux/s390x].a", "b")], &source).is_err());
    assert!(
        bench.export("oci", &[("annotation-index.a", "b"), ("oci-mediatypes", "0")], &bench.multi()).is_err()
    );
    let made =
        bench.export("oci", &[("annotation.a", "1"), ("annotation-manifest-descriptor.b", "2")], &source);
    let root = made.expect("export").descriptor.expect("descriptor");
    assert_eq!(root.annotations["b"], "2");
    assert_eq!(Manifest::decode(&bench.blob(&root.digest)).expect("manifest").annotations["a"], "1");
}

#[test]
fn an_epoch_makes_equal_images() {
    let digest = || {
        let bench = Bench::new();
        let mut source = bench.single(&[("d/f", "1")]);
        source.metadata.insert(EPOCH.into(), b"1000000000".to_vec());
        let made = bench.export("oci", &[("rewrite-timestamp", "true")], &source).expect("export");
        let manifest =
            Manifest::decode(&bench.blob(&made.descriptor.expect("descriptor").digest)).expect("manifest");
        let config = ImageConfig::decode(&bench.blob(&manifest.config.digest)).expect("config");
        assert_eq!(config.created.expect("date").unix(), 1_000_000_000);
        let layer = bench.blob(&manifest.layers[0].digest);
        let mut tar = TarReader::new(kiln_layer::decompress(Cursor::new(layer)).expect("gzip"));
        while let Some(header) = tar.next_entry().expect("entry") {
            assert_eq!(header.mtime.seconds, 1_000_000_000);
        }
        made.response["containerimage.digest"].clone()
    };
    assert_eq!(digest(), digest());
}

#[test]
fn images_are_kept_under_their_names() {
    let bench = Bench::new();
    let made =
        bench.export("image", &[("name", "a/b:1"), ("name-canonical", "true")], &bench.single(&[("f", "1")]));
    let descriptor = made.expect("export").descriptor.expect("descriptor");
    let images = Images::new(&bench.cx.store);
    let names: Vec<_> = images.list().expect("list").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a/b:1".to_owned(), format!("a/b:1@{}", descriptor.digest)]);
    assert_eq!(images.get("a/b:1").expect("get").expect("image").target, descriptor);
    let kept = bench.cx.store.held_by(&kiln_store::LeaseId("image/a/b:1".into())).expect("held");
    assert_eq!(kept.len(), 3);
    assert!(images.remove("a/b:1").expect("remove") && !images.remove("a/b:1").expect("remove"));
    let unnamed = bench.export("image", &[("dangling-name-prefix", "<none>")], &bench.single(&[("f", "2")]));
    let digest = &unnamed.expect("export").response["containerimage.digest"];
    assert!(images.get(&format!("<none>@{digest}")).expect("get").is_some());
    let pushed =
        bench.export("image", &[("name", "localhost:1/x"), ("push", "true")], &bench.single(&[("f", "3")]));
    assert!(pushed.expect("export").push.is_some());
}

#[test]
fn an_empty_result_has_no_layers() {
    let bench = Bench::new();
    let made = bench.export("oci", &[], &Source::default()).expect("export");
    let manifest =
        Manifest::decode(&bench.blob(&made.descriptor.expect("descriptor").digest)).expect("manifest");
    assert!(manifest.layers.is_empty());
    bench.client.file.lock().expect("lock").clear();
    bench.export("tar", &[], &Source::default()).expect("export");
    assert!(bench.archive().is_empty());
}

#[test]
fn a_tar_has_a_folder_for_each_platform() {
    let bench = Bench::new();
    bench.export("tar", &[("platform-split", "false")], &bench.multi()).expect("export");
    let names: Vec<_> = bench.archive().into_keys().collect();
    assert_eq!(names, ["linux_amd64/", "linux_amd64/amd64", "linux_arm64/", "linux_arm64/arm64"]);
    bench.client.file.lock().expect("lock").clear();
    let mut source = bench.single(&[("d/f", "1")]);
    source.attestations.insert("linux/amd64".into(), vec![provenance()]);
    bench.export("tar", &[("attestation-prefix", "att-")], &source).expect("export");
    let files = bench.archive();
    let statement = json(&files["att-provenance.json"]);
    assert_eq!(
        statement["subject"],
        serde_json::json!([{"name": "d/f", "digest": {"sha256": Digest::sha256("1").hex()}}])
    );
}

#[test]
fn a_folder_gets_trees_and_statements() {
    let bench = Bench::new();
    let mut source = bench.multi();
    for id in ["linux/amd64", "linux/arm64"] {
        source.attestations.insert(id.into(), vec![provenance()]);
    }
    bench.export("local", &[], &source).expect("export");
    let trees = std::mem::take(&mut *bench.client.trees.lock().expect("lock"));
    let folder = |tree: &diffcopy::Tree| tree.at.as_ref().map(|at| at.path.clone());
    assert_eq!(folder(&trees[0]), Some("linux_amd64".into()));
    assert_eq!(
        (folder(&trees[1]), trees[1].extra[0].stat.path.clone()),
        (Some("linux_arm64".into()), "provenance.json".into())
    );

    bench.export("local", &[("platform-split", "false")], &source).expect("export");
    let trees = std::mem::take(&mut *bench.client.trees.lock().expect("lock"));
    assert!(trees.iter().all(|tree| tree.at.is_none()));
    assert_eq!(trees[1].extra[0].stat.path, "provenance.linux_arm64.json");
    assert!(bench.export("local", &[("platform-split", "false"), ("mode", "delete")], &source).is_err());
}

#[test]
fn platforms_must_not_overwrite_each_other() {
    let bench = Bench::new();
    let mut source = bench.multi();
    for id in ["linux/amd64", "linux/arm64"] {
        source.trees.insert(id.into(), Some(bench.tree(&[("same", id)])));
    }
    let error = bench.export("local", &[("platform-split", "0")], &source).expect_err("overlap").to_string();
    assert!(error.contains("same"), "{error}");
}

#[test]
fn frontends_may_not_make_provenance() {
    let bench = Bench::new();
    let mut source =
        bench.single(&[("p.json", "{}"), ("sboms/a.json", r#"{"predicateType":"t","predicate":{"x":1}}"#)]);
    let mut forged = provenance();
    forged.content = crate::attestation::Content::File(source.single.clone().expect("a tree"));
    source.attestations.insert("linux/amd64".into(), vec![forged.clone()]);
    assert!(bench.export("oci", &[], &source).is_err());
    forged.predicate_type.clear();
    (forged.bundle, forged.path) = (true, "sboms".into());
    source.attestations.insert("linux/amd64".into(), vec![forged]);
    let made = bench.export("oci", &[], &source).expect("export").descriptor.expect("descriptor");
    let index = Index::decode(&bench.blob(&made.digest)).expect("index");
    let manifest = Manifest::decode(&bench.blob(&index.manifests[1].digest)).expect("manifest");
    assert_eq!(json(&bench.blob(&manifest.layers[0].digest))["predicate"], serde_json::json!({"x": 1}));
}

#[test]
fn forced_compression_is_asked_for() {
    let bench = Bench::new();
    let source = bench.single(&[("f", "1")]);
    let exporter =
        Exporter::new("oci", &[("compression".into(), "uncompressed".into())].into()).expect("options");
    let Exporter::Oci(options, _) = &exporter else { panic!("an oci exporter") };
    assert_eq!(options.layers.settings.compression, Compression::Uncompressed);
    let made = bench.export("oci", &[("compression", "uncompressed")], &source).expect("export");
    let manifest =
        Manifest::decode(&bench.blob(&made.descriptor.expect("descriptor").digest)).expect("manifest");
    assert_eq!(manifest.layers[0].media_type, media_type::OCI_LAYER);
    assert!(Exporter::new("cacheonly", &BTreeMap::new()).is_err());
    assert!(Path::new(&source.platforms().expect("platforms")[0].id).is_relative());
}
