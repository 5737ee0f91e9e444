//! Attestations that a client asks for: which they are, and the scan that makes an SBOM.
//!
//! They are options of a frontend, `attest:<type>` or `build-arg:BUILDKIT_ATTEST_<TYPE>`, with comma-separated `name=value` pairs.

mod sbom;

use std::collections::BTreeMap;

use kiln_dockerfile::csv_fields;
use kiln_oci::Reference;
use kiln_proto::status::WireError;
use tonic::Code;

pub use sbom::{ScanTarget, Scanner, has_sbom};

/// The SBOM generator that is meant when none is named.
const GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";

/// The fields of an option, by name.
pub type Fields = BTreeMap<String, String>;

/// The attestations that a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attests {
    /// Provenance, with its options.
    pub provenance: Option<Fields>,
    /// An SBOM.
    pub sbom: Option<SbomOptions>,
}

/// Options of the SBOM attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SbomOptions {
    /// The image that makes it.
    pub generator: Reference,
    /// What that image is told, by name.
    pub parameters: Fields,
}

impl Attests {
    /// Finds them among a frontend's options.
    ///
    /// # Errors
    /// `InvalidArgument` for types that do not exist, values that are no list, and what is no image's name.
    pub fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, WireError> {
        let mut found = Self::default();
        for (key, value) in attrs {
            let prefixes = ["attest:", "build-arg:BUILDKIT_ATTEST_"];
            let Some(kind) = prefixes.iter().find_map(|prefix| key.strip_prefix(prefix)) else { continue };
            let bad = |reason: String| {
                WireError::new(Code::InvalidArgument, format!("option {key}={value}: {reason}"))
            };
            let fields = fields(value).map_err(|reason| bad(reason.to_owned()))?;
            match kind.to_ascii_lowercase().as_str() {
                "provenance" => found.provenance = Some(fields),
                "sbom" => found.sbom = Some(SbomOptions::new(fields).map_err(bad)?),
                other => return Err(bad(format!("unknown attestation type {other:?}"))),
            }
        }
        Ok(found)
    }
}

impl SbomOptions {
    fn new(mut fields: Fields) -> Result<Self, String> {
        let generator = fields.remove("generator").unwrap_or_else(|| GENERATOR.to_owned());
        if generator.is_empty() {
            return Err("the SBOM generator cannot be empty: name an image".to_owned());
        }
        let reference = Reference::parse(&generator);
        let reference = reference.map_err(|error| format!("SBOM generator {generator}: {error}"))?;
        Ok(Self { generator: reference.with_default_tag(), parameters: fields })
    }
}

fn fields(list: &str) -> Result<Fields, &'static str> {
    if list.is_empty() {
        return Ok(Fields::new());
    }
    let pair = |field: String| match field.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (field, String::new()),
    };
    Ok(csv_fields(list)?.into_iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Result<Attests, WireError> {
        Attests::parse(&[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn naming_an_option_is_enough() {
        assert_eq!(of("attest:provenance", "").unwrap().provenance, Some(Fields::new()));
        let sbom = of("build-arg:BUILDKIT_ATTEST_SBOM", "").unwrap().sbom.unwrap();
        assert_eq!(sbom.generator.to_string(), format!("docker.io/{GENERATOR}"));
        assert_eq!(of("other", "x").unwrap(), Attests::default());
    }

    #[test]
    fn fields_may_be_quoted() {
        let value = r#"generator=me/scan,"names=a,b",FLAG"#;
        let sbom = of("attest:sbom", value).unwrap().sbom.unwrap();
        assert_eq!(sbom.generator.to_string(), "docker.io/me/scan:latest");
        let parameters = [("FLAG", ""), ("names", "a,b")];
        assert_eq!(sbom.parameters, parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn wrong_options_are_told() {
        for (key, value, word) in [
            ("attest:horoscope", "", "horoscope"),
            ("attest:provenance", "\"mode", "never closed"),
            ("attest:sbom", "generator=", "cannot be empty"),
            ("attest:sbom", "generator=me/UPPER", "me/UPPER"),
        ] {
            let error = of(key, value).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains(word) && error.message.contains(key), "{}", error.message);
        }
    }
}
