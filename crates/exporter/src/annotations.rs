//! Annotations that users put on manifests and indexes.
//!
//! ```text
//! annotation[-<where>][[<platform>]].<key>
//!            │          └─ only for this platform
//!            └─ manifest (default), manifest-descriptor, index, index-descriptor
//! ```

use std::collections::BTreeMap;

use kiln_oci::Platform;

use crate::error::{Error, Result};

/// Key-value pairs as descriptors and manifests have them.
pub(crate) type Pairs = BTreeMap<String, String>;

/// Where an annotation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

/// Annotations for one platform, or for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// On each manifest.
    pub manifest: Pairs,
    /// On the descriptor of each manifest, in the index or beside the archive.
    pub manifest_descriptor: Pairs,
    /// On the index.
    pub index: Pairs,
    /// On the descriptor of the index.
    pub index_descriptor: Pairs,
}

/// All annotations of an output, by platform (formatted); those for all platforms under the empty name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnotationSet(BTreeMap<String, Annotations>);

impl AnnotationSet {
    /// Takes an option if it is an annotation. Returns whether it was.
    ///
    /// # Errors
    ///
    /// [`Error::OptionValue`] for an unknown place or platform.
    pub fn take(&mut self, option: &str, value: &str) -> Result<bool> {
        let Some((place, platform, key)) = split(option) else { return Ok(false) };
        let bad =
            |want: String| Error::OptionValue { option: option.to_owned(), value: value.to_owned(), want };
        let place = match place {
            "" | "manifest" => Place::Manifest,
            "manifest-descriptor" => Place::ManifestDescriptor,
            "index" => Place::Index,
            "index-descriptor" => Place::IndexDescriptor,
            other => return Err(bad(format!("unrecognized annotation type {other}"))),
        };
        let platform = match platform {
            "" => String::new(),
            text => Platform::parse(text).map_err(|error| bad(error.to_string()))?.format_all(),
        };
        let all = self.0.entry(platform).or_default();
        let pairs = match place {
            Place::Manifest => &mut all.manifest,
            Place::ManifestDescriptor => &mut all.manifest_descriptor,
            Place::Index => &mut all.index,
            Place::IndexDescriptor => &mut all.index_descriptor,
        };
        pairs.insert(key.to_owned(), value.to_owned());
        Ok(true)
    }

    /// Adds those of `other`, which win.
    pub fn merge(&mut self, other: AnnotationSet) {
        for (platform, more) in other.0 {
            let all = self.0.entry(platform).or_default();
            all.manifest.extend(more.manifest);
            all.manifest_descriptor.extend(more.manifest_descriptor);
            all.index.extend(more.index);
            all.index_descriptor.extend(more.index_descriptor);
        }
    }

    /// The platforms that annotations are limited to.
    pub fn platforms(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(|platform| !platform.is_empty())
    }

    /// Whether there are others than on manifests.
    pub fn beyond_manifests(&self) -> bool {
        self.0.values().any(|a| {
            !(a.index.is_empty() && a.index_descriptor.is_empty() && a.manifest_descriptor.is_empty())
        })
    }

    /// What goes to a platform's manifest, or with `None` to all manifests; index annotations are in both.
    pub fn of(&self, platform: Option<&Platform>) -> Annotations {
        let mut found = Annotations::default();
        for all in self.0.values() {
            found.index.extend(all.index.clone());
            found.index_descriptor.extend(all.index_descriptor.clone());
        }
        let own = platform.map(Platform::format_all);
        for name in std::iter::once(String::new()).chain(own) {
            if let Some(all) = self.0.get(&name) {
                found.manifest.extend(all.manifest.clone());
                found.manifest_descriptor.extend(all.manifest_descriptor.clone());
            }
        }
        found
    }
}

/// Place, platform and key of an annotation option.
fn split(option: &str) -> Option<(&str, &str, &str)> {
    let rest = option.strip_prefix("annotation")?;
    let (place, rest) = match rest.strip_prefix('-') {
        None => ("", rest),
        Some(rest) => rest.split_at(rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-'))?),
    };
    let (platform, rest) = match rest.strip_prefix('[') {
        None => ("", rest),
        Some(rest) => rest.split_once(']')?,
    };
    let key = rest.strip_prefix('.')?;
    let fits = !key.is_empty() && !key.contains(char::is_whitespace);
    fits.then_some((place, platform, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_platforms() {
        let mut set = AnnotationSet::default();
        for (option, value) in [
            ("annotation.a.b", "1"),
            ("annotation-manifest[linux/arm64].a.b", "2"),
            ("annotation-manifest-descriptor[linux/amd64].d", "3"),
            ("annotation-index.i", "4"),
            ("annotation-index-descriptor.j", "5"),
        ] {
            assert!(set.take(option, value).expect(option), "{option}");
        }
        let amd = set.of(Some(&Platform::parse("linux/amd64").expect("platform")));
        assert_eq!((amd.manifest["a.b"].as_str(), amd.manifest_descriptor["d"].as_str()), ("1", "3"));
        let arm = set.of(Some(&Platform::parse("linux/arm64").expect("platform")));
        assert_eq!((arm.manifest["a.b"].as_str(), arm.manifest_descriptor.len()), ("2", 0));
        let all = set.of(None);
        assert_eq!((all.index["i"].as_str(), all.index_descriptor["j"].as_str()), ("4", "5"));
        assert_eq!(set.platforms().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
        assert!(set.beyond_manifests());
    }

    #[test]
    fn other_options_are_left_alone() {
        let mut set = AnnotationSet::default();
        for option in
            ["annotation", "annotations.x", "annotation.", "annotation.a b", "name", "annotation-index"]
        {
            assert!(!set.take(option, "").expect(option), "{option}");
        }
        assert!(set.take("annotation-nowhere.x", "").is_err());
        assert!(set.take("annotation[///].x", "").is_err());
        assert_eq!(set, AnnotationSet::default());
    }
}
