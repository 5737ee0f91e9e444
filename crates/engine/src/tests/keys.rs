//! The graph of keys: what is written, and what exporters see of it.

use sha2::{Digest as _, Sha256};

use crate::tests::fake::{Bench, FakeInput};
use crate::*;

fn root_of(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    format!("sha256:{}", hash.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

#[test]
fn root_keys_are_hashes_that_every_builder_agrees_on() {
    let digest = kiln_oci::Digest::sha256("op");
    assert_eq!(KeyId::root(&digest.clone().into(), 2).to_string(), root_of(&format!("{digest}@2")));
    assert_eq!(KeyId::content(&digest).to_string(), root_of(&format!("{digest}@-1")));
}

#[tokio::test]
async fn the_links_are_those_of_the_shared_format() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.add("base", &[]).with("copy", &["base"], |op| {
        op.inputs[0] = FakeInput { part: Some(1), by_content: true, ..FakeInput::default() };
    });
    let result = plan.build(&bench.job(), "copy").await.unwrap();
    let op = |name: &str| -> CacheDigest { kiln_oci::Digest::sha256(format!("map {name}")).into() };
    let to = result.keys[0].id_in(&*bench.store).unwrap();
    let link = |selector| Link { input: 0, output: 0, digest: op("copy"), selector };
    let base = KeyId::root(&op("base"), 0);
    let links = bench.store.inner.all_links();
    assert_eq!(links.len(), 2);
    let selector = Some(kiln_oci::Digest::sha256("part 1"));
    assert!(links.contains(&(base, link(selector), to)), "by definition, with the selector");
    let base_value = plan.build(&bench.job(), "base").await.unwrap().output.parts[1];
    let content = KeyId::content(&kiln_oci::Digest::sha256(format!("content {base_value}")));
    assert!(links.contains(&(content, link(None), to)), "by content, without it");
}

#[tokio::test]
async fn an_export_graph_has_the_chain_with_its_results() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    plan.add("base", &[]).with("copy", &["base"], |op| {
        op.inputs[0] = FakeInput { by_content: true, ..FakeInput::default() };
    });
    plan.add("run", &["copy"]);
    for time in ["executed", "cached"] {
        let result = plan.build(&bench.job(), "run").await.unwrap();
        let graph = CacheExportGraph::of([&result], false);
        assert_eq!(graph.roots.len(), 1, "{time}");
        let top = &graph.records[graph.roots[0]];
        assert_eq!(top.digest, KeyId::root(&kiln_oci::Digest::sha256("map run").into(), 0));
        assert_eq!(top.edge, Some(plan.edge("run")));
        assert_eq!(top.results.len(), 1);
        assert_eq!(top.results[0].load().await.unwrap().parts, result.output.parts);
        let copy = &graph.records[top.inputs[0][0].record];
        let copied = if time == "executed" { 2 } else { 1 };
        assert_eq!(copy.inputs[0].len(), copied, "{time}: by definition, and by content where it was hashed");
        assert!(
            graph.records.iter().enumerate().all(|(at, r)| r.inputs.iter().flatten().all(|l| l.record < at))
        );
        let all = CacheExportGraph::of([&result], true);
        assert!(all.records.len() >= graph.records.len());
    }
}

#[tokio::test]
async fn backlinks_bring_chains_that_this_build_did_not_use() {
    let bench = Bench::new();
    let plan = |context: &str| {
        let mut plan = bench.plan();
        plan.with(context, &[], |op| op.seed = 7);
        plan.with("copy", &[context], |op| {
            op.inputs[0] = FakeInput { by_content: true, ..FakeInput::default() }
        });
        plan
    };
    plan("monday").build(&bench.job(), "copy").await.unwrap();
    let result = plan("tuesday").build(&bench.job(), "copy").await.unwrap();
    let monday = KeyId::root(&kiln_oci::Digest::sha256("map monday").into(), 0);
    let has = |graph: &CacheExportGraph<_>| graph.records.iter().any(|r| r.digest == monday);
    assert!(!has(&CacheExportGraph::of([&result], false)));
    assert!(has(&CacheExportGraph::of([&result], true)));
}

#[tokio::test]
async fn random_roots_are_not_exported() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let random = CacheDigest::Random(kiln_oci::Digest::sha256("session"));
    plan.with("local", &[], |op| op.maps = vec![random]).add("merge", &["local"]);
    plan.with("copy", &["local"], |op| op.inputs[0] = FakeInput { by_content: true, ..FakeInput::default() });
    let job = bench.job();
    let merge = plan.build(&job, "merge").await.unwrap();
    assert!(CacheExportGraph::of([&merge], true).records.is_empty());
    let copy = plan.build(&job, "copy").await.unwrap();
    let graph = CacheExportGraph::of([&copy], true);
    assert_eq!(graph.records.len(), 2, "the content and the copy");
    assert!(graph.records.iter().all(|r| r.digest.kind() == KeyKind::Root));
}

#[test]
fn a_graph_is_checked() {
    let bench = tests::fake::World::default();
    let mut plan = tests::fake::Plan::new(&std::sync::Arc::new(bench));
    plan.add("a", &[]).add("b", &["a"]);
    let vertices = plan.graph().vertices().to_vec();
    let reversed: Vec<_> = vertices.iter().rev().cloned().collect();
    assert!(matches!(Graph::new(reversed), Err(GraphError::MissingInput { .. })));
    let twice = [vertices.clone(), vertices].concat();
    assert!(matches!(Graph::new(twice), Err(GraphError::Duplicate(_))));
}
