//! What a frontend's program is started with.

use std::collections::BTreeSet;

use kiln_executor::{FileSpec, Mount, MountSource};
use kiln_oci::ImageConfig;
use kiln_proto::{
    pb,
    status::{Detail, WireError},
};
use prost::Message as _;
use tonic::Code;

use crate::{Bridge, Request};

/// The capabilities of a frontend, in a label of its image.
const CAPS_LABEL: &str = "moby.buildkit.frontend.caps";
/// A label that says whether the frontend does without a network.
const NETWORK_LABEL: &str = "moby.buildkit.frontend.network.none";
/// The capability to take inputs.
const INPUTS_CAP: &str = "moby.buildkit.frontend.inputs";
/// Where the program finds the definition that its own image came from.
const METADATA: &str = "/run/config/buildkit/metadata/frontend.bin";

/// Whether the frontend can do what the request asks of it.
pub(super) fn check_caps(config: &ImageConfig, request: &Request) -> Result<(), WireError> {
    let has = names(config.config.labels.get(CAPS_LABEL));
    let mut wanted = names(request.attrs.get("frontend.caps"));
    if !request.inputs.is_empty() {
        wanted.insert(INPUTS_CAP);
    }
    match wanted.into_iter().find(|cap| !has.contains(cap)) {
        Some(cap) => {
            let error = WireError::new(Code::Unimplemented, format!("unsupported frontend capability {cap}"));
            Err(error.with(Detail::FrontendCap(cap.to_owned())))
        }
        None => Ok(()),
    }
}

/// The names of a list of capabilities, without what follows a plus sign.
fn names(list: Option<&String>) -> BTreeSet<&str> {
    let all = list.map(String::as_str).unwrap_or_default().split(',');
    all.map(|cap| cap.split('+').next().unwrap_or_default()).filter(|cap| !cap.is_empty()).collect()
}

/// The network of the program.
pub(super) fn network(config: &ImageConfig) -> pb::NetMode {
    let label = config.config.labels.get(NETWORK_LABEL).map(String::as_str);
    match label {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => pb::NetMode::None,
        _ => pb::NetMode::Unset,
    }
}

/// The file that tells the program where it came from.
pub(super) fn metadata(definition: &pb::Definition) -> Mount {
    let content = definition.encode_to_vec().into();
    Mount {
        dest: METADATA.to_owned(),
        source: MountSource::File(FileSpec { content, mode: 0o400, uid: 0, gid: 0 }),
        readonly: true,
    }
}

/// Arguments, working directory and environment of the program.
pub(super) fn meta(config: &ImageConfig, bridge: &Bridge, request: &Request) -> pb::Meta {
    let image = &config.config;
    let options = request.attrs.iter().enumerate();
    let mut env = image.env.clone();
    env.extend(options.map(|(at, (key, value))| format!("BUILDKIT_FRONTEND_OPT_{at}={key}={value}")));
    env.push(format!("BUILDKIT_SESSION_ID={}", bridge.session()));
    env.push(format!("BUILDKIT_WORKERS={}", bridge.frontends().workers));
    env.push("BUILDKIT_EXPORTEDPRODUCT=buildkit".to_owned());
    pb::Meta {
        args: if image.entrypoint.is_empty() { vec!["/run".to_owned()] } else { image.entrypoint.clone() },
        env,
        cwd: if image.working_dir.is_empty() { "/".to_owned() } else { image.working_dir.clone() },
        remove_mount_stubs_recursive: true,
        ..pb::Meta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(label: &str, value: &str) -> ImageConfig {
        let mut config = ImageConfig::default();
        config.config.labels.insert(label.to_owned(), value.to_owned());
        config
    }

    #[test]
    fn capabilities_are_required() {
        let config =
            labelled(CAPS_LABEL, "moby.buildkit.frontend.inputs+v2,,moby.buildkit.frontend.subrequests");
        let asks = |caps: &str| Request {
            attrs: [("frontend.caps".to_owned(), caps.to_owned())].into(),
            ..Request::default()
        };
        assert!(check_caps(&config, &asks("")).is_ok());
        assert!(check_caps(&config, &asks("moby.buildkit.frontend.subrequests+forward")).is_ok());
        let error = check_caps(&config, &asks("moby.buildkit.frontend.contexts+forward")).unwrap_err();
        assert_eq!(error.details, [Detail::FrontendCap("moby.buildkit.frontend.contexts".into())]);
        let inputs = Request { inputs: [("x".to_owned(), pb::Definition::default())].into(), ..asks("") };
        assert!(check_caps(&config, &inputs).is_ok());
        assert!(check_caps(&ImageConfig::default(), &inputs).is_err());
    }

    #[test]
    fn a_label_takes_the_network_away() {
        assert_eq!(network(&labelled(NETWORK_LABEL, "true")), pb::NetMode::None);
        assert_eq!(network(&labelled(NETWORK_LABEL, "false")), pb::NetMode::Unset);
        assert_eq!(network(&ImageConfig::default()), pb::NetMode::Unset);
    }
}
