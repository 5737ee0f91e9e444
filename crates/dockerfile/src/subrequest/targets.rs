//! `frontend.targets`

use serde::{Deserialize, Serialize};

use super::table::table;
use super::{Location, base64_list, to_json};
use crate::ast::Dockerfile;

/// The stages of a Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetList {
    /// In the order of the file.
    pub targets: Vec<Target>,
    /// The Dockerfile.
    #[serde(with = "base64_list")]
    pub sources: Vec<Vec<u8>>,
}

/// A stage that can be built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// Its name; empty when it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The one that is built when none is named.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// The comment above it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it starts from, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// Its platform, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Its FROM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

impl TargetList {
    /// The stages of a Dockerfile; `text` is the file itself.
    #[must_use]
    pub fn new(dockerfile: &Dockerfile, text: &[u8]) -> Self {
        let last = dockerfile.stages.len().saturating_sub(1);
        let targets = dockerfile
            .stages
            .iter()
            .enumerate()
            .map(|(i, stage)| Target {
                name: stage.name().unwrap_or_default().to_owned(),
                default: i == last,
                description: stage.description.as_deref().unwrap_or_default().to_owned(),
                base: stage.base.as_str().to_owned(),
                platform: stage.platform.as_deref().unwrap_or_default().to_owned(),
                location: Location::of(stage.span),
            })
            .collect();
        Self { targets, sources: vec![text.to_vec()] }
    }

    /// The document `result.json`.
    #[must_use]
    pub fn json(&self) -> String {
        to_json(self)
    }

    /// The document `result.txt`.
    #[must_use]
    pub fn text(&self) -> String {
        let names: Vec<String> = self.targets.iter().map(Target::title).collect();
        let mut rows = vec![["TARGET", "DESCRIPTION"]];
        rows.extend(
            names
                .iter()
                .zip(&self.targets)
                .map(|(name, target)| [name.as_str(), target.description.as_str()]),
        );
        table(&rows, 1)
    }
}

impl Target {
    fn title(&self) -> String {
        match (self.name.as_str(), self.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        }
    }
}
