//! Random graphs, jobs and mishaps, against an evaluator that is too simple to be wrong.
//!
//! Each seed makes a universe of vertices ([`world`]) and a few rounds of jobs on one engine ([`run`]): jobs that
//! overlap, ignore the cache, are dropped in the middle; ops that fail or give something new each time; records that
//! vanish between match and load. What comes out is compared with what the vertices mean ([`naive`]), every decision
//! to run is checked against the store, and in the end nothing may be left.
//!
//! The test is itself tested: [`Broken`] lists engines that are wrong in one place each, and each must be caught.
//!
//! `KILN_FUZZ_SEEDS=from..to` runs other seeds than the usual ones; `KILN_FUZZ_SHOW=1` tells what happens.

mod naive;
mod run;
mod world;

/// A way to break the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Links are looked up without their selector.
    NoSelector,
    /// Links are looked up for output 0.
    AnyOutput,
    /// A key matches when one input leads to it.
    AnyInput,
    /// Equal edges do not join.
    NeverJoin,
    /// A vertex that ignores the cache joins one that does not.
    JoinCached,
    /// Vertices that ignore the cache are not kept apart.
    OneVariant,
    /// Vertices stay when their last job goes.
    Leak,
    /// Dropping one request withdraws all.
    CancelAll,
    /// A failure stays for jobs that come later.
    FailureStays,
    /// A record that vanishes fails the build.
    GoneFails,
    /// What follows from an ignored vertex is found by definition.
    ProbeIgnored,
    /// No last look before the op runs.
    NoLastLook,
    /// Work that nobody wants goes on.
    NeverStop,
    /// Followers are not told when their leader's load fails.
    FollowersLost,
}

#[cfg(test)]
mod tests {
    use super::run::fuzz;
    use super::*;

    const USUAL: std::ops::Range<u64> = 0..400;

    fn seeds() -> std::ops::Range<u64> {
        let text = std::env::var("KILN_FUZZ_SEEDS").unwrap_or_default();
        let range = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
        range.unwrap_or(USUAL)
    }

    #[test]
    fn the_engine_agrees_with_the_naive_evaluator() {
        for seed in seeds() {
            if let Err(what) = fuzz(seed, None) {
                panic!("seed {seed}: {what}");
            }
        }
    }

    fn is_caught(broken: Broken) {
        let caught = (0..4000).find_map(|seed| fuzz(seed, Some(broken)).err().map(|what| (seed, what)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{broken:?} was not caught"));
        println!("{broken:?}: seed {seed}: {what}");
    }

    macro_rules! caught {
        ($($test:ident: $broken:ident,)*) => {$(
            #[test]
            fn $test() {
                is_caught(Broken::$broken);
            }
        )*};
    }

    caught! {
        catches_missing_selectors: NoSelector,
        catches_mixed_up_outputs: AnyOutput,
        catches_matches_by_one_input: AnyInput,
        catches_equal_work_done_twice: NeverJoin,
        catches_an_ignoring_vertex_that_joins: JoinCached,
        catches_ignoring_vertices_that_are_shared: OneVariant,
        catches_leaks: Leak,
        catches_cancelled_neighbours: CancelAll,
        catches_stale_failures: FailureStays,
        catches_builds_that_fail_for_a_lost_record: GoneFails,
        catches_matches_through_ignored_vertices: ProbeIgnored,
        catches_a_missing_last_look: NoLastLook,
        catches_work_that_nobody_wants: NeverStop,
        catches_forgotten_followers: FollowersLost,
    }
}
