//! A store on a disk that is full: errors, no damage, and room again after something is released.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use kiln_store::{Error, Options, Resource, SnapshotterKind, Store};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

/// A disk in memory, mounted nowhere.
fn small_disk(size: &str) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "size", size)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn blob(store: &Store, lease: &kiln_store::Lease, n: u32) -> Result<kiln_oci::Digest, String> {
    let mut ingest = store.content().ingest().map_err(|e| e.to_string())?;
    let bytes: Vec<u8> = (0..50_000u32).flat_map(|i| (i ^ n << 16).to_le_bytes()).collect();
    ingest.write_all(&bytes).map_err(|e| e.to_string())?;
    Ok(ingest.commit(store, lease.id(), None, None).map_err(|e| e.to_string())?.digest)
}

#[test]
fn a_full_disk_is_an_error_and_no_damage() {
    let disk = match small_disk("7m") {
        Ok(disk) => disk,
        Err(error) => {
            println!("skipped: mounting is not permitted here: {error}");
            return;
        }
    };
    let root = PathBuf::from(format!("/proc/self/fd/{}/.", disk.as_raw_fd()));
    let options = Options { snapshotter: Some(SnapshotterKind::Native), boot_id: Some("boot".into()) };
    let store = Store::open(&root, &options).unwrap();
    let (kept, gone) = (store.lease().unwrap(), store.lease().unwrap());
    let first = blob(&store, &kept, 0).unwrap();
    let mut blobs = Vec::new();
    for n in 1..100 {
        match blob(&store, &gone, n) {
            Ok(digest) => blobs.push(digest),
            Err(error) => {
                println!("{} blobs, then: {error}", blobs.len());
                break;
            }
        }
    }
    assert!((1..99).contains(&blobs.len()), "{}", blobs.len());
    // Nothing is left for the metadata either: it fills what there is.
    let filler = root.join("filler");
    let filled = std::fs::File::create(&filler).map(|mut file| while file.write_all(&[1; 512]).is_ok() {});
    assert!(filled.is_ok());
    store
        .db()
        .change(|tx| {
            tx.put(&kiln_store::Table::<String, Vec<u8>>::new("big"), &"k".to_owned(), &vec![7; 400_000]);
            Ok::<_, Error>(())
        })
        .unwrap();
    assert!(store.db().sync().is_err());
    assert_eq!(store.content().read(&first, 1 << 20).unwrap().len(), 200_000);
    // What makes room goes through, out of the reserve; then everything else does.
    drop(gone);
    for _ in 0..100 {
        store.wait_reaped();
        if blobs.iter().all(|digest| !store.content().path(digest).exists()) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    std::fs::remove_file(&filler).unwrap();
    // That it failed a moment ago is no reason to refuse now.
    let small = kiln_store::Table::<String, Vec<u8>>::new("small");
    let put = store.db().change(|tx| {
        tx.put(&small, &"k".to_owned(), &vec![7; 100]);
        Ok::<_, Error>(())
    });
    put.unwrap();
    store.db().sync().unwrap();
    assert!(blobs.iter().all(|digest| !store.content().path(digest).exists()));
    blob(&store, &kept, 1000).unwrap();
    assert_eq!(store.holders(&Resource::Blob(first.clone())).unwrap(), [kept.id().clone()]);
    drop(kept);
    drop(store);
    let store = Store::open(&root, &options).unwrap();
    assert!(store.content().stat(&first).unwrap().is_none());
    assert!(store.sweep().unwrap().missing.is_empty());
}
