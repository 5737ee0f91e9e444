//! Which build arguments changed, and which differences that explains.

use std::collections::BTreeMap;

use crate::{Difference, Kind};

const PREFIX: &str = "build-arg:";

/// The build arguments of two builds.
#[derive(Debug)]
pub(crate) struct Args<'a> {
    before: &'a BTreeMap<String, String>,
    after: &'a BTreeMap<String, String>,
}

impl<'a> Args<'a> {
    /// Of what the frontends of two builds were told.
    pub(crate) fn new(before: &'a BTreeMap<String, String>, after: &'a BTreeMap<String, String>) -> Self {
        Self { before, after }
    }

    fn get(&self, name: &str) -> (Option<&'a str>, Option<&'a str>) {
        let key = format!("{PREFIX}{name}");
        (self.before.get(&key).map(String::as_str), self.after.get(&key).map(String::as_str))
    }

    fn changed(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>, Option<&'a str>)> {
        let names = self.before.keys().chain(self.after.keys()).filter_map(|key| key.strip_prefix(PREFIX));
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        names.dedup();
        let pairs: Vec<_> = names.into_iter().map(|name| (name, self.get(name))).collect();
        pairs.into_iter().filter(|(_, (old, new))| old != new).map(|(name, (old, new))| (name, old, new))
    }

    /// Names the argument behind a difference, where there is one: a variable of that name, or a text that has the new value
    /// where it had the old.
    pub(crate) fn attribute(&self, difference: &mut Difference) {
        if difference.kind == Kind::Env {
            let (old, new) = self.get(&difference.name);
            if old != new && (old.is_some() || new.is_some()) {
                difference.kind = Kind::BuildArg;
                difference.build_arg = Some(difference.name.clone());
            }
            return;
        }
        let (Some(before), Some(after)) = (&difference.before, &difference.after) else { return };
        let explains = |old: Option<&str>, new: Option<&str>| {
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            !old.is_empty() && !new.is_empty() && before.contains(old) && before.replace(old, new) == *after
        };
        let name = self.changed().find(|(_, old, new)| explains(*old, *new));
        difference.build_arg = name.map(|(name, ..)| name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Change;

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn difference(kind: Kind, name: &str, before: &str, after: &str) -> Difference {
        Difference {
            kind,
            name: name.into(),
            change: Change::Changed,
            before: Some(before.into()),
            after: Some(after.into()),
            build_arg: None,
            input: None,
        }
    }

    #[test]
    fn a_variable_of_the_name_is_the_argument() {
        let (old, new) = (attrs(&[("build-arg:V", "1")]), attrs(&[("build-arg:V", "2"), ("target", "x")]));
        let args = Args::new(&old, &new);
        let mut d = difference(Kind::Env, "V", "1", "2");
        args.attribute(&mut d);
        assert_eq!((d.kind, d.build_arg.as_deref()), (Kind::BuildArg, Some("V")));
        let mut other = difference(Kind::Env, "PATH", "1", "2");
        args.attribute(&mut other);
        assert_eq!((other.kind, other.build_arg), (Kind::Env, None));
    }

    #[test]
    fn an_argument_in_a_text_is_found_by_its_values() {
        let (old, new) = (attrs(&[("build-arg:TAG", "3.19")]), attrs(&[("build-arg:TAG", "3.20")]));
        let args = Args::new(&old, &new);
        let mut d = difference(Kind::Command, "", "get v3.19", "get v3.20");
        args.attribute(&mut d);
        assert_eq!((d.kind, d.build_arg.as_deref()), (Kind::Command, Some("TAG")));
        let mut other = difference(Kind::Command, "", "get v3.19", "get v3.20 now");
        args.attribute(&mut other);
        assert_eq!(other.build_arg, None, "more has changed than the argument");
    }
}
