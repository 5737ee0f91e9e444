//! `frontend.outline`

use serde::{Deserialize, Serialize};

use super::table::table;
use super::{Location, base64_list, to_json};

/// What a target can be given from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outline {
    /// The target's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The comment above it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Build arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArg>,
    /// Secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<OutlineSecret>,
    /// Ssh agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<OutlineSsh>,
    /// Cache mounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<OutlineCache>,
    /// The Dockerfile.
    #[serde(with = "base64_list", skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Vec<u8>>,
}

/// A build argument.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The comment above it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Its ARG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// A secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineSecret {
    /// Its id.
    pub name: String,
    /// The build fails without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The RUN that mounts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// An ssh agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineSsh {
    /// Its id.
    pub name: String,
    /// The build fails without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The RUN that mounts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// A cache mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineCache {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The RUN that mounts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

impl Outline {
    /// Puts everything into the order of the file's lines.
    pub fn sort(&mut self) {
        let line = |location: &Option<Location>| location.as_ref().map_or(0, Location::first_line);
        self.args.sort_by(|a, b| (line(&a.location), &a.name).cmp(&(line(&b.location), &b.name)));
        self.secrets.sort_by(|a, b| (line(&a.location), &a.name).cmp(&(line(&b.location), &b.name)));
        self.ssh.sort_by(|a, b| (line(&a.location), &a.name).cmp(&(line(&b.location), &b.name)));
    }

    /// The document `result.json`.
    #[must_use]
    pub fn json(&self) -> String {
        to_json(self)
    }

    /// The document `result.txt`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = self.title();
        if !self.args.is_empty() {
            let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"]];
            rows.extend(self.args.iter().map(|arg| [arg.name.as_str(), &arg.value, &arg.description]));
            section(&mut out, &table(&rows, 3));
        }
        let required = |required: bool| if required { "true" } else { "" };
        if !self.secrets.is_empty() {
            let mut rows = vec![["SECRET", "REQUIRED"]];
            rows.extend(self.secrets.iter().map(|s| [s.name.as_str(), required(s.required)]));
            section(&mut out, &table(&rows, 3));
        }
        if !self.ssh.is_empty() {
            let mut rows = vec![["SSH", "REQUIRED"]];
            rows.extend(self.ssh.iter().map(|s| [s.name.as_str(), required(s.required)]));
            section(&mut out, &table(&rows, 3));
        }
        out
    }

    fn title(&self) -> String {
        let mut out = String::new();
        if self.name.is_empty() && self.description.is_empty() {
            return out;
        }
        let name = if self.name.is_empty() { "(default)" } else { &self.name };
        let mut rows = vec![["TARGET:", name]];
        if !self.description.is_empty() {
            rows.push(["DESCRIPTION:", &self.description]);
        }
        section(&mut out, &table(&rows, 1));
        out
    }
}

fn section(out: &mut String, table: &str) {
    out.push_str(table);
    out.push('\n');
}
