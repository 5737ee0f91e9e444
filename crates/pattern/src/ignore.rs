//! The lines of an ignore file.

use crate::clean;

/// The patterns in the text of a `.dockerignore` file, in order, ready for [`Matcher::new`](crate::Matcher::new).
///
/// A byte-order mark, lines that start with `#` and blank lines are dropped; white space around a pattern is trimmed,
/// the path is [cleaned](clean), and one leading `/` is removed, since patterns are relative to the context.
#[must_use]
pub fn read_ignore_file(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split('\n').filter(|line| !line.starts_with('#')).filter_map(|line| pattern(line.trim())).collect()
}

fn pattern(line: &str) -> Option<String> {
    if line.is_empty() {
        return None;
    }
    let (exception, path) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if path.is_empty() {
        // A lone `!` is kept: it is the matcher that refuses it, with its name.
        return Some(exception.to_owned());
    }
    let path = clean(path);
    let path = if path.len() > 1 { path.strip_prefix('/').unwrap_or(&path) } else { &path };
    Some(format!("{exception}{path}"))
}

#[cfg(test)]
mod tests {
    use super::read_ignore_file;

    #[test]
    fn lines_become_clean_relative_patterns() {
        let text =
            "\u{feff}# comment\n/top\n  spaced/../other/  \n\n #kept\n!/keep/me/\n! spaced\n/\n!\r\ncrlf\r\n";
        assert_eq!(
            read_ignore_file(text),
            ["top", "other", "#kept", "!keep/me", "!spaced", "/", "!", "crlf"].map(str::to_owned)
        );
    }

    #[test]
    fn empty_file_has_no_patterns() {
        assert!(read_ignore_file("").is_empty());
        assert!(read_ignore_file("\u{feff}").is_empty());
    }
}
