//! Trees that differ, and the entries that tell so.

use std::{
    fs,
    io::{Cursor, Read},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use kiln_fstree::Root;
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use tempfile::TempDir;

use super::{Archive, DiffOptions, Times, clamp_times, repack, trees, upper};
use crate::{
    ApplyOptions, Compression, LayerFormat, Settings, apply, decompress,
    tar::{Header, Kind, TarReader},
};

struct Trees(TempDir);

impl Trees {
    fn new() -> Self {
        let trees = Trees(tempfile::tempdir().expect("a folder"));
        for name in ["lower", "upper"] {
            fs::create_dir(trees.0.path().join(name)).expect("a folder");
        }
        trees
    }

    /// A file with its content and a whole-second time, and the folders above it.
    fn file(&self, path: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, content).expect("a file");
        set_time(&path, 1_000_000_000, 0);
        path
    }

    fn whiteout(&self, path: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).expect("whiteout");
    }

    fn root(&self, name: &str) -> Root {
        Root::open(self.0.path().join(name)).expect("root")
    }

    fn upper(&self) -> Vec<String> {
        let (blob, _) =
            upper(&self.root("upper"), Some(&self.root("lower")), Vec::new(), &plain()).expect("diff");
        rows(blob)
    }

    fn trees(&self) -> Vec<String> {
        let (blob, _) =
            trees(Some(&self.root("lower")), &self.root("upper"), Vec::new(), &plain()).expect("diff");
        rows(blob)
    }
}

fn plain() -> DiffOptions {
    DiffOptions { settings: Compression::Uncompressed.into(), ..DiffOptions::default() }
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let spec = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: spec, last_modification: spec };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("times");
}

fn entries(blob: Vec<u8>) -> Vec<(Header, Vec<u8>)> {
    let mut tar = TarReader::new(decompress(Cursor::new(blob)).expect("stream"));
    let mut entries = Vec::new();
    while let Some(header) = tar.next_entry().expect("entry") {
        let mut content = Vec::new();
        tar.read_to_end(&mut content).expect("content");
        entries.push((header, content));
    }
    entries
}

/// `path content` or `path -> target`.
fn rows(blob: Vec<u8>) -> Vec<String> {
    let row = |(header, content): (Header, Vec<u8>)| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match header.kind {
            Kind::Directory => text(&header.path),
            Kind::File => format!("{} {}", text(&header.path), text(&content)).trim_end().to_owned(),
            Kind::HardLink => format!("{} = {}", text(&header.path), text(&header.link)),
            _ => format!("{} -> {}", text(&header.path), text(&header.link)),
        }
    };
    entries(blob).into_iter().map(row).collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn an_upper_folder_alone() {
    let trees = Trees::new();
    trees.file("upper/b/z", "1");
    trees.file("upper/b.txt", "2");
    symlink("b/z", trees.0.path().join("upper/a")).expect("link");
    let (blob, written) = upper(&trees.root("upper"), None, Vec::new(), &plain()).expect("diff");
    assert_eq!(written.diff_id, written.digest);
    assert_eq!(rows(blob), ["a -> b/z", "b/", "b/z 1", "b.txt 2"]);
}

#[test]
fn whiteouts_only_of_what_was_there() {
    if !is_root() {
        return;
    }
    let trees = Trees::new();
    trees.file("lower/d/gone", "1");
    trees.whiteout("upper/d/gone");
    trees.whiteout("upper/d/never");
    trees.whiteout("upper/never");
    assert_eq!(trees.upper(), ["d/", "d/.wh.gone"]);
    let (blob, _) =
        upper(&trees.root("upper"), Some(&trees.root("lower")), Vec::new(), &plain()).expect("diff");
    let (header, _) = &entries(blob)[1];
    assert_eq!((header.mode, header.mtime.seconds), (0, 0));
}

#[test]
fn copied_up_without_a_change_is_not_in_the_layer() {
    let trees = Trees::new();
    for side in ["lower", "upper"] {
        trees.file(&format!("{side}/d/same"), "1");
        trees.file(&format!("{side}/d/mode"), "2");
        symlink("x", trees.0.path().join(side).join("d/link")).expect("link");
        set_time(&trees.0.path().join(side).join("d/link"), 5, 0);
    }
    trees.file("lower/d/content", "3");
    trees.file("upper/d/content", "4");
    assert_eq!(trees.upper(), ["d/", "d/content 4"]);
    fs::set_permissions(trees.0.path().join("upper/d/mode"), fs::Permissions::from_mode(0o600))
        .expect("mode");
    assert_eq!(trees.upper(), ["d/", "d/content 4", "d/mode 2"]);
    set_time(&trees.file("upper/d/content", "3"), 1_000_000_000, 5);
    assert_eq!(trees.upper(), ["d/", "d/content 3", "d/mode 2"]);
    assert_eq!(trees.trees(), ["d/", "d/content 3", "d/mode 2"]);
}

#[test]
fn an_opaque_folder_becomes_whiteouts() {
    if !is_root() {
        return;
    }
    let trees = Trees::new();
    trees.file("lower/d/gone/deep", "1");
    trees.file("lower/d/kept", "2");
    trees.file("lower/d/sub/old", "3");
    trees.file("upper/d/fresh", "4");
    trees.file("upper/d/kept", "2");
    trees.file("upper/d/sub/new", "5");
    let folder = trees.0.path().join("upper/d");
    rustix::fs::setxattr(&folder, "trusted.overlay.opaque", b"y", XattrFlags::empty()).expect("mark");
    trees.whiteout("upper/d/stale");
    assert_eq!(trees.upper(), ["d/", "d/fresh 4", "d/.wh.gone", "d/sub/", "d/sub/new 5", "d/sub/.wh.old"]);
}

#[test]
fn kinds_that_change() {
    let trees = Trees::new();
    trees.file("lower/dir/in", "1");
    trees.file("lower/file", "2");
    trees.file("lower/other", "3");
    trees.file("upper/dir", "4");
    trees.file("upper/file/in", "5");
    assert_eq!(trees.trees(), ["dir 4", "file/", "file/in 5", ".wh.other"]);
}

#[test]
fn hard_links_by_names_within_the_layer() {
    let trees = Trees::new();
    let first = trees.file("upper/h/b", "data");
    fs::hard_link(&first, trees.0.path().join("upper/h/a")).expect("link");
    fs::hard_link(&first, trees.0.path().join("upper/z")).expect("link");
    let alone = trees.file("outside", "x");
    fs::hard_link(&alone, trees.0.path().join("upper/alone")).expect("link");
    assert_eq!(trees.upper(), ["alone x", "h/", "h/a data", "h/b = h/a", "z = h/a"]);
}

#[test]
fn a_new_name_of_an_unchanged_file() {
    let trees = Trees::new();
    trees.file("lower/a/old", "data");
    let old = trees.file("upper/a/old", "data");
    fs::hard_link(&old, trees.0.path().join("upper/new")).expect("link");
    fs::hard_link(&old, trees.0.path().join("upper/newer")).expect("link");
    assert_eq!(trees.trees(), ["new data", "a/", "a/old = new", "newer = new"]);
    assert_eq!(trees.upper(), ["new data", "newer = new"]);
}

#[test]
fn metadata_goes_into_the_header() {
    if !is_root() {
        return;
    }
    let trees = Trees::new();
    let file = trees.file("upper/f", "x");
    std::os::unix::fs::chown(&file, Some(1000), Some(2_097_152)).expect("owner");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).expect("mode");
    let mut capability = vec![0; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 0x20);
    rustix::fs::setxattr(&file, "security.capability", &capability, XattrFlags::empty()).expect("capability");
    rustix::fs::setxattr(&file, "user.a", b"b", XattrFlags::empty()).expect("attribute");
    set_time(&file, 1_600_000_000, 999);
    let device = rustix::fs::makedev(7, 300);
    rustix::fs::mknodat(CWD, trees.0.path().join("upper/dev"), FileType::BlockDevice, Mode::empty(), device)
        .expect("dev");
    let (blob, _) = upper(&trees.root("upper"), None, Vec::new(), &plain()).expect("diff");
    let found = entries(blob);
    assert_eq!((found[0].0.kind, found[0].0.device), (Kind::BlockDevice, (7, 300)));
    let header = &found[1].0;
    assert_eq!((header.uid, header.gid, header.mode), (1000, 2_097_152, 0o4755));
    assert_eq!((header.mtime.seconds, header.mtime.nanoseconds), (1_600_000_000, 0));
    assert_eq!(header.xattrs().collect::<Vec<_>>(), [(&b"security.capability"[..], &capability[..])]);
}

#[test]
fn an_epoch_bounds_times() {
    let trees = Trees::new();
    trees.file("upper/new", "x");
    set_time(&trees.file("upper/old", "y"), 50, 0);
    let options = DiffOptions { times: Times::NotAfter(100), ..plain() };
    let (blob, written) = upper(&trees.root("upper"), None, Vec::new(), &options).expect("diff");
    let times = |blob| entries(blob).iter().map(|(h, _)| h.mtime.seconds).collect::<Vec<_>>();
    assert_eq!(times(blob), [100, 50]);
    let (later, _) = upper(&trees.root("upper"), None, Vec::new(), &DiffOptions::default()).expect("diff");
    let (clamped, again) =
        clamp_times(Cursor::new(later.clone()), Vec::new(), options.settings, 100).expect("clamp");
    assert_eq!(again, written);
    assert_eq!(times(clamped), [100, 50]);
    let (_, unpacked) =
        repack(Cursor::new(later), Vec::new(), Settings::from(Compression::Zstd)).expect("repack");
    assert_eq!(unpacked.diff_size, written.diff_size);
}

#[test]
fn windows_layers_have_their_own_form() {
    let trees = Trees::new();
    trees.file("upper/app/x.exe", "1");
    let options = DiffOptions { format: LayerFormat::Windows, ..plain() };
    let (blob, _) = upper(&trees.root("upper"), None, Vec::new(), &options).expect("diff");
    assert_eq!(rows(blob.clone()), ["Hives", "Files", "Files/app/", "Files/app/x.exe 1"]);
    let target = tempfile::tempdir().expect("a folder");
    let root = Root::open(target.path()).expect("root");
    let options = ApplyOptions { format: LayerFormat::Windows, ..ApplyOptions::overlay() };
    apply(Cursor::new(blob), &root, &options).expect("apply");
    assert_eq!(fs::read(target.path().join("app/x.exe")).expect("file"), b"1");
}

#[test]
fn files_of_one_moment_are_told_apart() {
    // As two steps that run at once write them.
    let trees = Trees::new();
    for (name, content) in [("lower/f", "old"), ("upper/f", "new"), ("lower/same", "x"), ("upper/same", "x")]
    {
        set_time(&trees.file(name, content), 1_000_000_000, 123_456_789);
    }
    for (name, target) in [("lower/l", "a"), ("upper/l", "b")] {
        let link = trees.0.path().join(name);
        symlink(target, &link).expect("link");
        set_time(&link, 1_000_000_000, 123_456_789);
    }
    assert_eq!(trees.upper(), ["f new", "l -> b"]);
    // Whole trees are not read for that.
    assert_eq!(trees.trees(), ["l -> b"]);
}

#[test]
fn a_layer_unpacked_and_written_again_is_the_same() {
    let trees = Trees::new();
    let long = format!("upper/{}/{}", "d".repeat(150), "f".repeat(200));
    fs::hard_link(trees.file(&long, "long"), trees.0.path().join("upper/link")).expect("link");
    trees.file("upper/big", &"0123456789".repeat(300_000));
    symlink("d".repeat(120), trees.0.path().join("upper/s")).expect("link");
    let write = |path: &Path| {
        upper(&Root::open(path).expect("root"), None, Vec::new(), &DiffOptions::default()).expect("diff")
    };
    let (blob, written) = write(&trees.0.path().join("upper"));
    let target = tempfile::tempdir().expect("a folder");
    let root = Root::open(target.path()).expect("root");
    let applied = apply(Cursor::new(blob), &root, &ApplyOptions::overlay()).expect("apply");
    assert_eq!(applied.diff_id, written.diff_id);
    assert_eq!(write(target.path()).1, written);
    assert_eq!(fs::metadata(target.path().join("link")).expect("stat").nlink(), 2);
}

#[test]
fn an_archive_of_trees() {
    let trees = Trees::new();
    let file = trees.file("upper/d/f", "x");
    fs::hard_link(&file, trees.0.path().join("upper/link")).expect("link");
    let has_xattrs = rustix::fs::setxattr(&file, "user.a", b"b", XattrFlags::empty()).is_ok();
    let mut archive = Archive::new(Vec::new());
    archive.folder("linux_arm64", 5).expect("folder");
    archive.tree("linux_arm64", &trees.root("upper"), Times::Set(7)).expect("tree");
    archive.file("linux_arm64/extra.json", 0o600, 7, b"{}").expect("file");
    archive.tree("", &trees.root("lower"), Times::Keep).expect("tree");
    let blob = archive.finish().expect("finish");
    let expected =
        ["linux_arm64/", "linux_arm64/d/", "linux_arm64/d/f x", "linux_arm64/link = linux_arm64/d/f"];
    let found = rows(blob.clone());
    assert_eq!(found[..4], expected);
    assert_eq!(found[4..], ["linux_arm64/extra.json {}"]);
    let found = entries(blob);
    assert!(found[1..].iter().all(|(header, _)| header.mtime.seconds == 7));
    assert_eq!(found[2].0.xattrs().count(), usize::from(has_xattrs));
}
