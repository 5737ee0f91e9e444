//! Runs the processes of build steps in new roots.
//!
//! [`Executor`] is the door: a [`RunSpec`] (plain data) and the process's [`ProcessIo`] go in, a [`Container`] comes
//! out, which can be waited for, signalled, resized and asked to run more processes beside its first one.
//! Two executors stand behind it:
//!
//! - [`EmbeddedExecutor`]: an OCI runtime of our own. The daemon starts its own executable anew as a helper of one
//!   thread (the *zygote*), which forks a container's first process for every start. Nothing is ever mounted on the
//!   host, nothing needs installing, and whatever happens to the daemon, its containers end with it.
//! - [`ExternalExecutor`]: any OCI runtime by path (`runc`, `crun`), driven through a bundle made of the same data.
//!
//! ```text
//!   daemon                              zygote (kiln-runtime)            container
//!   ──────                              ─────────────────────            ─────────
//!   EmbeddedExecutor ── start, fds ───▶ clone3(NEWPID|NEWNS|…) ────────▶ waits, its /proc /dev /sys are ready
//!        │  ◀──────────── pid, pidfd ──┘                                    │
//!        ├── setup message, stdio, detached mounts ────────────────────────▶│ root, mounts, user, capabilities, seccomp
//!        │  ◀───────────────────────── mount_points made, then end of file ────────┤ execve
//!        │  ◀──────────── exit status ── waitid ◀───────────────────────────┘
//!        └── kill: pidfd_send_signal to PID 1, with which its whole PID namespace goes
//! ```
//!
//! A binary that uses [`EmbeddedExecutor`] must call [`runtime_main`] first thing in `main` when [`is_runtime`] says
//! so, before any thread or runtime exists.

#[cfg(target_os = "linux")]
mod defaults;
mod error;
mod executor;
#[cfg_attr(all(not(target_os = "linux"), not(test)), expect(dead_code, reason = "no executor here yet"))]
mod hosts;
mod io;
#[cfg_attr(all(not(target_os = "linux"), not(test)), expect(dead_code, reason = "no executor here yet"))]
mod process;
mod spec;
#[cfg_attr(all(not(target_os = "linux"), not(test)), expect(dead_code, reason = "no executor here yet"))]
mod user;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as host;
#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
use unsupported as host;

pub use error::{Error, Result};
pub use executor::{BoxFuture, Executor, ExecutorConfig, run};
pub use host::{EmbeddedExecutor, ExternalExecutor, is_runtime, runtime_main};
pub use hosts::{DnsConfig, HostAddress};
pub use io::{Output, OutputStream, ProcessIo, Stdin};
pub use process::{Container, Exit, MemoryUse, Process, Sample, WinSize};
pub use spec::{
    BindSpec, CgroupParent, FileSpec, Held, Mount, MountFlags, MountSource, Network, ProcessSpec, Resources,
    Rlimit, RootSpec, RunSpec, Security, TmpfsSpec, Tree,
};
pub use user::{ResolvedUser, UserFiles, resolve as resolve_user};

/// The host name of a step that asks for none.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";
