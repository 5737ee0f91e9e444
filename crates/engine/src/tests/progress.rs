//! What the jobs are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Semaphore, mpsc};

use crate::tests::fake::Bench;
use crate::*;

/// The last state of each vertex by name, the logs, and the decisions.
fn drain(
    events: &mut mpsc::UnboundedReceiver<Event>,
) -> (HashMap<String, VertexEvent>, Vec<LogEvent>, Vec<Decision>) {
    let (mut vertices, mut logs, mut decisions) = (HashMap::new(), Vec::new(), Vec::new());
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Vertex(v) => {
                vertices.insert(v.name.to_string(), v);
            }
            Event::Log(l) => logs.push(l),
            Event::Decision(d) => decisions.push(d),
            _ => {}
        }
    }
    (vertices, logs, decisions)
}

#[tokio::test]
async fn a_job_hears_what_ran_and_what_was_cached() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.add("base", &[]).add("run", &["base"]).add("top", &["run"]);
    let (job, mut events) = bench.watched("first");
    plan.build(&job, "top").await.unwrap();
    let (vertices, logs, decisions) = drain(&mut events);
    assert_eq!((vertices.len(), logs.len()), (3, 3));
    assert!(vertices.values().all(|v| v.started.is_some() && v.completed >= v.started && !v.cached));
    assert_eq!(vertices["run"].inputs.to_vec(), [plan.edge("base").vertex]);
    let why = |name: &str| decisions.iter().find(|d| &*d.name == name).unwrap().outcome.clone();
    assert_eq!(why("base"), Outcome::Run(Reason::UnknownDigest));
    assert_eq!(why("run"), Outcome::Run(Reason::NoMatch { input: 0 }));
    drop(job);
    let (job, mut events) = bench.watched("second");
    plan.build(&job, "top").await.unwrap();
    let (vertices, logs, decisions) = drain(&mut events);
    assert!(logs.is_empty());
    for name in ["run", "top"] {
        assert!(vertices[name].cached && vertices[name].completed.is_some(), "{name}");
    }
    assert!(matches!(&decisions[..], [Decision { outcome: Outcome::Load { way: Way::Definition, .. }, .. }]));
}

#[tokio::test]
async fn a_job_tells_what_it_holds_also_of_what_nobody_decided() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.add("base", &[]).add("run", &["base"]).add("top", &["run"]);
    let (job, _events) = bench.watched("first");
    plan.build(&job, "top").await.unwrap();
    drop(job);
    let (job, _events) = bench.watched("second");
    plan.build(&job, "top").await.unwrap();
    let held = job.held().await;
    let mut names: Vec<_> = held.iter().map(|h| h.vertex().name().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["base", "run", "top"]);
    let run = held.iter().find(|h| h.vertex().name() == "run").unwrap();
    let [edge] = &run.edges[..] else { panic!("{:?}", run.edges) };
    assert!(edge.found, "its key led on to that of the last vertex");
    assert_eq!(edge.inputs[0].edge, plan.edge("base"));
    job.close().await;
    assert!(job.held().await.is_empty(), "nothing is held after the end");
}

#[tokio::test]
async fn who_comes_late_hears_what_there_was() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut plan = bench.plan();
    plan.with("slow", &[], |op| op.gate = Some(gate.clone()));
    let (a, _) = bench.watched("a");
    let first = plan.build(&a, "slow");
    tokio::pin!(first);
    assert!(futures::poll!(&mut first).is_pending());
    while bench.world.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let (b, mut events) = bench.watched("b");
    let second = plan.build(&b, "slow");
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let (vertices, logs, _) = drain(&mut events);
    assert!(vertices["slow"].started.is_some() && vertices["slow"].completed.is_none());
    assert_eq!(logs[0].data, "slow runs");
    gate.add_permits(1);
    let (x, y) = tokio::join!(first, second);
    x.unwrap();
    y.unwrap();
    assert!(drain(&mut events).0["slow"].completed.is_some());
}

#[tokio::test]
async fn a_follower_reports_its_leaders_work_as_its_own() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut plan = bench.plan();
    for name in ["a", "b"] {
        let gate = gate.clone();
        plan.with(name, &[], |op| {
            (op.maps, op.gate) = (vec![kiln_oci::Digest::sha256("same").into()], Some(gate))
        });
    }
    let (a, _first) = bench.watched("a");
    let (b, mut second) = bench.watched("b");
    let open = async {
        while bench.world.running.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
    };
    let (x, y, ()) = tokio::join!(plan.build(&a, "a"), plan.build(&b, "b"), open);
    x.unwrap();
    y.unwrap();
    let (vertices, _, decisions) = drain(&mut second);
    assert_eq!(vertices.keys().collect::<Vec<_>>(), ["b"], "the other job's vertex is not its business");
    assert!(vertices["b"].completed.is_some());
    assert_eq!(decisions[0].outcome, Outcome::Join(plan.edge("a").vertex));
}

#[tokio::test]
async fn a_late_follower_hears_what_there_was() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut plan = bench.plan();
    for name in ["a", "b"] {
        let gate = gate.clone();
        plan.with(name, &[], |op| {
            (op.maps, op.gate) = (vec![kiln_oci::Digest::sha256("same").into()], Some(gate))
        });
    }
    let (a, _first) = bench.watched("a");
    let first = plan.build(&a, "a");
    tokio::pin!(first);
    assert!(futures::poll!(&mut first).is_pending());
    while bench.world.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // What it said by now is what a build that joins only here is told.
    let (b, mut events) = bench.watched("b");
    let second = plan.build(&b, "b");
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let (vertices, logs, _) = drain(&mut events);
    assert!(vertices["b"].started.is_some() && vertices["b"].completed.is_none());
    let said: Vec<_> = logs.iter().map(|log| (log.vertex.clone(), log.data.clone())).collect();
    assert_eq!(said, [(plan.edge("b").vertex, "a runs".into())]);
    gate.add_permits(1);
    let (x, y) = tokio::join!(first, second);
    x.unwrap();
    y.unwrap();
    let (vertices, logs, _) = drain(&mut events);
    assert!(vertices["b"].completed.is_some() && logs.is_empty());
}

#[tokio::test]
async fn a_job_that_leaves_is_told_that_its_work_was_cancelled() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut plan = bench.plan();
    plan.with("slow", &[], |op| op.gate = Some(gate));
    let (job, mut events) = bench.watched("job");
    {
        let build = plan.build(&job, "slow");
        tokio::pin!(build);
        assert!(futures::poll!(&mut build).is_pending());
        while bench.world.running.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }
    job.close().await;
    assert_eq!(drain(&mut events).0["slow"].error.as_deref(), Some("context canceled"));
}

#[tokio::test]
async fn an_error_is_told() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.with("bad", &[], |op| op.map_fails = true).add("top", &["bad"]);
    let (job, mut events) = bench.watched("job");
    plan.build(&job, "top").await.unwrap_err();
    let (vertices, ..) = drain(&mut events);
    assert!(vertices["bad"].error.as_deref().unwrap().contains("has no map"));
    assert!(vertices["top"].started.is_none());
}
