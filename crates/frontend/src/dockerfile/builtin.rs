//! Which frontend images the frontend in this process stands for.

use kiln_oci::Reference;

/// The version of the Dockerfile language that is built in: `1.LANGUAGE_MINOR`.
const LANGUAGE_MINOR: u32 = 20;

/// Whether `# syntax=docker/dockerfile:1` and its like mean the frontend in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// Whether it stands for any image at all.
    pub enabled: bool,
}

impl Default for Builtin {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Builtin {
    /// Whether the frontend in this process stands for `image`: the official image, by a tag that it covers. An image that is
    /// named by digest is never replaced.
    #[must_use]
    pub fn covers(&self, image: &str) -> bool {
        let Ok(reference) = Reference::parse(image) else { return false };
        let official = matches!(reference.path(), "docker/dockerfile" | "docker/dockerfile-upstream");
        self.enabled
            && official
            && reference.domain() == "docker.io"
            && reference.digest().is_none()
            && covers_tag(reference.tag().unwrap_or("latest"))
    }
}

/// `1`, `1.4`, `1.4.2`, each also as `…-labs`; `latest`, `labs`, `master`, `master-labs`.
fn covers_tag(tag: &str) -> bool {
    let version = tag.strip_suffix("-labs").unwrap_or(tag);
    if matches!(version, "latest" | "labs" | "master" | "1") {
        return true;
    }
    let Some(rest) = version.strip_prefix("1.") else { return false };
    let mut parts = rest.split('.');
    let minor = parts.next().and_then(|minor| minor.parse::<u32>().ok());
    let patch = parts.next().is_none_or(|patch| patch.parse::<u32>().is_ok());
    minor.is_some_and(|minor| minor <= LANGUAGE_MINOR) && patch && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::Builtin;

    #[test]
    fn official_tags_are_covered() {
        for image in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.4",
            "docker.io/docker/dockerfile:1.7.1",
            "docker/dockerfile:1-labs",
            "docker/dockerfile:1.5-labs",
            "docker/dockerfile-upstream:master-labs",
        ] {
            assert!(Builtin::default().covers(image), "{image}");
        }
    }

    #[test]
    fn nothing_else_is_replaced() {
        let digest = format!("docker/dockerfile:1@sha256:{}", "0".repeat(64));
        for image in [
            "docker/dockerfile:2",
            "docker/dockerfile:1.999",
            "docker/dockerfile:1.x",
            "docker/dockerfile:1.2.3.4",
            "example.com/docker/dockerfile:1",
            "me/dockerfile:1",
            &digest,
            "",
        ] {
            assert!(!Builtin::default().covers(image), "{image}");
        }
        assert!(!Builtin { enabled: false }.covers("docker/dockerfile:1"));
    }
}
