//! The last steps, the same for a container's first process and for further ones: terminal, streams, limits, user,
//! program.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::pty::OpenptFlags;

use super::super::walk::{Make, walk};
use super::super::wire::{self, Failure, MountPoint, ProcessSetup, Reply};
use super::super::{mount, sys};
use super::failure::{Doing, Result};
use super::{devices, identity};
use crate::user::ResolvedUser;

/// What the last steps need.
pub(super) struct Launch<'a> {
    pub(super) socket: &'a OwnedFd,
    pub(super) setup: ProcessSetup,
    pub(super) sandbox: bool,
    pub(super) user: ResolvedUser,
    /// Added to the environment where it is missing.
    pub(super) home: Option<String>,
    /// The descriptors that came with the setup.
    pub(super) fds: Vec<OwnedFd>,
    /// `/dev`, if its console has to be made.
    pub(super) dev: Option<OwnedFd>,
    pub(super) mount_points: Vec<MountPoint>,
    /// The program is trusted: it keeps what the helper has.
    pub(super) trusted: bool,
}

/// Runs the program; the current root is the container's. Comes back only with an error that was not told yet.
pub(super) fn launch(launch: Launch<'_>) -> Failure {
    match launch.prepare() {
        Ok(program) => program.run(),
        Err(failure) => failure,
    }
}

impl<'a> Launch<'a> {
    fn prepare(self) -> Result<Program<'a>> {
        let Self { socket, setup, sandbox, user, home, mut fds, dev, mount_points, trusted } = self;
        rustix::process::setsid().doing("start a session")?;
        let terminal = if setup.tty { Some(terminal(dev.as_ref())?) } else { None };
        match &terminal {
            Some(terminal) => streams([&terminal.slave; 3])?,
            None => {
                let mut take = || if fds.is_empty() { None } else { Some(fds.remove(0)) };
                let (Some(stdin), Some(stdout), Some(stderr)) = (take(), take(), take()) else {
                    return Err(Failure::Invalid { problem: "no standard streams".to_owned() });
                };
                streams([&stdin, &stdout, &stderr])?;
            }
        }
        drop(fds);
        limits(&setup.rlimits)?;
        sys::new_session_keyring();
        let cwd = if setup.cwd.is_empty() { "/" } else { &setup.cwd };
        let root = root_handle()?;
        let folder = walk(&root, cwd, Make::Folders(None)).doing(format_args!("enter {cwd}"))?;
        rustix::process::fchdir(&folder.handle).doing(format_args!("enter {cwd}"))?;
        drop((folder, root));
        let program = Program::new(socket, &setup, home)?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        wire::send_reply(socket, &Reply::Ready { mount_points }, terminal.as_ref().map(|t| t.master.as_fd()))
            .doing("answer the daemon")?;
        drop(terminal);
        sys::cloexec_from(3).doing("close descriptors")?;
        if !trusted {
            identity::assume(&user, sandbox)?;
        }
        // The change of user has cleared it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .doing("tie the process to the helper")?;
        Ok(program)
    }
}

/// The program, ready to be run.
struct Program<'a> {
    socket: &'a OwnedFd,
    name: String,
    /// Where it may be, in order.
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl<'a> Program<'a> {
    fn new(socket: &'a OwnedFd, setup: &ProcessSetup, home: Option<String>) -> Result<Self> {
        let mut env = setup.env.clone();
        if let Some(home) = home {
            env.retain(|variable| variable != "HOME=");
            env.push(format!("HOME={home}"));
        }
        let name = setup.args.first().cloned().unwrap_or_default();
        let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
        let candidates = if name.contains('/') {
            vec![name.clone()]
        } else {
            // A relative folder would be found in the working directory, where anybody may write.
            path.split(':')
                .filter(|folder| folder.starts_with('/'))
                .map(|folder| format!("{folder}/{name}"))
                .collect()
        };
        let strings = |strings: Vec<String>| strings.into_iter().map(c_string).collect::<Result<Vec<_>>>();
        let candidates = strings(candidates)?;
        Ok(Self { socket, name, candidates, args: strings(setup.args.clone())?, env: strings(env)? })
    }

    fn run(self) -> Failure {
        let mut error = std::io::Error::from_raw_os_error(libc::ENOENT);
        for candidate in &self.candidates {
            let this = sys::execve(candidate, &self.args, &self.env);
            // Another folder may have it; what could not be run for its mode is the better answer than "not found".
            let missing = matches!(this.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR));
            if !missing {
                error = this;
            }
            if !missing && error.raw_os_error() != Some(libc::EACCES) {
                break;
            }
        }
        let why = match error.raw_os_error() {
            Some(libc::ENOENT) if !self.name.contains('/') => "executable file not found in $PATH".to_owned(),
            Some(libc::ENOENT) => "no such file or directory".to_owned(),
            Some(libc::EACCES) => "permission denied".to_owned(),
            Some(libc::ENOEXEC) => "exec format error".to_owned(),
            _ => error.to_string(),
        };
        let message = format!("cannot run {:?}: {why}\n", self.name);
        _ = wire::send_reply(self.socket, &Reply::NotRun { message }, None);
        sys::exit_now(1)
    }
}

struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

/// A new terminal of the container's own instance of devpts, made the process's controlling terminal.
fn terminal(dev: Option<&OwnedFd>) -> Result<Terminal> {
    const DEVPTS: i64 = 0x1cd1;
    let doing = "open a terminal";
    let root = root_handle()?;
    let pts = walk(&root, "/dev/pts", Make::Nothing).doing(doing)?;
    if rustix::fs::fstatfs(&pts.handle).doing(doing)?.f_type != DEVPTS {
        return Err(Failure::Invalid {
            problem: "a terminal needs /dev/pts, which is mounted over".to_owned(),
        });
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = rustix::fs::openat(&pts.handle, "ptmx", flags, Mode::empty()).doing(doing)?;
    rustix::pty::unlockpt(&master).doing(doing)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .doing(doing)?;
    rustix::process::ioctl_tiocsctty(&slave).doing(doing)?;
    if let Some(dev) = dev {
        let name = rustix::pty::ptsname(&master, Vec::new()).doing(doing)?;
        let number = name.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        let point = devices::console_file(dev)?;
        let console = mount::clone_of(&pts.handle, number.as_slice()).doing("mount /dev/console")?;
        mount::attach(console, point).doing("mount /dev/console")?;
    }
    Ok(Terminal { master, slave })
}

fn streams(streams: [&OwnedFd; 3]) -> Result<()> {
    rustix::stdio::dup2_stdin(streams[0]).doing("set standard input")?;
    rustix::stdio::dup2_stdout(streams[1]).doing("set standard output")?;
    rustix::stdio::dup2_stderr(streams[2]).doing("set standard error")
}

fn limits(limits: &[(String, i64, i64)]) -> Result<()> {
    let value = |limit: i64| u64::try_from(limit).ok();
    for (name, soft, hard) in limits {
        let doing = format!("set limit {name}={soft}:{hard}");
        let resource = resource(name).ok_or(rustix::io::Errno::INVAL).doing(&doing)?;
        rustix::process::setrlimit(resource, Rlimit { current: value(*soft), maximum: value(*hard) })
            .doing(&doing)?;
    }
    Ok(())
}

/// The kernel's limit of that name.
pub(in crate::linux) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// A handle on the current root.
pub(super) fn root_handle() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/", flags, Mode::empty()).doing("open the root")
}

fn c_string(string: String) -> Result<CString> {
    CString::new(string)
        .map_err(|_| Failure::Invalid { problem: "an argument or variable contains a NUL byte".to_owned() })
}

/// Writes ourselves into cgroups.
pub(super) fn join(procs: &[BorrowedFd<'_>]) -> Result<()> {
    for procs in procs {
        rustix::io::write(procs, b"0").doing("join the cgroup")?;
    }
    Ok(())
}
