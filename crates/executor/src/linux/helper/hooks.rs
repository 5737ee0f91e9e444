//! Programs that devices want run while a container is made (OCI runtime specification, `createContainer` and
//! `startContainer` hooks).
//!
//! `createContainer` hooks are the host's programs in the container's namespaces. For as long as they run, a private copy of
//! the host's mounts is attached to the base, and the container's root, with everything mounted into it, stands at
//! `<bundle>/rootfs` in there. `startContainer` hooks are programs of the container.

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

/// How much of what a hook says is told when it fails, in bytes.
const MAX_SAID: usize = 2048;

/// Runs the `createContainer` hooks. The root is where it was when this returns.
pub(super) fn create(root: BorrowedFd<'_>, hooks: &HooksSetup, host: BorrowedFd<'_>) -> Result<()> {
    if hooks.create.is_empty() {
        return Ok(());
    }
    let doing = "show the container to its hooks";
    mount::attach_at(host, "/host").doing(doing)?;
    let place = walk(host, &format!("{}/rootfs", hooks.bundle), Make::Nothing).doing(doing)?;
    mount::attach(root, &place.handle).doing(doing)?;
    let ran = hooks.create.iter().try_for_each(|hook| {
        run(hook, "createContainer", &state(hooks, "creating"), Some((host, &hooks.bundle)))
    });
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, "", CWD, "/root", flags).doing("take the container from its hooks")?;
    rustix::mount::unmount("/host", UnmountFlags::DETACH).doing("take the host from hooks")?;
    ran
}

/// Runs the `startContainer` hooks; the current root is the container's.
pub(super) fn start(hooks: &HooksSetup) -> Result<()> {
    hooks.start.iter().try_for_each(|hook| run(hook, "startContainer", &state(hooks, "created"), None))
}

/// The state of the container, as hooks are told it.
fn state(hooks: &HooksSetup, status: &str) -> String {
    let HooksSetup { id, bundle, .. } = hooks;
    serde_json::json!({"ociVersion": "1.0.2", "id": id, "status": status, "pid": 1, "bundle": bundle})
        .to_string()
}

/// A hook's own view: another root, and a folder in it.
type View<'a> = Option<(BorrowedFd<'a>, &'a str)>;

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
                wait(pid, &pidfd, &said, hook.timeout.map(|seconds| Duration::from_secs(seconds.into())))
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
        let late = match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(ready) => ready == 0,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let over = !polled[0].revents().is_empty();
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

/// Reads what is there and keeps the end of it. `false`: there will be no more.
fn take(said: &OwnedFd, kept: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
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
        _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let ready = || -> io::Result<()> {
            rustix::stdio::dup2_stdin(input)?;
            // For the hook itself the pipe is like any other.
            rustix::fs::fcntl_setfl(output, rustix::fs::OFlags::empty())?;
            rustix::stdio::dup2_stdout(output)?;
            rustix::stdio::dup2_stderr(output)?;
            if let Some((root, folder)) = view {
                rustix::process::fchdir(root)?;
                rustix::process::chroot(".")?;
                rustix::process::chdir(folder)?;
            }
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            sys::cloexec_from(3)
        };
        let error = match ready() {
            Ok(()) => sys::execve(&self.path, &self.args, &self.env),
            Err(error) => error,
        };
        _ = rustix::io::write(output, error.to_string().as_bytes());
        sys::exit_now(127)
    }
}
