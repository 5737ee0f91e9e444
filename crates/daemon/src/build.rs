//! One build: from a client's request to its outputs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use kiln_engine::{Job, ProgressSink, WarningEvent};
use kiln_exporter::{
    Client, Context, Exported, Exporter, InlineCache, Push, SessionClient, Silent, Source,
    attestation::provenance::ProvenanceOptions,
};
use kiln_frontend::{
    Bridge, BuildRef, FrontendResult, Permissions, Refs, Request, SourcePolicies, Step, Steps,
    attest::{Attests, SbomOptions, ScanTarget, Scanner, has_sbom},
    wire_error,
};
use kiln_oci::{Descriptor, Digest, Time};
use kiln_ops::{Entitlement, Entitlements, Gate, JobData, Kiln};
use kiln_proto::{
    control::{SolveRequest, SolveResponse},
    status::WireError,
};
use kiln_registry::Auth;
use kiln_remotecache::{ExportOptions, Imports, Place};
use kiln_session::Group;
use kiln_store::{Db, Lease};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::Code;

use crate::{
    ahead::Ahead,
    builds::{Build, Running},
    caches::{self, Inline},
    client_exporters,
    compatibility::Compatibility,
    daemon::Daemon,
    export::{self, ExportProgress},
    history::{self, Ended, Recorder, Recording},
    log::BuildLog,
    platforms,
    producers::Producers,
    provenance::{self, Run},
};

/// How long an export waits for its client's session.
const SESSION_PATIENCE: Duration = Duration::from_secs(5);

/// Builds what `request` asks for.
pub(crate) async fn solve(daemon: &Daemon, request: SolveRequest) -> Result<SolveResponse, WireError> {
    let name = if request.r#ref.is_empty() { kiln_session::random_id() } else { request.r#ref.clone() };
    let log = BuildLog::create(&daemon.logs(), &file_name(&name)).map_err(wire_error)?;
    let recorder = Recorder::new(log.clone(), daemon.sessions().clone(), request.session.clone());
    let sink: Arc<dyn ProgressSink> = recorder.clone();
    let started = SystemTime::now();
    let steps = Steps::new(sink.clone());
    let checked = check(daemon, &request, &steps);
    if checked.is_err() {
        daemon.builds().refuse(&name, log.clone());
    }
    let checked = checked?;
    let gate: Arc<dyn Gate> = checked.policies.clone();
    let (session, entitlements) = (request.session.clone(), checked.allowed.clone());
    let host = daemon.host().clone();
    let imports = Arc::new(Imports::new(
        host.worker.clone(),
        daemon.registries().clone(),
        Group::of(host.sessions.clone(), vec![session.clone()]),
        steps.clone(),
    ));
    let data = JobData {
        session: session.clone(),
        entitlements: entitlements.clone(),
        gate: Some(gate),
        mounts: Some(imports.clone()),
        witnesses: vec![recorder.clone(), checked.ahead.clone()],
    };
    let job = Arc::new(daemon.engine().new_job(name.clone(), data, Vec::new(), sink));
    let permissions = Permissions { entitlements, policies: checked.policies.clone() };
    let bridge = Bridge::new(
        host,
        job.clone(),
        session,
        permissions,
        steps,
        daemon.frontends().clone(),
        imports.clone(),
    );
    let (build, returned) = Build::new(log, bridge.clone(), request.frontend_inputs.clone());
    let running = daemon.builds().enter(&name, build.clone())?;
    build.conversation.asked.begin(&request.frontend, &request.frontend_attrs);
    let (attrs, inputs) = (&request.frontend_attrs, &request.frontend_inputs);
    daemon.producers().begin(&bridge, &request.frontend, attrs, inputs);
    let recording = Recording {
        history: daemon.history().clone(),
        recorder,
        bridge: bridge.clone(),
        build: build.clone(),
        reference: name,
        started,
        exports: history::exports(&asked_exporters(&request)),
    };
    // Clients ask for some builds for their own sake.
    let recording = Some(recording).filter(|_| !request.internal);
    if let Some(recording) = &recording {
        recording.begin(&request);
    }
    let db = daemon.host().worker.store().db().clone();
    let open = Open { job, running: Some(running), recording, db };
    let outcome = run(daemon, &bridge, &build, &request, returned, checked, &imports).await;
    open.close(&outcome).await;
    outcome
}

/// A build that has begun. However it ends, it counts as running until the work that only it wanted has stopped.
struct Open {
    job: Arc<Job<Kiln>>,
    running: Option<Running>,
    recording: Option<Recording>,
    db: Db,
}

impl Open {
    async fn close(mut self, outcome: &Result<SolveResponse, WireError>) {
        let ended = match outcome {
            Ok(answer) => Ended::Well(answer.exporter_response.clone().into_iter().collect()),
            Err(error) => Ended::Badly(error.clone()),
        };
        if let Some(Err(error)) = futures::future::OptionFuture::from(self.end(ended)).await {
            tracing::error!(%error, "the end of a build went wrong");
        }
    }

    /// Ends the job, and writes its record when the last of its work has said how it ended: in a task of its own, that a client
    /// that leaves meanwhile does not cut short.
    fn end(&mut self, ended: Ended) -> Option<JoinHandle<()>> {
        let running = self.running.take()?;
        let (job, recording, db) = (self.job.clone(), self.recording.take(), self.db.clone());
        Some(tokio::spawn(async move {
            // Closed, it holds nothing that could be asked about.
            let held = job.held().await;
            job.close().await;
            if let Some(recording) = recording {
                recording.end(held, ended).await;
            }
            // What a client has been told of must not be lost to a kill.
            db.hurry();
            drop(running);
        }))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Whoever has closed it has left nothing to be done.
        drop(self.end(Ended::Canceled));
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
    imports: &Imports,
) -> Result<SolveResponse, WireError> {
    let Checked { mut exporters, caches, provenance, sbom, ahead, .. } = checked;
    let started = Time::now();
    let mut result = result(daemon.producers(), bridge, build, request, returned).await?;
    if let Some(options) = sbom.filter(|_| !has_sbom(&result)) {
        Box::pin(scan(bridge, request, &options, &mut result)).await?;
    }
    let chooses = match request.enable_session_exporter && !request.session.is_empty() {
        true => Some(daemon.sessions().get(&request.session, SESSION_PATIENCE).await.map_err(wire_error)?),
        false => None,
    };
    if let Some(session) = &chooses {
        let chosen = |kind: &str, attrs: &BTreeMap<String, String>| exporter(request, kind, attrs);
        exporters.extend(client_exporters::find(session, &result, chosen).await?);
    }
    result.refs.iter().for_each(|tree| ahead.expect(tree.graph()));
    loop {
        let mut source = export::source(bridge, &result).await?;
        if let Some(options) = provenance.clone() {
            let run = Run::of(started.clone(), daemon.config().provenance_environment.clone());
            provenance::attach(&mut source, bridge, &build.conversation.asked, &result, options, &run)?;
        }
        let answer = frontend_response(&result);
        let exports = Exports {
            daemon,
            bridge,
            request,
            result: &result,
            source: &source,
            imports,
            ahead: &ahead,
            images: &build.images,
            lost: AtomicBool::new(false),
        };
        let worker = &daemon.host().worker;
        let outcome = worker.growing(exports.run(&exporters, &caches)).await.map_err(wire_error).flatten();
        let anew = match &outcome {
            Err(error) if exports.lost.load(Ordering::Acquire) => anew(&result, error).await?,
            _ => None,
        };
        match anew {
            Some(anew) => result = anew,
            None => {
                let mut exporter_response = outcome?;
                exporter_response.extend(answer);
                if let Some(session) = &chooses {
                    client_exporters::finalize(session, &exporter_response).await?;
                }
                return Ok(SolveResponse { exporter_response });
            }
        }
    }
}

/// The result once more, without imported caches whose layers turned out to be lost; `None` when there are none.
async fn anew(result: &FrontendResult, error: &WireError) -> Result<Option<FrontendResult>, WireError> {
    let mut anew = result.clone();
    let mut any = false;
    let trees: Vec<&mut Option<Arc<BuildRef>>> = match &mut anew.refs {
        Refs::Single(one) => vec![one],
        Refs::Map(many) => many.values_mut().collect(),
    };
    for tree in trees {
        let Some(old) = tree else { continue };
        if let Some(new) = old.anew(&error.message).await? {
            (*tree, any) = (Some(new), true);
        }
    }
    Ok(any.then_some(anew))
}

/// What works ahead of the exporters of a request.
fn ahead(daemon: &Daemon, exporters: &[Wanted], request: &SolveRequest) -> Result<Arc<Ahead>, WireError> {
    let exporters = exporters.iter().map(|wanted| &wanted.exporter).filter(|exporter| exporter.works_ahead());
    let exporters: Vec<Exporter> = exporters.cloned().collect();
    if exporters.is_empty() {
        return Ok(Ahead::none());
    }
    let store = daemon.host().worker.store().clone();
    let cx = Context {
        lease: Arc::new(store.lease().map_err(wire_error)?),
        store,
        client: None,
        reporter: Arc::new(Silent),
        registries: daemon.registries().clone(),
        auth: Auth::Group(Group::of(daemon.sessions().clone(), vec![request.session.clone()])),
        inline_cache: None,
    };
    Ok(Ahead::new(exporters, &cx))
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
    let attests = Attests::parse(&request.frontend_attrs)?;
    let provenance = attests.provenance.as_ref().map(ProvenanceOptions::parse).transpose();
    let bad = |error: kiln_exporter::Error| WireError::new(Code::InvalidArgument, error.to_string());
    let exporters = exporters(request)?;
    Ok(Checked {
        ahead: ahead(daemon, &exporters, request)?,
        exporters,
        caches: caches::exports_of(request)?,
        allowed: entitlements(daemon, &request.entitlements)?,
        provenance: provenance.map_err(bad)?,
        sbom: attests.sbom,
        policies,
    })
}

/// What a request comes to.
struct Checked {
    exporters: Vec<Wanted>,
    ahead: Arc<Ahead>,
    caches: Vec<ExportOptions>,
    allowed: Entitlements,
    provenance: Option<ProvenanceOptions>,
    sbom: Option<SbomOptions>,
    policies: Arc<SourcePolicies>,
}

/// What the client's frontend makes of the request, or the client itself.
async fn result(
    producers: &Producers,
    bridge: &Arc<Bridge>,
    build: &Build,
    request: &SolveRequest,
    returned: oneshot::Receiver<Result<FrontendResult, WireError>>,
) -> Result<FrontendResult, WireError> {
    // An empty definition is one too: that of the empty tree.
    let by_client = request.frontend.is_empty() && request.definition.is_none();
    if by_client {
        let gone = |_| WireError::new(Code::Cancelled, "the client ended the build without a result");
        return returned.await.map_err(gone)?;
    }
    let wanted = Request {
        definition: request.definition.clone(),
        frontend: request.frontend.clone(),
        attrs: request.frontend_attrs.clone(),
        inputs: request.frontend_inputs.clone(),
        imports: caches::imports_of(request),
        evaluate: false,
        policies: Vec::new(),
        depth: 0,
    };
    let asked = producers.request(bridge, &wanted.frontend, &wanted.attrs, &wanted.inputs);
    let result = bridge.solve(wanted).await?;
    producers.made(bridge, &asked, &result);
    build.conversation.asked.note(asked, &result);
    Ok(result)
}

/// Adds an SBOM for each tree of a result whose frontend has made none.
async fn scan(
    bridge: &Bridge,
    request: &SolveRequest,
    options: &SbomOptions,
    result: &mut FrontendResult,
) -> Result<(), WireError> {
    let scanner = Scanner::load(bridge, options).await?;
    // An empty value means all stages.
    let ignore_cache = request.frontend_attrs.get("no-cache").is_some_and(String::is_empty);
    for platform in export::platforms(result)? {
        // In the empty tree there is nothing to be found.
        let Some(tree) = result.refs.of(&platform.id) else { continue };
        let (core, extras) = (tree.definition(), &[][..]);
        let target = ScanTarget { platform: &platform.id, core, extras, ignore_cache };
        let made = scanner.scan(bridge, target).await?;
        result.attestations.entry(platform.id).or_default().attestation.push(made);
    }
    Ok(())
}

/// A name as a file's: clients choose names.
fn file_name(name: &str) -> String {
    let safe = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if safe && !name.is_empty() { name.to_owned() } else { Digest::sha256(name).hex().to_owned() }
}

/// What a request may hold that nothing here can do yet.
fn refuse_unsupported(request: &SolveRequest) -> Result<(), WireError> {
    let missing = [(request.proxy_network, "the proxy network")];
    match missing.into_iter().find(|(asked, _)| *asked) {
        Some((_, feature)) => {
            Err(WireError::new(Code::Unimplemented, format!("{feature}: not supported by this daemon yet")))
        }
        None => Ok(()),
    }
}

/// The kinds and options of the exporters that a request names.
fn asked_exporters(request: &SolveRequest) -> Vec<(&str, &BTreeMap<String, String>)> {
    let mut asked: Vec<_> = request.exporters.iter().map(|e| (e.r#type.as_str(), &e.attrs)).collect();
    if asked.is_empty() && !request.exporter_deprecated.is_empty() {
        asked.push((&request.exporter_deprecated, &request.exporter_attrs_deprecated));
    }
    asked
}

fn exporters(request: &SolveRequest) -> Result<Vec<Wanted>, WireError> {
    // Also where there is no exporter that it would change.
    Compatibility::parse(request.compatibility_version)?;
    asked_exporters(request).into_iter().map(|(kind, attrs)| exporter(request, kind, attrs)).collect()
}

/// One exporter of a request, with what the request says for all.
fn exporter(
    request: &SolveRequest,
    kind: &str,
    attrs: &BTreeMap<String, String>,
) -> Result<Wanted, WireError> {
    let mut attrs = attrs.clone();
    let ignored = attrs.extract_if(.., |key, _| key.starts_with("attest:")).map(|(key, _)| key).collect();
    // What is no number is the frontend's to understand or refuse: `context`, for one.
    let epoch = request.frontend_attrs.get("build-arg:SOURCE_DATE_EPOCH");
    let epoch = epoch.filter(|epoch| epoch.parse::<i64>().is_ok());
    let attested = request.frontend_attrs.keys().any(|name| name.starts_with("attest:"));
    Compatibility::parse(request.compatibility_version)?.apply(kind, attested, &mut attrs);
    if let Some(epoch) = epoch {
        attrs.entry("source-date-epoch".to_owned()).or_insert_with(|| epoch.clone());
    }
    Ok(Wanted { exporter: Exporter::new(kind, &attrs).map_err(wire_error)?, ignored })
}

/// An exporter that was asked for.
struct Wanted {
    exporter: Exporter,
    /// Options that BuildKit's clients may give to an exporter, where they mean nothing: attestations are a build's.
    ignored: Vec<String>,
}

impl Wanted {
    fn warning(&self) -> Option<String> {
        let ignored = self.ignored.join(", ");
        let says = || format!("{ignored} has no effect in an output: attestations are options of the build");
        (!ignored.is_empty()).then(says)
    }
}

fn entitlements(daemon: &Daemon, wanted: &[String]) -> Result<Entitlements, WireError> {
    let mut out = Entitlements::default();
    for name in wanted {
        out.add(name).map_err(|error| WireError::new(Code::InvalidArgument, error.to_string()))?;
    }
    let config = daemon.config();
    // Where devices are offered at all, it is the client who says which.
    let allowed = |e: &Entitlement| {
        config.entitlements.contains(e) || (*e == Entitlement::Device && config.devices.is_some())
    };
    match Entitlement::ALL.into_iter().find(|e| out.allow(*e) && !allowed(e)) {
        None => Ok(out),
        Some(refused) => {
            let why = match refused {
                Entitlement::Device => "this daemon offers no devices (cdi.disabled)",
                _ => "the daemon's insecure-entitlements do not list it",
            };
            let text = format!("entitlement {refused} is not allowed: {why}");
            Err(WireError::new(Code::PermissionDenied, text))
        }
    }
}

/// What goes out of a build.
struct Exports<'a> {
    daemon: &'a Daemon,
    bridge: &'a Arc<Bridge>,
    request: &'a SolveRequest,
    result: &'a FrontendResult,
    source: &'a Source,
    imports: &'a Imports,
    ahead: &'a Ahead,
    /// Where the images are noted that are made.
    images: &'a Mutex<BTreeMap<i64, Descriptor>>,
    /// Set when a layer of the result could not be had.
    lost: AtomicBool,
}

impl Exports<'_> {
    /// Runs the exporters. What they push, and the caches, are sent when all of them have come so far: both can be had
    /// again from the layers that are there then.
    async fn run(
        &self,
        exporters: &[Wanted],
        caches: &[ExportOptions],
    ) -> Result<BTreeMap<String, String>, WireError> {
        let warning = platforms::warning(&self.request.frontend_attrs, self.source);
        if exporters.is_empty() && warning.is_some() {
            let step = self.bridge.steps().start("verifying build result");
            warn(self.bridge, step.digest(), warning.clone());
        }
        if exporters.is_empty() && caches.is_empty() {
            return Ok(BTreeMap::new());
        }
        let session = match self.request.session.as_str() {
            "" => None,
            id => Some(self.daemon.sessions().get(id, SESSION_PATIENCE).await.map_err(wire_error)?),
        };
        let lease = Arc::new(self.daemon.host().worker.store().lease().map_err(wire_error)?);
        let inline = caches.iter().any(|cache| cache.place == Place::Inline);
        let inline = inline.then(|| Arc::new(Inline::new(self.result)) as Arc<dyn InlineCache>);
        let started = exporters.iter().enumerate().map(|(index, wanted)| {
            let exporter = &wanted.exporter;
            let step = self.bridge.steps().start(exporter.name());
            warn(self.bridge, step.digest(), wanted.warning());
            if index == 0 {
                warn(self.bridge, step.digest(), warning.clone());
            }
            let client = session.clone().map(|s| Arc::new(SessionClient::new(s, index)) as Arc<dyn Client>);
            let cx = Context { client, inline_cache: inline.clone(), ..self.context(&step, &lease) };
            Export { exporter, cx, step, lost: &self.lost }
        });
        let exported: Vec<_> = started.map(|export| export.run(self.source)).collect();
        let exported = futures::future::try_join_all(exported).await?;
        // What is on its way must not be sent twice.
        self.ahead.end().await;
        let images = exported.iter().zip(0..);
        let images = images.filter_map(|((_, exported), place)| Some((place, exported.descriptor.clone()?)));
        *self.images.lock().unwrap_or_else(PoisonError::into_inner) = images.collect();
        let responses: Vec<_> = exported.iter().map(|(_, exported)| exported.response.clone()).collect();
        let pushes =
            exported.into_iter().map(|(export, exported)| export.push(exported.push)).collect::<Vec<_>>();
        let written = caches.iter().filter(|cache| cache.place != Place::Inline).map(|cache| {
            let step = self.bridge.steps().start(cache.name());
            let (cx, session) = (self.context(&step, &lease), session.as_ref());
            let export = caches::Export {
                options: cache,
                cx,
                session,
                result: self.result,
                bridge: self.bridge,
                imports: self.imports,
            };
            async move { export.run(step).await }
        });
        let written: Vec<BoxFuture<'_, _>> = written.map(|one| Box::pin(one) as BoxFuture<'_, _>).collect();
        let (_, written) = futures::future::try_join(
            futures::future::try_join_all(pushes),
            futures::future::try_join_all(written),
        )
        .await?;
        Ok(export::merge(responses.into_iter().chain(written).collect()))
    }

    fn context(&self, step: &Step, lease: &Arc<Lease>) -> Context {
        Context {
            store: self.daemon.host().worker.store().clone(),
            lease: lease.clone(),
            client: None,
            reporter: Arc::new(ExportProgress::new(self.bridge.steps().clone(), step.digest().clone())),
            registries: self.daemon.registries().clone(),
            auth: Auth::Group(self.bridge.group()),
            inline_cache: None,
        }
    }
}

/// One exporter at work.
struct Export<'a> {
    exporter: &'a Exporter,
    cx: Context,
    step: Step,
    lost: &'a AtomicBool,
}

impl<'a> Export<'a> {
    /// Everything but what is pushed.
    fn run(self, source: &'a Source) -> BoxFuture<'a, Result<(Self, Exported), WireError>> {
        Box::pin(async move {
            match self.exporter.export(&self.cx, source).await {
                Ok(exported) => Ok((self, exported)),
                Err(error) => {
                    self.lost.fetch_or(error.is_lost_layer(), Ordering::AcqRel);
                    self.step.end(Some(error.to_string()));
                    Err(wire_error(error))
                }
            }
        })
    }

    fn push(self, push: Option<Push>) -> BoxFuture<'a, Result<(), WireError>> {
        Box::pin(async move {
            let pushed = match push {
                Some(push) => push.run(&self.cx).await,
                None => Ok(()),
            };
            let lost = pushed.as_ref().is_err_and(kiln_exporter::Error::is_lost_layer);
            self.lost.fetch_or(lost, Ordering::AcqRel);
            self.step.end(pushed.as_ref().err().map(ToString::to_string));
            pushed.map_err(wire_error)
        })
    }
}

/// Shows a warning at a step.
pub(crate) fn warn(bridge: &Bridge, step: &Digest, warning: Option<String>) {
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

/// What a frontend says to the client itself.
fn frontend_response(result: &FrontendResult) -> BTreeMap<String, String> {
    let own = result.metadata.iter().filter(|(key, _)| key.starts_with("frontend."));
    own.map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_of_an_output_are_told_to_have_no_effect() {
        let with = |option: &str| {
            let attrs = [(option.to_owned(), String::new())].into();
            exporter(&SolveRequest::default(), "image", &attrs)
        };
        let warning = with("attest:provenance").unwrap().warning().unwrap();
        assert!(warning.starts_with("attest:provenance has no effect"), "{warning}");
        assert!(with("push").unwrap().warning().is_none());
        assert!(with("attestation").is_err(), "any other is refused");
    }
}
