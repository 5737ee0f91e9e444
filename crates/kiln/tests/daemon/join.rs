//! A daemonless client over a daemon's state folder.

use std::process::Command;

use crate::support::{Daemon, KILN, Left, alone, assert_sound};

#[test]
fn a_build_without_a_daemon_joins_the_one_that_holds_its_folder() {
    let Some(_alone) = alone() else { return };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let context = folder.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let build = || {
        let built = Command::new(KILN)
            .arg("build")
            .arg("--root")
            .arg(&root)
            .args(["--progress", "plain", "--output"])
            .arg(format!("type=local,dest={}", folder.path().join("out").display()))
            .arg(&context)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        assert!(built.status.success(), "{said}");
        said
    };
    let daemon = Daemon::start(folder.path());
    daemon.says("kiln.sock");
    build();
    assert!(folder.path().join("out/Dockerfile").exists());
    daemon.stop();
    // Without it, the build is on its own, and finds what the daemon made.
    assert!(build().contains("CACHED"));
    Left::no_processes();
    assert_sound(&root);
}
