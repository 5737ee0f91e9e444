//! Two descriptions of a step in, differences out.

use std::collections::HashMap;

use crate::{Change, Difference, Fact, Kind};

/// In what `after` differs from `before`, in the order of `after`; what is gone comes last.
///
/// An image, repository or address that is another counts as one that changed.
#[must_use]
pub fn differences(before: &[Fact], after: &[Fact]) -> Vec<Difference> {
    if let ([before], [after]) = (before, after)
        && is_address(after.kind)
        && is_address(before.kind)
    {
        return address(before, after).into_iter().collect();
    }
    let old = numbered(before);
    let new = numbered(after);
    let by_name: HashMap<_, _> = old.iter().map(|(name, fact)| (*name, *fact)).collect();
    let still: HashMap<_, _> = new.iter().map(|(name, fact)| (*name, *fact)).collect();
    let changed = new.iter().filter_map(|(name, fact)| match by_name.get(name) {
        Some(old) if old.value == fact.value => None,
        Some(old) => Some(difference(Change::Changed, Some(old), Some(fact))),
        None => Some(difference(Change::Added, None, Some(fact))),
    });
    let gone = old.iter().filter(|(name, _)| !still.contains_key(name));
    changed.chain(gone.map(|(_, fact)| difference(Change::Removed, Some(fact), None))).collect()
}

type Numbered<'a> = ((Kind, &'a str, usize), &'a Fact);

/// Facts by kind, name and how many such came before: a variable may be set twice.
fn numbered(facts: &[Fact]) -> Vec<Numbered<'_>> {
    let mut seen: HashMap<(Kind, &str), usize> = HashMap::new();
    let mut all = Vec::with_capacity(facts.len());
    for fact in facts {
        let count = seen.entry((fact.kind, fact.name.as_str())).or_default();
        *count += 1;
        all.push(((fact.kind, fact.name.as_str(), *count), fact));
    }
    all
}

fn difference(change: Change, before: Option<&&Fact>, after: Option<&&Fact>) -> Difference {
    let text = |fact: Option<&&Fact>| fact.map(|f| f.value.clone());
    let (kind, name) = match after.or(before) {
        Some(fact) => (fact.kind, fact.name.clone()),
        None => (Kind::Definition, String::new()),
    };
    let (before, after) = (text(before), text(after));
    Difference { kind, name, change, before, after, build_arg: None, input: None }
}

fn is_address(kind: Kind) -> bool {
    matches!(kind, Kind::Image | Kind::Git | Kind::Http | Kind::Source)
}

fn address(before: &Fact, after: &Fact) -> Option<Difference> {
    if before == after {
        return None;
    }
    if before.name == after.name {
        return Some(difference(Change::Changed, Some(&before), Some(&after)));
    }
    let full = |fact: &Fact| match fact.value.as_str() {
        "" => fact.name.clone(),
        pin => format!("{}@{pin}", fact.name),
    };
    Some(Difference {
        kind: after.kind,
        name: String::new(),
        change: Change::Changed,
        before: Some(full(before)),
        after: Some(full(after)),
        build_arg: None,
        input: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(kind: Kind, name: &str, value: &str) -> Fact {
        Fact::new(kind, name, value)
    }

    type Shown = (Kind, String, Change, Option<String>, Option<String>);

    fn shown(before: &[Fact], after: &[Fact]) -> Vec<Shown> {
        differences(before, after)
            .into_iter()
            .map(|d| (d.kind, d.name, d.change, d.before, d.after))
            .collect()
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn equal_facts_have_no_differences() {
        let all = [fact(Kind::Command, "", "make"), fact(Kind::Env, "A", "1")];
        assert_eq!(differences(&all, &all), []);
    }

    #[test]
    fn each_kind_of_change_is_told_apart() {
        let before = [fact(Kind::Command, "", "a"), fact(Kind::Env, "A", "1"), fact(Kind::Env, "B", "1")];
        let after =
            [fact(Kind::Command, "", "b"), fact(Kind::Env, "B", "1"), fact(Kind::Mount, "/m", "type=bind")];
        assert_eq!(
            shown(&before, &after),
            [
                (Kind::Command, String::new(), Change::Changed, text("a"), text("b")),
                (Kind::Mount, "/m".into(), Change::Added, None, text("type=bind")),
                (Kind::Env, "A".into(), Change::Removed, text("1"), None),
            ]
        );
    }

    #[test]
    fn order_alone_is_no_difference_but_a_second_value_is() {
        let (a, b) = (fact(Kind::Env, "A", "1"), fact(Kind::Env, "B", "2"));
        assert_eq!(differences(&[a.clone(), b.clone()], &[b.clone(), a.clone()]), []);
        let twice = shown(std::slice::from_ref(&a), &[a.clone(), fact(Kind::Env, "A", "3")]);
        assert_eq!(twice, [(Kind::Env, "A".into(), Change::Added, None, text("3"))]);
    }

    #[test]
    fn an_image_changes_by_digest_or_by_name() {
        let old = [fact(Kind::Image, "a:1", "sha256:1")];
        assert_eq!(
            shown(&old, &[fact(Kind::Image, "a:1", "sha256:2")]),
            [(Kind::Image, "a:1".into(), Change::Changed, text("sha256:1"), text("sha256:2"))]
        );
        assert_eq!(
            shown(&old, &[fact(Kind::Image, "a:2", "sha256:2")]),
            [(Kind::Image, String::new(), Change::Changed, text("a:1@sha256:1"), text("a:2@sha256:2"))]
        );
        let git = [fact(Kind::Git, "x/y", "c1")];
        assert_eq!(
            shown(&old, &git),
            [(Kind::Git, String::new(), Change::Changed, text("a:1@sha256:1"), text("x/y@c1"))]
        );
    }
}
