//! What holds between the values of a specification.

use std::collections::{BTreeMap, BTreeSet};

use crate::decode::{Error, wrong};
use crate::names::{is_annotation, is_device, is_vendor_or_class, split_kind};
use crate::spec::{ContainerEdits, Spec};

/// The versions that were released, in order.
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// Most bytes of the annotations of one thing.
const MAX_ANNOTATIONS: usize = 256 << 10;

pub(crate) fn spec(spec: &Spec) -> Result<(), Error> {
    let version = spec.version.strip_prefix('v').unwrap_or(&spec.version);
    let known = VERSIONS.iter().position(|known| *known == version);
    let known = known.ok_or_else(|| {
        wrong("cdiVersion", format!("{:?}: want one of {}", spec.version, VERSIONS.join(", ")))
    })?;
    let (_, class) = split_kind(&spec.kind)
        .filter(|(vendor, class)| is_vendor_or_class(vendor) && is_vendor_or_class(class))
        .ok_or_else(|| wrong("kind", format!("{:?}: want VENDOR/CLASS", spec.kind)))?;
    annotations("annotations", &spec.annotations)?;
    net_devices("containerEdits", &spec.edits)?;
    if spec.devices.is_empty() {
        return Err(wrong("devices", "there are none"));
    }
    let mut names = BTreeSet::new();
    for (n, device) in spec.devices.iter().enumerate() {
        let at = |field: &str| format!("devices[{n}].{field}");
        if !is_device(&device.name) {
            return Err(wrong(at("name"), format!("{:?} is no name of a device", device.name)));
        }
        if !names.insert(device.name.as_str()) {
            return Err(wrong(at("name"), format!("a second device {:?}", device.name)));
        }
        annotations(&at("annotations"), &device.annotations)?;
        if device.edits.is_empty() {
            return Err(wrong(at("containerEdits"), format!("device {:?} changes nothing", device.name)));
        }
        net_devices(&at("containerEdits"), &device.edits)?;
    }
    match needed(spec, class).into_iter().find(|(_, since)| *since > known) {
        Some((feature, since)) => {
            Err(Error::Version { version: spec.version.clone(), feature, needed: VERSIONS[since] })
        }
        None => Ok(()),
    }
}

fn annotations(path: &str, annotations: &BTreeMap<String, String>) -> Result<(), Error> {
    if let Some(key) = annotations.keys().find(|key| !is_annotation(key)) {
        return Err(wrong(path, format!("{key:?} is no name of an annotation")));
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MAX_ANNOTATIONS {
        return Err(wrong(path, format!("{size} bytes are more than {MAX_ANNOTATIONS}")));
    }
    Ok(())
}

fn net_devices(path: &str, edits: &ContainerEdits) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    match edits.net_devices.iter().find(|name| !seen.insert(name.as_str())) {
        Some(name) => Err(wrong(format!("{path}.netDevices"), format!("{name:?} twice"))),
        None => Ok(()),
    }
}

/// What a specification uses, and the place in [`VERSIONS`] of the first version that knows it; the latest first.
fn needed(spec: &Spec, class: &str) -> Vec<(&'static str, usize)> {
    let all = || spec.devices.iter().map(|device| &device.edits).chain([&spec.edits]);
    let annotated =
        !spec.annotations.is_empty() || spec.devices.iter().any(|device| !device.annotations.is_empty());
    let digit = spec.devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit()));
    let uses = [
        (all().any(|e| e.intel_rdt.is_some_and(|rdt| rdt.recent)), "intelRdt.schemata", 9),
        (all().any(|e| !e.net_devices.is_empty()), "netDevices", 9),
        (all().any(|e| e.intel_rdt.is_some()), "intelRdt", 6),
        (all().any(|e| !e.additional_gids.is_empty()), "additionalGids", 6),
        (annotated, "annotations", 5),
        (class.contains('.'), "a dot in the class", 5),
        (digit, "a device whose name begins with a digit", 4),
        (
            all().flat_map(|e| &e.device_nodes).any(|node| !node.host_path.is_empty()),
            "hostPath of a device",
            4,
        ),
        (all().flat_map(|e| &e.mounts).any(|mount| !mount.kind.is_empty()), "type of a mount", 3),
    ];
    uses.into_iter().filter(|(used, ..)| *used).map(|(_, feature, since)| (feature, since)).collect()
}

#[cfg(test)]
mod tests {
    use crate::parse;

    fn error(text: &str) -> String {
        parse(text, false).unwrap_err().to_string()
    }

    #[test]
    fn what_a_version_does_not_know_is_refused() {
        let say = |version: &str, kind: &str, name: &str, edits: &str, more: &str| {
            format!(
                "cdiVersion: {version}\nkind: {kind}\ndevices: [{{name: {name}, containerEdits: {{{edits}}}}}]\n{more}"
            )
        };
        let env = "env: [A=1]";
        for version in ["0.1.0", "0.3.0", "v0.5.0", "1.0.0", "1.1.0"] {
            assert!(parse(&say(version, "v.com/a", "x", env, ""), false).is_ok(), "{version}");
        }
        for version in ["\"\"", "1", "0.9.0", "2.0.0", "latest"] {
            assert!(error(&say(version, "v.com/a", "x", env, "")).starts_with("cdiVersion: "), "{version}");
        }
        for (before, since, kind, name, edits, more) in [
            (
                "0.3.0",
                "0.4.0",
                "v.com/a",
                "x",
                "mounts: [{hostPath: /a, containerPath: /a, type: tmpfs}]",
                "",
            ),
            ("0.4.0", "0.5.0", "v.com/a", "x", "deviceNodes: [{path: /dev/a, hostPath: /dev/b}]", ""),
            ("0.4.0", "0.5.0", "v.com/a", "0x", env, ""),
            ("0.5.0", "0.6.0", "v.com/a.b", "x", env, ""),
            ("0.5.0", "0.6.0", "v.com/a", "x", env, "annotations: {a: b}"),
            ("0.6.0", "0.7.0", "v.com/a", "x", "additionalGids: [5]", ""),
            ("0.6.0", "0.7.0", "v.com/a", "x", "intelRdt: {closID: a}", ""),
            ("1.0.0", "1.1.0", "v.com/a", "x", "intelRdt: {enableMonitoring: true}", ""),
            ("1.0.0", "1.1.0", "v.com/a", "x", "netDevices: [{hostInterfaceName: a, name: b}]", ""),
        ] {
            assert!(parse(&say(since, kind, name, edits, more), false).is_ok(), "{since}: {edits} {more}");
            let error = error(&say(before, kind, name, edits, more));
            assert!(error.ends_with(&format!("needs {since} or later")), "{error}");
        }
    }

    #[test]
    fn names_and_devices_are_checked() {
        for (text, says) in [
            ("kind: a", "kind: \"a\": want VENDOR/CLASS"),
            ("kind: v.com/a/b", "kind: "),
            ("kind: 9v.com/a", "kind: "),
            ("kind: v.com/a", "devices: there are none"),
            ("kind: v.com/a\ndevices: []", "devices: there are none"),
            (
                "kind: v.com/a\ndevices: [{name: x}]",
                "devices[0].containerEdits: device \"x\" changes nothing",
            ),
            ("kind: v.com/a\ndevices: [{name: '*', containerEdits: {env: [A=1]}}]", "is no name of a device"),
            (
                "kind: v.com/a\ndevices: [{name: x, containerEdits: {env: [A=1]}}, {name: x, containerEdits: {env: [A=1]}}]",
                "a second device",
            ),
            ("kind: v.com/a\nannotations: {a b: c}\ndevices: [{name: x}]", "is no name of an annotation"),
        ] {
            let error = error(&format!("cdiVersion: 1.1.0\n{text}"));
            assert!(error.contains(says), "{text}: {error}");
        }
        let long = format!("cdiVersion: 1.1.0\nkind: v.com/a\nannotations: {{a: {}}}\n", "x".repeat(300_000));
        assert!(error(&long).contains("more than"));
    }
}
