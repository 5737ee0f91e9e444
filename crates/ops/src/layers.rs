//! Which steps make the layers of a tree.

use std::collections::HashSet;

use kiln_llb::{Edge, Graph, Vertex};
use kiln_oci::Digest;
use kiln_proto::pb::{self, op::Op};

/// The steps, with their outputs, that each make a layer of what a definition is; the last one apart, which makes the whole.
#[must_use]
pub fn steps_below(graph: &Graph) -> HashSet<(Digest, usize)> {
    let mut seen = HashSet::new();
    let mut next = vec![graph.root().clone()];
    while let Some(edge) = next.pop() {
        let Some(vertex) = graph.get(&edge.vertex) else { continue };
        let below = stands_on(vertex, edge.output);
        // Each once, however many ways lead to it.
        next.extend(below.into_iter().filter(|edge| seen.insert((edge.vertex.clone(), edge.output))));
    }
    seen.retain(|(digest, _)| graph.get(digest).is_some_and(|vertex| is_step(vertex)));
    seen
}

fn is_step(vertex: &Vertex) -> bool {
    matches!(vertex.op.op, Some(Op::Exec(_) | Op::File(_)))
}

/// Whose layers an output has below its own.
fn stands_on(vertex: &Vertex, output: usize) -> Vec<Edge> {
    let inputs: Vec<i64> = match &vertex.op.op {
        Some(Op::Exec(exec)) => {
            exec.mounts.iter().filter(|m| is(m.output, output)).map(|m| m.input).collect()
        }
        Some(Op::File(file)) => base_of(file, output, vertex.inputs.len()).into_iter().collect(),
        Some(Op::Merge(merge)) => merge.inputs.iter().map(|input| input.input).collect(),
        Some(Op::Diff(diff)) => diff.upper.iter().map(|upper| upper.input).collect(),
        _ => Vec::new(),
    };
    let edge = |input: i64| vertex.inputs.get(usize::try_from(input).ok()?).cloned();
    inputs.into_iter().filter_map(edge).collect()
}

/// The input that the actions up to an output write onto.
fn base_of(file: &pb::FileOp, output: usize, inputs: usize) -> Option<i64> {
    let mut action = file.actions.iter().find(|action| is(action.output, output))?;
    // An action can stand on earlier ones only; one that claims otherwise ends here as well.
    for _ in &file.actions {
        match usize::try_from(action.input).ok()?.checked_sub(inputs) {
            None => return Some(action.input),
            Some(earlier) => action = file.actions.get(earlier)?,
        }
    }
    None
}

fn is(of: i64, output: usize) -> bool {
    usize::try_from(of) == Ok(output)
}

#[cfg(test)]
mod tests {
    use kiln_llb::build::{Constraints, CopyOptions, File, Marshal, Mount, Run, State};

    use super::*;

    fn file(name: &str) -> File {
        File::new().mkfile(name, 0o644, b"x".to_vec(), None, None)
    }

    fn names(state: &State) -> Vec<String> {
        let graph = Graph::decode(&state.marshal(&Marshal::new("layers")).unwrap()).unwrap();
        let found = steps_below(&graph);
        let name = |vertex: &std::sync::Arc<Vertex>| {
            let step = found.iter().find(|(digest, _)| *digest == vertex.digest)?;
            Some(format!("{} {}", vertex.name(), step.1))
        };
        graph.vertices().iter().filter_map(name).collect()
    }

    fn named(name: &str) -> Constraints {
        Constraints::new().custom_name(name)
    }

    #[test]
    fn a_chain_of_steps() {
        let other = State::scratch().file(file("/o"), named("other"));
        let base = State::scratch().file(file("/a").mkdir("/d", 0o755, false, None, None), named("base"));
        let copied = base.file(File::new().copy(&other, "/o", "/o", CopyOptions::default()), named("copy"));
        let ran =
            copied.run(Run::new(["x"]).mount(Mount::bind("/m", &other)).constraints(named("run"))).unwrap();
        // What is only copied from, or mounted, makes no layer.
        assert_eq!(names(ran.root()), ["base 0", "copy 0"]);
        // Of another output, what it stands on.
        assert_eq!(names(ran.mount("/m").unwrap()), ["other 0"]);
        assert!(names(&base).is_empty() && names(&State::scratch().file(file("/a"), named("x"))).is_empty());
    }

    #[test]
    fn many_ways_to_one_step_are_one() {
        let mut state = State::scratch().file(file("/a"), named("a"));
        for _ in 0..64 {
            state = State::merge([&state, &state], Constraints::new());
        }
        assert_eq!(names(&state), ["a 0"]);
    }

    #[test]
    fn merges_and_differences() {
        let (a, b) =
            (State::scratch().file(file("/a"), named("a")), State::scratch().file(file("/b"), named("b")));
        let more = a.file(file("/c"), named("more"));
        let merged = State::merge([&b, &State::diff(&a, &more, Constraints::new())], Constraints::new());
        let mut found = names(&merged);
        found.sort();
        assert_eq!(found, ["a 0", "b 0", "more 0"]);
    }
}
