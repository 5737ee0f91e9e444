//! Devices: which ones a step gets, and whether its build may have them.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use kiln_cdi::{Devices, NotRegistered, Problem, Registry};
use kiln_oci::Digest;
use kiln_proto::pb;

use crate::entitlements::{DeviceGrants, Grant};

/// The devices of this machine.
#[derive(Debug)]
pub struct DeviceRegistry {
    registry: Registry,
    /// What the log has been told.
    told: Mutex<Vec<Problem>>,
}

impl DeviceRegistry {
    /// Those of some folders.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self { registry, told: Mutex::default() }
    }

    /// The devices as they are now. Blocks for as long as it takes to read a few small files. What cannot be read is told to
    /// the log once.
    #[must_use]
    pub fn read(&self) -> Devices {
        let devices = self.registry.read();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in devices.problems().iter().filter(|problem| !told.contains(problem)) {
            tracing::warn!(path = %problem.path.display(), "a CDI specification is not used: {}", problem.problem);
        }
        *told = devices.problems().to_vec();
        devices
    }
}

/// Why a step does not get a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is none.
    #[error(transparent)]
    NotRegistered(#[from] NotRegistered),
    /// This daemon offers none.
    #[error("device {0:?} is not there: this daemon offers no devices (cdi.disabled)")]
    Disabled(String),
    /// The build may not use them.
    #[error("{} requested by the build but not allowed (allow with {})", named(.0), flags(.0))]
    NotAllowed(Vec<String>),
}

fn named(devices: &[String]) -> String {
    match devices {
        [one] => format!("device {one} is"),
        all => format!("devices {} are", all.join(", ")),
    }
}

fn flags(devices: &[String]) -> String {
    devices.iter().map(|device| format!("--allow device={device}")).collect::<Vec<_>>().join(" ")
}

/// What a step that asks for `asked` is given, by the names that it is run and cached by. `None` for devices: there are none
/// to be had.
///
/// With all devices granted, names stay what they are and are looked up when the step runs; so do those that a grant puts in
/// the place of others. All other names become full names here.
///
/// # Errors
/// [`DeviceError`], unless what is missing is optional.
pub(crate) fn grant(
    asked: &[pb::CdiDevice],
    grants: &DeviceGrants,
    devices: Option<&Devices>,
) -> Result<Vec<pb::CdiDevice>, DeviceError> {
    let DeviceGrants::Named(named) = grants else { return Ok(asked.to_vec()) };
    let alias = |device: &pb::CdiDevice| match named.get(&device.name) {
        Some(Grant::Alias(name)) => Some(pb::CdiDevice { name: name.clone(), optional: device.optional }),
        Some(Grant::Itself) | None => None,
    };
    let mut given: Vec<pb::CdiDevice> = asked.iter().filter_map(alias).collect();
    let others: Vec<_> = asked.iter().filter(|device| alias(device).is_none()).cloned().collect();
    let found = find(&others, devices)?;
    let Some(devices) = devices else { return Ok(given) };
    let itself = named.iter().filter(|(_, grant)| **grant == Grant::Itself);
    let granted: BTreeSet<String> = itself.flat_map(|(name, _)| devices.find(name)).collect();
    let allowed = |name: &String| granted.contains(name) || devices.is_auto_allowed(name);
    let (found, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(allowed);
    if !refused.is_empty() {
        return Err(DeviceError::NotAllowed(refused));
    }
    given.extend(found.into_iter().map(|name| pb::CdiDevice { name, optional: false }));
    Ok(given)
}

/// Tells steps of one definition apart that are given other devices than they name, as each build lets its steps have its
/// own: what runs for one must not serve the other.
pub(crate) fn meaning_of(asked: &[pb::CdiDevice], given: &[pb::CdiDevice]) -> Option<Digest> {
    let mut text = String::new();
    for pb::CdiDevice { name, optional } in given {
        text.push_str(&format!("{}:{name}:{optional};", name.len()));
    }
    (asked != given).then(|| Digest::sha256(text))
}

/// The full names of what is asked for, each once.
///
/// # Errors
/// [`DeviceError`] for what is not there, unless it is optional.
pub(crate) fn find(asked: &[pb::CdiDevice], devices: Option<&Devices>) -> Result<Vec<String>, DeviceError> {
    let mut out: Vec<String> = Vec::new();
    for pb::CdiDevice { name, optional } in asked {
        let found = match devices {
            None if *optional => Vec::new(),
            None => return Err(DeviceError::Disabled(name.clone())),
            Some(devices) if *optional => devices.find(name),
            Some(devices) => devices.require(name)?,
        };
        if found.is_empty() {
            tracing::debug!(device = name, "an optional device is not there");
        }
        for name in found {
            if !out.contains(&name) {
                out.push(name);
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entitlements;

    fn devices() -> Devices {
        let folder = tempfile::tempdir().unwrap();
        let spec = "{cdiVersion: 0.6.0, kind: v.com/a, devices: [\
            {name: x, containerEdits: {env: [X=1]}}, {name: z, containerEdits: {env: [Y=1]}}, \
            {name: free, containerEdits: {env: [F=1]}, annotations: {org.mobyproject.buildkit.device.autoallow: true, \
            org.mobyproject.buildkit.device.class: fast}}]}";
        std::fs::write(folder.path().join("a.yaml"), spec).unwrap();
        Registry { folders: vec![folder.path().into()], auto_allowed: Vec::new() }.read()
    }

    fn ask(names: &[&str]) -> Vec<pb::CdiDevice> {
        let one = |name: &&str| pb::CdiDevice {
            name: name.trim_end_matches('?').to_owned(),
            optional: name.ends_with('?'),
        };
        names.iter().map(one).collect()
    }

    fn given(asked: &[&str], grants: &[&str]) -> Result<Vec<String>, String> {
        let mut all = Entitlements::default();
        grants.iter().for_each(|text| all.add(text).unwrap());
        let given = grant(&ask(asked), all.devices(), Some(&devices())).map_err(|error| error.to_string())?;
        Ok(given.into_iter().map(|device| device.name).collect())
    }

    #[test]
    fn names_become_full_names() {
        assert_eq!(given(&["fast", "v.com/a", "v.com/a=free"], &[]).unwrap(), ["v.com/a=free"]);
        assert_eq!(
            given(&["v.com/a=*"], &["device=v.com/a=*"]).unwrap(),
            ["v.com/a=free", "v.com/a=x", "v.com/a=z"]
        );
        assert_eq!(given(&["v.com/a=x", "w.com/b=x?"], &["device=v.com/a=x"]).unwrap(), ["v.com/a=x"]);
        assert!(given(&["w.com/b=x?"], &[]).unwrap().is_empty());
    }

    #[test]
    fn what_nobody_allowed_is_refused_by_name() {
        assert_eq!(
            given(&["v.com/a=x"], &[]).unwrap_err(),
            "device v.com/a=x is requested by the build but not allowed (allow with --allow device=v.com/a=x)"
        );
        let error = given(&["v.com/a=*"], &["device=w.com/b"]).unwrap_err();
        assert!(
            error.starts_with("devices v.com/a=x, v.com/a=z are requested by the build but not allowed"),
            "{error}"
        );
        // A kind alone is its first device.
        assert!(given(&["v.com/a=x"], &["device=v.com/a"]).is_err());
        assert!(given(&["v.com/a=x?"], &[]).is_err());
        assert!(given(&["v.com/b=x"], &[]).unwrap_err().contains("\"v.com/b=x\" is not registered"));
    }

    #[test]
    fn all_and_aliases_are_looked_up_later() {
        assert_eq!(given(&["v.com/a=*", "w.com/b"], &["device"]).unwrap(), ["v.com/a=*", "w.com/b"]);
        let alias = ["device=v.com/a=z,alias=gpu"];
        assert_eq!(given(&["gpu", "fast"], &alias).unwrap(), ["v.com/a=z", "v.com/a=free"]);
        // An alias grants what it stands for by that name alone.
        assert!(given(&["v.com/a=z"], &alias).is_err());
        assert!(given(&["v.com/a=z"], &["device=v.com/a=x,alias=v.com/a=z"]).unwrap() == ["v.com/a=x"]);
    }

    #[test]
    fn steps_that_are_given_different_devices_are_told_apart() {
        let meaning = |grants: &[&str]| {
            let given = given(&["fast"], grants).unwrap();
            meaning_of(&ask(&["fast"]), &ask(&given.iter().map(String::as_str).collect::<Vec<_>>()))
        };
        let alias = meaning(&["device=v.com/a=z,alias=fast"]);
        assert!(alias.is_some());
        assert_ne!(alias, meaning(&["device=v.com/a=x,alias=fast"]));
        assert_ne!(alias, meaning(&[]));
        assert_eq!(meaning(&[]), meaning(&["device=v.com/a=x"]));
        assert_eq!(meaning(&["device"]), None);
        assert_ne!(meaning_of(&ask(&["a"]), &ask(&["b"])), meaning_of(&ask(&["a"]), &ask(&["b?"])));
        assert_ne!(meaning_of(&[], &ask(&["a", "b"])), meaning_of(&[], &ask(&["b", "a"])));
    }

    #[test]
    fn without_devices_only_the_optional_are_not_missed() {
        let none = |asked: &[&str], grants| grant(&ask(asked), grants, None).map(|given| given.len());
        let named = DeviceGrants::default();
        assert_eq!(none(&["v.com/a?"], &named), Ok(0));
        assert_eq!(none(&["v.com/a"], &named), Err(DeviceError::Disabled("v.com/a".into())));
        assert_eq!(find(&ask(&["v.com/a"]), None), Err(DeviceError::Disabled("v.com/a".into())));
    }
}
