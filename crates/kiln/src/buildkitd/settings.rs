//! From flags and `buildkitd.toml` to what the daemon runs with. A flag wins over the file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kiln_daemon::{
    Config, Error, TlsFiles,
    config::{File, FrontendConfig, RegistryTable, WorkerTable, provenance_environment, read},
};
use kiln_executor::DnsConfig;
use kiln_oci::{Platform, Reference};
use kiln_ops::Entitlement;
use kiln_registry::{HostConfig, KeyPair};
use kiln_store::SnapshotterKind;

use super::{
    Flags, Oci, devices,
    gc::{Gc, GcFlags},
};

const DEFAULT_FILE: &str = "/etc/buildkit/buildkitd.toml";
const DEFAULT_ENVIRONMENT: &str = "/etc/buildkit/provenance.d";
const DEFAULT_ROOT: &str = "/var/lib/buildkit";
#[cfg(unix)]
const DEFAULT_ADDRESS: &str = "unix:///run/buildkit/buildkitd.sock";
#[cfg(windows)]
const DEFAULT_ADDRESS: &str = "npipe:////./pipe/buildkitd";

/// What the daemon runs with.
pub(super) struct Settings {
    pub(super) config: Config,
    level: String,
    json: bool,
    /// Something is to be served at an address for debugging, and nothing is.
    debug_address: Option<String>,
    /// Steps may have been meant to have a network by CNI.
    auto_network: bool,
}

/// Where BuildKit finds a CNI configuration by default.
const CNI_CONFIG: &str = "/etc/buildkit/cni.json";

impl Settings {
    /// Opens the log, on standard error.
    pub(super) fn start_log(&self) {
        use tracing_subscriber::EnvFilter;
        // What libraries say is of use only to those who ask for everything.
        let filter =
            if self.level == "trace" { self.level.clone() } else { format!("warn,{}", own(&self.level)) };
        let builder =
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(EnvFilter::new(filter));
        let started = if self.json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
        if let Err(error) = started {
            eprintln!("buildkitd: no log: {error}");
        }
        // No build differs by this, so it is no reason not to start.
        if let Some(address) = &self.debug_address {
            tracing::warn!(address, "debugging information is not served yet; nothing listens there");
        }
        if self.auto_network && Path::new(CNI_CONFIG).exists() {
            tracing::warn!("{CNI_CONFIG} is not used yet: steps share the machine's network");
        }
    }
}

fn own(level: &str) -> String {
    let crates = [
        "kiln",
        "kiln_daemon",
        "kiln_frontend",
        "kiln_ops",
        "kiln_source",
        "kiln_worker",
        "kiln_store",
        "kiln_session",
        "kiln_registry",
        "kiln_executor",
        "kiln_exporter",
        "kiln_engine",
    ];
    crates.map(|name| format!("{name}={level}")).join(",")
}

pub(super) fn bad(option: &str, problem: impl std::fmt::Display) -> Error {
    Error::Option { option: option.to_owned(), problem: problem.to_string() }
}

/// Which frontends builds may use.
fn frontends(file: &File) -> Result<FrontendConfig, Error> {
    let mut config = FrontendConfig::default();
    for (name, table) in &file.frontend {
        let key = |key: &str| format!("frontend.{name:?}.{key}");
        match name.as_str() {
            "dockerfile.v0" => {
                config.dockerfile = table.enabled.unwrap_or(true);
                config.builtin = table.replaces_images.unwrap_or(true);
                if !table.allowed_repositories.is_empty() {
                    return Err(bad(&key("allowedRepositories"), "only gateway.v0 has images"));
                }
            }
            "gateway.v0" => {
                config.gateway = table.enabled.unwrap_or(true);
                if table.replaces_images.is_some() {
                    return Err(bad(&key("replacesImages"), "only dockerfile.v0 stands for images"));
                }
                for repository in &table.allowed_repositories {
                    let reference = Reference::parse(repository);
                    let reference = reference
                        .map_err(|e| bad(&key("allowedRepositories"), format!("{repository}: {e}")))?;
                    config.allowed_repositories.push(reference.name());
                }
            }
            _ => return Err(bad(&format!("frontend.{name:?}"), "want dockerfile.v0 or gateway.v0")),
        }
    }
    Ok(config)
}

/// Reads the file that the flags name, and puts both together.
pub(super) fn read_all(flags: &Flags, file: &File) -> Result<Settings, Error> {
    refuse_flags(flags)?;
    refuse_keys(file)?;
    let worker = &file.worker.oci;
    let root = flags.root.clone().or_else(|| file.root.clone()).unwrap_or_else(|| DEFAULT_ROOT.into());
    let root = std::path::absolute(&root)
        .map_err(|source| Error::Io { what: format!("finding {}", root.display()), source })?;
    let entitlements = file.insecure_entitlements.iter().chain(&flags.entitlements);
    let environment = file.provenance_env_dir.as_deref().unwrap_or(Path::new(DEFAULT_ENVIRONMENT));
    let gc = GcFlags { enabled: flags.oci.gc, keep_storage: flags.oci.gc_keepstorage.as_deref() };
    let gc = Gc::new(gc, worker, &root)?;
    let config = Config {
        addresses: addresses(flags, file),
        tls: tls(flags, file)?,
        socket_owner: (file.grpc.uid, group(flags.group.as_deref())?.or(file.grpc.gid)),
        entitlements: entitlements.map(|name| entitlement(name)).collect::<Result<_, _>>()?,
        registries: file.registry.iter().map(|(host, table)| (host.clone(), host_config(table))).collect(),
        dns: dns(file)?,
        labels: labels(&flags.oci, worker)?,
        platforms: platforms(&flags.oci, worker)?,
        snapshotter: snapshotter(&flags.oci, worker)?,
        oci_binary: flags.oci.binary.clone().or_else(|| worker.binary.clone()),
        max_parallelism: flags.oci.max_parallelism.or(worker.max_parallelism).unwrap_or_default(),
        cgroup_parent: worker.default_cgroup_parent.clone().filter(|parent| !parent.is_empty()),
        ceiling: gc.as_ref().and_then(|gc| gc.ceiling),
        gc: gc.map(|gc| gc.policies),
        devices: devices::registry(flags, &file.cdi),
        frontends: frontends(file)?,
        provenance_environment: provenance_environment(environment)?,
        root,
    };
    let level = match (flags.trace.or(file.trace), flags.debug.or(file.debug)) {
        (Some(true), _) => "trace".to_owned(),
        (_, Some(true)) => "debug".to_owned(),
        _ => flags.log_level.clone().or_else(|| file.log.level.clone()).unwrap_or_else(|| "info".into()),
    };
    if !["error", "warn", "warning", "info", "debug", "trace"].contains(&level.as_str()) {
        return Err(bad("--log-level", format!("{level:?}: want error, warn, info, debug or trace")));
    }
    let format =
        flags.log_format.clone().or_else(|| file.log.format.clone()).unwrap_or_else(|| "text".into());
    let json = match format.as_str() {
        "json" => true,
        "text" => false,
        other => return Err(bad("--log-format", format!("{other:?}: want text or json"))),
    };
    let debug_address = flags.debugaddr.clone().or_else(|| file.grpc.debug_address.clone());
    let debug_address = debug_address.filter(|address| !address.is_empty());
    let network = flags.oci.net.as_deref().or(file.worker.oci.network_mode.as_deref());
    let auto_network = matches!(network, None | Some("" | "auto"));
    Ok(Settings { config, level: level.replace("warning", "warn"), json, debug_address, auto_network })
}

/// Reads everything.
pub(super) fn read_settings(flags: &Flags) -> Result<Settings, Error> {
    let path = flags.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let file = read(&path, false)?;
    read_all(flags, &file)
}

/// Flags of what is not there yet.
fn refuse_flags(flags: &Flags) -> Result<(), Error> {
    let oci = &flags.oci;
    let off = |value: &Option<String>| matches!(value.as_deref(), None | Some("auto" | "false" | "0"));
    let missing = [
        (flags.proxy_network == Some(true), "--proxy-network"),
        (flags.save_cache_debug == Some(true), "--save-cache-debug"),
        (flags.rootless == Some(true), "--rootless"),
        (oci.rootless == Some(true), "--oci-worker-rootless"),
        (oci.no_process_sandbox == Some(true), "--oci-worker-no-process-sandbox"),
        (oci.selinux == Some(true), "--oci-worker-selinux"),
        (oci.apparmor_profile.as_ref().is_some_and(|p| !p.is_empty()), "--oci-worker-apparmor-profile"),
        (
            oci.proxy_snapshotter_path.as_ref().is_some_and(|p| !p.is_empty()),
            "--oci-worker-proxy-snapshotter-path",
        ),
        (oci.cni_config_path.is_some(), "--oci-cni-config-path"),
        (oci.cni_binary_dir.is_some(), "--oci-cni-binary-dir"),
        (oci.cni_pool_size.is_some_and(|size| size > 0), "--oci-cni-pool-size"),
        (!off(&flags.containerd.enabled), "--containerd-worker=true"),
        (
            matches!(oci.enabled.as_deref(), Some("false" | "0")),
            "--oci-worker=false (a daemon without a worker)",
        ),
    ];
    refuse(&missing)?;
    network(oci.net.as_deref(), "--oci-worker-net")
}

/// Keys of what is not there yet. Those for traces are taken: none are collected.
fn refuse_keys(file: &File) -> Result<(), Error> {
    let worker = &file.worker.oci;
    let containerd = file.worker.containerd.get("enabled").and_then(toml::Value::as_bool) == Some(true);
    let missing = [
        (file.proxy_network == Some(true), "proxyNetwork"),
        (file.grpc.security_descriptor.is_some(), "grpc.securityDescriptor"),
        (containerd, "worker.containerd"),
        (worker.enabled == Some(false), "worker.oci.enabled = false (a daemon without a worker)"),
        (worker.rootless == Some(true), "worker.oci.rootless"),
        (worker.no_process_sandbox == Some(true), "worker.oci.noProcessSandbox"),
        (worker.selinux == Some(true), "worker.oci.selinux"),
        (worker.apparmor_profile.as_ref().is_some_and(|p| !p.is_empty()), "worker.oci.apparmor-profile"),
        (
            worker.proxy_snapshotter_path.as_ref().is_some_and(|p| !p.is_empty()),
            "worker.oci.proxySnapshotterPath",
        ),
        (worker.stargz_snapshotter.is_some(), "worker.oci.stargzSnapshotter"),
        (worker.user_remap.as_ref().is_some_and(|u| !u.is_empty()), "worker.oci.userRemapUnsupported"),
        (worker.cni_config_path.is_some(), "worker.oci.cniConfigPath"),
        (worker.cni_binary_path.is_some(), "worker.oci.cniBinaryPath"),
        (worker.cni_pool_size.is_some_and(|size| size > 0), "worker.oci.cniPoolSize"),
        (worker.bridge_name.is_some(), "worker.oci.bridgeName"),
        (worker.bridge_subnet.is_some(), "worker.oci.bridgeSubnet"),
        (file.history.max_age.is_some(), "history.maxAge"),
        (file.history.max_entries.is_some(), "history.maxEntries"),
        (file.system.platforms_cache_max_age.is_some(), "system.platformsCacheMaxAge"),
        (file.system.max_registry_concurrency.is_some(), "system.maxRegistryConcurrency"),
        (file.cache.is_some(), "cache.gha"),
    ];
    refuse(&missing)?;
    network(worker.network_mode.as_deref(), "worker.oci.networkMode")
}

fn refuse(missing: &[(bool, &str)]) -> Result<(), Error> {
    match missing.iter().find(|(asked, _)| *asked) {
        Some((_, option)) => Err(Error::Unsupported((*option).to_owned())),
        None => Ok(()),
    }
}

/// Steps share the machine's network, which is what `auto` comes to without a CNI configuration.
fn network(mode: Option<&str>, option: &str) -> Result<(), Error> {
    match mode {
        None | Some("" | "auto" | "host") => Ok(()),
        Some("cni" | "bridge") => Err(Error::Unsupported(format!("{option} {}", mode.unwrap_or_default()))),
        Some(other) => Err(bad(option, format!("{other:?}: want auto or host"))),
    }
}

fn addresses(flags: &Flags, file: &File) -> Vec<String> {
    for addresses in [&flags.addresses, &file.grpc.address] {
        if !addresses.is_empty() {
            return addresses.clone();
        }
    }
    vec![DEFAULT_ADDRESS.to_owned()]
}

fn tls(flags: &Flags, file: &File) -> Result<Option<TlsFiles>, Error> {
    let one = |flag: &Option<PathBuf>, key: &Option<PathBuf>| {
        flag.clone().or_else(|| key.clone()).filter(|path| !path.as_os_str().is_empty())
    };
    let table = &file.grpc.tls;
    let (cert, key) = (one(&flags.tlscert, &table.cert), one(&flags.tlskey, &table.key));
    let ca = one(&flags.tlscacert, &table.ca);
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key, ca })),
        (None, None) if ca.is_none() => Ok(None),
        _ => Err(bad("--tlscert, --tlskey", "both are needed for TLS")),
    }
}

fn entitlement(name: &str) -> Result<Entitlement, Error> {
    let wanted = || format!("{name:?}: want network.host, security.insecure or device");
    Entitlement::parse(name).ok_or_else(|| bad("insecure-entitlements", wanted()))
}

fn host_config(table: &RegistryTable) -> HostConfig {
    HostConfig {
        mirrors: table.mirrors.clone(),
        http: table.http,
        insecure: table.insecure.unwrap_or_default(),
        root_cas: table.ca.clone(),
        key_pairs: table
            .keypair
            .iter()
            .map(|p| KeyPair { key: p.key.clone(), cert: p.cert.clone() })
            .collect(),
        tls_config_dirs: table.tls_config_dir.clone(),
    }
}

fn dns(file: &File) -> Result<DnsConfig, Error> {
    let dns = &file.dns;
    let address = |text: &String| {
        text.parse().map_err(|_| bad("dns.nameservers", format!("{text:?} is no IP address")))
    };
    Ok(DnsConfig {
        nameservers: dns.nameservers.iter().map(address).collect::<Result<_, _>>()?,
        options: dns.options.clone(),
        search: dns.search_domains.clone(),
    })
}

fn labels(oci: &Oci, worker: &WorkerTable) -> Result<BTreeMap<String, String>, Error> {
    let mut labels = worker.labels.clone();
    for label in &oci.labels {
        let pair = label
            .split_once('=')
            .ok_or_else(|| bad("--oci-worker-labels", format!("{label:?}: want KEY=VALUE")))?;
        labels.insert(pair.0.to_owned(), pair.1.to_owned());
    }
    Ok(labels)
}

fn platforms(oci: &Oci, worker: &WorkerTable) -> Result<Vec<Platform>, Error> {
    let (given, option) = match oci.platforms.as_slice() {
        [] => (&worker.platforms, "worker.oci.platforms"),
        _ => (&oci.platforms, "--oci-worker-platform"),
    };
    given
        .iter()
        .map(|text| Platform::parse(text).map(Platform::normalize).map_err(|e| bad(option, e)))
        .collect()
}

fn snapshotter(oci: &Oci, worker: &WorkerTable) -> Result<Option<SnapshotterKind>, Error> {
    let option = "--oci-worker-snapshotter";
    match oci.snapshotter.as_deref().or(worker.snapshotter.as_deref()) {
        None | Some("" | "auto") => Ok(None),
        Some("overlayfs") => Ok(Some(SnapshotterKind::Overlay)),
        Some("native") => Ok(Some(SnapshotterKind::Native)),
        Some(other @ ("fuse-overlayfs" | "stargz")) => Err(Error::Unsupported(format!("{option} {other}"))),
        Some(other) => Err(bad(option, format!("{other:?}: want auto, overlayfs or native"))),
    }
}

/// A group's number, by its name in `/etc/group` if it is none.
fn group(name: Option<&str>) -> Result<Option<u32>, Error> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.map(Some).ok_or_else(|| bad("--group", format!("there is no group {name:?}")))
}
