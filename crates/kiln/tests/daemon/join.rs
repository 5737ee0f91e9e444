//! Clients without a daemon of their own.

use std::{path::Path, process::Command};

use crate::support::{Daemon, KILN, Left, alone, assert_sound};

/// A folder with a context and nothing else.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let context = folder.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    folder
}

/// What `kiln build` says.
fn build(folder: &Path) -> String {
    let built = Command::new(KILN)
        .arg("build")
        .arg("--root")
        .arg(folder.join("root"))
        .args(["--progress", "plain", "--output"])
        .arg(format!("type=local,dest={}", folder.join("out").display()))
        .arg(folder.join("context"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success(), "{said}");
    said
}

#[test]
fn a_build_without_a_daemon_joins_the_one_that_holds_its_folder() {
    let Some(_alone) = alone() else { return };
    let folder = folder();
    let daemon = Daemon::start(folder.path());
    daemon.says("kiln.sock");
    build(folder.path());
    assert!(folder.path().join("out/Dockerfile").exists());
    daemon.stop();
    // Without it, the build is on its own, and finds what the daemon made.
    assert!(build(folder.path()).contains("CACHED"));
    Left::no_processes();
    assert_sound(&folder.path().join("root"));
}

#[test]
fn a_build_without_a_daemon_finds_what_the_last_one_made() {
    let Some(_alone) = alone() else { return };
    let folder = folder();
    assert!(!build(folder.path()).contains("CACHED"));
    // At once: the records must not wait for a quiet moment.
    for _ in 0..3 {
        assert!(build(folder.path()).contains("CACHED"));
    }
    Left::no_processes();
    assert_sound(&folder.path().join("root"));
}
