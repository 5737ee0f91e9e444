//! The JSON that BuildKit makes of ops for their cache keys, byte for byte.
//!
//! It is what Go's encoder makes of the generated protobuf structs: fields in the order of their declaration under the names of the
//! `.proto` file, zero values left out, bytes in base64, enums as numbers, and for the owner of a file a hand-written object. Ops that
//! are equal for a cache are made equal before they are encoded: what only names a place or a secret is left out.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kiln_oci::{Digest, Platform, gojson};
use kiln_proto::pb;
use serde_json::{Map, Value};

type Result = std::result::Result<Digest, serde_json::Error>;

/// An object in the making, with Go's `omitempty`.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn text(mut self, name: &str, text: &str) -> Self {
        if !text.is_empty() {
            self.0.insert(name.to_owned(), text.into());
        }
        self
    }

    fn number(mut self, name: &str, number: impl Into<i64>) -> Self {
        let number: i64 = number.into();
        if number != 0 {
            self.0.insert(name.to_owned(), number.into());
        }
        self
    }

    fn flag(mut self, name: &str, flag: bool) -> Self {
        if flag {
            self.0.insert(name.to_owned(), true.into());
        }
        self
    }

    fn texts(self, name: &str, texts: &[String]) -> Self {
        self.list(name, texts.iter().map(|text| Value::from(text.as_str())).collect())
    }

    fn list(mut self, name: &str, values: Vec<Value>) -> Self {
        if !values.is_empty() {
            self.0.insert(name.to_owned(), values.into());
        }
        self
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        self.text(name, &BASE64.encode(bytes))
    }

    fn object(mut self, name: &str, object: Option<Self>) -> Self {
        if let Some(Self(object)) = object {
            self.0.insert(name.to_owned(), Value::Object(object));
        }
        self
    }

    /// As [`Object::object`] and friends, but never left out.
    fn always(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }

    fn digest(self) -> Result {
        Ok(Digest::sha256(gojson::to_vec(&self.value())?))
    }
}

/// The digest of an exec op's cache map.
///
/// # Errors
/// None in practice; the encoder's.
pub fn exec(op: &pb::ExecOp, platform: &Platform) -> Result {
    let mounts: Vec<pb::Mount> = op.mounts.iter().map(without_places).collect();
    // Builders of old left the mounts out altogether; for a plain RUN it has stayed that way.
    let mounts = if is_plain_root(&mounts) { Vec::new() } else { mounts };
    let exec = Object::default()
        .object("meta", op.meta.as_ref().map(meta))
        .list("mounts", mounts.iter().map(|m| mount(m).value()).collect())
        .number("network", op.network)
        .number("security", op.security)
        .list("secretenv", op.secretenv.iter().map(|s| secret_env(s).value()).collect())
        .list("cdiDevices", op.cdi_devices.iter().map(|d| cdi_device(d).value()).collect());
    Object::default()
        .always("Type", "buildkit.exec.v0")
        .always("Exec", exec.value())
        .always("OS", platform.os.as_str())
        .always("Arch", platform.architecture.as_str())
        .text("Variant", &platform.variant)
        .text("OSVersion", &platform.os_version)
        .texts("OSFeatures", &platform.os_features)
        .digest()
}

/// Selectors take part in the key as such; the identity of a cache mount counts only where a Dockerfile gives it by default.
fn without_places(mount: &pb::Mount) -> pb::Mount {
    let mut mount = mount.clone();
    mount.selector.clear();
    let counts = kiln_llb::cache_mount_counts(&mount);
    if let Some(cache) = mount.cache_opt.as_mut().filter(|_| !counts) {
        cache.id.clear();
        cache.sharing = 0;
    }
    mount
}

fn is_plain_root(mounts: &[pb::Mount]) -> bool {
    let [mount] = mounts else { return false };
    mount.dest == kiln_llb::ROOT_MOUNT
        && !mount.readonly
        && mount.mount_type == pb::MountType::Bind as i32
        && mount.cache_opt.is_none()
        && mount.ssh_opt.is_none()
        && mount.secret_opt.is_none()
        && mount.result_id.is_empty()
}

/// Proxies and the addresses of hosts are left out: they say how, not what.
fn meta(meta: &pb::Meta) -> Object {
    let hosts = meta.extra_hosts.iter().map(|h| Object::default().text("Host", &h.host).value());
    let limits = meta.ulimit.iter().map(|u| {
        Object::default().text("Name", &u.name).number("Soft", u.soft).number("Hard", u.hard).value()
    });
    Object::default()
        .texts("args", &meta.args)
        .texts("env", &meta.env)
        .text("cwd", &meta.cwd)
        .text("user", &meta.user)
        .list("extraHosts", hosts.collect())
        .text("hostname", &meta.hostname)
        .list("ulimit", limits.collect())
        .text("cgroupParent", &meta.cgroup_parent)
        .flag("removeMountStubsRecursive", meta.remove_mount_stubs_recursive)
        .list("validExitCodes", meta.valid_exit_codes.iter().map(|c| Value::from(*c)).collect())
}

fn mount(mount: &pb::Mount) -> Object {
    let tmpfs = mount.tmpfs_opt.as_ref().map(|t| Object::default().number("size", t.size));
    let cache =
        mount.cache_opt.as_ref().map(|c| Object::default().text("ID", &c.id).number("sharing", c.sharing));
    let secret = mount.secret_opt.as_ref().map(|s| credential(&s.id, s.uid, s.gid, s.mode, s.optional));
    let ssh = mount.ssh_opt.as_ref().map(|s| credential(&s.id, s.uid, s.gid, s.mode, s.optional));
    Object::default()
        .number("input", mount.input)
        .text("dest", &mount.dest)
        .number("output", mount.output)
        .flag("readonly", mount.readonly)
        .number("mountType", mount.mount_type)
        .object("TmpfsOpt", tmpfs)
        .object("cacheOpt", cache)
        .object("secretOpt", secret)
        .object("SSHOpt", ssh)
        .text("resultID", &mount.result_id)
        .number("contentCache", mount.content_cache)
}

fn credential(id: &str, uid: u32, gid: u32, mode: u32, optional: bool) -> Object {
    Object::default()
        .text("ID", id)
        .number("uid", uid)
        .number("gid", gid)
        .number("mode", mode)
        .flag("optional", optional)
}

fn secret_env(secret: &pb::SecretEnv) -> Object {
    Object::default().text("ID", &secret.id).text("name", &secret.name).flag("optional", secret.optional)
}

fn cdi_device(device: &pb::CdiDevice) -> Object {
    Object::default().text("name", &device.name).flag("optional", device.optional)
}

/// The digest of a file op's cache map. `inputs` is how many inputs the op has.
///
/// # Errors
/// None in practice; the encoder's.
pub fn file(op: &pb::FileOp, inputs: usize) -> Result {
    let mut actions = Vec::with_capacity(op.actions.len());
    let mut indexes = Vec::with_capacity(op.actions.len());
    for action in &op.actions {
        let encoded = match &action.action {
            Some(pb::file_action::Action::Copy(copy)) => {
                let from_input = usize::try_from(action.secondary_input).is_ok_and(|input| input < inputs);
                Some(file_copy(copy, from_input))
            }
            Some(pb::file_action::Action::Mkfile(m)) => Some(
                Object::default()
                    .text("path", &m.path)
                    .number("mode", m.mode)
                    .bytes("data", &m.data)
                    .object("owner", m.owner.as_ref().map(owner))
                    .number("timestamp", m.timestamp),
            ),
            Some(pb::file_action::Action::Mkdir(m)) => Some(
                Object::default()
                    .text("path", &m.path)
                    .number("mode", m.mode)
                    .flag("makeParents", m.make_parents)
                    .object("owner", m.owner.as_ref().map(owner))
                    .number("timestamp", m.timestamp),
            ),
            Some(pb::file_action::Action::Rm(r)) => Some(
                Object::default()
                    .text("path", &r.path)
                    .flag("allowNotFound", r.allow_not_found)
                    .flag("allowWildcard", r.allow_wildcard),
            ),
            Some(pb::file_action::Action::Symlink(s)) => Some(
                Object::default()
                    .text("oldpath", &s.oldpath)
                    .text("newpath", &s.newpath)
                    .object("owner", s.owner.as_ref().map(owner))
                    .number("timestamp", s.timestamp),
            ),
            None => None,
        };
        // An array of byte strings: each action's JSON in base64 within the outer JSON.
        actions.push(match encoded {
            Some(object) => Value::from(BASE64.encode(gojson::to_vec(&object.value())?)),
            None => Value::Null,
        });
        indexes.push([action.input, action.secondary_input, action.output]);
    }
    let indexes = if is_default(&indexes) { Vec::new() } else { indexes };
    Object::default()
        .always("Type", "buildkit.file.v0")
        .always("Actions", actions)
        .list("indexes", indexes.iter().map(|index| index.to_vec().into()).collect())
        .digest()
}

/// Actions in a row on the first input, from the second or none, into one output: the common case, whose indexes stay out of the
/// key because builders of old had none in it.
fn is_default(indexes: &[[i64; 3]]) -> bool {
    let count = i64::try_from(indexes.len()).unwrap_or_default();
    !indexes.is_empty()
        && indexes.iter().zip(0..).all(|([input, secondary, output], at)| {
            let expected = if at == 0 { 0 } else { count + at - 1 };
            *input == expected
                && matches!(secondary, -1 | 1)
                && *output == if at == count - 1 { 0 } else { -1 }
        })
}

fn file_copy(copy: &pb::FileActionCopy, from_input: bool) -> Object {
    // Where it comes from is the selector's affair; only the name that it will have counts.
    let src = if from_input { base_name(&copy.src) } else { &copy.src };
    Object::default()
        .text("src", src)
        .text("dest", &copy.dest)
        .object("owner", copy.owner.as_ref().map(owner))
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
        .texts("required_paths", &copy.required_paths)
}

/// As Go's `path.Base`: without trailing slashes; `.` for nothing, `/` for slashes alone.
fn base_name(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

fn owner(owner: &pb::ChownOpt) -> Object {
    Object::default()
        .object("user", owner.user.as_ref().map(user))
        .object("group", owner.group.as_ref().map(user))
}

fn user(user: &pb::UserOpt) -> Object {
    let inner = match &user.user {
        Some(pb::user_opt::User::ByName(named)) => Object::default()
            .object("byName", Some(Object::default().text("name", &named.name).number("input", named.input))),
        Some(pb::user_opt::User::ById(id)) => Object::default().number("byId", *id),
        None => Object::default(),
    };
    Object::default().always("User", inner.value())
}

/// The digest of a merge op's cache map.
///
/// # Errors
/// None in practice; the encoder's.
pub fn merge(op: &pb::MergeOp) -> Result {
    let inputs = op.inputs.iter().map(|i| Object::default().number("input", i.input).value()).collect();
    let merge = Object::default().list("inputs", inputs);
    Object::default().always("Type", "buildkit.merge.v0").always("Merge", merge.value()).digest()
}

/// The digest of a diff op's cache map.
///
/// # Errors
/// None in practice; the encoder's.
pub fn diff(op: &pb::DiffOp) -> Result {
    let side = |input: i64| Object::default().number("input", input);
    let diff = Object::default()
        .object("lower", op.lower.map(|l| side(l.input)))
        .object("upper", op.upper.map(|u| side(u.input)));
    Object::default().always("Type", "buildkit.diff.v0").always("Diff", diff.value()).digest()
}

/// The digest of a passthrough op's cache map.
///
/// # Errors
/// None in practice; the encoder's.
pub fn passthrough(op: &pb::PassthroughOp) -> Result {
    let mut own = Object::default().text("id", &op.id);
    if !op.outputs.is_empty() {
        own = own.always("outputs", op.outputs.clone());
    }
    Object::default().always("Type", "buildkit.passthrough.v0").always("Passthrough", own.value()).digest()
}

/// The digest of a build op's cache map.
///
/// # Errors
/// None in practice; the encoder's.
pub fn build(op: &pb::BuildOp) -> Result {
    let inputs: Map<String, Value> = op
        .inputs
        .iter()
        .map(|(name, input)| (name.clone(), Object::default().number("input", input.input).value()))
        .collect();
    let attrs: Map<String, Value> = op.attrs.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    let mut build = Object::default().number("builder", op.builder);
    if !inputs.is_empty() {
        build = build.always("inputs", inputs);
    }
    if !attrs.is_empty() {
        build = build.always("attrs", attrs);
    }
    Object::default().always("Type", "buildkit.build.v0").always("Exec", build.value()).digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_names_are_gos() {
        for (path, base) in [("", "."), ("/", "/"), ("//", "/"), ("a", "a"), ("/a/b/", "b"), ("/a/..", "..")]
        {
            assert_eq!(base_name(path), base, "{path}");
        }
    }

    #[test]
    fn the_default_indexes_are_those_of_a_chain() {
        assert!(is_default(&[[0, -1, 0]]));
        assert!(is_default(&[[0, 1, -1], [2, 1, 0]]));
        for other in [&[][..], &[[0, 1, 0], [2, 1, 0]], &[[-1, 1, 0]], &[[0, 2, 0]], &[[0, 1, -1], [0, 1, 0]]]
        {
            assert!(!is_default(other), "{other:?}");
        }
    }

    #[test]
    fn a_plain_run_has_no_mounts_in_its_key() {
        let meta = pb::Meta { args: vec!["true".into()], cwd: "/".into(), ..Default::default() };
        let root = pb::Mount { dest: "/".into(), ..Default::default() };
        let bare = pb::ExecOp { meta: Some(meta), ..Default::default() };
        let plain = pb::ExecOp { mounts: vec![root.clone()], ..bare.clone() };
        let other = pb::ExecOp { mounts: vec![pb::Mount { readonly: true, ..root }], ..bare.clone() };
        let platform = Platform::new("linux", "amd64");
        assert_eq!(exec(&plain, &platform).unwrap(), exec(&bare, &platform).unwrap());
        assert_ne!(exec(&other, &platform).unwrap(), exec(&bare, &platform).unwrap());
    }

    #[test]
    fn the_exec_key_hashes_this_json() {
        let meta = pb::Meta {
            args: vec!["/bin/sh".into(), "-c".into(), "a < b && c".into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            proxy_env: Some(pb::ProxyEnv { http_proxy: "x".into(), ..Default::default() }),
            extra_hosts: vec![pb::HostIp { host: "h".into(), ip: "1.2.3.4".into() }],
            ..Default::default()
        };
        let op = pb::ExecOp { meta: Some(meta), ..Default::default() };
        let json = concat!(
            r#"{"Type":"buildkit.exec.v0","Exec":{"meta":{"args":["/bin/sh","-c","a \u003c b \u0026\u0026 c"],"#,
            r#""env":["PATH=/bin"],"cwd":"/","extraHosts":[{"Host":"h"}]}},"OS":"linux","Arch":"amd64"}"#
        );
        assert_eq!(exec(&op, &Platform::new("linux", "amd64")).unwrap(), Digest::sha256(json));
    }

    #[test]
    fn the_file_key_hashes_this_json() {
        let copy = pb::FileActionCopy {
            src: "/dir/file".into(),
            dest: "/".into(),
            mode: -1,
            timestamp: -1,
            owner: Some(pb::ChownOpt {
                user: Some(pb::UserOpt { user: Some(pb::user_opt::User::ById(0)) }),
                group: None,
            }),
            ..Default::default()
        };
        let action = pb::FileAction {
            input: 0,
            secondary_input: 1,
            output: 0,
            action: Some(pb::file_action::Action::Copy(copy)),
        };
        let inner = r#"{"src":"file","dest":"/","owner":{"user":{"User":{}}},"mode":-1,"timestamp":-1}"#;
        let json = format!(r#"{{"Type":"buildkit.file.v0","Actions":["{}"]}}"#, BASE64.encode(inner));
        assert_eq!(file(&pb::FileOp { actions: vec![action] }, 2).unwrap(), Digest::sha256(json));
    }
}
