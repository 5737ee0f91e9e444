//! Which steps are asked about.

use crate::{StepAnswer, name::Name};

/// The places of the steps that `wanted` names: a number of the list, what a name has in brackets (or only its position), or a part of a
/// name in any case.
pub(crate) fn select(steps: &[StepAnswer], wanted: &str) -> Vec<usize> {
    let all = |matches: &dyn Fn(&StepAnswer) -> bool| -> Vec<usize> {
        steps.iter().enumerate().filter(|(_, step)| matches(step)).map(|(at, _)| at).collect()
    };
    let wanted = wanted.trim();
    if let Ok(number) = wanted.parse::<usize>() {
        return all(&|step| step.number == Some(number));
    }
    let bracket = wanted.strip_prefix('[').and_then(|w| w.strip_suffix(']')).unwrap_or(wanted);
    let in_brackets = all(&|step| {
        let name = Name::parse(&step.name);
        let position = name.bracket.rsplit_once(' ').map_or(name.bracket, |(_, position)| position);
        !bracket.is_empty() && (name.bracket == bracket || position == bracket)
    });
    if !in_brackets.is_empty() {
        return in_brackets;
    }
    let wanted = wanted.to_lowercase();
    all(&|step| !wanted.is_empty() && step.name.to_lowercase().contains(&wanted))
}
