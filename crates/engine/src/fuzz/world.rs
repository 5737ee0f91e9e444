//! A random universe of vertices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use kiln_oci::Digest;

use crate::tests::fake::{Fake, FakeInput, FakeOp, World, hash};
use crate::{CacheDigest, Edge, Graph, Vertex, VertexOptions};

/// splitmix64: small, and the same everywhere.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a vertex does: its digests say what comes out.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) maps: Vec<CacheDigest>,
    pub(super) seed: u64,
    pub(super) outputs: usize,
    /// Every run gives something new.
    pub(super) impure: Option<Arc<AtomicUsize>>,
}

/// A vertex of the universe.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) function: Function,
    pub(super) inputs: Vec<(usize, usize, FakeInput)>,
    pub(super) yields: usize,
    /// Fails the next time it runs.
    pub(super) fails: Arc<AtomicBool>,
}

pub(super) struct Universe {
    pub(super) nodes: Vec<Node>,
}

fn named(text: String) -> CacheDigest {
    Digest::sha256(text).into()
}

fn root(rng: &mut Rng) -> Function {
    let kind = rng.below(6);
    let id = rng.below(6);
    match kind {
        0 => Function {
            maps: vec![named(format!("clock {id}"))],
            seed: id as u64,
            outputs: 1,
            impure: Some(Arc::default()),
        },
        1 => Function {
            maps: vec![CacheDigest::Random(Digest::sha256(format!("local {id}")))],
            seed: 100 + id as u64 % 2,
            outputs: 1,
            impure: None,
        },
        _ => {
            let mut maps = vec![named(format!("manifest {id}")), named(format!("chain {}", id / 2))];
            maps.truncate(2 - id % 2);
            if maps.len() == 1 {
                maps = vec![named(format!("single {id}"))];
            }
            let seed = if maps.len() == 2 { 200 + id as u64 / 2 } else { 300 + id as u64 % 2 };
            Function { maps, seed, outputs: 1 + usize::from(id == 5), impure: None }
        }
    }
}

impl Universe {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let count = 3 + rng.below(10);
        let mut clocks: Vec<(usize, Arc<AtomicUsize>)> = Vec::new();
        let mut nodes: Vec<Node> = Vec::new();
        for at in 0..count {
            let arity = if at == 0 { 0 } else { rng.below(4).min(at) };
            let mut inputs = Vec::new();
            for _ in 0..arity {
                let input = rng.below(at);
                let output = rng.below(nodes[input].function.outputs);
                let part = if rng.one_in(2) { Some(rng.below(3)) } else { None };
                let (by_content, prepare) = (rng.one_in(3), rng.one_in(6));
                inputs.push((input, output, FakeInput { part, by_content, prepare }));
            }
            let function = if arity == 0 {
                root(rng)
            } else {
                let id = rng.below(4);
                let impure = id == 3;
                let counter = clocks.iter().find(|(a, _)| *a == arity).map(|(_, c)| c.clone());
                let counter = counter.unwrap_or_else(|| {
                    clocks.push((arity, Arc::default()));
                    clocks[clocks.len() - 1].1.clone()
                });
                Function {
                    maps: vec![named(format!("function {id} of {arity}"))],
                    seed: 10 * arity as u64 + id as u64 / 2,
                    outputs: 1 + usize::from(id == 1),
                    impure: impure.then_some(counter),
                }
            };
            let yields = if rng.one_in(4) { 30 } else { rng.below(4) };
            nodes.push(Node { function, inputs, yields, fails: Arc::default() });
        }
        // Vertices that differ, and mean the same.
        if rng.one_in(2) {
            let twin = nodes[rng.below(nodes.len())].clone();
            let output = rng.below(twin.function.outputs);
            nodes.push(Node { yields: rng.below(4), fails: Arc::default(), ..twin });
            let last = nodes.len() - 1;
            let function = Function {
                maps: vec![named("function last of 2".to_owned())],
                seed: 77,
                outputs: 1,
                impure: None,
            };
            let plain = FakeInput::default();
            let other = rng.below(last);
            let inputs = vec![(last, output, plain.clone()), (other, 0, plain)];
            nodes.push(Node { function, inputs, yields: 0, fails: Arc::default() });
        }
        // The same clock ticks wherever the same digest stands.
        for at in 0..nodes.len() {
            let same = (0..at).find(|b| nodes[*b].function.maps == nodes[at].function.maps);
            if let Some(same) = same {
                nodes[at].function.impure = nodes[same].function.impure.clone();
            }
        }
        Self { nodes }
    }

    /// The universe as a job sees it: with digests of its own (`salt`), some vertices ignoring the cache.
    pub(super) fn graph(&self, world: &Arc<World>, salt: usize, ignore: &[bool]) -> Graph<Fake> {
        let mut vertices: Vec<Vertex<Fake>> = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let op = FakeOp {
                world: world.clone(),
                name: format!("v{at}"),
                maps: node.function.maps.clone(),
                inputs: node.inputs.iter().map(|(_, _, i)| i.clone()).collect(),
                outputs: node.function.outputs,
                seed: node.function.seed,
                gate: None,
                fails: None,
                fails_once: Some(node.fails.clone()),
                map_fails: false,
                panics: false,
                permits: None,
                sub: None,
                yields: node.yields,
                opts: None,
                nonce: node.function.impure.clone(),
            };
            let inputs =
                node.inputs.iter().map(|(i, o, _)| Edge::new(vertices[*i].digest.clone(), *o)).collect();
            vertices.push(Vertex {
                digest: self.digest(at, salt),
                name: format!("v{at}"),
                inputs,
                op: Arc::new(op),
                options: VertexOptions { ignore_cache: ignore[at], ..VertexOptions::default() },
            });
        }
        Graph::new(vertices).unwrap()
    }

    /// Whether the vertex follows from a random root by definition alone: no later build finds its result.
    pub(super) fn is_passing(&self, name: &str) -> bool {
        // Passing, and giving something new each time that it runs.
        let (mut passing, mut fickle) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let random = node.inputs.is_empty() && node.function.maps.iter().all(CacheDigest::is_random);
            let follows =
                |(i, _, how): &(usize, usize, FakeInput)| passing[*i] && (!how.by_content || fickle[*i]);
            let passes: bool = random || node.inputs.iter().any(follows);
            let changes: bool =
                node.function.impure.is_some() || node.inputs.iter().any(|(i, ..)| fickle[*i]);
            passing.push(passes);
            fickle.push(passes && changes);
        }
        let at: usize = name[1..].parse().unwrap();
        passing[at]
    }

    pub(super) fn digest(&self, at: usize, salt: usize) -> Digest {
        Digest::sha256(format!("{:x} {at} {salt}", hash(salt)))
    }
}
