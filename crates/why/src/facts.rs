//! What an op is made of, as far as it is in its key: each part with a name and a text.
//!
//! What BuildKit's keys leave out is left out here too (see `canonical` in the ops): proxies, the addresses of extra hosts, the
//! identity of cache mounts except where a Dockerfile gives it by default.

use kiln_proto::pb;

use crate::{Kind, file_facts};

/// One part of an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is.
    pub kind: Kind,
    /// Which of its kind; empty where there is one.
    pub name: String,
    /// What it says.
    pub value: String,
}

impl Fact {
    pub(crate) fn new(kind: Kind, name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind, name: name.into(), value: value.into() }
    }
}

/// The parts of an op. `pin` is what a source turned out to be; empty where that is not known.
#[must_use]
pub fn facts(op: &pb::Op, pin: &str) -> Vec<Fact> {
    use pb::op::Op;
    let mut all = match &op.op {
        Some(Op::Exec(exec)) => exec_facts(exec),
        Some(Op::File(file)) => file_facts::facts(file),
        // It may be any platform's, as the image says.
        Some(Op::Source(source)) => return source_facts(source, pin),
        Some(Op::Merge(merge)) => {
            let inputs: Vec<_> = merge.inputs.iter().map(|i| i.input.to_string()).collect();
            vec![Fact::new(Kind::Definition, "merge", inputs.join(","))]
        }
        Some(Op::Diff(diff)) => {
            let (lower, upper) = (diff.lower.map(|l| l.input), diff.upper.map(|u| u.input));
            vec![Fact::new(Kind::Definition, "diff", format!("{lower:?} {upper:?}"))]
        }
        Some(Op::Build(build)) => {
            let mut all = vec![Fact::new(Kind::Definition, "build", build.builder.to_string())];
            all.extend(build.attrs.iter().map(|(k, v)| Fact::new(Kind::Definition, k, v)));
            all
        }
        Some(Op::Passthrough(op)) => {
            vec![Fact::new(Kind::Definition, &op.id, format!("{:?}", op.outputs))]
        }
        None => Vec::new(),
    };
    if let (Some(Op::Exec(_)), Some(platform)) = (&op.op, &op.platform) {
        let parts = [&platform.os, &platform.architecture, &platform.variant, &platform.os_version];
        let parts: Vec<&str> = parts.into_iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
        all.push(Fact::new(Kind::Platform, "", parts.join("/")));
    }
    all
}

fn exec_facts(exec: &pb::ExecOp) -> Vec<Fact> {
    let mut all = exec.meta.as_ref().map(meta_facts).unwrap_or_default();
    match exec.network() {
        pb::NetMode::Unset => {}
        mode => all.push(Fact::new(Kind::Network, "", mode.as_str_name().to_lowercase())),
    }
    match exec.security() {
        pb::SecurityMode::Sandbox => {}
        mode => all.push(Fact::new(Kind::Security, "", mode.as_str_name().to_lowercase())),
    }
    // The root of a plain RUN says nothing.
    let plain = |m: &&pb::Mount| {
        m.dest == kiln_llb::ROOT_MOUNT && m.mount_type() == pb::MountType::Bind && !m.readonly
    };
    for mount in exec.mounts.iter().filter(|m| !plain(m)) {
        all.push(Fact::new(Kind::Mount, &mount.dest, mount_text(mount)));
    }
    for secret in &exec.secretenv {
        all.push(Fact::new(Kind::SecretEnv, &secret.name, with_optional(secret.id.clone(), secret.optional)));
    }
    for device in &exec.cdi_devices {
        all.push(Fact::new(
            Kind::Device,
            &device.name,
            if device.optional { "optional" } else { "required" },
        ));
    }
    all
}

fn with_optional(text: String, optional: bool) -> String {
    if optional { text + ",optional" } else { text }
}

fn meta_facts(meta: &pb::Meta) -> Vec<Fact> {
    let mut all = vec![Fact::new(Kind::Command, "", command(&meta.args))];
    for variable in &meta.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        all.push(Fact::new(Kind::Env, name, value));
    }
    let mut text = |kind, value: &str| {
        if !value.is_empty() {
            all.push(Fact::new(kind, "", value));
        }
    };
    text(Kind::Workdir, &meta.cwd);
    text(Kind::User, &meta.user);
    text(Kind::Hostname, &meta.hostname);
    text(Kind::CgroupParent, &meta.cgroup_parent);
    for host in &meta.extra_hosts {
        all.push(Fact::new(Kind::ExtraHost, &host.host, ""));
    }
    for limit in &meta.ulimit {
        all.push(Fact::new(Kind::Ulimit, &limit.name, format!("{}:{}", limit.soft, limit.hard)));
    }
    if !meta.valid_exit_codes.is_empty() {
        all.push(Fact::new(Kind::Option, "exit codes", format!("{:?}", meta.valid_exit_codes)));
    }
    if meta.remove_mount_stubs_recursive {
        all.push(Fact::new(Kind::Option, "mount stubs", "removed with their parents"));
    }
    all
}

/// As it was written: without the shell that a Dockerfile puts around it.
fn command(args: &[String]) -> String {
    match args {
        [shell, flag, line] if shell == "/bin/sh" && flag == "-c" => line.clone(),
        args => args.join(" "),
    }
}

/// A mount as options, in a Dockerfile's words.
fn mount_text(mount: &pb::Mount) -> String {
    let mut parts = vec![format!("type={}", mount.mount_type().as_str_name().to_lowercase())];
    let mut part = |name: &str, value: &str| {
        if !value.is_empty() {
            parts.push(format!("{name}={value}"));
        }
    };
    part("source", &mount.selector);
    if let Some(cache) = mount.cache_opt.as_ref().filter(|_| kiln_llb::cache_mount_counts(mount)) {
        part("id", &cache.id);
    }
    let credential = mount.secret_opt.as_ref().map(|s| (&s.id, s.uid, s.gid, s.mode, s.optional));
    let credential =
        credential.or_else(|| mount.ssh_opt.as_ref().map(|s| (&s.id, s.uid, s.gid, s.mode, s.optional)));
    if let Some((id, uid, gid, mode, optional)) = credential {
        part("id", id);
        part("uid", &uid.to_string());
        part("gid", &gid.to_string());
        part("mode", &format!("{mode:04o}"));
        part("required", if optional { "" } else { "true" });
    }
    if let Some(tmpfs) = mount.tmpfs_opt.as_ref().filter(|t| t.size != 0) {
        part("size", &tmpfs.size.to_string());
    }
    part("result", &mount.result_id);
    part("readonly", if mount.readonly { "true" } else { "" });
    match mount.content_cache() {
        pb::MountContentCache::Default => {}
        mode => part("content-cache", &mode.as_str_name().to_lowercase()),
    }
    parts.join(",")
}

/// A source: its address, and the digest, commit or checksum that it stood for.
fn source_facts(source: &pb::SourceOp, pin: &str) -> Vec<Fact> {
    let (scheme, rest) = source.identifier.split_once("://").unwrap_or(("", &source.identifier));
    match scheme {
        "docker-image" | "oci-layout" => {
            let (name, digest) = rest.split_once('@').unwrap_or((rest, ""));
            let digest = if digest.is_empty() { pin } else { digest };
            vec![Fact::new(Kind::Image, name, digest)]
        }
        "git" => vec![Fact::new(Kind::Git, rest, pin)],
        "http" | "https" => {
            let mut all = vec![Fact::new(Kind::Http, &source.identifier, pin)];
            // Where the file is put, and how, is part of what it is.
            let named = source.attrs.iter().filter(|(name, _)| name.starts_with("http."));
            all.extend(named.map(|(name, value)| Fact::new(Kind::Source, name, value)));
            all
        }
        // What of a folder a client sends is no part of any key: its files are.
        "local" => vec![Fact::new(Kind::Source, "local", rest)],
        _ => vec![Fact::new(Kind::Source, &source.identifier, pin)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_exec(exec: pb::ExecOp) -> Vec<Fact> {
        facts(&pb::Op { op: Some(pb::op::Op::Exec(exec)), ..pb::Op::default() }, "")
    }

    #[test]
    fn a_run_is_its_command_environment_and_place() {
        let meta = pb::Meta {
            args: ["/bin/sh", "-c", "make"].map(str::to_owned).to_vec(),
            env: vec!["A=1=2".into()],
            cwd: "/src".into(),
            user: "me".into(),
            proxy_env: Some(pb::ProxyEnv { http_proxy: "x".into(), ..pb::ProxyEnv::default() }),
            extra_hosts: vec![pb::HostIp { host: "h".into(), ip: "1.2.3.4".into() }],
            ..pb::Meta::default()
        };
        let root = pb::Mount { dest: "/".into(), ..pb::Mount::default() };
        let all = of_exec(pb::ExecOp { meta: Some(meta), mounts: vec![root], ..pb::ExecOp::default() });
        let shown: Vec<_> = all.iter().map(|f| (f.kind, f.name.as_str(), f.value.as_str())).collect();
        assert_eq!(
            shown,
            [
                (Kind::Command, "", "make"),
                (Kind::Env, "A", "1=2"),
                (Kind::Workdir, "", "/src"),
                (Kind::User, "", "me"),
                (Kind::ExtraHost, "h", ""),
            ],
            "proxies and addresses are in no key"
        );
    }

    #[test]
    fn mounts_are_told_in_a_dockerfiles_words() {
        let cache = |id: &str, sharing| {
            let cache_opt = Some(pb::CacheOpt { id: id.into(), sharing });
            let mount_type = pb::MountType::Cache.into();
            mount_text(&pb::Mount { dest: "/c".into(), mount_type, cache_opt, ..pb::Mount::default() })
        };
        assert_eq!(cache("/c", 0), "type=cache,id=/c");
        assert_eq!(cache("mine", 0), "type=cache", "a name of its own is in no key");
        assert_eq!(cache("/c", 2), "type=cache");
        let secret = pb::SecretOpt { id: "s".into(), mode: 0o400, ..pb::SecretOpt::default() };
        let mount = pb::Mount {
            mount_type: pb::MountType::Secret.into(),
            secret_opt: Some(secret),
            ..pb::Mount::default()
        };
        assert_eq!(mount_text(&mount), "type=secret,id=s,uid=0,gid=0,mode=0400,required=true");
    }

    #[test]
    fn sources_are_an_address_and_what_it_stood_for() {
        let fact = |identifier: &str, pin: &str| {
            let source = pb::SourceOp { identifier: identifier.into(), ..pb::SourceOp::default() };
            let fact = source_facts(&source, pin).remove(0);
            (fact.kind, fact.name, fact.value)
        };
        let image = |name: &str, digest: &str| (Kind::Image, name.to_owned(), digest.to_owned());
        assert_eq!(fact("docker-image://a/b:1@sha256:1", "sha256:2"), image("a/b:1", "sha256:1"));
        assert_eq!(fact("docker-image://a/b:1", "sha256:2"), image("a/b:1", "sha256:2"));
        assert_eq!(fact("git://x/y.git#main", "c0ffee").0, Kind::Git);
        assert_eq!(fact("https://x/y", "sha256:1").1, "https://x/y");
    }
}
