//! Images as earlier releases of BuildKit made them: a client asks for them by a number, so that digests stay.
//!
//! ```text
//! 30, or none   as now
//! 20            v0.15 to v0.31: Docker's media types unless there are attestations or `oci-mediatypes` says otherwise;
//!               attestation manifests are no artifacts
//! 10            v0.13 and v0.14: refused, since files of git sources had other modes then
//! ```

use std::collections::BTreeMap;

use kiln_proto::status::WireError;
use tonic::Code;

/// The number that stands for what is done now.
const CURRENT: i64 = 30;

/// Which releases' images are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compatibility {
    /// Those of now.
    Current,
    /// Those of v0.15 to v0.31.
    DockerTypes,
}

impl Compatibility {
    /// Reads the number of a request; 0 is none.
    ///
    /// # Errors
    /// `InvalidArgument` for a number that stands for nothing, `Unimplemented` for 10.
    pub(crate) fn parse(version: i64) -> Result<Self, WireError> {
        match version {
            0 | CURRENT => Ok(Self::Current),
            20 => Ok(Self::DockerTypes),
            10 => Err(WireError::new(
                Code::Unimplemented,
                "compatibility-version 10: not supported by this daemon yet (supported: 20, 30)",
            )),
            later if later > CURRENT => Err(WireError::new(
                Code::InvalidArgument,
                format!(
                    "unsupported compatibility-version {later}: upgrade the daemon (max supported: {CURRENT})"
                ),
            )),
            other => Err(WireError::new(
                Code::InvalidArgument,
                format!("unsupported compatibility-version {other} (supported: 20, 30)"),
            )),
        }
    }

    /// Fills in what an exporter of this kind did by default. `attested` tells whether there will be attestations.
    pub(crate) fn apply(self, kind: &str, attested: bool, attributes: &mut BTreeMap<String, String>) {
        if self == Self::Current || !matches!(kind, "image" | "oci") {
            return;
        }
        let off = || "false".to_owned();
        if !attested {
            attributes.entry("oci-mediatypes".to_owned()).or_insert_with(off);
        }
        attributes.entry("oci-artifact".to_owned()).or_insert_with(off);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(Compatibility::parse(0).unwrap(), Compatibility::Current);
        assert_eq!(Compatibility::parse(30).unwrap(), Compatibility::Current);
        assert_eq!(Compatibility::parse(20).unwrap(), Compatibility::DockerTypes);
        for (number, code) in [
            (10, Code::Unimplemented),
            (15, Code::InvalidArgument),
            (31, Code::InvalidArgument),
            (-1, Code::InvalidArgument),
        ] {
            assert_eq!(Compatibility::parse(number).unwrap_err().code, code, "{number}");
        }
    }

    #[test]
    fn media_types_of_then() {
        let made = |compatibility: Compatibility, kind: &str, attested, given: &[(&str, &str)]| {
            let mut attributes = given.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
            compatibility.apply(kind, attested, &mut attributes);
            attributes.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        let then = Compatibility::DockerTypes;
        assert_eq!(made(then, "image", false, &[]), "oci-artifact=false oci-mediatypes=false");
        assert_eq!(made(then, "oci", true, &[]), "oci-artifact=false");
        assert_eq!(
            made(then, "image", false, &[("oci-mediatypes", "true")]),
            "oci-artifact=false oci-mediatypes=true"
        );
        assert_eq!(made(then, "local", false, &[]), "");
        assert_eq!(made(Compatibility::Current, "image", false, &[]), "");
    }
}
