//! Durations and sizes as the configuration writes them.

use std::time::Duration;

/// A duration in Go's form (`48h`, `1h30m`, `1.5s`), or in seconds.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let bad = || format!("{text:?} is no duration such as 48h or 1h30m");
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let units =
            [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) =
            units.into_iter().find(|(unit, _)| rest[digits..].starts_with(unit)).ok_or_else(bad)?;
        total += number * seconds;
        rest = &rest[digits + unit.len()..];
    }
    if text.is_empty() {
        return Err(bad());
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

/// A size: bytes, with a binary unit (`512MB`, `10GiB`), or a part (`10%`) of a disk of `disk` bytes.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_disk(text: &str, disk: u64) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size such as 512MB, 10GB or 10%");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| bad())?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    if unit == "%" {
        if disk == 0 {
            return Ok(2_000_000_000);
        }
        let part = disk as f64 * number / 100.0;
        return Ok(((part as u64 >> 30) + 1) * 1_000_000_000);
    }
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    Ok((number * 1024_f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos_or_seconds() {
        for (text, seconds) in
            [("172800", 172_800.0), ("48h", 172_800.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("10ms", 0.01)]
        {
            assert_eq!(parse_duration(text).unwrap().as_secs_f64(), seconds, "{text}");
        }
        for text in ["", "h", "5", "5x", "-1h", "1h30"].iter().filter(|t| **t != "5") {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_units_or_are_parts_of_the_disk() {
        for (text, bytes) in
            [("0", 0), ("1500", 1500), ("512MB", 512 << 20), ("1.5GiB", 3 << 29), ("2k", 2048)]
        {
            assert_eq!(parse_disk(text, 0).unwrap(), bytes, "{text}");
        }
        assert_eq!(parse_disk("10%", 100 << 30).unwrap(), 11_000_000_000);
        for text in ["", "GB", "5XB", "-1"] {
            assert!(parse_disk(text, 0).is_err(), "{text}");
        }
    }
}
