//! Control groups: what keeps containers from devices, and per container limits, samples and the trace of a kill for
//! lack of memory.
//!
//! ```text
//!   <hierarchy>/kiln/<daemon pid>-<n>/sandbox   the zygote and, without limits, its containers; device rules are here
//!   <hierarchy>/kiln/<daemon pid>-c/<id>        a container with limits, samples or devices of its own
//!   <hierarchy>/<parent>/buildkit/<id>          one with a parent
//! ```
//!
//! Being born in a cgroup costs nothing, moving into one waits for the kernel's other processors. So containers are
//! born in their zygote's cgroup, and get one of their own only where somebody asks for what needs it. Works with v2,
//! v1 and both side by side. Where no device rules can be set, file systems of containers hold no devices (`nodev`).

mod device;
mod layout;
mod limits;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};

pub(super) use layout::Layout;

use super::device::Device;
use super::wire::CgroupView;
use crate::{Error, Resources, Result, Sample};

/// The cgroup of a zygote.
#[derive(Debug)]
pub(super) struct Sandbox {
    folder: PathBuf,
}

impl Sandbox {
    /// Makes a cgroup whose processes can use harmless devices only; `None` if that is not possible here.
    pub(super) fn new(layout: &Layout) -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("kiln/{}-{}/sandbox", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let made = if let Some(devices) = layout.legacy_path("devices") {
            let folder = devices.join(name);
            make(&folder).and_then(|()| device::confine_legacy(&folder, &[])).map(|()| folder)
        } else if let Some(unified) = layout.unified.as_deref() {
            let folder = unified.join(name);
            make(&folder).and_then(|()| device::confine(&folder, &[])).map(|()| folder)
        } else {
            return None;
        };
        match made {
            Ok(folder) => Some(Self { folder }),
            Err(error) => {
                tracing::warn!(%error, "no device cgroup: containers' file systems are mounted nodev");
                None
            }
        }
    }

    /// Moves a process into it.
    pub(super) fn admit(&self, pid: u32) -> io::Result<()> {
        std::fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        remove(&self.folder);
        remove_parents(&self.folder);
    }
}

/// Removes cgroups of daemons that did not end in order.
pub(super) fn sweep(layout: &Layout) {
    for hierarchy in layout.all() {
        let Ok(entries) = std::fs::read_dir(hierarchy.join("kiln")) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.split_once('-')).map(|(pid, _)| pid) else {
                continue;
            };
            if !Path::new("/proc").join(pid).exists() {
                remove_children(&entry.path());
                remove(&entry.path());
            }
        }
    }
}

/// A cgroup of one container, in every hierarchy that it needs.
#[derive(Debug)]
pub(super) struct Cgroup {
    relative: PathBuf,
    folders: Vec<PathBuf>,
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    view: CgroupView,
    /// Why its process stays in its zygote's cgroup, whose rules do not let its devices in.
    without_rules: Option<io::Error>,
}

/// What a container wants of cgroups.
pub(super) struct Wanted<'a> {
    pub(super) id: &'a str,
    pub(super) parent: Option<&'a str>,
    pub(super) resources: &'a Resources,
    pub(super) samples: bool,
    pub(super) sandbox: bool,
    /// Devices that it may use beyond the harmless.
    pub(super) devices: &'a [Device],
}

impl Wanted<'_> {
    /// Whether it wants anything that needs a cgroup of its own.
    pub(super) fn anything(&self) -> bool {
        self.parent.is_some() || !self.resources.is_unlimited() || self.samples || self.has_rules()
    }

    /// Whether its device rules are not those of its zygote.
    fn has_rules(&self) -> bool {
        self.sandbox && !self.devices.is_empty()
    }
}

impl Cgroup {
    /// Makes it and sets its limits.
    ///
    /// # Errors
    ///
    /// If a limit that was asked for cannot be set. Without limits, whatever cannot be made is left out.
    pub(super) fn new(layout: &Layout, wanted: &Wanted<'_>) -> Result<Self> {
        let relative = relative(wanted)?;
        let view = layout.view(wanted.sandbox, true);
        let mut cgroup = Self::empty(relative.clone());
        cgroup.view = view;
        if let Some(limit) = limits::unmet(layout, wanted.resources) {
            let feature = format!("a limit of {limit} (no such cgroup controller)");
            return Err(Error::Unsupported { feature, place: "on this machine" });
        }
        match cgroup.fill(layout, wanted, &relative) {
            Ok(()) => Ok(cgroup),
            Err(source) if wanted.resources.is_unlimited() => {
                tracing::debug!(error = %source, "no cgroup for the container");
                cgroup.without_rules = Some(source).filter(|_| wanted.has_rules());
                Ok(cgroup)
            }
            Err(source) => Err(Error::Setup { step: format!("limit resources of {}", wanted.id), source }),
        }
    }

    /// One that an OCI runtime will make, with all limits. It is removed here.
    pub(super) fn adopt(layout: &Layout, wanted: &Wanted<'_>) -> Result<Self> {
        let relative = relative(wanted)?;
        let folders: Vec<PathBuf> = layout.all().map(|hierarchy| hierarchy.join(&relative)).collect();
        let memory =
            layout.legacy_path("memory").or(layout.unified.as_deref()).map(|root| root.join(&relative));
        let mut cgroup = Self::empty(relative);
        (cgroup.folders, cgroup.memory) = (folders, memory);
        Ok(cgroup)
    }

    fn empty(relative: PathBuf) -> Self {
        let view = CgroupView::None;
        Self { relative, folders: Vec::new(), unified: None, memory: None, view, without_rules: None }
    }

    /// That its process may use the devices that it was made for, if `confined`: its zygote's cgroup has rules. Where nothing
    /// keeps devices from containers, no rule has to let them in.
    ///
    /// # Errors
    ///
    /// Why no rules could be set.
    pub(super) fn lets_devices_in(&mut self, confined: bool) -> Result<()> {
        match self.without_rules.take().filter(|_| confined) {
            None => Ok(()),
            Some(source) => Err(Error::Setup { step: "let devices in by a cgroup".to_owned(), source }),
        }
    }

    /// Its path in every hierarchy.
    pub(super) fn path(&self) -> String {
        format!("/{}", self.relative.display())
    }

    fn fill(&mut self, layout: &Layout, wanted: &Wanted<'_>, relative: &Path) -> io::Result<()> {
        if let Some(unified) = &layout.unified {
            let folder = unified.join(relative);
            if layout.legacy.is_empty() {
                limits::delegate(unified, relative)?;
            }
            if wanted.sandbox && layout.legacy_path("devices").is_none() {
                self.add_with(&folder, |folder| device::confine(folder, wanted.devices))?;
            } else {
                self.add(&folder)?;
            }
            if layout.legacy.is_empty() {
                limits::set(&folder, wanted.resources)?;
                self.memory = Some(folder.clone());
            }
            self.unified = Some(folder);
        }
        for hierarchy in &layout.legacy {
            let needed =
                wanted.parent.is_some() || limits::needs(hierarchy, wanted.resources, wanted.samples);
            if hierarchy.controls("devices") {
                // Otherwise the rules are on the zygote's cgroup, which the container stays in.
                if wanted.has_rules() {
                    let folder = hierarchy.path.join(relative);
                    self.add_with(&folder, |folder| device::confine_legacy(folder, wanted.devices))?;
                }
                continue;
            }
            if !needed {
                continue;
            }
            let folder = hierarchy.path.join(relative);
            limits::prepare_legacy(hierarchy, &folder)?;
            self.add(&folder)?;
            limits::set_legacy(hierarchy, &folder, wanted.resources)?;
            if hierarchy.controls("memory") {
                self.memory = Some(folder);
            }
        }
        Ok(())
    }

    fn add(&mut self, folder: &Path) -> io::Result<()> {
        self.add_with(folder, |_| Ok(()))
    }

    /// Adds one that is entered only if its rules could be set: without, it would let every device in.
    fn add_with(&mut self, folder: &Path, rules: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        make(folder)?;
        match rules(folder) {
            Ok(()) => {
                self.folders.push(folder.to_owned());
                Ok(())
            }
            Err(error) => {
                remove(folder);
                remove_parents(folder);
                Err(error)
            }
        }
    }

    /// The folder to be born in, if it is a v2 cgroup.
    pub(super) fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        let Some(folder) = &self.unified else { return Ok(None) };
        let opened = rustix::fs::openat(CWD, folder, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Some(opened?))
    }

    /// Files that a process writes itself into, to be inside. With `all`, also that of its birthplace.
    pub(super) fn doors(&self, all: bool) -> io::Result<Vec<OwnedFd>> {
        let open = |folder: &PathBuf| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(CWD, folder.join("cgroup.procs"), flags, Mode::empty())?)
        };
        self.folders.iter().filter(|folder| all || Some(*folder) != self.unified.as_ref()).map(open).collect()
    }

    /// What the container sees of cgroups.
    pub(super) fn view(&self) -> &CgroupView {
        &self.view
    }

    /// Whether the kernel killed a process of it for lack of memory.
    pub(super) fn oom_killed(&self) -> bool {
        self.memory.as_deref().is_some_and(|folder| limits::oom_kills(folder) > 0)
    }

    /// Measures it now.
    pub(super) fn sample(&self) -> Sample {
        limits::sample(&self.folders)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            remove(folder);
            remove_parents(folder);
        }
    }
}

/// `<parent>/buildkit/<id>`, with nothing that climbs.
fn relative(wanted: &Wanted<'_>) -> Result<PathBuf> {
    let Some(parent) = wanted.parent else {
        return Ok(format!("kiln/{}-c/{}", std::process::id(), wanted.id).into());
    };
    let mut path = PathBuf::new();
    for name in parent.split('/').filter(|name| !matches!(*name, "" | ".")) {
        if name == ".." || name.contains('\0') {
            return Err(Error::Invalid {
                field: "cgroup parent",
                problem: format!("{parent:?} leaves the hierarchy"),
            });
        }
        if name.contains(':') || parent.ends_with(':') {
            let feature = format!("a systemd slice as cgroup parent ({parent})");
            return Err(Error::Unsupported { feature, place: "yet: give a path" });
        }
        path.push(name);
    }
    path.push("buildkit");
    path.push(wanted.id);
    Ok(path)
}

fn make(folder: &Path) -> io::Result<()> {
    // Somebody else may remove a parent that is empty just then.
    std::fs::create_dir_all(folder).or_else(|_| std::fs::create_dir_all(folder))
}

/// Removes those parents that only we make and that are empty now.
fn remove_parents(folder: &Path) {
    for parent in folder.ancestors().skip(1).take(2) {
        let ours = parent.ancestors().take(2).any(|path| path.file_name().is_some_and(|name| name == "kiln"));
        if !ours || std::fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

/// Removes an empty cgroup; one whose last process is just leaving, a moment later.
fn remove(folder: &Path) {
    for pause in [0, 1, 5, 20, 100, 500] {
        std::thread::sleep(Duration::from_millis(pause));
        match std::fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return tracing::warn!(%error, folder = %folder.display(), "a cgroup stays behind");
            }
            _ => return,
        }
    }
    tracing::warn!(folder = %folder.display(), "a cgroup stays behind: it has processes");
}

fn remove_children(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_children(&entry.path());
        remove(&entry.path());
    }
}

fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, folder, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn attach_program(folder: &Path, program: &[super::sys::BpfInstruction]) -> io::Result<()> {
    super::sys::attach_device_program(open_folder(folder)?.as_fd(), program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::Hierarchy;

    fn wanted<'a>(resources: &'a Resources, devices: &'a [Device]) -> Wanted<'a> {
        Wanted { id: "x", parent: None, resources, samples: false, sandbox: true, devices }
    }

    fn null() -> Vec<Device> {
        let node = kiln_cdi::DeviceNode {
            path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            ..kiln_cdi::DeviceNode::default()
        };
        super::super::device::resolve(&[node]).unwrap()
    }

    #[test]
    fn a_cgroup_without_its_rules_is_not_entered() {
        let (folder, resources, devices) = (tempfile::tempdir().unwrap(), Resources::default(), null());
        std::fs::write(folder.path().join("cgroup.controllers"), "").unwrap();
        let own = format!("kiln/{}-c/x", std::process::id());
        // A rule that cannot be written; a program that can be attached to no ordinary folder.
        std::fs::create_dir_all(folder.path().join(&own).join("devices.allow")).unwrap();
        let path = folder.path().to_owned();
        let legacy = vec![Hierarchy { path: path.clone(), options: "devices".to_owned() }];
        for layout in [Layout { unified: None, legacy }, Layout { unified: Some(path), legacy: Vec::new() }] {
            let mut cgroup = Cgroup::new(&layout, &wanted(&resources, &devices)).unwrap();
            assert!(cgroup.birthplace().unwrap().is_none() && cgroup.folders.is_empty(), "{cgroup:?}");
            let error = cgroup.lets_devices_in(true).unwrap_err().to_string();
            assert!(error.contains("let devices in by a cgroup"), "{error}");
            let mut cgroup = Cgroup::new(&layout, &wanted(&resources, &devices)).unwrap();
            assert!(cgroup.lets_devices_in(false).is_ok());
            let limited = Resources { memory: 1 << 30, ..Resources::default() };
            assert!(Cgroup::new(&layout, &wanted(&limited, &devices)).is_err());
        }
    }

    #[test]
    fn rules_are_written_where_the_container_goes() {
        let (folder, resources, devices) = (tempfile::tempdir().unwrap(), Resources::default(), null());
        let legacy = vec![Hierarchy { path: folder.path().to_owned(), options: "devices".to_owned() }];
        let layout = Layout { unified: None, legacy };
        let cgroup = Cgroup::new(&layout, &wanted(&resources, &devices)).unwrap();
        let [own] = cgroup.folders.as_slice() else { panic!("{cgroup:?}") };
        assert_eq!(std::fs::read_to_string(own.join("devices.deny")).unwrap(), "a");
        // An ordinary file keeps the last of them.
        assert_eq!(std::fs::read_to_string(own.join("devices.allow")).unwrap(), "c 1:3 rwm");
        std::fs::remove_dir_all(own).unwrap();
    }
}
