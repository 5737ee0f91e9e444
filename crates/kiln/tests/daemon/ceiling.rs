//! A ceiling that the store stays below while builds run.

use std::{io::Write as _, path::Path, process::Command, time::Duration};

use crate::support::{Build, Daemon, Image, Left, Registry, alone, assert_sound, folder_for, wait_for};

/// The ceiling, in bytes.
const LIMIT: u64 = 60 << 20;
/// What a step may write before it is stopped.
const SLACK: u64 = 30 << 20;

/// Bytes on disk below a folder.
fn size(folder: &Path) -> u64 {
    let said = Command::new("du").args(["-s", "--block-size=1"]).arg(folder).output().unwrap();
    // Files that go away meanwhile make it fail, after it has said what there is.
    let text = String::from_utf8(said.stdout).unwrap();
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or_default()
}

#[test]
fn the_store_stays_below_its_ceiling() {
    let Some(_alone) = alone() else { return };
    let registry = Registry::start(&Image::new());
    let folder = folder_for(&registry);
    let config = std::fs::OpenOptions::new().append(true).open(folder.path().join("buildkitd.toml"));
    writeln!(config.unwrap(), "[worker.oci]\nmaxUsedSpace = {LIMIT}").unwrap();
    std::fs::create_dir(folder.path().join("context")).unwrap();
    let mut daemon = Daemon::collecting(folder.path());
    daemon.says("swept");
    let address = daemon.address();
    let build = |steps: &str| {
        let text = format!("FROM {}/base:latest\n{steps}\n", registry.address);
        std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
        Build::new(folder.path())
    };
    let kept = ["content", "snapshots"].map(|name| folder.path().join("root/kiln").join(name));
    let used = || kept.iter().map(|folder| size(folder)).sum::<u64>();

    // Each leaves some 17 MB, which the ones before have to make room for, and none fails.
    let mut most = 0;
    for n in 0..8 {
        build(&format!("RUN seq {n} 2500000 > /big")).run(&address);
        most = most.max(used());
    }
    assert!(most > LIMIT / 2 && most <= LIMIT, "{most}");

    // What does not fit in an empty store fails, with a word on why, and before it has taken much more.
    let running = build("RUN seq 1 100000000 > /big && echo never").start(&address);
    let mut most = 0;
    while !running.is_over() {
        most = most.max(used());
        std::thread::sleep(Duration::from_millis(20));
    }
    let seen = running.end();
    let said = seen.other.join("\n");
    assert!(!seen.success && said.contains("the builder's storage is full"), "{said}");
    assert!(said.contains("of at most 62.91 MB (maxUsedSpace)"), "{said}");
    assert!(most <= LIMIT + SLACK, "{most}");
    assert!(daemon.is_up());

    // Nor does an archive, though no process writes what is in it. It is written much faster than anybody looks.
    let context = folder.path().join("context");
    let pack = "yes | head -c 600000000 > big && tar -c big | gzip -1 > big.tar.gz && rm big";
    assert!(Command::new("sh").args(["-c", pack]).current_dir(&context).status().unwrap().success());
    let said = build("ADD big.tar.gz /").fail(&address);
    assert!(said.contains("the builder's storage is full"), "{said}");

    // Its room is free again at once, and whoever was told so is told the truth: nobody goes on writing.
    wait_for("room", || (used() < LIMIT).then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    assert!(used() < LIMIT);
    build("RUN seq 1 2500000 > /again").run(&address);
    daemon.stop();
    Left::no_processes();
    assert_sound(&folder.path().join("root"));
}
