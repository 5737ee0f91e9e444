//! What is kept between builds, and how it goes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Memory, files, fixtures, image, layer, step};
use kiln_store::{Options, Store};
use kiln_worker::{DiskRecord, Error, PruneOptions, RecordType, RefOptions, Worker};

async fn prune(worker: &Worker, options: PruneOptions) -> Vec<DiskRecord> {
    let removed = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&removed);
    worker.prune(vec![options], move |record| told.lock().unwrap().push(record)).await.unwrap();
    worker.store().wait_reaped();
    Arc::into_inner(removed).unwrap().into_inner().unwrap()
}

#[tokio::test]
async fn what_is_in_use_stays() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let first = step(worker, None, |root| root.write("a", &[1; 9000], 0o644).unwrap());
        let second = step(worker, first.unpacked().as_ref(), |root| root.write("b", b"2", 0o644).unwrap());
        let other = step(worker, None, |root| root.write("c", b"3", 0o644).unwrap());
        let (first_id, second_id) = (first.id().clone(), second.id().clone());
        drop((first, other));
        let usage = worker.disk_usage(&[], 0).await.unwrap();
        assert_eq!(usage.len(), 3);
        assert_eq!(usage.iter().filter(|r| r.in_use).count(), 2);
        let record = |id| usage.iter().find(|r| r.id == id).unwrap();
        assert!(record(first_id.clone()).size >= 9000);
        assert_eq!(record(second_id.clone()).parents, std::slice::from_ref(&first_id));
        assert_eq!(worker.disk_usage(&["inuse".into()], 0).await.unwrap().len(), 2);
        assert_eq!(worker.disk_usage(&[format!("parents=={first_id}")], 0).await.unwrap().len(), 1);
        assert!(matches!(worker.disk_usage(&["=".into()], 0).await, Err(Error::Filter(_))));

        assert_eq!(prune(worker, PruneOptions::default()).await.len(), 1);
        assert_eq!(files(&second.unpacked().unwrap()).len(), 2);
        drop(second);
        let removed = prune(worker, PruneOptions::default()).await;
        let ids: Vec<_> = removed.into_iter().map(|r| r.id).collect();
        assert_eq!(ids, [second_id, first_id.clone()], "children before parents");
        assert!(matches!(worker.get(&first_id), Err(Error::Gone(_))));
        assert_eq!(std::fs::read_dir(worker.store().snapshots().dir()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn limits_and_kinds() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        for n in 0..4u8 {
            step(worker, None, |root| root.write("f", &[n; 100_000], 0o644).unwrap());
        }
        let internal = RefOptions { record_type: RecordType::Internal, ..RefOptions::default() };
        drop(worker.create(None, internal).unwrap().commit().unwrap());
        let total: u64 = worker.disk_usage(&[], 0).await.unwrap().iter().map(|r| r.size).sum();
        let recent = PruneOptions { keep_duration_ms: 3_600_000, ..PruneOptions::default() };
        assert!(prune(worker, recent).await.is_empty(), "all were used just now");
        let limit = PruneOptions { max_used_space: total - 150_000, ..PruneOptions::default() };
        assert_eq!(prune(worker, limit).await.len(), 2);
        let filter = PruneOptions { filters: vec!["description==step".into()], ..PruneOptions::default() };
        assert_eq!(prune(worker, filter).await.len(), 2);
        assert!(prune(worker, PruneOptions::default()).await.is_empty());
        let all = PruneOptions { all: true, ..PruneOptions::default() };
        assert_eq!(prune(worker, all).await.len(), 1);
    }
}

#[tokio::test]
async fn blobs_go_with_the_last_ref() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let memory = Arc::new(Memory::default());
        let layers = [layer(&memory, &[("a", "1")]), layer(&memory, &[("b", "2")])];
        let pulled = image(worker, &layers);
        pulled.unpack(memory.providers()).await.unwrap();
        assert_eq!(worker.store().content().list(None, 10).unwrap().len(), 2);
        drop(pulled);
        assert_eq!(prune(worker, PruneOptions::default()).await.len(), 2);
        assert!(worker.store().content().list(None, 10).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(worker.store().dir().join("content/blobs/sha256")).unwrap().count(), 0);
        // Lazy again.
        assert!(image(worker, &layers).is_lazy());
    }
}

#[tokio::test]
async fn a_start_finds_everything_and_a_lost_machine_drops_what_was_not_safe() {
    for fixture in fixtures() {
        let kind = fixture.worker.store().snapshots().kind();
        let first = step(&fixture.worker, None, |root| root.write("a", b"1", 0o644).unwrap());
        let id = first.id().clone();
        fixture.worker.store().cover().unwrap();
        let second =
            step(&fixture.worker, first.unpacked().as_ref(), |root| root.write("b", b"2", 0o644).unwrap());
        let third =
            step(&fixture.worker, second.unpacked().as_ref(), |root| root.write("c", b"2", 0o644).unwrap());
        let ids = [second.id().clone(), third.id().clone()];
        drop((first, second, third));
        let dir = fixture.dir;
        drop(fixture.worker);

        let open = |boot: &str| {
            let options = Options { snapshotter: Some(kind), boot_id: Some(boot.into()) };
            Worker::open(Store::open(dir.path(), &options).unwrap()).unwrap()
        };
        let worker = open("boot");
        assert_eq!(files(&worker.get(&ids[1]).unwrap().unpacked().unwrap()), ["a=1", "b=2", "c=2"]);
        drop(worker);
        let worker = open("another boot");
        assert_eq!(files(&worker.get(&id).unwrap().unpacked().unwrap()), ["a=1"]);
        for id in &ids {
            assert!(matches!(worker.get(id), Err(Error::Gone(_))));
        }
        assert!(worker.sweep().unwrap().missing.is_empty());
    }
}

#[tokio::test]
async fn preparing_and_committing_is_quick() {
    for fixture in fixtures() {
        if fixture.worker.store().snapshots().kind() != kiln_store::SnapshotterKind::Overlay {
            continue;
        }
        let worker = &fixture.worker;
        let mut current = step(worker, None, |root| root.write("a", b"1", 0o644).unwrap());
        let mut best = std::time::Duration::MAX;
        for _ in 0..50 {
            let unpacked = current.unpacked().unwrap();
            let start = std::time::Instant::now();
            current = worker.create(Some(&unpacked), RefOptions::default()).unwrap().commit().unwrap();
            best = best.min(start.elapsed());
        }
        println!("prepare and commit: {best:?}");
        assert!(best < std::time::Duration::from_millis(5), "{best:?}");
    }
}
