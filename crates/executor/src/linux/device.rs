//! Device nodes of a container: what is not said of them is as with the host's.

use std::io;
use std::path::Path;

use kiln_cdi::{DeviceKind, DeviceNode};
use rustix::fs::FileType;

use super::mount;
use super::wire::{MountSetup, NodeSetup, SourceSetup};
use crate::{Error, Result};

/// Mode of a node that neither its description nor the host knows.
const DEFAULT_MODE: u32 = 0o666;
/// The largest numbers that the kernel has.
const MAX_NUMBERS: (u32, u32) = (0xfff, 0xf_ffff);

/// A device with all that has to be known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// Path in the container.
    pub(super) path: String,
    pub(super) node: NodeSetup,
    pub(super) access: Access,
}

/// What a container may do with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) make: bool,
}

impl Access {
    /// From some of `r`, `w` and `m`; none is all.
    fn parse(letters: &str) -> Self {
        let has = |letter| letters.is_empty() || letters.contains(letter);
        Self { read: has('r'), write: has('w'), make: has('m') }
    }

    /// The letters.
    pub(super) fn letters(self) -> String {
        [(self.read, 'r'), (self.write, 'w'), (self.make, 'm')]
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, l)| l)
            .collect()
    }
}

impl Device {
    /// How it is mounted: the node itself is made where nobody sees it.
    pub(super) fn mount(&self) -> MountSetup {
        MountSetup {
            dest: self.path.clone(),
            source: SourceSetup::Device(self.node.clone()),
            readonly: false,
            attributes: mount::NOSUID | mount::NOEXEC,
        }
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.node.kind)
    }

    /// The letter of its kind in rules and configurations.
    pub(super) fn letter(&self) -> &'static str {
        match self.kind() {
            FileType::BlockDevice => "b",
            FileType::Fifo => "p",
            _ => "c",
        }
    }
}

/// Looks up on the host what the descriptions leave open. Of those with one path the last counts.
pub(super) fn resolve(nodes: &[DeviceNode]) -> Result<Vec<Device>> {
    let mut out: Vec<Device> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let device = resolve_one(node)?;
        out.retain(|other| other.path != device.path);
        out.push(device);
    }
    Ok(out)
}

fn resolve_one(node: &DeviceNode) -> Result<Device> {
    let invalid = |problem: String| Error::Invalid { field: "device", problem };
    let host_path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let on_host = Host::look(host_path.as_ref());
    let kind = node.kind.map(file_type);
    // With its kind and number it need not exist on the host.
    let complete = kind.is_some_and(|kind| node.major != 0 || kind == FileType::Fifo);
    let (kind, major, minor, mode) = match (kind, complete, on_host) {
        (Some(kind), true, host) => (kind, node.major, node.minor, host.ok().map(|host| host.mode)),
        (_, _, Err(source)) => {
            return Err(Error::MountSource { dest: node.path.clone(), path: host_path.into(), source });
        }
        (Some(kind), _, Ok(host)) if kind != host.kind => {
            return Err(invalid(format!("{}: {host_path} is of another kind on the host", node.path)));
        }
        (_, _, Ok(Host { kind, major, minor, mode })) => {
            let (major, minor) = if node.major == 0 { (major, minor) } else { (node.major, node.minor) };
            (kind, major, minor, Some(mode))
        }
    };
    if major > MAX_NUMBERS.0 || minor > MAX_NUMBERS.1 {
        return Err(invalid(format!("{}: there is no device {major}:{minor}", node.path)));
    }
    let mode = node.mode.or(mode).unwrap_or(DEFAULT_MODE) & 0o777;
    let setup = NodeSetup { kind: kind.as_raw_mode(), major, minor, mode, uid: node.uid, gid: node.gid };
    Ok(Device { path: node.path.clone(), node: setup, access: Access::parse(&node.permissions) })
}

fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Pipe => FileType::Fifo,
    }
}

/// A device node of the host.
struct Host {
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
}

impl Host {
    /// What is at `path`; a link is no device.
    fn look(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::lstat(path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (major, minor) = match kind {
            FileType::BlockDevice | FileType::CharacterDevice => {
                (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
            }
            FileType::Fifo => (0, 0),
            _ => return Err(io::Error::other("is no device")),
        };
        Ok(Self { kind, major, minor, mode: stat.st_mode & 0o777 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str) -> DeviceNode {
        DeviceNode { path: path.to_owned(), ..DeviceNode::default() }
    }

    fn one(node: DeviceNode) -> Result<Device> {
        resolve(&[node]).map(|mut all| all.remove(0))
    }

    #[test]
    fn the_host_fills_in() {
        let device =
            one(DeviceNode { host_path: "/dev/null".into(), mode: Some(0o4640), ..node("/dev/x") }).unwrap();
        assert_eq!((device.path.as_str(), device.letter()), ("/dev/x", "c"));
        assert_eq!((device.node.major, device.node.minor, device.node.mode), (1, 3, 0o640));
        assert_eq!(device.access.letters(), "rwm");
    }

    #[test]
    fn what_is_complete_need_not_exist() {
        let complete = DeviceNode {
            kind: Some(DeviceKind::Block),
            major: 250,
            minor: 7,
            permissions: "r".into(),
            ..node("/dev/none")
        };
        let device = one(complete.clone()).unwrap();
        assert_eq!(
            (device.letter(), device.node.major, device.node.minor, device.node.mode),
            ("b", 250, 7, 0o666)
        );
        assert_eq!(device.access.letters(), "r");
        let pipe = one(DeviceNode { kind: Some(DeviceKind::Pipe), ..node("/dev/none") }).unwrap();
        assert_eq!((pipe.letter(), pipe.node.major), ("p", 0));
        assert!(one(DeviceNode { major: 0, ..complete.clone() }).is_err());
        assert!(one(DeviceNode { kind: None, ..complete }).is_err());
    }

    #[test]
    fn what_is_no_device_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file").to_string_lossy().into_owned();
        std::fs::write(&file, "").unwrap();
        let link = folder.path().join("link").to_string_lossy().into_owned();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [file, link] {
            let error = one(node(&path)).unwrap_err().to_string();
            assert!(error.contains(&path) && error.contains("is no device"), "{error}");
        }
        let error = one(node("/dev/there/is/none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot mount /dev/there/is/none: "), "{error}");
        let block = DeviceNode { kind: Some(DeviceKind::Block), ..node("/dev/null") };
        assert!(one(block).unwrap_err().to_string().contains("another kind"));
        let large = DeviceNode { kind: Some(DeviceKind::Character), major: 4096, ..node("/dev/x") };
        assert!(one(large).unwrap_err().to_string().contains("4096:0"));
    }

    #[test]
    fn the_last_of_a_path_counts() {
        let first = DeviceNode { host_path: "/dev/null".into(), ..node("/dev/x") };
        let last = DeviceNode { host_path: "/dev/zero".into(), ..node("/dev/x") };
        let devices = resolve(&[first, last]).unwrap();
        assert_eq!(devices.iter().map(|d| d.node.minor).collect::<Vec<_>>(), [5]);
    }
}
