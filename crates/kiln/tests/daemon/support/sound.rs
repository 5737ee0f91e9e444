//! Whether a state folder is in order.

use std::{collections::BTreeSet, path::Path};

use kiln_oci::Digest;
use kiln_store::{Options, SnapshotId, Store};
use kiln_worker::Worker;

/// No record points to missing data, nothing lies there without a record, and all blobs are whole. No daemon may run.
pub(crate) fn assert_sound(root: &Path) {
    let store = Store::open(root, &Options::default()).unwrap();
    assert!(store.lost().is_empty(), "the machine has not gone down");
    let worker = Worker::open(store.clone()).unwrap();
    let swept = worker.sweep().unwrap();
    assert_eq!(swept.missing, [], "a record points to nothing");
    store.wait_reaped();
    assert_eq!(worker.problems().unwrap(), [""; 0], "records that do not fit together");
    let blobs = store.content().list(None, usize::MAX).unwrap();
    for blob in &blobs {
        let bytes = store.content().read(&blob.digest, 1 << 30).unwrap();
        assert_eq!(Digest::sha256(bytes), blob.digest, "a blob is damaged");
    }
    let content = root.join("kiln/content");
    let hexes: BTreeSet<String> = blobs.iter().map(|blob| blob.digest.hex().to_owned()).collect();
    assert_eq!(names(&content.join("blobs/sha256")), hexes, "blobs and their records");
    let snapshots = names(store.snapshots().dir());
    // Overlay's lowest folder, which belongs to nobody.
    for name in snapshots.iter().filter(|name| *name != "empty") {
        let id = SnapshotId::parse(name).unwrap_or_else(|| panic!("{name} among the snapshots"));
        let record = store.change(|tx| tx.snapshot(&id)).unwrap();
        assert!(record.is_some(), "the snapshot {name} has no record");
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
