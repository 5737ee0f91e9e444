//! The predicates' JSON, in the order of fields in which others write it.

use std::{borrow::Cow, collections::BTreeMap};

use kiln_oci::{Descriptor, Platform, Reference, Time, gojson};
use serde::Serialize;
use serde_json::Value;

use super::{
    BuildConfig, Capture, ImageMaterial, Mode, ProvenanceOptions, Request, SourceInfo, Version,
    builder_platform, redact,
};
use crate::{
    attestation::purl::image_purl,
    error::{Error, Result},
};

const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";

/// The run of a build, and what only [`Mode::Max`] tells.
#[derive(Clone, Debug)]
pub struct Run {
    /// Identifies it.
    pub invocation_id: String,
    /// When it began.
    pub started: Time,
    /// When it ended.
    pub finished: Time,
    /// Version of the Dockerfile frontend, if that ran in process.
    pub dockerfile_version: String,
    /// Values that the administrator adds.
    pub environment: BTreeMap<String, Value>,
    /// The steps.
    pub build_config: Option<BuildConfig>,
    /// The files that the steps were read from.
    pub source: Option<SourceInfo>,
    /// The layers of each step's outputs, by `step<n>:<output>`: alternatives, each lowest first.
    pub layers: BTreeMap<String, Vec<Vec<Descriptor>>>,
}

type Digests = BTreeMap<String, String>;

#[derive(Clone, Serialize)]
struct Material {
    uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    digest: Digests,
}

#[derive(Serialize)]
struct Named {
    id: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

#[derive(Serialize)]
struct Local {
    name: String,
}

#[derive(Default, Serialize)]
struct Parameters {
    #[serde(skip_serializing_if = "String::is_empty")]
    frontend: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locals: Vec<Local>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    inputs: BTreeMap<String, Other>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<Box<Other>>,
}

/// Another request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Other {
    config_source: ConfigSource<'static>,
    request: Parameters,
}

#[derive(Default, Serialize)]
struct ConfigSource<'a> {
    #[serde(skip_serializing_if = "String::is_empty")]
    uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    digest: Digests,
    /// v1's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    /// v0.2's name.
    #[serde(rename = "entryPoint", skip_serializing_if = "Option::is_none")]
    entry_point: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Builder<'a> {
    id: &'a str,
}

#[derive(Serialize)]
struct OwnMetadata<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    vcs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a SourceInfo>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    layers: &'a BTreeMap<String, Vec<Vec<Descriptor>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate1<'a> {
    build_definition: Definition1<'a>,
    run_details: RunDetails1<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition1<'a> {
    build_type: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resolved_dependencies: Vec<Material>,
    external_parameters: External1<'a>,
    internal_parameters: BTreeMap<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct External1<'a> {
    config_source: ConfigSource<'a>,
    request: Parameters,
}

#[derive(Serialize)]
struct RunDetails1<'a> {
    builder: Builder<'a>,
    metadata: Metadata1<'a>,
}

#[derive(Serialize)]
struct Metadata1<'a> {
    #[serde(rename = "invocationId", skip_serializing_if = "str::is_empty")]
    invocation_id: &'a str,
    #[serde(rename = "startedOn")]
    started_on: &'a Time,
    #[serde(rename = "finishedOn")]
    finished_on: &'a Time,
    buildkit_metadata: OwnMetadata<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    buildkit_hermetic: bool,
    buildkit_completeness: Completeness1,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    buildkit_reproducible: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Completeness1 {
    request: bool,
    resolved_dependencies: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate02<'a> {
    builder: Builder<'a>,
    build_type: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    materials: Vec<Material>,
    invocation: Invocation02<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<&'a BuildConfig>,
    metadata: Metadata02<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation02<'a> {
    config_source: ConfigSource<'a>,
    parameters: Parameters,
    environment: BTreeMap<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata02<'a> {
    #[serde(rename = "buildInvocationID", skip_serializing_if = "str::is_empty")]
    build_invocation_id: &'a str,
    build_started_on: &'a Time,
    build_finished_on: &'a Time,
    completeness: Completeness02,
    reproducible: bool,
    #[serde(rename = "https://mobyproject.org/buildkit@v1#metadata")]
    buildkit_metadata: OwnMetadata<'a>,
    #[serde(
        rename = "https://mobyproject.org/buildkit@v1#hermetic",
        skip_serializing_if = "std::ops::Not::not"
    )]
    hermetic: bool,
}

#[derive(Serialize)]
struct Completeness02 {
    parameters: bool,
    environment: bool,
    materials: bool,
}

/// Makes the predicate (indented JSON).
///
/// # Errors
///
/// [`Error::Conflict`] if complete materials are asked for and are not; [`Error::Result`] for names of images that are none.
pub fn predicate(capture: &Capture, options: &ProvenanceOptions, run: &Run) -> Result<Vec<u8>> {
    let complete_materials = !capture.incomplete_materials && capture.materials.local.is_empty();
    if options.complete_materials && !complete_materials {
        let local: Vec<_> = capture.materials.local.iter().map(String::as_str).collect();
        let text = format!(
            "provenance materials are incomplete: local sources {} are not captured",
            local.join(", ")
        );
        return Err(Error::Conflict(text));
    }
    let materials = materials(capture)?;
    let mut parts = Parts::new(capture, &materials);
    let mut complete_request = !capture.request.frontend.is_empty();
    let max = options.mode == Mode::Max;
    if !max && parts.parameters.scrub() {
        complete_request = false;
    }
    let none = BTreeMap::new();
    let own = OwnMetadata {
        vcs: parts.vcs,
        source: run.source.as_ref().filter(|_| max),
        layers: if max { &run.layers } else { &none },
    };
    let mut environment = run.environment.clone();
    if !run.dockerfile_version.is_empty() {
        environment.insert("dockerfileVersion".into(), run.dockerfile_version.clone().into());
    }
    let build_config = run.build_config.as_ref().filter(|_| max);
    let hermetic = complete_materials && !capture.network_access;
    let path = Some(parts.path.as_str()).filter(|path| !path.is_empty()).map(Cow::from);
    let config_source = ConfigSource { uri: parts.uri, digest: parts.digest, ..ConfigSource::default() };
    let builder = Builder { id: &options.builder_id };
    let json = match options.version {
        Version::V1 => {
            environment.insert("builderPlatform".into(), builder_platform().into());
            if let Some(config) = build_config {
                let config = serde_json::to_value(config).map_err(Error::json("provenance"))?;
                environment.insert("buildConfig".into(), config);
            }
            gojson::to_vec_indent(&Predicate1 {
                build_definition: Definition1 {
                    build_type: BUILD_TYPE_1,
                    resolved_dependencies: materials,
                    external_parameters: External1 {
                        config_source: ConfigSource { path, ..config_source },
                        request: parts.parameters,
                    },
                    internal_parameters: environment,
                },
                run_details: RunDetails1 {
                    builder,
                    metadata: Metadata1 {
                        invocation_id: &run.invocation_id,
                        started_on: &run.started,
                        finished_on: &run.finished,
                        buildkit_metadata: own,
                        buildkit_hermetic: hermetic,
                        buildkit_completeness: Completeness1 {
                            request: complete_request,
                            resolved_dependencies: complete_materials,
                        },
                        buildkit_reproducible: options.reproducible,
                    },
                },
            })
        }
        Version::V02 => {
            environment.insert("platform".into(), builder_platform().into());
            gojson::to_vec_indent(&Predicate02 {
                builder,
                build_type: BUILD_TYPE_02,
                materials,
                invocation: Invocation02 {
                    config_source: ConfigSource { entry_point: path, ..config_source },
                    parameters: parts.parameters,
                    environment,
                },
                build_config,
                metadata: Metadata02 {
                    build_invocation_id: &run.invocation_id,
                    build_started_on: &run.started,
                    build_finished_on: &run.finished,
                    completeness: Completeness02 {
                        parameters: complete_request,
                        environment: true,
                        materials: complete_materials,
                    },
                    reproducible: options.reproducible,
                    buildkit_metadata: own,
                    hermetic,
                },
            })
        }
    };
    json.map_err(Error::json("provenance"))
}

/// The request, taken apart.
struct Parts {
    parameters: Parameters,
    uri: String,
    digest: Digests,
    path: String,
    vcs: BTreeMap<String, String>,
}

/// The options of a frontend without those that say where its configuration is.
struct Args {
    args: BTreeMap<String, String>,
    uri: String,
    digest: Digests,
    path: String,
}

impl Args {
    fn new(request: &Request, materials: &[Material]) -> Self {
        let mut args = request.args.clone();
        let context = match (args.get("contextkey"), args.contains_key("input:context")) {
            (Some(key), _) if !key.is_empty() => key.clone(),
            (_, true) => "input:context".to_owned(),
            _ => "context".to_owned(),
        };
        let url = args.remove(&context).filter(|url| !url.is_empty()).unwrap_or_default();
        let material = materials.iter().find(|material| !url.is_empty() && material.uri == url);
        let digest = material.map(|material| material.digest.clone()).unwrap_or_default();
        let path = args.remove("filename").unwrap_or_default();
        Self { args, uri: redact(&url), digest, path }
    }
}

impl Other {
    fn new(request: &Request, materials: &[Material]) -> Self {
        let Args { mut args, uri, digest, path } = Args::new(request, materials);
        if let Some(source) = args.get_mut("vcs:source") {
            *source = redact(source);
        }
        let path = Some(path).filter(|path| !path.is_empty()).map(Cow::from);
        let mut parameters = Parameters { frontend: request.frontend.clone(), args, ..Parameters::default() };
        parameters.add_others(request, materials);
        Self {
            config_source: ConfigSource { uri, digest, path, ..ConfigSource::default() },
            request: parameters,
        }
    }
}

impl Parameters {
    fn add_others(&mut self, request: &Request, materials: &[Material]) {
        let inputs = request.inputs.iter();
        self.inputs = inputs.map(|(name, input)| (name.clone(), Other::new(input, materials))).collect();
        self.root = request.root.as_deref().map(|root| Box::new(Other::new(root, materials)));
    }

    /// Drops what [`Mode::Min`] does not tell. Returns whether the request is incomplete now.
    fn scrub(&mut self) -> bool {
        let before = self.args.len();
        self.args.retain(|key, _| !key.starts_with("build-arg:") && !key.starts_with("label:"));
        self.secrets.clear();
        self.ssh.clear();
        let mut incomplete = self.args.len() < before;
        for other in self.inputs.values_mut().chain(self.root.as_deref_mut()) {
            incomplete |= other.request.scrub();
        }
        incomplete
    }
}

impl Parts {
    fn new(capture: &Capture, materials: &[Material]) -> Self {
        let Args { args, uri, digest, path } = Args::new(&capture.request, materials);
        let (vcs, args): (BTreeMap<_, _>, _) = args.into_iter().partition(|(key, _)| key.starts_with("vcs:"));
        let vcs = vcs.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| {
            let value = if key == "vcs:source" { redact(&value) } else { value };
            (key["vcs:".len()..].to_owned(), value)
        });
        let named = |(id, &optional): (&String, &bool)| Named { id: id.clone(), optional };
        let local = capture.materials.local.iter().map(|name| Local { name: name.clone() });
        let mut parameters = Parameters {
            frontend: capture.request.frontend.clone(),
            args,
            secrets: capture.secrets.iter().map(named).collect(),
            ssh: capture.ssh.iter().map(named).collect(),
            locals: local.collect(),
            ..Parameters::default()
        };
        parameters.add_others(&capture.request, materials);
        Parts { uri, digest, path, vcs: vcs.collect(), parameters }
    }
}

fn materials(capture: &Capture) -> Result<Vec<Material>> {
    let mut all = Vec::new();
    let sha256 = |digest: &kiln_oci::Digest| {
        Digests::from([(digest.algorithm().as_str().to_owned(), digest.hex().to_owned())])
    };
    let image = |image: &ImageMaterial, blob: bool| -> Result<Material> {
        let wrong = |what: String| Error::Result(format!("image {} in provenance: {what}", image.reference));
        let reference = Reference::parse(&image.reference).map_err(|e| wrong(e.to_string()))?;
        let platform =
            image.platform.as_deref().map(Platform::parse).transpose().map_err(|e| wrong(e.to_string()))?;
        let kind = if image.local { "oci" } else { "docker" };
        let mut uri = image_purl(kind, &reference, platform.as_ref());
        if blob {
            uri.push(if uri.contains('?') { '&' } else { '?' });
            uri.push_str("ref_type=blob");
        }
        Ok(Material { uri, digest: image.digest.as_ref().map(sha256).unwrap_or_default() })
    };
    for (images, blob) in [(&capture.materials.images, false), (&capture.materials.image_blobs, true)] {
        for material in images {
            all.push(image(material, blob)?);
        }
    }
    for git in &capture.materials.git {
        let algorithm = if git.commit.len() == 64 { "sha256" } else { "sha1" };
        let digest = Digests::from([(algorithm.to_owned(), git.commit.clone())]);
        all.push(Material { uri: git.url.clone(), digest });
    }
    for http in &capture.materials.http {
        all.push(Material { uri: http.url.clone(), digest: sha256(&http.digest) });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use kiln_oci::Digest;

    use super::*;

    fn capture() -> Capture {
        let mut capture = Capture::default();
        capture.request.frontend = "dockerfile.v0".into();
        for (key, value) in
            [("build-arg:WHO", "me"), ("filename", "Dockerfile"), ("vcs:revision", "abc"), ("target", "x")]
        {
            capture.request.args.insert(key.into(), value.into());
        }
        capture.materials.images.insert(ImageMaterial {
            reference: "docker.io/library/busybox:latest".into(),
            platform: Some("linux/amd64".into()),
            digest: Some(Digest::sha256("x")),
            local: false,
        });
        capture.secrets.insert("tok".into(), true);
        capture
    }

    fn run() -> Run {
        Run {
            invocation_id: "id".into(),
            started: Time::from_unix(1),
            finished: Time::from_unix(2),
            dockerfile_version: "1.2".into(),
            environment: [("ci".to_owned(), Value::from("yes"))].into(),
            build_config: Some(BuildConfig::default()),
            source: Some(SourceInfo::default()),
            layers: BTreeMap::new(),
        }
    }

    fn made(version: Version, mode: Mode) -> Value {
        let options = ProvenanceOptions { version, mode, ..ProvenanceOptions::default() };
        serde_json::from_slice(&predicate(&capture(), &options, &run()).expect("predicate")).expect("json")
    }

    #[test]
    fn v1_min_tells_little() {
        let json = made(Version::V1, Mode::Min);
        let definition = &json["buildDefinition"];
        assert_eq!(
            definition["resolvedDependencies"][0]["uri"],
            "pkg:docker/busybox@latest?platform=linux%2Famd64"
        );
        assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
        assert_eq!(definition["externalParameters"]["request"]["args"], serde_json::json!({"target": "x"}));
        assert!(definition["externalParameters"]["request"].get("secrets").is_none());
        assert_eq!(definition["internalParameters"]["ci"], "yes");
        assert!(definition["internalParameters"].get("buildConfig").is_none());
        let metadata = &json["runDetails"]["metadata"];
        assert_eq!(metadata["buildkit_completeness"]["request"], false);
        assert_eq!(metadata["buildkit_metadata"]["vcs"]["revision"], "abc");
        assert_eq!(metadata["buildkit_hermetic"], true);
    }

    #[test]
    fn other_requests_are_told_of_as_the_build_itself_is() {
        let args = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let inner = Request { frontend: "dockerfile.v0".into(), ..Request::default() };
        let input = Request {
            frontend: "dockerfile.v0".into(),
            args: args(&[
                ("build-arg:KEY", "secret"),
                ("context", "https://me@host/r.git"),
                ("filename", "F"),
                ("target", "t"),
            ]),
            inputs: [("deep".to_owned(), inner)].into(),
            root: None,
        };
        let root = Request { args: args(&[("label:x", "y"), ("own", "z")]), ..Request::default() };
        let mut capture = Capture::default();
        capture.request.inputs.insert("base".into(), input);
        capture.request.root = Some(Box::new(root));
        let told = |mode| {
            let options = ProvenanceOptions { mode, ..ProvenanceOptions::default() };
            let json = predicate(&capture, &options, &run()).expect("predicate");
            let json: Value = serde_json::from_slice(&json).expect("json");
            json["buildDefinition"]["externalParameters"]["request"].clone()
        };
        let base = |args: Value| {
            serde_json::json!({"configSource": {"uri": "https://xxxxx@host/r.git", "path": "F"}, "request":
                {"frontend": "dockerfile.v0", "args": args, "inputs":
                    {"deep": {"configSource": {}, "request": {"frontend": "dockerfile.v0"}}}}})
        };
        let root = |args: Value| serde_json::json!({"configSource": {}, "request": {"args": args}});
        assert_eq!(
            told(Mode::Max),
            serde_json::json!({
                "inputs": {"base": base(serde_json::json!({"build-arg:KEY": "secret", "target": "t"}))},
                "root": root(serde_json::json!({"label:x": "y", "own": "z"})),
            })
        );
        assert_eq!(
            told(Mode::Min),
            serde_json::json!({
                "inputs": {"base": base(serde_json::json!({"target": "t"}))},
                "root": root(serde_json::json!({"own": "z"})),
            })
        );
    }

    #[test]
    fn v02_max_tells_all() {
        let json = made(Version::V02, Mode::Max);
        assert_eq!(json["buildType"], BUILD_TYPE_02);
        assert_eq!(json["invocation"]["parameters"]["args"]["build-arg:WHO"], "me");
        assert_eq!(
            json["invocation"]["parameters"]["secrets"],
            serde_json::json!([{"id": "tok", "optional": true}])
        );
        assert_eq!(json["invocation"]["configSource"]["entryPoint"], "Dockerfile");
        assert_eq!(json["metadata"]["completeness"]["parameters"], true);
        assert!(json.get("buildConfig").is_some());
        assert!(json["metadata"]["https://mobyproject.org/buildkit@v1#metadata"].get("source").is_some());
        assert_eq!(json["metadata"]["buildInvocationID"], "id");
    }

    #[test]
    fn materials_must_be_complete_if_asked() {
        let mut local = capture();
        local.materials.local.insert("context".into());
        let options = ProvenanceOptions { complete_materials: true, ..ProvenanceOptions::default() };
        let error = predicate(&local, &options, &run()).expect_err("incomplete").to_string();
        assert!(error.contains("context"), "{error}");
    }
}
