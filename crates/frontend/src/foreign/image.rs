//! The image of a frontend: which one it is, its config, and its files as a definition.

use std::{collections::BTreeMap, sync::Arc};

use kiln_llb::build::{Constraints, ImageOptions, Marshal, image};
use kiln_oci::{ImageConfig, Reference};
use kiln_proto::{pb, status::WireError};
use tonic::Code;

use crate::{Bridge, Request, errors::wire_error};

/// What options that replace an image begin with.
const CONTEXT: &str = "context:";

/// The image of a frontend.
pub(super) struct FrontendImage {
    pub(super) config: ImageConfig,
    pub(super) definition: pb::Definition,
}

impl FrontendImage {
    /// Asks the registry about the image `used`.
    pub(super) async fn load(bridge: &Arc<Bridge>, used: &str, request: &Request) -> Result<Self, WireError> {
        let bad = |error: &dyn std::fmt::Display| {
            WireError::new(Code::InvalidArgument, format!("frontend image {used}: {error}"))
        };
        let reference = Reference::parse(used).map_err(|e| bad(&e))?.with_default_tag();
        let name = format!("resolve image config for docker-image://{reference}");
        let found =
            bridge.resolve_image(&reference.to_string(), None, None, &name, &request.policies).await?;
        // A policy may have put another image in its place.
        bridge.frontends().check_source(&found.reference)?;
        let config = ImageConfig::decode(&found.image.config).map_err(|e| bad(&e))?;
        let reference = Reference::parse(&found.reference).map_err(|e| bad(&e))?;
        let pinned = reference.with_digest(found.image.root.digest.clone());
        let options = ImageOptions { record_type: Some("frontend".into()), ..ImageOptions::default() };
        let state = image(&pinned.to_string(), options, Constraints::new()).map_err(|e| bad(&e))?;
        let definition = state.marshal(&Marshal::new(kiln_session::random_id())).map_err(wire_error)?;
        Ok(Self { config, definition })
    }
}

/// The image that is used for `source`: an option `context:NAME=docker-image://OTHER` puts another in its place.
///
/// # Errors
/// `InvalidArgument` for what is no image's name, `Unimplemented` for what is no image.
pub(crate) fn used(source: &str, attrs: &BTreeMap<String, String>) -> Result<String, WireError> {
    let parse = |name: &str| {
        let bad = |error| WireError::new(Code::InvalidArgument, format!("frontend image {name}: {error}"));
        Reference::parse(name).map_err(bad)
    };
    let reference = parse(source)?;
    let tagged = reference.clone().with_default_tag();
    let spellings = [source.to_owned(), reference.to_string(), tagged.familiar(), tagged.to_string()];
    let given = spellings.iter().find_map(|name| attrs.get(&format!("{CONTEXT}{name}")));
    match given.map(|given| (given, given.strip_prefix("docker-image://"))) {
        None => Ok(source.to_owned()),
        Some((_, Some(image))) => parse(image).map(|image| image.to_string()),
        Some((given, None)) => {
            let message =
                format!("a frontend from {given}: only docker-image:// can stand for a frontend's image");
            Err(WireError::new(Code::Unimplemented, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_puts_another_image_in_its_place() {
        let with = |source: &str, key: &str, value: &str| {
            used(source, &BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        let other = "docker-image://example.com/other:2";
        assert_eq!(with("me/front", "target", "x").unwrap(), "me/front");
        assert_eq!(with("me/front", "context:me/front", other).unwrap(), "example.com/other:2");
        assert_eq!(
            with("me/front", "context:docker.io/me/front:latest", other).unwrap(),
            "example.com/other:2"
        );
        assert_eq!(with("me/front:1", "context:me/front", other).unwrap(), "me/front:1");
        assert_eq!(with("me/front", "context:me/front", "local:x").unwrap_err().code, Code::Unimplemented);
        assert_eq!(with("me/FRONT", "a", "b").unwrap_err().code, Code::InvalidArgument);
    }
}
