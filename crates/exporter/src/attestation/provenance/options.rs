//! How much provenance tells, and of which version, as a client asks for it.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

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

fn bad(field: &str, value: &str, want: impl Into<String>) -> Error {
    Error::OptionValue { option: format!("provenance {field}"), value: value.into(), want: want.into() }
}

impl ProvenanceOptions {
    /// Reads the fields of the option.
    ///
    /// # Errors
    ///
    /// [`Error::OptionValue`] for values that do not exist, [`Error::Unsupported`].
    pub fn parse(fields: &BTreeMap<String, String>) -> Result<Self> {
        let mut options =
            ProvenanceOptions { filename: "provenance.json".into(), ..ProvenanceOptions::default() };
        let flag = |name: &str, value: &str| match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(bad(name, other, "want true or false")),
        };
        for (name, value) in fields {
            match name.as_str() {
                "mode" => {
                    options.mode = match value.as_str() {
                        "min" => Mode::Min,
                        "max" | "full" => Mode::Max,
                        other => return Err(bad(name, other, "invalid mode: want min or max")),
                    }
                }
                "version" => {
                    options.version = match value.as_str() {
                        "v0.2" => Version::V02,
                        "v1" => Version::V1,
                        other => {
                            return Err(bad(name, other, "invalid provenance SLSA version: want v0.2 or v1"));
                        }
                    }
                }
                "builder-id" => options.builder_id.clone_from(value),
                "filename" => options.filename.clone_from(value),
                "reproducible" => options.reproducible = flag(name, value)?,
                "inline-only" => options.inline_only = flag(name, value).unwrap_or(false),
                "complete-materials" => options.complete_materials = flag(name, value)?,
                "capture-usage" if flag(name, value).unwrap_or(false) => {
                    return Err(Error::Unsupported("provenance with capture-usage=true".into()));
                }
                // Clients leave these to other programs: the option alone turns provenance on.
                _ => {}
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&str, &str)]) -> Result<ProvenanceOptions> {
        let owned = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ProvenanceOptions::parse(&owned.collect())
    }

    #[test]
    fn naming_the_option_is_enough() {
        for fields in [&[][..], &[("disabled", "true")]] {
            let provenance = of(fields).expect("provenance");
            assert_eq!((provenance.mode, provenance.version), (Mode::Max, Version::V1));
        }
    }

    #[test]
    fn values_are_read() {
        let fields = [
            ("mode", "min"),
            ("version", "v0.2"),
            ("builder-id", "https://x/?a=1,2"),
            ("reproducible", "true"),
            ("inline-only", "true"),
        ];
        let provenance = of(&fields).expect("provenance");
        assert_eq!((provenance.mode, provenance.version), (Mode::Min, Version::V02));
        assert_eq!(provenance.builder_id, "https://x/?a=1,2");
        assert!(provenance.reproducible && provenance.inline_only);
    }

    #[test]
    fn wrong_values_are_told() {
        for (name, value) in [("version", "v9"), ("mode", "half"), ("reproducible", "perhaps")] {
            let error = of(&[(name, value)]).expect_err(value).to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
