//! Which files of the client are needed.

use std::collections::BTreeSet;

use bytestring::ByteString;

use super::paths::join;

/// The paths that instructions use of the build context, and of each named context.
#[derive(Debug, Default)]
pub(super) struct UsedPaths {
    /// Of the build context, as they are written.
    context: foldhash::HashSet<ByteString>,
    /// Of what stages start from; those that start from each other share a set.
    sets: Vec<BTreeSet<String>>,
    /// Stages may start from folders of the client: it counts what is used of them.
    pub(super) has_sets: bool,
}

impl UsedPaths {
    /// A set for a stage.
    pub(super) fn new_set(&mut self) -> Option<usize> {
        self.has_sets.then(|| {
            self.sets.push(BTreeSet::new());
            self.sets.len() - 1
        })
    }

    /// A path is used of the build context.
    pub(super) fn add_of_context(&mut self, path: &ByteString) {
        if !self.context.contains(path) {
            self.context.insert(path.clone());
        }
    }

    /// A path is used of what a stage with this set starts from.
    pub(super) fn add(&mut self, set: Option<usize>, path: &str) {
        if let Some(set) = set {
            self.sets[set].insert(join("/", path));
        }
    }

    /// All paths are.
    pub(super) fn add_all(&mut self, set: Option<usize>) {
        self.add(set, "/");
    }

    /// Those of the build context, for [`crate::convert::Source::main_context`].
    pub(super) fn of_context(&self) -> Vec<String> {
        to_follow(self.context.iter().map(|path| join("/", path)).collect())
    }

    /// Those of a set.
    pub(super) fn of_set(&self, set: Option<usize>) -> Vec<String> {
        to_follow(set.map_or_else(Vec::new, |set| self.sets[set].iter().cloned().collect()))
    }
}

/// Clean paths, in order, each once, without their leading slashes; none if everything is needed.
fn to_follow(mut paths: Vec<String>) -> Vec<String> {
    paths.sort_unstable();
    paths.dedup();
    // The root is the first.
    if paths.first().is_some_and(|first| first == "/") {
        return Vec::new();
    }
    for path in &mut paths {
        if path.starts_with('/') {
            path.remove(0);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_in_order_and_once() {
        let mut used = UsedPaths::default();
        for path in ["b", "./a/../b/", "/a", "a/c"] {
            used.add_of_context(&path.into());
        }
        assert_eq!(used.of_context(), ["a", "a/c", "b"]);
        used.add_of_context(&".".into());
        assert!(used.of_context().is_empty());
    }

    #[test]
    fn sets_are_kept_where_they_count() {
        let mut used = UsedPaths::default();
        assert_eq!(used.new_set(), None);
        used.add_all(None);
        used.has_sets = true;
        let (first, second) = (used.new_set(), used.new_set());
        used.add(first, "x/../y");
        used.add_all(second);
        assert_eq!(used.of_set(first), ["y"]);
        assert!(used.of_set(second).is_empty());
    }
}
