//! Our own executable, started anew as the runtime helper.
//!
//! It is started from a detached, read-only bind of the file. Whatever a container gets hold of by way of
//! `/proc/<pid>/exe`, it cannot write to it (CVE-2019-5736).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;

use super::{helper, mount, sources, sys};

/// The executable of this process, read-only.
pub(super) fn own() -> io::Result<OwnedFd> {
    // No AT_SYMLINK_NOFOLLOW: the link in /proc leads to the file itself, even if its name is gone.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let exe = match rustix::mount::open_tree(CWD, "/proc/self/exe", flags) {
        Err(rustix::io::Errno::NOENT) => {
            // There is no /proc where we are (a bare chroot): ours is attached nowhere.
            let proc = mount::filesystem("proc", &[], mount::NOSUID | mount::NODEV)?;
            rustix::mount::open_tree(&proc, "self/exe", flags)?
        }
        other => other?,
    };
    mount::restrict(&exe, mount::RDONLY)?;
    Ok(exe)
}

/// Starts the helper with `control` as its standard input and nothing else of ours but the error output. `host`: it
/// stays in the host's mount namespace.
pub(super) fn spawn(exe: &OwnedFd, control: OwnedFd, host: bool) -> io::Result<Child> {
    let mut command = Command::new(helper::NAME);
    command.arg0(helper::NAME).env_clear();
    command.stdin(Stdio::from(control)).stdout(Stdio::from(sources::nothing()?)).stderr(Stdio::inherit());
    sys::exec_handle(
        &mut command,
        exe.as_fd().as_raw_fd(),
        helper::NAME,
        if host { helper::HOST_MODE } else { helper::OWN_MODE },
    )?;
    command.spawn()
}
