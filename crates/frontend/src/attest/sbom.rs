//! SBOMs: an image is run on the trees of a result, and what it writes are statements about them (BuildKit's SBOM scanning
//! protocol).
//!
//! ```text
//! BUILDKIT_SCAN_SOURCE=/run/src/core/sbom      the result, read-only
//! BUILDKIT_SCAN_SOURCE_EXTRAS=/run/src/extras  one folder for each further tree, if there are any
//! BUILDKIT_SCAN_DESTINATION=/run/out/          where <name>.spdx.json is wanted, an in-toto statement each
//! BUILDKIT_SCAN_<NAME>=<value>                 what the client told the image
//! ```

use bytes::Bytes;
use kiln_llb::build::{Constraints, ImageOptions, Marshal, Mount, Run, State, image};
use kiln_oci::ImageConfig;
use kiln_proto::{gateway, pb, status::WireError};
use tonic::Code;

use super::{Fields, SbomOptions};
use crate::{Bridge, FrontendResult, errors::wire_error};

/// The type of the statements, which are SPDX documents.
const SPDX: &str = "https://spdx.dev/Document";
/// The name of the result's own scan.
const CORE: &str = "sbom";
const SOURCES: &str = "/run/src";
const DESTINATION: &str = "/run/out/";

/// Whether a result has an SBOM already: then none is made.
#[must_use]
pub fn has_sbom(result: &FrontendResult) -> bool {
    let mut all = result.attestations.values().flat_map(|some| &some.attestation);
    all.any(|one| one.in_toto_predicate_type == SPDX)
}

/// An image that makes SBOMs.
#[derive(Debug)]
pub struct Scanner {
    name: String,
    image: State,
    args: Vec<String>,
    /// Its variables, and where its own sources and destination are.
    surroundings: State,
    /// What the client tells it.
    parameters: Fields,
}

/// What is scanned.
#[derive(Clone, Copy, Debug)]
pub struct ScanTarget<'a> {
    /// The platform's name in the result.
    pub platform: &'a str,
    /// The result's tree.
    pub core: &'a pb::Definition,
    /// Further trees, by name.
    pub extras: &'a [(String, pb::Definition)],
    /// Scan anew, whatever is known.
    pub ignore_cache: bool,
}

impl Scanner {
    /// Asks the registry how the image is run.
    ///
    /// # Errors
    /// The registry's; `InvalidArgument` for an image that runs nothing.
    pub async fn load(bridge: &Bridge, options: &SbomOptions) -> Result<Self, WireError> {
        let platform = &bridge.host().platform;
        let asked = options.generator.to_string();
        let step = format!("resolve image config for docker-image://{asked}");
        let found = bridge.resolve_image(&asked, Some(platform), None, &step, &[]).await?;
        let name = found.reference;
        let bad = |reason: &dyn std::fmt::Display| {
            WireError::new(Code::InvalidArgument, format!("SBOM generator {name}: {reason}"))
        };
        let config = ImageConfig::decode(&found.image.config).map_err(|error| bad(&error))?.config;
        let args = [config.entrypoint, config.cmd].concat();
        if args.is_empty() {
            return Err(bad(&"the image has neither entrypoint nor command"));
        }
        let image = image(&name, ImageOptions::default(), Constraints::new().platform(platform.clone()))
            .map_err(|error| bad(&error))?;
        let mut surroundings = image.clone().dir(&config.working_dir);
        for variable in &config.env {
            let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
            surroundings = surroundings.env(key, value);
        }
        surroundings = surroundings
            .env("BUILDKIT_SCAN_DESTINATION", DESTINATION)
            .env("BUILDKIT_SCAN_SOURCE", format!("{SOURCES}/core/{CORE}"));
        Ok(Self { name, image, args, surroundings, parameters: options.parameters.clone() })
    }

    /// Scans when somebody reads the attestation.
    ///
    /// # Errors
    /// What is wrong with the trees' definitions, or denied by a policy.
    pub async fn scan(
        &self,
        bridge: &Bridge,
        target: ScanTarget<'_>,
    ) -> Result<gateway::Attestation, WireError> {
        let tree = bridge.solve_definition(self.definition(target)?, &[], &[]).await?;
        let tree = tree.ok_or_else(|| wire_error("a scan makes no tree"))?;
        let metadata = [("reason", CORE), ("sbom-core", CORE)];
        Ok(gateway::Attestation {
            kind: gateway::AttestationKind::Bundle as i32,
            metadata: metadata.map(|(key, value)| (key.to_owned(), Bytes::from(value))).into(),
            r#ref: Some(gateway::Ref { id: tree.id().to_owned(), def: None }),
            path: String::new(),
            in_toto_predicate_type: SPDX.to_owned(),
            in_toto_subjects: Vec::new(),
        })
    }

    fn definition(&self, target: ScanTarget<'_>) -> Result<pb::Definition, WireError> {
        let state = |tree| State::from_definition(tree).map_err(wire_error);
        let mut surroundings = self.surroundings.clone();
        let core = Mount::bind(format!("{SOURCES}/core/{CORE}"), &state(target.core)?);
        let mut run = Run::new(self.args.iter().map(String::as_str))
            .mount(Mount::tmpfs("/tmp", 0))
            .mount(core.read_only())
            .mount(Mount::bind(DESTINATION, &State::scratch()));
        if !target.extras.is_empty() {
            surroundings = surroundings.env("BUILDKIT_SCAN_SOURCE_EXTRAS", format!("{SOURCES}/extras"));
        }
        for (key, value) in &self.parameters {
            surroundings = surroundings.env(format!("BUILDKIT_SCAN_{key}"), value.as_str());
        }
        for (name, tree) in target.extras {
            let mount = Mount::bind(format!("{SOURCES}/extras/{CORE}-{name}"), &state(tree)?);
            run = run.mount(mount.read_only());
        }
        let title = format!("[{}] generating sbom using {}", target.platform, self.name);
        let constraints = Constraints::new().custom_name(title);
        let constraints = if target.ignore_cache { constraints.ignore_cache() } else { constraints };
        let done =
            self.image.run(run.surroundings(surroundings).constraints(constraints)).map_err(wire_error)?;
        let written = done.mount(DESTINATION).ok_or_else(|| wire_error("a scan writes nothing"))?;
        written.marshal(&Marshal::new(kiln_session::random_id())).map_err(wire_error)
    }
}
