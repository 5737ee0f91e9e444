//! What the configuration says of a registry host.

use std::{collections::BTreeMap, path::PathBuf};

/// A client certificate with its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPair {
    /// Path of the key.
    pub key: PathBuf,
    /// Path of the certificate chain.
    pub cert: PathBuf,
}

/// One `[registry."host"]` table of the daemon's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Hosts to ask first for pulls, each with an optional path, as in `mirror.example:5000/hub`.
    pub mirrors: Vec<String>,
    /// Speak HTTP without TLS. Not set: HTTP for `localhost` and loopback addresses, HTTPS for all others.
    pub http: Option<bool>,
    /// Accept any certificate.
    pub insecure: bool,
    /// PEM files of further certificate authorities.
    pub root_cas: Vec<PathBuf>,
    /// Client certificates.
    pub key_pairs: Vec<KeyPair>,
    /// Folders with `*.crt` authorities and `*.cert`/`*.key` pairs, as Docker's `certs.d/<host>`.
    pub tls_config_dirs: Vec<PathBuf>,
}

/// A server to ask for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port, by which the configuration and the client's credentials know it.
    pub(crate) host: String,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// What precedes the repository's name: `/v2/`, and a mirror's path after it.
    pub(crate) prefix: String,
    /// Only pulls may use it.
    pub(crate) mirror: bool,
}

/// The servers for a repository's domain: its mirrors in order, then itself.
pub(crate) fn endpoints(hosts: &BTreeMap<String, HostConfig>, domain: &str) -> Vec<Endpoint> {
    let mirrors = hosts.get(domain).map(|c| c.mirrors.as_slice()).unwrap_or_default();
    let mut all: Vec<Endpoint> = mirrors
        .iter()
        .map(|mirror| {
            let mirror =
                mirror.split_once("://").map_or(mirror.as_str(), |(_, rest)| rest).trim_end_matches('/');
            let (host, path) = mirror.split_once('/').unwrap_or((mirror, ""));
            let path = path.trim_start_matches("v2/").trim_matches('/');
            let prefix =
                if path.is_empty() || path == "v2" { "/v2/".to_owned() } else { format!("/v2/{path}/") };
            Endpoint { host: host.to_owned(), scheme: scheme(hosts, host), prefix, mirror: true }
        })
        .collect();
    let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
    let scheme = if hosts.contains_key(domain) { scheme(hosts, domain) } else { scheme(hosts, host) };
    all.push(Endpoint { host: host.to_owned(), scheme, prefix: "/v2/".to_owned(), mirror: false });
    all
}

fn scheme(hosts: &BTreeMap<String, HostConfig>, host: &str) -> &'static str {
    let plain = hosts.get(host).and_then(|c| c.http).unwrap_or_else(|| is_loopback(host));
    if plain { "http" } else { "https" }
}

/// Whether `host`, with or without a port, names this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(config: &[(&str, HostConfig)], domain: &str) -> Vec<String> {
        let hosts = config.iter().map(|(host, config)| ((*host).to_owned(), config.clone())).collect();
        endpoints(&hosts, domain).iter().map(|e| format!("{}://{}{}", e.scheme, e.host, e.prefix)).collect()
    }

    #[test]
    fn docker_io_is_served_by_another_host() {
        assert_eq!(shown(&[], "docker.io"), ["https://registry-1.docker.io/v2/"]);
    }

    #[test]
    fn loopback_is_plain_http_unless_it_is_said_otherwise() {
        for host in ["localhost:5000", "127.0.0.1", "[::1]:5000"] {
            assert_eq!(shown(&[], host), [format!("http://{host}/v2/")]);
        }
        let tls = HostConfig { http: Some(false), ..HostConfig::default() };
        assert_eq!(shown(&[("localhost:5000", tls)], "localhost:5000"), ["https://localhost:5000/v2/"]);
        assert_eq!(shown(&[], "localhost.example"), ["https://localhost.example/v2/"]);
    }

    #[test]
    fn mirrors_come_first_each_with_its_own_configuration() {
        let hub =
            HostConfig { mirrors: vec!["m:5000/hub".into(), "https://n/v2".into()], ..HostConfig::default() };
        let mirror = HostConfig { http: Some(true), ..HostConfig::default() };
        assert_eq!(
            shown(&[("docker.io", hub), ("m:5000", mirror)], "docker.io"),
            ["http://m:5000/v2/hub/", "https://n/v2/", "https://registry-1.docker.io/v2/"]
        );
    }
}
