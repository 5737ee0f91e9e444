//! Several jobs at once: what they share, and what becomes of it when one goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::tests::fake::{Bench, FakeInput, Plan};
use crate::*;

fn gated(bench: &Bench, gate: &Arc<Semaphore>) -> Plan {
    let mut plan = bench.plan();
    plan.add("base", &[]).with("slow", &["base"], |op| op.gate = Some(gate.clone())).add("top", &["slow"]);
    plan
}

async fn until(what: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !what() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("it never came");
}

#[tokio::test]
async fn jobs_share_a_vertex_while_it_runs() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = gated(&bench, &gate);
    let (a, b) = (bench.job(), bench.job());
    let open = async {
        until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
        gate.add_permits(1);
    };
    let (a, b, ()) = tokio::join!(plan.build(&a, "top"), plan.build(&b, "top"), open);
    assert_eq!(a.unwrap().output.parts, b.unwrap().output.parts);
    assert_eq!(bench.world.take_ran(), ["base", "slow", "top"]);
}

#[tokio::test]
async fn different_vertices_with_one_key_are_one_execution() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = |name: &str| {
        let mut plan = bench.plan();
        let same = |what: &str| vec![kiln_oci::Digest::sha256(what).into()];
        plan.with(&format!("base {name}"), &[], |op| (op.maps, op.seed) = (same("base"), 1));
        plan.with(name, &[&format!("base {name}")], |op| {
            (op.maps, op.seed, op.gate) = (same("run"), 2, Some(gate.clone()));
        });
        plan
    };
    let (job_a, job_b) = (bench.job(), bench.job());
    let open = async {
        until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
        gate.add_permits(1);
    };
    let (plan_a, plan_b) = (plan("a"), plan("b"));
    let (a, b, ()) = tokio::join!(plan_a.build(&job_a, "a"), plan_b.build(&job_b, "b"), open);
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.output.parts, b.output.parts);
    assert_ne!(a.edge, b.edge, "each is told its own vertex");
    assert_eq!(bench.world.take_ran().len(), 2);
    assert_eq!(bench.store.inner.results(), 2);
}

#[tokio::test]
async fn a_build_that_ignores_the_cache_does_not_join_one_that_does_not() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let normal = gated(&bench, &gate);
    let mut ignoring = bench.plan();
    ignoring.add("base", &[]).with("slow", &["base"], |op| op.gate = Some(gate.clone())).ignore();
    ignoring.add("top", &["slow"]);
    let (a, b) = (bench.job(), bench.job());
    let open = async {
        until(|| bench.world.running.load(Ordering::SeqCst) == 2).await;
        gate.add_permits(2);
    };
    let (a, b, ()) = tokio::join!(normal.build(&a, "top"), ignoring.build(&b, "top"), open);
    a.unwrap();
    b.unwrap();
    assert_eq!(bench.world.take_ran(), ["base", "slow", "slow", "top", "top"]);
}

#[tokio::test]
async fn vertices_that_mean_different_things_are_not_shared() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = |meaning: &str| {
        let mut plan = bench.plan();
        plan.add("base", &[]).with("slow", &["base"], |op| {
            op.gate = Some(gate.clone());
            op.maps = vec![kiln_oci::Digest::sha256(meaning).into()];
            op.seed = meaning.len() as u64;
        });
        plan.last().options.meaning = Some(kiln_oci::Digest::sha256(meaning));
        plan.add("top", &["slow"]);
        plan
    };
    let jobs = [bench.job(), bench.job(), bench.job()];
    let open = async {
        until(|| bench.world.running.load(Ordering::SeqCst) == 2).await;
        gate.add_permits(2);
    };
    let plans = [plan("one"), plan("other"), plan("one")];
    let builds = jobs.iter().zip(&plans).map(|(job, plan)| plan.build(job, "top"));
    let (built, ()) = tokio::join!(futures::future::join_all(builds), open);
    let parts: Vec<_> = built.into_iter().map(|built| built.unwrap().output.parts.clone()).collect();
    assert_eq!(parts[0], parts[2]);
    assert_ne!(parts[0], parts[1]);
    assert_eq!(bench.world.take_ran(), ["base", "slow", "slow", "top", "top"]);
}

#[tokio::test]
async fn what_runs_for_one_meaning_does_not_serve_another_and_what_was_made_does() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = |meaning: &str| {
        let mut plan = bench.plan();
        plan.with("slow", &[], |op| op.gate = Some(gate.clone()));
        plan.last().options.meaning = Some(kiln_oci::Digest::sha256(meaning));
        plan
    };
    let open = async {
        until(|| bench.world.running.load(Ordering::SeqCst) == 2).await;
        gate.add_permits(2);
    };
    let (one, other) = (plan("one"), plan("other"));
    let jobs = [bench.job(), bench.job()];
    let (a, b, ()) = tokio::join!(one.build(&jobs[0], "slow"), other.build(&jobs[1], "slow"), open);
    a.unwrap();
    b.unwrap();
    assert_eq!(bench.world.take_ran(), ["slow", "slow"]);
    plan("third").build(&bench.job(), "slow").await.unwrap();
    assert!(bench.world.take_ran().is_empty());
}

#[tokio::test]
async fn a_normal_build_may_join_one_that_ignores_the_cache() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let mut ignoring = bench.plan();
    ignoring.with("base", &[], |op| op.gate = Some(gate.clone())).ignore();
    let mut normal = bench.plan();
    normal.with("base", &[], |op| op.gate = Some(gate.clone()));
    let (a, b) = (bench.job(), bench.job());
    let first = ignoring.build(&a, "base");
    tokio::pin!(first);
    assert!(futures::poll!(&mut first).is_pending());
    until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
    gate.add_permits(2);
    let (x, y) = tokio::join!(first, normal.build(&b, "base"));
    x.unwrap();
    y.unwrap();
    assert_eq!(bench.world.take_ran(), ["base"]);
}

#[tokio::test]
async fn work_stops_when_the_last_request_is_dropped() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = gated(&bench, &gate);
    let (a, b) = (bench.job(), bench.job());
    {
        let (first, second) = (plan.build(&a, "top"), plan.build(&b, "top"));
        tokio::pin!(second);
        {
            tokio::pin!(first);
            assert!(futures::poll!(&mut first).is_pending());
            assert!(futures::poll!(&mut second).is_pending());
            until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.world.running.load(Ordering::SeqCst), 1, "the other job still wants it");
    }
    until(|| bench.world.running.load(Ordering::SeqCst) == 0).await;
    gate.add_permits(1);
    plan.build(&b, "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["base", "slow", "slow", "top"], "the stopped step runs again");
}

#[tokio::test]
async fn closing_a_job_waits_for_its_work_and_leaves_nothing() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = gated(&bench, &gate);
    let job = Arc::new(bench.job());
    let (waiting, p) = (job.clone(), (plan.graph(), plan.edge("top")));
    let build = tokio::spawn(async move { waiting.build(p.0, p.1).await.map(|_| ()) });
    until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
    build.abort();
    build.await.unwrap_err();
    Arc::into_inner(job).unwrap().close().await;
    assert_eq!(bench.world.running.load(Ordering::SeqCst), 0);
    assert_eq!(bench.engine.census().await, Default::default());
}

#[tokio::test]
async fn what_is_shared_survives_the_job_that_began_it() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = gated(&bench, &gate);
    let (a, b) = (bench.job(), bench.job());
    {
        let first = plan.build(&a, "top");
        tokio::pin!(first);
        assert!(futures::poll!(&mut first).is_pending());
        until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
    }
    let mut second = Box::pin(plan.build(&b, "top"));
    assert!(futures::poll!(&mut second).is_pending());
    a.close().await;
    gate.add_permits(1);
    second.await.unwrap();
    b.close().await;
    assert_eq!(bench.engine.census().await, Default::default());
}

#[tokio::test]
async fn a_follower_goes_on_when_the_leaders_job_leaves() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = |name: &str| {
        let mut plan = bench.plan();
        plan.with(name, &[], |op| {
            op.maps = vec![kiln_oci::Digest::sha256("same").into()];
            op.gate = Some(gate.clone());
        });
        plan
    };
    let (a, b) = (bench.job(), bench.job());
    let (plan_a, plan_b) = (plan("a"), plan("b"));
    let mut second = Box::pin(plan_b.build(&b, "b"));
    {
        let first = plan_a.build(&a, "a");
        tokio::pin!(first);
        assert!(futures::poll!(&mut first).is_pending());
        until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
        assert!(futures::poll!(&mut second).is_pending());
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    a.close().await;
    gate.add_permits(1);
    second.await.unwrap();
    assert_eq!(bench.world.take_ran(), ["a"], "it runs on for the job that joined");
    b.close().await;
    assert_eq!(bench.engine.census().await, Default::default());
}

#[tokio::test]
async fn a_failure_names_its_vertex_and_spares_what_does_not_need_it() {
    let bench = Bench::new();
    let fails = Arc::new(AtomicBool::new(true));
    let mut plan = bench.plan();
    plan.add("base", &[]).with("bad", &["base"], |op| op.fails = Some(fails.clone()));
    plan.add("good", &["base"]).add("top", &["bad", "good"]);
    let (a, b) = (bench.job(), bench.job());
    let (top, good) = tokio::join!(plan.build(&a, "top"), plan.build(&b, "good"));
    let error = top.unwrap_err();
    assert_eq!(error.vertex, Some(plan.edge("bad").vertex));
    assert_eq!(error.to_string(), "bad failed");
    let SolveCause::Exec { inputs, .. } = &*error.cause else { panic!("{error:?}") };
    assert!(inputs[0].is_some(), "the input's result is kept for a look at it");
    good.unwrap();
    assert_eq!(plan.build(&a, "top").await.unwrap_err().to_string(), "bad failed");
    assert_eq!(bench.world.take_ran().iter().filter(|n| *n == "bad").count(), 1, "the job has its answer");
    fails.store(false, Ordering::SeqCst);
    plan.build(&bench.job(), "top").await.unwrap();
    assert_eq!(
        bench.world.take_ran(),
        ["bad", "top"],
        "a new job tries again while the old one is still there"
    );
    drop(a);
}

#[tokio::test]
async fn other_failures_are_errors_too() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.with("no map", &[], |op| op.map_fails = true).add("after", &["no map"]);
    plan.with("panics", &[], |op| op.panics = true).with("few", &[], |op| op.outputs = 1);
    plan.with("maps", &["few"], |op| op.maps = vec![op.maps[0].clone(), op.maps[0].clone()]);
    plan.with("short", &["few"], |op| op.inputs.clear());
    let job = bench.job();
    let fails = async |name: &str| plan.build(&job, name).await.unwrap_err().to_string();
    assert_eq!(fails("after").await, "failed to load cache key: no map has no map");
    assert_eq!(fails("panics").await, "the op panicked: panics panics");
    assert!(fails("few:3").await.contains("output 3 was asked for, but there are 1"));
    assert!(fails("maps").await.contains("several cache maps"));
    assert!(fails("short").await.contains("its cache map has 0 inputs, the vertex has 1"));
    let missing = job.build(plan.graph(), Edge::new(kiln_oci::Digest::sha256("?"), 0)).await;
    assert!(matches!(*missing.unwrap_err().cause, SolveCause::Graph(GraphError::MissingRoot(_))));
}

#[tokio::test]
async fn a_failure_of_a_shared_execution_names_each_ones_vertex() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = |name: &str| {
        let mut plan = bench.plan();
        plan.with(name, &[], |op| {
            op.maps = vec![kiln_oci::Digest::sha256("same").into()];
            op.gate = Some(gate.clone());
            op.fails = Some(Arc::new(AtomicBool::new(true)));
        });
        plan
    };
    let (a, b) = (bench.job(), bench.job());
    let (plan_a, plan_b) = (plan("a"), plan("b"));
    let open = async {
        until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
        gate.add_permits(1);
    };
    let (x, y, ()) = tokio::join!(plan_a.build(&a, "a"), plan_b.build(&b, "b"), open);
    let (x, y) = (x.unwrap_err(), y.unwrap_err());
    assert_eq!((x.vertex, y.vertex), (Some(plan_a.edge("a").vertex), Some(plan_b.edge("b").vertex)));
    assert!(Arc::ptr_eq(&x.cause, &y.cause));
}

#[tokio::test]
async fn builds_within_builds_do_not_starve_of_permits() {
    let bench = Bench::new();
    let permits = Arc::new(Semaphore::new(1));
    let sub = |bench: &Bench, name: &str, inner: Option<Plan>| {
        let (mut plan, permits) = (bench.plan(), permits.clone());
        plan.with(name, &[], |op| {
            op.permits = Some(permits);
            if let Some(inner) = inner {
                op.sub = Some(Arc::new(move || (inner.graph(), inner.edge("inner"))));
            }
        });
        plan
    };
    let inner = sub(&bench, "inner", None);
    let middle = {
        let mut plan = bench.plan();
        let (permits, inner) = (permits.clone(), inner);
        plan.with("inner", &[], |op| {
            op.maps = vec![kiln_oci::Digest::sha256("middle").into()];
            op.permits = Some(permits);
            op.sub = Some(Arc::new(move || (inner.graph(), inner.edge("inner"))));
        });
        plan.last().digest = kiln_oci::Digest::sha256("middle");
        plan
    };
    let outer = sub(&bench, "outer", Some(middle));
    let job = bench.job();
    let result = tokio::time::timeout(Duration::from_secs(5), outer.build(&job, "outer")).await;
    let result = result.expect("a deadlock").unwrap();
    assert_eq!(bench.world.take_ran().len(), 3);
    assert_eq!(permits.available_permits(), 1);
    assert_eq!(result.sub_keys.len(), 2, "those of middle, and what it hands on of inner");
    let mut names = 0;
    result.visit(|_| names += 1);
    assert_eq!(names, 3, "the vertices of inner builds are reachable");
    job.close().await;
    assert_eq!(bench.engine.census().await, Default::default());
}

#[tokio::test]
async fn a_build_that_needs_itself_is_an_error() {
    let bench = Bench::new();
    let world = bench.world.clone();
    let mut plan = bench.plan();
    plan.with("snake", &[], |op| {
        op.sub = Some(Arc::new(move || {
            let mut plan = Plan::new(&world);
            plan.add("snake", &[]).add("tail", &["snake"]);
            (plan.graph(), plan.edge("tail"))
        }));
    });
    let error = plan.build(&bench.job(), "snake").await.unwrap_err();
    assert!(error.to_string().contains("needs the op's own result"), "{error}");
}

#[tokio::test]
async fn inputs_are_prepared_before_the_op_runs() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.add("image", &[]).with("run", &["image"], |op| {
        op.inputs[0] = FakeInput { prepare: true, ..FakeInput::default() };
    });
    let (job, mut events) = bench.watched("job");
    plan.build(&job, "run").await.unwrap();
    assert_eq!(*bench.world.prepared.lock().unwrap(), ["run:0"]);
    let mut of = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Status(s) = event {
            of.push(s.vertex);
        }
    }
    assert_eq!(of, vec![plan.edge("image").vertex; 2], "its progress is the input's");
    plan.build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.prepared.lock().unwrap().len(), 1, "a cached step prepares nothing");
}

#[tokio::test]
async fn permits_limit_what_runs_at_once() {
    let bench = Bench::new();
    let permits = Arc::new(Semaphore::new(2));
    let mut plan = bench.plan();
    let names: Vec<String> = (0..10).map(|i| format!("v{i}")).collect();
    for name in &names {
        plan.with(name, &[], |op| (op.permits, op.yields) = (Some(permits.clone()), 5));
    }
    plan.add("all", &names.iter().map(String::as_str).collect::<Vec<_>>());
    plan.build(&bench.job(), "all").await.unwrap();
    assert_eq!(bench.world.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_vertex_knows_the_jobs_that_want_it_now() {
    let bench = Bench::new();
    let plan = {
        let mut plan = bench.plan();
        plan.add("base", &[]);
        plan
    };
    let (a, _events) = bench.watched("a");
    let (b, _events) = bench.watched("b");
    let result = plan.build(&a, "base").await.unwrap();
    plan.build(&b, "base").await.unwrap();
    let group = OpContext::new(result.vertex.clone(), None).group();
    assert_eq!(group.jobs(), ["a", "b"]);
    a.close().await;
    assert_eq!(group.jobs(), ["b"]);
}

#[tokio::test]
async fn a_panic_of_the_owner_ends_its_builds_and_not_the_engine() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let plan = gated(&bench, &gate);
    let (a, b) = (bench.job(), bench.job());
    let running = plan.build(&a, "top");
    tokio::pin!(running);
    assert!(futures::poll!(&mut running).is_pending());
    until(|| bench.world.running.load(Ordering::SeqCst) == 1).await;
    bench.store.panics.store(true, Ordering::SeqCst);
    let mut other = bench.plan();
    other.add("other", &[]);
    let error = other.build(&b, "other").await.unwrap_err();
    assert!(matches!(*error.cause, SolveCause::Closed));
    assert!(matches!(*running.await.unwrap_err().cause, SolveCause::Closed));
    until(|| bench.world.running.load(Ordering::SeqCst) == 0).await;
    bench.store.panics.store(false, Ordering::SeqCst);
    other.build(&bench.job(), "other").await.unwrap();
}
