//! Random names, in the form that BuildKit's clients use.

/// A random name of 25 lower-case letters and digits: of sessions, builds and whatever else must not collide.
#[must_use]
pub fn random_id() -> String {
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    const LENGTH: usize = 25;
    let mut id = String::with_capacity(LENGTH);
    let mut bytes = [0_u8; 2 * LENGTH];
    while id.len() < LENGTH {
        // Without randomness no name is safe to use; the operating system does not fail here once it is up.
        getrandom::fill(&mut bytes).expect("the system's random number generator works");
        // 252 is the largest multiple of 36 in a byte: what lies above would favour some letters.
        let letters = bytes.iter().filter(|b| **b < 252).map(|b| char::from(ALPHABET[usize::from(b % 36)]));
        id.extend(letters.take(LENGTH - id.len()));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::random_id;

    #[test]
    fn ids_have_25_letters_or_digits_and_differ() {
        let (a, b) = (random_id(), random_id());
        assert_eq!(a.len(), 25);
        assert!(a.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()));
        assert_ne!(a, b);
    }
}
