//! Values as Go's `fmt` writes them, which is what histories hold.

use std::fmt::Write;

use kiln_oci::HealthCheck;

/// `["a" "b"]`: a list of strings with `%q`.
pub(super) fn quoted_list<S: AsRef<str>>(list: &[S]) -> String {
    let words: Vec<String> = list.iter().map(|s| quote(s.as_ref())).collect();
    format!("[{}]", words.join(" "))
}

/// `[a b]`: a list of strings with `%v`.
pub(super) fn plain_list<S: AsRef<str>>(list: &[S]) -> String {
    let words: Vec<&str> = list.iter().map(AsRef::as_ref).collect();
    format!("[{}]", words.join(" "))
}

/// A Go string literal.
pub(super) fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_print(c) => out.push(c),
            c => escape(&mut out, c),
        }
    }
    out.push('"');
    out
}

fn escape(out: &mut String, c: char) {
    // Writing to a string never fails.
    let _ok = match u32::from(c) {
        n @ (0..=0x1f | 0x7f) => write!(out, "\\x{n:02x}"),
        n @ 0..=0xffff => write!(out, "\\u{n:04x}"),
        n => write!(out, "\\U{n:08x}"),
    };
}

/// Does it leave a mark on paper? Go counts no blank but the space.
fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // After a letter, Rust escapes for printing just what has no mark.
    let mut escaped = ['a', c].iter().collect::<String>();
    escaped = escaped.escape_debug().collect();
    !c.is_whitespace() && escaped.chars().count() == 2
}

/// Nanoseconds as `1m30s`, `1.5s`, `200ms`.
pub(super) fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let decimal = |n: u64, unit: u64| {
        let fraction = format!("{:09}", u128::from(n % unit) * 1_000_000_000 / u128::from(unit));
        match fraction.trim_end_matches('0') {
            "" => (n / unit).to_string(),
            fraction => format!("{}.{fraction}", n / unit),
        }
    };
    let text = match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(n, 1_000_000)),
        n => {
            let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{seconds}s"),
                (0, m) => format!("{m}m{seconds}s"),
                (h, m) => format!("{h}h{m}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// A health check with `%+v`.
pub(super) fn health_check(h: &HealthCheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&h.test),
        duration(h.interval),
        duration(h.timeout),
        duration(h.start_period),
        duration(h.start_interval),
        h.retries
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings() {
        assert_eq!(quoted_list(&["a b", "c\"\\"]), r#"["a b" "c\"\\"]"#);
        assert_eq!(quoted_list::<&str>(&[]), "[]");
        assert_eq!(
            quote("é€\u{301}\t\n\u{1b}\u{7f}\u{a0}\u{feff}\u{200b}"),
            "\"é€\u{301}\\t\\n\\x1b\\x7f\\u00a0\\ufeff\\u200b\""
        );
        assert_eq!(quote("😀\u{e000}"), "\"😀\\ue000\"");
    }

    #[test]
    fn durations() {
        for (nanos, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (200_000_000, "200ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-5_000_000_000, "-5s"),
        ] {
            assert_eq!(duration(nanos), want);
        }
    }
}
