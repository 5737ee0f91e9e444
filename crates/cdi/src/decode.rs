//! From a tree of values to a specification.
//!
//! A field that no version knows is an error, as it may be what makes a device safe.

use std::collections::BTreeMap;

use crate::check;
use crate::node;
use crate::spec::{ContainerEdits, Device, DeviceKind, DeviceNode, Hook, HookName, IntelRdt, Mount, Spec};
use crate::value::Value;

/// Most characters of a file that a message repeats at once.
const MAX_SHOWN: usize = 300;

/// Why a text is no specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is neither JSON nor YAML.
    #[error("{0}")]
    Syntax(String),
    /// A value is not what its place wants.
    #[error("{path}: {problem}")]
    Value {
        /// Where, such as `devices[0].containerEdits.env[1]`.
        path: String,
        /// What is wrong, with the value.
        problem: String,
    },
    /// It says what its version does not know.
    #[error("cdiVersion {version:?}: {feature} needs {needed} or later")]
    Version {
        /// The version that it names.
        version: String,
        /// What it says.
        feature: &'static str,
        /// The version that knows it first.
        needed: &'static str,
    },
}

/// Reads a specification; `json` is what its name says it is.
///
/// # Errors
/// [`Error`], with the place of what is wrong.
pub fn parse(text: &str, json: bool) -> Result<Spec, Error> {
    let node = node::read(text, json).map_err(Error::Syntax)?;
    let spec = spec(Value::new(node))?;
    check::spec(&spec)?;
    Ok(spec)
}

pub(crate) fn wrong(path: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Value { path: shown(&path.into()), problem: shown(&problem.into()) }
}

/// A text of the file as messages show it: on one line, and its beginning if it is long.
fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(MAX_SHOWN)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        out.push('…');
    }
    out
}

fn spec(value: Value) -> Result<Spec, Error> {
    let mut spec = Spec {
        version: String::new(),
        kind: String::new(),
        annotations: BTreeMap::new(),
        devices: Vec::new(),
        edits: ContainerEdits::default(),
    };
    value.fields(|name, value| {
        match name {
            "cdiversion" => spec.version = value.text()?,
            "kind" => spec.kind = value.text()?,
            "annotations" => spec.annotations = value.map()?,
            "devices" => spec.devices = value.list(device)?,
            "containeredits" => spec.edits = edits(value)?,
            _ => return Err(value.unknown()),
        }
        Ok(())
    })?;
    Ok(spec)
}

fn device(value: Value) -> Result<Device, Error> {
    let mut device =
        Device { name: String::new(), annotations: BTreeMap::new(), edits: ContainerEdits::default() };
    value.fields(|name, value| {
        match name {
            "name" => device.name = value.text()?,
            "annotations" => device.annotations = value.map()?,
            "containeredits" => device.edits = edits(value)?,
            _ => return Err(value.unknown()),
        }
        Ok(())
    })?;
    Ok(device)
}

fn edits(value: Value) -> Result<ContainerEdits, Error> {
    let mut edits = ContainerEdits::default();
    value.fields(|name, value| {
        match name {
            "env" => edits.env = value.list(variable)?,
            "devicenodes" => edits.device_nodes = value.list(device_node)?,
            "mounts" => edits.mounts = value.list(mount)?,
            "hooks" => edits.hooks = value.list(hook)?,
            "additionalgids" => edits.additional_gids = value.list(Value::number)?,
            "intelrdt" => edits.intel_rdt = Some(intel_rdt(value)?),
            "netdevices" => edits.net_devices = value.list(net_device)?,
            _ => return Err(value.unknown()),
        }
        Ok(())
    })?;
    Ok(edits)
}

/// `NAME=value`.
fn variable(value: Value) -> Result<String, Error> {
    let path = value.path.clone();
    let text = value.text()?;
    match text.find('=') {
        None | Some(0) => Err(wrong(path, format!("{text:?}: want NAME=value"))),
        Some(_) if text.contains('\0') => Err(wrong(path, "contains a NUL byte")),
        Some(_) => Ok(text),
    }
}

/// A path, or another text that programs are given: not empty, without NUL.
fn path_of(value: Value) -> Result<String, Error> {
    let path = value.path.clone();
    let text = value.text()?;
    if text.is_empty() || text.contains('\0') {
        Err(wrong(path, format!("{text:?} is no path")))
    } else {
        Ok(text)
    }
}

fn required(path: &str, what: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() { Err(wrong(path, format!("{what} is missing"))) } else { Ok(()) }
}

fn device_node(value: Value) -> Result<DeviceNode, Error> {
    let at = value.path.clone();
    let mut node = DeviceNode::default();
    value.fields(|name, value| {
        match name {
            "path" => node.path = path_of(value)?,
            "hostpath" => node.host_path = path_of(value)?,
            "type" => node.kind = kind(value)?,
            "major" => node.major = value.number()?,
            "minor" => node.minor = value.number()?,
            "filemode" => node.mode = Some(value.number()?),
            "permissions" => node.permissions = permissions(value)?,
            "uid" => node.uid = Some(value.number()?),
            "gid" => node.gid = Some(value.number()?),
            _ => return Err(value.unknown()),
        }
        Ok(())
    })?;
    required(&at, "path", &node.path)?;
    Ok(node)
}

fn kind(value: Value) -> Result<Option<DeviceKind>, Error> {
    let path = value.path.clone();
    Ok(Some(match value.text()?.as_str() {
        "" => return Ok(None),
        "b" => DeviceKind::Block,
        "c" | "u" => DeviceKind::Character,
        "p" => DeviceKind::Pipe,
        other => return Err(wrong(path, format!("{other:?}: want b, c, u or p"))),
    }))
}

fn permissions(value: Value) -> Result<String, Error> {
    let path = value.path.clone();
    let text = value.text()?;
    if text.chars().all(|c| "rwm".contains(c)) {
        Ok(text)
    } else {
        Err(wrong(path, format!("{text:?}: want some of r, w and m")))
    }
}

fn mount(value: Value) -> Result<Mount, Error> {
    let at = value.path.clone();
    let mut mount = Mount {
        host_path: String::new(),
        container_path: String::new(),
        options: Vec::new(),
        kind: String::new(),
    };
    value.fields(|name, value| {
        match name {
            "hostpath" => mount.host_path = path_of(value)?,
            "containerpath" => mount.container_path = path_of(value)?,
            "options" => mount.options = value.list(Value::text)?,
            "type" => mount.kind = value.text()?,
            _ => return Err(value.unknown()),
        }
        Ok(())
    })?;
    required(&at, "hostPath", &mount.host_path)?;
    required(&at, "containerPath", &mount.container_path)?;
    Ok(mount)
}

fn hook(value: Value) -> Result<Hook, Error> {
    let at = value.path.clone();
    let (mut name, mut path) = (None, String::new());
    let (mut args, mut env, mut timeout) = (Vec::new(), Vec::new(), None);
    value.fields(|field, value| {
        match field {
            "hookname" => {
                let at = value.path.clone();
                let text = value.text()?;
                let known = HookName::parse(&text);
                name = Some(known.ok_or_else(|| wrong(at, format!("{text:?} is no hook")))?);
            }
            "path" => path = path_of(value)?,
            "args" => args = value.list(Value::text)?,
            "env" => env = value.list(variable)?,
            "timeout" => timeout = Some(value.number()?),
            _ => return Err(value.unknown()),
        }
        Ok(())
    })?;
    required(&at, "path", &path)?;
    let name = name.ok_or_else(|| wrong(at, "hookName is missing"))?;
    Ok(Hook { name, path, args, env, timeout })
}

/// The settings are checked, and not kept: nothing here can make them.
fn intel_rdt(value: Value) -> Result<IntelRdt, Error> {
    let mut recent = false;
    value.fields(|name, value| match name {
        "closid" => {
            let path = value.path.clone();
            let id = value.text()?;
            let bad = id.len() >= 4096 || id == "." || id == ".." || id.contains(['/', '\n']);
            if bad && id != "/" { Err(wrong(path, format!("{id:?} is no class of service"))) } else { Ok(()) }
        }
        "l3cacheschema" | "membwschema" => value.text().map(drop),
        "schemata" => {
            recent = true;
            value.list(Value::text).map(drop)
        }
        "enablemonitoring" => value.truth().map(|on| recent |= on),
        _ => Err(value.unknown()),
    })?;
    Ok(IntelRdt { recent })
}

/// The name of the interface on the host.
fn net_device(value: Value) -> Result<String, Error> {
    let at = value.path.clone();
    let (mut host, mut inside) = (String::new(), String::new());
    value.fields(|name, value| {
        match name {
            "hostinterfacename" => host = value.text()?,
            "name" => inside = value.text()?,
            _ => return Err(value.unknown()),
        }
        Ok(())
    })?;
    required(&at, "hostInterfaceName", &host)?;
    required(&at, "name", &inside)?;
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
cdiVersion: "1.1.0"
kind: vendor.com/gpu
annotations:
  org.mobyproject.buildkit.device.autoallow: true
  count: 0x3
  quoted: "0x3"
devices:
- name: 0
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/host-gpu0
      type: c
      major: 195
      minor: 0x10
      fileMode: 0660
      permissions: rw
      uid: 0
      gid: 44
  annotations: {org.mobyproject.buildkit.device.class: gpu}
- {name: "all", containerEdits: {env: [GPU=all], additionalGIDs: [44, 0]}}
containerEdits:
  env: ["GPUS=yes"]
  mounts:
  - hostPath: /usr/lib/libgpu.so
    containerPath: /usr/lib/libgpu.so
    options: [ro, nosuid, bind]
  hooks:
  - hookName: createContainer
    path: /usr/bin/hook
    args: [hook, --on]
    timeout: 5
  intelRdt: {closID: /, schemata: [a]}
  netDevices: [{hostInterfaceName: eth9, name: eth0}]
"#;

    fn error(text: &str) -> String {
        parse(text, false).unwrap_err().to_string()
    }

    #[test]
    fn everything_is_read() {
        let spec = parse(FULL, false).unwrap();
        assert_eq!((spec.version.as_str(), spec.kind.as_str()), ("1.1.0", "vendor.com/gpu"));
        assert_eq!(spec.annotations["org.mobyproject.buildkit.device.autoallow"], "true");
        assert_eq!((spec.annotations["count"].as_str(), spec.annotations["quoted"].as_str()), ("3", "0x3"));
        let [first, all] = spec.devices.as_slice() else { panic!("{:?}", spec.devices) };
        assert_eq!((first.name.as_str(), all.name.as_str()), ("0", "all"));
        assert_eq!(first.annotations["org.mobyproject.buildkit.device.class"], "gpu");
        let node = &first.edits.device_nodes[0];
        assert_eq!((node.path.as_str(), node.host_path.as_str()), ("/dev/gpu0", "/dev/host-gpu0"));
        assert_eq!((node.kind, node.major, node.minor), (Some(DeviceKind::Character), 195, 16));
        assert_eq!((node.mode, node.permissions.as_str()), (Some(0o660), "rw"));
        assert_eq!((node.uid, node.gid), (Some(0), Some(44)));
        assert_eq!(
            (all.edits.env.as_slice(), all.edits.additional_gids.as_slice()),
            (&["GPU=all".to_owned()][..], &[44, 0][..])
        );
        assert_eq!(spec.edits.env, ["GPUS=yes"]);
        assert_eq!(spec.edits.mounts[0].options, ["ro", "nosuid", "bind"]);
        let hook = &spec.edits.hooks[0];
        assert_eq!((hook.name, hook.timeout, hook.args.len()), (HookName::CreateContainer, Some(5), 2));
        assert_eq!(spec.edits.intel_rdt, Some(IntelRdt { recent: true }));
        assert_eq!(spec.edits.net_devices, ["eth9"]);
    }

    #[test]
    fn json_is_read_the_same_way() {
        let json = "{\t\"cdiVersion\": \"0.5.0\", \"kind\": \"vendor.com/a\", \"annotations\": null,\n\
            \t\"devices\": [{\"name\": \"x\", \"containerEdits\": {\"deviceNodes\": [{\"path\": \"/dev/x\", \"fileMode\": 432}]}}]}";
        let spec = parse(json, true).unwrap();
        assert_eq!(spec.devices[0].edits.device_nodes[0].mode, Some(0o660));
    }

    #[test]
    fn errors_say_where_and_what() {
        let with = |edits: &str| {
            format!("{{cdiVersion: 1.1.0, kind: v.com/a, devices: [{{name: x, containerEdits: {edits}}}]}}")
        };
        assert!(parse(&with("{env: [A=1]}"), false).is_ok());
        for (edits, says) in [
            ("{env: [A]}", "devices[0].containerEdits.env[0]: \"A\": want NAME=value"),
            ("{env: [=A]}", "want NAME=value"),
            ("{env: {A: 1}}", "devices[0].containerEdits.env: want a list"),
            ("{envs: [A=1]}", "devices[0].containerEdits.envs: there is no such field"),
            ("{env: [A=1], env: [B=1]}", "devices[0].containerEdits.env: given twice"),
            (
                "{deviceNodes: [{path: /dev/x, type: d}]}",
                "devices[0].containerEdits.deviceNodes[0].type: \"d\"",
            ),
            ("{deviceNodes: [{path: /dev/x, permissions: rx}]}", "\"rx\": want some of r, w and m"),
            ("{deviceNodes: [{path: /dev/x, major: -1}]}", "major: \"-1\": want a number"),
            ("{deviceNodes: [{path: /dev/x, major: '1'}]}", "major: want a number"),
            ("{deviceNodes: [{path: /dev/x, major: 4294967296}]}", "want a number from 0"),
            ("{deviceNodes: [{path: /dev/x, fileMode: 0999}]}", "want a number"),
            ("{deviceNodes: [{type: c}]}", "deviceNodes[0]: path is missing"),
            ("{deviceNodes: [{path: \"/dev/\\0\"}]}", "is no path"),
            ("{mounts: [{hostPath: /a}]}", "mounts[0]: containerPath is missing"),
            ("{mounts: [{containerPath: /a}]}", "mounts[0]: hostPath is missing"),
            ("{hooks: [{hookName: later, path: /a}]}", "\"later\" is no hook"),
            ("{hooks: [{path: /a}]}", "hooks[0]: hookName is missing"),
            ("{hooks: [{hookName: poststop}]}", "hooks[0]: path is missing"),
            ("{additionalGids: [-1]}", "additionalGids[0]: \"-1\""),
            ("{intelRdt: {closID: a/b}}", "is no class of service"),
            ("{netDevices: [{name: eth0}]}", "hostInterfaceName is missing"),
            ("[]", "devices[0].containerEdits: want fields"),
        ] {
            let error = error(&with(edits));
            assert!(error.contains(says), "{edits}: {error}");
        }
        for text in ["", "[]", "a", "{", "\0", "kind: 1\n\tb: 2"] {
            error(text);
        }
    }

    #[test]
    fn messages_are_short_and_of_one_line() {
        let long = "x".repeat(100_000);
        for text in [
            format!(
                "{{cdiVersion: 1.1.0, kind: v.com/a, devices: [{{name: x, containerEdits: {{env: [{long}]}}}}]}}"
            ),
            format!("kind: v.com/a\n? \"a\\n\\e[2J{long}\"\n: 1\n"),
            format!("cdiVersion: {long}\n"),
        ] {
            let error = error(&text);
            assert!(error.len() < 2000 && !error.contains(char::is_control), "{}: {error:.400}", error.len());
        }
    }

    #[test]
    fn many_fields_are_compared_quickly() {
        let annotations: Vec<String> = (0..90_000).map(|n| format!("a{n}: b")).collect();
        let text = format!("kind: v.com/a\nannotations: {{{}, a89999: c}}\n", annotations.join(", "));
        let begun = std::time::Instant::now();
        assert!(error(&text).contains("annotations.a89999: given twice"));
        // Each with each they take far longer.
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    proptest::proptest! {
        #[test]
        fn no_text_does_harm(text in ".{0,200}", json: bool) {
            _ = parse(&text, json);
        }

        #[test]
        fn no_piece_of_a_file_does_harm(from in 0..FULL.len(), length in 0..FULL.len(), put in "[\\[{:*&'\"\\-# \n]{0,3}") {
            let mut text = FULL.to_owned();
            text.replace_range(from..(from + length).min(FULL.len()), &put);
            _ = parse(&text, false);
        }
    }
}
