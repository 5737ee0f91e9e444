//! Whatever the end, nothing stays.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kiln_executor::{Error, Executor, Held, ProcessIo, Resources, Stdin, run};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, descendants, mounts_below, no_strays, strays};

crate::tests![
    background_processes,
    cancelled,
    cancelled_without_a_reader,
    slow_readers_lose_nothing,
    thousand_cancelled,
    dropped,
    held_to_the_end,
    dropped_while_starting,
    out_of_memory,
    resources,
    samples,
    helper_killed
];

async fn background_processes(bench: Arc<Bench>) {
    let start = Instant::now();
    let ran = bench.run(bench.script("(sleep 30; echo late) & echo started")).await;
    assert_eq!((ran.exit.code, ran.out.as_str()), (0, "started\n"));
    assert!(start.elapsed() < Duration::from_secs(25));
}

async fn cancelled(bench: Arc<Bench>) {
    let token = CancellationToken::new();
    let (io, mut output) = ProcessIo::output(4);
    let spec = bench.script(
        "trap '' TERM INT HUP; (trap '' TERM; setsid sleep 1000) & echo up; while :; do sleep 1000; done",
    );
    let cancel = token.clone();
    let canceller = tokio::spawn(async move {
        output.recv().await.unwrap();
        cancel.cancel();
        // Whoever cancels also stops reading.
        drop(output);
    });
    let result = run(&bench.executor, spec, io, &token).await;
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    canceller.await.unwrap();
    assert!(matches!(
        run(&bench.executor, bench.script("true"), ProcessIo::default(), &token).await,
        Err(Error::Cancelled)
    ));
}

async fn cancelled_without_a_reader(bench: Arc<Bench>) {
    let token = CancellationToken::new();
    let (io, output) = ProcessIo::output(1);
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    let result = run(&bench.executor, bench.script("yes"), io, &token).await;
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    drop(output);
}

async fn slow_readers_lose_nothing(bench: Arc<Bench>) {
    let (io, mut output) = ProcessIo::output(1);
    let executor: &dyn Executor = &bench.executor;
    let mut spec = bench.script("seq 200000; seq 100 >&2");
    // Ticks that interrupt the waiting.
    spec.samples = true;
    let container = executor.start(spec, io).await.unwrap();
    let mut bytes = 0;
    let mut chunks = 0;
    while let Some(chunk) = output.recv().await {
        bytes += chunk.data.len();
        chunks += 1;
        if chunks % 4 == 0 {
            container.resize(kiln_executor::WinSize { rows: 1, cols: 1 });
            container.signal(0);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(container.wait().await.unwrap().code, 0);
    assert_eq!(bytes, 1_288_895 + 292);
}

/// Steps that fork and ignore signals, cancelled at moments of all kinds.
async fn thousand_cancelled(bench: Arc<Bench>) {
    let count = if cfg!(debug_assertions) { 1000 } else { 3000 };
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        while tasks.len() >= 8 {
            tasks.join_next().await.unwrap().unwrap();
        }
        let bench = bench.clone();
        tasks.spawn(async move {
            let spec = bench.script("trap '' TERM; for i in 1 2 3 4; do (trap '' TERM; setsid sleep 1000; :) & done; f() { [ $1 = 0 ] || { f $(($1-1)) & f $(($1-1)) & }; sleep 1000; }; f 5");
            let token = CancellationToken::new();
            let cancel = token.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(n % 40 * 500)).await;
                cancel.cancel();
            });
            let result = run(&bench.executor, spec, ProcessIo::default(), &token).await;
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    println!("    {count} in {:.1?}", start.elapsed());
    // When a run has returned, nothing of it is left: no waiting here.
    assert!(strays().is_empty(), "{:?}", strays());
    // At most the helper and what it has prepared.
    assert!(descendants().len() <= 3, "{:?}", descendants());
    assert_eq!(mounts_below(bench.folder()), [""; 0]);
}

async fn dropped(bench: Arc<Bench>) {
    let container = bench.start("trap '' TERM; sleep 1000 & sleep 1000").await;
    assert!(!strays().is_empty());
    drop(container);
    no_strays().await;
}

/// Notes, when it is let go of, which processes of containers there are.
struct Ground(Arc<Mutex<Option<Vec<u32>>>>);

impl Drop for Ground {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = Some(strays());
    }
}

async fn held_to_the_end(bench: Arc<Bench>) {
    for ends_by_itself in [false, true] {
        let left = Arc::new(Mutex::new(None));
        let mut spec = bench.script("trap '' TERM; sleep 1000 & sleep 1000 & read line");
        spec.held = Held::new(Arc::new(Ground(left.clone())));
        let (sender, receiver) = mpsc::channel(1);
        let io = ProcessIo { stdin: Stdin::Channel(receiver), ..ProcessIo::default() };
        let container = bench.executor.start(spec, io).await.unwrap();
        assert!(!strays().is_empty() && left.lock().unwrap().is_none());
        if ends_by_itself {
            drop(sender);
            container.wait().await.unwrap();
        } else {
            drop(container);
            no_strays().await;
            while left.lock().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert_eq!(left.lock().unwrap().take(), Some(Vec::new()));
    }
}

async fn dropped_while_starting(bench: Arc<Bench>) {
    for n in 0..100 {
        let starting = bench.start("sleep 1000");
        drop(tokio::time::timeout(Duration::from_micros(n * 50), starting).await);
    }
    no_strays().await;
}

async fn out_of_memory(bench: Arc<Bench>) {
    let mut spec = bench.script("tail /dev/zero");
    spec.resources = Resources { memory: 32 << 20, memory_swap: 32 << 20, ..Resources::default() };
    match bench.try_run(spec).await {
        Ok(ran) => assert!(ran.exit.oom_killed && ran.exit.code == 137, "{ran:?}"),
        Err(error @ (Error::Setup { .. } | Error::Unsupported { .. })) => println!("    skipped: {error}"),
        Err(error) => panic!("{error}"),
    }
    assert!(!bench.run(bench.script("exit 1")).await.exit.oom_killed);
}

async fn resources(bench: Arc<Bench>) {
    let mut spec = bench.script("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; cat /proc/self/cgroup");
    spec.resources = Resources { memory: 256 << 20, ..Resources::default() };
    match bench.try_run(spec).await {
        Ok(ran) => assert!(ran.out.starts_with("268435456\n"), "{ran:?}"),
        Err(error @ (Error::Setup { .. } | Error::Unsupported { .. })) => println!("    skipped: {error}"),
        Err(error) => panic!("{error}"),
    }
    let mut spec = bench.script("true");
    spec.cgroup_parent = Some(kiln_executor::CgroupParent("../../x".to_owned()));
    assert!(bench.try_run(spec).await.unwrap_err().to_string().contains("cgroup parent"));
}

async fn samples(bench: Arc<Bench>) {
    let mut spec = bench.script("for i in $(seq 20000); do :; done");
    spec.samples = true;
    let ran = bench.run(spec).await;
    let sample = ran.exit.samples.last().expect("one at the end");
    println!("    {sample:?}");
}

async fn helper_killed(bench: Arc<Bench>) {
    let container = bench.start("trap '' TERM; sleep 1000 & wait").await;
    for pid in descendants() {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        let name =
            std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
        if name.trim() == "kiln-runtime" {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    assert!(container.wait().await.is_err());
    // The next one has a new helper.
    assert_eq!(bench.output("echo again").await, "again\n");
}
