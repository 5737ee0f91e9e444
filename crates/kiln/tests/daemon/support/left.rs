//! What somebody left behind: processes, mounts, cgroups. A namespace lives by one of the first two.

use std::path::Path;

use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};

use super::wait_for;

/// From now on, whoever loses its parent becomes this process's child, and so can be found.
pub(super) fn become_reaper() {
    set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// What was found.
pub(crate) struct Left;

impl Left {
    /// Waits until no process is left of daemons that have ended, all of whose clients have ended too.
    pub(crate) fn no_processes() {
        wait_for("the end of all processes", || {
            let all = descendants(std::process::id());
            for pid in &all {
                // A dead one that became our child is ours to bury.
                let pid = Pid::from_raw(*pid as i32).unwrap();
                let _not_ours = waitpid(Some(pid), WaitOptions::NOHANG);
            }
            all.is_empty().then_some(())
        });
    }

    /// Nothing is mounted that has to do with `folder`.
    pub(crate) fn no_mounts(folder: &Path) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = folder.to_str().unwrap();
        let left: Vec<_> = table.lines().filter(|line| line.contains(folder)).collect();
        assert_eq!(left, [""; 0], "mounts are left");
    }

    /// No cgroup is left of the daemon that was process `pid`.
    pub(crate) fn no_cgroups(pid: u32) {
        let left = cgroups(pid);
        assert_eq!(left, [""; 0], "cgroups are left");
    }
}

/// The cgroups of the daemon that is, or was, process `pid`.
pub(crate) fn cgroups(pid: u32) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let hierarchies = table.lines().filter(|line| line.contains(" - cgroup"));
    let mut found = Vec::new();
    for hierarchy in hierarchies.filter_map(|line| line.split(' ').nth(4)) {
        let Ok(entries) = Path::new(hierarchy).join("kiln").read_dir() else { continue };
        let paths = entries.flatten().map(|entry| entry.path());
        let ours =
            paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{pid}-")));
        found.extend(ours.map(|path| path.display().to_string()));
    }
    found
}

/// Children and further descendants of a process.
pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        parents.push((pid, rest.split(' ').nth(1).unwrap().parse::<u32>().unwrap()));
    }
    let mut found = vec![of];
    let mut index = 0;
    while index < found.len() {
        let parent = found[index];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        index += 1;
    }
    found.remove(0);
    found
}
