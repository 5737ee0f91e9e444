//! Which cgroup hierarchies are mounted where.

use std::path::{Path, PathBuf};

use super::super::wire::CgroupView;

/// The hierarchies of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Layout {
    /// Where the unified hierarchy (v2) is; it has the controllers if no legacy hierarchy has them.
    pub(in super::super) unified: Option<PathBuf>,
    /// The v1 hierarchies.
    pub(in super::super) legacy: Vec<Hierarchy>,
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Hierarchy {
    pub(in super::super) path: PathBuf,
    /// `memory`, or `cpu,cpuacct`, or `name=systemd`: its mount options.
    pub(in super::super) options: String,
}

impl Hierarchy {
    /// Whether it has that controller.
    pub(in super::super) fn controls(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }
}

/// Options of every cgroup mount, which name no controller.
const PLAIN_OPTIONS: [&str; 7] =
    ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"];

impl Layout {
    /// That of the running system; nothing if it cannot be found out.
    pub(in super::super) fn detect() -> Self {
        std::fs::read_to_string("/proc/self/mountinfo").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Reads `mountinfo` (proc(5)).
    fn parse(mountinfo: &str) -> Self {
        let mut out = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, system)) = line.split_once(" - ") else { continue };
            let Some(path) = mount.split(' ').nth(4) else { continue };
            let mut system = system.split(' ');
            match (system.next(), system.nth(1)) {
                (Some("cgroup2"), _) if out.unified.is_none() => out.unified = Some(path.into()),
                (Some("cgroup"), Some(options)) => {
                    let named: Vec<&str> = options
                        .split(',')
                        .filter(|option| {
                            !PLAIN_OPTIONS.contains(option) && !option.starts_with("release_agent=")
                        })
                        .collect();
                    let options = named.join(",");
                    if !options.is_empty() && out.legacy.iter().all(|known| known.options != options) {
                        out.legacy.push(Hierarchy { path: path.into(), options });
                    }
                }
                _ => {}
            }
        }
        out
    }

    /// Where the v1 hierarchy of a controller is.
    pub(in super::super) fn legacy_path(&self, controller: &str) -> Option<&Path> {
        self.legacy
            .iter()
            .find(|hierarchy| hierarchy.controls(controller))
            .map(|hierarchy| hierarchy.path.as_path())
    }

    /// All roots.
    pub(in super::super) fn all(&self) -> impl Iterator<Item = &Path> {
        self.unified
            .iter()
            .map(PathBuf::as_path)
            .chain(self.legacy.iter().map(|hierarchy| hierarchy.path.as_path()))
    }

    /// What a container sees at `/sys/fs/cgroup`. v1 is ten mounts, so it is shown only to who has a cgroup of its own
    /// or may change what it sees.
    pub(in super::super) fn view(&self, sandbox: bool, own: bool) -> CgroupView {
        if self.legacy.is_empty() {
            return match self.unified {
                Some(_) => CgroupView::Unified { readonly: sandbox },
                None => CgroupView::None,
            };
        }
        if sandbox && !own {
            return CgroupView::None;
        }
        let hierarchies = self.legacy.iter().map(|hierarchy| {
            let name = hierarchy.path.file_name().map(|name| name.to_string_lossy().into_owned());
            (hierarchy.options.clone(), name.unwrap_or_else(|| hierarchy.options.clone()))
        });
        CgroupView::Legacy {
            readonly: sandbox,
            hierarchies: hierarchies.collect(),
            unified: self.unified.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_legacy_and_both() {
        let v2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = Layout::parse(v2);
        assert_eq!(layout.unified.as_deref(), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(layout.view(true, false), CgroupView::Unified { readonly: true });

        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(hybrid);
        assert_eq!(layout.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(layout.legacy_path("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(layout.legacy_path("memory"), None);
        assert_eq!(layout.legacy[2].options, "name=systemd");
        assert_eq!(layout.all().count(), 4);

        assert_eq!(Layout::parse("junk\n - cgroup2\n"), Layout::default());
    }
}
