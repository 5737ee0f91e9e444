//! The devices of all specifications: by name, by kind, by class.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::names::split_kind;
use crate::spec::{ContainerEdits, Device, Spec};

/// Annotation by which devices of several kinds have a name together.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Annotation of devices that every build may use.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// Devices as they were when the folders were read.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// By full name.
    pub(crate) known: BTreeMap<String, Known>,
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) auto_allowed: BTreeSet<String>,
    pub(crate) problems: Vec<Problem>,
}

/// A device and the specification that it is of.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) spec: Arc<Spec>,
    pub(crate) index: usize,
}

impl Known {
    fn device(&self) -> &Device {
        // The index was found in this very list.
        &self.spec.devices[self.index]
    }

    /// Those of the specification and its own, which win.
    fn annotations(&self) -> BTreeMap<String, String> {
        let mut all = self.spec.annotations.clone();
        all.extend(self.device().annotations.clone());
        all
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.device().annotations.get(key).or_else(|| self.spec.annotations.get(key)).map(String::as_str)
    }
}

/// A file or folder that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

/// A device as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `vendor.com/class=name`.
    pub name: String,
    /// Whether every build may use it.
    pub auto_allow: bool,
    /// Annotations of its specification, and its own.
    pub annotations: BTreeMap<String, String>,
}

/// No device has the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotRegistered {
    name: String,
    folders: Vec<PathBuf>,
    problems: Vec<Problem>,
}

impl fmt::Display for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        write!(f, "required device {:?} is not registered: no specification in ", self.name)?;
        write!(f, "{} has it", if folders.is_empty() { "no folder".to_owned() } else { folders.join(", ") })?;
        // The one that was meant may be broken.
        match self.problems.as_slice() {
            [] => Ok(()),
            [one] => write!(f, " (not usable: {one})"),
            [one, others @ ..] => write!(f, " (not usable: {one}; and {} more)", others.len()),
        }
    }
}

impl Devices {
    /// All of them, by name.
    pub fn list(&self) -> impl Iterator<Item = Listed> {
        self.known.iter().map(|(name, known)| Listed {
            name: name.clone(),
            auto_allow: self.is_auto_allowed(name),
            annotations: known.annotations(),
        })
    }

    /// Files and folders that could not be used.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether every build may use a device, by its full name.
    #[must_use]
    pub fn is_auto_allowed(&self, name: &str) -> bool {
        let kind = name.split_once('=').map_or(name, |(kind, _)| kind);
        let annotation = self.known.get(name).and_then(|known| known.annotation(AUTO_ALLOW));
        self.auto_allowed.contains(name)
            || self.auto_allowed.contains(kind)
            || annotation.is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE"))
    }

    /// The full names of the devices that `name` stands for, in the order of their names:
    ///
    /// - `vendor.com/class=name`: that device;
    /// - `vendor.com/class=*`: all of the kind;
    /// - `vendor.com/class`: the first of the kind;
    /// - anything else, and what none of these has: all whose annotation says that they are of this class.
    #[must_use]
    pub fn find(&self, name: &str) -> Vec<String> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let mut found: Vec<String> = Vec::new();
        if split_kind(kind).is_some() {
            let of_kind = self
                .known
                .keys()
                .filter(|known| known.strip_prefix(kind).is_some_and(|rest| rest.starts_with('=')));
            match device {
                "" => found.extend(of_kind.take(1).cloned()),
                "*" => found.extend(of_kind.cloned()),
                _ => found.extend(self.known.contains_key(name).then(|| name.to_owned())),
            }
        }
        if found.is_empty() {
            let of_class = self.known.iter().filter(|(_, known)| known.annotation(CLASS) == Some(name));
            found.extend(of_class.map(|(name, _)| name.clone()));
        }
        found
    }

    /// As [`Devices::find`], for what a step cannot do without.
    ///
    /// # Errors
    /// [`NotRegistered`] if there is none.
    pub fn require(&self, name: &str) -> Result<Vec<String>, NotRegistered> {
        let found = self.find(name);
        if !found.is_empty() {
            return Ok(found);
        }
        let (folders, problems) = (self.folders.clone(), self.problems.clone());
        Err(NotRegistered { name: name.to_owned(), folders, problems })
    }

    /// What the devices of these full names change, in order. What all devices of a specification need stands before what
    /// the first of them needs, once.
    ///
    /// # Errors
    /// [`NotRegistered`] for one that is not there (any more).
    pub fn edits(&self, names: &[String]) -> Result<Vec<ContainerEdits>, NotRegistered> {
        let mut edits = Vec::new();
        let mut seen: Vec<&Arc<Spec>> = Vec::new();
        for name in names {
            let Some(known) = self.known.get(name) else {
                self.require(name)?;
                continue;
            };
            if !seen.iter().any(|spec| Arc::ptr_eq(spec, &known.spec)) {
                seen.push(&known.spec);
                edits.push(known.spec.edits.clone());
            }
            edits.push(known.device().edits.clone());
        }
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(texts: &[&str]) -> Devices {
        let mut devices =
            Devices { folders: vec!["/etc/cdi".into(), "/run/cdi".into()], ..Devices::default() };
        for text in texts {
            let spec = Arc::new(crate::parse(text, false).unwrap());
            for (index, device) in spec.devices.iter().enumerate() {
                let name = format!("{}={}", spec.kind, device.name);
                devices.known.insert(name, Known { spec: spec.clone(), index });
            }
        }
        devices
    }

    fn some() -> Devices {
        known(&[
            "{cdiVersion: 0.6.0, kind: v.com/net, containerEdits: {env: [NET=1]}, devices: [\
             {name: b, containerEdits: {env: [B=1]}, annotations: {org.mobyproject.buildkit.device.class: fast}}, \
             {name: a, containerEdits: {env: [A=1]}}]}",
            "{cdiVersion: 0.6.0, kind: v.com/net2, annotations: {org.mobyproject.buildkit.device.class: fast, \
             org.mobyproject.buildkit.device.autoallow: true}, devices: [{name: c, containerEdits: {env: [C=1]}}, \
             {name: d, containerEdits: {env: [D=1]}, annotations: {org.mobyproject.buildkit.device.class: slow, \
             org.mobyproject.buildkit.device.autoallow: 'no'}}]}",
        ])
    }

    #[test]
    fn names_kinds_and_classes_are_found() {
        let devices = some();
        for (name, found) in [
            ("v.com/net=a", &["v.com/net=a"][..]),
            ("v.com/net", &["v.com/net=a"]),
            ("v.com/net=", &["v.com/net=a"]),
            ("v.com/net=*", &["v.com/net=a", "v.com/net=b"]),
            ("fast", &["v.com/net2=c", "v.com/net=b"]),
            ("slow", &["v.com/net2=d"]),
            ("v.com/net=z", &[]),
            ("v.com/ne", &[]),
            ("v.com/", &[]),
            ("", &[]),
            ("*", &[]),
            ("=*", &[]),
        ] {
            assert_eq!(devices.find(name), found, "{name}");
        }
    }

    #[test]
    fn a_class_may_be_called_like_a_kind() {
        let devices =
            known(&["{cdiVersion: 0.6.0, kind: v.com/a, devices: [{name: x, containerEdits: {env: [A=1]}, \
            annotations: {org.mobyproject.buildkit.device.class: w.com/gpu=any}}]}"]);
        assert_eq!(devices.find("w.com/gpu=any"), ["v.com/a=x"]);
    }

    #[test]
    fn what_is_missing_is_told_with_where_it_was_looked_for() {
        let mut devices = some();
        let error = devices.require("v.com/net=z").unwrap_err().to_string();
        assert_eq!(
            error,
            "required device \"v.com/net=z\" is not registered: no specification in /etc/cdi, /run/cdi has it"
        );
        devices.problems.push(Problem { path: "/etc/cdi/z.yaml".into(), problem: "is no file".into() });
        let error = devices.require("z").unwrap_err().to_string();
        assert!(error.ends_with("(not usable: /etc/cdi/z.yaml: is no file)"), "{error}");
    }

    #[test]
    fn all_may_use_what_configuration_or_annotations_say() {
        let mut devices = some();
        let allowed = |devices: &Devices| -> Vec<String> {
            devices.list().filter(|device| device.auto_allow).map(|device| device.name).collect()
        };
        assert_eq!(allowed(&devices), ["v.com/net2=c"]);
        devices.auto_allowed = ["v.com/net".to_owned(), "v.com/net2=d".to_owned()].into();
        assert_eq!(allowed(&devices), ["v.com/net2=c", "v.com/net2=d", "v.com/net=a", "v.com/net=b"]);
    }

    #[test]
    fn edits_of_a_specification_come_once_and_first() {
        let devices = some();
        let names = ["v.com/net=b", "v.com/net2=c", "v.com/net=a"].map(str::to_owned);
        let env: Vec<_> = devices.edits(&names).unwrap().into_iter().flat_map(|e| e.env).collect();
        assert_eq!(env, ["NET=1", "B=1", "C=1", "A=1"]);
        assert!(devices.edits(&["v.com/net=z".to_owned()]).is_err());
    }
}
