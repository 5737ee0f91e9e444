//! Garbage collection and the ceiling of the store, as flags and `buildkitd.toml` say.

use std::path::Path;

use kiln_daemon::{
    Error,
    config::{Amount, GcPolicyTable, WorkerTable, parse_disk, parse_duration},
};
use kiln_worker::{GcPolicy, ceiling_of, default_gc_policy};

use super::settings::bad;

/// What is collected, and when.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gc {
    pub(super) policies: Vec<GcPolicy>,
    /// The most bytes that the store may take while builds run: the smallest that somebody has set. The default policies'
    /// own limits are none.
    pub(super) ceiling: Option<u64>,
}

/// Limits of the default policies, in bytes; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    reserved: u64,
    maximum: u64,
    free: u64,
}

/// The flags of garbage collection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GcFlags<'a> {
    pub(super) enabled: Option<bool>,
    pub(super) keep_storage: Option<&'a str>,
}

impl Gc {
    /// For a state folder `root`; `None` when garbage is not collected.
    pub(super) fn new(flags: GcFlags<'_>, worker: &WorkerTable, root: &Path) -> Result<Option<Self>, Error> {
        Self::on_disk(flags, worker, disk_size(root))
    }

    fn on_disk(flags: GcFlags<'_>, worker: &WorkerTable, disk: u64) -> Result<Option<Self>, Error> {
        if !flags.enabled.or(worker.gc).unwrap_or(true) {
            return Ok(None);
        }
        let limits = limits(flags, worker, disk)?;
        if !worker.gc_policy.is_empty() {
            let policies = worker.gc_policy.iter().map(|table| policy(table, disk));
            let policies = policies.collect::<Result<Vec<_>, _>>()?;
            // As for BuildKit, what is collected is said by the policies alone; how much there may be, by whoever says less.
            let own = limits.filter(|l| l.maximum > 0).map(|l| l.maximum.max(l.reserved));
            let ceiling = ceiling_of(&policies).into_iter().chain(own).min();
            return Ok(Some(Self { policies, ceiling }));
        }
        let policies = default_gc_policy(disk, limits.map(|l| (l.reserved, l.maximum, l.free)));
        let ceiling = limits.and_then(|_| ceiling_of(&policies));
        Ok(Some(Self { policies, ceiling }))
    }
}

/// The limits that somebody has set. Zeros are as good as nothing.
fn limits(flags: GcFlags<'_>, worker: &WorkerTable, disk: u64) -> Result<Option<Limits>, Error> {
    let amount = |key: &str, amount: &Option<Amount>| -> Result<u64, Error> {
        let key = format!("worker.oci.{key}");
        amount.as_ref().map_or(Ok(0), |a| parse_disk(&a.text(), disk).map_err(|e| bad(&key, e)))
    };
    let legacy = amount("gckeepstorage", &worker.gc_keep_storage)?;
    let mut limits = match flags.keep_storage {
        Some(text) => megabytes(text)?,
        None => Limits {
            reserved: amount("reservedSpace", &worker.reserved_space)?,
            maximum: amount("maxUsedSpace", &worker.max_used_space)?,
            free: amount("minFreeSpace", &worker.min_free_space)?,
        },
    };
    if limits == Limits::default() {
        limits.reserved = legacy;
    }
    Ok((limits != Limits::default()).then_some(limits))
}

/// `RESERVED[,FREE[,MAXIMUM]]` in megabytes.
fn megabytes(text: &str) -> Result<Limits, Error> {
    let wrong =
        || bad("--oci-worker-gc-keepstorage", format!("{text:?}: want RESERVED[,FREE[,MAXIMUM]] in MB"));
    let mut numbers = [0; 3];
    let parts: Vec<&str> = text.split(',').filter(|_| !text.is_empty()).collect();
    if parts.len() > 3 {
        return Err(wrong());
    }
    for (number, part) in numbers.iter_mut().zip(parts) {
        let megabytes: u64 = part.trim().parse().map_err(|_| wrong())?;
        *number = megabytes.checked_mul(1_000_000).ok_or_else(wrong)?;
    }
    let [reserved, free, maximum] = numbers;
    Ok(Limits { reserved, maximum, free })
}

fn policy(table: &GcPolicyTable, disk: u64) -> Result<GcPolicy, Error> {
    let size = |key: &str, amount: &Option<Amount>| -> Result<u64, Error> {
        let key = format!("worker.oci.gcpolicy.{key}");
        amount.as_ref().map_or(Ok(0), |a| parse_disk(&a.text(), disk).map_err(|e| bad(&key, e)))
    };
    let keep = match &table.keep_duration {
        None => std::time::Duration::ZERO,
        Some(amount) => {
            parse_duration(&amount.text()).map_err(|e| bad("worker.oci.gcpolicy.keepDuration", e))?
        }
    };
    let (reserved, legacy) =
        (size("reservedSpace", &table.reserved_space)?, size("keepBytes", &table.keep_bytes)?);
    let reserved = if reserved == 0 { legacy } else { reserved };
    Ok(GcPolicy {
        filters: table.filters.clone(),
        all: table.all,
        keep_duration_ms: u64::try_from(keep.as_millis()).unwrap_or(u64::MAX),
        reserved_space: reserved,
        max_used_space: size("maxUsedSpace", &table.max_used_space)?,
        min_free_space: size("minFreeSpace", &table.min_free_space)?,
    })
}

/// Bytes of the disk that holds `path`, or the nearest of its parents that exists; 0 when that cannot be told.
#[cfg(unix)]
fn disk_size(path: &Path) -> u64 {
    let stat = path.ancestors().find_map(|p| rustix::fs::statvfs(p).ok());
    stat.map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize))
}

#[cfg(not(unix))]
fn disk_size(_path: &Path) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 252 GiB, whose values were asked of BuildKit.
    const DISK: u64 = 270_582_939_648;
    const GB: u64 = 1_000_000_000;

    fn gc(text: &str, keep_storage: Option<&str>) -> Gc {
        let worker: WorkerTable = toml::from_str(text).unwrap();
        Gc::on_disk(GcFlags { enabled: None, keep_storage }, &worker, DISK).unwrap().unwrap()
    }

    /// Reserved, maximum and free of the third of the default policies.
    fn limits_of(gc: &Gc) -> (u64, u64, u64) {
        assert_eq!(gc.policies.len(), 4);
        let [first, rest @ ..] = gc.policies.as_slice() else { unreachable!("there are four") };
        assert_eq!((first.max_used_space, first.keep_duration_ms), (512_000_000, 48 * 3_600_000));
        assert_eq!(
            first.filters,
            ["type==source.local", "type==exec.cachemount", "type==source.git.checkout"]
        );
        assert_eq!(rest.iter().map(|p| p.all).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(rest.iter().map(|p| p.keep_duration_ms / 86_400_000).collect::<Vec<_>>(), [60, 0, 0]);
        let of = |p: &GcPolicy| (p.reserved_space, p.max_used_space, p.min_free_space);
        assert!(rest.iter().all(|p| of(p) == of(&rest[0])));
        of(&rest[0])
    }

    #[test]
    fn default_limits_are_parts_of_the_disk_and_no_ceiling() {
        let defaults = gc("", None);
        assert_eq!(limits_of(&defaults), (10 * GB, 100 * GB, 51 * GB));
        assert_eq!(defaults.ceiling, None);
        let none = Gc::on_disk(GcFlags::default(), &WorkerTable::default(), 0).unwrap().unwrap();
        assert_eq!(limits_of(&none), (2 * GB, 2 * GB, 2 * GB));
    }

    #[test]
    fn limits_of_the_worker_replace_the_default_ones_all_together() {
        let own = gc("maxUsedSpace = \"37%\"\nminFreeSpace = \"5GB\"", None);
        assert_eq!((limits_of(&own), own.ceiling), ((0, 94 * GB, 5 << 30), Some(94 * GB)));
        let reserved = gc("maxUsedSpace = 5000\nreservedSpace = 7000", None);
        assert_eq!((limits_of(&reserved), reserved.ceiling), ((7000, 5000, 0), Some(7000)));
        let legacy = gc("gckeepstorage = \"10%\"", None);
        assert_eq!((limits_of(&legacy), legacy.ceiling), ((26 * GB, 0, 0), None));
        let newer = gc("gckeepstorage = \"10%\"\nminFreeSpace = 1", None);
        assert_eq!(limits_of(&newer), (0, 0, 1));
    }

    #[test]
    fn the_flag_wins_and_zeros_are_nothing() {
        let flag = gc("maxUsedSpace = \"1%\"\nreservedSpace = 3", Some("100,200,300"));
        assert_eq!(limits_of(&flag), (100_000_000, 300_000_000, 200_000_000));
        assert_eq!(flag.ceiling, Some(300_000_000));
        assert_eq!(limits_of(&gc("", Some("100"))), (100_000_000, 0, 0));
        assert_eq!(limits_of(&gc("gckeepstorage = \"10%\"\nmaxUsedSpace = 9", Some("0"))), (26 * GB, 0, 0));
        assert_eq!(limits_of(&gc("maxUsedSpace = 0", Some(""))), (10 * GB, 100 * GB, 51 * GB));
        for wrong in ["10%", "1,,2", "1,2,3,4", "-1", "99999999999999999999"] {
            assert!(megabytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn policies_are_taken_as_they_are() {
        let text = "[[gcpolicy]]\nkeepBytes = \"3%\"\nkeepDuration = 3600\nfilters = [\"type==source.local\"]\n\
            [[gcpolicy]]\nall = true\nreservedSpace = \"1.5GiB\"\nkeepBytes = 7\nmaxUsedSpace = \"90%\"\n\
            [[gcpolicy]]\nmaxUsedSpace = \"1GB\"\nkeepDuration = \"1h30m\"\n";
        let own = gc(text, None);
        let first = &own.policies[0];
        assert_eq!((first.reserved_space, first.keep_duration_ms, first.all), (8 * GB, 3_600_000, false));
        assert_eq!(first.filters, ["type==source.local"]);
        let second = &own.policies[1];
        assert_eq!((second.reserved_space, second.max_used_space, second.all), (3 << 29, 227 * GB, true));
        assert_eq!(own.policies[2].keep_duration_ms, 5_400_000);
        assert_eq!(own.ceiling, Some(227 * GB), "the third spares what is young");
        // The worker's own limits change no policy, but they are a ceiling.
        let both = gc(&format!("maxUsedSpace = 5\n{text}"), None);
        assert_eq!((both.policies, both.ceiling), (own.policies.clone(), Some(5)));
        assert_eq!(gc(text, Some("1,0,7")).ceiling, Some(7_000_000));
        assert_eq!(gc(text, Some("1")).ceiling, own.ceiling, "what is reserved is none");
    }

    #[test]
    fn amounts_that_another_replaces_are_read_too() {
        for text in [
            "gckeepstorage = \"junk\"\nmaxUsedSpace = 5",
            "[[gcpolicy]]\nreservedSpace = 1\nkeepBytes = \"junk\"",
            "maxUsedSpace = \"junk\"\n[[gcpolicy]]\nall = true",
        ] {
            let worker: WorkerTable = toml::from_str(text).unwrap();
            let error = Gc::on_disk(GcFlags::default(), &worker, DISK).unwrap_err();
            assert!(error.to_string().contains("junk"), "{error}");
        }
    }

    #[test]
    fn nothing_is_collected_and_nothing_is_limited_when_it_is_off() {
        let worker: WorkerTable = toml::from_str("gc = false\nmaxUsedSpace = 5").unwrap();
        assert_eq!(Gc::on_disk(GcFlags::default(), &worker, DISK).unwrap(), None);
        let on = GcFlags { enabled: Some(true), keep_storage: None };
        assert_eq!(Gc::on_disk(on, &worker, DISK).unwrap().unwrap().ceiling, Some(5));
    }
}
