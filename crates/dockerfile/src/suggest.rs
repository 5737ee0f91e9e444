//! The nearest known word to one that isn't known.

/// The known word nearest to `word`, when it's near enough to be a slip of the fingers.
///
/// Distance counts inserted, dropped, replaced and swapped characters, without regard to case: one for short words,
/// two from five characters on, three from nine on.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let lower: Vec<char> = word.to_lowercase().chars().collect();
    let allowed = match lower.len() {
        0..=1 => return None,
        2..=4 => 1,
        5..=8 => 2,
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
    fn finds_slips_and_nothing_else() {
        let known = ["RUN", "COPY", "WORKDIR", "ENTRYPOINT"];
        assert_eq!(nearest("RNU", known), Some("RUN"));
        assert_eq!(nearest("copi", known), Some("COPY"));
        assert_eq!(nearest("WROKDIR", known), Some("WORKDIR"));
        assert_eq!(nearest("ENTRPOIN", known), Some("ENTRYPOINT"));
        assert_eq!(nearest("HELLO", known), None);
        assert_eq!(nearest("R", known), None);
    }
}
