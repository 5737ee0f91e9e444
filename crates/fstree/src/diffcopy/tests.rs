use super::*;
use crate::meta::go_mode;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tokio_stream::wrappers::ReceiverStream;

type Wire = std::result::Result<Packet, std::convert::Infallible>;

fn wire(receiver: mpsc::Receiver<Packet>) -> impl Stream<Item = Wire> + Send + Unpin {
    use futures::StreamExt as _;
    ReceiverStream::new(receiver).map(Ok)
}

/// One transfer between two folders; also tells how many packets of each type the sender sent.
async fn transfer(
    from: &Path,
    to: &Path,
    filter: Filter,
    options: ReceiveOptions,
) -> (Result<Sent>, Result<Received>) {
    let tree = Tree { at: None, root: Root::open(from).expect("open"), filter, extra: Vec::new() };
    transfer_trees(vec![tree], to, options).await
}

async fn transfer_trees(
    trees: Vec<Tree>,
    to: &Path,
    options: ReceiveOptions,
) -> (Result<Sent>, Result<Received>) {
    let (to_receiver, from_sender) = mpsc::channel(128);
    let (to_sender, from_receiver) = mpsc::channel(128);
    let sending = send(trees, wire(from_receiver), to_receiver, None);
    let receiving = receive(Root::open(to).expect("open"), wire(from_sender), to_sender, options);
    tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(sending, receiving) })
        .await
        .expect("no deadlock")
}

fn hashed() -> ReceiveOptions {
    ReceiveOptions { hash: true, ..ReceiveOptions::default() }
}

/// Path → what can be seen of it.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(dir).expect("readdir") {
            let path = entry.expect("entry").path();
            let meta = std::fs::symlink_metadata(&path).expect("lstat");
            let content = if meta.is_symlink() {
                std::fs::read_link(&path).expect("readlink").to_string_lossy().into_owned()
            } else if meta.is_file() {
                format!("{:?} {}", std::fs::read(&path).expect("read"), meta.nlink())
            } else {
                String::new()
            };
            let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid(), meta.rdev()));
            let line = format!("{mode:o} {owner:?} {}.{} {content}", meta.mtime(), meta.mtime_nsec());
            out.insert(path.strip_prefix(root).expect("below").to_owned(), line);
            if meta.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    out
}

struct Dirs {
    tmp: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Self {
        let tmp = tempfile::tempdir().expect("temporary folder");
        for name in ["from", "to"] {
            std::fs::create_dir(tmp.path().join(name)).expect("mkdir");
        }
        Self { tmp }
    }

    fn from(&self) -> PathBuf {
        self.tmp.path().join("from")
    }

    fn to(&self) -> PathBuf {
        self.tmp.path().join("to")
    }

    fn write(&self, path: &str, data: impl AsRef<[u8]>) {
        let path = self.from().join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        std::fs::write(path, data).expect("write");
    }

    async fn sync(&self) -> Received {
        let (sent, received) = transfer(&self.from(), &self.to(), Filter::default(), hashed()).await;
        sent.expect("sent");
        received.expect("received")
    }
}

fn paths(received: &Received) -> Vec<(ChangeKind, String)> {
    let mut out: Vec<_> =
        received.changes.iter().map(|c| (c.kind, String::from_utf8_lossy(&c.path).into_owned())).collect();
    out.sort_by(|a, b| a.1.cmp(&b.1));
    out
}

fn kinds(dirs: &Dirs) {
    dirs.write("a/b/small", "hello");
    dirs.write("a/empty", "");
    dirs.write("big", vec![7; 300_000]);
    dirs.write("exact", vec![1; 64 * 1024]);
    dirs.write("mode", "x");
    let at = |name: &str| dirs.from().join(name);
    std::fs::set_permissions(at("mode"), std::fs::Permissions::from_mode(0o4711)).expect("chmod");
    std::fs::set_permissions(at("a/b"), std::fs::Permissions::from_mode(0o1777)).expect("chmod");
    std::fs::create_dir(at("emptydir")).expect("mkdir");
    symlink("../nowhere", at("a/link")).expect("symlink");
    std::fs::hard_link(at("big"), at("c-hard")).expect("link");
    let root = Root::open(dirs.from()).expect("open");
    root.dir().mknod("pipe".as_ref(), crate::Kind::Fifo, 0o600, (0, 0)).expect("mkfifo");
    root.dir().set_xattr("exact".as_ref(), "user.k", b"v").expect("setxattr");
    std::fs::write(at("nöt \u{1}"), "n").expect("write");
    let name = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
    std::fs::write(dirs.from().join::<&std::ffi::OsStr>(name), "latin").expect("write");
}

#[tokio::test]
async fn every_kind_arrives_as_it_was() {
    let dirs = Dirs::new();
    kinds(&dirs);
    let received = dirs.sync().await;
    assert_eq!(snapshot(&dirs.to()), snapshot(&dirs.from()));
    let to = Root::open(dirs.to()).expect("open");
    assert_eq!(&to.dir().xattrs("exact".as_ref()).expect("xattrs")["user.k"][..], b"v");
    assert!(received.changes.iter().all(|c| c.kind == ChangeKind::Add));
    let digest = |path: &str| {
        let change = received.changes.iter().find(|c| c.path == path.as_bytes()).expect(path);
        change.digest.clone()
    };
    let stat = received.changes.iter().find(|c| &c.path[..] == b"a/b/small").and_then(|c| c.stat.clone());
    let mut hash = crate::contenthash::FileHash::new(&stat.expect("stat"));
    hash.update(b"hello");
    assert_eq!(digest("a/b/small"), Some(hash.finish()));
    assert!(digest("a").is_some() && digest("a/link").is_some() && digest("c-hard").is_none());
}

#[tokio::test]
async fn nothing_is_sent_twice() {
    let dirs = Dirs::new();
    kinds(&dirs);
    dirs.sync().await;
    let again = dirs.sync().await;
    assert_eq!((again.files, again.bytes, again.changes.len()), (0, 0, 0));
    assert!(again.entries > 10);
    assert_eq!(snapshot(&dirs.to()), snapshot(&dirs.from()));
}

#[tokio::test]
async fn a_same_size_edit_sends_that_file_alone() {
    let dirs = Dirs::new();
    kinds(&dirs);
    dirs.sync().await;
    let before = snapshot(&dirs.to());
    dirs.write("a/b/small", "HELLO");
    let received = dirs.sync().await;
    assert_eq!(paths(&received), [(ChangeKind::Modify, "a/b/small".to_owned())]);
    assert_eq!((received.files, received.bytes), (1, 5));
    let after = snapshot(&dirs.to());
    assert_eq!(after, snapshot(&dirs.from()));
    assert_eq!(before.iter().filter(|(path, line)| after.get(*path) != Some(line)).count(), 1);
}

#[tokio::test]
async fn everything_can_become_everything() {
    let make: [fn(&Path); 5] = [
        |p| std::fs::write(p, "file").expect("write"),
        |p| {
            std::fs::create_dir(p).expect("mkdir");
            std::fs::write(p.join("in"), "in").expect("write");
            std::fs::create_dir(p.join("sub")).expect("mkdir");
        },
        |p| symlink("in", p).expect("symlink"),
        |p| {
            let root = Root::open(p.parent().expect("parent")).expect("open");
            root.dir().mknod(p.file_name().expect("name"), crate::Kind::Fifo, 0o644, (0, 0)).expect("mkfifo");
        },
        |p| std::fs::hard_link(p.with_file_name("0"), p).expect("link"),
    ];
    for first in &make {
        for second in &make {
            let dirs = Dirs::new();
            dirs.write("0", "zero");
            dirs.write("d/0", "d zero");
            for path in ["x", "d/x"] {
                first(&dirs.from().join(path));
            }
            dirs.sync().await;
            for path in ["x", "d/x"] {
                Root::open(dirs.from()).expect("open").remove_all(path).expect("remove");
                second(&dirs.from().join(path));
            }
            dirs.sync().await;
            assert_eq!(snapshot(&dirs.to()), snapshot(&dirs.from()));
            let again = dirs.sync().await;
            assert_eq!(again.changes, []);
        }
    }
}

#[tokio::test]
async fn what_is_gone_is_deleted_unless_merging() {
    let dirs = Dirs::new();
    dirs.write("a/b/c", "1");
    dirs.write("keep", "2");
    dirs.sync().await;
    std::fs::remove_dir_all(dirs.from().join("a")).expect("remove");
    let received = dirs.sync().await;
    assert_eq!(paths(&received), [(ChangeKind::Delete, "a".to_owned())]);
    assert_eq!(snapshot(&dirs.to()), snapshot(&dirs.from()));

    std::fs::write(dirs.to().join("mine"), "3").expect("write");
    std::fs::create_dir(dirs.to().join("dir")).expect("mkdir");
    dirs.write("dir", "now a file");
    let merge = ReceiveOptions { merge: true, ..hashed() };
    transfer(&dirs.from(), &dirs.to(), Filter::default(), merge).await.1.expect("received");
    assert_eq!(std::fs::read(dirs.to().join("mine")).expect("read"), b"3");
    assert_eq!(std::fs::read(dirs.to().join("dir")).expect("read"), b"now a file");
}

#[tokio::test]
async fn other_names_of_a_replaced_file_keep_its_content() {
    let dirs = Dirs::new();
    dirs.write("f", "old");
    dirs.sync().await;
    let snapshot = dirs.tmp.path().join("snapshot");
    std::fs::hard_link(dirs.to().join("f"), &snapshot).expect("link");
    dirs.write("f", "new");
    dirs.sync().await;
    assert_eq!(std::fs::read(snapshot).expect("read"), b"old");
}

#[tokio::test]
async fn filters_of_both_ends() {
    let dirs = Dirs::new();
    dirs.write("src/a.go", "a");
    dirs.write("src/b.c", "b");
    dirs.write("doc/x", "x");
    let filter = Filter {
        include: vec!["**/*.go".to_owned()],
        map: Some(Arc::new(|stat: &mut Stat| {
            (stat.uid, stat.gid) = (0, 0);
            crate::Mapped::Keep
        })),
        ..Filter::default()
    };
    let owners: ReceiveFilter = Arc::new(|stat: &mut Stat| {
        (stat.uid, stat.gid) = (stat.uid + 1000, stat.gid + 1000);
        true
    });
    let options = ReceiveOptions { filter: Some(owners), ..hashed() };
    let (_, received) = transfer(&dirs.from(), &dirs.to(), filter.clone(), options.clone()).await;
    assert_eq!(paths(&received.expect("received")).len(), 2);
    let meta = std::fs::metadata(dirs.to().join("src/a.go")).expect("stat");
    assert_eq!((meta.uid(), meta.gid()), (1000, 1000));
    // The owners that were mapped are compared, too.
    let (_, again) = transfer(&dirs.from(), &dirs.to(), filter, options).await;
    assert_eq!(again.expect("received").changes, []);
}

#[tokio::test]
async fn metadata_only_with_exceptions() {
    let dirs = Dirs::new();
    dirs.write("a/b/wanted", "1");
    dirs.write("a/c/other", "2");
    dirs.write("z", "3");
    let wanted: Wanted = Arc::new(|stat| stat.path.ends_with(b"wanted"));
    let options = ReceiveOptions { metadata_only: Some(wanted), ..hashed() };
    let (_, received) = transfer(&dirs.from(), &dirs.to(), Filter::default(), options).await;
    let received = received.expect("received");
    assert_eq!((received.files, received.entries), (1, 6));
    let there: Vec<_> = snapshot(&dirs.to()).into_keys().collect();
    assert_eq!(there, [METADATA_FILE, "a", "a/b", "a/b/wanted"].map(PathBuf::from));
    let mut list = &std::fs::read(dirs.to().join(METADATA_FILE)).expect("read")[..];
    let mut told = Vec::new();
    while let Some((len, rest)) = list.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        let stat = <Stat as prost::Message>::decode(&rest[..len]).expect("stat");
        told.push(String::from_utf8_lossy(&stat.path).into_owned());
        list = &rest[len..];
    }
    assert_eq!(told, ["a", "a/b", "a/b/wanted", "a/c", "a/c/other", "z"]);
}

#[tokio::test]
async fn several_trees_and_files_from_memory() {
    let dirs = Dirs::new();
    dirs.write("f", "on disk");
    dirs.write("z/z", "z");
    symlink("/f", dirs.from().join("l")).expect("symlink");
    std::fs::hard_link(dirs.from().join("f"), dirs.from().join("h")).expect("link");
    let tree = |at: &str, extra: &[(&str, &'static str)]| Tree {
        at: Some(Stat { path: at.to_owned().into(), mode: go_mode::DIR | 0o755, ..Stat::default() }),
        root: Root::open(dirs.from()).expect("open"),
        filter: Filter::default(),
        extra: extra
            .iter()
            .map(|(path, data)| ExtraFile {
                stat: Stat { path: (*path).to_owned().into(), mode: 0o600, ..Stat::default() },
                data: Bytes::from_static(data.as_bytes()),
            })
            .collect(),
    };
    let trees = vec![tree("one", &[]), tree("two", &[("zz", "last"), ("a", "first"), ("f", "instead")])];
    let (sent, received) = transfer_trees(trees, &dirs.to(), hashed()).await;
    sent.expect("sent");
    received.expect("received");
    let read = |path: &str| std::fs::read_to_string(dirs.to().join(path)).expect(path);
    assert_eq!(
        (read("one/f"), read("one/h"), read("one/z/z")),
        ("on disk".into(), "on disk".into(), "z".into())
    );
    assert_eq!(
        (read("two/a"), read("two/f"), read("two/zz")),
        ("first".into(), "instead".into(), "last".into())
    );
    assert_eq!(std::fs::read_link(dirs.to().join("one/l")).expect("link"), Path::new("/one/f"));
}

#[tokio::test]
async fn many_files_count_and_progress() {
    let dirs = Dirs::new();
    for i in 0..3000 {
        dirs.write(&format!("d{}/f{i}", i % 17), format!("{i}").repeat(i % 50));
    }
    let seen = Arc::new(Mutex::new((0, false)));
    let progress: Progress = {
        let seen = seen.clone();
        Arc::new(move |bytes, last| *seen.lock().expect("lock") = (bytes, last))
    };
    let options = ReceiveOptions { progress: Some(progress), ..hashed() };
    let (sent, received) = transfer(&dirs.from(), &dirs.to(), Filter::default(), options).await;
    let (sent, received) = (sent.expect("sent"), received.expect("received"));
    assert_eq!((sent.entries, sent.files, sent.bytes), (3017, 3000, received.bytes));
    assert_eq!(snapshot(&dirs.to()), snapshot(&dirs.from()));
    let (bytes, last) = *seen.lock().expect("lock");
    assert!(last && bytes > received.bytes);
}

/// Plays a sender that says `packets`, and what the receiver made of it.
async fn hostile(to: &Path, packets: Vec<Packet>) -> (Result<Received>, Vec<Packet>) {
    let (to_receiver, from_sender) = mpsc::channel(packets.len() + 1);
    let (to_sender, mut from_receiver) = mpsc::channel(1000);
    for packet in packets {
        to_receiver.send(packet).await.expect("room");
    }
    drop(to_receiver);
    let receiving = receive(Root::open(to).expect("open"), wire(from_sender), to_sender, hashed());
    let result = tokio::time::timeout(Duration::from_secs(20), receiving).await.expect("ends");
    let mut said = Vec::new();
    while let Some(packet) = from_receiver.recv().await {
        said.push(packet);
    }
    (result, said)
}

fn told(path: &str, mode: u32, link: &str) -> Packet {
    let stat =
        Stat { path: path.to_owned().into(), mode, linkname: link.to_owned().into(), ..Stat::default() };
    Packet { stat: Some(stat), ..packet(PacketType::PacketStat) }
}

fn data(id: u32, bytes: &'static [u8]) -> Packet {
    Packet { id, data: Bytes::from_static(bytes), ..packet(PacketType::PacketData) }
}

#[tokio::test]
async fn hostile_senders() {
    let d = go_mode::DIR;
    let cases: Vec<(&str, Vec<Packet>)> = vec![
        ("climbs", vec![told("../escape", 0, "")]),
        ("absolute", vec![told("/escape", 0, "")]),
        ("climbs inside", vec![told("a", d, ""), told("a/../../escape", 0, "")]),
        ("through a link", vec![told("l", go_mode::SYMLINK | 0o777, ".."), told("l/escape", 0, "")]),
        ("unordered", vec![told("b", 0, ""), told("a", 0, "")]),
        ("links out", vec![told("a", 0, "../secret")]),
        ("data unasked", vec![told("a", d, ""), packet(PacketType::PacketStat), data(0, b"x")]),
        ("data of nothing", vec![packet(PacketType::PacketStat), data(99, b"x")]),
        ("early end", vec![told("a", d, ""), packet(PacketType::PacketFin)]),
        ("goes away", vec![told("a", d, "")]),
        ("more after the last", vec![packet(PacketType::PacketStat), told("a", d, "")]),
        ("asks us", vec![packet(PacketType::PacketReq)]),
        ("unknown type", vec![Packet { r#type: 77, ..Packet::default() }]),
        ("error", vec![Packet { data: "no".into(), ..packet(PacketType::PacketErr) }]),
        (
            "device out of range",
            vec![{
                let mut p = told("c", go_mode::DEVICE, "");
                if let Some(stat) = &mut p.stat {
                    stat.devmajor = -1;
                }
                p
            }],
        ),
        ("nul", vec![told("a\0b", 0, "")]),
    ];
    for (what, packets) in cases {
        let dirs = Dirs::new();
        std::fs::write(dirs.tmp.path().join("secret"), "outside").expect("write");
        let (result, _) = hostile(&dirs.to(), packets).await;
        assert!(result.is_err(), "{what}");
        assert!(!dirs.tmp.path().join("escape").exists(), "{what}");
        assert_eq!(std::fs::read(dirs.tmp.path().join("secret")).expect("read"), b"outside", "{what}");
    }
}

#[tokio::test]
async fn links_that_lie_in_the_tree_are_replaced_not_followed() {
    let dirs = Dirs::new();
    let outside = dirs.tmp.path().join("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    std::fs::write(outside.join("f"), "outside").expect("write");
    dirs.write("d/f", "inside");
    for merge in [false, true] {
        std::fs::remove_dir_all(dirs.to()).expect("remove");
        std::fs::create_dir(dirs.to()).expect("mkdir");
        symlink(&outside, dirs.to().join("d")).expect("symlink");
        let options = ReceiveOptions { merge, ..hashed() };
        transfer(&dirs.from(), &dirs.to(), Filter::default(), options).await.1.expect("received");
        assert_eq!(std::fs::read(outside.join("f")).expect("read"), b"outside");
        assert_eq!(std::fs::read(dirs.to().join("d/f")).expect("read"), b"inside");
        assert!(!dirs.to().join("d").is_symlink());
    }
}

#[tokio::test]
async fn errors_are_told_to_the_other_end() {
    let dirs = Dirs::new();
    let (result, said) = hostile(&dirs.to(), vec![told("../x", 0, "")]).await;
    assert!(result.expect_err("refused").to_string().contains("unclean path"));
    let last = said.last().expect("something");
    assert_eq!(last.r#type, i32::from(PacketType::PacketErr));
    assert!(String::from_utf8_lossy(&last.data).contains("unclean path"));

    // And the other way round: a sender that cannot read a pattern says so.
    let bad = Filter { include: vec!["[".to_owned()], ..Filter::default() };
    let (sent, received) = transfer(&dirs.from(), &dirs.to(), bad, hashed()).await;
    assert!(matches!(sent, Err(Error::Pattern { .. })));
    assert!(matches!(received, Err(Error::Sender(message)) if message.contains("includepatterns")));
}

#[tokio::test]
async fn hostile_receivers() {
    let dirs = Dirs::new();
    dirs.write("f", "x");
    let req = |id| Packet { id, ..packet(PacketType::PacketReq) };
    for packets in [
        vec![req(0), req(0)],
        vec![req(7)],
        vec![packet(PacketType::PacketStat)],
        vec![data(0, b"x")],
        vec![],
        vec![Packet { data: "no".into(), ..packet(PacketType::PacketErr) }],
    ] {
        let (to_sender, from_receiver) = mpsc::channel(10);
        let (to_receiver, mut from_sender) = mpsc::channel(10);
        let tree = Tree {
            at: None,
            root: Root::open(dirs.from()).expect("open"),
            filter: Filter::default(),
            extra: vec![],
        };
        let sending = tokio::spawn(send(vec![tree], wire(from_receiver), to_receiver, None));
        // Both STATs first, so that there is something to ask for.
        from_sender.recv().await.expect("stat");
        from_sender.recv().await.expect("end");
        for packet in packets {
            to_sender.send(packet).await.unwrap_or_default();
        }
        let keep_open = tokio::time::timeout(Duration::from_millis(200), from_sender.recv());
        drop(keep_open.await);
        drop(to_sender);
        while from_sender.recv().await.is_some() {}
        let result =
            tokio::time::timeout(Duration::from_secs(20), sending).await.expect("ends").expect("no panic");
        assert!(result.is_err());
    }
}

/// The memory of a receiver is bounded however unfinished the files are that a sender has begun.
#[tokio::test]
async fn unfinished_files_end_in_an_error_not_in_memory() {
    let dirs = Dirs::new();
    let (to_receiver, from_sender) = mpsc::channel(8);
    let (to_sender, mut from_receiver) = mpsc::channel(8);
    let receiving =
        tokio::spawn(receive(Root::open(dirs.to()).expect("open"), wire(from_sender), to_sender, hashed()));
    let asked = tokio::spawn(async move { while from_receiver.recv().await.is_some() {} });
    let half = Bytes::from(vec![0; 60 * 1024]);
    for i in 0..3000 {
        to_receiver.send(told(&format!("{i:05}"), 0o600, "")).await.expect("room");
    }
    to_receiver.send(packet(PacketType::PacketStat)).await.expect("room");
    tokio::time::sleep(Duration::from_millis(300)).await;
    for i in 0..3000 {
        let begun = Packet { data: half.clone(), id: i, ..packet(PacketType::PacketData) };
        if to_receiver.send(begun).await.is_err() {
            break;
        }
    }
    drop(to_receiver);
    let result =
        tokio::time::timeout(Duration::from_secs(20), receiving).await.expect("ends").expect("no panic");
    assert!(matches!(result, Err(Error::Protocol(_))), "{result:?}");
    asked.await.expect("no panic");
}

/// Whatever a sender says, the transfer ends, and nothing outside is touched.
#[test]
fn any_sequence_of_packets_is_survived() {
    use proptest::prelude::*;
    let name =
        prop::sample::select(vec!["a", "b", "a/b", "a/c", "..", "a/../x", "/a", "up/x", "a/b/c", "up", ""]);
    let mode = prop::sample::select(vec![
        0o644,
        go_mode::DIR | 0o755,
        go_mode::SYMLINK | 0o777,
        go_mode::FIFO | 0o600,
        go_mode::DEVICE | 0o600,
        go_mode::IRREGULAR,
        u32::MAX,
    ]);
    let link = prop::sample::select(vec!["", "", "", "a", "../secret", "a/b"]);
    let stat =
        (name, mode, link, any::<i64>(), any::<i64>()).prop_map(|(path, mode, link, size, mod_time)| {
            let mut packet = told(path, mode, link);
            if let Some(stat) = &mut packet.stat {
                (stat.size, stat.mod_time) = (size, mod_time);
            }
            packet
        });
    let packet = prop_oneof![
        6 => stat,
        2 => Just(packet(PacketType::PacketStat)),
        3 => (0..4_u32, prop::sample::select(vec![&b""[..], b"x"])).prop_map(|(id, bytes)| data(id, bytes)),
        1 => (-1..7_i32).prop_map(|r#type| Packet { r#type, ..Packet::default() }),
    ];
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    proptest!(ProptestConfig::with_cases(200), |(packets in prop::collection::vec(packet, 0..12))| {
        let dirs = Dirs::new();
        std::fs::write(dirs.tmp.path().join("secret"), "outside").expect("write");
        symlink("..", dirs.to().join("up")).expect("symlink");
        let (result, _) = runtime.block_on(hostile(&dirs.to(), packets));
        drop(result);
        prop_assert_eq!(std::fs::read(dirs.tmp.path().join("secret")).expect("there"), b"outside");
        prop_assert_eq!(std::fs::read_dir(dirs.tmp.path()).expect("readdir").count(), 3);
    });
}

#[tokio::test]
async fn a_change_is_announced_once_and_before_it_is_made() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let dirs = Dirs::new();
    dirs.write("a", "1");
    dirs.write("b/c", "1");
    dirs.sync().await;
    let before = snapshot(&dirs.to());
    let count = Arc::new(AtomicUsize::new(0));
    let announced = || {
        let count = count.clone();
        let to = dirs.to();
        let before = before.clone();
        let announce: BeforeChange = Arc::new(move || {
            assert_eq!(snapshot(&to), before, "it has changed already");
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        ReceiveOptions { before_change: Some(announce), ..hashed() }
    };
    let (_, received) = transfer(&dirs.from(), &dirs.to(), Filter::default(), announced()).await;
    received.expect("received");
    assert_eq!(count.load(Ordering::SeqCst), 0, "nothing has changed");
    // A deletion comes first, then a new file and a change.
    std::fs::remove_file(dirs.from().join("a")).expect("remove");
    dirs.write("b/c", "22");
    dirs.write("b/d", "1");
    // While it cannot be announced, nothing changes.
    let refuse: BeforeChange = Arc::new(|| Err(std::io::Error::other("no")));
    let refusing = ReceiveOptions { before_change: Some(refuse), ..hashed() };
    let (_, received) = transfer(&dirs.from(), &dirs.to(), Filter::default(), refusing).await;
    assert!(received.expect_err("refused").to_string().contains("no"));
    assert_eq!(snapshot(&dirs.to()), before);
    let (_, received) = transfer(&dirs.from(), &dirs.to(), Filter::default(), announced()).await;
    received.expect("received");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(snapshot(&dirs.from()), snapshot(&dirs.to()));
}
