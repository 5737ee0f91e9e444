//! What vertices mean, computed the slow and simple way.

use std::collections::{BTreeSet, HashMap};

use crate::fuzz::world::Universe;
use crate::tests::fake::{Fake, FakeOp, RunLog, World};
use crate::{CacheDigest, CacheStore, Decision, Graph, KeyId, Link, Outcome};

/// The outputs that one run of a vertex may give, each as its parts.
type Outputs = Vec<Vec<u64>>;

/// More combinations than this are not looked at.
const TOO_MANY: usize = 64;

/// All that the edge may give in this job: what its op makes of all that its inputs may give. `None` if that is too
/// much to say. An op that gives something new each time may give what any of its runs gave; where it ignores the
/// cache, only what its runs of this round gave.
pub(super) fn values(
    universe: &Universe,
    world: &World,
    ignore: &[bool],
    round: usize,
    at: usize,
) -> Option<BTreeSet<Outputs>> {
    let mut all: Vec<Option<BTreeSet<Outputs>>> = Vec::new();
    for (at, ignore) in ignore.iter().enumerate().take(at + 1) {
        let value = of_vertex(universe, world, *ignore, round, at, &all);
        all.push(value);
    }
    all.pop()?
}

fn of_vertex(
    universe: &Universe,
    world: &World,
    ignore: bool,
    round: usize,
    at: usize,
    before: &[Option<BTreeSet<Outputs>>],
) -> Option<BTreeSet<Outputs>> {
    let node = &universe.nodes[at];
    let mut seen: Vec<Vec<u64>> = vec![Vec::new()];
    for (input, output, how) in &node.inputs {
        let values = before[*input].as_ref()?;
        let sees: BTreeSet<u64> = values.iter().map(|v| how.sees(&v[*output])).collect();
        seen = seen.iter().flat_map(|s| sees.iter().map(move |x| [s.as_slice(), &[*x]].concat())).collect();
        if seen.len() > TOO_MANY {
            return None;
        }
    }
    let give = |seen: &[u64], nonce: usize| -> Outputs {
        let seed = node.function.seed;
        (0..node.function.outputs).map(|o| FakeOp::made(seed, o, seen, nonce)).collect()
    };
    if node.function.impure.is_none() {
        return Some(seen.iter().map(|s| give(s, 0)).collect());
    }
    let counts = |run: &RunLog| {
        let mine = run.digest == node.function.maps[0] && seen.contains(&run.seen);
        mine && (!ignore || (run.ignored && run.round == round))
    };
    let runs = crate::sync::lock(&world.runs);
    Some(runs.iter().filter(|r| counts(r)).map(|r| give(&r.seen, r.nonce)).collect())
}

/// Whether a decision to run was right: no store had a result under a key that the definitions, and the content that
/// was hashed, lead to.
pub(super) fn may_run(
    decision: &Decision,
    graph: &Graph<Fake>,
    stores: &[&dyn CacheStore<Fake>],
) -> Result<(), String> {
    let Outcome::Run(reason) = &decision.outcome else { return Ok(()) };
    let Some(vertex) = graph.get(&decision.edge.vertex) else { return Ok(()) };
    if vertex.options.ignore_cache {
        return Ok(());
    }
    for store in stores {
        let keys = keys(*store, graph, decision);
        let found = keys.iter().find(|k| !store.records(k).is_empty());
        if let Some(found) = found {
            return Err(format!("{} runs ({reason:?}) though {} has {found}", decision.name, store.name()));
        }
    }
    Ok(())
}

fn keys(store: &dyn CacheStore<Fake>, graph: &Graph<Fake>, decision: &Decision) -> BTreeSet<KeyId> {
    let mut all: HashMap<(kiln_oci::Digest, usize), BTreeSet<KeyId>> = HashMap::new();
    for vertex in graph.vertices() {
        let outputs = vertex.op.outputs;
        for output in 0..outputs {
            let this = vertex.digest == decision.edge.vertex && output == decision.edge.output;
            let contents = decision.inputs.iter().map(|i| i.content.clone().filter(|_| this));
            let mut keys: Option<BTreeSet<KeyId>> = None;
            if vertex.inputs.is_empty() {
                keys = Some(roots(store, &vertex.op.maps[0], output));
            }
            let contents: Vec<_> =
                contents.chain(std::iter::repeat(None)).take(vertex.inputs.len()).collect();
            for (at, (input, content)) in vertex.inputs.iter().zip(contents).enumerate() {
                let link = |part: Option<usize>| Link {
                    input: at,
                    output,
                    digest: vertex.op.maps[0].clone(),
                    selector: part.map(|p| kiln_oci::Digest::sha256(format!("part {p}"))),
                };
                let from = &all[&(input.vertex.clone(), input.output)];
                let part = vertex.op.inputs[at].part;
                let mut here: BTreeSet<KeyId> =
                    from.iter().flat_map(|k| store.links(k, &link(part))).collect();
                here.extend(content.iter().flat_map(|c| store.links(&KeyId::content(c), &link(None))));
                keys = Some(match keys {
                    Some(keys) => keys.intersection(&here).copied().collect(),
                    None => here,
                });
            }
            let keys = keys.filter(|_| !vertex.options.ignore_cache).unwrap_or_default();
            all.insert((vertex.digest.clone(), output), keys);
        }
    }
    all.remove(&(decision.edge.vertex.clone(), decision.edge.output)).unwrap_or_default()
}

fn roots(store: &dyn CacheStore<Fake>, digest: &CacheDigest, output: usize) -> BTreeSet<KeyId> {
    let id = KeyId::root(digest, output);
    store.exists(&id).then_some(id).into_iter().collect()
}
