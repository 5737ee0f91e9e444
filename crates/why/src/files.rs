//! Two lists of files in, differences out.

use std::collections::BTreeMap;

use kiln_proto::history::Files;

use crate::{Change, Difference, Kind};

/// No more files of an input than these are told of one by one.
pub(crate) const MAX_FILES: usize = 1000;

/// In what files differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FileDifferences {
    pub(crate) listed: Vec<Difference>,
    /// How many there are beyond those.
    pub(crate) more: usize,
    /// Whether there may be others, in what the lists leave out.
    pub(crate) incomplete: bool,
}

/// The files that changed, came and went, the first `most` one by one. Where a list leaves some out, only what both have can be told.
pub(crate) fn compare(before: &Files, after: &Files, input: usize, most: usize) -> FileDifferences {
    let by_path = |files: &Files| -> BTreeMap<String, u64> {
        files.files.iter().map(|file| (file.path.clone(), file.sum)).collect()
    };
    let (old, new) = (by_path(before), by_path(after));
    let incomplete = before.truncated || after.truncated;
    let mut all: Vec<(&str, Change)> = Vec::new();
    for (path, sum) in &new {
        match old.get(path) {
            Some(other) if other == sum => {}
            Some(_) => all.push((path, Change::Changed)),
            None if incomplete => {}
            None => all.push((path, Change::Added)),
        }
    }
    let gone = old.keys().filter(|path| !incomplete && !new.contains_key(*path));
    all.extend(gone.map(|path| (path.as_str(), Change::Removed)));
    all.sort_unstable_by_key(|(path, _)| *path);
    let more = all.len().saturating_sub(most);
    let listed = all.into_iter().take(most).map(|(path, change)| file(path, change, input)).collect();
    FileDifferences { listed, more, incomplete }
}

fn file(path: &str, change: Change, input: usize) -> Difference {
    Difference {
        kind: Kind::File,
        name: path.to_owned(),
        change,
        before: None,
        after: None,
        build_arg: None,
        input: Some(input),
    }
}

#[cfg(test)]
mod tests {
    use kiln_proto::history::File;

    use super::*;

    fn files(all: &[(&str, u64)], truncated: bool) -> Files {
        let files = all.iter().map(|(path, sum)| File { path: (*path).to_owned(), sum: *sum }).collect();
        Files { files, truncated }
    }

    fn shown(d: &FileDifferences) -> Vec<(&str, Change)> {
        d.listed.iter().map(|d| (d.name.as_str(), d.change)).collect()
    }

    #[test]
    fn files_change_come_and_go() {
        let d = compare(
            &files(&[("a", 1), ("b", 1), ("c", 1)], false),
            &files(&[("a", 1), ("b", 2), ("d", 1)], false),
            1,
            MAX_FILES,
        );
        assert_eq!(shown(&d), [("b", Change::Changed), ("c", Change::Removed), ("d", Change::Added)]);
        assert_eq!((d.more, d.incomplete, d.listed[0].input), (0, false, Some(1)));
    }

    #[test]
    fn of_a_list_that_is_cut_only_common_files_are_told() {
        let d = compare(&files(&[("a", 1)], true), &files(&[("a", 2), ("z", 1)], false), 0, MAX_FILES);
        assert_eq!(shown(&d), [("a", Change::Changed)]);
        assert!(d.incomplete);
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let names: Vec<String> = (0..MAX_FILES + 5).map(|n| format!("{n:05}")).collect();
        let all: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let d = compare(&files(&[], false), &files(&all, false), 0, MAX_FILES);
        assert_eq!((d.listed.len(), d.more), (MAX_FILES, 5));
    }
}
