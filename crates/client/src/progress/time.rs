//! Times of the wire.

pub use prost_types::Timestamp;

/// Nanoseconds since the epoch.
pub type Nanos = i64;

/// As a number.
#[must_use]
pub fn nanos(time: &Timestamp) -> Nanos {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(time.nanos.into())
}

/// The reverse of [`nanos`].
#[must_use]
pub fn timestamp(nanos: Nanos) -> Timestamp {
    let rest = i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default();
    Timestamp { seconds: nanos.div_euclid(1_000_000_000), nanos: rest }
}

/// The time of this host.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from(std::time::SystemTime::now())
}

/// RFC 3339 in UTC with as many digits as it takes, as Go's JSON has it.
#[must_use]
pub fn rfc3339(time: &Timestamp) -> String {
    let instant = jiff::Timestamp::new(time.seconds, time.nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    instant.to_string()
}

/// RFC 3339 in this host's time zone, in whole seconds.
#[must_use]
pub fn rfc3339_local(time: &Timestamp) -> String {
    let instant = jiff::Timestamp::new(time.seconds, 0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let local = instant.to_zoned(jiff::tz::TimeZone::try_system().unwrap_or(jiff::tz::TimeZone::UTC));
    match local.offset().is_zero() {
        true => local.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        false => local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    }
}

/// Seconds between two times; negative ones are none.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
pub fn seconds(nanos: Nanos) -> f64 {
    nanos.max(0) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_and_look_like_gos() {
        for n in [0, 1_700_000_000_123_456_789, -1] {
            assert_eq!(nanos(&timestamp(n)), n);
        }
        assert_eq!(rfc3339(&timestamp(1_700_000_000_120_000_000)), "2023-11-14T22:13:20.12Z");
        assert_eq!(rfc3339(&timestamp(1_700_000_000_000_000_000)), "2023-11-14T22:13:20Z");
    }
}
