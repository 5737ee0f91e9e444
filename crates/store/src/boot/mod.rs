//! Names the boot of the machine that we run under, to tell a killed process from a lost machine.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as host;
#[cfg(windows)]
use windows as host;

/// The id of this boot, equal for all processes until the machine restarts. `None` when the host does not tell: then
/// every start that did not follow a clean end is taken as a lost machine.
pub(crate) fn id() -> Option<String> {
    host::id()
}
