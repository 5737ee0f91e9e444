//! `/etc/hosts` and `/etc/resolv.conf` of containers.

use std::fmt::Write as _;
use std::net::IpAddr;

/// An added line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// Name.
    pub host: String,
    /// Address.
    pub ip: IpAddr,
}

/// What the daemon's configuration says about name resolution in steps; empty parts leave the host's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsConfig {
    /// Addresses of name servers.
    pub nameservers: Vec<IpAddr>,
    /// Resolver options (`ndots:2`).
    pub options: Vec<String>,
    /// Domains to search in.
    pub search: Vec<String>,
}

/// The name servers of a container that cannot use the host's, which listen on a loopback address only.
const PUBLIC_NAMESERVERS: [&str; 4] = ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"];

/// The text of `/etc/hosts`.
pub(crate) fn hosts_file(hostname: &str, extra: &[HostAddress]) -> String {
    let mut out = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for HostAddress { host, ip } in extra {
        // Writing to a string cannot fail.
        _ = writeln!(out, "{ip}\t{host}");
    }
    out
}

/// The text of `/etc/resolv.conf`, made from the host's (empty if it has none).
///
/// `host_network`: the container is in the host's network, so that name servers on loopback addresses are reachable;
/// otherwise these are left out, and public ones stand in if none is left.
pub(crate) fn resolv_conf(host: &str, config: &DnsConfig, host_network: bool) -> String {
    let mut parts = ResolvConf::parse(host);
    if !config.nameservers.is_empty() {
        parts.nameservers = config.nameservers.iter().map(ToString::to_string).collect();
    }
    if !config.search.is_empty() {
        parts.search.clone_from(&config.search);
    }
    if !config.options.is_empty() {
        parts.options.clone_from(&config.options);
    }
    if !host_network || parts.nameservers.is_empty() {
        if !host_network {
            parts.nameservers.retain(|server| !is_local(server));
        }
        if parts.nameservers.is_empty() {
            parts.nameservers = PUBLIC_NAMESERVERS.map(str::to_owned).to_vec();
        }
    }
    parts.to_string()
}

/// The host's `resolv.conf` names nobody but systemd's stub listener, whose upstream servers are in another file.
pub(crate) fn is_systemd_stub(host: &str) -> bool {
    ResolvConf::parse(host).nameservers == ["127.0.0.53"]
}

fn is_local(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or(server);
    // An address with a zone belongs to an interface that the container does not have.
    server.contains('%') || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[derive(Default)]
struct ResolvConf {
    nameservers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    /// Lines that pass through (`sortlist …`).
    other: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            let words_after =
                |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
            match words.next() {
                None => {}
                Some("nameserver") => out.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => out.search = words_after(words),
                Some("options") => out.options.extend(words_after(words)),
                Some(_) => out.other.push(line.to_owned()),
            }
        }
        out
    }
}

impl std::fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for server in &self.nameservers {
            writeln!(f, "nameserver {server}")?;
        }
        if !self.search.is_empty() {
            writeln!(f, "search {}", self.search.join(" "))?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        self.other.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_the_container_and_what_was_added() {
        let extra = [HostAddress { host: "db".into(), ip: "10.0.0.2".parse().unwrap() }];
        assert_eq!(
            hosts_file("buildkitsandbox", &extra),
            "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.2\tdb\n"
        );
    }

    #[test]
    fn the_hosts_resolver_passes_through_on_its_network() {
        let host = "# by hand\nnameserver 127.0.0.53\nsearch a b\noptions edns0\nsortlist 1.2.3.4\n";
        assert_eq!(
            resolv_conf(host, &DnsConfig::default(), true),
            "nameserver 127.0.0.53\nsearch a b\noptions edns0\nsortlist 1.2.3.4\n"
        );
        assert!(is_systemd_stub(host));
    }

    #[test]
    fn loopback_servers_are_no_use_elsewhere() {
        let host = "nameserver 127.0.0.1\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n";
        assert_eq!(resolv_conf(host, &DnsConfig::default(), false), "nameserver 192.0.2.1\n");
        assert!(resolv_conf("", &DnsConfig::default(), false).starts_with("nameserver 8.8.8.8\n"));
        assert!(resolv_conf("", &DnsConfig::default(), true).starts_with("nameserver 8.8.8.8\n"));
    }

    #[test]
    fn the_configuration_wins() {
        let config = DnsConfig {
            nameservers: vec!["192.0.2.7".parse().unwrap()],
            options: vec!["ndots:2".into()],
            search: vec!["example.org".into()],
        };
        assert_eq!(
            resolv_conf("nameserver 192.0.2.1\nsearch x\noptions y\n", &config, false),
            "nameserver 192.0.2.7\nsearch example.org\noptions ndots:2\n"
        );
    }
}
