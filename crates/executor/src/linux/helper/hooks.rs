//! Programs that devices want run while a container is made (OCI runtime specification, `createContainer` and
//! `startContainer` hooks).
//!
//! `createContainer` hooks are the host's programs in the container's namespaces. For as long as they run, a private copy of
//! the host's mounts is attached to the base, and the container's root, with everything mounted into it, stands at
//! `<bundle>/rootfs` in there. They are the host's, and have all that the helper has. `startContainer` hooks are programs of
//! the container, whose files nobody vouches for: they are confined as the container's own program is. What a hook leaves
//! running ends with it.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, MemfdFlags};
use rustix::mount::{MoveMountFlags, UnmountFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use super::super::walk::{Make, walk};
use super::super::wire::{Failure, HookSetup, HooksSetup};
use super::super::{mount, sys};
use super::failure::{Doing, Result};
use super::identity;
use crate::user::ResolvedUser;

/// How much of what a hook says is told when it fails, in bytes.
const MAX_SAID: usize = 2048;
/// How much of it is read at once before the clock is looked at, in bytes: a hook may say things for as long as it runs.
const MAX_AT_ONCE: usize = 64 << 10;

/// Runs the `createContainer` hooks. The root is where it was when this returns.
pub(super) fn create(root: BorrowedFd<'_>, hooks: &HooksSetup, host: BorrowedFd<'_>) -> Result<()> {
    if hooks.create.is_empty() {
        return Ok(());
    }
    let doing = "show the container to its hooks";
    mount::attach_at(host, "/host").doing(doing)?;
    let place = walk(host, &format!("{}/rootfs", hooks.bundle), Make::Nothing).doing(doing)?;
    mount::attach(root, &place.handle).doing(doing)?;
    let view = View::Host { root: host, bundle: &hooks.bundle };
    let state = state(hooks, "creating");
    let ran = hooks.create.iter().try_for_each(|hook| run(hook, "createContainer", &state, view));
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, "", CWD, "/root", flags).doing("take the container from its hooks")?;
    rustix::mount::unmount("/host", UnmountFlags::DETACH).doing("take the host from hooks")?;
    ran
}

/// Runs the `startContainer` hooks as what the container's program will be; the current root is the container's.
pub(super) fn start(hooks: &HooksSetup, user: &ResolvedUser, sandbox: bool) -> Result<()> {
    let state = state(hooks, "created");
    let view = View::Container { user, sandbox };
    hooks.start.iter().try_for_each(|hook| run(hook, "startContainer", &state, view))
}

/// The state of the container, as hooks are told it.
fn state(hooks: &HooksSetup, status: &str) -> String {
    let HooksSetup { id, bundle, .. } = hooks;
    serde_json::json!({"ociVersion": "1.0.2", "id": id, "status": status, "pid": 1, "bundle": bundle})
        .to_string()
}

/// Where a hook runs.
#[derive(Clone, Copy)]
enum View<'a> {
    /// Among the host's files, in the bundle, with all privileges.
    Host { root: BorrowedFd<'a>, bundle: &'a str },
    /// In the container, with what its program may do.
    Container { user: &'a ResolvedUser, sandbox: bool },
}

fn run(hook: &HookSetup, name: &str, state: &str, view: View<'_>) -> Result<()> {
    let failed = |problem: String| Failure::Hook { name: name.to_owned(), path: hook.path.clone(), problem };
    let program = Program::new(hook).map_err(|error| failed(error.to_string()))?;
    let run = || -> io::Result<Ended> {
        let input = rustix::fs::memfd_create(c"state", MemfdFlags::CLOEXEC)?;
        rustix::io::write(&input, state.as_bytes())?;
        rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0))?;
        let (said, output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        match sys::clone(0, None)? {
            sys::Cloned::Child => program.become_it(&input, &output, view),
            sys::Cloned::Parent { pid, pidfd } => {
                drop(output);
                let limit = hook.timeout.map(|seconds| Duration::from_secs(seconds.into()));
                let ended = wait(pid, &pidfd, &said, limit);
                sys::end_all_others()?;
                ended
            }
        }
    };
    let Ended { status, said } = run().map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&said);
    let said = said.trim();
    let colon = if said.is_empty() { "" } else { ": " };
    match status {
        Some(status) if status.exit_status() == Some(0) => Ok(()),
        None => Err(failed(format!("not done in {} s{colon}{said}", hook.timeout.unwrap_or_default()))),
        Some(status) => {
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            };
            Err(failed(format!("{how}{colon}{said}")))
        }
    }
}

/// How a hook ended.
struct Ended {
    /// `None`: it took too long.
    status: Option<rustix::process::WaitStatus>,
    /// The end of what it said.
    said: Vec<u8>,
}

fn wait(pid: i32, pidfd: &OwnedFd, said: &OwnedFd, limit: Option<Duration>) -> io::Result<Ended> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let end = limit.map(|limit| Instant::now() + limit);
    let mut kept = Vec::new();
    let mut open = true;
    loop {
        let mut polled = vec![PollFd::new(pidfd, PollFlags::IN)];
        if open {
            polled.push(PollFd::new(said, PollFlags::IN));
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let left =
            left.map(|left| Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() });
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let over = !polled[0].revents().is_empty();
        let late = !over && end.is_some_and(|end| Instant::now() >= end);
        open = open && take(said, &mut kept);
        if late || over {
            _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
            let status =
                rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()))?;
            take(said, &mut kept);
            return Ok(Ended { status: status.map(|(_, status)| status).filter(|_| !late), said: kept });
        }
    }
}

/// Reads some of what is there and keeps the end of it. `false`: there will be no more.
fn take(said: &OwnedFd, kept: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    for _ in 0..MAX_AT_ONCE / buffer.len() {
        match rustix::io::read(said, &mut buffer) {
            Ok(0) => return false,
            Ok(n) => {
                kept.extend_from_slice(&buffer[..n]);
                kept.drain(..kept.len().saturating_sub(MAX_SAID));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}

/// A hook, ready to be run.
struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    fn new(hook: &HookSetup) -> io::Result<Self> {
        let all = |strings: &[String]| -> io::Result<Vec<CString>> {
            strings.iter().map(|string| Ok(CString::new(string.as_bytes())?)).collect()
        };
        let path = CString::new(hook.path.as_bytes())?;
        let mut args = all(&hook.args)?;
        if args.is_empty() {
            args.push(path.clone());
        }
        Ok(Self { path, args, env: all(&hook.env)? })
    }

    /// In the forked process.
    fn become_it(&self, input: &OwnedFd, output: &OwnedFd, view: View<'_>) -> ! {
        let ready = || -> Result<()> {
            let doing = "prepare the hook";
            rustix::stdio::dup2_stdin(input).doing(doing)?;
            // For the hook itself the pipe is like any other.
            rustix::fs::fcntl_setfl(output, rustix::fs::OFlags::empty()).doing(doing)?;
            rustix::stdio::dup2_stdout(output).doing(doing)?;
            rustix::stdio::dup2_stderr(output).doing(doing)?;
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            sys::cloexec_from(3).doing(doing)?;
            match view {
                View::Host { root, bundle } => {
                    rustix::process::fchdir(root).doing(doing)?;
                    rustix::process::chroot(".").doing(doing)?;
                    rustix::process::chdir(bundle).doing(doing)?;
                }
                View::Container { user, sandbox } => {
                    sys::new_session_keyring();
                    identity::assume(user, sandbox)?;
                }
            }
            // A change of user clears it.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(doing)
        };
        let error = match ready() {
            Ok(()) => sys::execve(&self.path, &self.args, &self.env).to_string(),
            Err(failure) => super::super::start::error(failure).to_string(),
        };
        _ = rustix::io::write(output, error.as_bytes());
        sys::exit_now(127)
    }
}
