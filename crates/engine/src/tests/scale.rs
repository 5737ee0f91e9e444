//! Large graphs, and how long the engine itself takes.

use std::time::{Duration, Instant};

use crate::tests::fake::{Bench, Plan};

fn chain(bench: &Bench, length: usize) -> Plan {
    let mut plan = bench.plan();
    plan.add("v0", &[]);
    for i in 1..length {
        plan.add(&format!("v{i}"), &[&format!("v{}", i - 1)]);
    }
    plan
}

#[tokio::test]
async fn a_long_chain_is_built_and_found_again() {
    let bench = Bench::new();
    let plan = chain(&bench, 10_000);
    let start = Instant::now();
    let job = bench.job();
    let result = plan.build(&job, "v9999").await.unwrap();
    assert_eq!(bench.world.take_ran().len(), 10_000);
    job.close().await;
    drop(result);
    plan.build(&bench.job(), "v9999").await.unwrap();
    assert_eq!((bench.world.take_ran().len(), bench.loads()), (0, 1));
    println!("10000 vertices: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_wide_graph_is_built_and_found_again() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.add("base", &[]);
    let names: Vec<String> = (0..5_000).map(|i| format!("v{i}")).collect();
    for name in &names {
        plan.add(name, &["base"]);
    }
    plan.add("all", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let start = Instant::now();
    let job = bench.job();
    plan.build(&job, "all").await.unwrap();
    assert_eq!(bench.world.take_ran().len(), 5_002);
    job.close().await;
    plan.build(&bench.job(), "all").await.unwrap();
    assert_eq!((bench.world.take_ran().len(), bench.loads()), (0, 1));
    println!("5000 wide: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_cached_build_costs_next_to_nothing() {
    let bench = Bench::new();
    let plan = chain(&bench, 24);
    plan.build(&bench.job(), "v23").await.unwrap();
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let job = bench.job();
        let graph = (plan.graph(), plan.edge("v23"));
        let start = Instant::now();
        job.build(graph.0, graph.1).await.unwrap();
        best = best.min(start.elapsed());
        job.close().await;
    }
    println!("24 cached steps: {best:?}");
    assert!(best < Duration::from_millis(20), "{best:?} (unoptimised)");
}

/// Many jobs on many threads, some of which give up. What comes out is right, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_do_not_get_in_each_others_way() {
    let bench = std::sync::Arc::new(Bench::new());
    let tasks: Vec<_> = (0..8u64).map(|seed| tokio::spawn(hammer(bench.clone(), seed))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut census = bench.engine.census().await;
    for _ in 0..1000 {
        if census == Default::default() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        census = bench.engine.census().await;
    }
    assert_eq!(census, Default::default());
}

async fn hammer(bench: std::sync::Arc<Bench>, seed: u64) {
    for round in 0..40u64 {
        let mut plan = bench.plan();
        for layer in 0..4u64 {
            for at in 0..6u64 {
                let pick = |n: u64| format!("v{}-{}", layer.wrapping_sub(1), (at + n * (round % 3 + 1)) % 6);
                let inputs = if layer == 0 { Vec::new() } else { vec![pick(0), pick(1)] };
                let name = format!("v{layer}-{at}");
                plan.with(&name, &inputs.iter().map(String::as_str).collect::<Vec<_>>(), |op| {
                    op.yields = (at % 3) as usize;
                    op.inputs.iter_mut().for_each(|i| i.by_content = at % 2 == 0);
                });
            }
        }
        let job = bench.job();
        let target = format!("v3-{}", (seed + round) % 6);
        let build = plan.build(&job, &target);
        if (seed + round).is_multiple_of(5) {
            tokio::time::timeout(Duration::from_micros(100 * seed), build).await.ok();
        } else {
            build.await.unwrap();
        }
        if round % 2 == 0 {
            job.close().await;
        }
    }
}
