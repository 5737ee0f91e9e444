//! Whether a step had the same key in two builds.

use crate::view::{Parent, View};

/// Whether two steps had the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Same {
    Yes,
    No,
    /// It depends on files that were not hashed in both builds.
    Unknown,
}

/// One of the builds, and which of its steps is each step of the build that is explained.
pub(crate) struct Side<'a> {
    pub(crate) view: &'a View,
    /// By step of the explained build.
    pub(crate) at: &'a [Option<usize>],
}

/// For each step of the explained build, whether it had the same key in both others (one of which may be the explained one).
pub(crate) fn table(a: &Side<'_>, b: &Side<'_>) -> Vec<Same> {
    let mut own = vec![None; a.view.steps().len()];
    for (at, step) in a.at.iter().enumerate() {
        if let Some(slot) = step.and_then(|step| own.get_mut(step)) {
            *slot = Some(at);
        }
    }
    let mut table: Vec<Same> = Vec::with_capacity(a.at.len());
    for at in 0..a.at.len() {
        let same = match (a.at[at], b.at[at]) {
            (Some(x), Some(y)) => step(a, x, b, y, &own, &table),
            _ => Same::No,
        };
        table.push(same);
    }
    table
}

fn step(a: &Side<'_>, x: usize, b: &Side<'_>, y: usize, own: &[Option<usize>], known: &[Same]) -> Same {
    if a.view.is_local(x) && b.view.is_local(y) {
        return Same::Unknown;
    }
    if !is_equal(a.view, x, b.view, y) {
        return Same::No;
    }
    let (here, there) = (a.view.parents(x), b.view.parents(y));
    if here.len() != there.len() {
        return Same::No;
    }
    let mut all = Same::Yes;
    for (at, (p, q)) in here.iter().zip(&there).enumerate() {
        let same = match (a.view.content(x, at), b.view.content(y, at)) {
            (Some(one), Some(other)) if one == other => Same::Yes,
            (Some(_), Some(_)) => Same::No,
            (one, other) => match parent(a.view, *p, b, *q, |step| own[step], known) {
                // Other trees can hold the same files.
                Same::No if one.is_some() || other.is_some() => Same::Unknown,
                same => same,
            },
        };
        match same {
            Same::Yes => {}
            Same::No => return Same::No,
            Same::Unknown => all = Same::Unknown,
        }
    }
    all
}

/// Whether the ops are equal, as far as their keys go.
pub(crate) fn is_equal(a: &View, x: usize, b: &View, y: usize) -> bool {
    match (a.steps()[x].keys.first(), b.steps()[y].keys.first()) {
        (Some(one), Some(other)) => one == other,
        _ => a.facts(x) == b.facts(y),
    }
}

/// Whether two inputs had the same key; `own` tells which step of the explained build a step of `a` is.
fn parent(
    a: &View,
    p: Parent,
    b: &Side<'_>,
    q: Parent,
    own: impl Fn(usize) -> Option<usize>,
    known: &[Same],
) -> Same {
    let (Some(x), Some(y)) = (p.step, q.step) else { return Same::No };
    if p.output != q.output {
        return Same::No;
    }
    if a.is_source(x) && b.view.is_source(y) {
        return match a.is_local(x) || b.view.is_local(y) {
            true => Same::Unknown,
            false if is_equal(a, x, b.view, y) => Same::Yes,
            false => Same::No,
        };
    }
    match own(x).filter(|at| b.at[*at] == Some(y)) {
        // Inputs come before what takes them; where another build had another order, nobody knows.
        Some(at) => known.get(at).copied().unwrap_or(Same::Unknown),
        None => Same::No,
    }
}

/// Whether the input of a step of the explained build is what it was in another; `at` says which step of that one each step is.
pub(crate) fn input(
    now: &View,
    p: Parent,
    then: &View,
    q: Parent,
    at: &[Option<usize>],
    table: &[Same],
) -> Same {
    // Each step of the explained build is itself.
    parent(now, p, &Side { view: then, at }, q, Some, table)
}
