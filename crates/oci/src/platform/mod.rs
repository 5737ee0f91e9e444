//! Platforms: `os[(version[+feature…])]/arch[/variant]`, as containerd spells and matches them.

mod matcher;
mod parse;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::descriptor::null_default;

pub use matcher::PlatformMatcher;
pub use parse::PlatformError;

/// An operating system and a processor architecture. Fields are in the order of their JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Platform {
    /// Processor architecture in Go's names: `amd64`, `arm64`, `386`, …
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    /// Operating system in Go's names: `linux`, `windows`, …
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
    /// Features of the operating system that are needed, such as `win32k`.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub os_features: Vec<String>,
    /// Variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub variant: String,
}

impl Platform {
    /// A platform of OS and architecture, normalised.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self { os: os.into(), architecture: architecture.into(), ..Self::default() }.normalize()
    }

    /// Parses a platform specifier; what is missing comes from this machine.
    ///
    /// # Errors
    /// When `s` does not follow the grammar, or is a single word that is neither an OS nor an architecture.
    pub fn parse(s: &str) -> Result<Self, PlatformError> {
        parse::parse(s)
    }

    /// The platform of this machine, normalised.
    pub fn host() -> Self {
        let variant = if cfg!(target_arch = "arm") { "v7" } else { "" };
        Self { variant: variant.into(), ..Self::new(host_os(), host_arch()) }.normalize()
    }

    /// The canonical spelling of every field: `x86_64` becomes `amd64`, `arm64/v8` `arm64`, `arm` `arm/v7`.
    #[must_use]
    pub fn normalize(mut self) -> Self {
        if self.is_common() {
            return self;
        }
        self.os = parse::normalize_os(&self.os);
        (self.architecture, self.variant) = parse::normalize_arch(&self.architecture, &self.variant);
        self.os_features.sort();
        self.os_features.dedup();
        self
    }

    /// Whether [`Platform::normalize`] changes nothing.
    pub fn is_normal(&self) -> bool {
        self.is_common() || *self == self.clone().normalize()
    }

    /// One of those that nearly all are, which are normal.
    fn is_common(&self) -> bool {
        matches!(self.os.as_str(), "linux" | "windows")
            && matches!(self.architecture.as_str(), "amd64" | "arm64")
            && self.variant.is_empty()
            && self.os_features.is_empty()
    }

    /// Is the image for Windows? Decides paths, layer format, default shell and `PATH`.
    pub fn is_windows(&self) -> bool {
        self.os.eq_ignore_ascii_case("windows")
    }

    /// `os/arch[/variant]` without the OS version; what step names and map keys use.
    pub fn format(&self) -> String {
        if self.os.is_empty() {
            return "unknown".to_owned();
        }
        join(&self.os, &self.architecture, &self.variant)
    }

    /// The full specifier with OS version and features. [`Platform::parse`] reads it back.
    pub fn format_all(&self) -> String {
        parse::format_all(self)
    }
}

/// As Go's `path.Join`: empty elements vanish.
fn join(os: &str, arch: &str, variant: &str) -> String {
    [os, arch, variant].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("/")
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format_all())
    }
}

impl std::str::FromStr for Platform {
    type Err = PlatformError;
    fn from_str(s: &str) -> Result<Self, PlatformError> {
        Self::parse(s)
    }
}

/// The `PATH` that a step gets when the image sets none.
pub fn default_path_env(os: &str) -> &'static str {
    if os == "windows" {
        "c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0"
    } else {
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    }
}

fn host_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        os => os,
    }
}

fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        "mips64" if cfg!(target_endian = "little") => "mips64le",
        arch => arch,
    }
}
