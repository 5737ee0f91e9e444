//! A store with a ceiling.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use common::{fixtures, step};
use kiln_worker::{Error, RefOptions};

const MB: u64 = 1 << 20;

fn filled(root: &kiln_fstree::Root, megabytes: u64) {
    root.write("big", &vec![7; (megabytes * MB) as usize], 0o644).unwrap();
}

#[tokio::test]
async fn room_is_made_of_what_nobody_uses() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        worker.make_room(u64::MAX).await.unwrap();
        worker.set_ceiling(10 * MB);
        let (old, used) = (step(worker, None, |r| filled(r, 3)), step(worker, None, |r| filled(r, 3)));
        let new = step(worker, None, |r| filled(r, 3));
        let ids = [old.id().clone(), used.id().clone(), new.id().clone()];
        drop(old);
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(new);
        // The first is enough.
        worker.make_room(2 * MB).await.unwrap();
        assert_eq!(ids.each_ref().map(|id| worker.exists(id).unwrap()), [false, true, true]);
        // What can never fit costs nothing of what is here.
        for never in [8 * MB, 10 * MB, u64::MAX] {
            assert!(
                matches!(worker.make_room(never).await, Err(Error::Full { wanted, .. }) if wanted == never)
            );
        }
        assert_eq!(ids.each_ref().map(|id| worker.exists(id).unwrap()), [false, true, true]);
        worker.make_room(6 * MB).await.unwrap();
        assert_eq!(ids.each_ref().map(|id| worker.exists(id).unwrap()), [false, true, false]);
        let Err(Error::Full { limit, used: taken, wanted }) = worker.make_room(8 * MB).await else {
            panic!("3 MB and 8 MB are no more than 10 MB")
        };
        assert!(limit == 10 * MB && wanted == 8 * MB && (3 * MB..4 * MB).contains(&taken), "{taken}");
        // What was promised to nobody is there for the next.
        worker.make_room(5 * MB).await.unwrap();
        drop(used);
        worker.make_room(9 * MB).await.unwrap();
    }
}

#[tokio::test]
async fn where_one_prune_brings_less_than_it_seemed_there_is_another() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        worker.set_ceiling(10 * MB);
        let old = step(worker, None, |r| filled(r, 3));
        let new = step(worker, None, |r| filled(r, 3));
        worker.disk_usage(&[], 0).await.unwrap();
        // Its record says that it takes 3 MB.
        let snapshot = old.unpacked().unwrap().stack().0[0].clone();
        std::fs::write(worker.store().snapshots().path(&snapshot).join("big"), "").unwrap();
        let ids = [old.id().clone(), new.id().clone()];
        drop(old);
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(new);
        worker.make_room(8 * MB).await.unwrap();
        assert_eq!(ids.each_ref().map(|id| worker.exists(id).unwrap()), [false, false]);
    }
}

#[tokio::test]
async fn work_that_grows_past_the_ceiling_is_ended_and_no_other() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        worker.set_ceiling(10 * MB);
        let unused = step(worker, None, |r| filled(r, 3));
        let unused_id = unused.id().clone();
        drop(unused);
        let small = worker.growing(tokio::time::sleep(Duration::from_millis(1500)));
        let big = async {
            let mut growth = worker.grow().await.unwrap();
            let mut tree = worker.create(None, RefOptions::default()).unwrap();
            growth.writes(tree.snapshot());
            let root = tree.open().unwrap();
            let write = async {
                for n in 0_u32.. {
                    root.write(format!("{n}"), &[7; MB as usize], 0o644).unwrap();
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            };
            let ended = growth.run(write).await;
            drop((root, tree));
            ended
        };
        let late = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            worker.growing(tokio::time::sleep(Duration::from_millis(1400))).await
        };
        let (small, big, late) = tokio::join!(small, big, late);
        assert!(matches!(big, Err(Error::Full { .. })), "{big:?}");
        assert!(small.is_ok() && late.is_ok(), "they write nothing");
        assert!(!worker.exists(&unused_id).unwrap(), "what nobody uses goes first");
        worker.make_room(9 * MB).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_done_before_anybody_looked_does_not_stay() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        worker.set_ceiling(10 * MB);
        let fast = async {
            // The watch has looked, and waits.
            tokio::time::sleep(Duration::from_millis(60)).await;
            step(worker, None, |r| filled(r, 20))
        };
        let full = worker.growing(fast).await;
        assert!(matches!(full, Err(Error::Full { limit, .. }) if limit == 10 * MB), "{full:?}");
        // It is no more in use.
        assert!(worker.growing(async { step(worker, None, |r| filled(r, 5)) }).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn measuring_keeps_nobody_from_a_kept_ref() {
    for fixture in fixtures() {
        let worker = fixture.worker.clone();
        worker.set_ceiling(10 * MB);
        // Many are in use, so that a look at them would take a while.
        let others: Vec<_> = (0..100).map(|_| step(&worker, None, |_| {})).collect();
        let options = RefOptions { retain: true, ..RefOptions::default() };
        let kept = worker.create(None, options).unwrap().id().clone();
        let measuring = tokio::spawn({
            let worker = worker.clone();
            async move {
                loop {
                    worker.make_room(u64::MAX).await.unwrap_err();
                }
            }
        });
        for _ in 0..2000 {
            drop(worker.get_mutable(&kept).unwrap());
            tokio::task::yield_now().await;
        }
        measuring.abort();
        drop(others);
    }
}
