//! Values as Go's `fmt` writes them, which is what histories hold.

use std::fmt::Write;

use kiln_oci::HealthCheck;

/// `["a" "b"]`: a list of strings with `%q`.
pub(super) fn quoted_list<S: AsRef<str>>(list: &[S]) -> String {
    joined(list, push_quoted)
}

/// `[a b]`: a list of strings with `%v`.
pub(super) fn plain_list<S: AsRef<str>>(list: &[S]) -> String {
    joined(list, String::push_str)
}

fn joined<S: AsRef<str>>(list: &[S], push: fn(&mut String, &str)) -> String {
    let mut out = String::with_capacity(list.iter().map(|word| word.as_ref().len() + 3).sum::<usize>() + 2);
    out.push('[');
    for (place, word) in list.iter().enumerate() {
        if place > 0 {
            out.push(' ');
        }
        push(&mut out, word.as_ref());
    }
    out.push(']');
    out
}

/// A Go string literal.
fn push_quoted(out: &mut String, s: &str) {
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
            c => escape(out, c),
        }
    }
    out.push('"');
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
    let mut out = String::new();
    if nanos < 0 {
        out.push('-');
    }
    match nanos.unsigned_abs() {
        0 => out.push_str("0s"),
        n @ 1..1_000 => unit(&mut out, n, 1, "ns"),
        n @ 1_000..1_000_000 => unit(&mut out, n, 1_000, "µs"),
        n @ 1_000_000..1_000_000_000 => unit(&mut out, n, 1_000_000, "ms"),
        n => {
            let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
            if hours > 0 {
                unit(&mut out, hours, 1, "h");
            }
            if hours > 0 || minutes > 0 {
                unit(&mut out, minutes, 1, "m");
            }
            unit(&mut out, n % 60_000_000_000, 1_000_000_000, "s");
        }
    }
    out
}

/// `n` in units of `size`, with a fraction if there is one.
fn unit(out: &mut String, n: u64, size: u64, name: &str) {
    push_number(out, n / size);
    let mut rest = n % size;
    if rest > 0 {
        out.push('.');
    }
    while rest > 0 {
        rest *= 10;
        push_number(out, rest / size);
        rest %= size;
    }
    out.push_str(name);
}

/// Steps have two each: formatting them would take longer than all else of their names.
pub(super) fn push_number(out: &mut String, number: u64) {
    if number >= 10 {
        push_number(out, number / 10);
    }
    out.push(char::from(b'0' + (number % 10) as u8));
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
            quoted_list(&["é€\u{301}\t\n\u{1b}\u{7f}\u{a0}\u{feff}\u{200b}"]),
            "[\"é€\u{301}\\t\\n\\x1b\\x7f\\u00a0\\ufeff\\u200b\"]"
        );
        assert_eq!(quoted_list(&["😀\u{e000}"]), "[\"😀\\ue000\"]");
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
