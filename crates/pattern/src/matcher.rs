//! Ordered lists of patterns with exceptions.

use crate::{Error, Glob, clean};

/// A list of patterns, of which the last that matches decides: a plain pattern says yes, one with a leading `!` takes
/// that back. A pattern that matches a folder matches all that is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matcher {
    patterns: Vec<Pattern>,
    exceptions: bool,
}

/// One pattern of a [`Matcher`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Cleaned, without the `!`.
    text: String,
    exception: bool,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// No wildcard at all.
    Exact,
    /// Text and a final `**`: all that starts with this many bytes.
    Prefix(usize),
    /// A leading `**` and text: all that ends in the text, and the text without its first `/`.
    Suffix,
    Glob(Glob),
}

/// Which patterns matched a folder or one above it: what the matches of its entries build on.
/// Made by [`Matcher::matches_in`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchInfo {
    bits: u64,
    more: Vec<u64>,
}

impl MatchInfo {
    fn get(&self, i: usize) -> bool {
        let word = if i < 64 { self.bits } else { self.more.get(i / 64 - 1).copied().unwrap_or(0) };
        word >> (i % 64) & 1 == 1
    }

    fn set(&mut self, i: usize) {
        if i < 64 {
            self.bits |= 1 << i;
            return;
        }
        let word = i / 64 - 1;
        if self.more.len() <= word {
            self.more.resize(word + 1, 0);
        }
        self.more[word] |= 1 << (i % 64);
    }
}

impl Matcher {
    /// Parses a list. Empty patterns are skipped, white space around a pattern is dropped, and each is
    /// [cleaned](clean) before its `!` is looked for.
    ///
    /// # Errors
    /// The first pattern that is malformed.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let mut out = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.is_empty() {
                continue;
            }
            let pattern = Pattern::new(&clean(pattern))?;
            out.exceptions |= pattern.exception;
            out.patterns.push(pattern);
        }
        Ok(out)
    }

    /// Whether there is no pattern in the list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether any pattern is an exception.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.exceptions
    }

    /// The patterns, in order.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether a clean, relative path matches by itself or by one of the folders above it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.matches_in(path, None).0
    }

    /// As [`matches`](Self::matches), for walks: `parent` is what this function returned for the folder that `path` is
    /// in, so that folders are not matched again for each entry. `None` if nothing is known of the folder.
    /// The second value is handed on when `path` is a folder itself.
    ///
    /// A quirk that is kept, since contexts depend on it: an exception that had nothing to take back at a folder is not
    /// remembered for what is below it (`[ab]/b`, `!*`: a walk finds `a/b`, [`matches`](Self::matches) does not).
    #[must_use]
    pub fn matches_in(&self, path: &str, parent: Option<&MatchInfo>) -> (bool, MatchInfo) {
        let mut matched = false;
        let mut info = MatchInfo::default();
        for (i, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.is_some_and(|info| info.get(i));
            // A plain pattern cannot change a yes, nor an exception a no.
            if !inherited && pattern.exception != matched {
                continue;
            }
            if inherited || pattern.matches(path) || (parent.is_none() && pattern.matches_above(path)) {
                info.set(i);
                matched = !pattern.exception;
            }
        }
        (matched, info)
    }

    /// Whether a plain pattern may match something below the folder `dir`, which itself does not match.
    /// If not, a walk that looks for matches need not enter it.
    #[must_use]
    pub fn may_match_below(&self, dir: &str) -> bool {
        self.patterns.iter().any(|p| !p.exception && p.may_match_below(dir))
    }

    /// Whether an exception may match something below the folder `dir`, which itself matches.
    /// If not, a walk that leaves out matches need not enter it.
    #[must_use]
    pub fn may_except_below(&self, dir: &str) -> bool {
        self.exceptions && self.patterns.iter().any(|p| p.exception && p.may_match_below(dir))
    }
}

impl Pattern {
    fn new(cleaned: &str) -> Result<Self, Error> {
        let (exception, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(Error::EmptyException),
            Some(rest) => (true, rest),
            None => (false, cleaned),
        };
        // The syntax is Go's `filepath.Match`, whatever the kind.
        Glob::new(text)?;
        Ok(Self { text: text.to_owned(), exception, kind: Kind::of(text)? })
    }

    /// The cleaned pattern, without a leading `!`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern was written with a leading `!`.
    #[must_use]
    pub fn is_exception(&self) -> bool {
        self.exception
    }

    fn matches(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact => path == self.text,
            Kind::Prefix(len) => path.as_bytes().starts_with(&self.text.as_bytes()[..*len]),
            Kind::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Kind::Glob(glob) => glob.matches(path),
        }
    }

    /// Whether the pattern matches a folder that `path` is in.
    fn matches_above(&self, path: &str) -> bool {
        path.bytes().enumerate().any(|(i, b)| b == b'/' && i > 0 && self.matches(&path[..i]))
    }

    /// Compares component by component as long as both sides have one; where that cannot tell, the answer is yes.
    fn may_match_below(&self, dir: &str) -> bool {
        if self.text.contains(['[', '\\', '^']) {
            return true;
        }
        let mut mine = self.text.split('/');
        for name in dir.split('/') {
            match mine.next() {
                None => return false,
                Some(part) if part.contains("**") => return true,
                Some(part) if part == name => {}
                Some(part) if crate::has_wildcard(part) && crate::glob_match(part, name) == Ok(true) => {}
                Some(_) => return false,
            }
        }
        mine.next().is_some()
    }
}

impl Kind {
    /// The cheapest way that gives the same answers. Note that `**x` is a suffix and crosses folders even without a
    /// `/` behind the stars, while `a**x` is the text `a`, any folders, then `x`.
    fn of(text: &str) -> Result<Self, Error> {
        const META: [char; 5] = ['*', '?', '[', ']', '\\'];
        if !text.contains(META) {
            return Ok(Self::Exact);
        }
        let plain = |rest: &&str| !rest.contains(META);
        // `**/` alone is cleaned to `**`, whose empty suffix ends every path.
        if text.strip_prefix("**").filter(plain).is_some() {
            return Ok(Self::Suffix);
        }
        if let Some(rest) = text.strip_suffix("**").filter(plain) {
            return Ok(Self::Prefix(rest.len()));
        }
        Ok(Self::Glob(Glob::ignore(text)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(patterns: &[&str], path: &str) -> bool {
        Matcher::new(patterns).expect("valid patterns").matches(path)
    }

    #[test]
    fn one_pattern() {
        for (pattern, path, want) in [
            ("**", "file", true),
            ("**/", "file", true),
            ("**", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "dir", true),
            ("**/dir", "a/dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**file", "dir/file", true),
            ("**file", "dir/xfile", true),
            ("**/file", "dir/xfile", false),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/*.txt", "dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("a\\*", "a*", true),
            ("a\\\\", "a\\", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", ".foo", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("dist/*.whl", "dist/proxy.py-2.4.0-py3-none-any.whl", true),
            ("a/*/c", "a/b/c/d", true),
            ("a^b", "a^b", true),
            ("a^*", "a^b", false),
            ("/a", "a", false),
            ("./a/../b", "b", true),
        ] {
            assert_eq!(matches(&[pattern], path), want, "{pattern:?} {path:?}");
        }
    }

    #[test]
    fn the_last_match_decides() {
        assert!(!matches(&["a", "!a/b"], "a/b"));
        assert!(!matches(&["a", "!a/b"], "a/b/c"));
        assert!(matches(&["a", "!a/b"], "a/c"));
        assert!(matches(&["a", "!a/b", "a/b/c"], "a/b/c"));
        assert!(!matches(&["!a", "b"], "a"));
        assert!(matches(&["!a", "a"], "a"));
        assert!(!matches(&["**", "!util/docker/web"], "util/docker/web/foo"));
        assert!(matches(&["*", "!docker", "docker/secret"], "docker/secret"));
    }

    #[test]
    fn malformed_lists() {
        assert_eq!(Matcher::new(["!"]), Err(Error::EmptyException));
        assert_eq!(Matcher::new([" ! "]), Err(Error::EmptyException));
        assert!(matches!(Matcher::new(["a", "b["]), Err(Error::Syntax(_))));
        assert!(Matcher::new(["", "  "]).expect("blank").is_empty());
    }

    #[test]
    fn walks_skip_what_cannot_match() {
        let m = Matcher::new(["src/*.go", "docs/**/x", "!src/a/keep/*"]).expect("valid");
        assert!(m.may_match_below("src"));
        assert!(!m.may_match_below("src/a"));
        assert!(!m.may_match_below("lib"));
        assert!(m.may_match_below("docs/a/b"));
        assert!(m.may_except_below("src/a"));
        assert!(m.may_except_below("src/a/keep"));
        assert!(!m.may_except_below("src/b"));
        assert!(!Matcher::new(["src"]).expect("valid").may_except_below("src"));
    }

    #[test]
    fn more_patterns_than_a_word_has_bits() {
        let list: Vec<String> = (0..200).map(|i| format!("d{i}")).collect();
        let m = Matcher::new(&list).expect("valid");
        let (_, info) = m.matches_in("d150", None);
        assert!(m.matches_in("d150/x", Some(&info)).0);
        assert_eq!((0..200).filter(|&i| info.get(i)).collect::<Vec<_>>(), [150]);
    }

    proptest! {
        /// A walk that leaves out the folders which the matcher says it may sees what a full walk sees.
        #[test]
        fn skipping_changes_nothing(
            patterns in prop::collection::vec("!?(\\*\\*/|\\*/|a/|b/|\\[ab\\]/){0,2}(\\*\\*|a|b|\\*|\\?|a\\*)", 0..5),
            path in "[ab](/[ab]){0,4}",
        ) {
            let m = Matcher::new(&patterns).expect("valid");
            let mut info: Option<MatchInfo> = None;
            let (mut yes, mut skipped) = (false, None);
            for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
                let here = &path[..end];
                let next;
                (yes, next) = m.matches_in(here, info.as_ref());
                if end < path.len() && skipped.is_none() {
                    if !yes && !m.may_match_below(here) { skipped = Some(false); }
                    if yes && !m.may_except_below(here) { skipped = Some(true); }
                }
                info = Some(next);
            }
            prop_assert_eq!(skipped.unwrap_or(yes), yes);
            if !m.has_exceptions() {
                prop_assert_eq!(yes, m.matches(&path));
            }
        }

        #[test]
        fn nothing_panics(pattern in "\\PC{0,20}", path in "\\PC{0,20}") {
            if let Ok(m) = Matcher::new([&pattern]) {
                let _yes = m.matches(&path);
                let _below = m.may_match_below(&path);
            }
        }
    }
}
