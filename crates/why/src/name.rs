//! Names of steps, taken apart: `[linux/amd64 build 2/4] RUN make`.

/// A name and its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    /// What is in brackets; empty without any.
    pub(crate) bracket: &'a str,
    /// The bracket without the position: platform and stage.
    pub(crate) group: &'a str,
    /// What follows.
    pub(crate) text: &'a str,
}

impl<'a> Name<'a> {
    pub(crate) fn parse(name: &'a str) -> Self {
        let parts = name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let Some((bracket, text)) = parts else { return Self { bracket: "", group: "", text: name } };
        let group = match bracket.rsplit_once(' ') {
            Some((group, last)) if is_position(last) => group,
            None if is_position(bracket) => "",
            _ => bracket,
        };
        Self { bracket, group, text: text.trim_start() }
    }

    /// Whether it is housekeeping of a frontend: the transfer of a context.
    pub(crate) fn is_internal(&self) -> bool {
        self.bracket == "internal" || self.bracket.starts_with("internal ") || self.bracket == "context"
    }

    /// The instruction.
    pub(crate) fn keyword(&self) -> &'a str {
        self.text.split_whitespace().next().unwrap_or_default()
    }
}

/// `2/4`.
fn is_position(word: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    word.split_once('/').is_some_and(|(a, b)| number(a) && number(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_groups_and_texts() {
        let parts = |name| {
            let name = Name::parse(name);
            (name.bracket, name.group, name.text)
        };
        assert_eq!(parts("[2/4] RUN a"), ("2/4", "", "RUN a"));
        assert_eq!(parts("[build 2/4] RUN [a]"), ("build 2/4", "build", "RUN [a]"));
        assert_eq!(
            parts("[linux/arm64 build 2/4] RUN a"),
            ("linux/arm64 build 2/4", "linux/arm64 build", "RUN a")
        );
        assert_eq!(parts("[internal] load build context"), ("internal", "internal", "load build context"));
        assert_eq!(parts("sh -c true"), ("", "", "sh -c true"));
        assert!(Name::parse("[internal] load .dockerignore").is_internal());
        assert_eq!(Name::parse("[2/4] COPY --link a b").keyword(), "COPY");
    }
}
