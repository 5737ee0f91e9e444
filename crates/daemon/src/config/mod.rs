//! What the daemon is told: flags and `buildkitd.toml` in one plain struct.

mod environment;
mod file;
mod units;

use std::{collections::BTreeMap, path::PathBuf};

use kiln_executor::DnsConfig;
use kiln_oci::Platform;
use kiln_ops::Entitlement;
use kiln_registry::HostConfig;
use kiln_worker::GcPolicy;

pub use environment::provenance_environment;
pub use file::{
    Amount, Cdi as CdiTable, File, GcPolicy as GcPolicyTable, KeyPair as KeyPairTable,
    Registry as RegistryTable, Worker as WorkerTable, read,
};
pub use units::{parse_disk, parse_duration};

use crate::TlsFiles;

/// How the daemon is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The state folder.
    pub root: PathBuf,
    /// Addresses to listen on: `unix://`, `tcp://`, `fd://`, `npipe://`.
    pub addresses: Vec<String>,
    /// TLS of `tcp://` addresses.
    pub tls: Option<TlsFiles>,
    /// Owner and group of unix sockets.
    pub socket_owner: (Option<u32>, Option<u32>),
    /// What builds may ask for.
    pub entitlements: Vec<Entitlement>,
    /// `[registry."host"]` tables.
    pub registries: BTreeMap<String, HostConfig>,
    /// Name resolution in steps.
    pub dns: DnsConfig,
    /// Labels of the worker, beside those that it has by itself.
    pub labels: BTreeMap<String, String>,
    /// Platforms of the worker in place of the detected ones; the first is the default.
    pub platforms: Vec<Platform>,
    /// `overlayfs` or `native`; `None`: overlay where it works.
    pub snapshotter: Option<kiln_store::SnapshotterKind>,
    /// An OCI runtime in place of the embedded one.
    pub oci_binary: Option<PathBuf>,
    /// How many ops may run at once; 0: as many as there are.
    pub max_parallelism: usize,
    /// Parent cgroup of steps that name none.
    pub cgroup_parent: Option<String>,
    /// Rules of garbage collection; `None`: none runs.
    pub gc: Option<Vec<GcPolicy>>,
    /// The most bytes that the store may take while builds run; `None`: no limit.
    pub ceiling: Option<u64>,
    /// Where descriptions of devices are, and which every build may use; `None`: steps get no devices.
    pub devices: Option<kiln_cdi::Registry>,
    /// Which frontends builds may use.
    pub frontends: FrontendConfig,
    /// What provenance says of the machine, beside what it says by itself: [`provenance_environment`].
    pub provenance_environment: BTreeMap<String, serde_json::Value>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/buildkit"),
            addresses: Vec::new(),
            tls: None,
            socket_owner: (None, None),
            entitlements: Vec::new(),
            registries: BTreeMap::new(),
            dns: DnsConfig::default(),
            labels: BTreeMap::new(),
            platforms: Vec::new(),
            snapshotter: None,
            oci_binary: None,
            max_parallelism: 0,
            cgroup_parent: None,
            gc: None,
            ceiling: None,
            devices: None,
            frontends: FrontendConfig::default(),
            provenance_environment: BTreeMap::new(),
        }
    }
}

/// Which frontends builds may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendConfig {
    /// `dockerfile.v0`.
    pub dockerfile: bool,
    /// `gateway.v0`: frontends that are images.
    pub gateway: bool,
    /// Whether `dockerfile.v0` stands for the official frontend images, by tag.
    pub builtin: bool,
    /// The repositories, in their full spelling, whose images may be frontends; empty: all.
    pub allowed_repositories: Vec<String>,
}

impl Default for FrontendConfig {
    fn default() -> Self {
        Self { dockerfile: true, gateway: true, builtin: true, allowed_repositories: Vec::new() }
    }
}
