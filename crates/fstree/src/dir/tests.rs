use super::*;
use crate::meta::Time;
#[cfg(unix)]
use std::path::Path;

fn dir() -> (tempfile::TempDir, Dir) {
    let tmp = tempfile::tempdir().expect("temporary folder");
    let dir = Dir::open_host(tmp.path()).expect("open");
    (tmp, dir)
}

fn name(s: &str) -> &OsStr {
    OsStr::new(s)
}

#[test]
fn only_plain_names() {
    let (_tmp, dir) = dir();
    for bad in ["", ".", "..", "a/b", "/", "a\0b"] {
        assert_eq!(dir.stat(name(bad)).expect_err(bad).kind(), io::ErrorKind::InvalidInput);
        assert!(dir.mkdir(name(bad), 0o755).is_err());
        assert!(dir.create_new(name(bad), 0o755).is_err());
        assert!(dir.rename(name("x"), &dir, name(bad)).is_err());
    }
}

#[test]
fn lists_in_byte_order() {
    let (_tmp, dir) = dir();
    for n in ["b", "a.b", "a", "B", "ä", "a-b"] {
        dir.create_new(name(n), 0o600).expect("create");
    }
    let names: Vec<_> = dir.list().expect("list").into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["B", "a", "a-b", "a.b", "b", "ä"]);
}

#[test]
fn times_round_trip() {
    let (_tmp, dir) = dir();
    dir.create_new(name("f"), 0o600).expect("create");
    let time = Time { secs: 1_234_567_890, nanos: 123_456_700 };
    dir.set_times(name("f"), SetTimes { atime: None, mtime: Some(time) }).expect("set");
    assert_eq!(dir.stat(name("f")).expect("stat").mtime, time);
}

#[cfg(unix)]
#[test]
fn modes_are_exact_whatever_the_umask() {
    let (_tmp, dir) = dir();
    for mode in [0o777, 0o666, 0o000, 0o4755, 0o1777, 0o2770] {
        dir.create_new(name("f"), mode).expect("create");
        dir.mkdir(name("d"), mode).expect("mkdir");
        dir.mknod(name("p"), Kind::Fifo, mode, (0, 0)).expect("mkfifo");
        for n in ["f", "d", "p"] {
            assert_eq!(dir.stat(name(n)).expect("stat").mode, mode, "{n} {mode:o}");
            dir.remove_all(name(n)).expect("remove");
        }
    }
    // Nor do folders hand down what they are not asked for.
    dir.mkdir(name("g"), 0o2755).expect("mkdir");
    let below = dir.open_dir(name("g")).expect("open");
    below.mkdir(name("d"), 0o755).expect("mkdir");
    assert_eq!(below.stat(name("d")).expect("stat").mode, 0o755);
}

#[cfg(unix)]
#[test]
fn links_are_never_followed() {
    let (tmp, dir) = dir();
    dir.create_new(name("f"), 0o600).expect("create");
    dir.symlink(Path::new("f"), name("l")).expect("symlink");
    dir.symlink(Path::new("."), name("d")).expect("symlink");
    assert!(dir.open_file(name("l")).is_err());
    assert!(dir.open_dir(name("d")).is_err());
    assert!(dir.chmod(name("l"), 0o777).is_err());
    dir.set_times(name("l"), SetTimes::both(Time { secs: 1, nanos: 2 })).expect("set");
    assert_ne!(dir.stat(name("f")).expect("stat").mtime.secs, 1);
    assert_eq!(dir.read_link(name("l")).expect("readlink"), Path::new("f"));
    dir.remove_all(name("d")).expect("remove");
    assert!(tmp.path().join("f").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn xattrs_round_trip() {
    let (_tmp, dir) = dir();
    dir.create_new(name("f"), 0o600).expect("create");
    assert!(dir.xattrs(name("f")).expect("list").is_empty());
    dir.set_xattr(name("f"), "user.a", b"1").expect("set");
    dir.set_xattr(name("f"), "user.b", &[7; 1000]).expect("set");
    let all = dir.xattrs(name("f")).expect("list");
    assert_eq!((&all["user.a"][..], all["user.b"].len()), (&b"1"[..], 1000));
    dir.remove_xattr(name("f"), "user.a").expect("remove");
    assert_eq!(dir.xattrs(name("f")).expect("list").len(), 1);
    dir.symlink(Path::new("f"), name("l")).expect("symlink");
    assert!(dir.xattrs(name("l")).expect("list").is_empty());
    assert!(dir.xattrs(name("missing")).is_err());
}
