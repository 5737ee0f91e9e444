//! Whether a result is for the platforms that were asked for: frontends may make of a request what they like, and users want to know.

use std::collections::{BTreeMap, BTreeSet};

use kiln_exporter::Source;
use kiln_oci::Platform;

/// What a user should be warned of. `attrs` are the frontend's options.
pub(crate) fn warning(attrs: &BTreeMap<String, String>, source: &Source) -> Option<String> {
    let listed = source.metadata.contains_key(kiln_exporter::source::PLATFORMS);
    if !listed && source.single.is_none() {
        return None;
    }
    let given: Vec<Platform> = source.platforms().ok()?.into_iter().map(|one| one.platform).collect();
    let mut asked = Vec::new();
    for name in attrs.get("platform").map(|names| names.split(',')).into_iter().flatten() {
        match Platform::parse(name) {
            Ok(platform) => asked.push(platform.normalize()),
            Err(error) => return Some(format!("The requested platform {name:?} is none: {error}")),
        }
    }
    if asked.is_empty() {
        asked.push(Platform::host().normalize());
    }
    let names: BTreeSet<String> = asked.iter().map(Platform::format_all).collect();
    if names.len() < asked.len() {
        return Some(format!("A platform is requested twice: {}", joined(&asked)));
    }
    if asked.len() > 1 && !source.is_multi() {
        return Some(format!(
            "Multiple platforms requested but result is not multi-platform: {}",
            joined(&asked)
        ));
    }
    let mut given_names: BTreeSet<String> = given.iter().map(Platform::format_all).collect();
    if let ([asked], [given]) = (asked.as_slice(), given.as_slice())
        && asked.os_version.is_empty()
    {
        // Whoever asks for no version of the system takes any.
        given_names = [Platform { os_version: String::new(), ..given.clone() }.format_all()].into();
    }
    (names != given_names).then(|| {
        format!("Requested platforms {} do not match result platforms {}", joined(&asked), joined(&given))
    })
}

fn joined(platforms: &[Platform]) -> String {
    let names: BTreeSet<String> = platforms.iter().map(Platform::format_all).collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(platforms: &[&str], multi: bool) -> Source {
        let entry = |name: &&str| {
            let platform = serde_json::to_value(Platform::parse(name).unwrap()).unwrap();
            serde_json::json!({"ID": name, "Platform": platform})
        };
        let list = serde_json::json!({"Platforms": platforms.iter().map(entry).collect::<Vec<_>>()});
        let metadata = [(kiln_exporter::source::PLATFORMS.to_owned(), list.to_string().into_bytes())].into();
        let trees = platforms.iter().filter(|_| multi).map(|name| ((*name).to_owned(), None)).collect();
        Source { metadata, trees, ..Source::default() }
    }

    fn warned(asked: &str, source: &Source) -> bool {
        warning(&[("platform".to_owned(), asked.to_owned())].into(), source).is_some()
    }

    #[test]
    fn what_was_asked_for_is_no_cause() {
        assert!(!warned("linux/arm64", &source(&["linux/arm64"], false)));
        assert!(!warned("linux/arm64/v8", &source(&["linux/arm64"], false)));
        assert!(!warned("windows/amd64", &source(&["windows(10.0.17763.1)/amd64"], false)));
        assert!(!warned("linux/amd64,linux/arm64", &source(&["linux/arm64", "linux/amd64"], true)));
        assert!(warning(&BTreeMap::new(), &Source::default()).is_none());
    }

    #[test]
    fn other_platforms_are() {
        assert!(warned("linux/arm64", &source(&["linux/amd64"], false)));
        assert!(warned("linux/amd64,linux/arm64", &source(&["linux/amd64"], false)));
        assert!(warned("linux/amd64,linux/arm64", &source(&["linux/amd64"], true)));
        assert!(warned("linux/amd64,linux/amd64", &source(&["linux/amd64"], false)));
        assert!(warned("neither nor", &source(&["linux/amd64"], false)));
        assert!(warned(
            "linux/amd64,windows/amd64",
            &source(&["linux/amd64", "windows(10.0.1)/amd64"], true)
        ));
    }
}
