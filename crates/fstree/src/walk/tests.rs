use super::*;
use std::os::unix::fs::symlink;

fn tree() -> (tempfile::TempDir, Root) {
    let tmp = tempfile::tempdir().expect("temporary folder");
    let at = |name: &str| tmp.path().join(name);
    for dir in ["a/b", "a.b", "c/d/e", "empty"] {
        std::fs::create_dir_all(at(dir)).expect("mkdir");
    }
    for file in ["a/b/f", "a/f", "a.b/f", "c/d/e/f", "c/x.go", "z"] {
        std::fs::write(at(file), file).expect("write");
    }
    symlink("z", at("link")).expect("symlink");
    std::fs::hard_link(at("a/f"), at("c/hard")).expect("link");
    let root = Root::open(tmp.path()).expect("open");
    (tmp, root)
}

fn paths(root: &Root, filter: &Filter) -> Vec<String> {
    let walk = FilteredWalk::new(root, filter, true).expect("walk");
    walk.map(|e| lossy(&e.expect("entry").path).into_owned()).collect()
}

fn list(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|p| (*p).to_owned()).collect()
}

#[test]
fn everything_in_protocol_order() {
    let (_tmp, root) = tree();
    let all = paths(&root, &Filter::default());
    assert_eq!(
        all,
        [
            "a", "a/b", "a/b/f", "a/f", "a.b", "a.b/f", "c", "c/d", "c/d/e", "c/d/e/f", "c/hard", "c/x.go",
            "empty", "link", "z"
        ]
    );
    let mut sorted = all.clone();
    sorted.sort_by(|a, b| names::compare(a.as_bytes(), b.as_bytes()));
    assert_eq!(sorted, all);
}

#[test]
fn links_of_both_kinds_name_their_targets() {
    let (_tmp, root) = tree();
    let mut stats = Stats::with_xattrs();
    let all: HashMap<_, _> = Walk::new(&root)
        .expect("walk")
        .map(|f| stats.stat(&f.expect("found")).expect("stat"))
        .map(|s| (lossy(&s.path).into_owned(), s))
        .collect();
    assert_eq!(&all["c/hard"].linkname[..], b"a/f");
    assert_eq!(all["c/hard"].size, 3);
    assert!(all["a/f"].linkname.is_empty());
    assert_eq!(&all["link"].linkname[..], b"z");
    assert_eq!(all["link"].mode, go_mode::SYMLINK | 0o777);
    assert_eq!((all["a"].size, all["a"].mode & go_mode::TYPE), (0, go_mode::DIR));
}

#[test]
fn includes_bring_their_folders() {
    let (_tmp, root) = tree();
    let filter = |include: &[&str], exclude: &[&str]| Filter {
        include: list(include),
        exclude: list(exclude),
        ..Filter::default()
    };
    assert_eq!(paths(&root, &filter(&["c/d/e/f"], &[])), ["c", "c/d", "c/d/e", "c/d/e/f"]);
    assert_eq!(paths(&root, &filter(&["**/*.go", "z"], &[])), ["c", "c/x.go", "z"]);
    assert_eq!(paths(&root, &filter(&["a"], &["a/b"])), ["a", "a/f"]);
    assert_eq!(paths(&root, &filter(&[], &["*", "!c/d/e"])), ["c", "c/d", "c/d/e", "c/d/e/f"]);
    assert_eq!(paths(&root, &filter(&["c"], &["c", "!c/d/e/f"])), ["c", "c/d", "c/d/e", "c/d/e/f"]);
    assert_eq!(paths(&root, &filter(&["nothing"], &[])), Vec::<String>::new());
    assert!(FilteredWalk::new(&root, &filter(&["["], &[]), false).is_err());
}

#[test]
fn followed_paths_are_included() {
    let (_tmp, root) = tree();
    let filter = Filter { follow_paths: list(&["link"]), ..Filter::default() };
    assert_eq!(paths(&root, &filter), ["link", "z"]);
}

#[test]
fn maps_change_leave_out_and_skip() {
    let (_tmp, root) = tree();
    let map: MapFn = Arc::new(|stat| {
        stat.uid = 7;
        match &stat.path[..] {
            b"c" => Mapped::SkipDir,
            b"z" => Mapped::Exclude,
            b"a/b/f" => Mapped::SkipDir,
            _ => Mapped::Keep,
        }
    });
    let filter = Filter { map: Some(map), ..Filter::default() };
    assert_eq!(paths(&root, &filter), ["a", "a/b", "a/f", "a.b", "a.b/f", "empty", "link"]);
    let walk = FilteredWalk::new(&root, &filter, false).expect("walk");
    assert!(walk.map(|e| e.expect("entry")).all(|s| s.uid == 7));
}

#[test]
fn skipped_folders_are_not_even_opened() {
    let (tmp, root) = tree();
    // A folder that is replaced by something else between being listed and being entered is passed over.
    let mut walk = Walk::new(&root).expect("walk");
    assert_eq!(&walk.next().expect("a").expect("a").path[..], b"a");
    std::fs::rename(tmp.path().join("a"), tmp.path().join("moved")).expect("rename");
    symlink("/", tmp.path().join("a")).expect("symlink");
    let next = walk.next().expect("next").expect("next");
    assert_eq!(&next.path[..], b"a.b");
}
