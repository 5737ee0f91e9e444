//! What a build's steps may do beyond the sandbox: asked for by the client, allowed by the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kiln_oci::Digest;

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// Steps may use the machine's network.
    NetworkHost,
    /// Steps may run without confinement.
    SecurityInsecure,
    /// Steps may use devices: all, or those that [`DeviceGrants`] say.
    Device,
}

impl Entitlement {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::NetworkHost, Self::SecurityInsecure, Self::Device];

    /// The name on the wire and in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
            Self::Device => "device",
        }
    }

    /// The reverse of [`Entitlement::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.name() == name)
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The permissions of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    all: BTreeSet<Entitlement>,
    devices: DeviceGrants,
}

impl Entitlements {
    /// Whether it is among them.
    #[must_use]
    pub fn allow(&self, entitlement: Entitlement) -> bool {
        self.all.contains(&entitlement)
    }

    /// Tells steps apart whose own steps are checked against this: what runs for a build that may must not serve one that may
    /// not, and the reverse. `None` where nothing is allowed.
    pub(crate) fn meaning(&self) -> Option<Digest> {
        let mut text = String::new();
        let mut add = |part: &str| text.push_str(&format!("{}:{part};", part.len()));
        self.all.iter().for_each(|entitlement| add(entitlement.name()));
        if let DeviceGrants::Named(named) = &self.devices {
            for (name, grant) in named {
                add(name);
                match grant {
                    Grant::Itself => add(""),
                    Grant::Alias(device) => add(device),
                }
            }
        }
        (!text.is_empty()).then(|| Digest::sha256(text))
    }

    /// The devices that steps may use beside those that every build may.
    #[must_use]
    pub fn devices(&self) -> &DeviceGrants {
        &self.devices
    }

    /// Adds what a client asks for: `NAME`, or `device=DEVICE[,alias=NAME]`.
    ///
    /// # Errors
    /// [`UnknownEntitlement`] for anything else.
    pub fn add(&mut self, text: &str) -> Result<(), UnknownEntitlement> {
        let unknown = |problem: String| UnknownEntitlement { text: text.to_owned(), problem };
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let known = Entitlement::parse(name).ok_or_else(|| unknown(String::new()))?;
        match (known, value) {
            (Entitlement::Device, value) => self.devices.add(value.unwrap_or_default()).map_err(unknown)?,
            (_, Some(_)) => return Err(unknown(format!(": {name} takes no value"))),
            (_, None) => {}
        }
        self.all.insert(known);
        Ok(())
    }
}

impl FromIterator<Entitlement> for Entitlements {
    fn from_iter<I: IntoIterator<Item = Entitlement>>(all: I) -> Self {
        let all: BTreeSet<_> = all.into_iter().collect();
        let every = all.contains(&Entitlement::Device);
        Self { all, devices: if every { DeviceGrants::All } else { DeviceGrants::default() } }
    }
}

/// What is no entitlement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown entitlement {text}{problem}")]
pub struct UnknownEntitlement {
    text: String,
    /// Empty, or what is wrong after a colon.
    problem: String,
}

/// Devices that a client lets its build use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceGrants {
    /// All that there are.
    All,
    /// Some, by the names that steps ask by: a device, a kind, a class.
    Named(BTreeMap<String, Grant>),
}

/// What a name in a step may come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The devices of that name.
    Itself,
    /// The devices of this name, whatever else has the name that the step uses.
    Alias(String),
}

impl Default for DeviceGrants {
    fn default() -> Self {
        Self::Named(BTreeMap::new())
    }
}

impl DeviceGrants {
    /// Adds `DEVICE[,alias=NAME]`; empty is all.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let mut fields = text.split(',');
        let device = fields.next().unwrap_or_default().to_owned();
        let mut alias = None;
        for field in fields {
            match field.split_once('=') {
                Some(("alias", name)) => alias = Some(name.to_owned()).filter(|name| !name.is_empty()),
                Some((key, _)) => return Err(format!(": unknown key {key:?}, want alias")),
                None => return Err(format!(": {field:?}: want alias=NAME")),
            }
        }
        match self {
            _ if text.is_empty() => *self = Self::All,
            Self::All => {}
            Self::Named(_) if device.is_empty() => return Err(": no device is named".to_owned()),
            Self::Named(all) => match alias {
                Some(alias) => drop(all.insert(alias, Grant::Alias(device))),
                None => drop(all.insert(device, Grant::Itself)),
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(texts: &[&str]) -> Entitlements {
        let mut all = Entitlements::default();
        texts.iter().for_each(|text| all.add(text).unwrap());
        all
    }

    #[test]
    fn meanings_differ_as_permissions_do() {
        let texts: [&[&str]; 7] = [
            &["network.host"],
            &["security.insecure"],
            &["network.host", "security.insecure"],
            &["device"],
            &["device=v.com/a"],
            &["device=v.com/a,alias=x"],
            &["device=x"],
        ];
        let meanings: BTreeSet<_> = texts.iter().map(|texts| granted(texts).meaning()).collect();
        assert_eq!(meanings.len(), texts.len());
        assert_eq!(Entitlements::default().meaning(), None);
        let other_order = granted(&["security.insecure", "network.host"]);
        assert_eq!(other_order.meaning(), granted(texts[2]).meaning());
    }

    #[test]
    fn names_are_known() {
        let all = granted(&["network.host", "device=v.com/a"]);
        assert!(all.allow(Entitlement::NetworkHost) && all.allow(Entitlement::Device));
        assert!(!all.allow(Entitlement::SecurityInsecure));
        let error = |text: &str| Entitlements::default().add(text).unwrap_err().to_string();
        assert_eq!(error("network.none"), "unknown entitlement network.none");
        assert_eq!(
            error("network.host=1"),
            "unknown entitlement network.host=1: network.host takes no value"
        );
        for text in ["device=a,b", "device=a,name=b", "device=,alias=b"] {
            assert!(error(text).starts_with(&format!("unknown entitlement {text}: ")), "{text}");
        }
    }

    #[test]
    fn devices_are_granted_by_name_by_alias_or_all() {
        let all = granted(&["device=v.com/a=x", "device=v.com/b,alias=gpu", "device=v.com/c,alias="]);
        let DeviceGrants::Named(named) = all.devices() else { panic!("{all:?}") };
        let named: Vec<_> = named.iter().map(|(name, grant)| (name.as_str(), grant.clone())).collect();
        assert_eq!(
            named,
            [
                ("gpu", Grant::Alias("v.com/b".to_owned())),
                ("v.com/a=x", Grant::Itself),
                ("v.com/c", Grant::Itself)
            ]
        );
        for text in ["device", "device="] {
            assert_eq!(granted(&["device=v.com/a", text, "device=v.com/b"]).devices(), &DeviceGrants::All);
        }
        assert_eq!(Entitlements::from_iter([Entitlement::Device]).devices(), &DeviceGrants::All);
    }
}
