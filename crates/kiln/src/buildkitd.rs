//! `buildkitd`: the daemon.

mod devices;
mod gc;
mod settings;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use kiln_daemon::{Daemon, Error, Listener, serve};

use crate::{
    args::{normalize, switch},
    holder::Socket,
};

/// How long running builds may take to end once the daemon was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Builds container images for whoever connects.
#[derive(Debug, Parser)]
#[command(name = "buildkitd", version, about, long_about = None)]
pub(crate) struct Flags {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say more (the same as --log-level debug).
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    debug: Option<bool>,
    /// Say everything (the same as --log-level trace).
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    trace: Option<bool>,
    /// Folder in which all state is kept.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Address to listen on: unix://PATH, tcp://HOST:PORT, fd://NAME, npipe://PIPE. May be given several times.
    #[arg(long = "addr", value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Form of the log: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How much the log says: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", env = "BUILDKITD_LOG_LEVEL")]
    log_level: Option<String>,
    /// Group of the unix socket, by name or number.
    #[arg(long)]
    group: Option<String>,
    /// Address of debugging information.
    #[arg(long, value_name = "ADDRESS", env = "BUILDKITD_DEBUGADDR")]
    debugaddr: Option<String>,
    /// Certificate of tcp:// addresses.
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Key of the certificate.
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Authority of client certificates: given, clients must have one.
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Let builds ask for network.host, security.insecure or device. May be given several times.
    #[arg(long = "allow-insecure-entitlement", value_name = "NAME")]
    entitlements: Vec<String>,
    /// Record the network requests of steps.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    proxy_network: Option<bool>,
    /// Socket on which steps can hand in traces.
    #[arg(long, value_name = "PATH")]
    otel_socket_path: Option<PathBuf>,
    /// Offer no CDI devices.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    cdi_disabled: Option<bool>,
    /// Folder with CDI specifications. May be given several times; a later one wins.
    #[arg(long, value_name = "DIR")]
    cdi_spec_dir: Vec<PathBuf>,
    /// Keep what cache keys were made of.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    save_cache_debug: Option<bool>,
    /// Run in a user namespace.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    rootless: Option<bool>,
    #[command(flatten)]
    oci: Oci,
    #[command(flatten)]
    containerd: Containerd,
}

/// The worker of this daemon. Its flags have the names of BuildKit's OCI worker.
#[derive(Debug, Args)]
#[command(next_help_heading = "Worker")]
pub(crate) struct Oci {
    /// Whether there is one: true, false or auto.
    #[arg(id = "oci-worker", long = "oci-worker", value_name = "BOOL")]
    enabled: Option<String>,
    /// Label of the worker, as KEY=VALUE. May be given several times.
    #[arg(long = "oci-worker-labels", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// auto, overlayfs or native.
    #[arg(long = "oci-worker-snapshotter", value_name = "NAME")]
    snapshotter: Option<String>,
    /// Socket of a snapshotter.
    #[arg(long = "oci-worker-proxy-snapshotter-path", value_name = "PATH")]
    proxy_snapshotter_path: Option<String>,
    /// Platform of the worker; the first is the default one. May be given several times.
    #[arg(long = "oci-worker-platform", value_name = "PLATFORM")]
    platforms: Vec<String>,
    /// Network of steps: auto or host.
    #[arg(long = "oci-worker-net", value_name = "MODE")]
    net: Option<String>,
    /// CNI configuration file.
    #[arg(long = "oci-cni-config-path", value_name = "FILE")]
    cni_config_path: Option<PathBuf>,
    /// Folder of CNI plugins.
    #[arg(long = "oci-cni-binary-dir", value_name = "DIR")]
    cni_binary_dir: Option<PathBuf>,
    /// Network namespaces that are kept ready.
    #[arg(long = "oci-cni-pool-size", value_name = "COUNT")]
    cni_pool_size: Option<usize>,
    /// OCI runtime that runs steps, in place of the embedded one.
    #[arg(long = "oci-worker-binary", value_name = "FILE")]
    binary: Option<PathBuf>,
    /// AppArmor profile of steps.
    #[arg(long = "oci-worker-apparmor-profile", value_name = "NAME")]
    apparmor_profile: Option<String>,
    /// Label steps for SELinux.
    #[arg(long = "oci-worker-selinux", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    selinux: Option<bool>,
    /// How many steps may run at once; 0 for no limit.
    #[arg(long = "oci-max-parallelism", value_name = "COUNT")]
    max_parallelism: Option<usize>,
    /// Run the worker without root.
    #[arg(id = "oci-worker-rootless", long = "oci-worker-rootless", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    rootless: Option<bool>,
    /// Run steps in the daemon's PID namespace.
    #[arg(long = "oci-worker-no-process-sandbox", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    no_process_sandbox: Option<bool>,
    /// Whether garbage is collected.
    #[arg(long = "oci-worker-gc", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    gc: Option<bool>,
    /// Limits of garbage collection in MB: RESERVED[,FREE[,MAXIMUM]].
    #[arg(long = "oci-worker-gc-keepstorage", value_name = "MB")]
    gc_keepstorage: Option<String>,
}

/// The containerd worker, which is not part of this daemon yet.
#[derive(Debug, Args)]
#[command(next_help_heading = "containerd worker (only =false for now)")]
pub(crate) struct Containerd {
    /// Whether there is one: false or auto.
    #[arg(id = "containerd-worker", long = "containerd-worker", value_name = "BOOL")]
    enabled: Option<String>,
}

/// Runs the daemon until it is told to stop.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let mut command = Flags::command();
    command.build();
    let matches = match command.clone().try_get_matches_from(normalize(&command, args)) {
        Ok(matches) => matches,
        Err(error) => error.exit(),
    };
    let flags = match Flags::from_arg_matches(&matches) {
        Ok(flags) => flags,
        Err(error) => error.exit(),
    };
    match start(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("buildkitd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The configuration of a daemon over `root` that nobody gave flags: what the usual file says.
///
/// # Errors
/// Those of the file.
pub(crate) fn usual_config(root: &std::path::Path) -> Result<kiln_daemon::Config, Error> {
    let none = Flags::parse_from(["buildkitd"]);
    let settings = settings::read_settings(&Flags { root: Some(root.to_owned()), ..none })?;
    Ok(settings.config)
}

fn start(flags: &Flags) -> Result<(), Error> {
    let settings = settings::read_settings(flags)?;
    settings.start_log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io { what: "starting threads".into(), source })?;
    runtime.block_on(run(settings.config))
}

async fn run(config: kiln_daemon::Config) -> Result<(), Error> {
    // First of all the sockets: a client that connects now waits, rather than being refused.
    let mut listeners = Vec::new();
    for address in &config.addresses {
        listeners.extend(Listener::open(address, config.tls.as_ref(), config.socket_owner).await?);
    }
    let root = config.root.clone();
    let daemon = Daemon::start(config).await?;
    let (socket, own) = Socket::listen(&root).await;
    listeners.extend(own);
    serve(&daemon, listeners, told_to_stop()).await;
    drop(socket);
    tracing::info!("stopping: running builds have {DRAIN:?} to end");
    tokio::select! {
        () = daemon.idle() => {}
        () = tokio::time::sleep(DRAIN) => tracing::warn!("builds are still running; they are cancelled"),
        () = told_to_stop() => {}
    }
    daemon.stop().await;
    Ok(())
}

#[cfg(unix)]
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

#[cfg(not(unix))]
async fn told_to_stop() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
