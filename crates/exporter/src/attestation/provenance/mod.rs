//! Provenance: what a result was made of, and how (SLSA Provenance v1 and v0.2, build types of BuildKit).
//!
//! Whoever runs builds fills a [`Capture`] for each tree; [`predicate`] makes the JSON of it.

mod options;
mod predicate;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::{Digest, Platform};

pub use options::{Mode, ProvenanceOptions, Version};
pub use predicate::{Run, predicate};
pub use steps::{BuildConfig, BuildStep, SourceFile, SourceInfo, build_config};

/// An image that a build used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageMaterial {
    /// Its name, with tag and perhaps digest.
    pub reference: String,
    /// The platform that it was taken for (formatted), if that matters.
    pub platform: Option<String>,
    /// The digest that the name stood for.
    pub digest: Option<Digest>,
    /// From an OCI layout of the client rather than a registry.
    pub local: bool,
}

/// A commit that a build used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitMaterial {
    /// The repository's URL, without credentials, with `#ref` if one was named.
    pub url: String,
    /// The commit, hexadecimal.
    pub commit: String,
}

/// A download that a build used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpMaterial {
    /// The URL, without credentials.
    pub url: String,
    /// The digest of what came.
    pub digest: Digest,
}

/// What a tree was made of: the union over all that it was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Materials {
    /// Images.
    pub images: BTreeSet<ImageMaterial>,
    /// Single blobs of registries or layouts.
    pub image_blobs: BTreeSet<ImageMaterial>,
    /// Commits.
    pub git: BTreeSet<GitMaterial>,
    /// Downloads.
    pub http: BTreeSet<HttpMaterial>,
    /// Names of the client's folders. What was in them is not known to others.
    pub local: BTreeSet<String>,
}

/// What the client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The frontend; empty for plain LLB.
    pub frontend: String,
    /// The frontend's options, see [`filter_args`].
    pub args: BTreeMap<String, String>,
    /// What made the definitions that it was given, by their names, as far as that is known.
    pub inputs: BTreeMap<String, Request>,
    /// What the build as a whole was asked for, where that is something else.
    pub root: Option<Box<Request>>,
}

/// How one tree came to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// What the client asked for.
    pub request: Request,
    /// What it was made of.
    pub materials: Materials,
    /// Secrets that steps may have read: id, and whether the step went on without it.
    pub secrets: BTreeMap<String, bool>,
    /// SSH agents in the same way.
    pub ssh: BTreeMap<String, bool>,
    /// A step could reach a network.
    pub network_access: bool,
    /// There are materials that are not in the list.
    pub incomplete_materials: bool,
}

impl Capture {
    /// Adds what another tree was made of, from which this one was made.
    pub fn merge(&mut self, other: &Capture) {
        let (own, more) = (&mut self.materials, other.materials.clone());
        own.images.extend(more.images);
        own.image_blobs.extend(more.image_blobs);
        own.git.extend(more.git);
        own.http.extend(more.http);
        own.local.extend(more.local);
        for (into, from) in [(&mut self.secrets, &other.secrets), (&mut self.ssh, &other.ssh)] {
            for (id, &optional) in from {
                // Needed by one is needed.
                into.entry(id.clone()).and_modify(|own| *own &= optional).or_insert(optional);
            }
        }
        self.network_access |= other.network_access;
        self.incomplete_materials |= other.incomplete_materials;
    }
}

/// The options of a frontend that belong into provenance: none that tell of the machine, no requests for attestations, and
/// no credentials in the context's URL.
pub fn filter_args(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    const OF_THE_MACHINE: [&str; 4] = ["cgroup-parent", "image-resolve-mode", "platform", "cache-imports"];
    let context = options.get("contextkey").filter(|key| !key.is_empty()).map_or("context", String::as_str);
    let kept = options
        .iter()
        .filter(|(key, _)| !OF_THE_MACHINE.contains(&key.as_str()) && !key.starts_with("attest:"));
    kept.map(|(key, value)| {
        let is_context = key == context || key.starts_with("context:");
        (key.clone(), if is_context { redact(value) } else { value.clone() })
    })
    .collect()
}

/// A URL without the user and password in it. What is no URL stays.
pub fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((user, host)) = rest[..end].rsplit_once('@') else { return url.to_owned() };
    let user = if user.contains(':') { "xxxxx:xxxxx" } else { "xxxxx" };
    format!("{scheme}://{user}@{host}{}", &rest[end..])
}

/// The platform of this machine, as provenance names it.
fn builder_platform() -> String {
    Platform::host().format()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn args_without_the_machine_and_secrets() {
        let options = [
            ("platform", "linux/arm64"),
            ("attest:provenance", "mode=max"),
            ("context", "https://me:pass@host/r.git#main"),
            ("context:other", "https://token@host/x"),
            ("build-arg:A", "b"),
        ];
        let kept = filter_args(&options.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["build-arg:A", "context", "context:other"]);
        assert_eq!(kept["context"], "https://xxxxx:xxxxx@host/r.git#main");
        assert_eq!(kept["context:other"], "https://xxxxx@host/x");
    }

    #[test]
    fn urls_without_credentials_stay() {
        for url in ["https://host/a@b", "git@github.com:a/b.git", "local", "https://host?x=a@b"] {
            assert_eq!(redact(url), url);
        }
    }

    #[test]
    fn merging_unites() {
        let mut one = Capture { secrets: [("a".into(), true)].into(), ..Capture::default() };
        let mut two = Capture { network_access: true, ..Capture::default() };
        two.secrets = [("a".to_owned(), false), ("b".to_owned(), true)].into();
        two.materials.local.insert("context".into());
        one.merge(&two);
        assert_eq!(one.secrets, [("a".to_owned(), false), ("b".to_owned(), true)].into());
        assert!(one.network_access && one.materials.local.contains("context"));
    }
}
