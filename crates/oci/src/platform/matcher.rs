//! Which image of an index fits a platform, and which fits best.

use std::cmp::Ordering;

use super::Platform;

/// Matches platforms against one or several wanted ones, in order of preference.
#[derive(Debug, Clone)]
pub struct PlatformMatcher {
    wanted: Vec<Platform>,
}

impl PlatformMatcher {
    /// Matches `platform` and what its processors also run: `arm/v7` runs `arm/v6`, `amd64` runs `386`,
    /// `arm64` runs `arm`.
    pub fn only(platform: &Platform) -> Self {
        Self { wanted: compatible(platform.clone().normalize()) }
    }

    /// Matches exactly `platform`, in any spelling.
    pub fn strict(platform: &Platform) -> Self {
        Self { wanted: vec![platform.clone().normalize()] }
    }

    /// Matches any of several platforms, the earlier the better; each exactly.
    pub fn ordered(platforms: impl IntoIterator<Item = Platform>) -> Self {
        Self { wanted: platforms.into_iter().map(Platform::normalize).collect() }
    }

    /// Does `candidate` fit?
    pub fn matches(&self, candidate: &Platform) -> bool {
        self.rank(candidate).is_some()
    }

    /// How well `candidate` fits: 0 is best, `None` not at all.
    pub fn rank(&self, candidate: &Platform) -> Option<usize> {
        let c = candidate.clone().normalize();
        self.wanted.iter().position(|w| fits(w, &c))
    }

    /// Orders candidates, best first; what does not fit comes last. Equal ones keep their order in a stable
    /// sort.
    pub fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
        let rank = |p: &Platform| self.rank(p).unwrap_or(usize::MAX);
        // Among equals, the one that uses more features is the more specific.
        rank(a).cmp(&rank(b)).then_with(|| match self.matches(a) {
            true => b.os_features.len().cmp(&a.os_features.len()),
            false => Ordering::Equal,
        })
    }
}

/// `c` is normalised. On Windows the versions must be compatible and `win32k` is not looked at.
fn fits(wanted: &Platform, c: &Platform) -> bool {
    let windows = wanted.os == "windows";
    wanted.os == c.os
        && wanted.architecture == c.architecture
        && wanted.variant == c.variant
        && (!windows || windows_version_fits(&wanted.os_version, &c.os_version))
        && c.os_features.iter().all(|f| (windows && f == "win32k") || wanted.os_features.contains(f))
}

/// `platform` first, then what it also runs. `platform` is normalised.
fn compatible(platform: Platform) -> Vec<Platform> {
    let with = |arch: &str, variant: &str| Platform {
        architecture: arch.to_owned(),
        variant: variant.to_owned(),
        ..platform.clone()
    };
    let level = platform.variant.trim_start_matches('v').parse::<u8>().ok();
    let below = |arch: &str, top: u8, bottom: u8| -> Vec<Platform> {
        (bottom..top).rev().map(|v| with(arch, &format!("v{v}"))).map(Platform::normalize).collect()
    };
    let mut all = Vec::new();
    match platform.architecture.as_str() {
        "amd64" => {
            all.push(platform.clone());
            all.extend(below("amd64", level.unwrap_or(1), 1));
            all.push(with("386", ""));
        }
        "arm" => {
            all.push(platform.clone());
            all.extend(below("arm", level.unwrap_or(5), 5));
        }
        "arm64" => match arm64_versions(&platform.variant) {
            Some(versions) => {
                all.extend(versions.into_iter().map(|v| with("arm64", &v).normalize()));
                all.extend(below("arm", 9, 5));
            }
            None => all.extend(below("arm", 9, 5)),
        },
        _ => all.push(platform.clone()),
    }
    all
}

/// Every ARMv9.x includes ARMv8.(x+5). `None` for variants that don't exist.
fn arm64_versions(variant: &str) -> Option<Vec<String>> {
    let variant = if variant.is_empty() { "v8" } else { variant };
    let (major, minor) = variant.strip_prefix('v')?.split_once('.').unwrap_or((&variant[1..], "0"));
    let minor: u8 = minor.parse().ok()?;
    let down = |major: u8, minor: u8| {
        (0..=minor).rev().map(move |m| if m == 0 { format!("v{major}") } else { format!("v{major}.{m}") })
    };
    match (major, minor) {
        ("8", 0..=9) => Some(down(8, minor).collect()),
        ("9", 0..=7) => Some(down(9, minor).chain(down(8, (minor + 5).min(9))).collect()),
        _ => None,
    }
}

/// Can a Windows host of version `host` run an image of version `image`? Versions that say nothing match.
/// From Server 2022 on a host runs images down to the last long-term release before it.
fn windows_version_fits(host: &str, image: &str) -> bool {
    const LTSC: [u16; 2] = [20348, 26100];
    let Some((host_major, host_minor, host_build)) = windows_version(host) else { return true };
    if image.is_empty() {
        return true;
    }
    let (major, minor, build) = windows_version(image).unwrap_or_default();
    if (host_major, host_minor) != (major, minor) {
        return false;
    }
    if host_build < LTSC[0] {
        return host_build == build;
    }
    let oldest = LTSC.into_iter().rev().find(|&l| host_build > l).unwrap_or(LTSC[0]);
    (oldest..=host_build).contains(&build)
}

/// `10.0.20348[.…]`
fn windows_version(s: &str) -> Option<(u8, u8, u16)> {
    let mut parts = s.split('.');
    let v = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (v != (0, 0, 0)).then_some(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Platform {
        Platform::parse(s).unwrap()
    }

    fn ranks(wanted: &str, candidates: &[&str]) -> Vec<Option<usize>> {
        let m = PlatformMatcher::only(&p(wanted));
        candidates.iter().map(|c| m.rank(&p(c))).collect()
    }

    #[test]
    fn processors_run_older_ones() {
        assert_eq!(
            ranks(
                "linux/amd64",
                &["linux/amd64", "linux/amd64/v1", "linux/386", "linux/amd64/v2", "windows/amd64"]
            ),
            [Some(0), Some(0), Some(1), None, None]
        );
        assert_eq!(
            ranks("linux/amd64/v3", &["linux/amd64/v2", "linux/amd64", "linux/386"]),
            [Some(1), Some(2), Some(3)]
        );
        assert_eq!(
            ranks("linux/arm/v7", &["linux/arm", "linux/arm/v6", "linux/arm/v5", "linux/arm/v8"]),
            [Some(0), Some(1), Some(2), None]
        );
        assert_eq!(
            ranks("linux/arm64", &["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm64/v9"]),
            [Some(0), Some(1), Some(2), None]
        );
        assert_eq!(
            ranks("linux/arm64/v9", &["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64"]),
            [Some(0), Some(1), Some(6)]
        );
        assert!(!PlatformMatcher::strict(&p("linux/amd64")).matches(&p("linux/386")));
    }

    #[test]
    fn windows_versions() {
        let host = |v: &str| PlatformMatcher::only(&p(&format!("windows({v})/amd64")));
        let image = |v: &str| p(&format!("windows({v})/amd64"));
        assert!(host("10.0.17763.1").matches(&image("10.0.17763.9")));
        assert!(!host("10.0.17763.1").matches(&image("10.0.20348")));
        assert!(host("10.0.26100").matches(&image("10.0.20348.5")));
        assert!(host("10.0.27000").matches(&image("10.0.26100")));
        assert!(!host("10.0.27000").matches(&image("10.0.20348")));
        assert!(!host("10.0.20348").matches(&image("10.0.26100")));
        assert!(!host("10.0.20348").matches(&image("nonsense")));
        assert!(host("10.0.20348").matches(&p("windows/amd64")));
        assert!(PlatformMatcher::only(&p("windows/amd64")).matches(&image("10.0.1")));
        assert!(PlatformMatcher::only(&p("windows/amd64")).matches(&p("windows(+win32k)/amd64")));
        assert!(!PlatformMatcher::only(&p("linux/amd64")).matches(&p("linux(+x)/amd64")));
    }

    #[test]
    fn order_is_stable() {
        let m = PlatformMatcher::only(&p("linux/arm/v7"));
        let mut c = [p("linux/arm/v5"), p("windows/amd64"), p("linux/arm/v6"), p("linux/arm/v7")];
        c.sort_by(|a, b| m.compare(a, b));
        let names: Vec<_> = c.iter().map(Platform::format).collect();
        assert_eq!(names, ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5", "windows/amd64"]);
    }
}
