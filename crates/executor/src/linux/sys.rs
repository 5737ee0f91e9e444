//! The system calls that no safe wrapper exists for.
#![expect(
    unsafe_code,
    reason = "clone3, execve, mount_setattr, seccomp, bpf and friends have no safe wrapper"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;

use super::seccomp::Instruction;

/// Which side of a [`clone`] the caller is.
pub(super) enum Cloned {
    /// The new process.
    Child,
    /// The old one: the child's id in our PID namespace and a handle on it.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// A bit that does not fit into libc's type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks into new namespaces (`flags`: `CLONE_NEW*`).
///
/// Must only be called in a process of one thread: the child goes on with a copy of all memory, and a lock that another
/// thread held would stay locked.
pub(super) fn clone(flags: u64, into_cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // The zygote never starts a thread; this is what makes going on after the clone sound.
    let mut pidfd: i32 = -1;
    let mut args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = into_cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given and `pidfd` outlives the call; without CLONE_VM the child
    // has its own copy of the memory and the stack.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<libc::clone_args>())
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel stored a new descriptor, which nobody else owns.
        pid => Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Moves the calling process (of one thread) into new namespaces.
pub(super) fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: the flags used here are CLONE_NEW*, which change what the kernel shows but no memory or descriptor.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// Sets and clears attributes (`MOUNT_ATTR_*`) of a mount.
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    set_attributes(mount, &attr, recursive)
}

/// Makes a mount and all below it private: what is mounted in there later is seen nowhere else.
pub(super) fn mount_private(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set_attributes(mount, &attr, true)
}

fn set_attributes(mount: BorrowedFd<'_>, attr: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` a valid mount_attr of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: only called where no live object owns a descriptor in the range (start of the helper), or, through
    // `cloexec_from`, to mark them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Lets `execve` close every descriptor from `first` on.
pub(super) fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: marking descriptors closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Replaces the program; returns only if that fails.
pub(super) fn execve(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// In the first process of a PID namespace: kills all others in it and waits for their end.
pub(super) fn end_all_others() -> io::Result<()> {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        return Err(io::Error::other("not the first process of a namespace"));
    }
    // SAFETY: kill takes no pointers. As the first process of its namespace, this one reaches nobody outside.
    match check(unsafe { libc::kill(-1, libc::SIGKILL) }.into()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other.map(drop)?,
    }
    loop {
        match rustix::io::retry_on_intr(|| rustix::process::wait(rustix::process::WaitOptions::empty())) {
            Ok(_) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends the process without running anything of ours.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; buffers of std are unused in the helper.
    unsafe { libc::_exit(code) }
}

/// Default dispositions for all signals, and none blocked.
pub(super) fn reset_signals() {
    // SAFETY: zeros are the kernel's sigaction for SIG_DFL, at least as long as it is; the kernel refuses signals that cannot
    // be changed. The mask is a valid, empty set.
    unsafe {
        // By the system call itself: the C library keeps two signals for its own and refuses to touch them.
        let default = [0_usize; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, size_of::<u64>());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// A new session keyring, so that the daemon's keys are out of reach.
pub(super) fn new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring. A kernel without keyrings has none to hide.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// Installs a seccomp filter for this process and what it starts.
pub(super) fn install_filter(filter: &[Instruction]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: `program` is laid out as struct sock_fprog, `Instruction` as struct sock_filter; both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            std::ptr::from_ref(&program),
        )
    })
    .map(drop)
}

/// Brings the loopback device of the current network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is a valid ifreq with a terminated name, as SIOCSIFFLAGS reads it.
    check(
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, std::ptr::from_mut(&mut request)) }
            .into(),
    )
    .map(drop)
}

/// An eBPF instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BpfInstruction {
    pub(super) code: u8,
    /// Destination register in the low half, source in the high one.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program and attaches it to a cgroup.
pub(super) fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[BpfInstruction]) -> io::Result<()> {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    #[repr(C, align(8))]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C, align(8))]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: a valid prefix of union bpf_attr for BPF_PROG_LOAD; what it points to outlives the call.
    let loaded = check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, std::ptr::from_ref(&load), size_of::<Load>())
    })?;
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded as i32) };
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: a valid prefix of union bpf_attr for BPF_PROG_ATTACH.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, std::ptr::from_ref(&attach), size_of::<Attach>())
    })
    .map(drop)
}

/// The first free loop device's number.
pub(super) fn free_loop_device() -> io::Result<u32> {
    const LOOP_CTL_GET_FREE: u32 = 0x4c82;
    let control = rustix::fs::open(
        "/dev/loop-control",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) }.into())
        .map(|number| number as u32)
}

/// The descriptor 0 as an object: the helper's control socket. Call once.
pub(super) fn take_stdin() -> OwnedFd {
    // SAFETY: the helper's standard input is the control socket, and nothing of std reads it.
    unsafe { OwnedFd::from_raw_fd(0) }
}

/// Sends a signal by number to a process.
pub(super) fn pidfd_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no siginfo is given; the kernel checks the number.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Closes the descriptors from `first` up to, but not including, `end`.
pub(super) fn close_between(first: u32, end: u32) {
    if first < end {
        // SAFETY: used in a forked process that goes on with the descriptors outside of the range only, and never
        // drops the parent's objects. It fails for no valid range.
        unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0) };
    }
}

/// Makes `command` run the open file `program` (which must stay open until it is spawned), with the arguments `name`
/// and `mode` and no environment.
pub(super) fn exec_handle(command: &mut Command, program: i32, name: &str, mode: &str) -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let (name, mode) = (CString::new(name)?, CString::new(mode)?);
    // SAFETY: the closure runs between fork and exec of a threaded process: it makes one system call, on memory that
    // was allocated before, and reads errno.
    unsafe {
        command.pre_exec(move || {
            let argv = [name.as_ptr(), mode.as_ptr(), std::ptr::null()];
            let envp = [std::ptr::null::<libc::c_char>()];
            libc::syscall(
                libc::SYS_execveat,
                program,
                c"".as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            Err(io::Error::last_os_error())
        });
    }
    Ok(())
}

/// Makes a descriptor non-blocking and watches it in the current runtime.
pub(super) fn watch(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // SAFETY: an OwnedFd names one open descriptor until it is dropped.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(fd) }?)
}
