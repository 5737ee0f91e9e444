//! Sizes and durations as BuildKit's clients print them.

/// Decimal units, with `digits` behind the point except for plain bytes: `0B`, `1.50kB`, `20.00MB`.
#[must_use]
pub fn size(bytes: i64, digits: usize) -> String {
    let (value, unit) = scaled(bytes);
    if unit == "B" { format!("{bytes}B") } else { format!("{value:.digits$}{unit}") }
}

/// Decimal units with as many digits as it takes: `512MB`, `1.5GB`.
#[must_use]
pub fn short_size(bytes: i64) -> String {
    let (value, unit) = scaled(bytes);
    format!("{value}{unit}")
}

#[expect(clippy::cast_precision_loss, reason = "nobody reads the sixteenth digit of a size")]
fn scaled(bytes: i64) -> (f64, &'static str) {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB", "PB"] {
        if value.abs() < 1000.0 {
            return (value, unit);
        }
        value /= 1000.0;
    }
    (value, "EB")
}

/// A duration as Go writes it: `48h0m0s`, `1m30s`, `1.5s`, `20ms`, `0s`.
#[must_use]
pub fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |whole: u64, rest: u64, width: usize, unit: &str| {
        let digits = format!("{rest:0width$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { format!("{whole}{unit}") } else { format!("{whole}.{digits}{unit}") }
    };
    let text = match n {
        0 => return "0s".into(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => fraction(n / 1_000, n % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => fraction(n / 1_000_000, n % 1_000_000, 6, "ms"),
        _ => {
            let seconds = n / 1_000_000_000;
            let last = fraction(seconds % 60, n % 1_000_000_000, 9, "s");
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => last,
                (0, minutes) => format!("{minutes}m{last}"),
                (hours, minutes) => format!("{hours}h{minutes}m{last}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// Reads what [`go_duration`] writes, in nanoseconds.
///
/// # Errors
/// The text, if it is no such duration.
pub fn parse_go_duration(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a duration such as 48h, 1h30m or 90s");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast saturates, which is what a huge duration means"
    )]
    Ok((sign * total) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(size(0, 2), "0B");
        assert_eq!(size(999, 2), "999B");
        assert_eq!(size(1_500, 2), "1.50kB");
        assert_eq!(size(20_000_000, 2), "20.00MB");
        assert_eq!(short_size(512_000_000), "512MB");
    }

    #[test]
    fn durations_go_both_ways() {
        for text in ["0s", "48h0m0s", "1m30s", "1.5s", "20ms", "1h0m0.25s"] {
            assert_eq!(go_duration(parse_go_duration(text).unwrap()), text);
        }
        assert_eq!(parse_go_duration("2h").unwrap(), 7_200_000_000_000);
        assert!(parse_go_duration("5").is_err());
        assert!(parse_go_duration("five").is_err());
    }
}
