//! The executors of Linux.

mod cgroup;
mod device;
mod exe;
mod external;
mod helper;
mod hooks;
mod mount;
mod mount_points;
mod outputs;
mod owner;
mod pass;
mod pool;
mod seccomp;
mod sources;
mod start;
mod sys;
mod walk;
mod wire;
mod zygote;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

pub use external::ExternalExecutor;

use crate::{BoxFuture, Container, Error, Executor, ExecutorConfig, ProcessIo, Result, RunSpec, Security};
use cgroup::{Cgroup, Layout, Wanted};
use device::Device;
use pool::{Kind, Pool};

/// Runs steps with the OCI runtime that is part of this binary.
#[derive(Debug)]
pub struct EmbeddedExecutor {
    shared: Arc<Shared>,
}

/// What lives as long as the executor.
#[derive(Debug)]
struct Shared {
    config: ExecutorConfig,
    executable: OwnedFd,
    layout: Layout,
    /// Zygotes of confined containers; of all, if there are no others.
    sandbox: Pool,
    insecure: Option<Pool>,
}

impl EmbeddedExecutor {
    /// Prepares an executor; helpers are started when the first container is.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if this executable cannot be opened to be started anew: not root, or a kernel before 5.12; or if
    /// the folder of bundles cannot be emptied.
    pub fn new(config: ExecutorConfig) -> Result<Self> {
        let executable = exe::own()
            .map_err(|source| Error::System { step: "open our own executable to run steps", source })?;
        // Of a process that was killed. Nothing is mounted in them, but in namespaces that went with it.
        match config.bundles.as_ref().map(std::fs::remove_dir_all) {
            Some(Err(source)) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::System { step: "empty the folder of bundles", source });
            }
            _ => {}
        }
        let insecure = Some(Pool::new(Kind::Insecure));
        Ok(Self { shared: Arc::new(Shared::new(config, executable, Pool::new(Kind::Sandbox), insecure)) })
    }
}

impl Executor for EmbeddedExecutor {
    fn start(&self, spec: RunSpec, io: ProcessIo) -> BoxFuture<'_, Result<Container>> {
        Box::pin(start(self.shared.clone(), spec, io))
    }

    fn prepare(&self, security: Security) {
        self.shared.prepare(security);
    }

    fn sweep(&self) {
        cgroup::sweep(&self.shared.layout);
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.shutdown())
    }
}

impl Shared {
    fn new(config: ExecutorConfig, executable: OwnedFd, sandbox: Pool, insecure: Option<Pool>) -> Self {
        Self { config, executable, layout: Layout::detect(), sandbox, insecure }
    }

    fn pool(&self, security: Security) -> &Pool {
        self.pool_of(if security == Security::Insecure { Kind::Insecure } else { Kind::Sandbox })
    }

    fn pool_of(&self, kind: Kind) -> &Pool {
        self.insecure.as_ref().filter(|_| kind == Kind::Insecure).unwrap_or(&self.sandbox)
    }

    async fn shutdown(&self) {
        self.sandbox.shutdown().await;
        if let Some(insecure) = &self.insecure {
            insecure.shutdown().await;
        }
    }

    /// Makes a container's first process ahead, in the background.
    fn prepare(self: &Arc<Self>, security: Security) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = self.clone();
            runtime.spawn(async move { shared.pool(security).prepare(&shared).await });
        }
    }

    /// What a container wants of cgroups.
    fn wanted<'a>(&'a self, spec: &'a RunSpec, devices: &'a [Device]) -> Wanted<'a> {
        let parent = spec.cgroup_parent.as_ref().or(self.config.cgroup_parent.as_ref());
        Wanted {
            id: &spec.id,
            parent: parent.map(|parent| parent.0.as_str()),
            resources: &spec.resources,
            samples: spec.samples,
            sandbox: spec.security == Security::Sandbox,
            devices,
        }
    }

    fn cgroup(&self, spec: &RunSpec, devices: &[Device]) -> Result<Option<Cgroup>> {
        let wanted = self.wanted(spec, devices);
        if wanted.anything() { Cgroup::new(&self.layout, &wanted).map(Some) } else { Ok(None) }
    }
}

async fn start(shared: Arc<Shared>, spec: RunSpec, io: ProcessIo) -> Result<Container> {
    start::check(&spec)?;
    let devices = device::resolve(&spec.devices)?;
    let pool = shared.pool(spec.security);
    let mut cgroup = shared.cgroup(&spec, &devices)?;
    let birthplace = cgroup.as_ref().map(Cgroup::birthplace).transpose();
    let birthplace = birthplace.map_err(|source| Error::System { step: "open a cgroup", source })?.flatten();
    let (zygote, born) = pool.take(&shared, birthplace).await?;
    if let Some(cgroup) = &mut cgroup {
        cgroup.lets_devices_in(!zygote.nodev)?;
    }
    let cgroup = cgroup.map(Arc::new);
    let spec = Arc::new(spec);
    // A hook may take its time, and nobody may be waiting any more.
    let unwanted = KillOnDrop(Some(born.pidfd.clone()));
    let setting_up = {
        let (shared, spec, cgroup) = (shared.clone(), spec.clone(), cgroup.clone());
        let nodev = zygote.nodev;
        tokio::task::spawn_blocking(move || {
            let sandbox = spec.security == Security::Sandbox;
            let (cgroups, doors) = match &cgroup {
                Some(cgroup) => (cgroup.view().clone(), cgroup.doors(false)),
                None => (shared.layout.view(sandbox, false), Ok(Vec::new())),
            };
            let doors = doors.map_err(|source| Error::System { step: "open a cgroup", source })?;
            let (dns, bundles) = (&shared.config.dns, shared.config.bundles.as_deref());
            let around = start::Surroundings { dns, nodev, cgroups, doors, devices: &devices, bundles };
            start::container(born, &spec, &io.stdin, around).map(|started| (started, io))
        })
    };
    let (started, io) = setting_up.await.map_err(|_| Error::Lost)??;
    unwanted.disarm();
    if spec.security == Security::Sandbox {
        // While this step runs, the start of the next one is made ready.
        shared.prepare(Security::Sandbox);
    }
    let id = spec.id.clone();
    let further = owner::Further::Embedded;
    let home = owner::Home { zygote: zygote.zygote, spec, cgroup, further };
    let process = owner::own_container(started, io, home);
    Ok(Container::new(id, process))
}

/// Kills a process that is being set up.
struct KillOnDrop(Option<Arc<OwnedFd>>);

impl KillOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            // It may have ended by itself.
            _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
        }
    }
}

/// This process was started to be the runtime helper: `main` must call [`runtime_main`] at once.
#[must_use]
pub fn is_runtime() -> bool {
    std::env::args_os().next().is_some_and(|name| name == helper::NAME)
}

/// Serves as the runtime helper until its daemon ends. The process must have one thread only.
#[must_use]
pub fn runtime_main() -> ExitCode {
    helper::serve()
}
