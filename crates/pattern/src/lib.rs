//! Path patterns as Docker and BuildKit read them. Pure functions over `/`-separated paths.
//!
//! Three dialects live here, which share one engine ([`glob`]):
//!
//! * [`glob_match`]: Go's `path/filepath.Match` (`*`, `?`, `[a-z]`, `[^a-z]`, `\x`), for wildcards in sources of a copy;
//! * [`Matcher`]: lists of patterns as in `.dockerignore`, include and exclude lists: `**`, exceptions by a leading
//!   `!`, and a pattern that names a folder also names everything below it;
//! * [`read_ignore_file`]: the lines of a `.dockerignore`.
//!
//! Paths are `&str`: a file name that is not UTF-8 is matched by its lossy form, in which Go, too, sees U+FFFD.
//!
//! Matching takes time proportional to pattern length × path length, whatever the pattern: there is no backtracking
//! for a hostile pattern to exploit.

mod clean;
pub mod glob;
mod ignore;
mod matcher;

pub use clean::{clean, cleaned, join};
pub use glob::{Glob, glob_match, has_wildcard, split_wildcard};
pub use ignore::read_ignore_file;
pub use matcher::{MatchInfo, Matcher, Pattern};

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The pattern does not parse: an open `[`, a `\` at the end, an empty or reversed range.
    #[error("syntax error in pattern {0:?}")]
    Syntax(String),
    /// A lone `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    EmptyException,
    /// Longer than [`MAX_PATTERN`] bytes.
    #[error("pattern of {0} bytes is longer than {MAX_PATTERN}")]
    TooLong(usize),
}

/// The longest pattern that is accepted, in bytes. No path that a kernel accepts is longer.
pub const MAX_PATTERN: usize = 16 * 1024;
