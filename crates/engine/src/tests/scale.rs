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
