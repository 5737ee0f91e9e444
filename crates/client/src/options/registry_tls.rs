//! `--registry-auth-tlscontext host=…,ca=…,cert=…,key=…,insecure=…`: TLS towards a registry's token server.

use std::{collections::BTreeMap, path::PathBuf};

use super::csv::{parse_attrs, parse_bool};
use crate::Error;

/// TLS for one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryTls {
    /// Files of CA certificates, beside the system's.
    pub cas: Vec<PathBuf>,
    /// Files of certificate and key.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    /// Trust any certificate.
    pub insecure: bool,
}

/// Reads all `--registry-auth-tlscontext`, by host.
///
/// # Errors
/// [`Error::Usage`] for unknown keys, a missing host, and a certificate without a key.
pub fn parse_registry_tls(texts: &[String]) -> Result<BTreeMap<String, RegistryTls>, Error> {
    let mut hosts: BTreeMap<String, RegistryTls> = BTreeMap::new();
    for text in texts {
        let mut attrs = parse_attrs(text)?;
        let bad = |problem: &str| Error::Usage(format!("registry-auth-tlscontext {text}: {problem}"));
        let host = attrs.remove("host").filter(|h| !h.is_empty()).ok_or_else(|| bad("host is required"))?;
        let (mut ca, mut cert, mut key, mut insecure) = (None, None, None, false);
        for (name, value) in attrs {
            match name.as_str() {
                "ca" => ca = Some(PathBuf::from(value)),
                "cert" => cert = Some(PathBuf::from(value)),
                "key" => key = Some(PathBuf::from(value)),
                "insecure" => {
                    insecure = parse_bool(&value).ok_or_else(|| bad("insecure must be true or false"))?
                }
                _ => return Err(bad(&format!("unexpected key '{name}'"))),
            }
        }
        let entry = hosts.entry(host).or_default();
        entry.cas.extend(ca);
        entry.insecure |= insecure;
        match (cert, key) {
            (Some(cert), Some(key)) => entry.pairs.push((cert, key)),
            (None, None) => {}
            _ => return Err(bad("cert and key go together")),
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_one_host_add_up() {
        let texts = ["host=h,ca=a", "host=h,ca=b,insecure=true", "host=i,cert=c,key=k"].map(str::to_owned);
        let hosts = parse_registry_tls(&texts).unwrap();
        assert_eq!(hosts["h"].cas.len(), 2);
        assert!(hosts["h"].insecure && !hosts["i"].insecure);
        assert_eq!(hosts["i"].pairs.len(), 1);
        for bad in ["ca=x", "host=h,cert=c", "host=h,x=y"] {
            assert!(parse_registry_tls(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
