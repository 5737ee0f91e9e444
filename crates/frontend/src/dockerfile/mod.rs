//! The frontend `dockerfile.v0`, in this process.

mod builtin;
mod resolver;
mod subrequest;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::try_join_all;
use kiln_dockerfile::{
    Span,
    convert::{self, Converted, Environment, Failure, Options, Source, export_platform},
    lint::Warning,
};
use kiln_engine::WarningEvent;
use kiln_oci::Platform;
use kiln_proto::{
    errdefs, pb,
    status::{Detail, Diagnostic, WireError},
};
use serde::Serialize;
use tonic::Code;

pub use builtin::Builtin;

use crate::{Bridge, CacheImport, FrontendResult, Refs, Request, errors::wire_error};
use resolver::BridgeResolver;

/// The name of this frontend.
const NAME: &str = "dockerfile.v0";
/// The attribute that names a frontend image in place of the file's `syntax` line.
const SYNTAX_ARG: &str = "build-arg:BUILDKIT_SYNTAX";

/// Builds a Dockerfile.
pub(crate) async fn build(bridge: &Arc<Bridge>, request: Request) -> Result<FrontendResult, WireError> {
    check_caps(&request.attrs)?;
    let environment = Environment {
        session_id: bridge.session().to_owned(),
        unique_id: kiln_session::random_id(),
        build_platform: bridge.host().platform.clone(),
        caps: crate::caps::llb().collect(),
    };
    let options = Options::parse(&request.attrs, environment).map_err(|e| refuse(&e))?;
    let import = |i: &convert::CacheImport| CacheImport { kind: i.kind.clone(), attrs: i.attrs.clone() };
    let imports: Vec<CacheImport> = options.cache_imports.iter().map(import).collect();
    let resolver = BridgeResolver::new(bridge, request.inputs.clone());
    let source = Source::load(&options, &resolver).await.map_err(|e| failure(e, None))?;
    if !request.attrs.contains_key("cmdline") {
        check_syntax(bridge, &request.attrs, &source)?;
    }
    if let Some(name) = request.attrs.get("requestid") {
        return subrequest::answer(name, &source, &options, &resolver).await;
    }
    let targets: Vec<Option<&Platform>> = match options.platforms.as_slice() {
        [] => vec![None],
        platforms => platforms.iter().map(Some).collect(),
    };
    let converted = try_join_all(
        targets.iter().map(|platform| convert::convert(&source, &options, *platform, &resolver)),
    );
    let converted = match converted.await {
        Ok(converted) => converted,
        Err(failed) => {
            warn(bridge, &source, &failed.warnings);
            return Err(failure(failed.failure, Some(&source)));
        }
    };
    if let Some(first) = converted.first() {
        warn(bridge, &source, &first.warnings);
    }
    result(bridge, &options, &imports, &targets, converted).await
}

/// The frontend `gateway.v0`: an image that this process stands for, or an error.
pub(crate) async fn gateway(bridge: &Arc<Bridge>, mut request: Request) -> Result<FrontendResult, WireError> {
    let image = request.attrs.get("source").cloned().unwrap_or_default();
    if image.is_empty() {
        return Err(WireError::new(
            Code::InvalidArgument,
            "no frontend source defined: gateway.v0 needs the option source",
        ));
    }
    // By its own name it is no image.
    if image != NAME {
        bridge.builtin().check(&image)?;
    }
    request.attrs.entry("cmdline".to_owned()).or_insert(image);
    build(bridge, request).await
}

/// What clients ask of this frontend in `frontend.caps`, and get.
const FRONTEND_CAPS: &[&str] = &[
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// Refuses what a client needs and this frontend lacks. `NAME+forward` may be passed on to a newer frontend, which the file then
/// names.
fn check_caps(attrs: &BTreeMap<String, String>) -> Result<(), WireError> {
    let wanted = attrs.get("frontend.caps").map_or("", String::as_str);
    let known = |cap: &&str| FRONTEND_CAPS.contains(&cap.split('+').next().unwrap_or_default());
    match wanted.split(',').filter(|cap| !cap.is_empty()).find(|cap| !known(cap)) {
        None => Ok(()),
        Some(cap) => {
            let name = cap.split('+').next().unwrap_or_default().to_owned();
            let message = format!("unsupported frontend capability {name}");
            Err(WireError::new(Code::Unimplemented, message).with(Detail::FrontendCap(name)))
        }
    }
}

fn check_syntax(bridge: &Bridge, attrs: &BTreeMap<String, String>, source: &Source) -> Result<(), WireError> {
    if let Some(command) = attrs.get(SYNTAX_ARG).filter(|c| !c.trim().is_empty()) {
        let image = command.split_whitespace().next().unwrap_or_default();
        return bridge.builtin().check(image);
    }
    let Some(syntax) = source.syntax() else { return Ok(()) };
    bridge.builtin().check(&syntax.image).map_err(|error| blame(error, source, &[syntax.span]))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Platforms {
    platforms: Vec<NamedPlatform>,
}

#[derive(Serialize)]
struct NamedPlatform {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

async fn result(
    bridge: &Bridge,
    options: &Options,
    imports: &[CacheImport],
    targets: &[Option<&Platform>],
    converted: Vec<Converted>,
) -> Result<FrontendResult, WireError> {
    let mut metadata: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut platforms = Vec::with_capacity(converted.len());
    let mut refs = BTreeMap::new();
    let mut single = None;
    for (target, one) in targets.iter().zip(converted) {
        let tree = bridge.solve_definition(one.definition, &[], imports).await?;
        let (id, platform) = export_platform(*target, &one.image);
        let suffix = if options.multi_platform { format!("/{id}") } else { String::new() };
        metadata.insert(format!("containerimage.config{suffix}"), one.image.encode().into());
        if let Some(base) = &one.base_image {
            metadata.insert(format!("containerimage.base.config{suffix}"), base.encode().into());
        }
        if let Some(epoch) = &one.epoch {
            metadata.insert(format!("source.date.epoch{suffix}"), epoch.unix().to_string().into());
        }
        platforms.push(NamedPlatform { id: id.clone(), platform });
        if options.multi_platform {
            refs.insert(id, tree);
        } else {
            single = tree;
        }
    }
    let named = kiln_oci::gojson::to_vec(&Platforms { platforms }).map_err(wire_error)?;
    metadata.insert("refs.platforms".to_owned(), named.into());
    let refs = if options.multi_platform { Refs::Map(refs) } else { Refs::Single(single) };
    Ok(FrontendResult { refs, metadata, attestations: BTreeMap::new() })
}

/// Shows what the linter found, at the vertex that loaded the Dockerfile.
fn warn(bridge: &Bridge, source: &Source, warnings: &[Warning]) {
    let Some(vertex) = &source.vertex else { return };
    for warning in warnings {
        let line = *warning.span.lines().start();
        let place = if warning.span.is_known() { format!(" (line {line})") } else { String::new() };
        bridge.steps().warn(WarningEvent {
            vertex: vertex.clone(),
            level: 1,
            short: format!("{}: {}{place}", warning.rule.name(), warning.message).into(),
            detail: vec![warning.rule.description().to_owned().into()],
            url: warning.rule.url().to_owned(),
            info: Some(source.source_info()),
            ranges: ranges(&[warning.span]),
        });
    }
}

/// One range a line, which is how clients mark them.
fn ranges(spans: &[Span]) -> Vec<pb::Range> {
    let line = |line: u32| {
        let position = || pb::Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 };
        pb::Range { start: Some(position()), end: Some(position()) }
    };
    spans.iter().flat_map(Span::lines).map(line).collect()
}

fn blame(error: WireError, source: &Source, spans: &[Span]) -> WireError {
    let ranges = ranges(spans);
    if ranges.is_empty() {
        return error;
    }
    error.with(Detail::Source(errdefs::Source { info: Some(source.source_info()), ranges }))
}

/// What the client is told of a failed conversion.
pub(crate) fn failure(failure: Failure, source: Option<&Source>) -> WireError {
    let span = failure.span();
    let message = failure.to_string();
    let mut error = match &failure {
        Failure::Dockerfile(_) => WireError::new(Code::InvalidArgument, message),
        Failure::Outside { source, .. } => match source.downcast_ref::<WireError>() {
            Some(cause) => WireError { message, ..cause.clone() },
            None => wire_error(message),
        },
    };
    if error.code == Code::InvalidArgument {
        // A build that fails for what its author wrote is not a malformed call.
        error.code = Code::Unknown;
    }
    if let Failure::Dockerfile(errors) = &failure {
        error = error.with(Detail::Diagnostics(errors.as_slice().iter().map(diagnostic).collect()));
    }
    match source {
        Some(source) if error.sources().next().is_none() => blame(error, source, span.as_slice()),
        _ => error,
    }
}

/// An error with its exact place.
fn diagnostic(error: &kiln_dockerfile::Error) -> Diagnostic {
    let span = error.span();
    Diagnostic {
        message: error.message().to_owned(),
        start: (span.start.line, span.start.column),
        end: (span.end.line, span.end.column),
        expected: error.expectation().unwrap_or_default().to_owned(),
        suggestion: error.suggestion().unwrap_or_default().to_owned(),
    }
}

fn refuse(error: &kiln_dockerfile::Error) -> WireError {
    wire_error(error)
}
