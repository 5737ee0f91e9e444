//! Any list of patterns is refused or matches any path, and what a walk may leave out never matches.
#![no_main]

use kiln_pattern::{Matcher, glob_match, read_ignore_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (path, patterns) = text.split_once('\n').unwrap_or((&text, ""));
    for pattern in patterns.lines() {
        glob_match(pattern, path).ok();
    }
    let Ok(matcher) = Matcher::new(read_ignore_file(patterns)) else { return };
    let mut parent = None;
    let mut left_out = None;
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([path.len()]);
    for end in ends {
        let here = &path[..end];
        let (yes, info) = matcher.matches_in(here, parent.as_ref());
        if let Some(left_out) = left_out {
            assert_eq!(yes, left_out, "{here:?} below what was left out");
        } else if !yes && !matcher.may_match_below(here) || yes && !matcher.may_except_below(here) {
            left_out = Some(yes);
        }
        parent = Some(info);
    }
});
