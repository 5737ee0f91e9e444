//! Limits and measurements of a cgroup, in the files of both versions.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::layout::{Hierarchy, Layout};
use crate::{MemoryUse, Resources, Sample};

/// The kernel's period of CPU quotas, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Enables all controllers on the way from the root to the parent of `relative`, as far as possible.
pub(super) fn delegate(root: &Path, relative: &Path) -> io::Result<()> {
    let available = std::fs::read_to_string(root.join("cgroup.controllers"))?;
    let mut folder = root.to_owned();
    for name in relative {
        for controller in available.split_whitespace() {
            // Some cannot be enabled while the root has processes; a limit that needs it will say so.
            if let Err(error) =
                std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
            {
                tracing::debug!(%error, controller, folder = %folder.display(), "cgroup controller not enabled");
            }
        }
        folder.push(name);
        if folder != root.join(relative) {
            super::make(&folder)?;
        }
    }
    Ok(())
}

/// Sets limits of a v2 cgroup.
pub(super) fn set(folder: &Path, resources: &Resources) -> io::Result<()> {
    let write = |file: &str, value: String| put(folder, file, &value);
    let Resources { memory, memory_swap, cpu_shares, cpu_quota, cpu_period, cpuset_cpus, cpuset_mems } =
        resources;
    if *memory > 0 {
        write("memory.max", memory.to_string())?;
    }
    match *memory_swap {
        0 => {}
        -1 => write("memory.swap.max", "max".to_owned())?,
        both => write("memory.swap.max", (both - memory).max(0).to_string())?,
    }
    if *cpu_shares > 0 {
        write("cpu.weight", weight(*cpu_shares).to_string())?;
    }
    if *cpu_quota != 0 || *cpu_period != 0 {
        let quota = if *cpu_quota > 0 { cpu_quota.to_string() } else { "max".to_owned() };
        let period = if *cpu_period == 0 { DEFAULT_PERIOD } else { *cpu_period };
        write("cpu.max", format!("{quota} {period}"))?;
    }
    if !cpuset_cpus.is_empty() {
        write("cpuset.cpus", cpuset_cpus.clone())?;
    }
    if !cpuset_mems.is_empty() {
        write("cpuset.mems", cpuset_mems.clone())?;
    }
    Ok(())
}

/// The v2 weight (1 to 10000) of v1 shares (2 to 262144), such that the defaults 1024 and 100 meet.
fn weight(shares: u64) -> u64 {
    let exponent = (shares.clamp(2, 262_144) as f64).log2();
    let weight = 10f64.powf((exponent * exponent + 125.0 * exponent) / 612.0 - 7.0 / 34.0);
    (weight.ceil() as u64).clamp(1, 10_000)
}

/// Whether a limit is asked for that a controller has to enforce.
fn limited(resources: &Resources, controller: &str) -> bool {
    match controller {
        "memory" => resources.memory != 0 || resources.memory_swap != 0,
        "cpu" => resources.cpu_shares != 0 || resources.cpu_quota != 0 || resources.cpu_period != 0,
        "cpuset" => !resources.cpuset_cpus.is_empty() || !resources.cpuset_mems.is_empty(),
        _ => false,
    }
}

/// The controller of a limit that this machine cannot enforce.
pub(super) fn unmet(layout: &Layout, resources: &Resources) -> Option<&'static str> {
    let unified = layout.legacy.is_empty() && layout.unified.is_some();
    ["memory", "cpu", "cpuset"].into_iter().find(|controller| {
        limited(resources, controller) && !unified && layout.legacy_path(controller).is_none()
    })
}

/// Whether limits or samples need a cgroup in a v1 hierarchy.
pub(super) fn needs(hierarchy: &Hierarchy, resources: &Resources, samples: bool) -> bool {
    let measured =
        ["memory", "cpuacct", "pids", "blkio"].iter().any(|controller| hierarchy.controls(controller));
    hierarchy.options.split(',').any(|controller| limited(resources, controller)) || (samples && measured)
}

/// A v1 cpuset is empty, and of no use, until its parents' values are copied down.
pub(super) fn prepare_legacy(hierarchy: &Hierarchy, folder: &Path) -> io::Result<()> {
    if !hierarchy.controls("cpuset") {
        return Ok(());
    }
    let mut parent = hierarchy.path.clone();
    for name in folder.strip_prefix(&hierarchy.path).unwrap_or(folder) {
        let child = parent.join(name);
        super::make(&child)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if std::fs::read_to_string(child.join(file))?.trim().is_empty() {
                put(&child, file, std::fs::read_to_string(parent.join(file))?.trim())?;
            }
        }
        parent = child;
    }
    Ok(())
}

/// Sets those limits that a v1 hierarchy is about.
pub(super) fn set_legacy(hierarchy: &Hierarchy, folder: &Path, resources: &Resources) -> io::Result<()> {
    let write = |controller: &str, file: &str, value: i64| {
        if value == 0 || !hierarchy.controls(controller) {
            Ok(())
        } else {
            put(folder, file, &value.to_string())
        }
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    write("memory", "memory.limit_in_bytes", resources.memory)?;
    write("memory", "memory.memsw.limit_in_bytes", resources.memory_swap)?;
    write("cpu", "cpu.shares", number(resources.cpu_shares))?;
    write("cpu", "cpu.cfs_period_us", number(resources.cpu_period))?;
    write("cpu", "cpu.cfs_quota_us", resources.cpu_quota)?;
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !value.is_empty() && hierarchy.controls("cpuset") {
            put(folder, file, value)?;
        }
    }
    Ok(())
}

fn put(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    std::fs::write(folder.join(file), value)
        .map_err(|error| io::Error::new(error.kind(), format!("{file}={value}: {error}")))
}

/// Processes killed for lack of memory.
pub(super) fn oom_kills(folder: &Path) -> u64 {
    keyed(folder, "memory.events", "oom_kill")
        .or_else(|| keyed(folder, "memory.oom_control", "oom_kill"))
        .unwrap_or(0)
}

/// Measures a cgroup that is in the hierarchies `folders`.
pub(super) fn sample(folders: &[PathBuf]) -> Sample {
    let find = |read: &dyn Fn(&Path) -> Option<u64>| folders.iter().find_map(|folder| read(folder));
    let number = |file: &'static str| find(&|folder| single(folder, file));
    let key = |file: &'static str, key: &'static str| find(&|folder| keyed(folder, file, key));
    let cpu = |v2: &'static str, v1: &'static str| {
        key("cpu.stat", v2).map(|micros| micros.saturating_mul(1000)).or_else(|| number(v1))
    };
    let cpu_nanos = cpu("usage_usec", "cpuacct.usage").map(|all| {
        let user = cpu("user_usec", "cpuacct.usage_user").unwrap_or(0);
        (all, user, cpu("system_usec", "cpuacct.usage_sys").unwrap_or(0))
    });
    let memory =
        number("memory.current").or_else(|| number("memory.usage_in_bytes")).map(|current| MemoryUse {
            current,
            peak: number("memory.peak").or_else(|| number("memory.max_usage_in_bytes")),
            oom_kills: folders.iter().map(|folder| oom_kills(folder)).max().unwrap_or(0),
        });
    Sample {
        at: Some(SystemTime::now()),
        cpu_nanos,
        memory,
        io_bytes: folders.iter().find_map(|folder| io_bytes(folder)),
        pids: number("pids.current"),
    }
}

fn single(folder: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}

/// `key value` lines.
fn keyed(folder: &Path, file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(folder.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The sums of `rbytes=` and `wbytes=` over all devices.
fn io_bytes(folder: &Path) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(folder.join("io.stat")).ok()?;
    let sum = |key: &str| {
        text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
    };
    Some((sum("rbytes="), sum("wbytes=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_the_default_and_the_ends() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 100, 10_000));
        assert_eq!((weight(0), weight(u64::MAX)), (1, 10_000));
    }

    #[test]
    fn files_of_both_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("memory.events", "low 0\noom 3\noom_kill 2\n");
        write("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n");
        write("io.stat", "8:0 rbytes=1 wbytes=2 rios=1\n8:16 rbytes=10 wbytes=20\n");
        write("memory.current", "77\n");
        let sample = sample(&[folder.path().to_owned()]);
        assert_eq!(oom_kills(folder.path()), 2);
        assert_eq!(sample.cpu_nanos, Some((5000, 3000, 2000)));
        assert_eq!(sample.io_bytes, Some((11, 22)));
        assert_eq!(sample.memory.unwrap().current, 77);
        assert_eq!(sample.pids, None);
    }
}
