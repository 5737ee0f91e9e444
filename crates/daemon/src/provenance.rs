//! Provenance of results: from what a build has seen to statements that exporters attach.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use kiln_engine::{CacheExportGraph, CacheStore, CachedResult, ExportRecord};
use kiln_exporter::{
    Attestation, RefError, ResultPlatform, Source,
    attestation::provenance::{
        self, Capture, GitMaterial, HttpMaterial, ImageMaterial, Mode, ProvenanceOptions, redact,
    },
};
use kiln_frontend::{
    Bridge, BuildRef, FrontendResult, NamedImage, dockerfile::NAME as DOCKERFILE, wire_error,
};
use kiln_llb::source::Identifier;
use kiln_oci::{Descriptor, Digest, Platform, Reference, Time};
use kiln_ops::{Kiln, Material};
use kiln_proto::{
    pb::{self, op::Op},
    status::WireError,
};
use kiln_worker::{ImmutableRef, RefId, RemoteOptions, Worker};
use serde_json::Value;

use crate::{op_json, results, version::DOCKERFILE_VERSION};

/// What a client asked of frontends, and which refs came of it.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    calls: Mutex<Vec<Call>>,
    /// The first frontend that was called, whatever came of it, and what it was told.
    first: OnceLock<(String, BTreeMap<String, String>)>,
}

#[derive(Clone, Debug)]
struct Call {
    request: provenance::Request,
    refs: Vec<String>,
}

impl Asked {
    /// A frontend is about to be called.
    pub(crate) fn begin(&self, frontend: &str, attrs: &BTreeMap<String, String>) {
        if !frontend.is_empty() {
            self.first.get_or_init(|| (frontend.to_owned(), attrs.clone()));
        }
    }

    /// The first frontend that was called, and what it was told.
    pub(crate) fn first(&self) -> Option<&(String, BTreeMap<String, String>)> {
        self.first.get()
    }

    /// Remembers a call of a frontend. Plain definitions need none.
    pub(crate) fn note(&self, request: provenance::Request, result: &FrontendResult) {
        if request.frontend.is_empty() {
            return;
        }
        let refs = result.refs.iter().map(|one| one.id().to_owned()).collect();
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(Call { request, refs });
    }

    fn of(&self, id: &str) -> provenance::Request {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = calls.iter().find(|call| call.refs.iter().any(|known| known == id));
        call.map(|call| call.request.clone()).unwrap_or_default()
    }
}

/// The run of a build.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    id: String,
    started: Time,
    finished: Time,
    environment: BTreeMap<String, Value>,
}

impl Run {
    /// One that has just ended.
    pub(crate) fn of(started: Time, environment: BTreeMap<String, Value>) -> Self {
        Self { id: kiln_session::random_id(), started, finished: Time::now(), environment }
    }
}

/// Adds a statement about each tree of a result.
pub(crate) fn attach(
    source: &mut Source,
    bridge: &Bridge,
    asked: &Asked,
    result: &FrontendResult,
    options: ProvenanceOptions,
    run: &Run,
) -> Result<(), WireError> {
    let platforms = source.platforms().map_err(wire_error)?;
    for platform in &platforms {
        // The empty tree came from nothing.
        let Some(one) = result.refs.of(&platform.id) else { continue };
        let capture = capture_all(bridge, result, one, asked.of(one.id()), platform, &platforms);
        let attestation = statement(&bridge.host().worker, one, capture, options.clone(), run)?;
        source.attestations.entry(platform.id.clone()).or_default().push(attestation);
    }
    Ok(())
}

fn statement(
    worker: &Worker,
    one: &Arc<BuildRef>,
    capture: Capture,
    options: ProvenanceOptions,
    run: &Run,
) -> Result<Attestation, WireError> {
    let mut run = provenance::Run {
        invocation_id: run.id.clone(),
        started: run.started.clone(),
        finished: run.finished.clone(),
        dockerfile_version: match capture.request.frontend.as_str() {
            DOCKERFILE => DOCKERFILE_VERSION.to_owned(),
            _ => String::new(),
        },
        environment: run.environment.clone(),
        build_config: None,
        source: None,
        layers: BTreeMap::new(),
    };
    let (filename, kind) = (options.filename.clone(), options.version.predicate_type());
    let everywhere = !options.inline_only;
    if options.mode == Mode::Max {
        let (config, source) =
            provenance::build_config(one.definition(), &op_json::op).map_err(wire_error)?;
        (run.build_config, run.source) = (Some(config), source);
    }
    // Made at once too, so that what is wrong is told before anything is exported.
    let predicate = provenance::predicate(&capture, &options, &run).map_err(wire_error)?;
    if options.mode == Mode::Min {
        return Ok(Attestation::generated(&filename, kind, predicate, everywhere));
    }
    let given = Arc::new((worker.clone(), one.clone(), capture, options, run));
    let maker = move || -> futures::future::BoxFuture<'static, Result<bytes::Bytes, RefError>> {
        let given = given.clone();
        Box::pin(async move {
            let (worker, one, capture, options, run) = &*given;
            let mut run = run.clone();
            if let (Some(result), Some(config)) = (one.built(), &run.build_config) {
                run.layers = layers(worker, result, &config.digest_mapping).await;
            }
            Ok(provenance::predicate(capture, options, &run)?.into())
        })
    };
    Ok(Attestation::later(&filename, kind, Arc::new(maker), everywhere))
}

/// The layers that are known by now of each step's outputs.
async fn layers(
    worker: &Worker,
    result: &CachedResult<Kiln>,
    steps: &BTreeMap<Digest, String>,
) -> BTreeMap<String, Vec<Vec<Descriptor>>> {
    let mut all: BTreeMap<String, Vec<Vec<Descriptor>>> = BTreeMap::new();
    for record in CacheExportGraph::of([result], false).records {
        let Some(edge) = &record.edge else { continue };
        let Some(step) = steps.get(&edge.vertex) else { continue };
        for tree in trees(worker, &record).await {
            let known = tree.known_layers(RemoteOptions::default()).unwrap_or_default();
            let chain: Vec<_> = known.into_iter().map(|layer| public(&layer.descriptor)).collect();
            if chain.is_empty() {
                continue;
            }
            let chains = all.entry(format!("{step}:{}", edge.output)).or_default();
            if !chains.contains(&chain) {
                chains.push(chain);
            }
        }
    }
    all
}

/// The trees under a key. Those of sources are looked up if the build did not need them, since what it made of them was
/// there.
async fn trees(worker: &Worker, record: &ExportRecord<Kiln>) -> Vec<ImmutableRef> {
    let mut all = Vec::new();
    for found in &record.results {
        all.extend(found.load().await.ok().and_then(|output| output.0));
    }
    if all.is_empty() && record.inputs.is_empty() {
        let kept = CacheStore::<Kiln>::records(&*results::cache(worker), &record.digest);
        let ids = kept.iter().filter_map(|kept| RefId::parse(&kept.id));
        all.extend(ids.filter_map(|id| worker.get(&id).ok()));
    }
    all
}

/// A descriptor without what is only for this machine.
fn public(descriptor: &Descriptor) -> Descriptor {
    Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size)
}

/// How `one`, the tree of `platform`, came to be: with all that the frontend read on the way.
fn capture_all(
    bridge: &Bridge,
    result: &FrontendResult,
    one: &BuildRef,
    request: provenance::Request,
    platform: &ResultPlatform,
    platforms: &[ResultPlatform],
) -> Capture {
    let mut capture = capture(one);
    let results: HashSet<_> = result.refs.iter().map(|one| one.id()).collect();
    for other in bridge.refs() {
        if !results.contains(other.id()) {
            capture.merge(&self::capture(&other));
        }
    }
    for image in images_for(bridge.images(), platform, platforms) {
        capture.materials.images.insert(ImageMaterial {
            reference: image.reference.to_string(),
            platform: Some(image.platform.format()),
            digest: Some(image.digest),
            local: image.local,
        });
    }
    drop_doubles(&mut capture);
    capture.request = request;
    capture
}

/// The images that a tree of `platform` can be made of: of those that were asked for for every platform, its own.
fn images_for(
    images: Vec<NamedImage>,
    platform: &ResultPlatform,
    platforms: &[ResultPlatform],
) -> Vec<NamedImage> {
    let same = |a: &Platform, b: &Platform| a.os == b.os && a.architecture == b.architecture;
    let everywhere = |image: &NamedImage| {
        let asked = |wanted: &ResultPlatform| {
            let of_name = images.iter().filter(|other| other.reference == image.reference);
            of_name.into_iter().any(|other| same(&other.platform, &wanted.platform))
        };
        platforms.iter().all(asked)
    };
    let kept = images.iter().filter(|image| !everywhere(image) || same(&image.platform, &platform.platform));
    kept.cloned().collect()
}

/// Leaves out the images named by digest that are there by tag, too: the tag is what the author wrote.
fn drop_doubles(capture: &mut Capture) {
    let images = &mut capture.materials.images;
    let parsed = |image: &ImageMaterial| Reference::parse(&image.reference).ok();
    let by_tag: HashSet<String> = images
        .iter()
        .filter_map(parsed)
        .filter(|reference| reference.digest().is_none())
        .map(|reference| reference.with_default_tag().to_string())
        .collect();
    images.retain(|image| match parsed(image) {
        Some(reference) if reference.digest().is_some() => {
            !by_tag.contains(&reference.without_digest().with_default_tag().to_string())
        }
        _ => true,
    });
}

/// How one tree came to be. Empty for one that was never built.
fn capture(one: &BuildRef) -> Capture {
    let mut capture = Capture::default();
    let Some(result) = one.built() else { return capture };
    for material in result.materials() {
        if add_material(&mut capture, &material).is_none() {
            capture.incomplete_materials = true;
        }
    }
    for vertex in one.graph().vertices() {
        match &vertex.op.op {
            Some(Op::Exec(exec)) => add_exec(&mut capture, exec),
            Some(Op::Build(_)) => capture.incomplete_materials = true,
            _ => {}
        }
    }
    capture
}

fn add_material(capture: &mut Capture, material: &Material) -> Option<()> {
    let digest = || Digest::parse(&material.pin).ok();
    let image = |reference: &Reference, platform: Option<&Platform>, local: bool| {
        let platform = platform.map(Platform::format);
        Some(ImageMaterial { reference: reference.to_string(), platform, digest: Some(digest()?), local })
    };
    let all = &mut capture.materials;
    match Identifier::parse(&material.source, material.platform.as_ref()).ok()? {
        Identifier::Image(source) => {
            all.images.insert(image(&source.reference, source.platform.as_ref(), false)?);
        }
        Identifier::OciLayout(source) => {
            all.images.insert(image(&source.reference, source.platform.as_ref(), true)?);
        }
        Identifier::ImageBlob(blob) => {
            all.image_blobs.insert(image(&blob.reference, None, false)?);
        }
        Identifier::OciBlob(blob) => {
            all.image_blobs.insert(image(&blob.reference, None, true)?);
        }
        Identifier::Local(local) => {
            all.local.insert(local.name);
        }
        Identifier::Http(http) => {
            all.http.insert(HttpMaterial { url: redact(&http.url), digest: digest()? });
        }
        Identifier::Git(git) => {
            let mut url = redact(&git.remote);
            if !git.reference.is_empty() {
                url = format!("{url}#{}", git.reference);
            }
            all.git.insert(GitMaterial { url, commit: material.pin.clone() });
            for secret in [&git.auth_token_secret, &git.auth_header_secret].into_iter().flatten() {
                used(&mut capture.secrets, secret, true);
            }
            if let Some(agent) = &git.mount_ssh_sock {
                used(&mut capture.ssh, agent, true);
            }
        }
    }
    Some(())
}

fn add_exec(capture: &mut Capture, exec: &pb::ExecOp) {
    for mount in &exec.mounts {
        match (mount.mount_type(), &mount.secret_opt, &mount.ssh_opt) {
            (pb::MountType::Secret, Some(secret), _) => {
                used(&mut capture.secrets, &secret.id, secret.optional);
            }
            (pb::MountType::Ssh, _, Some(ssh)) => {
                let id = if ssh.id.is_empty() { "default" } else { &ssh.id };
                used(&mut capture.ssh, id, ssh.optional);
            }
            _ => {}
        }
    }
    for secret in &exec.secretenv {
        used(&mut capture.secrets, &secret.id, secret.optional);
    }
    capture.network_access |= exec.network() != pb::NetMode::None;
}

/// Needed by one is needed.
fn used(all: &mut BTreeMap<String, bool>, id: &str, optional: bool) {
    all.entry(id.to_owned()).and_modify(|own| *own &= optional).or_insert(optional);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, platform: &str) -> NamedImage {
        NamedImage {
            reference: Reference::parse(name).expect("name"),
            platform: Platform::parse(platform).expect("platform"),
            digest: Digest::sha256(platform),
            local: false,
        }
    }

    fn of(id: &str) -> ResultPlatform {
        ResultPlatform { id: id.to_owned(), platform: Platform::parse(id).expect("platform") }
    }

    #[test]
    fn each_platform_has_its_own_images() {
        let images = vec![
            named("docker.io/library/a:1", "linux/amd64"),
            named("docker.io/library/a:1", "linux/arm64"),
            named("docker.io/library/tool:1", "linux/amd64"),
        ];
        let both = [of("linux/amd64"), of("linux/arm64")];
        let arm = images_for(images.clone(), &both[1], &both);
        assert_eq!(arm, images[1..]);
        assert_eq!(images_for(images.clone(), &both[0], &both[..1]).len(), 2);
    }

    #[test]
    fn a_tag_stands_for_its_digest() {
        let mut capture = Capture::default();
        let pinned = format!("docker.io/library/a:1@{}", Digest::sha256("x"));
        let other = format!("docker.io/library/b:1@{}", Digest::sha256("x"));
        for reference in ["docker.io/library/a:1", &pinned, &other] {
            let reference = reference.to_owned();
            let image = ImageMaterial { reference, platform: None, digest: None, local: false };
            capture.materials.images.insert(image);
        }
        drop_doubles(&mut capture);
        let left: Vec<_> = capture.materials.images.iter().map(|image| image.reference.as_str()).collect();
        assert_eq!(left, ["docker.io/library/a:1", other.as_str()]);
    }

    #[test]
    fn secrets_ssh_and_networks_of_steps_are_told() {
        let mut capture = Capture::default();
        let mount = |kind: pb::MountType| pb::Mount {
            mount_type: kind.into(),
            secret_opt: Some(pb::SecretOpt { id: "s".into(), optional: true, ..Default::default() }),
            ssh_opt: Some(pb::SshOpt { id: "default".into(), ..Default::default() }),
            ..Default::default()
        };
        let secretenv = vec![pb::SecretEnv { id: "s".into(), ..Default::default() }];
        let mounts = vec![mount(pb::MountType::Secret), mount(pb::MountType::Ssh)];
        add_exec(&mut capture, &pb::ExecOp { mounts, secretenv, ..Default::default() });
        assert_eq!(capture.secrets, [("s".to_owned(), false)].into());
        assert_eq!(capture.ssh, [("default".to_owned(), false)].into());
        assert!(capture.network_access);
    }

    #[test]
    fn sources_become_materials() {
        let mut capture = Capture::default();
        let mut add = |identifier: &str, pin: &str| {
            let source = pb::SourceOp { identifier: identifier.to_owned(), attrs: BTreeMap::new() };
            add_material(&mut capture, &Material { source, platform: None, pin: pin.to_owned() })
        };
        let digest = Digest::sha256("x").to_string();
        assert!(add("docker-image://docker.io/library/busybox:latest", &digest).is_some());
        assert!(add("local://context", &digest).is_some());
        assert!(add("https://host/file", &digest).is_some());
        assert!(add("git://github.com/a/b.git#main", &"a".repeat(40)).is_some());
        assert!(add("docker-image://docker.io/library/busybox:latest", "no digest").is_none());
        assert_eq!(capture.materials.images.len(), 1);
        assert!(capture.materials.local.contains("context"));
        assert_eq!(capture.materials.http.len(), 1);
        assert_eq!(capture.materials.git.first().expect("git").commit, "a".repeat(40));
    }
}
