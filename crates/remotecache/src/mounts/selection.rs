//! Which cache mounts travel, as clients write it: `cache-mounts=go-build;npm`, or `all`.

use std::collections::BTreeSet;

/// The attribute of imports and exports.
pub(crate) const ATTRIBUTE: &str = "cache-mounts";

/// The cache mounts that a client names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountSelection {
    all: bool,
    names: BTreeSet<String>,
}

impl MountSelection {
    /// Reads a list with commas or semicolons between the ids; `all` stands for all that the build's steps name. An empty
    /// list names nothing, which is told as an error by `None`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut selection = Self::default();
        for name in text.split([',', ';']).map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "all" => selection.all = true,
                name => _ = selection.names.insert(name.to_owned()),
            }
        }
        (!selection.is_empty()).then_some(selection)
    }

    /// Whether no mount travels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    /// Whether the mount with this id in LLB is meant.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.all || self.names.contains(id) || self.names.contains(shown(id))
    }

    /// Each name with the ids in LLB that it may stand for: a Dockerfile's mount has its namespace, which is mostly empty,
    /// and a slash in front.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, [String; 2])> {
        self.names.iter().map(|name| (name.as_str(), [name.clone(), format!("/{name}")]))
    }
}

/// An id as people write it.
pub(crate) fn shown(id: &str) -> &str {
    id.strip_prefix('/').filter(|name| !name.is_empty()).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_with_commas_or_semicolons() {
        let both = MountSelection::parse("go-build, /root/.npm").unwrap();
        assert_eq!(MountSelection::parse("/root/.npm;go-build;"), Some(both.clone()));
        for id in ["go-build", "/go-build", "/root/.npm", "//root/.npm"] {
            assert!(both.has(id), "{id}");
        }
        for id in ["go", "//go-build", "ns/go-build", "root/.npm", ""] {
            assert!(!both.has(id), "{id}");
        }
    }

    #[test]
    fn all_is_all_and_nothing_is_a_mistake() {
        let all = MountSelection::parse("all,more").unwrap();
        assert!(all.has("x"));
        assert_eq!(all.names().collect::<Vec<_>>(), [("more", ["more".to_owned(), "/more".to_owned()])]);
        for empty in ["", " ", ",;"] {
            assert_eq!(MountSelection::parse(empty), None);
        }
    }

    #[test]
    fn people_see_ids_without_the_empty_namespace() {
        assert_eq!(shown("/go-build"), "go-build");
        assert_eq!(shown("//root/.npm"), "/root/.npm");
        assert_eq!(shown("ns/go-build"), "ns/go-build");
        assert_eq!(shown("/"), "/");
    }
}
