//! What exporters are given: trees, what the frontend said of them, attestations.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use kiln_fstree::Root;
use kiln_layer::Settings;
use kiln_oci::{Descriptor, Digest, ImageConfig, Platform, Time};
use serde::Deserialize;

use crate::{
    attestation::Attestation,
    error::{Error, RefError, Result},
};

/// Key of the image config (JSON), for one platform with `/<platform id>` after it.
pub const IMAGE_CONFIG: &str = "containerimage.config";
/// Key of the config of the image that the result is based on, for one platform as above.
pub const BASE_CONFIG: &str = "containerimage.base.config";
/// Key of the list of platforms (JSON).
pub const PLATFORMS: &str = "refs.platforms";
/// Key of `SOURCE_DATE_EPOCH` as the frontend knows it, for one platform as above.
pub const EPOCH: &str = "source.date.epoch";
/// Key of the image name that `name=*` stands for.
pub const IMAGE_NAME: &str = "image.name";

/// Which blobs a caller wants of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerWish {
    /// How layers that have no blob yet are packed.
    pub settings: Settings,
    /// Whether layers that have a blob of another compression are packed anew.
    pub force: bool,
    /// Whether layers that may not be distributed stay marked so; else they are treated as any other.
    pub prefer_nondistributable: bool,
}

/// One layer of a tree as a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob. It need not be in the content store yet.
    pub descriptor: Descriptor,
    /// Digest of the tar stream in it.
    pub diff_id: Digest,
    /// When the layer was made.
    pub created: Option<Time>,
    /// What made it, for people.
    pub description: String,
    /// Repositories that are known to have the blob.
    pub repositories: Vec<String>,
}

/// A tree that a build made, with its layers. The tree stays while a clone of its `Arc` lives.
pub trait ResultRef: Send + Sync {
    /// The layers, lowest first. Makes blobs that are missing, but fetches none that are elsewhere unless they have to be
    /// packed anew.
    fn layers<'a>(&'a self, wish: &'a LayerWish) -> BoxFuture<'a, Result<Vec<Layer>, RefError>>;

    /// Brings the blob of a layer to the content store.
    fn fetch<'a>(&'a self, layer: &'a Layer) -> BoxFuture<'a, Result<(), RefError>>;

    /// Notes that a repository has the blob of a layer, so that others on the same registry can take it from there.
    ///
    /// # Errors
    /// The store's.
    fn pushed(&self, layer: &Layer, repository: &str) -> Result<(), RefError>;

    /// The files, fetched if they are elsewhere.
    fn open(&self) -> BoxFuture<'_, Result<Root, RefError>>;
}

/// A shared handle of a tree; `None` is the empty tree of `FROM scratch`.
pub type Tree = Option<Arc<dyn ResultRef>>;

/// The result of a build.
#[derive(Clone, Default)]
pub struct Source {
    /// The tree of a result without platforms.
    pub single: Tree,
    /// The trees of a result with platforms, by platform id.
    pub trees: BTreeMap<String, Tree>,
    /// What the frontend said: image configs and so on, under the keys of this module.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// By platform id.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

/// A platform of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultPlatform {
    /// The key under which the result has its tree.
    pub id: String,
    /// The platform, normalised.
    pub platform: Platform,
}

#[derive(Default, Deserialize)]
struct PlatformList {
    #[serde(rename = "Platforms", alias = "platforms", default)]
    platforms: Vec<PlatformEntry>,
}

#[derive(Deserialize)]
struct PlatformEntry {
    #[serde(rename = "ID", alias = "id", default)]
    id: String,
    #[serde(rename = "Platform", alias = "platform")]
    platform: Platform,
}

impl Source {
    /// Whether the result has a tree for each platform (then an index is made, even for one).
    pub fn is_multi(&self) -> bool {
        !self.trees.is_empty()
    }

    /// The tree of a platform.
    ///
    /// # Errors
    ///
    /// [`Error::Result`] if there is none.
    pub fn tree(&self, id: &str) -> Result<&Tree> {
        if !self.is_multi() {
            return Ok(&self.single);
        }
        self.trees.get(id).ok_or_else(|| Error::Result(format!("no tree for platform {id}")))
    }

    /// All trees that are not empty.
    pub fn all_trees(&self) -> impl Iterator<Item = &Arc<dyn ResultRef>> {
        self.single.iter().chain(self.trees.values().flatten())
    }

    /// The value of a key for a platform, or the one for all.
    pub fn value(&self, key: &str, platform: &str) -> Option<&[u8]> {
        let value = self.metadata.get(&format!("{key}/{platform}")).or_else(|| self.metadata.get(key));
        value.map(Vec::as_slice)
    }

    /// The platforms: as the frontend lists them, else what the image config says, else the host's.
    ///
    /// # Errors
    ///
    /// [`Error::Result`] for incomplete lists and configs, [`Error::Json`].
    pub fn platforms(&self) -> Result<Vec<ResultPlatform>> {
        let Some(list) = self.metadata.get(PLATFORMS) else {
            if self.is_multi() {
                return Err(Error::Result("several trees, but no list of their platforms".into()));
            }
            return Ok(vec![self.single_platform()?]);
        };
        // Go writes a list that was never made as null.
        let list: Option<PlatformList> =
            serde_json::from_slice(list).map_err(Error::json("the list of platforms"))?;
        let list = list.unwrap_or_default();
        if list.platforms.is_empty() {
            return Err(Error::Result(
                "invalid empty platforms index for exporter: a list of platforms names one at least".into(),
            ));
        }
        if !self.is_multi() && list.platforms.len() > 1 {
            return Err(Error::Result("several platforms, but only one tree".into()));
        }
        list.platforms.into_iter().map(PlatformEntry::check).collect()
    }

    fn single_platform(&self) -> Result<ResultPlatform> {
        let platform = match self.metadata.get(IMAGE_CONFIG) {
            None => Platform::host(),
            Some(config) => {
                refuse_null(config)?;
                let config = ImageConfig::decode(config).map_err(Error::json("the image config"))?;
                match (config.os.is_empty(), config.architecture.is_empty()) {
                    (false, false) => config.platform(),
                    (true, true) => Platform::default(),
                    _ => {
                        return Err(Error::Result(
                            "invalid image config: os and architecture must be specified together".into(),
                        ));
                    }
                }
            }
        };
        let platform = platform.normalize();
        Ok(ResultPlatform { id: platform.format_all(), platform })
    }
}

/// Refuses a config that Go wrote of none.
pub(crate) fn refuse_null(config: &[u8]) -> Result<()> {
    if config.trim_ascii() == b"null" {
        return Err(Error::Result("invalid null image config for export".into()));
    }
    Ok(())
}

impl PlatformEntry {
    fn check(self) -> Result<ResultPlatform> {
        if self.id.is_empty() {
            return Err(Error::Result(
                "invalid empty platform key for exporter: each platform has an id".into(),
            ));
        }
        if self.platform.os.is_empty() || self.platform.architecture.is_empty() {
            let text = format!("invalid platform value of {}: it has no os or no architecture", self.id);
            return Err(Error::Result(text));
        }
        Ok(ResultPlatform { id: self.id, platform: self.platform.normalize() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(key: &str, value: &str) -> Source {
        let metadata = [(key.to_owned(), value.as_bytes().to_vec())].into();
        Source { metadata, ..Source::default() }
    }

    #[test]
    fn platforms_come_from_the_list_the_config_or_the_host() {
        assert_eq!(Source::default().platforms().expect("host")[0].platform, Platform::host());
        let config = source(IMAGE_CONFIG, r#"{"os":"linux","architecture":"aarch64"}"#);
        assert_eq!(config.platforms().expect("config")[0].id, "linux/arm64");
        let list =
            r#"{"Platforms":[{"ID":"x","Platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}"#;
        let found = source(PLATFORMS, list).platforms().expect("list");
        assert_eq!((found[0].id.as_str(), found[0].platform.format()), ("x", "linux/arm/v7".to_owned()));
    }

    #[test]
    fn incomplete_results_are_refused() {
        for list in
            ["{}", r#"{"Platforms":[]}"#, r#"{"Platforms":[{"ID":"x","Platform":{"os":"linux"}}]}"#, "[1"]
        {
            assert!(source(PLATFORMS, list).platforms().is_err(), "{list}");
        }
        assert!(source(IMAGE_CONFIG, r#"{"os":"linux"}"#).platforms().is_err());
        let mut several = Source::default();
        several.trees.insert("a".into(), None);
        assert!(several.platforms().is_err());
        assert!(several.tree("b").is_err() && several.tree("a").expect("a").is_none());
    }

    #[test]
    fn values_of_a_platform_go_first() {
        let mut both = source("k", "all");
        both.metadata.insert("k/linux/arm64".into(), b"one".to_vec());
        assert_eq!(both.value("k", "linux/arm64"), Some(&b"one"[..]));
        assert_eq!(both.value("k", "linux/amd64"), Some(&b"all"[..]));
        assert_eq!(both.value("other", "x"), None);
    }
}
