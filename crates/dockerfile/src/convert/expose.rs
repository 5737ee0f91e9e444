//! EXPOSE: `[ip:]host:container[/protocol]`, with ranges; only the container's side is kept.

use std::net::IpAddr;

use super::failure::refuse;
use crate::error::Error;
use crate::span::Span;
use crate::suggest::nearest;

/// The protocols that a port may have.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// The ports of a specification that stands at `span`, as `80/tcp`.
pub(super) fn ports(spec: &str, span: Span) -> Result<Vec<String>, Error> {
    parse(spec).map_err(|problem| {
        let protocol = spec.rsplit_once('/').map_or("", |(_, protocol)| protocol);
        let unknown = !PROTOCOLS.contains(&protocol);
        let near = nearest(protocol, PROTOCOLS).filter(|_| unknown);
        refuse(problem).at(span).suggest(near)
    })
}

fn parse(spec: &str) -> Result<Vec<String>, String> {
    let (ip, host, container) = split(spec);
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("invalid port: {spec:?}: no port specified"));
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known if PROTOCOLS.contains(&known) => known.to_owned(),
        _ => return Err(format!("invalid port: {spec:?}: invalid proto: {protocol}")),
    };
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (start, end) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (host_start, host_end) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if end - start != host_end - host_start && end != start {
            return Err(format!("invalid ranges specified for container and host Ports: {port} and {host}"));
        }
    }
    Ok((start..=end).map(|p| format!("{p}/{protocol}")).collect())
}

fn split(spec: &str) -> (&str, &str, &str) {
    match spec.rsplit_once(':') {
        None => ("", "", spec),
        Some((rest, container)) => match rest.rsplit_once(':') {
            None => ("", rest, container),
            Some((ip, host)) => (ip, host, container),
        },
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |s: &str| s.parse::<u16>().ok();
    match text.split_once('-') {
        None => number(text).map(|n| (n, n)),
        Some((start, end)) => {
            let (start, end) = (number(start)?, number(end)?);
            (start <= end).then_some((start, end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ports() {
        for (spec, want) in [
            ("80", "80/tcp"),
            ("53/UDP", "53/udp"),
            ("8000-8002/sctp", "8000/sctp 8001/sctp 8002/sctp"),
            ("1-1", "1/tcp"),
            ("8080:80", "80/tcp"),
            ("127.0.0.1:8080:80", "80/tcp"),
            ("[::1]::80", "80/tcp"),
            ("0", "0/tcp"),
        ] {
            assert_eq!(parse(spec).unwrap().join(" "), want, "{spec}");
        }
        for bad in ["", "/tcp", "80/x", "65536", "5-4", "a", "x:80", "300.0.0.1:1:80", "1-2:3-5", "-1", "80-"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
