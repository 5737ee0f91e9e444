//! The exec op: runs a process in a root made of inputs.

mod caches;
mod devices;
pub(crate) mod filling;
pub(crate) mod mounts;
pub(crate) mod secrets;

use std::{sync::Arc, time::Duration};

use kiln_engine::{CacheMap, ExecError, OpContext};
use kiln_executor::{
    CgroupParent, Held, HostAddress, Network, OutputStream, ProcessIo, ProcessSpec, Resources, Rlimit,
    RunSpec, Security,
};
use kiln_oci::{Digest, Platform, default_path_env};
use kiln_proto::pb;
use kiln_session::Group;
use kiln_worker::Unpacked;
use tokio_util::sync::CancellationToken;

use crate::devices::{DeviceError, find};
use crate::{
    Host, Kiln, OpError, Output, canonical,
    selector::{InputUse, Selector, content_digest, dedupe, digest_of_paths},
};
use devices::Changes;
use filling::Filling;
use mounts::{Given, Prepared, Standing};

/// Pieces of output that may wait for whoever reads the log.
const OUTPUT_QUEUE: usize = 64;

/// Runs a process.
#[derive(Debug)]
pub struct ExecOp {
    pub(crate) op: pb::ExecOp,
    pub(crate) platform: Platform,
    pub(crate) inputs: usize,
    pub(crate) resources: pb::LinuxResources,
    pub(crate) host: Arc<Host>,
}

impl ExecOp {
    fn meta(&self) -> Result<&pb::Meta, OpError> {
        self.op.meta.as_ref().ok_or_else(|| OpError::Invalid("the exec op has no arguments".into()))
    }

    pub(crate) fn cache_map(&self) -> Result<CacheMap<Kiln>, OpError> {
        // The earliest moment at which a step is likely to run soon.
        let mut map = CacheMap::new(canonical::exec(&self.op, &self.platform)?, self.inputs);
        map.inputs = self.uses()?.iter().map(InputUse::map).collect();
        Ok(map)
    }

    /// How each input is used. Only what cannot reach the result unseen may match by its content: a mount that is read-only,
    /// is no output, or shows all of its input. The root is never hashed: that would cost more than it saves.
    fn uses(&self) -> Result<Vec<InputUse>, OpError> {
        let mut paths: Vec<Vec<String>> = vec![Vec::new(); self.inputs];
        let mut by_content = vec![false; self.inputs];
        for mount in &self.op.mounts {
            let no_tree = [pb::MountType::Secret, pb::MountType::Ssh, pb::MountType::Tmpfs];
            if mount.input == kiln_llb::EMPTY || no_tree.contains(&mount.mount_type()) {
                continue;
            }
            let bad = || {
                OpError::Invalid(format!(
                    "mount {} takes input {}, of {}",
                    mount.dest, mount.input, self.inputs
                ))
            };
            let at = usize::try_from(mount.input).ok().filter(|at| *at < self.inputs).ok_or_else(bad)?;
            let selector = join_root(&mount.selector);
            let safe = mount.output == kiln_llb::SKIP_OUTPUT || mount.readonly || selector == "/";
            by_content[at] = match mount.content_cache() {
                pb::MountContentCache::Off => false,
                pb::MountContentCache::On if !safe => {
                    let problem =
                        format!("mount {} cannot be cached by content: it is written to in part", mount.dest);
                    return Err(OpError::Invalid(problem));
                }
                pb::MountContentCache::On => true,
                pb::MountContentCache::Default => safe && mount.dest != kiln_llb::ROOT_MOUNT,
            };
            paths[at].push(selector);
        }
        let uses = paths.into_iter().zip(by_content).map(|(paths, by_content)| InputUse {
            selector: (!paths.is_empty()).then(|| digest_of_paths(&paths)),
            content: by_content.then(|| content_of(paths)),
        });
        Ok(uses.collect())
    }

    pub(crate) async fn content_digest(
        &self,
        cx: &OpContext<Kiln>,
        input: usize,
        result: &Output,
    ) -> Result<Option<Digest>, OpError> {
        let uses = self.uses()?;
        let Some(selectors) = uses.get(input).and_then(|u| u.content.as_deref()) else { return Ok(None) };
        content_digest(&self.host, cx, selectors, result).await.map(Some)
    }

    pub(crate) async fn exec(
        &self,
        cx: &OpContext<Kiln>,
        inputs: Vec<Output>,
    ) -> Result<Vec<Output>, ExecError<Kiln>> {
        let security = self.security();
        self.host.executor.prepare(security);
        // What each mount begins with, for whoever looks into a failure.
        let used = |mount: &pb::Mount| usize::try_from(mount.input).ok().and_then(|i| inputs.get(i)).cloned();
        let used: Vec<Option<Output>> = self.op.mounts.iter().map(used).collect();
        let failed = |error| ExecError { error, inputs: used.clone(), mounts: used.clone() };
        let sessions = self.host.sessions_of(cx);
        // To be dropped after what it watches.
        let mut growth = self.host.worker.grow().await.map_err(|full| failed(full.into()))?;
        let prepared = growth.run(self.prepare(cx, &sessions, &inputs)).await;
        let prepared = prepared.map_err(OpError::from).flatten().map_err(failed)?;
        prepared.snapshots().for_each(|snapshot| growth.writes(snapshot));
        // When this work is dropped, processes may run for a moment yet: the executor holds what they write to.
        let standing = Arc::new(Standing::new(prepared, growth.announcement()));
        let ran = match growth.run(self.run(cx, &sessions, &standing, security)).await {
            Ok(ran) => ran,
            // There is no room for what it leaves.
            Err(full) => return Err(failed(full.into())),
        };
        let prepared = standing.take();
        match ran {
            Ok(()) => {
                let committed = tokio::task::spawn_blocking(move || prepared.commit()).await;
                committed.map_err(OpError::from).flatten().map_err(failed)
            }
            Err(error) => {
                let inputs = used.clone();
                let salvaged = tokio::task::spawn_blocking(move || prepared.salvage(&inputs)).await;
                let mounts = salvaged.unwrap_or_else(|_| used.clone());
                Err(ExecError { error, inputs: used, mounts })
            }
        }
    }

    async fn prepare(
        &self,
        cx: &OpContext<Kiln>,
        sessions: &Group,
        inputs: &[Output],
    ) -> Result<Prepared, OpError> {
        if self.platform.is_windows() != cfg!(windows) {
            let here = Platform::host();
            let problem = format!("running a step for {} on {}", self.platform.format(), here.format());
            return Err(OpError::Unsupported(problem));
        }
        let mut trees: Vec<Option<Unpacked>> = vec![None; inputs.len()];
        for mount in &self.op.mounts {
            let is_tree = matches!(mount.mount_type(), pb::MountType::Bind | pb::MountType::Cache);
            let at = usize::try_from(mount.input).ok().filter(|at| is_tree && *at < inputs.len());
            if let Some(at) = at {
                trees[at] = inputs[at].unpack(cx).await?;
            }
        }
        let meta = self.meta()?;
        let user = format!("exec {}", meta.args.join(" "));
        let filling = Filling::new(cx, sessions);
        let given = Given { mounts: &self.op.mounts, cwd: &meta.cwd, user: &user, filling: Some(&filling) };
        Prepared::new(&self.host, sessions, given, &trees).await
    }

    fn security(&self) -> Security {
        match self.op.security() {
            pb::SecurityMode::Sandbox => Security::Sandbox,
            pb::SecurityMode::Insecure => Security::Insecure,
        }
    }

    async fn run(
        &self,
        cx: &OpContext<Kiln>,
        sessions: &Group,
        standing: &Arc<Standing>,
        security: Security,
    ) -> Result<(), OpError> {
        let secret_env = secrets::environment(sessions, &self.op.secretenv).await?;
        let changes = self.changes().await?;
        let spec = self.spec(standing, secret_env, security, changes)?;
        let valid = &self.meta()?.valid_exit_codes;
        let (io, mut output) = ProcessIo::output(OUTPUT_QUEUE);
        let progress = cx.progress().clone();
        let read = async {
            while let Some(piece) = output.recv().await {
                let stream = match piece.stream {
                    OutputStream::Stdout => 1,
                    OutputStream::Stderr => 2,
                };
                progress.log(stream, piece.data);
            }
        };
        // Dropped when the work is cancelled, this kills what runs.
        let never = CancellationToken::new();
        let (exit, ()) = tokio::join!(kiln_executor::run(&*self.host.executor, spec, io, &never), read);
        let exit = exit?;
        let code = i32::try_from(exit.code).unwrap_or(-1);
        let good = if valid.is_empty() { code == 0 } else { valid.contains(&code) };
        if !good {
            let command = self.meta()?.args.join(" ");
            return Err(OpError::Exit { command, code: exit.code, oom: exit.oom_killed });
        }
        Ok(())
    }

    fn spec(
        &self,
        standing: &Arc<Standing>,
        secret_env: Vec<String>,
        security: Security,
        changes: Changes,
    ) -> Result<RunSpec, OpError> {
        let meta = self.meta()?;
        let mut env = meta.env.clone();
        env.extend(meta.proxy_env.iter().flat_map(proxies));
        if !self.platform.is_windows() && !env.iter().any(|e| e.starts_with("PATH=")) {
            env.push(format!("PATH={}", default_path_env(&self.platform.os)));
        }
        env.extend(secret_env);
        let Changes { env: changed, mounts, devices, groups, hooks } = changes;
        devices::change_environment(&mut env, changed);
        let mut prepared = standing.lock();
        prepared.add(mounts);
        let process = ProcessSpec {
            args: meta.args.clone(),
            env,
            user: meta.user.clone(),
            cwd: meta.cwd.clone(),
            tty: false,
        };
        let (root, mounts) = prepared.specs()?;
        Ok(RunSpec {
            id: kiln_session::random_id(),
            root,
            mounts,
            process,
            hostname: (!meta.hostname.is_empty()).then(|| meta.hostname.clone()),
            extra_hosts: meta.extra_hosts.iter().map(host_address).collect::<Result<_, _>>()?,
            network: network(&self.host, self.op.network())?,
            security,
            rlimits: meta.ulimit.iter().map(rlimit).collect(),
            resources: self.limits(),
            cgroup_parent: match meta.cgroup_parent.as_str() {
                "" => self.host.cgroup_parent.clone(),
                parent => Some(CgroupParent(parent.to_owned())),
            },
            remove_mount_point_parents: meta.remove_mount_stubs_recursive,
            samples: false,
            devices,
            groups,
            hooks,
            held: Held::new(standing.clone()),
        })
    }

    /// What the step's devices change, as the machine has them now.
    async fn changes(&self) -> Result<Changes, OpError> {
        if self.op.cdi_devices.is_empty() {
            return Ok(Changes::default());
        }
        let (asked, host) = (self.op.cdi_devices.clone(), self.host.clone());
        tokio::task::spawn_blocking(move || {
            let devices = host.devices.as_ref().map(|devices| devices.read());
            let names = find(&asked, devices.as_ref())?;
            let Some(devices) = devices else { return Ok(Changes::default()) };
            let edits = devices.edits(&names).map_err(DeviceError::from)?;
            let failed = |problem| OpError::DeviceEdit { devices: names.join(", "), problem };
            Changes::new(edits).map_err(failed)
        })
        .await?
    }

    fn limits(&self) -> Resources {
        let r = &self.resources;
        Resources {
            memory: r.memory,
            memory_swap: r.memory_swap,
            cpu_shares: r.cpu_shares,
            cpu_quota: r.cpu_quota,
            cpu_period: r.cpu_period,
            cpuset_cpus: r.cpuset_cpus.clone(),
            cpuset_mems: r.cpuset_mems.clone(),
        }
    }
}

/// The network of a container that asks for `mode`.
pub(crate) fn network(host: &Host, mode: pb::NetMode) -> Result<Network, OpError> {
    match mode {
        pb::NetMode::None => Ok(Network::None),
        pb::NetMode::Host => Ok(Network::Host),
        pb::NetMode::Unset if host.sandbox_network => {
            Err(OpError::Unsupported("a network of its own for a step".into()))
        }
        pb::NetMode::Unset => Ok(Network::Host),
    }
}

/// A path made absolute and clean.
fn join_root(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn content_of(paths: Vec<String>) -> Vec<Selector> {
    let paths = dedupe(paths);
    if paths.iter().any(|path| path == "/") {
        Vec::new()
    } else {
        paths.into_iter().map(Selector::following).collect()
    }
}

/// Both spellings of each proxy, as programs differ in which they read.
pub(crate) fn proxies(proxy: &pb::ProxyEnv) -> Vec<String> {
    let all = [
        ("HTTP_PROXY", &proxy.http_proxy),
        ("HTTPS_PROXY", &proxy.https_proxy),
        ("FTP_PROXY", &proxy.ftp_proxy),
        ("NO_PROXY", &proxy.no_proxy),
        ("ALL_PROXY", &proxy.all_proxy),
    ];
    let set = all.into_iter().filter(|(_, value)| !value.is_empty());
    set.flat_map(|(name, value)| [format!("{name}={value}"), format!("{}={value}", name.to_lowercase())])
        .collect()
}

pub(crate) fn host_address(host: &pb::HostIp) -> Result<HostAddress, OpError> {
    let bad = |_| OpError::Invalid(format!("extra host {}: {:?} is no IP address", host.host, host.ip));
    Ok(HostAddress { host: host.host.clone(), ip: host.ip.parse().map_err(bad)? })
}

pub(crate) fn rlimit(limit: &pb::Ulimit) -> Rlimit {
    Rlimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard }
}

/// How long a client's ssh agent may take to say that it is there.
const AGENT_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_cleaned() {
        for (path, clean) in [("", "/"), ("a/./b/", "/a/b"), ("/../x", "/x"), ("a/..", "/")] {
            assert_eq!(join_root(path), clean);
        }
    }

    #[test]
    fn proxies_are_spelled_both_ways() {
        let proxy = pb::ProxyEnv { no_proxy: "a".into(), http_proxy: "b".into(), ..Default::default() };
        assert_eq!(proxies(&proxy), ["HTTP_PROXY=b", "http_proxy=b", "NO_PROXY=a", "no_proxy=a"]);
    }
}
