//! Folders of a client.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kiln_fstree::{
    Filter, Root,
    contenthash::{self, ChecksumOptions, HashCache},
    diffcopy::{self, Tree},
};
use kiln_proto::{
    filesync::file_sync_server::{FileSync, FileSyncServer},
    fsutil::{Packet, packet::PacketType},
    limits::Limited as _,
};
use kiln_session::{client::ClientSession, headers};
use kiln_store::{Options, Store};
use kiln_worker::Worker;
use tokio::sync::{Notify, mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::support::{connect, context, files, fixture, nobody, op};

/// Serves one folder under the name `context`; with a signal, says nothing more after the first file's content, but gives it.
struct Folder(PathBuf, Option<Arc<Notify>>);

type Packets = std::pin::Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

#[tonic::async_trait]
impl FileSync for Folder {
    type DiffCopyStream = Packets;
    type TarStreamStream = Packets;

    async fn diff_copy(
        &self,
        call: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let (metadata, _, incoming) = call.into_parts();
        let wanted = metadata.into_headers();
        if headers::get_list(&wanted, headers::DIR_NAME) != ["context"] {
            return Err(Status::not_found("no such folder"));
        }
        let filter =
            Filter { exclude: headers::get_list(&wanted, headers::EXCLUDE_PATTERNS), ..Filter::default() };
        let tree = Tree { at: None, root: Root::open(&self.0).unwrap(), filter, extra: Vec::new() };
        let (packets, outgoing) = mpsc::channel(16);
        tokio::spawn(async move { drop(diffcopy::send(vec![tree], incoming, packets, None).await) });
        let Some(stalled) = self.1.clone() else {
            return Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(Ok))));
        };
        let mut outgoing = outgoing;
        let (slow, until_then) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(packet) = outgoing.recv().await {
                let ends_a_file = packet.r#type() == PacketType::PacketData && packet.data.is_empty();
                drop(slow.send(Ok(packet)).await);
                if ends_a_file {
                    stalled.notify_one();
                    slow.closed().await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(until_then))))
    }

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("tar"))
    }
}

fn client(folder: &Path) -> ClientSession {
    ClientSession::new("shared").with(FileSyncServer::new(Folder(folder.to_owned(), None)).limited())
}

/// A client that stops in the middle, and tells.
fn stalling(folder: &Path) -> (ClientSession, Arc<Notify>) {
    let stalled = Arc::new(Notify::new());
    let service = Folder(folder.to_owned(), Some(stalled.clone()));
    (ClientSession::new("shared").with(FileSyncServer::new(service).limited()), stalled)
}

#[tokio::test]
async fn the_tree_of_the_last_transfer_is_brought_up_to_date() {
    let Some(fixture) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("a"), "1").unwrap();
    std::fs::write(at("b"), "1").unwrap();
    let op = op("local://context", &[("local.sharedkeyhint", "here")]);
    let (sessions, _first) = connect(client(folder.path())).await;
    let (key, tree) = fixture.build(&op, &sessions).await.unwrap();
    assert!(key.key.starts_with("session:context:") && key.last);
    assert_eq!(files(&tree), ["a=1", "b=1"]);
    drop(tree);

    std::fs::write(at("a"), "22").unwrap();
    std::fs::remove_file(at("b")).unwrap();
    std::fs::create_dir(at("c")).unwrap();
    let (sessions, _second) = connect(client(folder.path())).await;
    let (other, tree) = fixture.build(&op, &sessions).await.unwrap();
    assert_ne!(key.key, other.key);
    assert_eq!(files(&tree), ["a=22", "c/"]);
    // One that is in use is left alone: another build gets a tree of its own.
    std::fs::write(at("a"), "333").unwrap();
    let (sessions, _third) = connect(client(folder.path())).await;
    let (_, own) = fixture.build(&op, &sessions).await.unwrap();
    assert_eq!(
        (files(&own), files(&tree)),
        (vec!["a=333".into(), "c/".into()], vec!["a=22".to_owned(), "c/".into()])
    );
}

/// A tree that nobody may look at.
struct Unseen;

impl contenthash::Tree for Unseen {
    fn root(&self) -> kiln_fstree::Result<&Root> {
        Err(kiln_fstree::Error::Refused("looked at the files".into()))
    }
}

#[tokio::test]
async fn what_was_hashed_on_the_way_is_never_read_again() {
    let Some(fixture) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    std::fs::write(folder.path().join("d/a"), "1").unwrap();
    std::fs::write(folder.path().join("b"), "1").unwrap();
    let op = op("local://context", &[]);
    for round in 0..3 {
        let (sessions, _client) = connect(client(folder.path())).await;
        let (_, tree) = fixture.build(&op, &sessions).await.unwrap();
        let stored = tree.value(kiln_source::HASHES).unwrap().unwrap();
        let mut hashes = HashCache::decode(&stored).unwrap();
        for path in ["/", "/d", "/b"] {
            let digest = hashes.checksum(&Unseen, path, &ChecksumOptions::default());
            assert!(digest.is_ok(), "{path} in round {round}: {digest:?}");
        }
    }
}

/// A file's content at one moment: what is written while it is read would be torn.
fn at_rest(path: &Path) -> Vec<u8> {
    let mut content = std::fs::read(path).unwrap();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(1));
        let again = std::fs::read(path).unwrap();
        if again == content {
            return content;
        }
        content = again;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_leaves_no_hashes_to_be_believed() {
    let Some(fixture) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "1").unwrap();
    let op = op("local://context", &[("local.sharedkeyhint", "here")]);
    let (sessions, _first) = connect(client(folder.path())).await;
    let tree = fixture.build(&op, &sessions).await.unwrap().1;
    assert_eq!(files(&tree), ["a=1"]);
    let old = tree.id().clone();
    drop(tree);
    fixture.worker.store().db().sync().unwrap();

    std::fs::write(folder.path().join("a"), "22").unwrap();
    let (session, stalled) = stalling(folder.path());
    let (sessions, _second) = connect(session).await;
    let at_that_moment = tempfile::tempdir().unwrap();
    // Not given up yet: that would forget the tree.
    let mut build = Box::pin(fixture.build(&op, &sessions));
    tokio::select! {
        built = &mut build => panic!("{built:?}"),
        () = stalled.notified() => {
            // What a process that is killed now leaves.
            std::fs::create_dir(at_that_moment.path().join("kiln")).unwrap();
            let at = |root: &Path| root.join("kiln/kiln.redb");
            std::fs::write(at(at_that_moment.path()), at_rest(&at(fixture.dir()))).unwrap();
        }
    }
    let options = Options {
        snapshotter: Some(fixture.worker.store().snapshots().kind()),
        boot_id: Some("boot".into()),
    };
    let left = Worker::open(Store::open(at_that_moment.path(), &options).unwrap()).unwrap();
    let kept = left.find("local:context:here:shared").unwrap();
    assert_eq!(kept.len(), 1);
    let hashes = left.get_mutable(&kept[0]).unwrap().value(kiln_source::HASHES).unwrap();
    assert!(hashes.is_none_or(|hashes| hashes.is_empty()));
    assert!(matches!(left.get(&old), Err(kiln_worker::Error::Gone(_))), "its files have changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_nobody_waits_for_is_over_before_the_next() {
    let Some(fixture) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::write(folder.path().join(name), "1").unwrap();
    }
    let op = op("local://context", &[("local.sharedkeyhint", "here")]);
    let (session, stalled) = stalling(folder.path());
    let (sessions, _first) = connect(session).await;
    tokio::select! {
        built = fixture.build(&op, &sessions) => panic!("{built:?}"),
        () = stalled.notified() => {}
    }
    // Given up, it is nobody's tree any more, and is not taken up again.
    let start = std::time::Instant::now();
    while !fixture.worker.find("local:context:here:shared").unwrap().is_empty() {
        assert!(start.elapsed() < std::time::Duration::from_secs(30), "the tree stays");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (sessions, _second) = connect(client(folder.path())).await;
    assert_eq!(files(&fixture.build(&op, &sessions).await.unwrap().1), ["a=1", "b=1"]);
}

#[tokio::test]
async fn what_is_excluded_stays_where_it_is() {
    let Some(fixture) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "1").unwrap();
    std::fs::write(folder.path().join("secret"), "1").unwrap();
    let op = op("local://context", &[("local.excludepatterns", r#"["secret"]"#)]);
    let (sessions, _client) = connect(client(folder.path())).await;
    assert_eq!(files(&fixture.build(&op, &sessions).await.unwrap().1), ["a=1"]);
}

#[tokio::test]
async fn without_the_folder_or_a_client_there_is_an_error() {
    let Some(fixture) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (sessions, _client) = connect(client(folder.path())).await;
    assert!(fixture.build(&op("local://other", &[]), &sessions).await.is_err());
    let source = fixture.open(&op("local://context", &[])).unwrap();
    let error = source.key(&context(&nobody()), 0).await.unwrap_err().to_string();
    assert!(error.contains("without a session"), "{error}");
}
