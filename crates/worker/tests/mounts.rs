//! Cache mounts that are packed, sent elsewhere and filled.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Fixture, fixtures};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use kiln_fstree::Root;
use kiln_layer::tar::{Header, Kind, TarWriter};
use kiln_layer::{Compression, Settings};
use kiln_oci::{Descriptor, Digest};
use kiln_worker::{
    BlobStream, CacheMount, Frozen, FrozenMount, MountContent, MountFiller, MountWish, Sharing, Worker,
    unpack_mount,
};

const GZIP: Settings = Settings { compression: Compression::Gzip, level: None };
const PLAIN: Settings = Settings { compression: Compression::Uncompressed, level: None };
const SOON: Duration = Duration::from_millis(50);

fn wish(name: &str, sharing: Sharing) -> MountWish<'_> {
    MountWish { name, base: None, sharing, description: "cached mount" }
}

async fn take(worker: &Worker, name: &str) -> CacheMount {
    worker.cache_mount(wish(name, Sharing::Shared), None).await.unwrap()
}

async fn freeze(worker: &Worker, name: &str) -> Box<FrozenMount> {
    let known = worker.known_cache_mounts(name).unwrap();
    match worker.freeze_cache_mount(&known[0], SOON).await.unwrap() {
        Frozen::Now(frozen) => frozen,
        other => panic!("{other:?}"),
    }
}

/// Packs the cache mount `name`; gives the blob's bytes too.
async fn packed(worker: &Worker, name: &str) -> (MountContent, Vec<u8>) {
    packed_as(worker, name, GZIP).await
}

async fn packed_as(worker: &Worker, name: &str, settings: Settings) -> (MountContent, Vec<u8>) {
    let frozen = freeze(worker, name).await;
    let lease = worker.store().lease().unwrap();
    let content = frozen.pack(settings, lease.id()).unwrap();
    let bytes = worker.store().content().read(&content.blob.digest, 1 << 20).unwrap();
    (content, bytes)
}

fn stream_of(bytes: &[u8]) -> BlobStream {
    let chunks: Vec<_> = bytes.chunks(7).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(chunks).boxed()
}

/// Where a cache mount's files are on the host.
fn folder(fixture: &Fixture, mount: &CacheMount) -> PathBuf {
    // The mount's own view may be any; what it writes is seen in the folder.
    let root = mount.mount_spec().open().unwrap();
    root.write(".place", b"", 0o600).unwrap();
    let below = std::fs::read_dir(fixture.worker.store().snapshots().dir()).unwrap();
    let mut found =
        below.flat_map(|entry| [entry.as_ref().unwrap().path(), entry.unwrap().path().join("fs")]);
    let place = found.find(|path| path.join(".place").exists()).unwrap();
    std::fs::remove_file(place.join(".place")).unwrap();
    place
}

/// Fills mounts with content that is at hand.
struct Given {
    content: MountContent,
    bytes: Vec<u8>,
    asked: AtomicUsize,
    error: Mutex<String>,
    patience: Duration,
}

impl Given {
    fn new((content, bytes): (MountContent, Vec<u8>)) -> Self {
        Self { content, bytes, asked: AtomicUsize::new(0), error: Mutex::default(), patience: Duration::ZERO }
    }
}

impl MountFiller for Given {
    fn fill(&self, root: Root) -> BoxFuture<'_, bool> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(self.patience).await;
            let unpacked = unpack_mount(root, &self.content, stream_of(&self.bytes), |_| {}).await;
            let error = unpacked.as_ref().err().map(ToString::to_string).unwrap_or_default();
            *self.error.lock().unwrap() = error;
            unpacked.is_ok()
        }
        .boxed()
    }
}

#[tokio::test]
async fn what_is_packed_here_is_the_same_there() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut digests = Vec::new();
    for fixture in fixtures() {
        let mount = take(&fixture.worker, "k").await;
        let place = folder(&fixture, &mount);
        std::fs::create_dir(place.join("d")).unwrap();
        std::fs::write(place.join("d/a"), "1").unwrap();
        std::fs::write(place.join("d/.wh.b"), "no whiteout").unwrap();
        symlink("/etc/passwd", place.join("out")).unwrap();
        std::os::unix::fs::chown(place.join("d/a"), Some(7), Some(8)).unwrap();
        std::fs::set_permissions(place.join("d"), std::fs::Permissions::from_mode(0o2770)).unwrap();
        std::os::unix::fs::chown(&place, Some(1000), Some(1001)).unwrap();
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o1777)).unwrap();
        for path in ["d/a", "d/.wh.b", "d"] {
            let file = std::fs::File::open(place.join(path)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_nanos(1_234_567_891)).unwrap();
        }
        rustix::fs::utimensat(
            rustix::fs::CWD,
            place.join("out"),
            &rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            },
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
        drop(mount);
        for settings in [GZIP, PLAIN] {
            let sent = packed_as(&fixture.worker, "k", settings).await;
            assert_eq!((sent.0.uid, sent.0.gid, sent.0.mode), (1000, 1001, 0o1777));
            digests.push(sent.0.blob.digest.clone());

            let name = format!("there as {}", settings.compression.as_str());
            let given = Given::new(sent.clone());
            let there = fixture.worker.cache_mount(wish(&name, Sharing::Locked), Some(&given)).await.unwrap();
            let root = there.mount_spec().open().unwrap();
            let own = root.dir().stat_self().unwrap();
            assert_eq!((own.uid, own.gid, own.mode), (1000, 1001, 0o1777));
            let file = root.stat("d/a").unwrap();
            assert_eq!((file.uid, file.gid, file.mode, file.mtime.secs), (7, 8, 0o644, 1));
            assert_eq!(root.stat("d").unwrap().mode, 0o2770);
            assert_eq!(root.read("d/.wh.b", 100).unwrap(), b"no whiteout");
            assert_eq!(root.read_link("out").unwrap(), PathBuf::from("/etc/passwd"));
            drop((root, there));
            // Packed again it is the same blob: nothing needs to be sent.
            assert_eq!(packed_as(&fixture.worker, &name, settings).await.0, sent.0);
        }
    }
    assert!(digests.chunks(2).all(|both| both == &digests[..2]), "equal files give equal blobs");
}

#[tokio::test]
async fn a_mount_is_filled_once_and_never_over_files() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let mount = take(worker, "k").await;
        mount.mount_spec().open().unwrap().write("a", b"1", 0o644).unwrap();
        drop(mount);
        let given = Given { patience: SOON, ..Given::new(packed(worker, "k").await) };
        let filled = |sharing| worker.cache_mount(wish("new", sharing), Some(&given));
        // Whoever comes meanwhile waits, and finds the same files.
        let (one, two, other) = tokio::join!(
            filled(Sharing::Shared),
            filled(Sharing::Shared),
            worker.cache_mount(wish("other", Sharing::Shared), None)
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        other.unwrap();
        assert_eq!(one.id(), two.id());
        assert_eq!(given.asked.load(Ordering::SeqCst), 1);
        let root = one.mount_spec().open().unwrap();
        root.write("a", b"2", 0o644).unwrap();
        drop((root, one, two));
        let again = filled(Sharing::Locked).await.unwrap();
        assert_eq!(again.mount_spec().open().unwrap().read("a", 10).unwrap(), b"2");
        assert_eq!(given.asked.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn content_that_is_not_what_it_says_is_thrown_away() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let mount = take(worker, "k").await;
        mount.mount_spec().open().unwrap().write("a", b"1", 0o644).unwrap();
        drop(mount);
        let (content, bytes) = packed(worker, "k").await;
        let with = |change: fn(&mut MountContent, &mut Vec<u8>)| {
            let mut sent = (content.clone(), bytes.clone());
            change(&mut sent.0, &mut sent.1);
            Given::new(sent)
        };
        let cases = [
            ("bytes", with(|_, bytes| bytes.extend_from_slice(b"more"))),
            ("", with(|_, bytes| bytes.truncate(bytes.len() - 9))),
            ("sha256", with(|content, _| content.blob.digest = Digest::sha256("other"))),
            ("limit", with(|content, _| content.size = 0)),
            (
                "",
                with(|content, bytes| {
                    *bytes = b"no archive".to_vec();
                    content.blob = Descriptor::of("x", &*bytes);
                }),
            ),
        ];
        for (at, (word, given)) in cases.into_iter().enumerate() {
            let name = format!("bad{at}");
            let mount = worker.cache_mount(wish(&name, Sharing::Shared), Some(&given)).await.unwrap();
            let root = mount.mount_spec().open().unwrap();
            assert_eq!(root.list("").unwrap().len(), 0, "case {at} begins empty");
            let error = given.error.lock().unwrap().clone();
            assert!(!error.is_empty() && error.contains(word), "case {at}: {error}");
        }
        let left = worker.disk_usage(&["type==exec.cachemount".into()], 0).await.unwrap();
        assert_eq!(left.len(), 6, "nothing half-made stays");
    }
}

#[tokio::test]
async fn an_archive_of_a_stranger_stays_in_its_folder() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let entry = |kind, name: &str, link: &str| {
        let mut header = Header::new(kind, name);
        (header.link, header.mode) = (link.as_bytes().to_vec(), 0o4755);
        header
    };
    let evil: [(&str, Vec<Header>); 4] = [
        ("climbing", vec![entry(Kind::File, "../../../../../../../..{}/climbed", "")]),
        ("a link", vec![entry(Kind::Symlink, "l", "{}"), entry(Kind::File, "l/linked", "")]),
        (
            "a link up",
            vec![entry(Kind::Symlink, "l", "../../../../../../../..{}"), entry(Kind::File, "l/linked", "")],
        ),
        ("a hard link", vec![entry(Kind::HardLink, "h", "{}/seen")]),
    ];
    for fixture in fixtures() {
        std::fs::write(outside.path().join("seen"), "secret").unwrap();
        for (what, headers) in &evil {
            let mut tar = TarWriter::new(kiln_layer::LayerWriter::new(Vec::new(), Compression::Gzip.into()));
            for header in headers {
                let mut header = header.clone();
                let here = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("{}", target).into_bytes();
                (header.path, header.link) = (here(&header.path), here(&header.link));
                tar.header(&header).unwrap();
            }
            let (bytes, written) = tar.finish().unwrap().finish().unwrap();
            let blob = Descriptor::of("x", &bytes);
            let (diff_id, size) = (written.diff_id, written.diff_size);
            let content = MountContent { blob, diff_id, size, uid: 0, gid: 0, mode: 0o7755 };
            let given = Given::new((content, bytes));
            let name = format!("evil {what}");
            let mount = fixture.worker.cache_mount(wish(&name, Sharing::Shared), Some(&given)).await.unwrap();
            let inside = mount.mount_spec().open().unwrap();
            assert!(inside.read("h", 100).is_err(), "{what}");
        }
        let left: Vec<_> =
            std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["seen"]);
        assert_eq!(std::fs::metadata(outside.path().join("seen")).unwrap().nlink(), 1);
    }
}

#[tokio::test]
async fn a_frozen_mount_waits_for_steps_and_steps_for_it() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let mount = take(worker, "k").await;
        let known = worker.known_cache_mounts("k").unwrap();
        assert_eq!(known.len(), 1);
        assert!(matches!(worker.freeze_cache_mount(&known[0], SOON).await.unwrap(), Frozen::InUse));
        drop(mount);
        let frozen = freeze(worker, "k").await;
        for sharing in [Sharing::Shared, Sharing::Private, Sharing::Locked] {
            let early = tokio::time::timeout(SOON, worker.cache_mount(wish("k", sharing), None)).await;
            assert!(early.is_err(), "{sharing:?}");
        }
        drop(frozen);
        assert!(take(worker, "k").await.mount_spec().open().unwrap().list("").unwrap().is_empty());
        assert_eq!(worker.find("cache-dir:k").unwrap().len(), 1);
        worker.drop_cache_mounts("k", false).unwrap();
        assert!(matches!(worker.freeze_cache_mount(&known[0], SOON).await.unwrap(), Frozen::Gone));
    }
}

#[tokio::test]
async fn what_was_packed_is_known_until_a_step_has_the_mount() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        drop(take(worker, "k").await);
        let (content, _) = packed(worker, "k").await;
        assert_eq!(freeze(worker, "k").await.known(GZIP).unwrap(), Some(content));
        let other = Settings { compression: Compression::Zstd, level: None };
        assert_eq!(freeze(worker, "k").await.known(other).unwrap(), None);
        drop(take(worker, "k").await);
        assert_eq!(freeze(worker, "k").await.known(GZIP).unwrap(), None);
    }
}

#[tokio::test]
async fn what_was_packed_is_forgotten_before_a_file_can_change() {
    for fixture in fixtures() {
        let mount = fixture.worker.cache_mount(wish("k", Sharing::Locked), None).await.unwrap();
        drop(mount);
        packed(&fixture.worker, "k").await;
        fixture.worker.store().db().sync().unwrap();
        let mount = fixture.worker.cache_mount(wish("k", Sharing::Locked), None).await.unwrap();
        // What a kill now would leave.
        let killed = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("cp")
            .args(["-a", "--"])
            .arg(fixture.dir.path().join("."))
            .arg(killed.path())
            .status()
            .unwrap();
        assert!(status.success());
        drop(mount);
        let worker = common::open(killed.path(), fixture.worker.store().snapshots().kind()).unwrap();
        assert!(freeze(&worker, "k").await.known(GZIP).unwrap().is_none());
    }
}
