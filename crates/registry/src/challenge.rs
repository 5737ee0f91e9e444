//! The `WWW-Authenticate` header: what a server wants before it answers (RFC 9110, section 11; RFC 6750).

use std::collections::BTreeMap;

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Lower case: `bearer`, `basic`.
    pub(crate) scheme: String,
    /// Names in lower case.
    pub(crate) params: BTreeMap<String, String>,
}

impl Challenge {
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// All challenges of a header's value. What is malformed is left out.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while let Some((scheme, after)) = token(rest) {
        rest = after.trim_start();
        let mut params = BTreeMap::new();
        while let Some((name, value, after)) = parameter(rest) {
            params.insert(name.to_ascii_lowercase(), value);
            rest = after.trim_start_matches([' ', '\t', ',']);
        }
        challenges.push(Challenge { scheme: scheme.to_ascii_lowercase(), params });
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    challenges
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)))
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `name=value` or `name="quoted value"`, and what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = token(text)?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, rest) = token(rest)?;
        return Some((name, value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_bearer_challenge_has_realm_service_and_scope() {
        let all = parse(
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
        );
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(all[0].param("realm"), "https://auth.example/token");
        assert_eq!(all[0].param("scope"), "repository:a/b:pull,push");
    }

    #[test]
    fn several_challenges_in_one_header() {
        let all = parse(r#"Negotiate, Basic realm="a \"b\"", Bearer realm=x"#);
        let schemes: Vec<_> = all.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(all[1].param("realm"), "a \"b\"");
    }

    #[test]
    fn nonsense_ends_quietly() {
        for text in ["", ",,,", "\"", "Bearer realm=\"open", "Bearer realm", "=", "é"] {
            assert!(parse(text).iter().all(|c| c.param("realm").is_empty()), "{text}");
        }
    }
}
