//! What clients ask for: `attest:<type>` options of a frontend, their values comma-separated `name=value` pairs.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// The SBOM generator that is meant when none is named.
const SBOM_GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";

/// How much provenance tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// No build arguments, labels, secrets, steps.
    Min,
    /// Everything.
    #[default]
    Max,
}

/// Version of SLSA provenance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// v0.2.
    V02,
    /// v1.
    #[default]
    V1,
}

impl Version {
    /// The predicate's type.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Version::V02 => "https://slsa.dev/provenance/v0.2",
            Version::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// Options of the provenance attestation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvenanceOptions {
    /// How much it tells.
    pub mode: Mode,
    /// Its version.
    pub version: Version,
    /// Who built, a URI.
    pub builder_id: String,
    /// The user says that the build is reproducible.
    pub reproducible: bool,
    /// Attach it to images only.
    pub inline_only: bool,
    /// Fail if a material is missing.
    pub complete_materials: bool,
    /// Name of the file beside local outputs.
    pub filename: String,
}

/// Options of the SBOM attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SbomOptions {
    /// The image that makes it.
    pub generator: String,
    /// All options, the generator among them.
    pub all: BTreeMap<String, String>,
}

/// The attestations that a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Provenance.
    pub provenance: Option<ProvenanceOptions>,
    /// SBOM.
    pub sbom: Option<SbomOptions>,
}

/// Finds the requests among a frontend's options (`attest:<type>`, `build-arg:BUILDKIT_ATTEST_<TYPE>`).
///
/// # Errors
///
/// [`Error::OptionValue`] for types and values that do not exist.
pub fn requests(options: &BTreeMap<String, String>) -> Result<Requests> {
    let mut found = Requests::default();
    for (key, value) in options {
        let prefixes = ["attest:", "build-arg:BUILDKIT_ATTEST_"];
        let Some(kind) = prefixes.iter().find_map(|prefix| key.strip_prefix(prefix)) else { continue };
        let fields = fields(value);
        match kind.to_ascii_lowercase().as_str() {
            "provenance" => found.provenance = Some(ProvenanceOptions::parse(key, &fields)?),
            "sbom" => {
                let generator = fields.get("generator").cloned().unwrap_or_else(|| SBOM_GENERATOR.to_owned());
                found.sbom = Some(SbomOptions { generator, all: fields });
            }
            other => return Err(bad(key, value, format!("unknown attestation type {other:?}"))),
        }
    }
    Ok(found)
}

fn bad(option: &str, value: &str, want: impl Into<String>) -> Error {
    Error::OptionValue { option: option.into(), value: value.into(), want: want.into() }
}

impl ProvenanceOptions {
    fn parse(key: &str, fields: &BTreeMap<String, String>) -> Result<Self> {
        let mut options =
            ProvenanceOptions { filename: "provenance.json".into(), ..ProvenanceOptions::default() };
        let flag = |value: &str| match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(bad(key, other, "want true or false")),
        };
        for (name, value) in fields {
            match name.as_str() {
                "mode" => {
                    options.mode = match value.as_str() {
                        "min" => Mode::Min,
                        "max" | "full" => Mode::Max,
                        other => return Err(bad(key, other, "invalid mode: want min or max")),
                    }
                }
                "version" => {
                    options.version = match value.as_str() {
                        "v0.2" => Version::V02,
                        "v1" => Version::V1,
                        other => {
                            return Err(bad(key, other, "invalid provenance SLSA version: want v0.2 or v1"));
                        }
                    }
                }
                "builder-id" => options.builder_id.clone_from(value),
                "filename" => options.filename.clone_from(value),
                "reproducible" => options.reproducible = flag(value)?,
                "inline-only" => options.inline_only = flag(value).unwrap_or(false),
                "complete-materials" => options.complete_materials = flag(value)?,
                "capture-usage" if flag(value).unwrap_or(false) => {
                    return Err(Error::Unsupported("provenance with capture-usage=true".into()));
                }
                // Clients leave these to other programs: the option alone turns provenance on.
                _ => {}
            }
        }
        Ok(options)
    }
}

/// One line of comma-separated values: fields may be quoted, and quotes in them doubled.
fn fields(line: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (field, after) = next_field(rest);
        let (name, value) = field.split_once('=').unwrap_or((&field, ""));
        if !field.is_empty() {
            found.insert(name.to_owned(), value.to_owned());
        }
        rest = after;
    }
    found
}

fn next_field(line: &str) -> (String, &str) {
    let Some(quoted) = line.strip_prefix('"') else {
        let (field, rest) = line.split_once(',').unwrap_or((line, ""));
        return (field.to_owned(), rest);
    };
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            field.push_str(rest);
            return (field, "");
        };
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return (field, after.strip_prefix(',').unwrap_or(after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Result<Requests> {
        requests(&[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn naming_the_option_is_enough() {
        for value in ["", "disabled=true"] {
            let provenance = of("attest:provenance", value).expect(value).provenance.expect(value);
            assert_eq!((provenance.mode, provenance.version), (Mode::Max, Version::V1));
        }
        assert_eq!(of("other", "x").expect("none"), Requests::default());
    }

    #[test]
    fn values_are_read() {
        let value =
            r#"mode=min,version=v0.2,"builder-id=https://x/?a=1,2",reproducible=true,inline-only=true"#;
        let provenance =
            of("build-arg:BUILDKIT_ATTEST_PROVENANCE", value).expect("parse").provenance.expect("provenance");
        assert_eq!((provenance.mode, provenance.version), (Mode::Min, Version::V02));
        assert_eq!(provenance.builder_id, "https://x/?a=1,2");
        assert!(provenance.reproducible && provenance.inline_only);
        assert_eq!(of("attest:sbom", "").expect("sbom").sbom.expect("sbom").generator, SBOM_GENERATOR);
    }

    #[test]
    fn wrong_values_are_told() {
        for (key, value, word) in [
            ("attest:horoscope", "", "horoscope"),
            ("attest:provenance", "version=v9", "v9"),
            ("attest:provenance", "mode=half", "half"),
            ("attest:provenance", "reproducible=perhaps", "perhaps"),
        ] {
            let error = of(key, value).expect_err(value).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
