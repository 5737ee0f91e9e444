//! `buildkitd.toml`: every key of BuildKit's. One that is not known, or not supported yet, is an error that names it.

#![expect(
    missing_docs,
    reason = "the keys are those of buildkitd.toml, which docs/buildkitd.toml.md describes"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::Error;

/// The file as it is written. Sections that nothing here can honour yet are kept as they are, to be refused by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub debug: Option<bool>,
    pub trace: Option<bool>,
    pub root: Option<PathBuf>,
    #[serde(rename = "insecure-entitlements", default)]
    pub insecure_entitlements: Vec<String>,
    #[serde(rename = "proxyNetwork")]
    pub proxy_network: Option<bool>,
    #[serde(rename = "provenanceEnvDir")]
    pub provenance_env_dir: Option<PathBuf>,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub grpc: Grpc,
    #[serde(default)]
    pub otel: Otel,
    #[serde(default)]
    pub cdi: Cdi,
    #[serde(default)]
    pub worker: Workers,
    #[serde(default)]
    pub registry: BTreeMap<String, Registry>,
    #[serde(default)]
    pub dns: Dns,
    #[serde(default)]
    pub history: History,
    #[serde(default)]
    pub frontend: BTreeMap<String, Frontend>,
    #[serde(default)]
    pub system: System,
    pub cache: Option<toml::Table>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: Option<String>,
    pub level: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    #[serde(default)]
    pub address: Vec<String>,
    #[serde(rename = "debugAddress")]
    pub debug_address: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    #[serde(rename = "securityDescriptor")]
    pub security_descriptor: Option<String>,
    #[serde(default)]
    pub tls: Tls,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otel {
    #[serde(rename = "socketPath")]
    pub socket_path: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cdi {
    pub disabled: Option<bool>,
    #[serde(rename = "specDirs")]
    pub spec_dirs: Option<Vec<PathBuf>>,
    #[serde(rename = "autoAllowed")]
    pub auto_allowed: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    #[serde(default)]
    pub oci: Worker,
    /// Looked at only for `enabled`: there is no such worker yet.
    #[serde(default)]
    pub containerd: toml::Table,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    pub enabled: Option<bool>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub platforms: Vec<String>,
    pub snapshotter: Option<String>,
    #[serde(rename = "proxySnapshotterPath")]
    pub proxy_snapshotter_path: Option<String>,
    #[serde(rename = "stargzSnapshotter")]
    pub stargz_snapshotter: Option<toml::Table>,
    pub rootless: Option<bool>,
    #[serde(rename = "noProcessSandbox")]
    pub no_process_sandbox: Option<bool>,
    pub binary: Option<PathBuf>,
    #[serde(rename = "apparmor-profile")]
    pub apparmor_profile: Option<String>,
    pub selinux: Option<bool>,
    #[serde(rename = "max-parallelism")]
    pub max_parallelism: Option<usize>,
    #[serde(rename = "defaultCgroupParent")]
    pub default_cgroup_parent: Option<String>,
    #[serde(rename = "userRemapUnsupported")]
    pub user_remap: Option<String>,
    #[serde(rename = "networkMode")]
    pub network_mode: Option<String>,
    #[serde(rename = "cniConfigPath")]
    pub cni_config_path: Option<PathBuf>,
    #[serde(rename = "cniBinaryPath")]
    pub cni_binary_path: Option<PathBuf>,
    #[serde(rename = "cniPoolSize")]
    pub cni_pool_size: Option<usize>,
    #[serde(rename = "bridgeName")]
    pub bridge_name: Option<String>,
    #[serde(rename = "bridgeSubnet")]
    pub bridge_subnet: Option<String>,
    pub gc: Option<bool>,
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<Amount>,
    #[serde(rename = "maxUsedSpace")]
    pub max_used_space: Option<Amount>,
    #[serde(rename = "minFreeSpace")]
    pub min_free_space: Option<Amount>,
    #[serde(rename = "gckeepstorage")]
    pub gc_keep_storage: Option<Amount>,
    #[serde(rename = "gcpolicy", default)]
    pub gc_policy: Vec<GcPolicy>,
}

/// A number, or a text with a unit.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// Bytes or seconds.
    Number(u64),
    /// With a unit.
    Text(String),
}

impl Amount {
    /// The amount as a text.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcPolicy {
    #[serde(default)]
    pub all: bool,
    #[serde(default)]
    pub filters: Vec<String>,
    #[serde(rename = "keepDuration")]
    pub keep_duration: Option<Amount>,
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<Amount>,
    #[serde(rename = "maxUsedSpace")]
    pub max_used_space: Option<Amount>,
    #[serde(rename = "minFreeSpace")]
    pub min_free_space: Option<Amount>,
    #[serde(rename = "keepBytes")]
    pub keep_bytes: Option<Amount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    #[serde(default)]
    pub mirrors: Vec<String>,
    pub http: Option<bool>,
    pub insecure: Option<bool>,
    #[serde(default)]
    pub ca: Vec<PathBuf>,
    #[serde(default)]
    pub keypair: Vec<KeyPair>,
    #[serde(rename = "tlsconfigdir", default)]
    pub tls_config_dir: Vec<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    pub key: PathBuf,
    pub cert: PathBuf,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    #[serde(default)]
    pub nameservers: Vec<String>,
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(rename = "searchDomains", default)]
    pub search_domains: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    #[serde(rename = "maxAge")]
    pub max_age: Option<Amount>,
    #[serde(rename = "maxEntries")]
    pub max_entries: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frontend {
    pub enabled: Option<bool>,
    #[serde(rename = "allowedRepositories", default)]
    pub allowed_repositories: Vec<String>,
    /// Ours: whether `dockerfile.v0` stands for the official frontend images.
    #[serde(rename = "replacesImages")]
    pub replaces_images: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    #[serde(rename = "platformsCacheMaxAge")]
    pub platforms_cache_max_age: Option<Amount>,
    #[serde(rename = "maxRegistryConcurrency")]
    pub max_registry_concurrency: Option<u64>,
}

/// Reads the file. One that is not there is empty, unless it was `asked` for.
///
/// # Errors
/// [`Error::Config`] with the line and key that are wrong.
pub fn read(path: &Path, asked: bool) -> Result<File, Error> {
    let bad = |problem: String| Error::Config { path: path.to_owned(), problem };
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| bad(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => Ok(File::default()),
        Err(error) => Err(bad(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("buildkitd.toml");
        std::fs::write(&path, text).unwrap();
        read(&path, true).map_err(|e| e.to_string())
    }

    #[test]
    fn a_mistyped_key_is_named_with_its_line() {
        let error = parse("root = \"/x\"\n[worker.oci]\nmax-paralelism = 4\n").unwrap_err();
        assert!(error.contains("max-paralelism") && error.contains('3'), "{error}");
    }

    #[test]
    fn registries_and_policies_are_read() {
        let file = parse(
            "insecure-entitlements = [\"network.host\"]\n\
             [registry.\"docker.io\"]\nmirrors = [\"localhost:5000\"]\n\
             [[worker.oci.gcpolicy]]\nkeepDuration = \"48h\"\nmaxUsedSpace = \"512MB\"\nfilters = [\"type==source.local\"]\n",
        )
        .unwrap();
        assert_eq!(file.registry["docker.io"].mirrors, ["localhost:5000"]);
        assert_eq!(file.worker.oci.gc_policy.len(), 1);
    }

    #[test]
    fn a_missing_file_is_empty_unless_it_was_asked_for() {
        assert!(read(Path::new("/nonexistent/buildkitd.toml"), false).is_ok());
        assert!(read(Path::new("/nonexistent/buildkitd.toml"), true).is_err());
    }
}
