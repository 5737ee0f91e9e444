use std::io::Write;

use super::*;
use crate::Stack;

fn native() -> Options {
    Options { snapshotter: Some(SnapshotterKind::Native), boot_id: Some("boot-1".into()) }
}

fn blob(store: &Store, lease: &LeaseId, bytes: &[u8]) -> kiln_oci::Digest {
    let mut ingest = store.content().ingest().unwrap();
    ingest.write_all(bytes).unwrap();
    ingest.commit(store, lease, None, None).unwrap().digest
}

fn snapshot(store: &Store, lease: &LeaseId, text: &str) -> SnapshotId {
    let active = store.snapshots().prepare(&Stack::default()).unwrap();
    std::fs::write(store.snapshots().path(active.id()).join("f"), text).unwrap();
    store.change(|tx| tx.add_snapshot(active.id(), &SnapshotInfo::default(), lease)).unwrap();
    active.keep()
}

fn lasting(store: &Store, id: &str) -> LeaseId {
    let id = LeaseId(id.to_owned());
    store
        .change(|tx| {
            tx.create_lease(&id, &LeaseInfo::lasting());
            Ok::<_, Error>(())
        })
        .unwrap();
    id
}

#[test]
fn the_last_hold_keeps_a_resource() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &native()).unwrap();
    let first = store.lease().unwrap();
    let second = lasting(&store, "record");
    let digest = blob(&store, first.id(), b"bytes");
    let resource = Resource::Blob(digest.clone());
    store.change(|tx| tx.hold(&second, &resource)).unwrap();
    drop(first);
    store.wait_reaped();
    assert_eq!(store.content().read(&digest, 100).unwrap(), b"bytes");
    assert_eq!(store.holders(&resource).unwrap(), std::slice::from_ref(&second));
    assert_eq!(store.held_by(&second).unwrap(), std::slice::from_ref(&resource));
    store.change(|tx| tx.release(&second)).unwrap();
    assert!(store.content().stat(&digest).unwrap().is_none());
    store.wait_reaped();
    assert!(!store.content().path(&digest).exists());
    let error = store.change(|tx| tx.hold(&second, &resource)).unwrap_err();
    assert!(error.is_not_found());
}

#[test]
fn a_blob_stays_while_a_kill_could_bring_its_record_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &native()).unwrap();
    let lease = lasting(&store, "record");
    let digest = blob(&store, &lease, b"bytes");
    store.db().sync().unwrap();
    // Its record is deleted for readers, and not in the file yet, when an earlier removal of the same blob comes late.
    store
        .db()
        .change(|tx| {
            tx.delete(&BLOBS, &digest);
            Ok::<_, Error>(())
        })
        .unwrap();
    store.content().remove_data(&digest).unwrap();
    assert!(store.content().path(&digest).exists() || store.db().is_absent(&BLOBS, &digest).unwrap());
    store.db().sync().unwrap();
    store.content().remove_data(&digest).unwrap();
    assert!(!store.content().path(&digest).exists());
}

#[test]
fn an_active_snapshot_goes_when_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &native()).unwrap();
    let active = store.snapshots().prepare(&Stack::default()).unwrap();
    let path = store.snapshots().path(active.id());
    assert!(path.exists());
    drop(active);
    store.wait_reaped();
    assert!(!path.exists());
}

#[test]
fn a_later_start_sweeps_what_a_kill_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &native()).unwrap();
    let lease = lasting(&store, "record");
    let kept = snapshot(&store, &lease, "kept");
    let digest = blob(&store, &lease, b"kept");
    let temporary = store.lease().unwrap();
    let unheld = blob(&store, temporary.id(), b"temporary");
    // As a kill leaves them: no destructor runs.
    std::mem::forget(temporary);
    let half = store.snapshots().prepare(&Stack::default()).unwrap().keep();
    let stray = store.content().path(&kiln_oci::Digest::sha256(b"stray"));
    std::fs::write(&stray, "stray").unwrap();
    std::mem::forget(store.content().ingest().unwrap());
    let resumable = store.content().resume("layer").unwrap();
    drop(resumable);
    store.db().sync().unwrap();
    // The forgotten lease keeps a clone: give up the lock by hand.
    let path = store.dir().to_owned();
    let leaked = store.inner.clone();
    drop(store);
    let copy = dir.path().join("copy");
    copy_dir(&path, &copy.join("kiln"));
    drop(leaked);

    let store = Store::open(&copy, &native()).unwrap();
    assert!(store.lost().is_empty());
    let swept = store.sweep().unwrap();
    assert_eq!((swept.snapshots, swept.ingests, swept.leases), (1, 1, 1), "{swept:?}");
    assert!(swept.blobs >= 1, "{swept:?}");
    assert!(swept.missing.is_empty());
    store.wait_reaped();
    assert!(!store.snapshots().path(&half).exists());
    assert!(store.snapshots().path(&kept).exists());
    assert!(!store.content().path(&unheld).exists());
    assert_eq!(store.content().read(&digest, 100).unwrap(), b"kept");
    std::fs::remove_file(store.content().path(&digest)).unwrap();
    assert_eq!(store.sweep().unwrap().missing, [Resource::Blob(digest)]);
}

/// A copy of a state folder whose database is still open, as a snapshot of the disk would be.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_lost_machine_loses_what_was_not_covered() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &native()).unwrap();
    let lease = lasting(&store, "record");
    let covered = snapshot(&store, &lease, "covered");
    store.cover().unwrap();
    let uncovered = snapshot(&store, &lease, "uncovered");
    let digest = blob(&store, &lease, b"uncovered");
    drop(store);

    // The same boot: a killed process loses nothing.
    let store = Store::open(dir.path(), &native()).unwrap();
    assert!(store.lost().is_empty());
    drop(store);

    let later = Options { boot_id: Some("boot-2".into()), ..native() };
    let store = Store::open(dir.path(), &later).unwrap();
    let lost = [Resource::Blob(digest.clone()), Resource::Snapshot(uncovered.clone())];
    assert_eq!(store.lost(), lost);
    assert_eq!(store.holders(&lost[1]).unwrap(), [lease]);
    drop(store);
    // Nobody took care of it: it stays lost.
    let store = Store::open(dir.path(), &later).unwrap();
    assert_eq!(store.lost(), lost);
    store.forget_lost().unwrap();
    store.wait_reaped();
    assert!(!store.snapshots().path(&uncovered).exists());
    assert!(store.snapshots().path(&covered).exists());
    drop(store);
    let store = Store::open(dir.path(), &later).unwrap();
    assert!(store.lost().is_empty());
    assert!(store.content().stat(&digest).unwrap().is_none());
}

#[test]
fn an_ingest_resumes_and_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &native()).unwrap();
    let lease = store.lease().unwrap();
    let expected = kiln_oci::Digest::sha256(b"hello world");
    let mut ingest = store.content().resume("k").unwrap();
    assert!(matches!(store.content().resume("k"), Err(Error::IngestBusy(_))));
    ingest.write_all(b"hello ").unwrap();
    drop(ingest);
    let mut ingest = store.content().resume("k").unwrap();
    assert_eq!(ingest.offset(), 6);
    ingest.write_all(b"world").unwrap();
    let info = ingest.commit(&store, lease.id(), Some(&expected), Some(11)).unwrap();
    assert_eq!(info.digest, expected);
    let mut buffer = [0; 5];
    assert_eq!(store.content().blob(&expected).unwrap().read_at(&mut buffer, 6).unwrap(), 5);
    assert_eq!(&buffer, b"world");
    // Wrong bytes are gone, also for a later resume.
    let mut ingest = store.content().resume("k").unwrap();
    assert_eq!(ingest.offset(), 0);
    ingest.write_all(b"other").unwrap();
    let error = ingest.commit(&store, lease.id(), Some(&expected), None).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }));
    assert_eq!(store.content().resume("k").unwrap().offset(), 0);
    let list = store.content().list(None, 10).unwrap();
    assert_eq!(list, [info]);
}

#[test]
fn an_expired_lease_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &native()).unwrap();
    let id = LeaseId("x".into());
    let info = LeaseInfo { expires: Some(1), ..LeaseInfo::lasting() };
    store
        .change(|tx| {
            tx.create_lease(&id, &info);
            Ok::<_, Error>(())
        })
        .unwrap();
    let digest = blob(&store, &id, b"short");
    assert_eq!(store.release_expired().unwrap(), 1);
    assert!(store.content().stat(&digest).unwrap().is_none());
}

#[test]
fn a_second_process_is_refused_and_another_snapshotter_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &native()).unwrap();
    assert!(matches!(Store::open(dir.path(), &native()), Err(Error::Locked { .. })));
    drop(store);
    let overlay = Options { snapshotter: Some(SnapshotterKind::Overlay), ..native() };
    match Store::open(dir.path(), &overlay) {
        Err(Error::Snapshotter { .. }) => {}
        Err(error) if error.is_mount_denied() => println!("skipped: mounting is not permitted here: {error}"),
        other => panic!("{other:?}"),
    }
}
