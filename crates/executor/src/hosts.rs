//! `/etc/hosts` and `/etc/resolv.conf` of containers.

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
