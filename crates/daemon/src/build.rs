//! One build: from a client's request to its outputs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use kiln_engine::{Job, ProgressSink, WarningEvent};
use kiln_exporter::{
    Client, Context, Exporter, SessionClient, Source, attestation::provenance::ProvenanceOptions,
};
use kiln_frontend::{Bridge, FrontendResult, Request, SourcePolicies, Step, Steps, wire_error};
use kiln_oci::{Digest, Time};
use kiln_ops::{Entitlement, Entitlements, Gate, JobData, Kiln};
use kiln_proto::{
    control::{SolveRequest, SolveResponse},
    status::WireError,
};
use kiln_registry::Auth;
use tokio::sync::oneshot;
use tonic::Code;

use crate::{
    builds::{Build, Running},
    client_exporters,
    compatibility::Compatibility,
    daemon::Daemon,
    export::{self, ExportProgress},
    log::BuildLog,
    platforms,
    provenance::{self, Run},
};

/// How long an export waits for its client's session.
const SESSION_PATIENCE: Duration = Duration::from_secs(5);

/// Builds what `request` asks for.
pub(crate) async fn solve(daemon: &Daemon, request: SolveRequest) -> Result<SolveResponse, WireError> {
    let name = if request.r#ref.is_empty() { kiln_session::random_id() } else { request.r#ref.clone() };
    let log = BuildLog::create(&daemon.logs(), &file_name(&name)).map_err(wire_error)?;
    let sink: Arc<dyn ProgressSink> = log.clone();
    let steps = Steps::new(sink.clone());
    let checked = check(daemon, &request, &steps);
    if checked.is_err() {
        daemon.builds().refuse(&name, log.clone());
    }
    let checked = checked?;
    let gate: Arc<dyn Gate> = checked.policies.clone();
    let (session, allowed) = (request.session.clone(), checked.allowed.clone());
    let data = JobData { session: session.clone(), entitlements: allowed.clone(), gate: Some(gate) };
    let job = Arc::new(daemon.engine().new_job(name.clone(), data, Vec::new(), sink));
    let builtin = kiln_frontend::dockerfile::Builtin { enabled: daemon.config().builtin_dockerfile };
    let (host, policies) = (daemon.host().clone(), checked.policies.clone());
    let bridge = Bridge::new(host, job.clone(), session, allowed, steps, builtin, policies);
    bridge.set_inputs(request.frontend_inputs.clone());
    let (build, returned) = Build::new(log, bridge.clone());
    let running = daemon.builds().enter(&name, build.clone())?;
    let open = Open { job, running: Some(running) };
    let outcome = run(daemon, &bridge, &build, &request, returned, checked).await;
    open.close().await;
    outcome
}

/// A build that has begun. However it ends, it counts as running until the work that only it wanted has stopped.
struct Open {
    job: Arc<Job<Kiln>>,
    running: Option<Running>,
}

impl Open {
    async fn close(mut self) {
        self.job.close().await;
        self.running = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let job = self.job.clone();
        tokio::spawn(async move {
            job.close().await;
            drop(running);
        });
    }
}

/// The build itself: a result, and what its exporters make of it.
async fn run(
    daemon: &Daemon,
    bridge: &Arc<Bridge>,
    build: &Build,
    request: &SolveRequest,
    returned: oneshot::Receiver<Result<FrontendResult, WireError>>,
    checked: Checked,
) -> Result<SolveResponse, WireError> {
    let Checked { mut exporters, provenance, .. } = checked;
    let started = Time::now();
    let result = result(bridge, build, request, returned).await?;
    let mut source = export::source(bridge, &result).await?;
    if let Some(options) = provenance {
        let environment = daemon.config().provenance_environment.clone();
        let run = Run::of(started, environment);
        provenance::attach(&mut source, bridge, &build.asked, &result, options, &run)?;
    }
    let answer = frontend_response(&result);
    let chooses = match request.enable_session_exporter && !request.session.is_empty() {
        true => Some(daemon.sessions().get(&request.session, SESSION_PATIENCE).await.map_err(wire_error)?),
        false => None,
    };
    if let Some(session) = &chooses {
        let chosen = |kind: &str, attrs: &BTreeMap<String, String>| exporter(request, kind, attrs);
        exporters.extend(client_exporters::find(session, &result, chosen).await?);
    }
    let exporter_response = run_exporters(daemon, bridge, request, &exporters, &source, answer).await?;
    if let Some(session) = &chooses {
        client_exporters::finalize(session, &exporter_response).await?;
    }
    Ok(SolveResponse { exporter_response })
}

/// What can be found wrong with a request before anything of it runs.
fn check(daemon: &Daemon, request: &SolveRequest, steps: &Steps) -> Result<Checked, WireError> {
    refuse_unsupported(request)?;
    let policies = SourcePolicies::new(
        daemon.host().clone(),
        request.session.clone(),
        steps.clone(),
        request.source_policy.as_ref(),
        request.source_policy_session.clone(),
    )?;
    Ok(Checked {
        exporters: exporters(request)?,
        allowed: entitlements(daemon, &request.entitlements)?,
        provenance: provenance::wanted(&request.frontend_attrs)?,
        policies,
    })
}

/// What a request comes to.
struct Checked {
    exporters: Vec<Exporter>,
    allowed: Entitlements,
    provenance: Option<ProvenanceOptions>,
    policies: Arc<SourcePolicies>,
}

/// What the client's frontend makes of the request, or the client itself.
async fn result(
    bridge: &Arc<Bridge>,
    build: &Build,
    request: &SolveRequest,
    returned: oneshot::Receiver<Result<FrontendResult, WireError>>,
) -> Result<FrontendResult, WireError> {
    let by_client =
        request.frontend.is_empty() && request.definition.as_ref().is_none_or(|d| d.def.is_empty());
    if by_client {
        let gone = |_| WireError::new(Code::Cancelled, "the client ended the build without a result");
        return returned.await.map_err(gone)?;
    }
    let wanted = Request {
        definition: request.definition.clone(),
        frontend: request.frontend.clone(),
        attrs: request.frontend_attrs.clone(),
        inputs: request.frontend_inputs.clone(),
        evaluate: false,
        policies: Vec::new(),
    };
    let result = bridge.solve(wanted).await?;
    build.asked.note(&request.frontend, request.frontend_attrs.clone(), &result);
    Ok(result)
}

/// A name as a file's: clients choose names.
fn file_name(name: &str) -> String {
    let safe = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if safe && !name.is_empty() { name.to_owned() } else { Digest::sha256(name).hex().to_owned() }
}

/// What a request may hold that nothing here can do yet.
fn refuse_unsupported(request: &SolveRequest) -> Result<(), WireError> {
    let cache = request.cache.clone().unwrap_or_default();
    let exports = !cache.exports.is_empty() || !cache.export_ref_deprecated.is_empty();
    let imports = !cache.imports.is_empty() || !cache.import_refs_deprecated.is_empty();
    let missing = [
        (exports, "exporting caches (--export-cache, --cache-to)"),
        (imports, "importing caches (--import-cache, --cache-from)"),
        (request.proxy_network, "the proxy network"),
    ];
    match missing.into_iter().find(|(asked, _)| *asked) {
        Some((_, feature)) => {
            Err(WireError::new(Code::Unimplemented, format!("{feature}: not supported by this daemon yet")))
        }
        None => Ok(()),
    }
}

fn exporters(request: &SolveRequest) -> Result<Vec<Exporter>, WireError> {
    let mut wanted: Vec<(&str, &BTreeMap<String, String>)> =
        request.exporters.iter().map(|e| (e.r#type.as_str(), &e.attrs)).collect();
    if wanted.is_empty() && !request.exporter_deprecated.is_empty() {
        wanted.push((&request.exporter_deprecated, &request.exporter_attrs_deprecated));
    }
    // Also where there is no exporter that it would change.
    Compatibility::parse(request.compatibility_version)?;
    wanted.into_iter().map(|(kind, attrs)| exporter(request, kind, attrs)).collect()
}

/// One exporter of a request, with what the request says for all.
fn exporter(
    request: &SolveRequest,
    kind: &str,
    attrs: &BTreeMap<String, String>,
) -> Result<Exporter, WireError> {
    let mut attrs = attrs.clone();
    let misplaced: Vec<_> = attrs.extract_if(.., |key, _| key.starts_with("attest:")).collect();
    for (option, _) in misplaced {
        tracing::warn!(exporter = kind, option, "attestations belong to a build, not to an exporter");
    }
    let epoch = request.frontend_attrs.get("build-arg:SOURCE_DATE_EPOCH").filter(|e| !e.is_empty());
    let attested = request.frontend_attrs.keys().any(|name| name.starts_with("attest:"));
    Compatibility::parse(request.compatibility_version)?.apply(kind, attested, &mut attrs);
    if let Some(epoch) = epoch {
        attrs.entry("source-date-epoch".to_owned()).or_insert_with(|| epoch.clone());
    }
    Exporter::new(kind, &attrs).map_err(wire_error)
}

fn entitlements(daemon: &Daemon, wanted: &[String]) -> Result<Entitlements, WireError> {
    let one = |name: &String| {
        let refused = |why: &str| {
            WireError::new(Code::PermissionDenied, format!("entitlement {name} is not allowed: {why}"))
        };
        let known = Entitlement::parse(name)
            .ok_or_else(|| WireError::new(Code::InvalidArgument, format!("unknown entitlement {name}")))?;
        if daemon.config().entitlements.contains(&known) {
            return Ok(known);
        }
        Err(refused("the daemon's insecure-entitlements do not list it"))
    };
    wanted.iter().map(one).collect()
}

async fn run_exporters(
    daemon: &Daemon,
    bridge: &Arc<Bridge>,
    request: &SolveRequest,
    exporters: &[Exporter],
    source: &Source,
    answer: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, WireError> {
    let mut responses = vec![answer];
    let warning = platforms::warning(&request.frontend_attrs, source);
    if exporters.is_empty() {
        if warning.is_some() {
            let step = bridge.steps().start("verifying build result");
            warn(bridge, step.digest(), warning);
        }
        return Ok(export::merge(responses));
    }
    let session = match request.session.as_str() {
        "" => None,
        id => Some(daemon.sessions().get(id, SESSION_PATIENCE).await.map_err(wire_error)?),
    };
    let store = daemon.host().worker.store().clone();
    let lease = Arc::new(store.lease().map_err(wire_error)?);
    let runs: Vec<_> = exporters
        .iter()
        .enumerate()
        .map(|(index, exporter)| {
            let step = bridge.steps().start(exporter.name());
            if index == 0 {
                warn(bridge, step.digest(), warning.clone());
            }
            let cx = Context {
                store: store.clone(),
                lease: lease.clone(),
                client: session.clone().map(|s| Arc::new(SessionClient::new(s, index)) as Arc<dyn Client>),
                reporter: Arc::new(ExportProgress::new(bridge.steps().clone(), step.digest().clone())),
                registries: daemon.registries().clone(),
                auth: Auth::Group(bridge.group()),
            };
            run_exporter(exporter, cx, source, step)
        })
        .collect();
    responses.extend(futures::future::try_join_all(runs).await?);
    Ok(export::merge(responses))
}

/// Shows a warning at a step.
fn warn(bridge: &Bridge, step: &Digest, warning: Option<String>) {
    let Some(short) = warning else { return };
    bridge.steps().warn(WarningEvent {
        vertex: step.clone(),
        level: 0,
        short: short.into(),
        detail: Vec::new(),
        url: String::new(),
        info: None,
        ranges: Vec::new(),
    });
}

fn run_exporter<'a>(
    exporter: &'a Exporter,
    cx: Context,
    source: &'a Source,
    step: Step,
) -> BoxFuture<'a, Result<BTreeMap<String, String>, WireError>> {
    Box::pin(async move {
        let outcome = async {
            let exported = exporter.export(&cx, source).await?;
            if let Some(push) = &exported.push {
                push.run(&cx).await?;
            }
            Ok::<_, kiln_exporter::Error>(exported.response)
        };
        let outcome = outcome.await;
        step.end(outcome.as_ref().err().map(ToString::to_string));
        outcome.map_err(wire_error)
    })
}

/// What a frontend says to the client itself.
fn frontend_response(result: &FrontendResult) -> BTreeMap<String, String> {
    let own = result.metadata.iter().filter(|(key, _)| key.starts_with("frontend."));
    own.map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned())).collect()
}
