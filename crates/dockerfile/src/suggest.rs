//! The nearest known word to one that isn't known.

/// The known word nearest to `word`, when it's near enough to be a slip of the fingers.
///
/// Distance counts inserted, dropped, replaced and swapped characters, without regard to case: two at most, three in
/// words of nine characters and more.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let lower: Vec<char> = word.to_lowercase().chars().collect();
    let allowed = match lower.len() {
        0..=1 => return None,
        2 => 1,
        3..=8 => 2,
        _ => 3,
    };
    known
        .into_iter()
        .filter(|k| k.len().abs_diff(word.len()) <= 2 * allowed)
        .map(|k| (distance(&lower, &k.to_lowercase().chars().collect::<Vec<_>>()), k))
        .filter(|(d, k)| *d <= allowed && *k != word)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// The most bytes that a character has.
const MAX_CHAR: usize = 4;

/// The known name nearest to a variable's name, at most two characters changed; `None` also when it is among them.
///
/// This is how the reference's warnings suggest, to the letter.
pub(crate) fn nearest_variable<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    for candidate in known {
        if candidate == name {
            return None;
        }
        // Two edits change the length by two characters at most.
        if candidate.len().abs_diff(name.len()) > 2 * MAX_CHAR {
            continue;
        }
        let distance = edits(name, candidate);
        if distance < best.map_or(3, |(least, _)| least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Characters to insert, drop or replace.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = last;
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_suggested_within_two_edits() {
        assert_eq!(nearest_variable("FOOO", ["BAR", "FOO"]), Some("FOO"));
        assert_eq!(nearest_variable("abc", ["abcdef", "ABC"]), None);
        assert_eq!(nearest_variable("FOO", ["FO", "FOO"]), None);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn finds_slips_and_nothing_else() {
        let known = ["RUN", "COPY", "WORKDIR", "ENTRYPOINT"];
        assert_eq!(nearest("RNU", known), Some("RUN"));
        assert_eq!(nearest("copi", known), Some("COPY"));
        assert_eq!(nearest("WROKDIR", known), Some("WORKDIR"));
        assert_eq!(nearest("ENTRPOIN", known), Some("ENTRYPOINT"));
        assert_eq!(nearest("BADCMD", known), None);
        assert_eq!(nearest("tmp", ["bind", "tmpfs"]), Some("tmpfs"));
        assert_eq!(nearest("R", known), None);
    }
}
