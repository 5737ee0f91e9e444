//! Where changes that steps follow have begun.

use std::collections::HashMap;

use crate::{Cause, Follow, Root, StepAnswer};

/// No more differences of a root are told at each step that follows it.
pub(crate) const MAX_DIFFERENCES: usize = 20;
/// No more roots of a step are told,
const MAX_ROOTS: usize = 20;
/// and no more bytes of all of them.
const MAX_BYTES: usize = 4 << 20;

/// Fills in the roots of the steps `chosen` that follow others. The result: whether some are left out, as there are too many.
pub(crate) fn find_roots(steps: &mut [StepAnswer], chosen: &[usize]) -> bool {
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
    let places = places(steps, &follows);
    let (mut room, mut left_out) = (MAX_BYTES, false);
    for &at in chosen {
        let mut roots = Vec::new();
        for root in places[at].iter().map(|root| root_of(&steps[*root])) {
            match room.checked_sub(size(&root)) {
                Some(left) => {
                    room = left;
                    roots.push(root);
                }
                None => left_out = true,
            }
        }
        roots.sort_by_key(|root| root.number);
        steps[at].roots = roots;
    }
    left_out
}

/// For each step the places of its roots: of what it follows, those with a cause of their own, and their roots.
fn places(steps: &[StepAnswer], follows: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let is_root = |at: usize| steps[at].cause.is_some_and(|cause| cause != Cause::Follows);
    let mut found: Vec<Option<Vec<usize>>> = vec![None; steps.len()];
    let mut begun = vec![false; steps.len()];
    for start in 0..steps.len() {
        let mut stack = vec![start];
        while let Some(&at) = stack.last() {
            if !std::mem::replace(&mut begun[at], true) {
                stack.extend(follows[at].iter().copied().filter(|next| !begun[*next]));
                continue;
            }
            stack.pop();
            if found[at].is_some() {
                continue;
            }
            let mut own: Vec<usize> = Vec::new();
            for &next in &follows[at] {
                // One that is not done yet follows this one, which only two steps of one name can.
                let further = found[next].iter().flatten().copied();
                for root in is_root(next).then_some(next).into_iter().chain(further) {
                    if own.len() < MAX_ROOTS && root != at && !own.contains(&root) {
                        own.push(root);
                    }
                }
            }
            found[at] = Some(own);
        }
    }
    found.into_iter().map(Option::unwrap_or_default).collect()
}

fn root_of(step: &StepAnswer) -> Root {
    let more = step.differences.len().saturating_sub(MAX_DIFFERENCES) + step.more_files;
    Root {
        number: step.number,
        name: step.name.clone(),
        cause: step.cause.unwrap_or(Cause::Unknown),
        detail: step.detail.clone(),
        differences: step.differences.iter().take(MAX_DIFFERENCES).cloned().collect(),
        more,
    }
}

/// About what it takes in an answer, in bytes.
fn size(root: &Root) -> usize {
    let differences = root.differences.iter().map(|difference| {
        let texts = [&difference.before, &difference.after, &difference.build_arg];
        100 + difference.name.len() + texts.into_iter().flatten().map(String::len).sum::<usize>()
    });
    100 + root.name.len() + root.detail.len() + differences.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use kiln_proto::history::Step;

    use super::*;
    use crate::describe::{blank, plain};
    use crate::{Change, Kind};

    /// Steps that each follow the one before; the first has changed.
    fn chain(count: usize, name: &str) -> Vec<StepAnswer> {
        let follow = |at: usize| Follow { input: 0, number: Some(at), name: String::new(), before: None };
        let step = |at: usize| StepAnswer {
            cause: Some(if at == 0 { Cause::Changed } else { Cause::Follows }),
            follows: (at > 0).then(|| follow(at)).into_iter().collect(),
            ..blank(&Step { name: format!("{name}{at}"), ..Step::default() }, Some(at + 1))
        };
        (0..count).map(step).collect()
    }

    fn all(steps: &[StepAnswer]) -> Vec<usize> {
        (0..steps.len()).collect()
    }

    #[test]
    fn a_change_is_found_over_any_number_of_steps() {
        let mut steps = chain(5000, "s");
        let chosen = all(&steps);
        assert!(!find_roots(&mut steps, &chosen));
        assert!(steps[0].roots.is_empty());
        assert!(steps[1..].iter().all(|step| step.roots.len() == 1 && step.roots[0].number == Some(1)));
    }

    #[test]
    fn roots_take_no_more_than_there_is_room_for() {
        let mut steps = chain(50, &"x".repeat(MAX_BYTES / 10));
        let chosen = all(&steps);
        assert!(find_roots(&mut steps, &chosen));
        let told: usize = steps.iter().map(|step| step.roots.len()).sum();
        assert_eq!(told, 9);
        // Of one that is asked about alone there is enough.
        assert!(!find_roots(&mut steps, &[49]));
        assert_eq!(steps[49].roots.len(), 1);
    }

    #[test]
    fn of_a_root_the_first_differences_are_told() {
        let mut steps = chain(2, "s");
        steps[0].differences =
            (0..30).map(|n| plain(Kind::File, n.to_string(), Change::Changed, None)).collect();
        let chosen = all(&steps);
        find_roots(&mut steps, &chosen);
        assert_eq!((steps[1].roots[0].differences.len(), steps[1].roots[0].more), (MAX_DIFFERENCES, 10));
    }

    #[test]
    fn steps_of_one_name_that_seem_to_follow_each_other_end() {
        let mut steps = chain(2, "s");
        for (at, other) in [(0, "s1"), (1, "s0")] {
            steps[at].follows = vec![Follow { input: 0, number: None, name: other.into(), before: None }];
        }
        let chosen = all(&steps);
        find_roots(&mut steps, &chosen);
        assert_eq!(steps[1].roots.len(), 1);
    }
}
