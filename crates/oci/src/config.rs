//! Image configs, as the OCI and the Docker image specs describe them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::descriptor::null_default;
use crate::{Digest, Platform, Time, gojson};

/// The config blob of an image. Unknown fields are kept, see [`ImageConfig::extra`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// Who made it (`MAINTAINER`).
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub author: String,
    /// Processor architecture.
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    /// Operating system.
    #[serde(default, deserialize_with = "null_default")]
    pub os: String,
    /// Version of the operating system; on Windows such as `10.0.20348.2700`.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub os_version: String,
    /// Features of the operating system that the image needs.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub os_features: Vec<String>,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub variant: String,
    /// The layers by diff ID.
    #[serde(default, deserialize_with = "null_default")]
    pub rootfs: RootFs,
    /// How each layer came to be, lowest first; entries with `empty_layer` have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub history: Vec<History>,
    /// What a container of the image runs with.
    #[serde(default, deserialize_with = "null_default")]
    pub config: ContainerConfig,
    /// Fields that this type doesn't know, in the order they came (`container_config`, `docker_version`,
    /// `moby.buildkit.cache.v0`, …).
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl ImageConfig {
    /// The config of an image of nothing (`FROM scratch`) for `platform`.
    pub fn empty(platform: &Platform) -> Self {
        let mut image = Self::default();
        image.set_platform(platform);
        image
    }

    /// Reads a config.
    ///
    /// # Errors
    /// When it is no JSON of that shape.
    pub fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Compact JSON in Go's spelling and the order of the struct (unknown fields last).
    pub fn encode(&self) -> Vec<u8> {
        // Strings, numbers, booleans and maps with string keys: encoding cannot fail.
        gojson::to_vec(self).unwrap_or_default()
    }

    /// The platform that the image says it is for, not normalised.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
        }
    }

    /// Sets the five platform fields.
    pub fn set_platform(&mut self, platform: &Platform) {
        self.architecture.clone_from(&platform.architecture);
        self.os.clone_from(&platform.os);
        self.os_version.clone_from(&platform.os_version);
        self.os_features.clone_from(&platform.os_features);
        self.variant.clone_from(&platform.variant);
    }
}

/// The layers of an image, uncompressed digests, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers", deserialize_with = "null_default")]
    pub kind: Cow<'static, str>,
    /// The diff IDs.
    #[serde(default, deserialize_with = "null_default")]
    pub diff_ids: Vec<Digest>,
}

fn layers() -> Cow<'static, str> {
    Cow::Borrowed("layers")
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: layers(), diff_ids: Vec::new() }
    }
}

/// One step of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// When the step was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// The command.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub created_by: String,
    /// Who did it.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub author: String,
    /// A remark; builders of Dockerfiles sign here.
    #[serde(default, skip_serializing_if = "str::is_empty", deserialize_with = "null_default")]
    pub comment: Cow<'static, str>,
    /// The step made no layer.
    #[serde(default, skip_serializing_if = "is_false", deserialize_with = "null_default")]
    pub empty_layer: bool,
}

/// What a container of the image runs with. Names are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`, by name or number.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub user: String,
    /// Ports as `80/tcp`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", with = "set_as_map")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`, in the order of definition.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub env: Vec<String>,
    /// The fixed beginning of the command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub entrypoint: Vec<String>,
    /// The command line's default rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub cmd: Vec<String>,
    /// Folders that get volumes.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", with = "set_as_map")]
    pub volumes: BTreeSet<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub working_dir: String,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the container to end.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub stop_signal: String,
    /// The command is escaped already (matters on Windows).
    #[serde(default, skip_serializing_if = "is_false", deserialize_with = "null_default")]
    pub args_escaped: bool,
    /// How to see that a container is well. Docker's extension, as the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthCheck>,
    /// Instructions for images built on this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub on_build: Vec<String>,
    /// The shell for the shell forms of RUN, CMD and ENTRYPOINT.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub shell: Vec<String>,
    /// Fields that this type doesn't know (`Hostname`, `AttachStdin`, …).
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A container's health check. Durations are nanoseconds; zero means the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthCheck {
    /// `[]` inherits, `["NONE"]` disables, `["CMD", …]` runs a program, `["CMD-SHELL", …]` a shell line.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub test: Vec<String>,
    /// Time between two checks.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub interval: i64,
    /// A check that takes longer has failed.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub timeout: i64,
    /// Failures this soon after the start do not count.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub start_period: i64,
    /// Time between two checks during the start period.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub start_interval: i64,
    /// So many failures in a row make the container unhealthy.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(b: &bool) -> bool {
    !b
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Go writes sets as maps to empty structs: `{"80/tcp":{}}`.
mod set_as_map {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize)]
    struct Empty {}

    pub(super) fn serialize<S: Serializer>(set: &BTreeSet<String>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(set.iter().map(|k| (k, Empty {})))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(d)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_keeps_unknown_fields() {
        let json = r#"{"created":"2024-01-02T03:04:05Z","architecture":"amd64","os":"windows","os.version":"10.0.1.2","rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"a \u0026\u0026 b","empty_layer":true}],"config":{"ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Cmd":["x"],"ArgsEscaped":true,"Healthcheck":{"Test":["NONE"]},"OnBuild":["RUN x"],"Hostname":"h"},"docker_version":"1"}"#;
        let image = ImageConfig::decode(json.as_bytes()).unwrap();
        assert_eq!(image.extra["docker_version"], "1");
        assert_eq!(image.config.extra["Hostname"], "h");
        assert_eq!(String::from_utf8(image.encode()).unwrap(), json);
    }

    #[test]
    fn nulls_are_defaults() {
        let json = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Volumes":null,"Labels":null,"Healthcheck":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let image = ImageConfig::decode(json.as_bytes()).unwrap();
        assert_eq!(image.config, ContainerConfig::default());
        assert_eq!(
            String::from_utf8(image.encode()).unwrap(),
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{}}"#
        );
        assert!(ImageConfig::decode(br#"{"config":{"Cmd":"x"}}"#).is_err());
        assert!(ImageConfig::decode(b"[]").is_err());
        assert!(ImageConfig::decode(b"{").is_err());
    }
}
