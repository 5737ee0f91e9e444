//! Small values as Go programs read them: CSV fields, booleans, sizes, durations, unsigned numbers, small letters.

use std::borrow::Cow;

use smallvec::SmallVec;

/// Splits one line of comma-separated values; fields may be quoted with `"`, and `""` is a quote inside.
///
/// # Errors
/// The reason when quotes are out of place, or there is no field at all.
pub fn csv_fields(line: &str) -> Result<Vec<String>, &'static str> {
    Ok(csv_parts(line)?.into_iter().map(Cow::into_owned).collect())
}

/// The fields of a line of comma-separated values: a few most of the time.
pub(crate) type CsvParts<'l> = SmallVec<[Cow<'l, str>; 4]>;

/// [`csv_fields`] without copies of those that need no change.
pub(crate) fn csv_parts(line: &str) -> Result<CsvParts<'_>, &'static str> {
    if line.is_empty() {
        return Err("there is nothing in it");
    }
    let mut fields = CsvParts::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted_field(quoted)?;
            fields.push(Cow::Owned(field));
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(fields),
                None => return Err("text after a closing quote"),
            }
        } else {
            let (field, next) =
                rest.split_once(',').map_or((rest, None), |(field, next)| (field, Some(next)));
            if field.contains('"') {
                return Err("a quote inside a field that doesn't start with one");
            }
            fields.push(Cow::Borrowed(field));
            match next {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
        }
    }
}

fn quoted_field(text: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote that is never closed")?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Ok((field, after)),
        }
    }
}

/// In small letters; most are already.
pub(crate) fn lower(text: &str) -> Cow<'_, str> {
    match text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        true => text.into(),
        false => text.to_lowercase().into(),
    }
}

/// In capital letters; most are already.
pub(crate) fn upper(text: &str) -> Cow<'_, str> {
    match text.bytes().all(|b| b.is_ascii() && !b.is_ascii_lowercase()) {
        true => text.into(),
        false => text.to_uppercase().into(),
    }
}

/// A boolean: `1 t T TRUE true True` and their opposites.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// An unsigned number of 32 bits, digits only.
pub(crate) fn parse_u32(text: &str, radix: u32) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    u32::from_str_radix(text, radix).ok()
}

/// A size in bytes: a decimal number, a space or none, and `b`, or one of `k m g t p` with `b` or `ib` or neither;
/// all units are powers of 1024.
pub(crate) fn parse_size(text: &str) -> Option<i64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'+' | b'e' | b'E' | b'-')) {
        return None;
    }
    let size: f64 = number.parse().ok()?;
    if size < 0.0 {
        return None;
    }
    let unit = unit.to_ascii_lowercase();
    let power = match unit.as_bytes().first() {
        None => return Some(size as i64),
        Some(b'b') if unit.len() == 1 => return Some(size as i64),
        Some(b'k') => 1,
        Some(b'm') => 2,
        Some(b'g') => 3,
        Some(b't') => 4,
        Some(b'p') => 5,
        Some(_) => return None,
    };
    matches!(&unit[1..], "" | "b" | "ib").then(|| (size * 1024_f64.powi(power)) as i64)
}

/// A duration in nanoseconds, as Go writes them: a sign, then numbers with units `ns us µs ms s m h`; `0` alone.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        total += duration_part(number, unit)?;
        if total > i128::from(i64::MAX) {
            return None;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn duration_part(number: &str, unit: &str) -> Option<i128> {
    let scale: i128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole * scale;
    let mut unit_part = scale;
    for digit in fraction.bytes() {
        unit_part /= 10;
        nanos += i128::from(digit - b'0') * unit_part;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_splits_at_commas_outside_quotes() {
        assert_eq!(csv_fields("a,b=c").unwrap(), ["a", "b=c"]);
        assert_eq!(csv_fields(r#""a,b","c""d",e"#).unwrap(), ["a,b", "c\"d", "e"]);
        assert_eq!(csv_fields("a,").unwrap(), ["a", ""]);
        assert!(csv_fields("").is_err());
        assert!(csv_fields(r#"a"b"#).is_err());
        assert!(csv_fields(r#""a"#).is_err());
        assert!(csv_fields(r#""a"b"#).is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10"), Some(10));
        assert_eq!(parse_size("1.5k"), Some(1536));
        assert_eq!(parse_size("2 MiB"), Some(2 << 20));
        assert_eq!(parse_size("3GB"), Some(3 << 30));
        assert_eq!(parse_size("7b"), Some(7));
        for bad in ["", "k", "-1", "1kx", "1bb", "1 kk", "inf", "nan5"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h2m3s"), Some(3_723_000_000_000));
        assert_eq!(parse_duration("1.5s"), Some(1_500_000_000));
        assert_eq!(parse_duration(".5ms"), Some(500_000));
        assert_eq!(parse_duration("-2us"), Some(-2_000));
        assert_eq!(parse_duration("0"), Some(0));
        for bad in ["", "1", "s", "1x", "1s2", "99999999999999h", "1..5s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_u32("0755", 8), Some(0o755));
        assert_eq!(parse_u32("+5", 10), None);
        assert_eq!(parse_u32("8", 8), None);
        assert_eq!(parse_u32("4294967296", 10), None);
    }
}
