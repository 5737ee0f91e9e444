use std::collections::HashMap;
use std::time::{Duration, Instant};

use kiln_engine::CacheDigest;
use kiln_oci::{Time, media_type};

use super::*;
use crate::config::{ChainResult, Input, Layer, LayerResult, Record};

fn cache_digest(name: &str) -> Digest {
    Digest::sha256(name)
}

/// How a config names the key of an op.
fn exported(name: &str) -> Digest {
    KeyId::root(&cache_digest(name).into(), 0).exported()
}

fn link(name: &str, input: usize, selector: Option<Digest>) -> Link {
    Link { input, output: 0, digest: CacheDigest::Fixed(cache_digest(name)), selector }
}

fn input(link: usize) -> Input {
    Input { selector: None, link }
}

fn at() -> Time {
    Time::from_unix(7)
}

fn blob(name: &str) -> Digest {
    Digest::sha256(name)
}

fn blobs(names: &[&str]) -> HashMap<Digest, Descriptor> {
    let one = |name: &&str| (blob(name), Descriptor::new(media_type::OCI_LAYER_GZIP, blob(name), 1));
    names.iter().map(one).collect()
}

/// base ─▶ run, with a layer each, and a copy of run whose result is a chain.
fn config() -> CacheConfig {
    let layer = |name: &str, parent| Layer { blob: blob(name), parent };
    let mut run = Record::new(exported("run"), vec![vec![Input { selector: Some(blob("sel")), link: 0 }]]);
    run.results.push(LayerResult { layer: 1, created_at: at() });
    let mut copy = Record::new(exported("copy"), vec![vec![input(0)], vec![input(1)]]);
    copy.chains.push(ChainResult { layers: vec![0, 2], created_at: at() });
    let mut lower = Record::new(exported("base"), vec![]);
    lower.results.push(LayerResult { layer: 0, created_at: at() });
    CacheConfig {
        layers: vec![layer("base", None), layer("run", Some(0)), layer("copy", None)],
        records: vec![lower, run, copy],
    }
}

fn graph(config: &CacheConfig, blobs: &HashMap<Digest, Descriptor>) -> CacheGraph {
    let mut graph = CacheGraph::default();
    graph.add(config, blobs).unwrap();
    graph
}

#[test]
fn keys_are_found_by_their_links() {
    let graph = graph(&config(), &blobs(&["base", "run", "copy"]));
    let base = KeyId::root(&cache_digest("base").into(), 0);
    assert!(graph.exists(&base) && !graph.exists(&KeyId::root(&cache_digest("base").into(), 1)));
    assert!(graph.links(&base, &link("run", 0, None)).is_empty());
    assert!(graph.links(&base, &link("run", 1, Some(blob("sel")))).is_empty());
    let [run] = graph.links(&base, &link("run", 0, Some(blob("sel"))))[..] else { panic!("no link") };
    let [copy] = graph.links(&base, &link("copy", 0, None))[..] else { panic!("no link") };
    assert_eq!(graph.links(&run, &link("copy", 1, None)), [copy]);
    let back = graph.backlinks(&copy);
    assert_eq!(back, [Backlink::of(base, &link("copy", 0, None)), Backlink::of(run, &link("copy", 1, None))]);

    let [record] = &graph.records(&run)[..] else { panic!("no result") };
    assert_eq!(record.created_at, std::time::UNIX_EPOCH + Duration::from_secs(7));
    assert_eq!(graph.keys_of(&record.id), [run]);
    let names = |record: &RecordId| -> Vec<Digest> {
        graph.layers_of(record).unwrap().into_iter().map(|layer| layer.digest.clone()).collect()
    };
    assert_eq!(names(&record.id), [blob("base"), blob("run")]);
    assert_eq!(names(&graph.records(&copy)[0].id), [blob("base"), blob("copy")]);
    assert!(graph.layers_of(&"layer:99".into()).is_none());
}

#[test]
fn lower_parts_come_along() {
    let graph = graph(&config(), &blobs(&["base", "run", "copy"]));
    let base = KeyId::root(&cache_digest("base").into(), 0);
    let copy = graph.links(&base, &link("copy", 0, None))[0];
    let record = &graph.records(&copy)[0].id;
    let lower = graph.lower(&copy, record);
    // The layer of "run" is no part of what "copy" made of it.
    assert_eq!(lower.iter().map(|part| (part.key, part.depth)).collect::<Vec<_>>(), [(base, 1)]);
}

#[test]
fn results_without_their_blobs_are_none() {
    let graph = graph(&config(), &blobs(&["run", "copy"]));
    assert!(graph.is_empty() && graph.len() == 3);
    let base = KeyId::root(&cache_digest("base").into(), 0);
    assert!(graph.records(&base).is_empty());
    assert_eq!(graph.links(&base, &link("copy", 0, None)).len(), 1);
}

#[test]
fn several_configs_are_one_graph() {
    let mut all = graph(&config(), &blobs(&["base", "run", "copy"]));
    all.add(&config(), &blobs(&["base", "run", "copy"])).unwrap();
    let base = KeyId::root(&cache_digest("base").into(), 0);
    assert_eq!(all.records(&base).len(), 1);
    assert_eq!(all.links(&base, &link("copy", 0, None)).len(), 2);
}

#[test]
fn hostile_configs_are_refused() {
    let refused = |change: &dyn Fn(&mut CacheConfig)| {
        let mut config = config();
        change(&mut config);
        let error = CacheGraph::default().add(&config, &blobs(&["base", "run", "copy"])).unwrap_err();
        error.to_string()
    };
    assert!(refused(&|c| c.layers[0].parent = Some(3)).contains("layer 0"));
    assert!(refused(&|c| c.layers[0].parent = Some(0)).contains("circle"));
    assert!(refused(&|c| c.layers[0].parent = Some(1)).contains("circle"));
    assert!(refused(&|c| c.records[1].results[0].layer = usize::MAX).contains("record 1"));
    assert!(refused(&|c| c.records[2].chains[0].layers.push(3)).contains("record 2"));
    assert!(refused(&|c| c.records[1].inputs[0][0].link = 3).contains("record 1"));
    assert!(refused(&|c| c.records[1].inputs[0].clear()).contains("record 1"));
    assert!(refused(&|c| c.records[1].inputs[0][0].link = 1).contains("circle"));
    assert!(refused(&|c| c.records[0].inputs.push(vec![input(2)])).contains("circle"));
}

#[test]
fn a_tower_of_layers_is_no_result() {
    let count = MAX_DEPTH + 1;
    let names: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    let layers =
        names.iter().enumerate().map(|(n, name)| Layer { blob: blob(name), parent: n.checked_sub(1) });
    let results = [count - 2, count - 1].map(|layer| LayerResult { layer, created_at: at() });
    let records = vec![Record { results: results.into(), ..Record::new(exported("x"), vec![]) }];
    let config = CacheConfig { layers: layers.collect(), records };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let graph = graph(&config, &blobs(&names));
    assert_eq!(graph.records(&KeyId::root(&cache_digest("x").into(), 0)).len(), 1);
}

/// A chain of `count` steps that each have a second input and a layer on the one before.
fn large(count: usize) -> (CacheConfig, HashMap<Digest, Descriptor>) {
    let names: Vec<String> = (0..count).map(|n| format!("step {n}")).collect();
    let mut config = CacheConfig::default();
    for (n, name) in names.iter().enumerate() {
        let parent = (n % 100 > 0).then(|| n - 1);
        config.layers.push(Layer { blob: blob(name), parent });
        let inputs = match n {
            0 => Vec::new(),
            _ => vec![vec![input(n - 1), input(n / 2)], vec![input(0)]],
        };
        let inputs = if n == 1 { vec![vec![input(0)]] } else { inputs };
        let results = vec![LayerResult { layer: n, created_at: at() }];
        config.records.push(Record { results, ..Record::new(exported(name), inputs) });
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    (config, blobs(&names))
}

#[test]
fn ten_thousand_records_take_less_than_a_second() {
    let (mut config, blobs) = large(10_000);
    let start = Instant::now();
    config.sort();
    let json = config.encode().unwrap();
    let read = CacheConfig::decode(&json).unwrap();
    let graph = graph(&read, &blobs);
    assert_eq!(graph.len(), 10_000);
    // Unoptimized code takes several times as long, and tests share the machine; far more would not be linear.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
    assert_eq!(read, config);
}

#[test]
fn a_record_that_everything_leads_to_takes_no_longer() {
    // One record with as many alternatives as there are records, and one layer that is the result of all.
    let count = 20_000;
    let mut records: Vec<Record> =
        (0..count).map(|n| Record::new(exported(&n.to_string()), vec![])).collect();
    for record in &mut records {
        record.results = vec![LayerResult { layer: 0, created_at: at() }; 3];
    }
    let all = (0..count).map(input).collect();
    records.push(Record::new(exported("top"), vec![all]));
    let config = CacheConfig { layers: vec![Layer { blob: blob("base"), parent: None }], records };
    let start = Instant::now();
    let graph = graph(&config, &blobs(&["base"]));
    let top = graph.links(&KeyId::root(&cache_digest("5").into(), 0), &link("top", 0, None))[0];
    assert_eq!(graph.backlinks(&top).len(), count);
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 8 } else { 2 });
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
}
