//! The build context's ignore file.

use kiln_pattern::Matcher;

/// Patterns of what the context leaves out.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    pub(super) patterns: Vec<String>,
    /// None when there are no patterns.
    pub(super) matcher: Option<Matcher>,
}
