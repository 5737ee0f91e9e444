//! RUN and its flags.

use bytestring::ByteString;

use super::CommandLine;
use crate::word::Word;

/// `RUN [flags] command`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The command with its heredocs.
    pub command: CommandLine,
    /// `--mount`, in order.
    pub mounts: Vec<MountFlag>,
    /// `--network`
    pub network: NetworkMode,
    /// `--security`
    pub security: SecurityMode,
    /// `--device`, in order.
    pub devices: Vec<Device>,
    /// Names of the flags that were given, each once, without dashes.
    pub flags_used: Vec<&'static str>,
}

/// A `--mount` flag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountFlag {
    /// The value as written.
    pub raw: Word,
    /// What it means. Before [`super::Command::expand`] only `from` is filled in (it can't hold variables), and the
    /// rest has defaults.
    pub mount: Mount,
}

/// A mount of a RUN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `type`
    pub kind: MountType,
    /// `from`: stage, named context or image; empty for the build context.
    pub from: ByteString,
    /// `source`, `src`
    pub source: ByteString,
    /// `target`, `dst`, `destination`
    pub target: ByteString,
    /// `readonly`, `ro`, the opposite of `readwrite`, `rw`; by default true unless cache or tmpfs.
    pub read_only: bool,
    /// `size` of a tmpfs in bytes; 0 for no limit.
    pub size: i64,
    /// `id` of a cache, secret or ssh mount.
    pub id: ByteString,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// `required` of a secret or ssh mount.
    pub required: bool,
    /// `env` of a secret; an empty name means the default.
    pub env: Option<ByteString>,
    /// `mode`
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
}

/// The kinds of mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MountType {
    /// Files of the context or a stage.
    #[default]
    Bind,
    /// A folder that is kept between builds.
    Cache,
    /// A folder in memory.
    Tmpfs,
    /// A secret of the client, as a file or a variable.
    Secret,
    /// The client's ssh agent.
    Ssh,
}

impl MountType {
    /// All kinds, as they are spelled.
    pub const NAMES: [&'static str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

    /// As it is spelled.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// How steps that run at the same time share a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All use one folder at once.
    #[default]
    Shared,
    /// Each has its own.
    Private,
    /// One after the other.
    Locked,
}

impl Sharing {
    /// All modes, as they are spelled.
    pub const NAMES: [&'static str; 3] = ["shared", "private", "locked"];

    /// As it is spelled.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::Locked => "locked",
        }
    }
}

/// `--network`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// What the build says.
    #[default]
    Default,
    /// No network.
    None,
    /// The host's.
    Host,
}

/// `--security`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecurityMode {
    /// Confined.
    #[default]
    Sandbox,
    /// Privileged; needs an entitlement.
    Insecure,
}

/// `--device`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// CDI name (`vendor.com/class=name`).
    pub name: String,
    /// The build fails when it isn't there.
    pub required: bool,
}
