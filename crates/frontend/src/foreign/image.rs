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
    /// Asks the registry about the image `source`, or about the one that an option puts in its place.
    pub(super) async fn load(
        bridge: &Arc<Bridge>,
        source: &str,
        request: &Request,
    ) -> Result<Self, WireError> {
        let bad = |error: &dyn std::fmt::Display| {
            WireError::new(Code::InvalidArgument, format!("frontend image {source}: {error}"))
        };
        let reference = replaced(source, &request.attrs)?.with_default_tag();
        let name = format!("resolve image config for docker-image://{reference}");
        let found =
            bridge.resolve_image(&reference.to_string(), None, None, &name, &request.policies).await?;
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
fn replaced(source: &str, attrs: &BTreeMap<String, String>) -> Result<Reference, WireError> {
    let invalid = |message: String| WireError::new(Code::InvalidArgument, message);
    let parse = |name: &str| {
        Reference::parse(name).map_err(|error| invalid(format!("frontend image {name}: {error}")))
    };
    let reference = parse(source)?;
    let tagged = reference.clone().with_default_tag();
    let spellings = [source.to_owned(), reference.to_string(), tagged.familiar(), tagged.to_string()];
    let given = spellings.iter().find_map(|name| attrs.get(&format!("{CONTEXT}{name}")));
    match given.map(|given| (given, given.strip_prefix("docker-image://"))) {
        None => Ok(reference),
        Some((_, Some(image))) => parse(image),
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
        let used = |source: &str, key: &str, value: &str| {
            let attrs = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            replaced(source, &attrs).map(|reference| reference.familiar())
        };
        let other = "docker-image://example.com/other:2";
        assert_eq!(used("me/front", "target", "x").unwrap(), "me/front");
        assert_eq!(used("me/front", "context:me/front", other).unwrap(), "example.com/other:2");
        assert_eq!(
            used("me/front", "context:docker.io/me/front:latest", other).unwrap(),
            "example.com/other:2"
        );
        assert_eq!(used("me/front:1", "context:me/front", other).unwrap(), "me/front:1");
        assert_eq!(used("me/front", "context:me/front", "local:x").unwrap_err().code, Code::Unimplemented);
        assert_eq!(used("me/FRONT", "a", "b").unwrap_err().code, Code::InvalidArgument);
    }
}
