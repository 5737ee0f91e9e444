//! A state folder on a disk that is full.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Build, Daemon, Image, KILN, Left, Registry, alone, assert_sound, folder_for, wait_for};

/// A small file system in a file, mounted until it is dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// `None` where that is not permitted.
    fn new(folder: &Path, megabytes: u64) -> Option<Self> {
        let (image, at) = (folder.join("disk.img"), folder.join("disk"));
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).output();
            done.is_ok_and(|done| done.status.success())
        };
        let (image, mounted) = (image.to_str().unwrap(), at.to_str().unwrap());
        let there =
            run("mkfs.ext4", &["-q", "-m", "0", image]) && run("mount", &["-o", "loop", image, mounted]);
        if !there {
            println!("skipped: no file system can be made and mounted here");
        }
        there.then_some(Self { at })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.at).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.at.display());
        }
    }
}

fn prune(address: &str) -> bool {
    let done = Command::new(KILN).args(["buildctl", "--addr", address, "prune", "--all"]).output();
    done.is_ok_and(|done| done.status.success())
}

#[test]
fn a_full_disk_is_an_error_and_no_more() {
    let Some(_alone) = alone() else { return };
    let registry = Registry::start(&Image::new());
    let folder = folder_for(&registry);
    let Some(disk) = Disk::new(folder.path(), 48) else { return };
    let root = disk.at.join("root");
    let mut daemon = Daemon::start_at(folder.path(), &root);
    let address = daemon.address();
    let context = folder.path().join("context");
    std::fs::create_dir(&context).unwrap();
    let build = |dockerfile: &str| {
        let base = format!("{}/base:latest", registry.address);
        std::fs::write(folder.path().join("Dockerfile"), dockerfile.replace("BASE", &base)).unwrap();
        Build::new(folder.path())
    };
    let small = "FROM BASE\nRUN cat /etc/passwd > /well\n";
    build(small).run(&address);
    // A step fills it; its own error says so.
    let error = build("FROM BASE\nRUN seq 100000000 > /big\n").fail(&address);
    assert!(error.contains("exit code"), "{error}");
    // A context does not fit; nor does an archive in it, nor the result's layers beside its files.
    std::fs::write(context.join("big"), noise(60 << 20)).unwrap();
    let error = build("FROM scratch\nCOPY big /\n").fail(&address);
    assert!(error.contains("no space left on device"), "{error}");
    std::fs::write(context.join("big"), noise(14 << 20)).unwrap();
    let archive = folder.path().join("out.tar");
    let error = build("FROM scratch\nCOPY big /\nCOPY big /again\n").archive(&archive).fail(&address);
    assert!(error.contains("no space left on device"), "{error}");
    assert!(daemon.is_up());
    // There is room again once somebody makes it, and all goes on.
    std::fs::remove_file(context.join("big")).unwrap();
    // At the moment in which the records find no room, a prune is refused, too; then the reserve is given up for it.
    wait_for("a prune", || prune(&address).then_some(()));
    wait_for("room on the disk", || {
        let stat = rustix::fs::statvfs(&disk.at).unwrap();
        (stat.f_bavail * stat.f_frsize > 24 << 20).then_some(())
    });
    build(small).run(&address);
    build("FROM BASE\nRUN seq 100000 > /small\n").archive(&archive).run(&address);
    daemon.stop();
    Left::no_processes();
    assert_sound(&root);
    drop(disk);
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 32) as u32
    });
    words.flat_map(u32::to_le_bytes).take(length).collect()
}
