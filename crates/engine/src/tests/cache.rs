//! What is found in the cache, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tests::fake::{Bench, Counting, FakeInput, Plan};
use crate::*;

fn by_content() -> FakeInput {
    FakeInput { by_content: true, ..FakeInput::default() }
}

fn chain(bench: &Bench) -> Plan {
    let mut plan = bench.plan();
    plan.add("base", &[]).add("run", &["base"]).add("top", &["run"]);
    plan
}

#[tokio::test]
async fn a_second_build_runs_nothing_and_loads_only_the_end() {
    let bench = Bench::new();
    let plan = chain(&bench);
    let first = plan.build(&bench.job(), "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["base", "run", "top"]);
    let second = plan.build(&bench.job(), "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0]);
    assert_eq!((bench.loads(), first.output.parts), (1, second.output.parts));
}

#[tokio::test]
async fn what_is_not_cached_runs_on_what_is() {
    let bench = Bench::new();
    chain(&bench).build(&bench.job(), "run").await.unwrap();
    bench.world.take_ran();
    chain(&bench).build(&bench.job(), "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["top"]);
    assert_eq!(bench.loads(), 1, "only the direct input is loaded");
}

#[tokio::test]
async fn equal_content_is_found_by_its_content_key() {
    let bench = Bench::new();
    let plan = |context: &str| {
        let mut plan = bench.plan();
        plan.with(context, &[], |op| op.seed = 7).with("copy", &[context], |op| op.inputs[0] = by_content());
        plan.add("run", &["copy"]);
        plan
    };
    plan("monday").build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["copy", "monday", "run"]);
    plan("tuesday").build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["tuesday"]);
    assert_eq!(bench.loads(), 1, "copy's result is not needed");
    bench.world.hashed.lock().unwrap().clear();
    plan("tuesday").build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0]);
    assert!(
        bench.world.hashed.lock().unwrap().is_empty(),
        "by now the definition is known to give that content"
    );
}

#[tokio::test]
async fn a_selector_is_part_of_the_definition_but_not_of_the_content() {
    let bench = Bench::new();
    let plan = |part: usize, by_content: bool| {
        let mut plan = bench.plan();
        plan.add("base", &[]).with("copy", &["base"], |op| {
            op.inputs[0] = FakeInput { part: Some(part), by_content, ..FakeInput::default() };
        });
        plan.last().digest = kiln_oci::Digest::sha256(format!("copy {part}"));
        plan
    };
    plan(0, false).build(&bench.job(), "copy").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["base", "copy"]);
    plan(1, false).build(&bench.job(), "copy").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["copy"], "another part is another key");
    plan(0, false).build(&bench.job(), "copy").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0]);
}

#[tokio::test]
async fn later_cache_maps_are_tried_when_earlier_ones_fail() {
    let bench = Bench::new();
    let plan = |manifest: &str| {
        let mut plan = bench.plan();
        let maps = [manifest, "chain"].map(|m| kiln_oci::Digest::sha256(m).into());
        plan.with("image", &[], |op| op.maps = maps.to_vec()).add("run", &["image"]);
        plan.last().digest = kiln_oci::Digest::sha256(manifest);
        plan
    };
    plan("v1").build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["image", "run"]);
    plan("v1").build(&bench.job(), "run").await.unwrap();
    assert_eq!(
        bench.world.maps.lock().unwrap().iter().filter(|m| *m == "image").count(),
        3,
        "one was enough"
    );
    plan("v2").build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0], "the chain is the same");
    plan("v2").build(&bench.job(), "image").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0]);
    bench.world.maps.lock().unwrap().clear();
    plan("v2").build(&bench.job(), "image").await.unwrap();
    assert_eq!(bench.world.maps.lock().unwrap().len(), 1, "the first map is enough from now on");
}

#[tokio::test]
async fn the_cheap_way_is_tried_on_all_inputs_before_any_content() {
    let bench = Bench::new();
    let plan = |context: &str, changed: &str| {
        let mut plan = bench.plan();
        plan.add(context, &[])
            .add(changed, &[])
            .with("both", &[context, changed], |op| op.inputs[0] = by_content());
        plan
    };
    plan("context", "tool").build(&bench.job(), "both").await.unwrap();
    bench.world.hashed.lock().unwrap().clear();
    plan("context", "other").build(&bench.job(), "both").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["both", "both", "context", "other", "tool"]);
    plan("context", "tool").build(&bench.job(), "both").await.unwrap();
    assert_eq!(bench.world.hashed.lock().unwrap().len(), 1, "the cached build hashes nothing");
}

#[tokio::test]
async fn work_that_is_wanted_again_at_once_goes_on() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let maps = ["manifest", "chain"].map(|m| kiln_oci::Digest::sha256(m).into());
    plan.with("image", &[], |op| (op.maps, op.yields) = (maps.to_vec(), 3))
        .with("context", &[], |op| op.yields = 50)
        .with("copy", &["image", "context"], |op| op.inputs[1] = by_content())
        .add("run", &["copy"]);
    // While the context is received for its content, the image turns out to be unknown: the copy has no key that the
    // content could lead to, which is news to what follows from it, and then everything is wanted after all.
    plan.build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["context", "copy", "image", "run"]);
}

#[tokio::test]
async fn an_output_is_its_own_key() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.with("many", &[], |op| op.outputs = 3)
        .add("a", &["many:1"])
        .add("b", &["many:2"])
        .add("all", &["a", "b"]);
    let one = plan.build(&bench.job(), "many:1").await.unwrap();
    let two = plan.build(&bench.job(), "many:2").await.unwrap();
    assert_ne!(one.output.parts, two.output.parts);
    bench.world.take_ran();
    plan.build(&bench.job(), "all").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["a", "all", "b"]);
}

#[tokio::test]
async fn a_record_that_vanishes_is_a_miss() {
    let bench = Bench::new();
    let plan = chain(&bench);
    plan.build(&bench.job(), "top").await.unwrap();
    bench.world.take_ran();
    bench.store.lose.store(true, Ordering::SeqCst);
    plan.build(&bench.job(), "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["base", "run", "top"]);
    assert_eq!(bench.loads(), 3, "each level tried its own record");
}

#[tokio::test]
async fn keys_whose_result_is_gone_still_lead_on() {
    let bench = Bench::new();
    let plan = chain(&bench);
    plan.build(&bench.job(), "top").await.unwrap();
    bench.world.take_ran();
    let ids = bench.store.inner.record_ids();
    ids[..2].iter().for_each(|id| bench.store.inner.forget(id));
    plan.build(&bench.job(), "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0]);
}

#[tokio::test]
async fn ignoring_the_cache_runs_the_vertex_and_what_follows() {
    let bench = Bench::new();
    chain(&bench).build(&bench.job(), "top").await.unwrap();
    bench.world.take_ran();
    let mut plan = bench.plan();
    plan.add("base", &[]).add("run", &["base"]).ignore().add("top", &["run"]);
    plan.build(&bench.job(), "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["run", "top"]);
    chain(&bench).build(&bench.job(), "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0], "the new results were saved");
}

#[tokio::test]
async fn nothing_that_follows_from_an_ignored_vertex_is_found_by_definition() {
    let bench = Bench::new();
    let nonce = Arc::new(AtomicUsize::new(0));
    let plan = |ignore: bool| {
        let (mut plan, nonce) = (bench.plan(), nonce.clone());
        plan.with("date", &[], |op| op.nonce = Some(nonce));
        plan.last().options.ignore_cache = ignore;
        plan.add("run", &["date"]).add("top", &["run"]).add("end", &["top"]);
        plan
    };
    let first = plan(false).build(&bench.job(), "end").await.unwrap();
    bench.world.take_ran();
    let second = plan(true).build(&bench.job(), "end").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["date", "end", "run", "top"]);
    assert_ne!(first.output.parts, second.output.parts);
    let third = plan(false).build(&bench.job(), "end").await.unwrap();
    assert_eq!(second.output.parts, third.output.parts, "the newest result is the one that is found");
}

#[tokio::test]
async fn after_an_ignored_vertex_content_still_matches() {
    let bench = Bench::new();
    let plan = |ignore: bool| {
        let mut plan = bench.plan();
        plan.add("base", &[]);
        plan.last().options.ignore_cache = ignore;
        plan.with("copy", &["base"], |op| op.inputs[0] = by_content());
        plan
    };
    plan(false).build(&bench.job(), "copy").await.unwrap();
    bench.world.take_ran();
    plan(true).build(&bench.job(), "copy").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["base"]);
}

#[tokio::test]
async fn new_content_under_an_old_definition_is_a_new_key() {
    let bench = Bench::new();
    let nonce = Arc::new(AtomicUsize::new(0));
    let plan = |ignore: bool| {
        let (mut plan, nonce) = (bench.plan(), nonce.clone());
        plan.with("date", &[], |op| op.nonce = Some(nonce));
        plan.last().options.ignore_cache = ignore;
        plan.with("copy", &["date"], |op| {
            op.inputs[0] = FakeInput { part: Some(1), by_content: true, ..FakeInput::default() };
        });
        plan
    };
    let first = plan(false).build(&bench.job(), "copy").await.unwrap();
    let second = plan(true).build(&bench.job(), "copy").await.unwrap();
    assert_ne!(first.output.parts, second.output.parts);
    nonce.store(0, Ordering::SeqCst);
    let third = plan(true).build(&bench.job(), "copy").await.unwrap();
    assert_eq!(
        first.output.parts, third.output.parts,
        "the content of the first build finds the first result"
    );
}

#[tokio::test]
async fn a_consumer_of_a_finished_vertex_finds_its_keys() {
    let bench = Bench::new();
    let plan = |step: &str| {
        let mut plan = bench.plan();
        plan.add("base", &[])
            .with(step, &["base"], |op| op.maps = vec![kiln_oci::Digest::sha256("step").into()]);
        plan
    };
    let holder = bench.job();
    plan("step").build(&holder, "base").await.unwrap();
    let first = bench.job();
    plan("step").build(&first, "step").await.unwrap();
    first.close().await;
    bench.world.take_ran();
    plan("other").build(&bench.job(), "other").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0]);
}

#[tokio::test]
async fn an_imported_cache_hits_and_is_kept() {
    let (bench, other) = (Bench::new(), Bench::new());
    chain(&other).build(&other.job(), "top").await.unwrap();
    let imported = Counting::new("imported");
    imported.copy(&other.store).await;
    let stores: Vec<Arc<dyn CacheStore<_>>> = vec![imported.clone()];
    let job = bench.engine.new_job("job", "job", stores, Arc::new(|_: Event| {}));
    chain(&bench).build(&job, "top").await.unwrap();
    assert_eq!((bench.world.take_ran(), imported.loads.load(Ordering::SeqCst)), (Vec::new(), 1));
    job.close().await;
    chain(&bench).build(&bench.job(), "top").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0], "without the import");
    chain(&bench).build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.take_ran(), ["base", "run"], "only the result that was used came over");
}

#[tokio::test]
async fn results_that_come_along_with_an_import_are_kept_too() {
    let (bench, other) = (Bench::new(), Bench::new());
    let run = chain(&other).build(&other.job(), "run").await.unwrap();
    let run_key = run.keys[0].id_in(&other.store.inner).unwrap();
    chain(&other).build(&other.job(), "top").await.unwrap();
    let imported = Counting::new("imported");
    imported.copy(&other.store).await;
    let record = imported.records(&run_key).remove(0);
    imported.parents.lock().unwrap().push((run_key, record, run.output.clone()));
    let stores: Vec<Arc<dyn CacheStore<_>>> = vec![imported.clone()];
    let job = bench.engine.new_job("job", "job", stores, Arc::new(|_: Event| {}));
    chain(&bench).build(&job, "top").await.unwrap();
    job.close().await;
    chain(&bench).build(&bench.job(), "run").await.unwrap();
    assert_eq!(bench.world.take_ran(), [""; 0]);
}

#[tokio::test]
async fn a_store_that_comes_later_is_searched_too() {
    let (bench, other) = (Bench::new(), Bench::new());
    chain(&other).build(&other.job(), "top").await.unwrap();
    let imported = Counting::new("imported");
    imported.copy(&other.store).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let mut slow = bench.plan();
    slow.with("base", &[], |op| op.gate = Some(gate.clone())).add("run", &["base"]).add("top", &["run"]);
    let first = bench.job();
    let waiting = slow.build(&first, "top");
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    while bench.world.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let stores: Vec<Arc<dyn CacheStore<_>>> = vec![imported];
    let second = bench.engine.new_job("second", "second", stores, Arc::new(|_: Event| {}));
    slow.build(&second, "top").await.unwrap();
    waiting.await.unwrap();
    assert_eq!(bench.world.take_ran(), ["base"], "which was stopped when it was not needed any more");
}

#[tokio::test]
async fn random_keys_leave_nothing_that_lasts() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let random = CacheDigest::Random(kiln_oci::Digest::sha256("session"));
    plan.with("local", &[], |op| op.maps = vec![random.clone()]).add("merge", &["local"]);
    plan.with("copy", &["local"], |op| op.inputs[0] = by_content());
    let merge = plan.build(&bench.job(), "merge").await.unwrap();
    assert_eq!(merge.keys[0].id_in(&*bench.store).unwrap().kind(), KeyKind::Random);
    assert_eq!((bench.store.inner.results(), bench.store.inner.all_links().len()), (0, 0));
    let copy = plan.build(&bench.job(), "copy").await.unwrap();
    assert_eq!(copy.keys[0].id_in(&*bench.store).unwrap().kind(), KeyKind::Linked);
    assert_eq!((bench.store.inner.results(), bench.store.inner.all_links().len()), (1, 1));
    bench.world.take_ran();
    let saves = bench.store.saves.load(Ordering::SeqCst);
    plan.build(&bench.job(), "copy").await.unwrap();
    assert_eq!(
        (bench.world.take_ran(), bench.store.saves.load(Ordering::SeqCst)),
        (vec!["local".to_owned()], saves)
    );
    assert_eq!(KeyId::root(&random, 3).to_string(), format!("random:{}", random.digest().hex()));
}

#[tokio::test]
async fn cache_opts_of_ancestors_reach_descendants() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.with("image", &[], |op| op.opts = Some("provider".into())).add("run", &["image"]);
    let result = plan.build(&bench.job(), "run").await.unwrap();
    let cx = OpContext::new(result.vertex.clone(), None);
    assert_eq!(cx.find_opts(|o| Some(o.clone())).as_deref(), Some("provider"));
    assert_eq!(result.materials(), ["run", "image"]);
}
