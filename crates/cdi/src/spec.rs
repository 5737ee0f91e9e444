//! What a specification says, checked.

use std::collections::BTreeMap;

/// One specification: the devices of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The version that it is written for, such as `0.6.0`.
    pub version: String,
    /// `vendor/class`.
    pub kind: String,
    /// What people or programs note about all its devices.
    pub annotations: BTreeMap<String, String>,
    /// At least one, each with a name of its own.
    pub devices: Vec<Device>,
    /// What a container needs that uses any of the devices.
    pub edits: ContainerEdits,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name within the kind.
    pub name: String,
    /// What people or programs note about it.
    pub annotations: BTreeMap<String, String>,
    /// What a container needs that uses it; never empty.
    pub edits: ContainerEdits,
}

/// Changes to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerEdits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Device nodes to be made.
    pub device_nodes: Vec<DeviceNode>,
    /// Files, folders and file systems to be mounted.
    pub mounts: Vec<Mount>,
    /// Programs of the host to be run in the container's life.
    pub hooks: Vec<Hook>,
    /// Groups that the process is in besides its own; 0 is none.
    pub additional_gids: Vec<u32>,
    /// Settings of resctrl.
    pub intel_rdt: Option<IntelRdt>,
    /// Network interfaces of the host that move into the container (`netDevices`), by their names there.
    pub net_devices: Vec<String>,
}

/// Settings of resctrl (`intelRdt`). What they are is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntelRdt {
    /// Some of them came with version 1.1.0 (`schemata`, `enableMonitoring`).
    pub recent: bool,
}

/// What a device node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `b`.
    Block,
    /// `c`, or `u` for an unbuffered one.
    Character,
    /// `p`.
    Pipe,
}

/// A device node in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// The node of the host whose kind, numbers and mode fill in what is not said here; empty: the same path.
    pub host_path: String,
    /// What it is; `None`: as on the host.
    pub kind: Option<DeviceKind>,
    /// Major number; 0 together with the minor number: as on the host.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits; `None`: as on the host.
    pub mode: Option<u32>,
    /// What the container may do with it: some of `r`, `w` and `m`; empty is all three.
    pub permissions: String,
    /// Owner; `None`: the container's user.
    pub uid: Option<u32>,
    /// Group; `None`: the container's.
    pub gid: Option<u32>,
}

/// Something mounted into the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// File or folder of the host, or what a file system calls its source.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// As `mount(8)` has them: `ro`, `nosuid`, `bind`, …
    pub options: Vec<String>,
    /// Type of file system; empty for what is bound.
    pub kind: String,
}

/// A moment in a container's life, as the OCI runtime specification names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookName {
    /// `prestart`.
    Prestart,
    /// `createRuntime`.
    CreateRuntime,
    /// `createContainer`.
    CreateContainer,
    /// `startContainer`.
    StartContainer,
    /// `poststart`.
    Poststart,
    /// `poststop`.
    Poststop,
}

impl HookName {
    const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// The name in specifications.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }
}

/// A program to be run in the container's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub name: HookName,
    /// Path of the program on the host; absolute.
    pub path: String,
    /// Its arguments, the first being its name.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// Seconds that it may take; `None`: as long as it likes.
    pub timeout: Option<u32>,
}

impl ContainerEdits {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
