//! Which step of an earlier build is "the same step".

use std::collections::HashMap;

use crate::name::Name;

/// Stages with more steps than the square root of this are compared by position alone.
const MAX_TABLE: usize = 4 << 20;

/// What of a step tells whether it is the same: its name, and the kind of its op.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label<'a> {
    pub(crate) name: Name<'a>,
    pub(crate) kind: &'static str,
}

impl Label<'_> {
    fn is_equal(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name.text == other.name.text
    }

    fn is_alike(&self, other: &Self) -> bool {
        // Without an instruction, what a step is called says nothing.
        let instruction = self.name.bracket.is_empty() || self.name.keyword() == other.name.keyword();
        self.kind == other.kind && instruction
    }
}

/// For each step of `now`, that of `then`.
pub(crate) fn align(now: &[Label<'_>], then: &[Label<'_>]) -> Vec<Option<usize>> {
    let mut aligned = vec![None; now.len()];
    for (new, old) in pair_groups(&groups(now), &groups(then)) {
        sequence(now, then, &new, &old, &mut aligned);
    }
    aligned
}

type Group<'a> = (&'a str, Vec<usize>);

/// The steps by stage, in the order in which stages come.
fn groups<'a>(labels: &[Label<'a>]) -> Vec<Group<'a>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut all: Vec<Group<'a>> = Vec::new();
    for (at, label) in labels.iter().enumerate() {
        let place = *places.entry(label.name.group).or_insert_with(|| {
            all.push((label.name.group, Vec::new()));
            all.len() - 1
        });
        all[place].1.push(at);
    }
    all
}

/// Stages by name; then, in order, those whose names do not match.
fn pair_groups(now: &[Group<'_>], then: &[Group<'_>]) -> Vec<(Vec<usize>, Vec<usize>)> {
    let places: HashMap<&str, usize> = then.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
    let mut pairs = Vec::new();
    let mut rest = Vec::new();
    let mut taken = vec![false; then.len()];
    for (name, steps) in now {
        match places.get(name) {
            Some(&at) => {
                taken[at] = true;
                pairs.push((steps.clone(), then[at].1.clone()));
            }
            None => rest.push(steps.clone()),
        }
    }
    let free = then.iter().zip(taken).filter(|(_, taken)| !taken).map(|((_, steps), _)| steps.clone());
    pairs.extend(rest.into_iter().zip(free));
    pairs
}

/// Equal steps first, as many as there can be in order; between them, alike ones in order.
fn sequence(
    now: &[Label<'_>],
    then: &[Label<'_>],
    new: &[usize],
    old: &[usize],
    aligned: &mut [Option<usize>],
) {
    let (mut last_new, mut last_old) = (0, 0);
    let mut anchors = anchors(now, then, new, old);
    anchors.push((new.len(), old.len()));
    for (a, b) in anchors {
        let mut free = last_old..b;
        for &at in &new[last_new..a] {
            let mut rest = free.clone();
            if let Some(found) = rest.find(|o| now[at].is_alike(&then[old[*o]])) {
                aligned[at] = Some(old[found]);
                free = rest;
            }
        }
        if let (Some(&at), Some(&found)) = (new.get(a), old.get(b)) {
            aligned[at] = Some(found);
        }
        (last_new, last_old) = (a + 1, b + 1);
    }
}

/// The longest common sequence of equal steps.
fn anchors(now: &[Label<'_>], then: &[Label<'_>], new: &[usize], old: &[usize]) -> Vec<(usize, usize)> {
    let (n, m) = (new.len(), old.len());
    if n.saturating_mul(m) > MAX_TABLE {
        return Vec::new();
    }
    let equal = |i: usize, j: usize| now[new[i]].is_equal(&then[old[j]]);
    let at = |i: usize, j: usize| i * (m + 1) + j;
    let mut longest = vec![0_u32; (n + 1) * (m + 1)];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            longest[at(i, j)] = match equal(i, j) {
                true => longest[at(i + 1, j + 1)] + 1,
                false => longest[at(i + 1, j)].max(longest[at(i, j + 1)]),
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < n && j < m {
        if equal(i, j) {
            out.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[at(i + 1, j)] >= longest[at(i, j + 1)] {
            i += 1;
        } else {
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(now: &[&'static str], then: &[&'static str]) -> Vec<Option<usize>> {
        let label = |name: &&'static str| Label { name: Name::parse(name), kind: "exec" };
        let (now, then): (Vec<_>, Vec<_>) =
            (now.iter().map(label).collect(), then.iter().map(label).collect());
        align(&now, &then)
    }

    #[test]
    fn equal_steps_are_the_same_wherever_they_stand() {
        let then = ["[1/3] RUN a", "[2/3] RUN b", "[3/3] RUN c"];
        assert_eq!(pairs(&then, &then), [Some(0), Some(1), Some(2)]);
        let now = ["[1/4] RUN a", "[2/4] RUN new", "[3/4] RUN b", "[4/4] RUN c"];
        assert_eq!(pairs(&now, &then), [Some(0), None, Some(1), Some(2)]);
        assert_eq!(pairs(&["[1/2] RUN a", "[2/2] RUN c"], &then), [Some(0), Some(2)]);
    }

    #[test]
    fn a_step_whose_text_has_changed_is_found_by_its_place_and_instruction() {
        let then = ["[1/3] COPY a", "[2/3] RUN b", "[3/3] RUN c"];
        assert_eq!(
            pairs(&["[1/3] COPY a", "[2/3] RUN x", "[3/3] RUN c"], &then),
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!(
            pairs(&["[1/3] COPY a", "[2/3] COPY x", "[3/3] RUN c"], &then),
            [Some(0), None, Some(2)],
            "a COPY is no RUN"
        );
    }

    #[test]
    fn stages_go_by_name_and_then_by_order() {
        let then = ["[build 1/1] RUN a", "[app 1/1] RUN a"];
        assert_eq!(pairs(&["[app 1/1] RUN a", "[build 1/1] RUN a"], &then), [Some(1), Some(0)]);
        assert_eq!(pairs(&["[make 1/1] RUN a", "[app 1/1] RUN a"], &then), [Some(0), Some(1)]);
        assert_eq!(pairs(&["[stage-0 1/1] RUN a"], &["[1/1] RUN a"]), [Some(0)]);
        assert_eq!(pairs(&["[linux/amd64 1/1] RUN a"], &["[1/1] RUN a"]), [Some(0)]);
    }

    #[test]
    fn steps_without_instructions_go_by_their_kind() {
        assert_eq!(pairs(&["sh -c a"], &["mkdir b"]), [Some(0)]);
        let other = Label { name: Name::parse("x"), kind: "file" };
        let run = Label { name: Name::parse("x"), kind: "exec" };
        assert_eq!(align(&[run], &[other]), [None]);
    }
}
