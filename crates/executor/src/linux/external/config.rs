//! `config.json` of a bundle: the parts of the OCI runtime specification (1.0.2) that steps need.

use std::collections::BTreeMap;

use rustix::fs::FileType;
use serde::Serialize;

use super::super::device;
use super::super::seccomp::{self, SyscallRules};
use crate::defaults::{
    CAPABILITY_BITS, CAPABILITY_NAMES, INSECURE_DEVICES, LOOPS, MASKED_PATHS, READONLY_PATHS,
};
use crate::{Network, ProcessSpec, ResolvedUser, Resources, Rlimit, RunSpec, Security};

/// The whole file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::linux) struct Config {
    oci_version: &'static str,
    process: Process,
    root: Root,
    hostname: String,
    mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    hooks: BTreeMap<&'static str, Vec<Hook>>,
    linux: Linux,
}

#[derive(Debug, Serialize)]
struct Hook {
    path: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u32>,
}

/// A process; also what `exec --process` reads.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::linux) struct Process {
    terminal: bool,
    user: User,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    capabilities: Capabilities,
    rlimits: Vec<PosixRlimit>,
    no_new_privileges: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_score_adj: Option<i32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct User {
    uid: u32,
    gid: u32,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Capabilities {
    bounding: Vec<&'static str>,
    effective: Vec<&'static str>,
    permitted: Vec<&'static str>,
    inheritable: Vec<&'static str>,
    ambient: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct PosixRlimit {
    #[serde(rename = "type")]
    kind: String,
    hard: u64,
    soft: u64,
}

#[derive(Debug, Serialize)]
struct Root {
    path: String,
    readonly: bool,
}

/// A mount.
#[derive(Debug, Serialize)]
pub(in crate::linux) struct Mount {
    pub(in crate::linux) destination: String,
    #[serde(rename = "type")]
    pub(in crate::linux) kind: &'static str,
    pub(in crate::linux) source: String,
    pub(in crate::linux) options: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<Namespace>,
    cgroups_path: String,
    resources: LinuxResources,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    devices: Vec<Device>,
    masked_paths: Vec<&'static str>,
    readonly_paths: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<Seccomp>,
}

#[derive(Debug, Serialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Debug, Serialize)]
struct LinuxResources {
    devices: Vec<DeviceRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
}

#[derive(Debug, Serialize)]
struct DeviceRule {
    allow: bool,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minor: Option<u32>,
    access: String,
}

#[derive(Debug, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    cpus: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mems: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    major: u32,
    minor: u32,
    file_mode: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    default_action: &'static str,
    default_errno_ret: u32,
    architectures: Vec<&'static str>,
    syscalls: Vec<SyscallRules>,
}

/// What does not come from the spec.
pub(in crate::linux) struct Place<'a> {
    pub(in crate::linux) root: String,
    pub(in crate::linux) cgroups_path: String,
    pub(in crate::linux) mounts: Vec<Mount>,
    pub(in crate::linux) user: &'a ResolvedUser,
    pub(in crate::linux) home: Option<&'a str>,
    pub(in crate::linux) oom_score_adj: Option<i32>,
    /// The first free loop device.
    pub(in crate::linux) loops: Option<u32>,
    /// Capabilities of the daemon.
    pub(in crate::linux) own_capabilities: u64,
    /// Devices beyond those that every container has.
    pub(in crate::linux) devices: &'a [device::Device],
}

/// The configuration of a container.
pub(in crate::linux) fn config(spec: &RunSpec, place: Place<'_>) -> Config {
    let sandbox = spec.security == Security::Sandbox;
    let mut mounts = default_mounts(sandbox);
    for mount in place.mounts {
        match mounts.iter_mut().find(|other| other.destination == mount.destination) {
            Some(other) => *other = mount,
            None => mounts.push(mount),
        }
    }
    let mut namespaces: Vec<Namespace> =
        ["pid", "ipc", "uts", "mount"].into_iter().map(|kind| Namespace { kind }).collect();
    if !matches!(spec.network, Network::Host) {
        namespaces.push(Namespace { kind: "network" });
    }
    let process =
        process(&spec.process, spec, place.user, place.home, place.oom_score_adj, place.own_capabilities);
    Config {
        oci_version: "1.0.2",
        process,
        root: Root { path: place.root, readonly: spec.root.readonly },
        hostname: spec.hostname.clone().unwrap_or_else(|| crate::DEFAULT_HOSTNAME.to_owned()),
        mounts,
        hooks: hooks(&spec.hooks),
        linux: Linux {
            namespaces,
            cgroups_path: place.cgroups_path,
            resources: resources(&spec.resources, sandbox, place.devices),
            devices: devices(sandbox, place.loops, place.devices),
            masked_paths: if sandbox { MASKED_PATHS.to_vec() } else { Vec::new() },
            readonly_paths: if sandbox { READONLY_PATHS.to_vec() } else { Vec::new() },
            seccomp: sandbox.then(seccomp_profile),
        },
    }
}

/// A process of a container that `first` describes.
pub(in crate::linux) fn process(
    spec: &ProcessSpec,
    first: &RunSpec,
    user: &ResolvedUser,
    home: Option<&str>,
    oom_score_adj: Option<i32>,
    own_capabilities: u64,
) -> Process {
    let sandbox = first.security == Security::Sandbox;
    let bits = if sandbox { CAPABILITY_BITS & own_capabilities } else { own_capabilities };
    let names: Vec<&'static str> = CAPABILITY_NAMES
        .iter()
        .enumerate()
        .filter(|(n, _)| bits >> n & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    let inherited = if sandbox { Vec::new() } else { names.clone() };
    let mut env = spec.env.clone();
    if let Some(home) = home.filter(|_| !env.iter().any(|v| v.starts_with("HOME=") && v != "HOME=")) {
        env.retain(|variable| variable != "HOME=");
        env.push(format!("HOME={home}"));
    }
    Process {
        terminal: spec.tty,
        user: User { uid: user.uid, gid: user.gid, additional_gids: user.groups.clone() },
        args: spec.args.clone(),
        env,
        cwd: absolute(&spec.cwd),
        capabilities: Capabilities {
            bounding: names.clone(),
            effective: names.clone(),
            permitted: names,
            inheritable: inherited.clone(),
            ambient: inherited,
        },
        rlimits: first.rlimits.iter().map(rlimit).collect(),
        no_new_privileges: false,
        oom_score_adj,
    }
}

/// A path as the specification wants it.
pub(in crate::linux) fn absolute(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn rlimit(limit: &Rlimit) -> PosixRlimit {
    // -1 is the kernel's word for "no limit".
    PosixRlimit {
        kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
        hard: limit.hard as u64,
        soft: limit.soft as u64,
    }
}

fn default_mounts(sandbox: bool) -> Vec<Mount> {
    let mount = |destination: &str, kind, source: &str, options: &[&str]| Mount {
        destination: destination.to_owned(),
        kind,
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let access = if sandbox { "ro" } else { "rw" };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]),
    ]
}

/// Whether a path is below `/dev`, which the runtime makes anew.
pub(in crate::linux) fn is_in_dev(path: &str) -> bool {
    absolute(path).starts_with("/dev/")
}

/// The nodes in `/dev` beyond those that every container has. Those given come instead of any at the same path.
fn devices(sandbox: bool, loops: Option<u32>, given: &[device::Device]) -> Vec<Device> {
    let mut out = if sandbox { Vec::new() } else { insecure_devices(loops) };
    for device in given.iter().filter(|device| is_in_dev(&device.path)) {
        let (path, node) = (absolute(&device.path), &device.node);
        out.retain(|other| other.path != path);
        out.push(Device {
            path,
            kind: device.letter(),
            major: node.major,
            minor: node.minor,
            file_mode: node.mode,
            uid: node.uid,
            gid: node.gid,
        });
    }
    out
}

fn hooks(given: &[kiln_cdi::Hook]) -> BTreeMap<&'static str, Vec<Hook>> {
    let mut out = BTreeMap::<_, Vec<_>>::new();
    for kiln_cdi::Hook { name, path, args, env, timeout } in given.iter().cloned() {
        out.entry(name.name()).or_default().push(Hook { path, args, env, timeout });
    }
    out
}

fn resources(resources: &Resources, sandbox: bool, given: &[device::Device]) -> LinuxResources {
    let rule = |allow, kind| DeviceRule { allow, kind, major: None, minor: None, access: "rwm".to_owned() };
    let mut devices =
        if sandbox { vec![rule(false, None)] } else { ["c", "b"].map(|kind| rule(true, Some(kind))).into() };
    devices.extend(given.iter().filter(|device| device.kind() != FileType::Fifo).map(|device| DeviceRule {
        allow: true,
        kind: Some(device.letter()),
        major: Some(device.node.major),
        minor: Some(device.node.minor),
        access: device.access.letters(),
    }));
    let Resources { memory, memory_swap, cpu_shares, cpu_quota, cpu_period, cpuset_cpus, cpuset_mems } =
        resources;
    let some = |value: i64| (value != 0).then_some(value);
    let limits_memory = *memory != 0 || *memory_swap != 0;
    let limits_cpu = *cpu_shares != 0
        || *cpu_quota != 0
        || *cpu_period != 0
        || !cpuset_cpus.is_empty()
        || !cpuset_mems.is_empty();
    LinuxResources {
        devices,
        memory: limits_memory.then(|| Memory { limit: some(*memory), swap: some(*memory_swap) }),
        cpu: limits_cpu.then(|| Cpu {
            shares: (*cpu_shares != 0).then_some(*cpu_shares),
            quota: some(*cpu_quota),
            period: (*cpu_period != 0).then_some(*cpu_period),
            cpus: cpuset_cpus.clone(),
            mems: cpuset_mems.clone(),
        }),
    }
}

fn insecure_devices(loops: Option<u32>) -> Vec<Device> {
    let device = |path: String, kind, major, minor| {
        let (file_mode, uid, gid) = (0o666, None, None);
        Device { path, kind, major, minor, file_mode, uid, gid }
    };
    let named = INSECURE_DEVICES
        .iter()
        .map(|(name, major, minor)| device(format!("/dev/{name}"), "c", *major, *minor));
    let loops = (0..=loops.unwrap_or(0) + LOOPS.1).map(|n| device(format!("/dev/loop{n}"), "b", LOOPS.0, n));
    named.chain(loops).collect()
}

fn seccomp_profile() -> Seccomp {
    let architectures = match std::env::consts::ARCH {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => Vec::new(),
    };
    Seccomp {
        default_action: "SCMP_ACT_ERRNO",
        default_errno_ret: 1,
        architectures,
        syscalls: seccomp::rules(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_clean() {
        assert_eq!(absolute(""), "/");
        assert_eq!(absolute("a/./b//c/.."), "/a/b");
        assert_eq!(absolute("../../x"), "/x");
    }

    #[test]
    fn given_devices_are_nodes_and_rules() {
        let node = |path: &str, permissions: &str, uid| kiln_cdi::DeviceNode {
            path: path.to_owned(),
            host_path: "/dev/null".to_owned(),
            kind: None,
            major: 0,
            minor: 0,
            mode: Some(0o600),
            permissions: permissions.to_owned(),
            uid,
            gid: None,
        };
        let nodes =
            [node("dev/x/../y", "r", Some(5)), node("/dev/fuse", "", None), node("/opt/../opt/z", "", None)];
        let given = device::resolve(&nodes).unwrap();
        let nodes = serde_json::to_value(devices(false, None, &given)).unwrap();
        let at = |path: &str| {
            nodes.as_array().unwrap().iter().filter(|n| n["path"] == path).cloned().collect::<Vec<_>>()
        };
        let same =
            serde_json::json!({"path": "/dev/fuse", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600});
        assert_eq!(at("/dev/fuse"), std::slice::from_ref(&same));
        let [mut owned] = at("/dev/y").try_into().unwrap();
        assert_eq!(owned["uid"].take(), 5);
        assert!(at("/opt/z").is_empty());
        let rules = serde_json::to_value(resources(&Resources::default(), true, &given)).unwrap();
        assert_eq!(
            rules["devices"][1],
            serde_json::json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"})
        );
        assert_eq!(rules["devices"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn hooks_are_grouped_by_their_moment() {
        let hook = |name, path: &str| kiln_cdi::Hook {
            name,
            path: path.to_owned(),
            args: vec!["a".to_owned()],
            env: Vec::new(),
            timeout: Some(3),
        };
        let given = [
            hook(kiln_cdi::HookName::CreateContainer, "/1"),
            hook(kiln_cdi::HookName::Poststop, "/2"),
            hook(kiln_cdi::HookName::CreateContainer, "/3"),
        ];
        let json = serde_json::to_string(&hooks(&given)).unwrap();
        let one = |path: &str| format!(r#"{{"path":"{path}","args":["a"],"timeout":3}}"#);
        assert_eq!(
            json,
            format!(r#"{{"createContainer":[{},{}],"poststop":[{}]}}"#, one("/1"), one("/3"), one("/2"))
        );
    }

    #[test]
    fn the_profile_spells_every_rule() {
        let json = serde_json::to_string(&seccomp_profile()).unwrap();
        for word in ["\"accept4\"", "SCMP_CMP_MASKED_EQ", "2114060288", "SCMP_ACT_ERRNO", "\"errnoRet\":38"] {
            assert!(json.contains(word), "{word}");
        }
    }
}
