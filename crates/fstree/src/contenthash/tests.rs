use super::*;
use crate::diffcopy::{self, ReceiveOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn tree() -> (tempfile::TempDir, Root) {
    let tmp = tempfile::tempdir().expect("temporary folder");
    let at = |name: &str| tmp.path().join(name);
    for dir in ["d0/d1", "d2", "a"] {
        std::fs::create_dir_all(at(dir)).expect("mkdir");
    }
    for (file, data) in
        [("foo", "data0"), ("d0/bar", "data1"), ("d0/d1/def", "data2"), ("d2/x.go", "go"), ("a.b", "dot")]
    {
        std::fs::write(at(file), data).expect("write");
    }
    symlink("foo", at("link")).expect("symlink");
    symlink("/d0", at("d2/up")).expect("symlink");
    symlink("nowhere", at("dangling")).expect("symlink");
    for path in ["foo", "d0/bar", "d0/d1/def", "d2/x.go", "a.b"] {
        std::fs::set_permissions(at(path), std::fs::Permissions::from_mode(0o644)).expect("chmod");
    }
    for path in ["", "d0", "d0/d1", "d2", "a"] {
        std::fs::set_permissions(at(path), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let root = Root::open(tmp.path()).expect("open");
    (tmp, root)
}

/// The same by the words of the module's documentation, in the simplest way.
fn by_hand(path: &Path) -> String {
    let meta = std::fs::symlink_metadata(path).expect("lstat");
    let header = |kind: char, size: u64, link: &str| {
        let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
        format!(
            "namemode{mode}uid{uid}gid{gid}size{size}typeflag{kind}linkname{link}unamegnamedevmajor0devminor0"
        )
    };
    if meta.is_symlink() {
        let target = std::fs::read_link(path).expect("readlink");
        return Digest::sha256(header('2', 0, target.to_str().expect("utf-8"))).to_string();
    }
    if meta.is_file() {
        let data = std::fs::read_to_string(path).expect("read");
        return Digest::sha256(header('0', meta.len(), "") + &data).to_string();
    }
    let own = Digest::sha256(header('5', 0, ""));
    let mut names: Vec<_> =
        std::fs::read_dir(path).expect("readdir").map(|e| e.expect("entry").file_name()).collect();
    names.sort();
    let entries = names.iter().map(|n| format!("\0{}{}", n.to_str().expect("utf-8"), by_hand(&path.join(n))));
    Digest::sha256(format!("\0{own}{}", entries.collect::<String>())).to_string()
}

fn sum(root: &Root, path: &str, options: &ChecksumOptions) -> String {
    HashCache::new().checksum(root, path, options).map_or_else(|e| e.to_string(), |d| d.to_string())
}

fn plain() -> ChecksumOptions {
    ChecksumOptions::default()
}

#[test]
fn single_paths() {
    let (tmp, root) = tree();
    for path in ["foo", "d0/bar", "d0", "d0/d1", "link", "dangling", "", "a"] {
        assert_eq!(sum(&root, path, &plain()), by_hand(&tmp.path().join(path)), "{path}");
        assert_eq!(sum(&root, &format!("/./{path}/"), &plain()), by_hand(&tmp.path().join(path)), "{path}");
    }
    assert_eq!(sum(&root, "d2/up/bar", &plain()), sum(&root, "d0/bar", &plain()));
    assert_eq!(sum(&root, "d2/up/../foo", &plain()), "\"/d2/foo\": not found");
    assert_eq!(sum(&root, "missing", &plain()), "\"/missing\": not found");
    assert_eq!(sum(&root, "foo/x", &plain()), "\"/foo/x\": not found");
}

#[test]
fn links_at_the_end() {
    let (_tmp, root) = tree();
    let follow = ChecksumOptions { follow_links: true, ..plain() };
    assert_eq!(sum(&root, "link", &follow), sum(&root, "foo", &plain()));
    assert_ne!(sum(&root, "link", &plain()), sum(&root, "foo", &plain()));
    assert_eq!(sum(&root, "d2/up", &follow), sum(&root, "d0", &plain()));
    assert!(sum(&root, "dangling", &follow).contains("not found"));
}

#[test]
fn loops_end() {
    let (tmp, root) = tree();
    symlink("l2", tmp.path().join("l1")).expect("symlink");
    symlink("l1", tmp.path().join("l2")).expect("symlink");
    let follow = ChecksumOptions { follow_links: true, ..plain() };
    assert_eq!(sum(&root, "l1", &follow), "too many links");
    assert_eq!(sum(&root, "l1/x", &plain()), "too many links");
}

fn list(entries: &[(&str, &str)]) -> String {
    Digest::sha256(
        entries
            .iter()
            .map(|(path, digest)| format!("{}{digest}", path.replace('/', "\0")))
            .collect::<String>(),
    )
    .to_string()
}

#[test]
fn wildcards() {
    let (tmp, root) = tree();
    let wild = ChecksumOptions { wildcard: true, ..plain() };
    let file = |path: &str| by_hand(&tmp.path().join(path));
    let header = |path: &str| {
        let meta = std::fs::metadata(tmp.path().join(path)).expect("stat");
        let text = format!(
            "namemode{}uid{}gid{}size0typeflag5linknameunamegnamedevmajor0devminor0",
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid()
        );
        Digest::sha256(text).to_string()
    };
    assert_eq!(sum(&root, "f*", &wild), list(&[("/foo", &file("foo"))]));
    assert_eq!(sum(&root, "foo", &wild), file("foo"));
    assert_eq!(sum(&root, "nothing*", &wild), Digest::sha256("").to_string());
    assert_eq!(
        sum(&root, "d0*", &wild),
        list(&[
            ("/d0", &header("d0")),
            ("/d0/bar", &file("d0/bar")),
            ("/d0/d1", &header("d0/d1")),
            ("/d0/d1/def", &file("d0/d1/def")),
        ])
    );
    // The plain part may lead through links; names are those that were asked for, without that part.
    assert_eq!(sum(&root, "d2/up/b*", &wild), list(&[("/bar", &file("d0/bar"))]));
    // A link that matches is followed if asked for.
    let follow = ChecksumOptions { follow_links: true, ..wild };
    assert_eq!(sum(&root, "lin?", &follow), list(&[("/link", &file("foo"))]));
    let malformed = ChecksumOptions { wildcard: true, ..plain() };
    assert!(sum(&root, "[", &malformed).contains("syntax error"));
}

#[test]
fn includes_and_excludes() {
    let (tmp, root) = tree();
    let file = |path: &str| by_hand(&tmp.path().join(path));
    let options = |include: &[&str], exclude: &[&str]| ChecksumOptions {
        include: include.iter().map(|p| (*p).to_owned()).collect(),
        exclude: exclude.iter().map(|p| (*p).to_owned()).collect(),
        ..plain()
    };
    // The header of the root does not count, those of folders on the way do.
    let mut cache = HashCache::new();
    let header = |cache: &mut HashCache, path: &str| {
        cache.checksum(&root, path, &plain()).expect("sum");
        match cache.root.get(path.as_bytes()) {
            Some(Node::Dir(folder)) => spelled(folder.header.expect("known")).to_string(),
            other => panic!("{other:?}"),
        }
    };
    let (d0, d1, d2) = (header(&mut cache, "d0"), header(&mut cache, "d0/d1"), header(&mut cache, "d2"));
    assert_eq!(
        sum(&root, "/", &options(&["**/def", "d2/*.go"], &[])),
        list(&[
            ("/d0", &d0),
            ("/d0/d1", &d1),
            ("/d0/d1/def", &file("d0/d1/def")),
            ("/d2", &d2),
            ("/d2/x.go", &file("d2/x.go"))
        ])
    );
    assert_eq!(
        sum(&root, "/d0", &options(&[], &["bar"])),
        list(&[("\0", &d0), ("/d1", &d1), ("/d1/def", &file("d0/d1/def"))])
    );
    assert_eq!(sum(&root, "/d0", &options(&["x"], &[])), Digest::sha256("").to_string());
    assert_eq!(sum(&root, "/missing", &options(&["x"], &[])), Digest::sha256("").to_string());
    let required = ChecksumOptions { required: vec!["/d0/bar".to_owned()], ..options(&["d1"], &[]) };
    assert_eq!(sum(&root, "/d0", &required), "\"/d0/bar\": not found");
    let required = ChecksumOptions { required: vec!["/d0/d1".to_owned()], ..options(&["d1"], &[]) };
    assert!(sum(&root, "/d0", &required).starts_with("sha256:"));
}

#[test]
fn what_is_known_is_not_read_again() {
    struct Never;
    impl Tree for Never {
        fn root(&self) -> Result<&Root> {
            Err(Error::Refused("mounted".to_owned()))
        }
    }
    let (_tmp, root) = tree();
    let mut cache = HashCache::new();
    let first = cache.checksum(&root, "d0", &plain()).expect("sum");
    assert!(cache.is_dirty());
    let mut cache = HashCache::decode(&cache.encode()).expect("ours");
    assert!(!cache.is_dirty());
    assert_eq!(cache.checksum(&Never, "d0", &plain()).expect("known"), first);
    assert!(!cache.is_dirty());
    assert!(cache.checksum(&Never, "d2", &plain()).is_err());
    assert!(cache.checksum(&Never, "missing", &plain()).expect_err("missing").is_not_found());
}

#[test]
fn many_files_in_parallel_equal_one_by_one() {
    let (tmp, root) = tree();
    for i in 0..500 {
        std::fs::write(tmp.path().join(format!("a/f{i}")), format!("{i}")).expect("write");
    }
    assert_eq!(sum(&root, "/", &plain()), by_hand(tmp.path()));
}

/// Hashes that came with a transfer are those of the files on disk, but for the header of the root.
#[tokio::test]
async fn transfers_carry_their_hashes() {
    use futures::StreamExt as _;
    use tokio_stream::wrappers::ReceiverStream;
    type Wire = std::result::Result<kiln_proto::fsutil::Packet, std::convert::Infallible>;
    let (from, source) = tree();
    std::fs::hard_link(from.path().join("foo"), from.path().join("hard")).expect("link");
    drop(source);
    let to = tempfile::tempdir().expect("temporary folder");
    let mut cache = HashCache::of_empty_tree();
    for round in 0..3 {
        match round {
            1 => std::fs::write(from.path().join("d0/bar"), "edited").expect("write"),
            2 => {
                std::fs::remove_dir_all(from.path().join("d0/d1")).expect("remove");
                std::fs::write(from.path().join("d0/d1"), "file now").expect("write");
                std::fs::remove_file(from.path().join("link")).expect("remove");
                std::fs::create_dir(from.path().join("link")).expect("mkdir");
            }
            _ => {}
        }
        let (a, b) = tokio::sync::mpsc::channel(64);
        let (c, d) = tokio::sync::mpsc::channel(64);
        let trees = vec![diffcopy::Tree {
            at: None,
            root: Root::open(from.path()).expect("open"),
            filter: crate::Filter::default(),
            extra: Vec::new(),
        }];
        let options = ReceiveOptions { hash: true, ..ReceiveOptions::default() };
        let (sent, received) = tokio::join!(
            diffcopy::send(trees, ReceiverStream::new(d).map(Wire::Ok), a, None),
            diffcopy::receive(
                Root::open(to.path()).expect("open"),
                ReceiverStream::new(b).map(Wire::Ok),
                c,
                options
            )
        );
        sent.expect("sent");
        cache.apply(&received.expect("received").changes);
        let root = Root::open(to.path()).expect("open");
        for path in ["foo", "hard", "d0", "d0/bar", "link", "a", "d2", "a.b"] {
            let known = cache.checksum(&root, path, &plain()).expect(path).to_string();
            let expected = if path == "hard" { "foo" } else { path };
            assert_eq!(known, by_hand(&to.path().join(expected)), "{path} in round {round}");
        }
        // The root's header is the hash of nothing.
        let nothing = Digest::sha256("").to_string();
        let mut names: Vec<_> = root.list("/").expect("list").into_iter().map(|e| e.name).collect();
        names.sort();
        let entries =
            names.iter().map(|n| format!("\0{}{}", n.to_str().expect("utf-8"), by_hand(&to.path().join(n))));
        let whole = Digest::sha256(format!("\0{nothing}{}", entries.collect::<String>()));
        assert_eq!(cache.checksum(&root, "/", &plain()).expect("sum"), whole);
        // The same when the hashes of a transfer were lost.
        let mut lost = HashCache::of_transferred_tree();
        assert_eq!(lost.checksum(&root, "/", &plain()).expect("sum"), whole);
        cache = HashCache::decode(&cache.encode()).expect("ours");
    }
}

fn listed(cache: &mut HashCache, root: &Root, path: &str, options: &ChecksumOptions) -> Vec<String> {
    cache.checksum(root, path, options).expect("checksum");
    let listing = cache.listing(root, path, options, 100).expect("listing");
    assert!(!listing.truncated);
    listing.entries.into_iter().map(|entry| entry.path).collect()
}

#[test]
fn a_list_names_what_the_checksum_is_made_of() {
    let (tmp, root) = tree();
    let mut cache = HashCache::new();
    assert_eq!(listed(&mut cache, &root, "foo", &plain()), ["foo"]);
    assert_eq!(listed(&mut cache, &root, "/d0/", &plain()), ["d0/", "d0/bar", "d0/d1/", "d0/d1/def"]);
    assert_eq!(
        listed(&mut cache, &root, "", &plain()),
        [
            "a.b",
            "a/",
            "d0/",
            "d0/bar",
            "d0/d1/",
            "d0/d1/def",
            "d2/",
            "d2/up",
            "d2/x.go",
            "dangling",
            "foo",
            "link"
        ]
    );
    let wild = ChecksumOptions { wildcard: true, ..plain() };
    assert_eq!(listed(&mut cache, &root, "d*/*.go", &wild), ["d2/x.go"]);
    let without = ChecksumOptions { exclude: vec!["d1".into()], ..plain() };
    assert_eq!(listed(&mut cache, &root, "d0", &without), ["d0/", "d0/bar"]);

    let sums = |cache: &mut HashCache| {
        cache.checksum(&root, "d0", &plain()).expect("checksum");
        cache.listing(&root, "d0", &plain(), 100).expect("listing").entries
    };
    let before = sums(&mut HashCache::new());
    std::fs::write(tmp.path().join("d0/bar"), "other").expect("write");
    let after = sums(&mut HashCache::new());
    let changed: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, _)| &a.path).collect();
    assert_eq!(changed, ["d0/bar"]);
}

#[test]
fn a_list_is_no_longer_than_asked_for() {
    let (_tmp, root) = tree();
    let mut cache = HashCache::new();
    cache.checksum(&root, "", &plain()).expect("checksum");
    let listing = cache.listing(&root, "", &plain(), 3).expect("listing");
    assert!(listing.truncated);
    assert_eq!(listing.entries.len(), 3);
    assert!(!cache.listing(&root, "", &plain(), 12).expect("listing").truncated);
}
