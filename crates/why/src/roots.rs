//! Where changes that steps follow have begun.

use std::collections::{HashMap, HashSet};

use crate::{Cause, Follow, Root, StepAnswer};

/// No more differences of a root are told at each step that follows it.
const MAX_DIFFERENCES: usize = 20;
/// No more roots are told.
const MAX_ROOTS: usize = 20;

/// Fills in the roots of every step that follows others.
pub(crate) fn find_roots(steps: &mut [StepAnswer]) {
    let names: HashMap<&str, usize> =
        steps.iter().enumerate().map(|(at, step)| (step.name.as_str(), at)).collect();
    let numbers: HashMap<usize, usize> =
        steps.iter().enumerate().filter_map(|(at, step)| Some((step.number?, at))).collect();
    // Names may be there twice; housekeeping has nothing else.
    let place = |follow: &Follow| match follow.number {
        Some(number) => numbers.get(&number).copied(),
        None => names.get(follow.name.as_str()).copied(),
    };
    let follows: Vec<Vec<usize>> =
        steps.iter().map(|step| step.follows.iter().filter_map(place).collect()).collect();
    let found: Vec<Vec<Root>> = (0..steps.len()).map(|at| roots(at, steps, &follows)).collect();
    for (step, roots) in steps.iter_mut().zip(found) {
        step.roots = roots;
    }
}

fn roots(of: usize, steps: &[StepAnswer], follows: &[Vec<usize>]) -> Vec<Root> {
    let (mut seen, mut found) = (HashSet::from([of]), Vec::new());
    let mut stack = follows[of].clone();
    while let Some(at) = stack.pop() {
        if found.len() == MAX_ROOTS || !seen.insert(at) {
            continue;
        }
        let step = &steps[at];
        if let Some(cause) = step.cause.filter(|cause| *cause != Cause::Follows) {
            let more = step.differences.len().saturating_sub(MAX_DIFFERENCES) + step.more_files;
            found.push(Root {
                number: step.number,
                name: step.name.clone(),
                cause,
                detail: step.detail.clone(),
                differences: step.differences.iter().take(MAX_DIFFERENCES).cloned().collect(),
                more,
            });
        }
        stack.extend(&follows[at]);
    }
    found.sort_by_key(|root| root.number);
    found
}
