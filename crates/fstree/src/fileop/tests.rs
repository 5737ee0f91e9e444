use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as link};

struct Trees {
    tmp: tempfile::TempDir,
    src: Root,
    dest: Root,
}

impl Trees {
    fn new() -> Self {
        let tmp = tempfile::tempdir().expect("temporary folder");
        for name in ["src", "dest"] {
            std::fs::create_dir(tmp.path().join(name)).expect("mkdir");
        }
        std::fs::write(tmp.path().join("secret"), "outside").expect("write");
        let open = |name| Root::open(tmp.path().join(name)).expect("open");
        Self { src: open("src"), dest: open("dest"), tmp }
    }

    fn src(&self, path: &str) -> PathBuf {
        self.tmp.path().join("src").join(path)
    }

    fn dest(&self, path: &str) -> PathBuf {
        self.tmp.path().join("dest").join(path)
    }

    fn write(&self, path: &str, data: &str, mode: u32) {
        let path = self.src(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        std::fs::write(&path, data).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }

    fn copy(&self, action: &pb::FileActionCopy) -> Result<()> {
        copy(&self.src, &self.dest, action, &CopyOptions::default())
    }

    /// Path → kind, mode, owner and content of all that lies in the destination.
    fn seen(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for found in crate::walk::Walk::new(&self.dest).expect("walk") {
            let found = found.expect("found");
            let path = String::from_utf8_lossy(&found.path).into_owned();
            let meta = &found.meta;
            let content = match meta.kind {
                crate::Kind::File => std::fs::read_to_string(self.dest(&path)).expect("read"),
                crate::Kind::Symlink => {
                    format!("-> {}", found.dir.read_link(&found.name).expect("link").display())
                }
                crate::Kind::Dir => "/".to_owned(),
                kind => format!("{kind:?}"),
            };
            out.insert(path, format!("{:o} {}:{} {content}", meta.mode, meta.uid, meta.gid));
        }
        out
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.dest(path)).expect(path)
    }
}

/// As the Dockerfile frontend writes a COPY.
fn action(src: &str, dest: &str) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: src.to_owned(),
        dest: dest.to_owned(),
        mode: -1,
        timestamp: -1,
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..pb::FileActionCopy::default()
    }
}

fn pairs(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn a_file_to_a_name_a_folder_and_through_links() {
    let t = Trees::new();
    t.write("a", "A", 0o640);
    t.copy(&action("a", "/new/b")).expect("copy");
    t.copy(&action("/a", "dir/")).expect("copy");
    t.copy(&action("/a", "dir")).expect("again");
    link("dir", t.dest("to-dir")).expect("link");
    link("/made/here", t.dest("dangling")).expect("link");
    t.copy(&action("/a", "to-dir/sub/")).expect("copy");
    t.copy(&action("/a", "dangling")).expect("copy");
    assert_eq!(
        t.seen(),
        pairs(&[
            ("dangling", "777 0:0 -> /made/here"),
            ("dir", "755 0:0 /"),
            ("dir/a", "640 0:0 A"),
            ("dir/sub", "755 0:0 /"),
            ("dir/sub/a", "640 0:0 A"),
            ("made", "755 0:0 /"),
            ("made/here", "640 0:0 A"),
            ("new", "755 0:0 /"),
            ("new/b", "640 0:0 A"),
            ("to-dir", "777 0:0 -> dir"),
        ])
    );
}

#[test]
fn a_folder_onto_nothing_and_onto_one() {
    let t = Trees::new();
    t.write("d/sub/f", "F", 0o644);
    t.write("d/g", "G", 0o600);
    std::fs::set_permissions(t.src("d"), std::fs::Permissions::from_mode(0o711)).expect("chmod");
    std::fs::set_permissions(t.src("d/sub"), std::fs::Permissions::from_mode(0o2750)).expect("chmod");
    t.copy(&action("d", "/x")).expect("copy");
    // What the path names is made as folders on the way are; what is in it is as in the source.
    let new =
        pairs(&[("x", "755 0:0 /"), ("x/g", "600 0:0 G"), ("x/sub", "2750 0:0 /"), ("x/sub/f", "644 0:0 F")]);
    assert_eq!(t.seen(), new);
    std::fs::set_permissions(t.dest("x"), std::fs::Permissions::from_mode(0o700)).expect("chmod");
    std::fs::set_permissions(t.dest("x/sub"), std::fs::Permissions::from_mode(0o700)).expect("chmod");
    std::fs::write(t.dest("x/sub/old"), "kept").expect("write");
    t.copy(&action("d/", "/x/")).expect("copy");
    let seen = t.seen();
    assert_eq!((&seen["x"][..], &seen["x/sub"][..]), ("700 0:0 /", "2750 0:0 /"));
    assert!(seen.contains_key("x/sub/old"));
    // Without its contents only, the folder itself goes into one that is there.
    t.copy(&pb::FileActionCopy { dir_copy_contents: false, ..action("d", "/x") }).expect("copy");
    assert!(t.seen().contains_key("x/d/sub/f"));
    let whole = pb::FileActionCopy { dir_copy_contents: false, allow_wildcard: false, ..action("d/.", "/z") };
    for _ in 0..2 {
        t.copy(&whole).expect("copy");
        assert!(t.seen().contains_key("z/sub/f") && !t.seen().contains_key("z/d"));
    }
    t.copy(&pb::FileActionCopy { dir_copy_contents: false, ..action("d", "/y") }).expect("copy");
    assert_eq!(t.seen()["y"], "711 0:0 /");
}

#[test]
fn what_is_in_the_way() {
    let t = Trees::new();
    t.write("f", "new", 0o644);
    t.write("d/x", "x", 0o644);
    std::fs::write(t.dest("f"), "old").expect("write");
    std::fs::hard_link(t.dest("f"), t.tmp.path().join("other")).expect("link");
    t.copy(&action("f", "/f")).expect("copy");
    assert_eq!(t.text("f"), "new");
    assert_eq!(std::fs::read_to_string(t.tmp.path().join("other")).expect("read"), "old");
    let error = t.copy(&action("d", "/f")).expect_err("a file is there").to_string();
    assert!(error.contains("/f"), "{error}");
    std::fs::create_dir_all(t.dest("e/f/full")).expect("mkdir");
    assert!(t.copy(&action("f", "/e/")).is_err());
    assert!(t.copy(&action("f", "/f/below")).is_err());
    // Unless the action says that it must go.
    let replace =
        |src, dest| pb::FileActionCopy { always_replace_existing_dest_paths: true, ..action(src, dest) };
    t.copy(&replace("f", "/e/")).expect("replaces a folder");
    assert_eq!(t.text("e/f"), "new");
    t.write("tree/f/in", "in", 0o644);
    t.write("tree/l", "file", 0o644);
    link("/nowhere", t.dest("e/l")).expect("link");
    t.copy(&replace("tree", "/e")).expect("replaces a file and a link");
    assert_eq!((t.text("e/f/in"), t.text("e/l")), ("in".to_owned(), "file".to_owned()));
}

#[test]
fn owners_modes_and_times() {
    let t = Trees::new();
    t.write("d/x", "x", 0o711);
    t.write("d/s", "s", 0o4755);
    link("x", t.src("d/l")).expect("link");
    std::os::unix::fs::chown(t.src("d/s"), Some(5), Some(6)).expect("chown");
    std::fs::set_permissions(t.src("d/s"), std::fs::Permissions::from_mode(0o4755)).expect("chmod");
    t.copy(&action("d", "/kept")).expect("copy");
    assert_eq!(t.seen()["kept/s"], "4755 5:6 s");

    let options = CopyOptions { owner: Some(Owner { uid: 1000, gid: 10 }), ..CopyOptions::default() };
    let given = pb::FileActionCopy { mode: 0o640, timestamp: 1_000_000_007, ..action("d", "/p/given") };
    copy(&t.src, &t.dest, &given, &options).expect("copy");
    let seen = t.seen();
    for path in ["p", "p/given"] {
        assert_eq!(seen[path], "640 1000:10 /", "{path}");
    }
    assert_eq!((&seen["p/given/s"][..], &seen["p/given/l"][..]), ("640 1000:10 s", "777 1000:10 -> x"));
    for path in ["p", "p/given", "p/given/x", "p/given/l"] {
        let meta = std::fs::symlink_metadata(t.dest(path)).expect("lstat");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1, 7), "{path}");
    }

    let symbolic = pb::FileActionCopy { mode_str: "u=rwX,go=rX".to_owned(), ..action("d", "/symbolic") };
    t.copy(&symbolic).expect("copy");
    let seen = t.seen();
    assert_eq!((&seen["symbolic"][..], &seen["symbolic/x"][..]), ("755 0:0 /", "755 0:0 x"));
    let bad = pb::FileActionCopy { mode_str: "u~x".to_owned(), ..action("d", "/bad") };
    assert!(t.copy(&bad).is_err());
}

#[test]
fn times_of_the_source_are_kept() {
    let t = Trees::new();
    t.write("d/sub/f", "f", 0o644);
    let root = &t.src;
    for (path, secs) in [("d/sub/f", 1), ("d/sub", 2), ("d", 3)] {
        let (dir, name) = root.parent(path).expect("parent");
        dir.set_times(&name, SetTimes::both(Time { secs, nanos: 5 })).expect("set");
    }
    t.copy(&action("d", "/x")).expect("copy");
    for (path, secs) in [("x/sub/f", 1), ("x/sub", 2), ("x", 3)] {
        let meta = std::fs::metadata(t.dest(path)).expect("stat");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (secs, 5), "{path}");
    }
}

#[test]
fn links_pipes_and_several_names() {
    let t = Trees::new();
    t.write("d/a", "one", 0o644);
    std::fs::create_dir(t.src("d/z")).expect("mkdir");
    std::fs::hard_link(t.src("d/a"), t.src("d/z/b")).expect("link");
    link("/etc/passwd", t.src("d/abs")).expect("link");
    t.src
        .open_dir("d")
        .expect("open")
        .mknod("pipe".as_ref(), crate::Kind::Fifo, 0o640, (0, 0))
        .expect("mkfifo");
    t.src
        .open_dir("d")
        .expect("open")
        .mknod("null".as_ref(), crate::Kind::CharDevice, 0o666, (1, 3))
        .expect("mknod");
    let _socket = std::os::unix::net::UnixListener::bind(t.src("d/sock")).expect("socket");
    t.src.open_dir("d").expect("open").set_xattr("a".as_ref(), "user.k", b"v").expect("xattr");
    t.src.dir().set_xattr("d".as_ref(), "user.d", b"w").expect("xattr");
    t.copy(&pb::FileActionCopy { dir_copy_contents: false, ..action("d", "/x") }).expect("copy");
    let seen = t.seen();
    assert_eq!((&seen["x/abs"][..], &seen["x/pipe"][..]), ("777 0:0 -> /etc/passwd", "640 0:0 Fifo"));
    assert_eq!((&seen["x/null"][..], &seen["x/z/b"][..]), ("666 0:0 CharDevice", "644 0:0 one"));
    assert!(seen["x/sock"].ends_with("0:0 "));
    let ino = |path: &str| std::fs::metadata(t.dest(path)).expect("stat").ino();
    assert_eq!(ino("x/a"), ino("x/z/b"));
    assert_eq!(&t.dest.open_dir("x").expect("open").xattrs("a".as_ref()).expect("list")["user.k"][..], b"v");
    assert_eq!(&t.dest.dir().xattrs("x".as_ref()).expect("list")["user.d"][..], b"w");
}

#[test]
fn wildcards_includes_and_excludes() {
    let t = Trees::new();
    for path in ["a.go", "b.c", "p/x.go", "p/y.c", "p/q/z.go", "empty/only.c"] {
        t.write(path, path, 0o644);
    }
    t.copy(&action("*.go", "/w/")).expect("copy");
    assert_eq!(t.seen().into_keys().collect::<Vec<_>>(), ["w", "w/a.go"]);
    t.copy(&action("none*", "/w/")).expect("nothing is fine");
    let strict = pb::FileActionCopy { allow_empty_wildcard: false, ..action("none*", "/w/") };
    assert_eq!(t.copy(&strict).expect_err("nothing").to_string(), "/none* not found");
    assert_eq!(
        t.copy(&action("none", "/w/")).expect_err("nothing").to_string(),
        "lstat /none: no such file or directory"
    );

    let some = pb::FileActionCopy { include_patterns: vec!["**/*.go".to_owned()], ..action("/", "/i/") };
    t.copy(&some).expect("copy");
    let seen: Vec<_> = t.seen().into_keys().filter(|p| p.starts_with("i/")).collect();
    assert_eq!(seen, ["i/a.go", "i/p", "i/p/q", "i/p/q/z.go", "i/p/x.go"]);

    let others = pb::FileActionCopy {
        exclude_patterns: vec!["p".to_owned(), "!p/q".to_owned(), "*.c".to_owned()],
        ..action("/", "/e/")
    };
    t.copy(&others).expect("copy");
    let seen: Vec<_> = t.seen().into_keys().filter(|p| p.starts_with("e/")).collect();
    assert_eq!(seen, ["e/a.go", "e/empty", "e/empty/only.c", "e/p", "e/p/q", "e/p/q/z.go"]);
    let bad = pb::FileActionCopy { include_patterns: vec!["[".to_owned()], ..action("/", "/b/") };
    assert!(matches!(t.copy(&bad), Err(Error::Pattern { .. })));
}

#[test]
fn a_source_that_is_a_link() {
    let t = Trees::new();
    t.write("real/x", "x", 0o644);
    link("real", t.src("dir")).expect("link");
    link("real/x", t.src("file")).expect("link");
    t.copy(&action("file", "/f")).expect("copy");
    t.copy(&action("dir", "/d/")).expect("copy");
    assert_eq!((t.text("f"), t.text("d/x")), ("x".to_owned(), "x".to_owned()));
    let keep = |src, dest| pb::FileActionCopy { follow_symlink: false, ..action(src, dest) };
    t.copy(&keep("file", "/kept")).expect("copy");
    assert_eq!(t.seen()["kept"], "777 0:0 -> real/x");
}

#[test]
fn nothing_leads_out() {
    let t = Trees::new();
    link("../secret", t.src("out")).expect("link");
    link(t.tmp.path(), t.src("up")).expect("link");
    for src in ["out", "up/secret", "../secret", "../../secret"] {
        assert!(t.copy(&action(src, "/x")).is_err(), "{src}");
    }
    t.write("a", "A", 0o644);
    link("..", t.dest("dots")).expect("link");
    link(t.tmp.path(), t.dest("abs")).expect("link");
    t.copy(&action("a", "/dots/secret")).expect("inside");
    t.copy(&action("a", "/abs/secret")).expect("inside");
    t.copy(&action("a", "../../secret")).expect("inside");
    assert_eq!(std::fs::read_to_string(t.tmp.path().join("secret")).expect("read"), "outside");
    assert_eq!(t.text("secret"), "A");
    let made =
        t.dest(t.tmp.path().strip_prefix("/").expect("absolute").join("secret").to_str().expect("utf-8"));
    assert_eq!(std::fs::read_to_string(made).expect("read"), "A");
    for rm_path in ["/dots/../../secret", "abs/secret"] {
        rm(
            &t.dest,
            &pb::FileActionRm { path: rm_path.to_owned(), allow_not_found: true, allow_wildcard: false },
        )
        .expect("rm");
    }
    assert_eq!(std::fs::read_to_string(t.tmp.path().join("secret")).expect("read"), "outside");
    assert!(!t.dest("secret").exists());
}

#[test]
fn hard_links_where_they_are_the_same() {
    let t = Trees::new();
    t.write("d/a", "a", 0o644);
    t.write("d/b", "b", 0o600);
    let linked = Linked::default();
    let with = |owner| CopyOptions { owner, transfer: Transfer::HardLink(&linked), ..CopyOptions::default() };
    let ino = |path: &Path| std::fs::metadata(path).expect("stat").ino();
    copy(&t.src, &t.dest, &action("d", "/x"), &with(None)).expect("copy");
    assert_eq!(ino(&t.dest("x/a")), ino(&t.src("d/a")));
    // Once per file, and not if anything differs.
    copy(&t.src, &t.dest, &action("d", "/y"), &with(None)).expect("copy");
    assert_ne!(ino(&t.dest("y/a")), ino(&t.src("d/a")));
    let linked = Linked::default();
    let with = |owner| CopyOptions { owner, transfer: Transfer::HardLink(&linked), ..CopyOptions::default() };
    copy(&t.src, &t.dest, &action("d", "/z"), &with(Some(Owner { uid: 1, gid: 1 }))).expect("copy");
    assert_ne!(ino(&t.dest("z/a")), ino(&t.src("d/a")));
    assert_eq!(std::fs::metadata(t.src("d/a")).expect("stat").uid(), 0);
    // What is written over a link later is a new file.
    let data = pb::FileActionMkFile {
        path: "/x/a".to_owned(),
        mode: 0o644,
        data: "new".into(),
        timestamp: -1,
        owner: None,
    };
    mkfile(&t.dest, &data, None).expect("mkfile");
    assert_eq!(std::fs::read_to_string(t.src("d/a")).expect("read"), "a");
}

#[test]
fn many_files() {
    let t = Trees::new();
    for i in 0..2000 {
        t.write(&format!("d{}/f{i}", i % 7), &format!("{i}"), 0o644);
    }
    t.copy(&action("/", "/all/")).expect("copy");
    for i in 0..2000 {
        assert_eq!(t.text(&format!("all/d{}/f{i}", i % 7)), format!("{i}"));
    }
    let cancelled: &(dyn Fn() -> bool + Sync) = &|| true;
    let options = CopyOptions { cancelled: Some(cancelled), ..CopyOptions::default() };
    assert!(matches!(copy(&t.src, &t.dest, &action("/", "/no/"), &options), Err(Error::Canceled)));
}

#[test]
fn archives_go_to_the_callback() {
    struct Tars(Mutex<Vec<(Option<Owner>, String)>>);
    impl Unpack for Tars {
        fn probe(&self, file: &mut File) -> Result<bool> {
            let mut text = String::new();
            io::Read::read_to_string(file, &mut text).at("read", "")?;
            Ok(text.starts_with("tar"))
        }
        fn unpack(&self, mut file: File, dest: &Root, owner: Option<Owner>) -> Result<()> {
            let mut text = String::new();
            io::Read::read_to_string(&mut file, &mut text).at("read", "")?;
            dest.write("unpacked", text.as_bytes(), 0o644)?;
            self.0.lock().expect("lock").push((owner, text));
            Ok(())
        }
    }
    let t = Trees::new();
    t.write("x.tar", "tar of things", 0o644);
    t.write("plain", "text", 0o644);
    std::fs::create_dir(t.src("dir")).expect("mkdir");
    let tars = Tars(Mutex::default());
    let owner = Some(Owner { uid: 3, gid: 4 });
    let options = CopyOptions { owner, unpack: Some(&tars), ..CopyOptions::default() };
    let add =
        |src, dest| pb::FileActionCopy { attempt_unpack_docker_compatibility: true, ..action(src, dest) };
    for src in ["x.tar", "plain", "dir"] {
        copy(&t.src, &t.dest, &add(src, "/to"), &options).expect(src);
    }
    assert_eq!(*tars.0.lock().expect("lock"), [(owner, "tar of things".to_owned())]);
    let seen = t.seen();
    assert_eq!(seen["to"], "755 3:4 /");
    assert_eq!(seen["to/unpacked"], "644 0:0 tar of things");
    assert_eq!(seen["to/plain"], "644 3:4 text");
    assert!(t.copy(&add("x.tar", "/to")).expect_err("no callback").to_string().contains("not supported"));
}

#[test]
fn folders_files_and_links() {
    let t = Trees::new();
    let dir = |path: &str, make_parents| pb::FileActionMkDir {
        path: path.to_owned(),
        mode: 0o750,
        make_parents,
        timestamp: 9,
        owner: None,
    };
    mkdir(&t.dest, &dir("/a/b", true), Some(Owner { uid: 1, gid: 2 })).expect("mkdir");
    assert!(mkdir(&t.dest, &dir("/no/b", false), None).is_err());
    mkdir(&t.dest, &dir("/a/c", false), None).expect("mkdir");
    mkdir(&t.dest, &dir("/a/c", false), Some(Owner { uid: 1, gid: 2 })).expect("there already");
    mkdir(&t.dest, &dir("/", true), None).expect("root");
    let file = |path: &str, data: &'static str| pb::FileActionMkFile {
        path: path.to_owned(),
        mode: 0o640,
        data: data.into(),
        timestamp: -1,
        owner: None,
    };
    mkfile(&t.dest, &file("/a/f", "1"), None).expect("mkfile");
    std::os::unix::fs::chown(t.dest("a/f"), Some(8), Some(9)).expect("chown");
    std::fs::set_permissions(t.dest("a/f"), std::fs::Permissions::from_mode(0o4711)).expect("chmod");
    mkfile(&t.dest, &file("/a/f", "2"), None).expect("mkfile");
    assert!(mkfile(&t.dest, &file("/a", "2"), None).is_err());
    assert!(mkfile(&t.dest, &file("/no/f", "2"), None).is_err());
    let link = |old: &str, new: &str| pb::FileActionSymlink {
        oldpath: old.to_owned(),
        newpath: new.to_owned(),
        timestamp: 5,
        owner: None,
    };
    symlink(&t.dest, &link("../x", "/a/l"), Some(Owner { uid: 3, gid: 3 })).expect("symlink");
    assert!(symlink(&t.dest, &link("x", "/a/f"), None).is_err());
    assert_eq!(
        t.seen(),
        pairs(&[
            ("a", "750 1:2 /"),
            ("a/b", "750 1:2 /"),
            ("a/c", "750 0:0 /"),
            ("a/f", "4711 8:9 2"),
            ("a/l", "777 3:3 -> ../x"),
        ])
    );
}

#[test]
fn removals() {
    let t = Trees::new();
    for path in ["d/x/y", "a1", "a2", "b"] {
        std::fs::create_dir_all(t.dest(path).parent().expect("parent")).expect("mkdir");
        std::fs::write(t.dest(path), "").expect("write");
    }
    link("b", t.dest("l")).expect("link");
    link("gone", t.dest("dangling")).expect("link");
    let remove = |path: &str, allow_not_found, allow_wildcard| {
        rm(&t.dest, &pb::FileActionRm { path: path.to_owned(), allow_not_found, allow_wildcard })
    };
    remove("a*", false, true).expect("rm");
    remove("z*", false, true).expect("nothing matches");
    remove("/l", false, false).expect("rm");
    remove("d", false, false).expect("rm");
    assert_eq!(
        remove("d", false, false).expect_err("gone").to_string(),
        "stat /d: no such file or directory"
    );
    remove("d", true, false).expect("gone");
    remove("/", true, false).expect_err("the root");
    remove("dangling", true, false).expect("rm");
    assert_eq!(t.seen().into_keys().collect::<Vec<_>>(), ["b"]);
}
