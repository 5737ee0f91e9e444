//! Timestamps of image configs and histories.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string is not an RFC 3339 timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid timestamp {0:?}: want RFC 3339, such as 2024-01-02T03:04:05.6Z")]
pub struct TimeError(String);

/// An RFC 3339 timestamp that keeps the offset it was written with.
///
/// Encodes as Go's `time.Time` does: up to nine digits of a second, without trailing zeros, `Z` for UTC.
#[derive(Clone, PartialEq, Eq)]
pub struct Time {
    at: jiff::Timestamp,
    text: String,
}

impl Time {
    /// This moment, in UTC.
    pub fn now() -> Self {
        Self::from(jiff::Timestamp::now())
    }

    /// A moment in UTC, in seconds since 1970. Out-of-range values are clamped to what RFC 3339 can say.
    pub fn from_unix(seconds: i64) -> Self {
        let at = jiff::Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        Self::from(at)
    }

    /// The moment.
    pub fn timestamp(&self) -> jiff::Timestamp {
        self.at
    }

    /// Seconds since 1970, rounded down.
    pub fn unix(&self) -> i64 {
        self.at.as_nanosecond().div_euclid(1_000_000_000) as i64
    }

    /// The text, as it is encoded.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(at: jiff::Timestamp) -> Self {
        Self { at, text: at.to_string() }
    }
}

impl From<SystemTime> for Time {
    /// What RFC 3339 cannot say becomes 1970.
    fn from(at: SystemTime) -> Self {
        Self::from(jiff::Timestamp::try_from(at).unwrap_or_default())
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        time.at.into()
    }
}

impl FromStr for Time {
    type Err = TimeError;

    fn from_str(s: &str) -> Result<Self, TimeError> {
        let fail = || TimeError(s.chars().take(80).collect());
        let at: jiff::Timestamp = s.parse().map_err(|_| fail())?;
        // Go accepts "T" and a full offset only; what jiff accepts beyond that is written anew in UTC.
        let strict = s.is_ascii() && s.as_bytes().get(10) == Some(&b'T') && !s.contains('[');
        let text = if strict { normalize(s) } else { None };
        Ok(Self { at, text: text.unwrap_or_else(|| at.to_string()) })
    }
}

/// Drops trailing zeros of the second's fraction, and writes a zero offset as `Z`.
fn normalize(s: &str) -> Option<String> {
    let zone_at = s.get(19..)?.find(['Z', '+', '-'])? + 19;
    let (clock, zone) = s.split_at(zone_at);
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let fraction = fraction.trim_end_matches('0');
    let zone = if matches!(zone, "+00:00" | "-00:00") { "Z" } else { zone };
    Some(if fraction.is_empty() { format!("{seconds}{zone}") } else { format!("{seconds}.{fraction}{zone}") })
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at).then_with(|| self.text.cmp(&other.text))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = std::borrow::Cow::<str>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_as_go() {
        for (given, want) in [
            ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
            ("2024-01-02T03:04:05.120000000Z", "2024-01-02T03:04:05.12Z"),
            ("2024-01-02T03:04:05.000Z", "2024-01-02T03:04:05Z"),
            ("2024-01-02T03:04:05.5+02:00", "2024-01-02T03:04:05.5+02:00"),
            ("2024-01-02T03:04:05+00:00", "2024-01-02T03:04:05Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(given.parse::<Time>().unwrap().to_string(), want);
        }
        assert_eq!(Time::from_unix(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Time::from_unix(1_700_000_000).unix(), 1_700_000_000);
        let moment = SystemTime::UNIX_EPOCH + std::time::Duration::new(1, 5);
        assert_eq!(Time::from(moment).to_string(), "1970-01-01T00:00:01.000000005Z");
        assert_eq!(SystemTime::from(Time::from(moment)), moment);
        assert!("yesterday".parse::<Time>().is_err());
        assert!("".parse::<Time>().is_err());
    }
}
