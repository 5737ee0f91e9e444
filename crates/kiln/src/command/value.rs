//! Values of flags.

/// Reads a number of bytes: `1048576`, `64m`, `10GB`, `1.5GiB`. As Docker has it, all units are powers of 1024.
///
/// # Errors
/// What is no such number.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is no size such as 64m or 10GB");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| bad())?;
    let unit = text[end..].trim().to_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    #[expect(clippy::cast_possible_truncation, reason = "a cast saturates, which is what a huge size means")]
    Ok((number * 1024_f64.powi(power)) as i64)
}

/// Reads a host and its address, as `host:ip` or `host=ip`, with or without brackets around the address.
///
/// # Errors
/// What is no such pair.
pub(crate) fn extra_host(text: &str) -> Result<String, String> {
    let (host, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| format!("{text:?} is not host:ip"))?;
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if host.is_empty() || (address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err()) {
        return Err(format!("{text:?} is not host:ip"));
    }
    Ok(format!("{host}={address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        assert_eq!(bytes("64m"), Ok(64 << 20));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("2KB"), Ok(2048));
        assert!(bytes("many").is_err());
    }

    #[test]
    fn hosts_have_addresses() {
        assert_eq!(extra_host("a:10.0.0.1").unwrap(), "a=10.0.0.1");
        assert_eq!(extra_host("a=[::1]").unwrap(), "a=::1");
        assert_eq!(extra_host("a:::1").unwrap(), "a=::1");
        assert!(extra_host("a").is_err() && extra_host("a:b").is_err());
    }
}
