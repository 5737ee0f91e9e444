//! Dates of HTTP (RFC 9110, 5.6.7): one way to write them, three to read.

use jiff::{Timestamp, civil::DateTime, fmt::strtime, tz::TimeZone};

/// Seconds since 1970; `None` for what is no date.
pub(super) fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    // Not by the book, but what servers with a clock of their own write.
    let gmt = text.strip_suffix(" UTC").map(|date| format!("{date} GMT"));
    let text = gmt.as_deref().unwrap_or(text);
    const FORMATS: &[&str] =
        &["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let date = |format: &&str| -> Option<DateTime> { strtime::parse(format, text).ok()?.to_datetime().ok() };
    let date = FORMATS.iter().find_map(date)?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The preferred form; empty for a time that no calendar has.
pub(super) fn format(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds).map(|t| t.to_zoned(TimeZone::UTC));
    time.map(|t| t.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(parse(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse("Sunday, 06-Nov-94 08:49:37 UTC"), Some(784_111_777));
        assert_eq!(format(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse("yesterday"), None);
        assert_eq!(parse(""), None);
    }
}
