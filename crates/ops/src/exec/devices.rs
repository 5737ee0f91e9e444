//! From what devices edit in a container to what the executor is told.

use std::path::Path;

use kiln_cdi::{ContainerEdits, DeviceNode, Hook};
use kiln_executor::{BindSpec, Mount, MountFlags, MountSource, TmpfsSpec};

/// What devices change in a step's container.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// `NAME=value`.
    pub(super) env: Vec<String>,
    pub(super) mounts: Vec<Mount>,
    pub(super) devices: Vec<DeviceNode>,
    pub(super) groups: Vec<u32>,
    pub(super) hooks: Vec<Hook>,
}

impl Changes {
    /// All `edits`, in their order.
    ///
    /// # Errors
    /// What of them cannot be made here, in words.
    pub(super) fn new(edits: Vec<ContainerEdits>) -> Result<Self, String> {
        let mut changes = Self::default();
        for edit in edits {
            if edit.intel_rdt.is_some() {
                return Err("settings of resctrl (intelRdt) are not supported".to_owned());
            }
            if let Some(name) = edit.net_devices.first() {
                return Err(format!(
                    "moving the host's network interface {name} (netDevices) is not supported"
                ));
            }
            // In another folder than ours it would be another program: the step's own, with the privileges of a hook.
            if let Some(hook) = edit.hooks.iter().find(|hook| !hook.path.starts_with('/')) {
                return Err(format!(
                    "the path of the {} hook {:?} is not absolute",
                    hook.name.name(),
                    hook.path
                ));
            }
            changes.env.extend(edit.env);
            changes.devices.extend(edit.device_nodes);
            changes.hooks.extend(edit.hooks);
            // 0 stands for none.
            changes.groups.extend(edit.additional_gids.into_iter().filter(|gid| *gid != 0));
            for mount in edit.mounts {
                changes.mounts.push(self::mount(mount)?);
            }
        }
        Ok(changes)
    }
}

/// Sets variables: one that is there keeps its place.
pub(super) fn change_environment(env: &mut Vec<String>, changed: Vec<String>) {
    for variable in changed {
        let name = variable.split_inclusive('=').next().unwrap_or_default();
        // Of several with one name the last counts.
        match env.iter().rposition(|other| other.starts_with(name)) {
            Some(at) => env[at] = variable,
            None => env.push(variable),
        }
    }
}

/// What the options of a mount say.
#[derive(Default)]
struct Options {
    bind: bool,
    submounts: bool,
    readonly: bool,
    flags: MountFlags,
    size: Option<u64>,
    mode: Option<u32>,
}

fn mount(mount: kiln_cdi::Mount) -> Result<Mount, String> {
    let kiln_cdi::Mount { host_path, container_path: dest, options, kind } = mount;
    let failed = |problem: String| format!("mount {dest}: {problem}");
    let options = read(&options).map_err(failed)?;
    let bound = options.bind || matches!(kind.as_str(), "" | "bind" | "none");
    if bound && (options.size.is_some() || options.mode.is_some()) {
        return Err(failed("size and mode are options of a tmpfs".to_owned()));
    }
    let source = if bound {
        // Relative to what, nobody says.
        if !Path::new(&host_path).is_absolute() {
            return Err(failed(format!("hostPath {host_path:?} is not absolute")));
        }
        MountSource::Bind(BindSpec {
            path: host_path.into(),
            submounts: options.submounts,
            flags: options.flags,
        })
    } else if kind == "tmpfs" {
        MountSource::Tmpfs(TmpfsSpec { size: options.size, mode: options.mode, flags: options.flags })
    } else {
        return Err(failed(format!("file systems of type {kind:?} are not supported")));
    };
    Ok(Mount { dest, source, readonly: options.readonly })
}

fn read(options: &[String]) -> Result<Options, String> {
    let mut out = Options::default();
    for option in options {
        let refused = || format!("option {option:?} is not supported");
        match option.as_str() {
            "bind" => out.bind = true,
            "rbind" => (out.bind, out.submounts) = (true, true),
            "ro" => out.readonly = true,
            "rw" => out.readonly = false,
            "nosuid" => out.flags.nosuid = true,
            "suid" => out.flags.nosuid = false,
            "nodev" => out.flags.nodev = true,
            "dev" => out.flags.nodev = false,
            "noexec" => out.flags.noexec = true,
            "exec" => out.flags.noexec = false,
            // These are as it is anyway.
            "defaults" | "private" | "rprivate" | "relatime" => {}
            other => match other.split_once('=') {
                Some(("size", size)) => out.size = Some(bytes(size).ok_or_else(refused)?),
                Some(("mode", mode)) => {
                    out.mode =
                        Some(u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o7777).ok_or_else(refused)?);
                }
                _ => return Err(refused()),
            },
        }
    }
    Ok(out)
}

/// A size as tmpfs has it: a number, maybe with k, m or g.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    if digits.starts_with('+') { None } else { digits.parse::<u64>().ok()?.checked_mul(unit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(text: &str) -> Vec<ContainerEdits> {
        let text = format!(
            "{{cdiVersion: 1.1.0, kind: v.com/a, devices: [{{name: x, containerEdits: {{{text}}}}}]}}"
        );
        vec![kiln_cdi::parse(&text, false).unwrap().devices.remove(0).edits]
    }

    fn one_mount(kind: &str, options: &str) -> Result<Mount, String> {
        let text = format!(
            "mounts: [{{hostPath: /host, containerPath: /in, type: '{kind}', options: [{options}]}}]"
        );
        Changes::new(edits(&text)).map(|mut changes| changes.mounts.remove(0))
    }

    #[test]
    fn variables_are_set_in_their_places() {
        let mut env = ["A=1", "AB=2", "A=3"].map(str::to_owned).to_vec();
        change_environment(&mut env, ["A=x=y", "B=", "AB=4"].map(str::to_owned).to_vec());
        assert_eq!(env, ["A=1", "AB=4", "A=x=y", "B="]);
    }

    #[test]
    fn mounts_are_of_the_host_unless_they_are_a_tmpfs() {
        for (kind, options, submounts) in [
            ("", "", false),
            ("none", "rbind, rprivate", true),
            ("tmpfs", "bind", false),
            ("bind", "", false),
        ] {
            let mount = one_mount(kind, options).unwrap();
            let MountSource::Bind(spec) = &mount.source else { panic!("{mount:?}") };
            assert_eq!(
                (mount.dest.as_str(), spec.path.to_str(), spec.submounts),
                ("/in", Some("/host"), submounts)
            );
            assert!(!mount.readonly);
        }
        let mount = one_mount("", "ro, nosuid, nodev, noexec, exec, bind").unwrap();
        let MountSource::Bind(spec) = &mount.source else { panic!("{mount:?}") };
        assert!(mount.readonly && spec.flags == MountFlags { nosuid: true, nodev: true, noexec: false });
        let MountSource::Tmpfs(spec) = one_mount("tmpfs", "'size=2m', 'mode=1777', nodev").unwrap().source
        else {
            panic!()
        };
        assert_eq!((spec.size, spec.mode, spec.flags.nodev), (Some(2 << 20), Some(0o1777), true));
    }

    #[test]
    fn what_cannot_be_made_is_named() {
        for (kind, options, says) in [
            ("", "rshared", "mount /in: option \"rshared\" is not supported"),
            ("", "'size=1'", "mount /in: size and mode are options of a tmpfs"),
            ("tmpfs", "'size=1%'", "option \"size=1%\""),
            ("tmpfs", "'size=99999999999g'", "option \"size="),
            ("tmpfs", "'mode=99'", "option \"mode=99\""),
            ("sysfs", "", "file systems of type \"sysfs\""),
        ] {
            let error = one_mount(kind, options).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        for (text, says) in [
            ("mounts: [{hostPath: host, containerPath: /in}]", "hostPath \"host\" is not absolute"),
            (
                "hooks: [{hookName: createContainer, path: rootfs/x}]",
                "createContainer hook \"rootfs/x\" is not absolute",
            ),
            ("intelRdt: {closID: a}", "intelRdt"),
            ("netDevices: [{hostInterfaceName: eth9, name: a}]", "network interface eth9"),
        ] {
            let error = Changes::new(edits(text)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn no_group_is_0() {
        assert_eq!(Changes::new(edits("additionalGids: [0, 5, 0]")).unwrap().groups, [5]);
    }
}
