//! Which part of a tree a walk or transfer is about.

use std::fmt;
use std::sync::Arc;

use kiln_proto::fsutil::Stat;

/// What a [`MapFn`] says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapped {
    /// It stays, as changed.
    Keep,
    /// It is left out; what is below it is asked for separately.
    Exclude,
    /// It is left out with all below it; for a file, with the rest of its folder.
    SkipDir,
}

/// Looks at an entry before it is handed on, and may change its metadata (owner, mode, …).
pub type MapFn = Arc<dyn Fn(&mut Stat) -> Mapped + Send + Sync>;

/// Which entries of a tree are meant. The default means all.
#[derive(Clone, Default)]
pub struct Filter {
    /// If any: only what matches, and the folders above it. Patterns as in [`kiln_pattern::Matcher`].
    pub include: Vec<String>,
    /// Not what matches.
    pub exclude: Vec<String>,
    /// If any: these paths (which may hold wildcards) are included, with all that their symbolic links lead to.
    pub follow_paths: Vec<String>,
    /// Asked last.
    pub map: Option<MapFn>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("include", &self.include)
            .field("exclude", &self.exclude)
            .field("follow_paths", &self.follow_paths)
            .field("map", &self.map.is_some())
            .finish()
    }
}
