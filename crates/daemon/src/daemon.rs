//! The daemon's parts, put together.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
};

use kiln_engine::{CacheStore, Engine};
use kiln_executor::{CgroupParent, EmbeddedExecutor, Executor, ExecutorConfig, ExternalExecutor};
use kiln_frontend::Frontends;
use kiln_oci::Platform;
use kiln_ops::{DeviceRegistry, Hashes, Host, Kiln};
use kiln_proto::{pb, types};
use kiln_registry::Registries;
use kiln_session::Manager;
use kiln_source::Sources;
use kiln_store::{Options, Store};
use kiln_worker::Worker;
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use crate::{
    Config, Error, builds::Builds, history::History, producers::Producers, results, services,
    version::version,
};

/// A daemon that is running. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Daemon {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    id: String,
    platforms: Vec<Platform>,
    host: Arc<Host>,
    engine: Engine<Kiln>,
    sessions: Arc<Manager>,
    registries: Arc<Registries>,
    builds: Arc<Builds>,
    history: History,
    producers: Producers,
    /// Made when the first build wants them.
    frontends: OnceLock<Arc<Frontends>>,
}

/// A daemon that may have gone.
#[derive(Clone, Debug)]
pub(crate) struct WeakDaemon(Weak<Inner>);

impl WeakDaemon {
    pub(crate) fn upgrade(&self) -> Option<Daemon> {
        self.0.upgrade().map(|inner| Daemon { inner })
    }
}

impl Daemon {
    /// Opens the state folder and makes everything ready. What can wait is done later, in the background.
    ///
    /// # Errors
    /// [`Error::Store`] when the folder is another daemon's; whatever the configuration asks for that cannot be had.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let root = config.root.clone();
        let options = Options { snapshotter: config.snapshotter, ..Options::default() };
        let worker = tokio::task::spawn_blocking(move || {
            let store = Store::open(&root, &options)?;
            Ok::<_, Error>(Worker::open(store)?)
        });
        let worker = worker
            .await
            .map_err(|e| Error::Io { what: "opening the state folder".into(), source: e.into() })??;
        let id = worker_id(&config.root)?;
        let platforms = match config.platforms.as_slice() {
            [] => vec![Platform::host()],
            given => given.to_vec(),
        };
        let registries = Registries::new(config.registries.clone(), crate::version::user_agent());
        let sessions = Arc::new(Manager::default());
        let host = Arc::new(Host {
            sources: Sources::new(worker.clone(), registries.clone()),
            executor: executor(&config)?,
            sessions: sessions.clone(),
            hashes: Arc::new(Hashes::default()),
            platform: platforms[0].clone(),
            permits: (config.max_parallelism > 0).then(|| Arc::new(Semaphore::new(config.max_parallelism))),
            sandbox_network: false,
            cgroup_parent: config.cgroup_parent.clone().map(CgroupParent),
            devices: config.devices.clone().map(|devices| Arc::new(DeviceRegistry::new(devices))),
            worker,
        });
        let cache: Arc<dyn CacheStore<Kiln>> = results::cache(&host.worker);
        let engine = Engine::new(cache);
        let builds = Arc::new(Builds::default());
        let history = History::new(host.worker.store().dir().join("history"));
        let frontends = OnceLock::new();
        let inner = Inner {
            config,
            id,
            platforms,
            host,
            engine,
            sessions,
            registries,
            builds,
            history,
            producers: Producers::default(),
            frontends,
        };
        let daemon = Self { inner: Arc::new(inner) };
        daemon.clear_logs();
        daemon.sweep_later();
        Ok(daemon)
    }

    /// A channel to this daemon's services within the process.
    ///
    /// # Errors
    /// None in practice; the transport's.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let (near, far) = tokio::io::duplex(1 << 20);
        let routes = services::routes(self);
        tokio::spawn(async move {
            if let Err(error) = kiln_session::serve(far, routes).await {
                tracing::debug!(%error, "in-process connection");
            }
        });
        kiln_session::connect(near).await
    }

    /// Waits until no build is running.
    pub async fn idle(&self) {
        self.inner.builds.idle().await;
    }

    /// Ends everything that runs, and waits until what was recorded is on disk: a process may end while handles of the store
    /// are still about.
    pub async fn stop(&self) {
        self.inner.host.executor.shutdown().await;
        let store = self.inner.host.worker.store().clone();
        let synced = tokio::task::spawn_blocking(move || store.db().sync()).await;
        match synced {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last records are lost"),
            Err(error) => tracing::error!(%error, "the last records may be lost"),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.inner.host
    }

    pub(crate) fn engine(&self) -> &Engine<Kiln> {
        &self.inner.engine
    }

    pub(crate) fn sessions(&self) -> &Arc<Manager> {
        &self.inner.sessions
    }

    pub(crate) fn registries(&self) -> &Arc<Registries> {
        &self.inner.registries
    }

    pub(crate) fn builds(&self) -> &Arc<Builds> {
        &self.inner.builds
    }

    /// The frontends that a build may use.
    pub(crate) fn frontends(&self) -> &Arc<Frontends> {
        self.inner.frontends.get_or_init(|| Arc::new(self.make_frontends()))
    }

    pub(crate) fn downgrade(&self) -> WeakDaemon {
        WeakDaemon(Arc::downgrade(&self.inner))
    }

    /// What the worker runs steps for.
    pub(crate) fn platforms(&self) -> &[Platform] {
        &self.inner.platforms
    }

    /// Where the logs of builds are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.inner.host.worker.store().dir().join("builds")
    }

    /// The records of builds that have ended.
    pub(crate) fn producers(&self) -> &Producers {
        &self.inner.producers
    }

    pub(crate) fn history(&self) -> &History {
        &self.inner.history
    }

    /// Removes the logs of builds that another process was killed in.
    fn clear_logs(&self) {
        match std::fs::remove_dir_all(self.logs()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "old logs of builds stay");
            }
            _ => {}
        }
    }

    /// Clears away what earlier processes left, and collects garbage, when the first builds have had their turn.
    fn sweep_later(&self) {
        let host = self.inner.host.clone();
        let worker = host.worker.clone();
        let (policies, ceiling) = (self.inner.config.gc.clone(), self.inner.config.ceiling);
        let history = self.inner.history.clone();
        tokio::spawn(async move {
            let sweep = move || {
                // What is broken is told at once, and not only when a step wants a device.
                drop(host.devices.as_ref().map(|devices| devices.read()));
                history.sweep();
                host.executor.sweep();
                host.worker.sweep()
            };
            match tokio::task::spawn_blocking(sweep).await {
                Ok(Ok(swept)) => tracing::debug!(?swept, "swept"),
                Ok(Err(error)) => tracing::warn!(%error, "sweeping the state folder"),
                Err(error) => tracing::warn!(%error, "sweeping the state folder"),
            }
            // Before, what others left would be in the way of builds.
            if let Some(limit) = ceiling {
                worker.set_ceiling(limit);
                // The first step need not wait for the first measurement.
                if let Err(error) = worker.make_room(0).await {
                    tracing::warn!(%error, "measuring the store");
                }
            }
            let Some(policies) = policies else { return };
            loop {
                tokio::time::sleep(GC_INTERVAL).await;
                if let Err(error) = worker.prune(policies.clone(), |_| {}).await {
                    tracing::warn!(%error, "collecting garbage");
                }
            }
        });
    }

    /// The devices that steps may ask for, as the machine has them now.
    pub(crate) async fn devices(&self) -> Vec<types::CdiDevice> {
        let Some(devices) = self.inner.host.devices.clone() else { return Vec::new() };
        let read = tokio::task::spawn_blocking(move || devices.read().list().map(device).collect()).await;
        read.unwrap_or_default()
    }

    /// What the worker says of itself, but for devices.
    pub(crate) fn worker_record(&self) -> types::WorkerRecord {
        let inner = &self.inner;
        let mut labels: BTreeMap<String, String> = inner.config.labels.clone();
        let own = "org.mobyproject.buildkit.worker";
        let snapshotter = inner.host.worker.store().snapshots().kind().name();
        for (name, value) in [
            ("executor", "oci"),
            ("hostname", &hostname()),
            ("network", "host"),
            ("oci.process-mode", "sandbox"),
            ("selinux.enabled", "false"),
            ("snapshotter", snapshotter),
        ] {
            labels.entry(format!("{own}.{name}")).or_insert_with(|| value.to_owned());
        }
        types::WorkerRecord {
            id: inner.id.clone(),
            labels,
            platforms: inner.platforms.iter().map(platform).collect(),
            gc_policy: inner.config.gc.iter().flatten().map(gc_policy).collect(),
            buildkit_version: Some(version()),
            cdi_devices: Vec::new(),
        }
    }
}

fn device(device: kiln_cdi::Listed) -> types::CdiDevice {
    let kiln_cdi::Listed { name, auto_allow, annotations } = device;
    types::CdiDevice { name, auto_allow, annotations: annotations.into_iter().collect(), on_demand: false }
}

/// Between two collections of garbage.
const GC_INTERVAL: std::time::Duration = std::time::Duration::from_secs(60);

fn executor(config: &Config) -> Result<Arc<dyn Executor>, Error> {
    let told = ExecutorConfig {
        dns: config.dns.clone(),
        cgroup_parent: config.cgroup_parent.clone().map(CgroupParent),
        oom_score_adj: None,
        bundles: Some(config.root.join("kiln").join("bundles")),
    };
    Ok(match &config.oci_binary {
        None => Arc::new(EmbeddedExecutor::new(told)?),
        Some(binary) => {
            Arc::new(ExternalExecutor::new(told, binary.clone(), config.root.join("kiln").join("runtime"))?)
        }
    })
}

/// The worker's id, made once for a state folder.
fn worker_id(root: &std::path::Path) -> Result<String, Error> {
    let path = root.join("kiln").join("workerid");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::Io { what: format!("reading {}", path.display()), source: error });
        }
        _ => {}
    }
    let id = kiln_session::random_id();
    std::fs::write(&path, &id)
        .map_err(|source| Error::Io { what: format!("writing {}", path.display()), source })?;
    Ok(id)
}

#[cfg(unix)]
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn hostname() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

fn platform(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

fn gc_policy(policy: &kiln_worker::GcPolicy) -> types::GcPolicy {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    types::GcPolicy {
        all: policy.all,
        keep_duration: bytes(policy.keep_duration_ms.saturating_mul(1_000_000)),
        reserved_space: bytes(policy.reserved_space),
        filters: policy.filters.clone(),
        max_used_space: bytes(policy.max_used_space),
        min_free_space: bytes(policy.min_free_space),
    }
}
