//! Kills a process at random moments while it writes to a store, and looks at what is left.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_oci::Digest;
use kiln_store::{
    Error, LeaseId, LeaseInfo, Options, Resource, SnapshotId, SnapshotInfo, SnapshotterKind, Stack, Store,
};

const ROOT: &str = "KILN_TEST_KILL_ROOT";
const KIND: &str = "KILN_TEST_KILL_KIND";
const ROUNDS: u64 = 30;

/// Numbers that a seed decides.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

fn options(kind: SnapshotterKind) -> Options {
    Options { snapshotter: Some(kind), ..Options::default() }
}

fn text(id: &SnapshotId) -> String {
    format!("{id} ").repeat(5000)
}

/// The process that is killed: makes and drops leases, blobs and snapshots for ever.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let (kind, seed) = match std::env::var(KIND).unwrap().split_once(' ') {
        Some(("overlay", seed)) => (SnapshotterKind::Overlay, seed.parse().unwrap()),
        Some((_, seed)) => (SnapshotterKind::Native, seed.parse().unwrap()),
        None => return,
    };
    let mut random = Random(seed);
    let store = Store::open(Path::new(&root), &options(kind)).unwrap();
    println!("open");
    store.sweep().unwrap();
    let mut leases: Vec<(LeaseId, Stack)> = Vec::new();
    for n in 0u64.. {
        let id = LeaseId(format!("{}/{n}", store.generation()));
        store
            .change(|tx| {
                tx.create_lease(&id, &LeaseInfo::lasting());
                Ok::<_, Error>(())
            })
            .unwrap();
        let mut ingest = store.content().resume("some blob").unwrap();
        ingest.restart().unwrap();
        ingest
            .write_all(text(&SnapshotId::parse(&format!("0-{}", random.below(20))).unwrap()).as_bytes())
            .unwrap();
        ingest.commit(&store, &id, None, None).unwrap();
        let base = leases
            .last()
            .map(|(_, stack)| stack.clone())
            .filter(|stack| stack.0.len() < 5)
            .unwrap_or_default();
        let active = store.snapshots().prepare(&base).unwrap();
        let path = store.snapshots().path(active.id());
        std::fs::write(path.join(active.id().as_str()), text(active.id())).unwrap();
        store.change(|tx| tx.add_snapshot(active.id(), &SnapshotInfo::default(), &id)).unwrap();
        let stack = store.snapshots().stack(active.id(), &base);
        active.keep();
        leases.push((id, stack));
        if leases.len() > 8 {
            let gone = random.below(leases.len() as u64);
            let (gone, _) = leases.remove(gone as usize);
            store.change(|tx| tx.release(&gone)).unwrap();
        }
        if random.below(10) == 0 {
            store.db().sync().unwrap();
        }
    }
}

fn check(root: &Path, kind: SnapshotterKind) -> (usize, usize) {
    let store = Store::open(root, &options(kind)).unwrap();
    assert!(store.lost().is_empty());
    let swept = store.sweep().unwrap();
    assert_eq!(swept.missing, [], "a record points to nothing");
    store.wait_reaped();
    let mut snapshots = 0;
    for entry in std::fs::read_dir(store.snapshots().dir()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(id) = SnapshotId::parse(&name) else { continue };
        let record = store.change(|tx| tx.snapshot(&id)).unwrap();
        assert!(record.is_some(), "{name} was left behind");
        assert!(!store.holders(&Resource::Snapshot(id.clone())).unwrap().is_empty());
        let file = store.snapshots().path(&id).join(&name);
        assert_eq!(std::fs::read_to_string(file).unwrap(), text(&id), "{name} is not whole");
        snapshots += 1;
    }
    let blobs = store.content().list(None, usize::MAX).unwrap();
    for blob in &blobs {
        assert_eq!(Digest::sha256(store.content().read(&blob.digest, 1 << 20).unwrap()), blob.digest);
        assert!(!store.holders(&Resource::Blob(blob.digest.clone())).unwrap().is_empty());
    }
    let files = std::fs::read_dir(root.join("kiln/content/blobs/sha256")).unwrap().count();
    assert_eq!(files, blobs.len(), "a blob without a record was left behind");
    let ingests = std::fs::read_dir(root.join("kiln/content/ingest")).unwrap();
    let ingests: Vec<_> = ingests.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(ingests.iter().all(|name| name.starts_with('k')), "{ingests:?}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    assert!(!mounts.contains(root.to_str().unwrap()), "something is mounted");
    (snapshots, blobs.len())
}

fn kill_often(kind: SnapshotterKind) {
    let dir = tempfile::tempdir().unwrap();
    match Store::open(dir.path(), &options(kind)) {
        Ok(store) => drop(store),
        Err(error) if error.is_mount_denied() => {
            println!("skipped: mounting is not permitted here: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    let (mut snapshots, mut blobs) = (0, 0);
    for _ in 0..ROUNDS {
        let name = if kind == SnapshotterKind::Overlay { "overlay" } else { "native" };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(ROOT, dir.path())
            .env(KIND, format!("{name} {}", random.below(u64::MAX >> 33)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Half of the kills come while the store opens.
        if random.below(2) == 0 {
            let mut said = Vec::new();
            while !said.ends_with(b"open\n") {
                let mut byte = [0];
                child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
                said.push(byte[0]);
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(250_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = check(dir.path(), kind);
        (snapshots, blobs) = (snapshots + found.0, blobs + found.1);
    }
    assert!(snapshots > 0 && blobs > 0, "the rounds were too short to show anything");
}

#[test]
fn a_killed_process_leaves_a_whole_store_native() {
    kill_often(SnapshotterKind::Native);
}

#[test]
fn a_killed_process_leaves_a_whole_store_overlay() {
    kill_often(SnapshotterKind::Overlay);
}
