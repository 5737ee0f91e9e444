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
use kiln_proto::Ranges;
use kiln_proto::{
    errdefs, gateway, pb,
    status::{Detail, Diagnostic, WireError},
};
use serde::Serialize;
use tonic::Code;

pub use builtin::Builtin;

use crate::{
    Bridge, CacheImport, FrontendResult, Refs, Request,
    attest::{Attests, ScanTarget, Scanner},
    errors::wire_error,
    foreign,
};
use resolver::BridgeResolver;

/// The name of this frontend.
pub const NAME: &str = "dockerfile.v0";
/// The attribute that names a frontend image in place of the file's `syntax` line.
const SYNTAX_ARG: &str = "build-arg:BUILDKIT_SYNTAX";

/// Builds a Dockerfile.
pub(crate) async fn build(bridge: &Arc<Bridge>, request: Request) -> Result<FrontendResult, WireError> {
    check_caps(&request.attrs, true)?;
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
    if !request.attrs.contains_key("cmdline")
        && let Some(foreign) = other_frontend(bridge, &request.attrs, &source)
    {
        return forward(bridge, request, &source, foreign).await;
    }
    check_caps(&request.attrs, false)?;
    if let Some(name) = request.attrs.get("requestid") {
        return subrequest::answer(bridge, name, &source, &options, &resolver).await;
    }
    // Asked before anything is built: a generator that cannot be had should be told soon.
    let scanner = match &Attests::parse(&request.attrs)?.sbom {
        Some(options) => Some(Scanner::load(bridge, options).await?),
        None => None,
    };
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
    result(bridge, &options, &imports, &targets, converted, scanner).await
}

/// What clients ask of this frontend in `frontend.caps`, and get.
const FRONTEND_CAPS: &[&str] = &[
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// Refuses what a client needs and this frontend lacks. `NAME+forward` may be passed on to a newer frontend, which the file then
/// names: it is let through while that is not known (`forwarding`).
fn check_caps(attrs: &BTreeMap<String, String>, forwarding: bool) -> Result<(), WireError> {
    let wanted = attrs.get("frontend.caps").map_or("", String::as_str);
    let known = |cap: &&str| {
        let (name, may) = cap.split_once('+').unwrap_or((cap, ""));
        FRONTEND_CAPS.contains(&name) || (forwarding && may == "forward")
    };
    match wanted.split(',').filter(|cap| !cap.is_empty()).find(|cap| !known(cap)) {
        None => Ok(()),
        Some(cap) => {
            let name = cap.split('+').next().unwrap_or_default().to_owned();
            let message = format!("unsupported frontend capability {name}");
            Err(WireError::new(Code::Unimplemented, message).with(Detail::FrontendCap(name)))
        }
    }
}

/// A frontend that is used in place of this one.
struct Foreign {
    image: String,
    /// The image and what follows it.
    command: String,
    /// The line that asks for it; `None` when an option does.
    span: Option<Span>,
}

/// The frontend that an option or the file's first lines ask for, unless this one stands for it.
fn other_frontend(bridge: &Bridge, attrs: &BTreeMap<String, String>, source: &Source) -> Option<Foreign> {
    let asked = match attrs.get(SYNTAX_ARG).map(|command| command.trim()).filter(|c| !c.is_empty()) {
        Some(command) => {
            let image = command.split(' ').next().unwrap_or_default();
            Foreign { image: image.to_owned(), command: command.to_owned(), span: None }
        }
        None => {
            let syntax = source.syntax()?;
            Foreign { image: syntax.image, command: syntax.command, span: Some(syntax.span) }
        }
    };
    (!foreign::is_own(bridge.frontends(), &asked.image, attrs)).then_some(asked)
}

/// Lets the other frontend build.
async fn forward(
    bridge: &Arc<Bridge>,
    mut request: Request,
    source: &Source,
    foreign: Foreign,
) -> Result<FrontendResult, WireError> {
    request.attrs.insert("cmdline".to_owned(), foreign.command.clone());
    request.attrs.insert("source".to_owned(), foreign.image);
    request.frontend = foreign::NAME.to_owned();
    request.evaluate = false;
    let built = bridge.solve(request).await;
    built.map_err(|error| match foreign.span {
        _ if error.sources().next().is_some() => error,
        Some(span) => blame(error, source, &[span]),
        None => {
            let message = format!("failed with {SYNTAX_ARG} = {}: {}", foreign.command, error.message);
            WireError { message, ..error }
        }
    })
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
    scanner: Option<Scanner>,
) -> Result<FrontendResult, WireError> {
    let mut metadata: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut platforms = Vec::with_capacity(converted.len());
    let mut refs = BTreeMap::new();
    let mut single = None;
    let mut attestations = BTreeMap::new();
    for (target, one) in targets.iter().zip(converted) {
        let (id, platform) = export_platform(*target, &one.image);
        if let Some(scanner) = &scanner {
            let (core, extras, ignore_cache) = (&one.definition, &one.scan[..], one.ignore_cache);
            let target = ScanTarget { platform: &id, core, extras, ignore_cache };
            let attestation = vec![scanner.scan(bridge, target).await?];
            attestations.insert(id.clone(), gateway::Attestations { attestation });
        }
        let tree = bridge.solve_definition(one.definition, &[], imports).await?;
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
    Ok(FrontendResult { refs, metadata, attestations })
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
    spans.iter().flat_map(|span| Ranges::from(span.lines()).to_vec()).collect()
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
