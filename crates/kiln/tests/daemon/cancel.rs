//! Steps that fork and ignore signals, cancelled at all moments: nothing of them is left.

use std::time::{Duration, Instant};

use kiln_llb::build::{Constraints, Marshal, Run, image};
use kiln_proto::{
    control::{DiskUsageRequest, SolveRequest, control_client::ControlClient},
    pb,
};
use tokio::{task::JoinSet, time};
use tonic::transport::Channel;

use crate::support::{
    Daemon, Image, Left, Random, Registry, alone, assert_sound, connect, descendants, folder_for, setting,
    wait_for,
};

/// How many steps are under way at once.
const AT_ONCE: usize = 8;

/// A step that only a kill ends, and that tells when it has forked.
fn stubborn(registry: &Registry, n: u64) -> pb::Definition {
    let script = format!(
        "trap '' TERM INT HUP; for i in 1 2 3; do (trap '' TERM; setsid sleep 31415) & done; \
         wget -q -O /dev/null http://{}/mark/{n}; while :; do sleep 31415; done",
        registry.address
    );
    let base = format!("{}/base:latest", registry.address);
    let base = image(&base, Default::default(), Constraints::new()).unwrap();
    let run = base.env("PATH", "/bin").run(Run::new(["sh", "-c", &script])).unwrap();
    run.root().marshal(&Marshal::new(format!("stubborn {n}"))).unwrap()
}

async fn records(channel: &Channel) -> usize {
    let usage = ControlClient::new(channel.clone()).disk_usage(DiskUsageRequest::default()).await.unwrap();
    usage.into_inner().record.len()
}

async fn cancel_one(
    channel: Channel,
    definition: pb::Definition,
    mark: Option<(Registry, u64)>,
    after: Duration,
) {
    let request = SolveRequest { definition: Some(definition), ..SolveRequest::default() };
    let mut client = ControlClient::new(channel);
    let begun = async {
        if let Some((registry, n)) = mark {
            while registry.mark(&n.to_string()).is_none() {
                time::sleep(Duration::from_millis(2)).await;
            }
        }
        time::sleep(after).await;
    };
    tokio::select! {
        ended = client.solve(request) => panic!("a step that never ends has ended: {ended:?}"),
        () = begun => {}
    }
}

async fn cancel_many(address: &str, registry: &Registry, random: &mut Random, count: u64) {
    let channel = connect(address).await;
    // The base is here, and all that it takes, before anything is counted.
    cancel_one(channel.clone(), stubborn(registry, 0), Some((registry.clone(), 0)), Duration::ZERO).await;
    let before = records(&channel).await;
    let mut under_way = JoinSet::new();
    for n in 1..=count {
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await.unwrap().unwrap();
        }
        // Half of them once their processes are there, half at any time from the very beginning.
        let mark = (n % 2 == 0).then(|| (registry.clone(), n));
        let after = random.moment(Duration::from_millis(if n % 2 == 0 { 5 } else { 50 }));
        under_way.spawn(cancel_one(channel.clone(), stubborn(registry, n), mark, after));
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap();
    }
    assert_eq!(records(&channel).await, before, "a cancelled step leaves a record");
}

#[test]
fn cancelled_steps_leave_nothing() {
    let Some(_alone) = alone() else { return };
    let count = setting("KILN_TEST_CANCELS", 60);
    let registry = Registry::start(&Image::new());
    let folder = folder_for(&registry);
    let mut daemon = Daemon::start(folder.path());
    let mut random = Random::new();
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(cancel_many(&daemon.address(), &registry, &mut random, count));
    println!("{count} steps cancelled in {:.1?}", start.elapsed());
    assert!(daemon.is_up());
    // Only the helper stays, for a while, and the process that it has made ready for the next step.
    let strays = || {
        let all = descendants(daemon.pid());
        let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        all.iter().filter(|pid| !matches!(name(pid).trim(), "" | "kiln-runtime")).count()
    };
    wait_for("the end of the steps' processes", || (strays() == 0).then_some(()));
    Left::no_mounts(folder.path());
    let pid = daemon.pid();
    daemon.stop();
    Left::no_processes();
    Left::no_cgroups(pid);
    assert_sound(&folder.path().join("root"));
}
