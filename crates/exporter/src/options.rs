//! Options of exporters, parsed once.

use std::collections::BTreeMap;

use kiln_layer::{Compression, Settings};

use crate::{
    annotations::AnnotationSet,
    error::{Error, Result},
    source::{BASE_CONFIG, IMAGE_CONFIG, LayerWish},
};

/// Attributes as a client sends them; what is taken is gone, what is left at the end is unknown.
pub(crate) struct Attributes {
    exporter: &'static str,
    left: BTreeMap<String, String>,
}

impl Attributes {
    pub(crate) fn new(exporter: &'static str, attributes: &BTreeMap<String, String>) -> Self {
        Attributes { exporter, left: attributes.clone() }
    }

    fn take(&mut self, option: &str) -> Option<String> {
        self.left.remove(option)
    }

    fn text(&mut self, option: &str) -> String {
        self.take(option).unwrap_or_default()
    }

    /// A flag; naming it without a value means yes.
    fn flag(&mut self, option: &str) -> Result<Option<bool>> {
        match self.take(option) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(Some(true)),
            Some(value) => parse_bool(option, &value).map(Some),
        }
    }

    /// Seconds since 1970; the outer `None` says that the option was not given, the inner that it is empty.
    fn epoch(&mut self) -> Result<Option<Option<i64>>> {
        const OPTION: &str = "source-date-epoch";
        self.take(OPTION).map(|value| parse_epoch(OPTION, &value)).transpose()
    }

    fn wish(&mut self) -> Result<LayerWish> {
        let compression = match self.take("compression") {
            None => Compression::default(),
            Some(name) => Compression::parse(&name)?,
        };
        let level = match self.take("compression-level") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| bad("compression-level", &text, "want a number"))?),
        };
        Ok(LayerWish {
            settings: Settings::new(compression, level)?,
            force: self.flag("force-compression")?.unwrap_or(false),
            prefer_nondistributable: self.flag("prefer-nondist-layers")?.unwrap_or(false),
        })
    }

    fn annotations(&mut self) -> Result<AnnotationSet> {
        let mut set = AnnotationSet::default();
        for (option, value) in std::mem::take(&mut self.left) {
            if !set.take(&option, &value)? {
                self.left.insert(option, value);
            }
        }
        Ok(set)
    }

    /// Image configs that a client gives in place of the frontend's.
    fn metadata(&mut self) -> BTreeMap<String, Vec<u8>> {
        let is_config = |key: &str| {
            [IMAGE_CONFIG, BASE_CONFIG].iter().any(|config| {
                key.strip_prefix(config).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        let (taken, left) = std::mem::take(&mut self.left).into_iter().partition(|(key, _)| is_config(key));
        self.left = left;
        let taken: BTreeMap<String, String> = taken;
        taken.into_iter().map(|(key, value)| (key, value.into_bytes())).collect()
    }

    pub(crate) fn finish(self) -> Result<()> {
        match self.left.into_keys().next() {
            None => Ok(()),
            Some(option) => Err(Error::UnknownOption { exporter: self.exporter, option }),
        }
    }
}

fn bad(option: &str, value: &str, want: impl Into<String>) -> Error {
    Error::OptionValue { option: option.into(), value: value.into(), want: want.into() }
}

/// The spellings that Go's `strconv.ParseBool` takes.
fn parse_bool(option: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(bad(option, value, "want true or false")),
    }
}

/// Seconds since 1970; empty is none.
pub(crate) fn parse_epoch(option: &str, value: &str) -> Result<Option<i64>> {
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| bad(option, value, "want seconds since 1970"))
}

/// How manifests are made: options that all image exporters have.
#[derive(Clone, Debug, Default)]
pub struct ImageOptions {
    /// Names, separated by commas; `*` is the frontend's.
    pub name: String,
    /// Which blobs layers become.
    pub layers: LayerWish,
    /// OCI media types (default) or Docker's.
    pub oci_types: Option<bool>,
    /// Attestation manifests in artifact form (default with OCI types) or as images.
    pub oci_artifact: Option<bool>,
    /// Annotations.
    pub annotations: AnnotationSet,
    /// `SOURCE_DATE_EPOCH`, in place of the frontend's.
    pub epoch: Option<Option<i64>>,
    /// Attach also attestations that are meant for images only.
    pub inline_attestations: bool,
    /// Rewrite new layers so that no file is younger than the epoch.
    pub rewrite_timestamp: bool,
    /// Image configs in place of the frontend's.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

impl ImageOptions {
    pub(crate) fn take(attributes: &mut Attributes, inline_attestations: bool) -> Result<Self> {
        let options = ImageOptions {
            annotations: attributes.annotations()?,
            epoch: attributes.epoch()?,
            layers: attributes.wish()?,
            name: attributes.text("name"),
            oci_types: attributes.flag("oci-mediatypes")?,
            oci_artifact: attributes.flag("oci-artifact")?,
            inline_attestations: attributes.flag("attestation-inline")?.unwrap_or(inline_attestations),
            rewrite_timestamp: attributes.flag("rewrite-timestamp")?.unwrap_or(false),
            metadata: attributes.metadata(),
        };
        if options.oci_artifact == Some(true) && !options.oci_types() {
            let text = "exporter option oci-artifact=true conflicts with oci-mediatypes=false";
            return Err(Error::Conflict(text.into()));
        }
        Ok(options)
    }

    /// Whether manifests have OCI media types.
    pub fn oci_types(&self) -> bool {
        self.oci_types.unwrap_or(true)
    }

    /// Whether attestation manifests have the artifact form.
    pub fn oci_artifact(&self) -> bool {
        self.oci_artifact.unwrap_or(self.oci_types())
    }
}

/// Options of the exporter that keeps and pushes images.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Push to the registries of the names.
    pub push: bool,
    /// Push without a tag.
    pub push_by_digest: bool,
    /// Push to a registry without a valid certificate, or without TLS.
    pub insecure: bool,
    /// Keep the image in the store under its names, until everything is pruned.
    pub store: bool,
    /// Have the files of the host's platform ready.
    pub unpack: bool,
    /// Keep the image under `<name>@<digest>` too.
    pub name_canonical: bool,
    /// Keep the image under `<prefix>@<digest>` too.
    pub dangling_prefix: String,
    /// The same, but only if it has no other name.
    pub dangling_empty_only: bool,
    /// The content of kept images need not be complete.
    pub allow_incomplete: bool,
}

impl StoreOptions {
    pub(crate) fn take(attributes: &mut Attributes) -> Result<Self> {
        Ok(StoreOptions {
            push: attributes.flag("push")?.unwrap_or(false),
            push_by_digest: attributes.flag("push-by-digest")?.unwrap_or(false),
            insecure: attributes.flag("registry.insecure")?.unwrap_or(false),
            store: attributes.flag("store")?.unwrap_or(true),
            unpack: attributes.flag("unpack")?.unwrap_or(false),
            name_canonical: attributes.flag("name-canonical")?.unwrap_or(false),
            dangling_prefix: attributes.text("dangling-name-prefix"),
            // The reference's spelling.
            dangling_empty_only: attributes.flag("danging-name-empty-only")?.unwrap_or(false),
            allow_incomplete: attributes.flag("unsafe-internal-store-allow-incomplete")?.unwrap_or(false),
        })
    }
}

/// Options of the archive exporters `oci` and `docker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// One tar file; else blobs go into the client's content store one by one.
    pub tar: bool,
}

impl ArchiveOptions {
    pub(crate) fn take(attributes: &mut Attributes) -> Result<Self> {
        Ok(ArchiveOptions { tar: attributes.flag("tar")?.unwrap_or(true) })
    }
}

/// Options of the exporters of files, `local` and `tar`.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// `SOURCE_DATE_EPOCH`, in place of the frontend's; the time of all files.
    pub epoch: Option<Option<i64>>,
    /// What stands before the names of attestation files.
    pub attestation_prefix: String,
    /// A folder for each platform; if not said, when there are several.
    pub platform_split: Option<bool>,
    /// Whether the client removes what else is in its folder.
    pub delete: bool,
}

impl FileOptions {
    pub(crate) fn take(attributes: &mut Attributes) -> Result<Self> {
        let delete = match attributes.text("mode").as_str() {
            "" | "copy" => false,
            "delete" => true,
            other => return Err(bad("mode", other, "want copy or delete")),
        };
        Ok(FileOptions {
            epoch: attributes.epoch()?,
            attestation_prefix: attributes.text("attestation-prefix"),
            platform_split: attributes.flag("platform-split")?,
            delete,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        let map = pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        Attributes::new("image", &map)
    }

    #[test]
    fn image_options() {
        let mut all = attributes(&[
            ("name", "a,b"),
            ("compression", "zstd"),
            ("compression-level", "19"),
            ("force-compression", ""),
            ("oci-mediatypes", "false"),
            ("source-date-epoch", "12"),
            ("annotation.k", "v"),
            ("containerimage.config/linux/arm64", "{}"),
            ("push", "true"),
            ("store", "0"),
            ("attestation-inline", "false"),
        ]);
        let image = ImageOptions::take(&mut all, true).expect("options");
        let store = StoreOptions::take(&mut all).expect("options");
        all.finish().expect("nothing left");
        assert_eq!(image.layers.settings, Settings { compression: Compression::Zstd, level: Some(19) });
        assert!(
            image.layers.force && !image.oci_types() && !image.oci_artifact() && !image.inline_attestations
        );
        assert_eq!((image.epoch, image.annotations.of(None).manifest["k"].as_str()), (Some(Some(12)), "v"));
        assert_eq!(image.metadata["containerimage.config/linux/arm64"], b"{}");
        assert!(store.push && !store.store);
    }

    #[test]
    fn mistakes_are_told() {
        let refused = |pairs: &[(&str, &str)]| {
            let mut all = attributes(pairs);
            ImageOptions::take(&mut all, false)
                .and_then(|_| StoreOptions::take(&mut all))
                .and_then(|_| FileOptions::take(&mut all))
                .and_then(|_| all.finish())
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(&[("compression", "lzma9")]).contains("lzma9"));
        assert!(refused(&[("compression-level", "x")]).contains("compression-level"));
        assert!(refused(&[("push", "maybe")]).contains("maybe"));
        assert!(refused(&[("compresion", "gzip")]).contains("compresion"));
        assert!(refused(&[("mode", "sync")]).contains("sync"));
        assert!(refused(&[("source-date-epoch", "now")]).contains("now"));
        assert!(refused(&[("oci-mediatypes", "false"), ("oci-artifact", "true")]).contains("conflicts"));
    }

    #[test]
    fn an_empty_epoch_is_none() {
        let mut all = attributes(&[("source-date-epoch", "")]);
        assert_eq!(FileOptions::take(&mut all).expect("options").epoch, Some(None));
    }
}
