//! Git and all that it starts are one process group, which is ended as a whole.
#![expect(unsafe_code, reason = "the umask is a thing of the child, and is set between fork and exec")]

use rustix::{
    fs::Mode,
    process::{Pid, Signal, kill_process_group, umask},
};
use tokio::process::{Child, Command};

/// A file that is always empty.
pub(in crate::git) const NULL: &str = "/dev/null";

/// A group of its own, and the usual umask, so that files have the modes of the repository.
pub(in crate::git) fn prepare(command: &mut Command) {
    command.process_group(0);
    // SAFETY: umask(2) is async-signal-safe, and nothing else is done.
    unsafe {
        command.pre_exec(|| {
            umask(Mode::from_raw_mode(0o022));
            Ok(())
        });
    }
}

/// Ends the processes when it is dropped before [`Group::ended`].
pub(in crate::git) struct Group(Option<Pid>);

impl Group {
    pub(in crate::git) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    pub(in crate::git) fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "ending git");
        }
    }
}
