//! What a build's steps may do beyond the sandbox: asked for by the client, allowed by the daemon.

use std::{collections::BTreeSet, fmt};

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// Steps may use the machine's network.
    NetworkHost,
    /// Steps may run without confinement.
    SecurityInsecure,
}

impl Entitlement {
    /// The name on the wire and in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }

    /// The reverse of [`Entitlement::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::NetworkHost, Self::SecurityInsecure].into_iter().find(|e| e.name() == name)
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The permissions of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entitlements(BTreeSet<Entitlement>);

impl Entitlements {
    /// Whether it is among them.
    #[must_use]
    pub fn allow(&self, entitlement: Entitlement) -> bool {
        self.0.contains(&entitlement)
    }
}

impl FromIterator<Entitlement> for Entitlements {
    fn from_iter<I: IntoIterator<Item = Entitlement>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}
