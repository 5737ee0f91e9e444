#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};

use super::*;

/// `None`, with a word on stdout, when this process may not mount.
fn mounted(spec: &MountSpec) -> Option<OwnedFd> {
    match spec.open_fd() {
        Ok(root) => Some(root),
        Err(error) if error.is_mount_denied() => {
            println!("skipped: mounting is not permitted here: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn read(root: &OwnedFd, path: &str) -> Option<String> {
    let file = openat(root.as_fd(), path, OFlags::RDONLY, Mode::empty()).ok()?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).unwrap();
    Some(text)
}

fn write(root: &OwnedFd, path: &str, text: &str) -> rustix::io::Result<()> {
    let file = openat(root.as_fd(), path, OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o644))?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

fn layers(dir: &Path, n: usize) -> Vec<PathBuf> {
    (0..n)
        .map(|i| {
            let layer = dir.join(format!("7-{i}/fs"));
            std::fs::create_dir_all(&layer).unwrap();
            std::fs::write(layer.join(format!("f{i}")), i.to_string()).unwrap();
            std::fs::write(layer.join("top"), i.to_string()).unwrap();
            layer
        })
        .collect()
}

fn upper(dir: &Path) -> OverlayUpper {
    let [upper, work] = ["8-1/fs", "8-1/work"].map(|name| dir.join(name));
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    OverlayUpper { upper, work, volatile: true }
}

#[test]
fn many_layers_and_an_upper() {
    let dir = tempfile::tempdir().unwrap();
    let upper = upper(dir.path());
    let spec = MountSpec::Overlay { lowers: layers(dir.path(), 127), upper: Some(upper.clone()) };
    let Some(root) = mounted(&spec) else { return };
    assert_eq!(read(&root, "top").unwrap(), "0");
    assert_eq!(read(&root, "f126").unwrap(), "126");
    write(&root, "new", "n").unwrap();
    assert_eq!(std::fs::read_to_string(upper.upper.join("new")).unwrap(), "n");
    drop(root);
    // A volatile layer mounts again.
    let root = mounted(&spec).unwrap();
    assert_eq!(read(&root, "new").unwrap(), "n");
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("7-0/fs"));
}

#[test]
fn many_layers_on_an_old_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let upper = upper(dir.path());
    let lowers = layers(dir.path(), 127);
    let spec = MountSpec::Overlay { lowers: lowers.clone(), upper: Some(upper.clone()) };
    if mounted(&spec).is_none() {
        return;
    }
    std::fs::remove_dir_all(upper.work.join("work")).unwrap();
    let root = legacy::overlay(&lowers, Some(&upper)).unwrap();
    assert_eq!(read(&root, "f126").unwrap(), "126");
    write(&root, "new", "n").unwrap();
    assert_eq!(std::fs::read_to_string(upper.upper.join("new")).unwrap(), "n");
    drop(root);
    let root = legacy::overlay(&lowers, None).unwrap();
    assert_eq!(read(&root, "f3").unwrap(), "3");
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("7-0/fs"));
}

#[test]
fn a_long_path_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(200)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let spec = MountSpec::Overlay { lowers: layers(&deep, 3), upper: Some(upper(&deep)) };
    let Some(root) = mounted(&spec) else { return };
    assert_eq!(read(&root, "f2").unwrap(), "2");
}

#[test]
fn read_only_binds_refuse_writing() {
    let dir = tempfile::tempdir().unwrap();
    let spec = MountSpec::Bind { path: dir.path().to_owned(), read_only: true };
    let Some(root) = mounted(&spec) else { return };
    assert_eq!(write(&root, "new", "n"), Err(rustix::io::Errno::ROFS));
    std::fs::write(dir.path().join("f"), "1").unwrap();
    assert_eq!(read(&root, "f").unwrap(), "1");
    let spec = MountSpec::Bind { path: dir.path().to_owned(), read_only: false };
    write(&mounted(&spec).unwrap(), "new", "n").unwrap();
}

#[test]
fn a_missing_layer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut lowers = layers(dir.path(), 2);
    if mounted(&MountSpec::Overlay { lowers: lowers.clone(), upper: None }).is_none() {
        return;
    }
    lowers.push(dir.path().join("gone"));
    let error = MountSpec::Overlay { lowers, upper: None }.open_fd().unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}
