//! Refs as builds use them, on each kind of snapshots.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;

use common::{Memory, Shared, files, fixtures, image, layer, open, step};
use kiln_layer::{Compression, Settings};
use kiln_store::SnapshotterKind;
use kiln_worker::{Error, LayerEvent, MountWish, NoProviders, Parents, RefOptions, RemoteOptions, Sharing};

fn none() -> Arc<dyn kiln_worker::Providers> {
    Arc::new(NoProviders)
}

#[test]
fn steps_stand_on_steps() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let first = step(worker, None, |root| {
            root.write("a", b"1", 0o644).unwrap();
            root.mkdir_all("d", 0o755).unwrap();
            root.write("d/b", b"2", 0o644).unwrap();
        });
        let base = first.unpacked().unwrap();
        let second = step(worker, Some(&base), |root| {
            root.write("a", b"3", 0o644).unwrap();
            root.remove_all("d").unwrap();
            root.mkdir_all("d", 0o755).unwrap();
            root.write("d/c", b"4", 0o644).unwrap();
        });
        assert_eq!(files(&second.unpacked().unwrap()), ["a=3", "d/", "d/c=4"]);
        assert_eq!(files(&base), ["a=1", "d/", "d/b=2"]);
        assert!(matches!(second.parents(), Parents::Layer(parent) if parent == first));
        let id = second.id().clone();
        drop((base, first, second));
        let again = worker.get(&id).unwrap();
        assert_eq!(files(&again.unpacked().unwrap()), ["a=3", "d/", "d/c=4"]);
        assert!(matches!(worker.get_mutable(&id), Err(Error::Busy(_))));
        drop(again);
        assert!(matches!(worker.get_mutable(&id), Err(Error::Kind(..))));
    }
}

#[test]
fn folders_above_mount_points_are_no_difference() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let base = step(worker, None, |root| {
            for folder in ["etc", "run/a", "srv", "opt", "mnt"] {
                root.mkdir_all(folder, 0o755).unwrap();
            }
        });
        let base = base.unpacked().unwrap();
        let mut mutable = worker.create(Some(&base), RefOptions::default()).unwrap();
        let tree = mutable.open().unwrap();
        for folder in ["etc", "run/a", "srv", "opt", "mnt"] {
            // Copied up by what is made in it and removed again, as mount points are.
            let before = tree.stat(folder).unwrap().mtime;
            tree.write(format!("{folder}/x"), b"", 0o644).unwrap();
            tree.remove(format!("{folder}/x")).unwrap();
            let dir = tree.open_dir(folder).unwrap();
            dir.set_times_self(kiln_fstree::SetTimes::both(before)).unwrap();
        }
        tree.open_dir("srv").unwrap().chmod_self(0o700).unwrap();
        tree.write("mnt/kept", b"1", 0o644).unwrap();
        // Made anew, which hides what is below.
        tree.remove_all("opt").unwrap();
        tree.mkdir_all("opt", 0o755).unwrap();
        drop(tree);
        let mounts = ["/etc/hosts", "/run/a/b", "/srv/x", "/opt/x", "/mnt/x", "/none/x"];
        mutable.forget_mount_points(mounts.into_iter()).unwrap();
        let snapshots = worker.store().snapshots();
        let second = mutable.commit().unwrap().unpacked().unwrap();
        assert_eq!(files(&second), ["etc/", "mnt/", "mnt/kept=1", "opt/", "run/", "run/a/", "srv/"]);
        if snapshots.kind() == SnapshotterKind::Overlay {
            let upper = snapshots.path(&second.stack().0[0]);
            let mut left: Vec<_> = std::fs::read_dir(upper)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort();
            assert_eq!(left, ["mnt", "opt", "srv"]);
        }
    }
}

#[test]
fn a_dropped_mutable_ref_leaves_nothing() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let mut mutable = worker.create(None, RefOptions::default()).unwrap();
        mutable.open().unwrap().write("a", b"1", 0o644).unwrap();
        let id = mutable.id().clone();
        drop(mutable);
        worker.store().wait_reaped();
        assert!(!worker.exists(&id).unwrap());
        let left = std::fs::read_dir(worker.store().snapshots().dir()).unwrap().count();
        assert_eq!(left, 1, "only the empty folder");
    }
}

#[tokio::test]
async fn image_layers_are_fetched_when_needed() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let memory = Arc::new(Memory::default());
        let layers = [
            layer(&memory, &[("etc/", ""), ("etc/a", "1"), ("gone", "x"), ("opt/old", "o")]),
            layer(&memory, &[("etc/b", "2"), (".wh.gone", "")]),
            layer(&memory, &[("opt/.wh..wh..opq", ""), ("opt/new", &"n".repeat(5000))]),
        ];
        let lazy = image(worker, &layers);
        assert!(lazy.is_lazy() && lazy.unpacked().is_none());
        assert!(memory.opened.lock().unwrap().is_empty());
        assert!(matches!(lazy.unpack(none()).await, Err(Error::NoProvider(_))));
        assert!(!lazy.is_available(&NoProviders).unwrap());

        // Two who want it at once share the work.
        let (one, two) =
            futures::future::try_join(lazy.unpack(memory.providers()), lazy.unpack(memory.providers()))
                .await
                .unwrap();
        assert_eq!(one.stack(), two.stack());
        let expected = ["etc/", "etc/a=1", "etc/b=2", "opt/", &format!("opt/new={}", "n".repeat(5000))];
        assert_eq!(files(&one), expected);
        assert_eq!(memory.opened.lock().unwrap().len(), 3);
        let events = std::mem::take(&mut *memory.events.lock().unwrap());
        let count = |wanted: fn(&LayerEvent) -> bool| events.iter().filter(|event| wanted(event)).count();
        assert_eq!(count(|e| matches!(e, LayerEvent::Fetched { .. })), 3);
        assert_eq!(count(|e| matches!(e, LayerEvent::Unpacked { .. })), 3);

        // The same image again is the same ref, also after a start; the same files in other blobs share the snapshots.
        assert_eq!(image(worker, &layers), lazy);
        let mut others = layers.clone();
        for (n, other) in others.iter_mut().enumerate() {
            other.descriptor.digest = kiln_oci::Digest::sha256([n as u8]);
        }
        let twin = image(worker, &others);
        assert_ne!(twin, lazy);
        assert_eq!(twin.chain_id(), lazy.chain_id());
        assert_eq!(files(&twin.unpack(none()).await.unwrap()), expected);
    }
}

#[tokio::test]
async fn a_long_chain_is_unpacked_on_a_small_stack() {
    for fixture in fixtures() {
        let memory = Memory::default();
        let layers: Vec<_> = (0..150).map(|n| layer(&memory, &[(&format!("f{n}"), "1")])).collect();
        let memory = Arc::new(memory);
        let lazy = image(&fixture.worker, &layers);
        let unpacked = lazy.unpack(memory.providers()).await.unwrap();
        assert_eq!(files(&unpacked).len(), 150);
    }
}

#[tokio::test]
async fn a_cut_transfer_resumes_and_wrong_bytes_are_refused() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let memory = Arc::new(Memory::default());
        let noise: String =
            (0..2000u32).map(|n| kiln_oci::Digest::sha256(n.to_be_bytes()).hex().to_owned()).collect();
        let big = layer(&memory, &[("f", &noise)]);
        let lazy = image(worker, std::slice::from_ref(&big));
        *memory.cut.lock().unwrap() = Some(5000);
        let error = lazy.unpack(memory.providers()).await.unwrap_err();
        assert!(matches!(error, Error::Fetch { .. }), "{error}");
        lazy.unpack(memory.providers()).await.unwrap();
        assert_eq!(memory.opened.lock().unwrap()[1].1, 5000);

        let mut wrong = layer(&memory, &[("g", "1")]);
        wrong.diff_id = kiln_oci::Digest::sha256("something else");
        let error = image(worker, &[wrong]).unpack(memory.providers()).await.unwrap_err();
        assert!(matches!(error, Error::DiffId { .. }), "{error}");

        let honest = layer(&memory, &[("h", "1")]);
        let changed =
            memory.blobs.lock().unwrap()[&big.descriptor.digest].slice(..honest.descriptor.size as usize);
        memory.blobs.lock().unwrap().insert(honest.descriptor.digest.clone(), changed);
        image(worker, &[honest]).unpack(memory.providers()).await.unwrap_err();
        worker.store().wait_reaped();
        assert_eq!(worker.sweep().unwrap().snapshots, 0);
    }
}

#[tokio::test]
async fn merges_and_differences() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let a = step(worker, None, |root| {
            root.mkdir_all("d", 0o755).unwrap();
            root.write("d/a", b"1", 0o644).unwrap();
            root.write("x", b"a", 0o644).unwrap();
        });
        let b = step(worker, None, |root| {
            root.mkdir_all("d", 0o755).unwrap();
            root.write("d/b", b"2", 0o644).unwrap();
            root.write("x", b"bb", 0o644).unwrap();
        });
        // The folder is made anew: in its layer it hides what its own base had, and nothing else.
        let c = step(worker, Some(&b.unpacked().unwrap()), |root| {
            root.remove_all("d").unwrap();
            root.mkdir_all("d", 0o755).unwrap();
            root.write("d/c", b"3", 0o644).unwrap();
        });
        let merged = worker.merge(&[a.clone(), b.clone()], RefOptions::default()).unwrap().unwrap();
        assert!(merged.is_lazy());
        let merged = merged.unpack(none()).await.unwrap();
        assert_eq!(files(&merged), ["d/", "d/a=1", "d/b=2", "x=bb"]);
        let merged = worker.merge(&[a.clone(), c.clone()], RefOptions::default()).unwrap().unwrap();
        let unpacked = merged.unpack(none()).await.unwrap();
        assert_eq!(files(&unpacked), ["d/", "d/a=1", "d/c=3", "x=bb"]);
        let twice = worker.merge(&[merged.clone(), a.clone()], RefOptions::default()).unwrap().unwrap();
        assert_eq!(files(&twice.unpack(none()).await.unwrap()), ["d/", "d/a=1", "d/c=3", "x=a"]);

        let diff = worker.diff(Some(&b), Some(&c), RefOptions::default()).unwrap().unwrap();
        assert_eq!(files(&diff.unpack(none()).await.unwrap()), ["d/", "d/c=3"]);
        let on_a = worker.merge(&[a.clone(), diff], RefOptions::default()).unwrap().unwrap();
        assert_eq!(files(&on_a.unpack(none()).await.unwrap()), ["d/", "d/a=1", "d/c=3", "x=a"]);
        let unrelated = worker.diff(Some(&a), Some(&b), RefOptions::default()).unwrap().unwrap();
        assert_eq!(files(&unrelated.unpack(none()).await.unwrap()), ["d/", "d/b=2", "x=bb"]);
        let on_a = worker.merge(&[a.clone(), unrelated.clone()], RefOptions::default()).unwrap().unwrap();
        assert_eq!(files(&on_a.unpack(none()).await.unwrap()), ["d/", "d/b=2", "x=bb"]);
        assert_eq!(unrelated.layers(RemoteOptions::default(), none()).await.unwrap().len(), 1);

        assert!(worker.diff(Some(&a), Some(&a), RefOptions::default()).unwrap().is_none());
        assert_eq!(worker.diff(None, Some(&a), RefOptions::default()).unwrap(), Some(a.clone()));
        assert!(worker.merge(&[], RefOptions::default()).unwrap().is_none());
    }
}

#[tokio::test]
async fn layers_are_made_once_and_serve_everywhere() {
    let mut diff_ids = Vec::new();
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let memory = Arc::new(Memory::default());
        let base = image(worker, &[layer(&memory, &[("a", "1"), ("b", "1")])]);
        let unpacked = base.unpack(memory.providers()).await.unwrap();
        let top = step(worker, Some(&unpacked), |root| {
            root.remove("a").unwrap();
            root.write("c", b"2", 0o644).unwrap();
        });
        let gzip = RemoteOptions::default();
        assert!(top.known_layers(gzip).is_none());
        let layers = top.layers(gzip, none()).await.unwrap();
        assert_eq!(layers.len(), 2);
        assert_eq!(layers[0].descriptor, base.blobs()[0]);
        assert!(layers[1].is_here().unwrap());
        assert_eq!(top.diff_id().as_ref(), Some(&layers[1].diff_id));
        assert!(top.chain_id().is_some());
        let again: Vec<_> = top.known_layers(gzip).unwrap().into_iter().map(|l| l.descriptor).collect();
        assert_eq!(again, layers.iter().map(|l| l.descriptor.clone()).collect::<Vec<_>>());

        let zstd = RemoteOptions { settings: Settings::from(Compression::Zstd), force: false };
        assert_eq!(top.layers(zstd, none()).await.unwrap()[1].descriptor, layers[1].descriptor);
        let forced = top.layers(RemoteOptions { force: true, ..zstd }, none()).await.unwrap();
        assert_eq!(forced[1].descriptor.media_type, kiln_oci::media_type::OCI_LAYER_ZSTD);
        assert_eq!(forced[1].diff_id, layers[1].diff_id);
        assert_eq!(forced[0].diff_id, layers[0].diff_id);

        // What we made unpacks to the same tree elsewhere.
        for layer in &layers {
            let bytes = worker.store().content().read(&layer.descriptor.digest, 1 << 20).unwrap();
            memory.add(bytes);
        }
        let other = tempfile::tempdir().unwrap();
        let other = open(other.path(), SnapshotterKind::Native).unwrap();
        let sources: Vec<_> = layers
            .iter()
            .map(|l| kiln_worker::LayerSource {
                descriptor: l.descriptor.clone(),
                diff_id: l.diff_id.clone(),
            })
            .collect();
        let copy = image(&other, &sources).unpack(memory.providers()).await.unwrap();
        assert_eq!(files(&copy), ["b=1", "c=2"]);

        let merged = worker.merge(&[base.clone(), top.clone()], RefOptions::default()).unwrap().unwrap();
        assert_eq!(merged.layers(gzip, none()).await.unwrap().len(), 3);
        let diff = worker.diff(Some(&base), Some(&top), RefOptions::default()).unwrap().unwrap();
        let layers_of_diff = diff.layers(gzip, none()).await.unwrap();
        assert_eq!(layers_of_diff.len(), 1);
        assert_eq!(layers_of_diff[0].descriptor, layers[1].descriptor);
        diff_ids.push(kiln_oci::Digest::sha256(files(&top.unpacked().unwrap()).join("\n")));
    }
    diff_ids.dedup();
    assert!(diff_ids.len() <= 1);
}

#[tokio::test]
async fn cache_mounts_are_shared_private_or_locked() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let base = step(worker, None, |root| root.write("seed", b"s", 0o600).unwrap()).unpacked().unwrap();
        let wish = |sharing| MountWish { name: "k", base: Some(&base), sharing, description: "cached mount" };
        let one = worker.cache_mount(wish(Sharing::Shared), None).await.unwrap();
        let two = worker.cache_mount(wish(Sharing::Shared), None).await.unwrap();
        assert_eq!(one.id(), two.id());
        let root = one.mount_spec().open().unwrap();
        assert_eq!(root.read("seed", 10).unwrap(), b"s");
        root.write("new", b"n", 0o644).unwrap();
        let own = worker.cache_mount(wish(Sharing::Private), None).await.unwrap();
        assert_ne!(own.id(), one.id());
        assert!(own.mount_spec().open().unwrap().read("new", 10).is_err());

        // Both are in use: who locks must wait until one is free.
        let wait = worker.cache_mount(wish(Sharing::Locked), None);
        let mut wait = std::pin::pin!(wait);
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut wait).await;
        assert!(early.is_err());
        let id = one.id().clone();
        drop((one, two));
        let locked = wait.await.unwrap();
        assert_eq!(locked.id(), &id);
        assert_eq!(locked.mount_spec().open().unwrap().read("new", 10).unwrap(), b"n");
        drop((locked, own));
        let usage = worker.disk_usage(&["type==exec.cachemount".into()], 0).await.unwrap();
        assert_eq!(usage.len(), 2);
        assert!(
            usage.iter().all(|r| r.mutable && !r.in_use && r.size > 0 && r.description == "cached mount")
        );
    }
}

#[tokio::test]
async fn a_kept_tree_lends_its_files() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let options =
            RefOptions { retain: true, keys: vec!["local:x".into()], ..RefOptions::described("local") };
        let mut tree = worker.create(None, options).unwrap();
        tree.open().unwrap().write("a", b"1", 0o644).unwrap();
        tree.set_value("hashes", b"h".to_vec()).unwrap();
        let kept = tree.id().clone();
        let lent = tree.commit_kept().unwrap();
        assert_eq!(lent.value("hashes").unwrap().unwrap(), b"h");
        assert_eq!(files(&lent.unpacked().unwrap()), ["a=1"]);
        assert!(worker.reopen(&kept).unwrap().is_none(), "the files are in use");
        let usage = worker.disk_usage(&[], 0).await.unwrap();
        assert_eq!(usage.len(), 1);
        assert!(!usage[0].mutable);
        lent.set_value("hashes", b"more".to_vec()).unwrap();
        let lent_id = lent.id().clone();
        drop(lent);
        let usage = worker.disk_usage(&[], 0).await.unwrap();
        assert_eq!((usage.len(), &usage[0].id), (1, &kept));
        assert!(usage[0].size > 0);

        assert_eq!(worker.find("local:x").unwrap(), std::slice::from_ref(&kept));
        let mut tree = worker.reopen(&kept).unwrap().unwrap();
        assert!(matches!(worker.get(&lent_id), Err(Error::Gone(_))));
        assert_eq!(tree.value("hashes").unwrap().unwrap(), b"more", "what was learnt meanwhile is kept");
        tree.open().unwrap().write("a", b"2", 0o644).unwrap();
        let lent = tree.commit_kept().unwrap();
        assert_eq!(files(&lent.unpacked().unwrap()), ["a=2"]);
        // A ref that stands on it keeps it from changing.
        let child =
            step(worker, Some(&lent.unpacked().unwrap()), |root| root.write("b", b"3", 0o644).unwrap());
        drop((lent, child));
        assert!(worker.reopen(&kept).unwrap().is_none());
        worker.prune(vec![Default::default()], |_| {}).await.unwrap();
        worker.store().wait_reaped();
        assert!(worker.disk_usage(&[], 0).await.unwrap().is_empty());
        assert_eq!(std::fs::read_dir(worker.store().snapshots().dir()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn chains_of_layers_may_be_longer_than_a_threads_stack() {
    for fixture in fixtures() {
        let memory = Arc::new(Memory::default());
        let one = layer(&memory, &[("a", "1")]);
        let lazy = image(&fixture.worker, &vec![one; 1024]).id().clone();
        let mut unpacked = step(&fixture.worker, None, |_| {});
        for _ in 0..200 {
            unpacked = step(&fixture.worker, unpacked.unpacked().as_ref(), |_| {});
        }
        let (worker, unpacked_id, memory) = (fixture.worker.clone(), unpacked.id().clone(), memory.clone());
        drop(unpacked);
        let look = move || {
            let lazy = worker.get(&lazy).unwrap();
            assert!(lazy.is_lazy());
            assert!(lazy.is_available(&Shared(memory)).unwrap());
            assert!(!lazy.is_available(&NoProviders).unwrap());
            assert!(worker.get(&unpacked_id).unwrap().unpacked().is_some());
        };
        std::thread::Builder::new().stack_size(192 << 10).spawn(look).unwrap().join().unwrap();
    }
}

#[tokio::test]
async fn merges_of_merges_have_their_limits() {
    for fixture in fixtures() {
        let worker = fixture.worker.clone();
        let (memory, options) = (Arc::new(Memory::default()), RefOptions::default);
        let one = image(&worker, &[layer(&memory, &[("a", "1")])]);
        // Deep within one another.
        let mut deep = one.clone();
        for _ in 0..1500 {
            deep = worker.merge(&[deep, one.clone()], options()).unwrap().unwrap();
        }
        let look = move || {
            let layers = deep.known_layers(RemoteOptions::default()).unwrap();
            assert_eq!(layers.len(), 1501);
        };
        std::thread::Builder::new().stack_size(192 << 10).spawn(look).unwrap().join().unwrap();
        // Twice as many with each.
        let mut twice = one;
        for n in 1..=12 {
            twice = worker.merge(&[twice.clone(), twice], options()).unwrap().unwrap();
            assert_eq!(twice.known_layers(RemoteOptions::default()).unwrap().len(), 1 << n);
        }
        let refused = worker.merge(&[twice.clone(), twice], options());
        assert!(matches!(refused, Err(Error::Layers { count: 8192, limit: 4096 })), "{refused:?}");
    }
}
