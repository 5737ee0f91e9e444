//! The arithmetic of the ceiling.

use std::time::Duration;

use crate::GcPolicy;

/// Between two measurements near the ceiling.
const SHORT: Duration = Duration::from_millis(100);
/// Between two measurements elsewhere.
const LONG: Duration = Duration::from_millis(500);
/// A measurement may take this part of the time until the next.
const SHARE: u32 = 10;

/// The smallest of the ceilings that these rules set: `max_used_space`, or `reserved_space` if that is more, of each rule that
/// is for everything that is unused, however lately it was used. `None` when none is.
#[must_use]
pub fn ceiling_of(policies: &[GcPolicy]) -> Option<u64> {
    let strict = policies.iter().filter(|p| p.filters.is_empty() && p.keep_duration_ms == 0);
    strict.filter(|p| p.max_used_space > 0).map(|p| p.max_used_space.max(p.reserved_space)).min()
}

/// How long to wait until the next measurement, where the last took `cost`.
pub(super) fn pause(limit: u64, used: u64, cost: Duration) -> Duration {
    let near = used > limit - limit / 8;
    let wanted = if near { SHORT } else { LONG };
    wanted.max(cost * SHARE)
}

/// How much to free when `used` is more than `limit`: a twentieth more than needed, so that the next bytes need no prune.
pub(super) fn to_free(limit: u64, used: u64) -> u64 {
    used.saturating_sub(limit - limit / 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_rule_for_everything_is_the_ceiling() {
        let rule = |max_used_space, reserved_space| GcPolicy {
            max_used_space,
            reserved_space,
            ..GcPolicy::default()
        };
        assert_eq!(ceiling_of(&[]), None);
        assert_eq!(ceiling_of(&[rule(0, 50)]), None);
        assert_eq!(ceiling_of(&[rule(100, 0), rule(70, 0), rule(0, 10)]), Some(70));
        assert_eq!(ceiling_of(&[rule(70, 80)]), Some(80), "what is reserved always stays");
        let some = GcPolicy { filters: vec!["type==source.local".into()], ..rule(5, 0) };
        let old = GcPolicy { keep_duration_ms: 1, ..rule(6, 0) };
        assert_eq!(ceiling_of(&[some.clone(), old.clone()]), None);
        assert_eq!(ceiling_of(&[some, old, GcPolicy { all: true, ..rule(7, 0) }]), Some(7));
        let defaults = crate::default_gc_policy(1000 << 30, Some((1, 2000, 3)));
        assert_eq!(ceiling_of(&defaults), Some(2000));
    }

    #[test]
    fn measuring_is_quick_near_the_ceiling_and_never_dear() {
        let cheap = Duration::from_millis(1);
        assert_eq!(pause(800, 100, cheap), LONG);
        assert_eq!(pause(800, 700, cheap), LONG);
        assert_eq!(pause(800, 701, cheap), SHORT);
        assert_eq!(pause(800, 9000, cheap), SHORT);
        assert_eq!(pause(800, 701, Duration::from_millis(100)), Duration::from_secs(1));
        assert_eq!(pause(0, 0, cheap), LONG);
    }

    #[test]
    fn a_little_more_is_freed_than_is_needed() {
        assert_eq!(to_free(100, 110), 15);
        assert_eq!(to_free(100, 90), 0);
        assert_eq!(to_free(0, 5), 5);
    }
}
