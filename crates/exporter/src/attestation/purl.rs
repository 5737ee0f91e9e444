//! Package URLs of images (package-url specification, type `docker` and `oci`).

use kiln_oci::{Platform, Reference};

/// The package URL of an image: `pkg:docker/library%2Fx@tag?digest=…&platform=…`.
///
/// Docker's familiar name is used, without a registry for Docker Hub; a name without tag and digest is `latest`.
pub fn image_purl(kind: &str, reference: &Reference, platform: Option<&Platform>) -> String {
    let mut qualifiers = Vec::new();
    let mut reference = reference.clone();
    match reference.digest() {
        Some(digest) => qualifiers.push(("digest", digest.to_string())),
        None => reference = reference.with_default_tag(),
    }
    if let Some(platform) = platform {
        qualifiers.push(("platform", platform.clone().normalize().format()));
    }
    let version = reference.tag().map(str::to_owned);
    let name = reference.without_digest().without_tag().familiar();
    let mut purl = format!("pkg:{kind}");
    for part in name.split('/') {
        purl.push('/');
        purl.push_str(&encode(part, b""));
    }
    if let Some(version) = version {
        purl.push('@');
        purl.push_str(&encode(&version, b""));
    }
    for (at, (key, value)) in qualifiers.iter().enumerate() {
        purl.push(if at == 0 { '?' } else { '&' });
        purl.push_str(&format!("{key}={}", encode(value, b":")));
    }
    purl
}

/// Percent-encodes all but unreserved characters and `also`.
fn encode(text: &str, also: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purl(name: &str, platform: Option<&str>) -> String {
        let platform = platform.map(|p| Platform::parse(p).expect("platform"));
        image_purl("docker", &Reference::parse(name).expect("name"), platform.as_ref())
    }

    #[test]
    fn names_tags_digests_and_platforms() {
        assert_eq!(purl("alpine", None), "pkg:docker/alpine@latest");
        assert_eq!(
            purl("acme/tool:1.2", Some("linux/arm64")),
            "pkg:docker/acme/tool@1.2?platform=linux%2Farm64"
        );
        let digest = format!("sha256:{}", "0".repeat(64));
        let expected = format!("pkg:docker/ghcr.io/a/b?digest={digest}&platform=linux%2Famd64");
        assert_eq!(purl(&format!("ghcr.io/a/b@{digest}"), Some("linux/amd64")), expected);
        assert_eq!(purl("localhost:5000/x:y", None), "pkg:docker/localhost%3A5000/x@y");
    }
}
