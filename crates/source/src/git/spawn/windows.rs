//! Git is ended by its handle.

use tokio::process::{Child, Command};

/// A file that is always empty.
pub(in crate::git) const NULL: &str = "NUL";

/// What git for Windows cannot do without.
const KEPT: &[&str] = &["SystemRoot", "TEMP", "TMP"];

pub(in crate::git) fn prepare(command: &mut Command) {
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// The child is ended by the runtime when its handle is dropped.
pub(in crate::git) struct Group;

impl Group {
    pub(in crate::git) fn of(_child: &Child) -> Self {
        Self
    }

    pub(in crate::git) fn ended(self) {}
}
