//! Parser directives: `# name=value` lines at the very top of a file.
//!
//! ```text
//! # syntax=docker/dockerfile:1
//! # escape=`
//! # check=skip=JSONArgsRecommended;error=true
//! ```

use crate::word::Word;

/// The directives of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The escape character: `\` or `` ` ``.
    pub escape: char,
    /// Image of the frontend that should read the file, with the arguments after it.
    pub syntax: Option<Word>,
    /// Configuration of the lint rules.
    pub check: Option<Word>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { escape: '\\', syntax: None, check: None }
    }
}
