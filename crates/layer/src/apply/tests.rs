//! Layers, good and hostile, against a tree whose surroundings are watched.

use std::{
    fs,
    io::{Cursor, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use kiln_fstree::Root;
use tempfile::TempDir;

use super::{Applied, ApplyOptions, adopt_parents, apply};
use crate::{
    Error, LayerFormat, Result,
    tar::{Header, Kind, TarWriter, Timestamp},
};

/// Entries to come: name, kind, content or link target.
pub(crate) type Entry<'a> = (&'a str, Kind, &'a str);

pub(crate) fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for &(path, kind, data) in entries {
        let mut header = Header::new(kind, path);
        header.mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
        header.mtime = Timestamp::from_seconds(1_000_000);
        match kind {
            Kind::File => header.size = data.len() as u64,
            _ => header.link = data.into(),
        }
        tar.header(&header).expect("header");
        if kind == Kind::File {
            tar.write_all(data.as_bytes()).expect("content");
        }
    }
    tar.finish().expect("finish")
}

/// `outside/secret` beside `root/`, the tree.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().expect("a folder"));
        for name in ["root", "outside"] {
            fs::create_dir(place.0.path().join(name)).expect("a folder");
        }
        fs::write(place.0.path().join("outside/secret"), "secret").expect("a file");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("root").join(name)
    }

    fn root(&self) -> Root {
        Root::open(self.0.path().join("root")).expect("the root")
    }

    fn apply(&self, bytes: Vec<u8>, options: ApplyOptions) -> Result<Applied> {
        let result = apply(Cursor::new(bytes), &self.root(), &options);
        assert_eq!(fs::read(self.0.path().join("outside/secret")).expect("still there"), b"secret");
        assert_eq!(fs::read_dir(self.0.path().join("outside")).expect("still there").count(), 1);
        assert_eq!(fs::read_dir(self.0.path()).expect("still there").count(), 2);
        result
    }

    fn native(&self, entries: &[Entry<'_>]) -> Result<Applied> {
        self.apply(archive(entries), ApplyOptions::native())
    }

    fn overlay(&self, entries: &[Entry<'_>]) -> Result<Applied> {
        self.apply(archive(entries), ApplyOptions::overlay())
    }

    fn names(&self) -> Vec<String> {
        fn walk(path: &Path, base: &Path, into: &mut Vec<String>) {
            for entry in fs::read_dir(path).expect("a folder") {
                let path = entry.expect("an entry").path();
                into.push(path.strip_prefix(base).expect("below").display().to_string());
                if path.symlink_metadata().expect("stat").is_dir() {
                    walk(&path, base, into);
                }
            }
        }
        let base = self.path("");
        let mut names = Vec::new();
        walk(&base, &base, &mut names);
        names.sort();
        names
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn all_kinds_with_owners_modes_and_times() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mut tar = TarWriter::new(Vec::new());
    let mut add = |kind, path: &str, edit: &dyn Fn(&mut Header)| {
        let mut header = Header::new(kind, path);
        (header.mode, header.uid, header.gid, header.mtime.seconds) = (0o640, 1000, 1001, 1_234_567);
        edit(&mut header);
        tar.header(&header).expect("header");
        tar.write_all(&vec![b'x'; header.size as usize]).expect("content");
    };
    add(Kind::Directory, "d/", &|h| h.mode = 0o2751);
    add(Kind::File, "d/f", &|h| {
        (h.mode, h.size) = (0o4711, 700_000);
        h.set_xattr(b"user.color", b"blue".to_vec());
        h.set_xattr(b"trusted.overlay.opaque", b"y".to_vec());
    });
    add(Kind::Symlink, "d/l", &|h| h.link = b"../../outside".to_vec());
    add(Kind::HardLink, "h", &|h| {
        h.link = b"d/f".to_vec();
        h.mode = 0o4711;
    });
    add(Kind::Fifo, "p", &|_| {});
    add(Kind::CharDevice, "null", &|h| h.device = (1, 3));
    let bytes = tar.finish().expect("finish");
    let applied = place.apply(bytes.clone(), ApplyOptions::overlay()).expect("apply");
    assert_eq!(applied.diff_id, kiln_oci::Digest::sha256(&bytes));
    assert_eq!((applied.diff_size, applied.size, applied.implied.len()), (bytes.len() as u64, 700_000, 0));

    let stat = |name: &str| fs::symlink_metadata(place.path(name)).expect("stat");
    for name in ["d", "d/f", "d/l", "h", "p", "null"] {
        let stat = stat(name);
        assert_eq!((stat.uid(), stat.gid(), stat.mtime()), (1000, 1001, 1_234_567), "{name}");
    }
    assert_eq!(stat("d").mode() & 0o7777, 0o2751);
    assert_eq!(stat("d/f").mode() & 0o7777, 0o4711);
    assert_eq!((stat("h").ino(), stat("h").nlink()), (stat("d/f").ino(), 2));
    assert_eq!((stat("null").rdev(), stat("null").mode() & 0o777), (rustix::fs::makedev(1, 3), 0o640));
    assert!(stat("p").file_type().is_fifo());
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(place.path("d/f"), "user.color", &mut value).expect("attribute");
    assert_eq!(&value[..length], b"blue");
    assert!(rustix::fs::getxattr(place.path("d/f"), "trusted.overlay.opaque", &mut value).is_err());
}

#[test]
fn names_never_leave_the_root() {
    let place = Place::new();
    place
        .native(&[
            ("../outside/a", Kind::File, "1"),
            ("/etc/b", Kind::File, "2"),
            ("x/../../../../c", Kind::File, "3"),
            ("./d/./e//f", Kind::File, "4"),
            ("./", Kind::Directory, ""),
            ("..", Kind::Directory, ""),
        ])
        .expect("apply");
    assert_eq!(place.names(), ["c", "d", "d/e", "d/e/f", "etc", "etc/b", "outside", "outside/a"]);
}

#[test]
fn links_are_followed_inside_the_root_only() {
    let place = Place::new();
    let outside = place.0.path().join("outside");
    let absolute = outside.to_str().expect("a name");
    place
        .native(&[
            ("up", Kind::Symlink, "../outside"),
            ("abs", Kind::Symlink, absolute),
            ("up/one", Kind::File, "1"),
            ("abs/two", Kind::File, "2"),
            ("loop", Kind::Symlink, "loop"),
            ("here", Kind::Symlink, "/there"),
            ("there/", Kind::Directory, ""),
            ("here/three", Kind::File, "3"),
        ])
        .expect("apply");
    // A dangling link leads to a folder of that name in the tree.
    assert!(place.path("outside/one").is_file() && place.path("there/three").is_file());
    assert!(place.path(&absolute[1..]).join("two").is_file());
    assert!(place.native(&[("loop/x", Kind::File, "")]).is_err());
    // A link itself is replaced, not written through.
    place.native(&[("up", Kind::File, "now a file")]).expect("apply");
    assert_eq!(fs::read(place.path("up")).expect("file"), b"now a file");
}

#[test]
fn hard_links_stay_inside() {
    let place = Place::new();
    for target in ["/outside/secret", "../outside/secret", "../../etc/passwd", "missing"] {
        let error = place.native(&[("h", Kind::HardLink, target)]).expect_err("no target").to_string();
        assert!(error.contains(target) && error.starts_with("unpack h:"), "{error}");
    }
    place.native(&[("l", Kind::Symlink, "../outside/secret"), ("h", Kind::HardLink, "l")]).expect("apply");
    assert!(place.path("h").is_symlink());
    place.native(&[("f", Kind::File, "x"), ("f", Kind::HardLink, "f")]).expect_err("a link to itself");
}

#[test]
fn whiteouts_on_a_native_tree() {
    let place = Place::new();
    place
        .native(&[
            ("a/b/c", Kind::File, "1"),
            ("gone", Kind::File, "2"),
            ("full/old", Kind::File, "3"),
            ("full/deep/older", Kind::File, "4"),
        ])
        .expect("lower");
    place
        .native(&[
            (".wh.gone", Kind::File, ""),
            ("a/.wh.b", Kind::File, ""),
            ("full/deep/new", Kind::File, "5"),
            ("full/.wh..wh..opq", Kind::File, ""),
            (".wh..wh.plnk", Kind::File, ""),
            ("nowhere/.wh.x", Kind::File, ""),
            ("kept", Kind::File, "6"),
            (".wh.kept", Kind::File, ""),
        ])
        .expect("upper");
    assert_eq!(place.names(), ["a", "full", "full/deep", "full/deep/new", "kept"]);
}

#[test]
fn whiteouts_cannot_reach_up() {
    for name in [".wh..", ".wh...", ".wh.", "a/.wh..."] {
        for options in [ApplyOptions::native(), ApplyOptions::overlay()] {
            let place = Place::new();
            let result = place.apply(archive(&[(name, Kind::File, "")]), options);
            assert!(matches!(result, Err(Error::Archive(_))), "{name}");
        }
    }
    let place = Place::new();
    let entries = [
        ("l", Kind::Symlink, "../outside"),
        ("l/.wh.secret", Kind::File, ""),
        ("l/.wh..wh..opq", Kind::File, ""),
    ];
    place.native(&entries).expect("nothing to delete inside");
}

#[test]
fn whiteouts_for_overlayfs() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place
        .overlay(&[
            ("d/", Kind::Directory, ""),
            ("d/.wh.x", Kind::File, ""),
            ("d/.wh..wh..opq", Kind::File, ""),
            (".wh.again", Kind::File, ""),
            ("again/", Kind::Directory, ""),
            ("made", Kind::File, "1"),
            (".wh.made", Kind::File, ""),
        ])
        .expect("apply");
    let stat = fs::symlink_metadata(place.path("d/x")).expect("stat");
    assert!(stat.file_type().is_char_device() && stat.rdev() == 0);
    for opaque in ["d", "again"] {
        let mut value = [0; 4];
        let length =
            rustix::fs::getxattr(place.path(opaque), "trusted.overlay.opaque", &mut value).expect("mark");
        assert_eq!(&value[..length], b"y");
    }
    assert!(place.path("made").is_file());
}

#[test]
fn kinds_replace_one_another_but_folders_merge() {
    let place = Place::new();
    place
        .native(&[("x/y/z", Kind::File, "1"), ("f", Kind::File, "2"), ("k/in", Kind::File, "3")])
        .expect("first");
    fs::set_permissions(place.path("k"), fs::Permissions::from_mode(0o700)).expect("mode");
    place
        .native(&[
            ("x", Kind::File, "now a file"),
            ("f", Kind::Directory, ""),
            ("f/g", Kind::File, "4"),
            ("k", Kind::Directory, ""),
        ])
        .expect("second");
    assert_eq!(place.names(), ["f", "f/g", "k", "k/in", "x"]);
    assert_eq!(fs::metadata(place.path("k")).expect("stat").mode() & 0o777, 0o755);
}

#[test]
fn a_folder_replaced_by_a_link_is_not_remembered() {
    let place = Place::new();
    place
        .native(&[
            ("a/one", Kind::File, "1"),
            ("b/", Kind::Directory, ""),
            ("a", Kind::Symlink, "b"),
            ("a/two", Kind::File, "2"),
        ])
        .expect("apply");
    assert_eq!(place.names(), ["a", "b", "b/two"]);
}

#[test]
fn parents_without_an_entry_are_told_and_adopted() {
    if !is_root() {
        return;
    }
    let (lower, place) = (Place::new(), Place::new());
    lower.native(&[("etc/deep/", Kind::Directory, "")]).expect("lower");
    fs::set_permissions(lower.path("etc"), fs::Permissions::from_mode(0o1700)).expect("mode");
    std::os::unix::fs::chown(lower.path("etc"), Some(7), Some(8)).expect("owner");
    let applied = place
        .overlay(&[
            ("etc/deep/f", Kind::File, "1"),
            ("etc/deep", Kind::Directory, ""),
            ("new/f", Kind::File, "2"),
        ])
        .expect("apply");
    assert_eq!(applied.implied, [PathBuf::from("etc"), PathBuf::from("new")]);
    adopt_parents(&place.root(), &applied.implied, &lower.root()).expect("adopt");
    let stat = fs::metadata(place.path("etc")).expect("stat");
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o1700, 7, 8));
    assert_eq!(fs::metadata(place.path("new")).expect("stat").mode() & 0o7777, 0o755);
}

#[test]
fn bombs_and_broken_streams() {
    let bytes = archive(&[("a", Kind::File, "0123456789"), ("b", Kind::File, "0123456789")]);
    let place = Place::new();
    let options = ApplyOptions { max_size: Some(15), ..ApplyOptions::native() };
    assert!(matches!(place.apply(bytes.clone(), options), Err(Error::Limit { limit: 15, .. })));
    let error = place.apply(bytes[..700].to_vec(), ApplyOptions::native()).expect_err("truncated");
    assert!(error.to_string().contains("EOF"), "{error}");
    let mut packed = zstd::encode_all(bytes.as_slice(), 1).expect("zstd");
    place.apply(packed.clone(), ApplyOptions::native()).expect("zstd");
    packed.truncate(packed.len() - 5);
    assert!(place.apply(packed, ApplyOptions::native()).is_err());
    assert!(place.apply(b"this is no tar".repeat(100), ApplyOptions::native()).is_err());
    let long = "n/".repeat(3000);
    assert!(place.native(&[(&long, Kind::File, "")]).is_err());
}

#[test]
fn a_windows_layer_is_its_files() {
    let place = Place::new();
    let bytes = archive(&[
        ("Hives", Kind::Directory, ""),
        ("Hives/System", Kind::File, "registry"),
        ("Files", Kind::Directory, ""),
        ("Files/app/x.exe", Kind::File, "1"),
        ("Files/app/y.exe", Kind::HardLink, "Files/app/x.exe"),
        ("Files/.wh.gone", Kind::File, ""),
    ]);
    let options = ApplyOptions { format: LayerFormat::Windows, ..ApplyOptions::native() };
    place.apply(bytes, options).expect("apply");
    assert_eq!(place.names(), ["app", "app/x.exe", "app/y.exe"]);
}
