//! What clients say of caches, understood once.

use std::collections::BTreeMap;

use kiln_layer::{Compression, Settings};
use kiln_oci::Reference;
use kiln_worker::RemoteOptions;

use crate::{Error, MountSelection, mounts::ATTRIBUTE};

/// Attributes as a client sends them.
pub type Attributes = BTreeMap<String, String>;

/// Kinds of caches that BuildKit has and this program has not yet.
const MISSING: &[&str] = &["gha", "s3", "azblob"];

/// What an exported cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The layers of the result, and those of other steps that have been made anyway.
    #[default]
    Min,
    /// The layers of all steps.
    Max,
}

/// The form of a cache's manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// OCI media types; else Docker's.
    pub oci: bool,
    /// A manifest; else an index.
    pub image_manifest: bool,
}

/// Where an exported cache goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the configs of the images that the build exports.
    Inline,
    /// Into a folder of the client.
    Local {
        /// The folder, as the client names it.
        dest: String,
    },
    /// Into a registry.
    Registry {
        /// The name that it gets there.
        reference: Reference,
        /// Whether the registry may have no valid certificate, or no TLS.
        insecure: bool,
    },
}

/// One export of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// Where it goes.
    pub place: Place,
    /// What it holds.
    pub mode: Mode,
    /// How its layers are packed.
    pub layers: RemoteOptions,
    /// The form of its manifest.
    pub form: Form,
    /// The cache mounts that go along.
    pub mounts: MountSelection,
    /// Whether the build succeeds when the export fails.
    pub ignore_error: bool,
}

impl ExportOptions {
    /// Reads what a client asks for.
    ///
    /// # Errors
    /// [`Error::Kind`], [`Error::Attribute`], [`Error::Layer`] for a compression that there is not.
    pub fn new(kind: &str, attributes: &Attributes) -> Result<Self, Error> {
        let attrs = Reader { kind, attributes, door: "exporter" };
        let place = match kind {
            "inline" => Place::Inline,
            "local" => Place::Local { dest: attrs.needed("dest")?.to_owned() },
            "registry" => Place::Registry {
                reference: attrs.reference()?,
                insecure: attrs.flag("registry.insecure")?.unwrap_or(false),
            },
            _ => return Err(unknown("exporter", kind)),
        };
        let mode = match attrs.text("mode") {
            "" | "min" => Mode::Min,
            "max" => Mode::Max,
            other => return Err(attrs.bad(format!("mode {other:?}: want min or max"))),
        };
        let oci = attrs.flag("oci-mediatypes")?.unwrap_or(true);
        let form = Form { oci, image_manifest: attrs.flag("image-manifest")?.unwrap_or(oci) };
        if form.image_manifest && !form.oci {
            return Err(attrs.bad("image-manifest=true needs oci-mediatypes=true".into()));
        }
        let ignore_error = attrs.flag("ignore-error")?.unwrap_or(false);
        let mounts = attrs.mounts()?;
        if place == Place::Inline && !mounts.is_empty() {
            let problem = format!(
                "{ATTRIBUTE}: an image's config has no room for them, only type=registry and type=local have"
            );
            return Err(attrs.bad(problem));
        }
        Ok(Self { place, mode, layers: attrs.layers()?, form, mounts, ignore_error })
    }

    /// What people are told that is going on.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.place {
            Place::Inline => "exporting inline cache",
            Place::Local { .. } => "exporting cache to client directory",
            Place::Registry { .. } => "exporting cache to registry",
        }
    }
}

/// All exports of a build. Asking for the inline cache twice is asking once.
///
/// # Errors
/// As [`ExportOptions::new`]; [`Error::Duplicate`] for two exports to one place.
pub fn exports<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a Attributes)>,
) -> Result<Vec<ExportOptions>, Error> {
    let mut all: Vec<ExportOptions> = Vec::new();
    for (kind, attributes) in entries {
        let export = ExportOptions::new(kind, attributes)?;
        let same = all.iter().any(|other| other.place == export.place);
        match (same, &export.place) {
            (true, Place::Inline) => {}
            (true, _) => return Err(Error::Duplicate(kind.to_owned())),
            (false, _) => all.push(export),
        }
    }
    Ok(all)
}

/// One cache that a build imports, as its client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Where it is.
    pub from: ImportFrom,
    /// The cache mounts that it may fill.
    pub mounts: MountSelection,
}

/// Where an imported cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportFrom {
    /// From a folder of the client.
    Local {
        /// The folder, as the client names it.
        src: String,
        /// The digest of the cache's manifest.
        digest: String,
    },
    /// From a registry.
    Registry {
        /// The name, as the client writes it.
        name: String,
        /// Whether the registry may have no valid certificate, or no TLS.
        insecure: bool,
    },
}

impl ImportOptions {
    /// Reads what a client asks for. Whether the cache can be had is found out when it is read.
    ///
    /// # Errors
    /// [`Error::Kind`], [`Error::Attribute`].
    pub fn new(kind: &str, attributes: &Attributes) -> Result<Self, Error> {
        let attrs = Reader { kind, attributes, door: "importer" };
        let from = match kind {
            "local" => ImportFrom::Local {
                src: attrs.text("src").to_owned(),
                digest: attrs.text("digest").to_owned(),
            },
            "registry" => ImportFrom::Registry {
                name: attrs.text("ref").to_owned(),
                insecure: attrs.flag("registry.insecure")?.unwrap_or(false),
            },
            _ => return Err(unknown("importer", kind)),
        };
        Ok(Self { from, mounts: attrs.mounts()? })
    }
}

fn unknown(door: &'static str, kind: &str) -> Error {
    let hint = match MISSING.contains(&kind) {
        true => " is not supported by this daemon yet (there are local and registry)",
        false if kind == "inline" => " (an image's inline cache is imported as type=registry)",
        false => " (there are local and registry)",
    };
    Error::Kind { door, kind: kind.to_owned(), hint }
}

struct Reader<'a> {
    kind: &'a str,
    attributes: &'a Attributes,
    door: &'static str,
}

impl<'a> Reader<'a> {
    fn bad(&self, problem: String) -> Error {
        Error::Attribute { door: self.door, kind: self.kind.to_owned(), problem }
    }

    fn text(&self, name: &str) -> &'a str {
        self.attributes.get(name).map(String::as_str).unwrap_or_default()
    }

    fn needed(&self, name: &str) -> Result<&'a str, Error> {
        match self.text(name) {
            "" => Err(self.bad(format!("requires {name}"))),
            text => Ok(text),
        }
    }

    fn reference(&self) -> Result<Reference, Error> {
        let text = self.needed("ref")?;
        let parsed = Reference::parse(text).map_err(|error| self.bad(format!("ref {text:?}: {error}")))?;
        Ok(parsed.with_default_tag())
    }

    /// A flag; naming it without a value means yes.
    fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.attributes.get(name).map(String::as_str) {
            None => Ok(None),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(self.bad(format!("{name} {other:?}: want true or false"))),
        }
    }

    fn mounts(&self) -> Result<MountSelection, Error> {
        let Some(text) = self.attributes.get(ATTRIBUTE) else { return Ok(MountSelection::default()) };
        let empty =
            || self.bad(format!("{ATTRIBUTE} {text:?}: want ids with commas or semicolons between, or all"));
        MountSelection::parse(text).ok_or_else(empty)
    }

    fn layers(&self) -> Result<RemoteOptions, Error> {
        let compression = match self.text("compression") {
            "" => Compression::default(),
            name => Compression::parse(name)?,
        };
        let level = match self.text("compression-level") {
            "" => None,
            text => {
                let level = text.parse();
                Some(level.map_err(|_| self.bad(format!("compression-level {text:?}: want a number")))?)
            }
        };
        let settings = Settings::new(compression, level)?;
        Ok(RemoteOptions { settings, force: self.flag("force-compression")?.unwrap_or(false) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn exports_are_understood() {
        let all = [
            ("mode", "max"),
            ("ref", "localhost:5000/a"),
            ("image-manifest", "false"),
            ("compression", "zstd"),
            ("compression-level", "7"),
            ("force-compression", ""),
            ("ignore-error", "true"),
        ];
        let export = ExportOptions::new("registry", &attributes(&all)).unwrap();
        let Place::Registry { reference, insecure: false } = &export.place else { panic!("{export:?}") };
        assert_eq!(reference.to_string(), "localhost:5000/a:latest");
        assert_eq!((export.mode, export.ignore_error, export.layers.force), (Mode::Max, true, true));
        assert_eq!(export.layers.settings, Settings { compression: Compression::Zstd, level: Some(7) });
        assert_eq!(export.form, Form { oci: true, image_manifest: false });

        let docker = attributes(&[("dest", "x"), ("oci-mediatypes", "false")]);
        let export = ExportOptions::new("local", &docker).unwrap();
        assert_eq!(export.form, Form { oci: false, image_manifest: false });
        assert_eq!(export.mode, Mode::Min);
    }

    #[test]
    fn mistakes_are_told() {
        for (kind, pairs, word) in [
            ("registry", &[][..], "ref"),
            ("registry", &[("ref", "UPPER")], "UPPER"),
            ("local", &[], "dest"),
            ("local", &[("dest", "x"), ("mode", "most")], "most"),
            ("local", &[("dest", "x"), ("compression", "lzma9")], "lzma9"),
            ("local", &[("dest", "x"), ("compression-level", "x")], "compression-level"),
            ("local", &[("dest", "x"), ("image-manifest", "1"), ("oci-mediatypes", "0")], "oci-mediatypes"),
            ("local", &[("dest", "x"), ("cache-mounts", ",")], "cache-mounts"),
            ("inline", &[("cache-mounts", "all")], "cache-mounts"),
            ("gha", &[], "gha"),
            ("s3", &[], "s3"),
            ("azblob", &[], "azblob"),
            ("tape", &[], "tape"),
        ] {
            let error = ExportOptions::new(kind, &attributes(pairs)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(ImportOptions::new("gha", &attributes(&[])).unwrap_err().to_string().contains("gha"));
    }

    #[test]
    fn cache_mounts_are_named_on_either_side() {
        let all = [("dest", "x"), ("cache-mounts", "go-build,npm")];
        let export = ExportOptions::new("local", &attributes(&all)).unwrap();
        assert_eq!(export.mounts, MountSelection::parse("npm;go-build").unwrap());
        let import = ImportOptions::new("registry", &attributes(&[("ref", "a"), ("cache-mounts", "all")]));
        assert!(import.unwrap().mounts.has("any"));
        let import = ImportOptions::new("registry", &attributes(&[("ref", "a")])).unwrap();
        assert!(import.mounts.is_empty());
        let error = ImportOptions::new("local", &attributes(&[("cache-mounts", "")])).unwrap_err();
        assert!(error.to_string().starts_with("local cache importer: cache-mounts"), "{error}");
    }

    #[test]
    fn two_exports_to_one_place_are_refused_but_inline() {
        let (inline, folder) = (attributes(&[]), attributes(&[("dest", "x")]));
        let all = exports([("inline", &inline), ("inline", &inline), ("local", &folder)]).unwrap();
        assert_eq!(all.len(), 2);
        assert!(matches!(exports([("local", &folder), ("local", &folder)]), Err(Error::Duplicate(_))));
    }
}
