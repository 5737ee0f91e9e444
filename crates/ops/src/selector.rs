//! What of an input an op uses, and the digest of its content.

use std::sync::Arc;

use kiln_engine::{InputMap, OpContext};
use kiln_fstree::contenthash::ChecksumOptions;
use kiln_oci::Digest;

use crate::{Content, Host, Kiln, OpError, Output};

/// A part of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    /// Where it is; empty is all of it.
    pub(crate) path: String,
    /// How it is hashed.
    pub(crate) options: ChecksumOptions,
}

impl Selector {
    /// The path and whatever its links lead to.
    pub(crate) fn following(path: impl Into<String>) -> Self {
        let options = ChecksumOptions { follow_links: true, ..ChecksumOptions::default() };
        Self { path: path.into(), options }
    }

    /// Where it is, from the root of the tree.
    pub(crate) fn place(&self) -> String {
        format!("/{}", self.path.trim_start_matches('/'))
    }

    fn is_plain(&self) -> bool {
        !self.options.wildcard && self.options.include.is_empty() && self.options.exclude.is_empty()
    }
}

/// How an input takes part in a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct InputUse {
    /// The digest that stands for the selectors in the links of the key graph.
    pub(crate) selector: Option<Digest>,
    /// What is hashed; `None`: the input has no content key. None in the list: all of it.
    pub(crate) content: Option<Vec<Selector>>,
}

impl InputUse {
    pub(crate) fn map(&self) -> InputMap {
        InputMap { selector: self.selector.clone(), by_content: self.content.is_some(), prepare: true }
    }
}

/// The digest of a list of paths.
pub(crate) fn digest_of_paths(paths: &[impl AsRef<str>]) -> Digest {
    let all: Vec<&str> = paths.iter().map(AsRef::as_ref).collect();
    Digest::sha256(all.join("\0"))
}

/// The same paths sorted, without those that lie below another.
pub(crate) fn dedupe(mut paths: Vec<String>) -> Vec<String> {
    if paths.len() < 2 {
        return paths;
    }
    paths.sort();
    paths.dedup();
    let all = paths.clone();
    let below = |path: &str, other: &str| {
        path != other
            && path.strip_prefix(other).is_some_and(|rest| other.ends_with('/') || rest.starts_with('/'))
    };
    paths.retain(|path| !all.iter().any(|other| below(path, other)));
    paths
}

/// The same selectors in the order in which they are hashed: plain ones without those below another, all by path.
pub(crate) fn dedupe_selectors(all: &[Selector]) -> Vec<Selector> {
    let plain = |follow: bool| {
        let with = |s: &&Selector| s.is_plain() && s.options.follow_links == follow;
        dedupe(all.iter().filter(with).map(|s| s.path.clone()).collect())
    };
    let mut out: Vec<Selector> =
        plain(false).into_iter().map(|path| Selector { path, ..Selector::default() }).collect();
    out.extend(plain(true).into_iter().map(Selector::following));
    out.extend(all.iter().filter(|s| !s.is_plain()).cloned());
    out.sort_by(|a, b| a.path.cmp(&b.path));
    out
}

/// The digest of what the selectors choose of an output.
pub(crate) async fn content_digest(
    host: &Arc<Host>,
    cx: &OpContext<Kiln>,
    selectors: &[Selector],
    output: &Output,
) -> Result<Digest, OpError> {
    let unpacked = output.unpack(cx).await?;
    let selectors: Arc<[Selector]> = match selectors {
        [] => [Selector::default()].into(),
        selectors => selectors.into(),
    };
    let (hashes, hashed, tree) = (host.hashes.clone(), selectors.clone(), unpacked.clone());
    let digests = tokio::task::spawn_blocking(move || {
        let one = |selector: &Selector| hashes.checksum(tree.as_ref(), &selector.place(), &selector.options);
        hashed.iter().map(one).collect::<Result<Vec<Digest>, OpError>>()
    });
    let digests: Vec<String> = digests.await??.iter().map(Digest::to_string).collect();
    let digest = digest_of_paths(&digests);
    for witness in cx.jobs().into_iter().flat_map(|job| job.witnesses) {
        witness.hashed(&digest, Content::new(host.hashes.clone(), unpacked.clone(), selectors.clone()));
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_another_go() {
        let paths = ["/foobar", "/foo/a", "/foo", "/foo", "/b/"].map(str::to_owned).to_vec();
        assert_eq!(dedupe(paths), ["/b/", "/foo", "/foobar"]);
        assert_eq!(dedupe(vec!["/".into(), "/a".into()]), ["/"]);
    }

    #[test]
    fn selectors_with_filters_stay_as_they_are() {
        let filtered = Selector {
            path: "/a".into(),
            options: ChecksumOptions { wildcard: true, ..ChecksumOptions::default() },
        };
        let all =
            [filtered.clone(), Selector::following("/b"), Selector::following("/b/c"), filtered.clone()];
        assert_eq!(dedupe_selectors(&all), [filtered.clone(), filtered, Selector::following("/b")]);
    }
}
