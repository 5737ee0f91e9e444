//! The frontend's attributes as types.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

use kiln_llb::caps::{self, CapSet};
use kiln_llb::source::ResolveMode;
use kiln_oci::Platform;
use kiln_proto::pb;

use super::failure::refuse;
use crate::error::Error;
use crate::text::{csv_fields, parse_bool};

/// What the caller knows besides the attributes.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The session of the client that asked for the build.
    pub session_id: String,
    /// Random: tells local sources and progress groups of this build from those of others.
    pub unique_id: String,
    /// What steps run on: the first worker's first platform.
    pub build_platform: Platform,
    /// What the daemon can do.
    pub caps: CapSet,
}

/// Which stages are built anew whatever is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// These, by name.
    Stages(Vec<String>),
}

impl NoCache {
    /// Is the stage of this name (which may be empty) built anew?
    pub fn contains(&self, stage: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Stages(names) => names.iter().any(|n| n.eq_ignore_ascii_case(stage)),
        }
    }
}

/// A cache to import.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct CacheImport {
    /// `registry`, `local`, …
    #[serde(rename = "Type", default)]
    pub kind: String,
    /// Its attributes.
    #[serde(rename = "Attrs", default)]
    pub attrs: BTreeMap<String, String>,
}

/// What a build is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// All attributes as they came; named contexts are looked up here.
    pub attrs: BTreeMap<String, String>,
    /// Values of ARGs.
    pub build_args: BTreeMap<String, String>,
    /// Labels for the result.
    pub labels: BTreeMap<String, String>,
    /// The wanted stage; the last one when empty.
    pub target: String,
    /// Platforms asked for; none means the build's own.
    pub platforms: Vec<Platform>,
    /// The result is an index even if there is one platform.
    pub multi_platform: bool,
    /// What steps run on.
    pub build_platform: Platform,
    /// When to ask registries.
    pub resolve_mode: ResolveMode,
    /// Which stages are built anew.
    pub no_cache: NoCache,
    /// Lines of `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Resource limits of steps.
    pub ulimits: Vec<pb::Ulimit>,
    /// Memory and processor limits of steps.
    pub linux_resources: Option<pb::LinuxResources>,
    /// Size of `/dev/shm`; the usual one when 0.
    pub shm_size: i64,
    /// The cgroup under which steps run.
    pub cgroup_parent: String,
    /// The host name that steps see.
    pub hostname: String,
    /// The network of steps that ask for none.
    pub network: pb::NetMode,
    /// Goes before the ids of cache mounts.
    pub cache_namespace: String,
    /// Configuration of the linter, in place of the file's.
    pub check: Option<String>,
    /// Caches to import.
    pub cache_imports: Vec<CacheImport>,
    /// The session of the client.
    pub session_id: String,
    /// Random, see [`Environment::unique_id`].
    pub unique_id: String,
    /// What the daemon can do.
    pub caps: CapSet,
}

impl Options {
    /// Reads attributes: `build-arg:NAME`, `label:KEY`, `target`, `platform`, `no-cache`, `add-hosts`, `shm-size`, …
    /// Attributes that mean nothing here (they may mean something to others) are skipped.
    ///
    /// # Errors
    /// When an attribute's value is malformed, or asks for something that no longer exists.
    pub fn parse(attrs: &BTreeMap<String, String>, environment: Environment) -> Result<Self, Error> {
        let read = Reader { attrs };
        if !environment.caps.supports(caps::FILE_BASE) {
            return Err(refuse("the daemon lacks file operations; it is too old for this frontend"));
        }
        if !read.text("override-copy-image").is_empty() {
            return Err(refuse("\"override-copy-image\" is not supported"));
        }
        if parse_bool(read.text("build-arg:BUILDKIT_DISABLE_FILEOP")) == Some(true) {
            return Err(refuse("build-arg BUILDKIT_DISABLE_FILEOP is not supported"));
        }
        let platforms = read.platforms()?;
        Ok(Self {
            multi_platform: read.multi_platform(platforms.len() > 1)?,
            platforms,
            build_args: read.prefixed("build-arg:"),
            labels: read.prefixed("label:"),
            target: read.text("target").to_owned(),
            build_platform: environment.build_platform,
            resolve_mode: ResolveMode::parse(read.text("image-resolve-mode"))
                .map_err(|e| refuse(format!("invalid image-resolve-mode: {e}")))?,
            no_cache: read.no_cache(),
            extra_hosts: read.extra_hosts()?,
            ulimits: read.ulimits()?,
            linux_resources: read.linux_resources()?,
            shm_size: read.number("shm-size")?.unwrap_or(0),
            cgroup_parent: read.text("cgroup-parent").to_owned(),
            hostname: read.first(&["build-arg:BUILDKIT_SANDBOX_HOSTNAME", "hostname"]).to_owned(),
            network: read.network()?,
            cache_namespace: read.text("build-arg:BUILDKIT_CACHE_MOUNT_NS").to_owned(),
            check: attrs.get("build-arg:BUILDKIT_DOCKERFILE_CHECK").cloned(),
            cache_imports: read.cache_imports()?,
            session_id: environment.session_id,
            unique_id: environment.unique_id,
            caps: environment.caps,
            attrs: attrs.clone(),
        })
    }

    /// The session that has the client's folder of this name.
    pub fn session_of(&self, local: &str) -> String {
        self.attrs.get(&format!("local-sessionid:{local}")).unwrap_or(&self.session_id).clone()
    }

    /// Whether the client gives named contexts at all.
    pub(super) fn has_contexts(&self) -> bool {
        let first = self.attrs.range::<str, _>((Bound::Included("context:"), Bound::Unbounded)).next();
        first.is_some_and(|(name, _)| name.starts_with("context:"))
    }

    pub(super) fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.get(name).map(String::as_str)
    }
}

struct Reader<'a> {
    attrs: &'a BTreeMap<String, String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> &str {
        self.attrs.get(name).map_or("", String::as_str)
    }

    /// The first that is not empty.
    fn first(&self, names: &[&str]) -> &str {
        names.iter().map(|n| self.text(n)).find(|v| !v.is_empty()).unwrap_or("")
    }

    fn prefixed(&self, prefix: &str) -> BTreeMap<String, String> {
        let strip = |(k, v): (&String, &String)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()));
        self.attrs.iter().filter_map(strip).collect()
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| refuse(format!("invalid {name} value: {text}"))),
        }
    }

    fn csv(&self, name: &str) -> Result<Vec<String>, Error> {
        match self.text(name) {
            "" => Ok(Vec::new()),
            text => csv_fields(text).map_err(|e| refuse(format!("failed to parse {name}: {e}"))),
        }
    }

    fn platforms(&self) -> Result<Vec<Platform>, Error> {
        let text = self.text("platform");
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let parse = |s: &str| {
            Platform::parse(s)
                .map(Platform::normalize)
                .map_err(|e| refuse(format!("failed to parse target platform {s}: {e}")))
        };
        text.split(',').map(parse).collect()
    }

    fn multi_platform(&self, several: bool) -> Result<bool, Error> {
        match self.first(&["build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"]) {
            "" => Ok(several),
            text => match parse_bool(text) {
                None => Err(refuse(format!("invalid boolean value for multi-platform: {text}"))),
                Some(false) if several => {
                    Err(refuse("conflicting config: returning multiple target platforms is not allowed"))
                }
                Some(value) => Ok(value),
            },
        }
    }

    fn no_cache(&self) -> NoCache {
        match self.attrs.get("no-cache").map(String::as_str) {
            None => NoCache::None,
            Some("") => NoCache::All,
            Some(names) => NoCache::Stages(names.split(',').map(str::to_owned).collect()),
        }
    }

    fn extra_hosts(&self) -> Result<Vec<(String, String)>, Error> {
        let parse = |field: String| {
            let lower = field.to_lowercase();
            let (host, ip) = lower
                .split_once('=')
                .ok_or_else(|| refuse(format!("add-hosts: invalid key-value pair {field}")))?;
            let ip: IpAddr = ip.parse().map_err(|_| refuse(format!("add-hosts: failed to parse IP {ip}")))?;
            Ok((host.to_owned(), ip.to_canonical().to_string()))
        };
        self.csv("add-hosts")?.into_iter().map(parse).collect()
    }

    fn ulimits(&self) -> Result<Vec<pb::Ulimit>, Error> {
        self.csv("ulimit")?
            .iter()
            .map(|field| ulimit(field).map_err(|e| refuse(format!("ulimit: {e}"))))
            .collect()
    }

    fn network(&self) -> Result<pb::NetMode, Error> {
        match self.text("force-network-mode") {
            "" | "sandbox" => Ok(pb::NetMode::Unset),
            "host" => Ok(pb::NetMode::Host),
            "none" => Ok(pb::NetMode::None),
            other => Err(refuse(format!("invalid netmode {other}"))),
        }
    }

    fn linux_resources(&self) -> Result<Option<pb::LinuxResources>, Error> {
        let positive = |name: &str| match self.number(name)? {
            Some(n) if n <= 0 => Err(refuse(format!("invalid {name} value: {n}: must be > 0"))),
            n => Ok(n.unwrap_or(0)),
        };
        let memory_swap = match self.number("memswap")? {
            Some(n) if n < -1 || n == 0 => {
                return Err(refuse(format!("invalid memswap value: {n}: must be -1 (unlimited) or > 0")));
            }
            n => n.unwrap_or(0),
        };
        let set = |name: &str| match self.text(name) {
            text if is_cpu_set(text) => Ok(text.to_owned()),
            text => Err(refuse(format!("invalid {name} value: {text}"))),
        };
        let resources = pb::LinuxResources {
            memory: positive("memory")?,
            memory_swap,
            cpu_shares: positive("cpushares")?.unsigned_abs(),
            cpu_period: positive("cpuperiod")?.unsigned_abs(),
            cpu_quota: positive("cpuquota")?,
            cpuset_cpus: set("cpusetcpus")?,
            cpuset_mems: set("cpusetmems")?,
        };
        Ok(Some(resources).filter(|r| *r != pb::LinuxResources::default()))
    }

    fn cache_imports(&self) -> Result<Vec<CacheImport>, Error> {
        let mut all: Vec<CacheImport> = match self.text("cache-imports") {
            "" => Vec::new(),
            json => serde_json::from_str::<Option<Vec<CacheImport>>>(json)
                .map_err(|e| refuse(format!("failed to read cache-imports: {e}")))?
                .unwrap_or_default(),
        };
        for reference in self.text("cache-from").split(',').filter(|s| !s.is_empty()) {
            let attrs = [("ref".to_owned(), reference.to_owned())].into();
            all.push(CacheImport { kind: "registry".into(), attrs });
        }
        Ok(all)
    }
}

/// `name=soft[:hard]`; -1 is unlimited.
fn ulimit(text: &str) -> Result<pb::Ulimit, String> {
    const NAMES: &[&str] = &[
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid type: {name}"));
    }
    let number = |s: &str| s.parse::<i64>().map_err(|_| format!("invalid limit: {text}"));
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("soft limit must be less than or equal to hard limit: {text}"));
    }
    Ok(pb::Ulimit { name: name.to_owned(), soft, hard })
}

/// `0-3,5`, or nothing.
fn is_cpu_set(text: &str) -> bool {
    let number = |s: &str| s.parse::<u32>().ok();
    let part = |p: &str| match p.split_once('-') {
        None => number(p).is_some(),
        Some((a, b)) => matches!((number(a), number(b)), (Some(a), Some(b)) if a <= b),
    };
    text.is_empty() || text.split(',').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attrs: &[(&str, &str)]) -> Result<Options, Error> {
        let environment = Environment {
            session_id: "s".into(),
            unique_id: "u".into(),
            build_platform: Platform::new("linux", "amd64"),
            caps: caps::ALL.iter().copied().collect(),
        };
        Options::parse(&attrs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(), environment)
    }

    #[test]
    fn reads_what_clients_send() {
        let o = parse(&[
            ("build-arg:A", "1"),
            ("label:L", "2"),
            ("platform", "linux/amd64,linux/arm64/v8"),
            ("no-cache", "a,B"),
            ("add-hosts", "Host=10.0.0.1,x=::ffff:1.2.3.4"),
            ("ulimit", "nofile=1:2,core=-1"),
            ("memory", "1024"),
            ("cpusetcpus", "0-3,5"),
            ("cache-from", "a,b"),
            ("cache-imports", r#"[{"Type":"local","Attrs":{"src":"x"}}]"#),
            ("local-sessionid:context", "other"),
            ("force-network-mode", "none"),
        ])
        .unwrap();
        assert_eq!((o.build_args["A"].as_str(), o.labels["L"].as_str()), ("1", "2"));
        assert_eq!(o.platforms[1].format(), "linux/arm64");
        assert!(o.multi_platform && o.no_cache.contains("b") && !o.no_cache.contains(""));
        assert_eq!(o.extra_hosts[1], ("x".to_owned(), "1.2.3.4".to_owned()));
        assert_eq!((o.ulimits[0].hard, o.ulimits[1].soft), (2, -1));
        assert_eq!(o.linux_resources.as_ref().unwrap().memory, 1024);
        assert_eq!(o.cache_imports.len(), 3);
        assert_eq!((o.session_of("context"), o.session_of("x")), ("other".into(), "s".into()));
        assert_eq!(o.network, pb::NetMode::None);
        assert!(parse(&[("no-cache", "")]).unwrap().no_cache.contains(""));
    }

    #[test]
    fn refuses() {
        for bad in [
            ("platform", "x/y/z/w"),
            ("add-hosts", "nothing"),
            ("add-hosts", "a=b"),
            ("ulimit", "nofile"),
            ("ulimit", "x=1"),
            ("ulimit", "nofile=3:2"),
            ("ulimit", "nofile=1:2:3"),
            ("shm-size", "64m"),
            ("memory", "0"),
            ("memswap", "-2"),
            ("cpusetcpus", "3-1"),
            ("multi-platform", "maybe"),
            ("force-network-mode", "bridge"),
            ("image-resolve-mode", "never"),
            ("override-copy-image", "x"),
            ("cache-imports", "{"),
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
        assert!(parse(&[("platform", "linux/amd64,linux/arm64"), ("multi-platform", "0")]).is_err());
    }
}
