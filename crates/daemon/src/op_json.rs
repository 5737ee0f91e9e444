//! Ops as JSON, with the names of fields that readers of provenance know: empty values are left out, enums are numbers.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kiln_proto::pb;
use serde_json::{Map, Value, json};

/// An op without its inputs and outputs' places in a graph.
pub(crate) fn op(op: &pb::Op) -> Value {
    use pb::op::Op;
    let kind = match &op.op {
        Some(Op::Exec(op)) => json!({"exec": exec(op)}),
        Some(Op::Source(op)) => {
            let source = Object::new().text("identifier", &op.identifier).map("attrs", &op.attrs);
            json!({"source": source.0})
        }
        Some(Op::File(op)) => {
            json!({"file": Object::new().all("actions", op.actions.iter().map(file_action)).0})
        }
        Some(Op::Build(op)) => json!({"build": build(op)}),
        Some(Op::Merge(op)) => {
            let inputs = op.inputs.iter().map(|input| self::input(input.input));
            json!({"merge": Object::new().all("inputs", inputs).0})
        }
        Some(Op::Diff(op)) => {
            let lower = op.lower.map(|lower| input(lower.input));
            let upper = op.upper.map(|upper| input(upper.input));
            json!({"diff": Object::new().some("lower", lower).some("upper", upper).0})
        }
        Some(Op::Passthrough(op)) => {
            let outputs = op.outputs.iter().map(|&output| output.into());
            json!({"passthrough": Object::new().text("id", &op.id).all("outputs", outputs).0})
        }
        None => json!({}),
    };
    let constraints = op.constraints.as_ref().map(|c| Object::new().texts("filter", &c.filter).value());
    let json = Object::new().some("platform", op.platform.as_ref().map(platform));
    json.some("Op", Some(kind)).some("constraints", constraints).value()
}

/// An object that is being filled; what is empty is not written.
struct Object(Map<String, Value>);

impl Object {
    fn new() -> Self {
        Self(Map::new())
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }

    fn some(mut self, name: &str, value: Option<Value>) -> Self {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    fn text(self, name: &str, value: &str) -> Self {
        self.some(name, (!value.is_empty()).then(|| value.into()))
    }

    fn number(self, name: &str, value: impl Into<i64>) -> Self {
        let value = value.into();
        self.some(name, (value != 0).then(|| value.into()))
    }

    fn flag(self, name: &str, value: bool) -> Self {
        self.some(name, value.then(|| true.into()))
    }

    fn all(self, name: &str, values: impl Iterator<Item = Value>) -> Self {
        let values: Vec<_> = values.collect();
        self.some(name, (!values.is_empty()).then(|| values.into()))
    }

    fn texts(self, name: &str, values: &[String]) -> Self {
        self.all(name, values.iter().map(|value| value.as_str().into()))
    }

    fn map(self, name: &str, values: &BTreeMap<String, String>) -> Self {
        let object = || values.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        self.some(name, (!values.is_empty()).then(|| Value::Object(object())))
    }
}

fn input(input: i64) -> Value {
    Object::new().number("input", input).value()
}

fn platform(platform: &pb::Platform) -> Value {
    Object::new()
        .text("Architecture", &platform.architecture)
        .text("OS", &platform.os)
        .text("Variant", &platform.variant)
        .text("OSVersion", &platform.os_version)
        .texts("OSFeatures", &platform.os_features)
        .value()
}

fn exec(op: &pb::ExecOp) -> Value {
    let secret = |secret: &pb::SecretEnv| {
        let json = Object::new().text("ID", &secret.id).text("name", &secret.name);
        json.flag("optional", secret.optional).value()
    };
    let device = |device: &pb::CdiDevice| {
        Object::new().text("name", &device.name).flag("optional", device.optional).value()
    };
    Object::new()
        .some("meta", op.meta.as_ref().map(meta))
        .all("mounts", op.mounts.iter().map(mount))
        .number("network", op.network)
        .number("security", op.security)
        .all("secretenv", op.secretenv.iter().map(secret))
        .all("cdiDevices", op.cdi_devices.iter().map(device))
        .value()
}

fn meta(meta: &pb::Meta) -> Value {
    let proxy = |proxy: &pb::ProxyEnv| {
        Object::new()
            .text("http_proxy", &proxy.http_proxy)
            .text("https_proxy", &proxy.https_proxy)
            .text("ftp_proxy", &proxy.ftp_proxy)
            .text("no_proxy", &proxy.no_proxy)
            .text("all_proxy", &proxy.all_proxy)
            .value()
    };
    let host = |host: &pb::HostIp| Object::new().text("Host", &host.host).text("IP", &host.ip).value();
    let limit = |limit: &pb::Ulimit| {
        let json = Object::new().text("Name", &limit.name);
        json.number("Soft", limit.soft).number("Hard", limit.hard).value()
    };
    Object::new()
        .texts("args", &meta.args)
        .texts("env", &meta.env)
        .text("cwd", &meta.cwd)
        .text("user", &meta.user)
        .some("proxy_env", meta.proxy_env.as_ref().map(proxy))
        .all("extraHosts", meta.extra_hosts.iter().map(host))
        .text("hostname", &meta.hostname)
        .all("ulimit", meta.ulimit.iter().map(limit))
        .text("cgroupParent", &meta.cgroup_parent)
        .flag("removeMountStubsRecursive", meta.remove_mount_stubs_recursive)
        .all("validExitCodes", meta.valid_exit_codes.iter().map(|&code| code.into()))
        .value()
}

fn mount(mount: &pb::Mount) -> Value {
    let cache =
        |cache: &pb::CacheOpt| Object::new().text("ID", &cache.id).number("sharing", cache.sharing).value();
    let owned = |id: &str, [uid, gid, mode]: [u32; 3], optional: bool| {
        let json = Object::new().text("ID", id).number("uid", uid).number("gid", gid);
        json.number("mode", mode).flag("optional", optional).value()
    };
    let secret = mount.secret_opt.as_ref().map(|s| owned(&s.id, [s.uid, s.gid, s.mode], s.optional));
    let ssh = mount.ssh_opt.as_ref().map(|s| owned(&s.id, [s.uid, s.gid, s.mode], s.optional));
    let tmpfs = mount.tmpfs_opt.as_ref().map(|tmpfs| Object::new().number("size", tmpfs.size).value());
    Object::new()
        .number("input", mount.input)
        .text("selector", &mount.selector)
        .text("dest", &mount.dest)
        .number("output", mount.output)
        .flag("readonly", mount.readonly)
        .number("mountType", mount.mount_type)
        .some("TmpfsOpt", tmpfs)
        .some("cacheOpt", mount.cache_opt.as_ref().map(cache))
        .some("secretOpt", secret)
        .some("SSHOpt", ssh)
        .text("resultID", &mount.result_id)
        .number("contentCache", mount.content_cache)
        .value()
}

/// A build within a build; its definition is told by its digests only.
fn build(op: &pb::BuildOp) -> Value {
    let inputs: Map<_, _> = op.inputs.iter().map(|(name, from)| (name.clone(), input(from.input))).collect();
    Object::new()
        .number("builder", op.builder)
        .some("inputs", (!inputs.is_empty()).then_some(Value::Object(inputs)))
        .map("attrs", &op.attrs)
        .value()
}

fn file_action(action: &pb::FileAction) -> Value {
    use pb::file_action::Action;
    let kind = match &action.action {
        Some(Action::Copy(copy)) => json!({"copy": self::copy(copy)}),
        Some(Action::Mkfile(file)) => json!({"mkfile": make_file(file)}),
        Some(Action::Mkdir(dir)) => {
            let json = Object::new().text("path", &dir.path).number("mode", dir.mode);
            let json = json.flag("makeParents", dir.make_parents).some("owner", owner(dir.owner.as_ref()));
            json!({"mkdir": json.number("timestamp", dir.timestamp).0})
        }
        Some(Action::Rm(rm)) => {
            let json = Object::new().text("path", &rm.path).flag("allowNotFound", rm.allow_not_found);
            json!({"rm": json.flag("allowWildcard", rm.allow_wildcard).0})
        }
        Some(Action::Symlink(link)) => {
            let json = Object::new().text("oldpath", &link.oldpath).text("newpath", &link.newpath);
            let json = json.some("owner", owner(link.owner.as_ref()));
            json!({"symlink": json.number("timestamp", link.timestamp).0})
        }
        None => json!({}),
    };
    json!({
        "input": action.input,
        "secondaryInput": action.secondary_input,
        "output": action.output,
        "Action": kind,
    })
}

fn copy(copy: &pb::FileActionCopy) -> Map<String, Value> {
    let json = Object::new()
        .text("src", &copy.src)
        .text("dest", &copy.dest)
        .some("owner", owner(copy.owner.as_ref()))
        .number("mode", copy.mode)
        .flag("followSymlink", copy.follow_symlink)
        .flag("dirCopyContents", copy.dir_copy_contents)
        .flag("attemptUnpackDockerCompatibility", copy.attempt_unpack_docker_compatibility)
        .flag("createDestPath", copy.create_dest_path)
        .flag("allowWildcard", copy.allow_wildcard)
        .flag("allowEmptyWildcard", copy.allow_empty_wildcard)
        .number("timestamp", copy.timestamp)
        .texts("include_patterns", &copy.include_patterns)
        .texts("exclude_patterns", &copy.exclude_patterns)
        .flag("alwaysReplaceExistingDestPaths", copy.always_replace_existing_dest_paths)
        .text("modeStr", &copy.mode_str)
        .texts("required_paths", &copy.required_paths);
    json.0
}

fn make_file(file: &pb::FileActionMkFile) -> Map<String, Value> {
    let data = BASE64_STANDARD.encode(&file.data);
    let json = Object::new().text("path", &file.path).number("mode", file.mode).text("data", &data);
    json.some("owner", owner(file.owner.as_ref())).number("timestamp", file.timestamp).0
}

fn owner(owner: Option<&pb::ChownOpt>) -> Option<Value> {
    let owner = owner?;
    let user = owner.user.as_ref().map(user);
    Some(Object::new().some("user", user).some("group", owner.group.as_ref().map(self::user)).value())
}

fn user(user: &pb::UserOpt) -> Value {
    let json = match &user.user {
        Some(pb::user_opt::User::ByName(named)) => {
            let named = Object::new().text("name", &named.name).number("input", named.input);
            Object::new().some("byName", Some(named.value()))
        }
        Some(pb::user_opt::User::ById(id)) => Object::new().number("byId", *id),
        None => Object::new(),
    };
    json!({"User": json.0})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_values_are_left_out() {
        let source = pb::SourceOp { identifier: "local://context".into(), ..Default::default() };
        let platform = pb::Platform { os: "linux".into(), ..Default::default() };
        let op =
            pb::Op { op: Some(pb::op::Op::Source(source)), platform: Some(platform), ..Default::default() };
        let expected =
            json!({"Op": {"source": {"identifier": "local://context"}}, "platform": {"OS": "linux"}});
        assert_eq!(super::op(&op), expected);
    }

    #[test]
    fn a_run_names_its_secrets_and_a_file_its_owner() {
        let secret = pb::Mount {
            dest: "/run/secrets/x".into(),
            mount_type: pb::MountType::Secret.into(),
            secret_opt: Some(pb::SecretOpt { id: "x".into(), mode: 0o400, ..Default::default() }),
            ..Default::default()
        };
        let exec = pb::ExecOp { mounts: vec![secret], ..Default::default() };
        let op = pb::Op { op: Some(pb::op::Op::Exec(exec)), ..Default::default() };
        let expected = json!({
            "dest": "/run/secrets/x", "mountType": 1, "secretOpt": {"ID": "x", "mode": 256},
        });
        assert_eq!(super::op(&op)["Op"]["exec"]["mounts"][0], expected);
        let user = pb::UserOpt { user: Some(pb::user_opt::User::ById(7)) };
        let owner = Some(pb::ChownOpt { user: Some(user), group: None });
        let file = pb::FileActionMkFile { data: b"hi".to_vec().into(), owner, ..Default::default() };
        let action =
            pb::FileAction { action: Some(pb::file_action::Action::Mkfile(file)), ..Default::default() };
        let expected = json!({"mkfile": {"data": "aGk=", "owner": {"user": {"User": {"byId": 7}}}}});
        assert_eq!(file_action(&action)["Action"], expected);
    }
}
