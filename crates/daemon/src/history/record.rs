//! The record of a build, made when it ends.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError},
    time::{Instant, SystemTime},
};

use kiln_engine::{Held, InputTrace, Outcome, Reason, Way};
use kiln_frontend::{Bridge, BuildRef};
use kiln_oci::{Descriptor, Digest};
use kiln_ops::Kiln;
use kiln_proto::{
    control::SolveRequest,
    history::{self, Build, Ending, Input, Step},
    rpc,
    status::WireError,
};
use tonic::Code;

use super::{
    History, Recorder, list,
    recorder::{Seen, VertexSeen},
    redact::{self, op, redact},
};
use crate::builds;

/// What exporters have answered that is longer than this is not kept.
const MAX_ANSWER: usize = 64 << 10;
/// On a disk with less room than this no logs are kept.
const LAST_ROOM: u64 = 16 << 20;
/// No more steps of a build are kept.
const MAX_STEPS: usize = 5000;

/// How a build ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// What the client was answered.
    Well(HashMap<String, String>),
    Badly(WireError),
    /// Its client left.
    Canceled,
}

impl Ended {
    /// The error with all that is known of it.
    fn details(&self) -> Option<rpc::Status> {
        let Self::Badly(error) = self else { return None };
        Some(redact::error(error).to_rpc())
    }
}

/// What is to be made of a result, by kinds and options.
pub(crate) fn exports(asked: &[(&str, &BTreeMap<String, String>)]) -> Vec<history::Export> {
    let export = |(kind, attrs): &(&str, &BTreeMap<String, String>)| history::Export {
        r#type: (*kind).to_owned(),
        attrs: attrs.iter().map(|(key, value)| (key.clone(), redact(value).into_owned())).collect(),
    };
    asked.iter().map(export).collect()
}

/// A build that is to be recorded when it ends.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) history: History,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) build: Arc<builds::Build>,
    pub(crate) reference: String,
    pub(crate) started: SystemTime,
    /// What is to be made of the result.
    pub(crate) exports: Vec<history::Export>,
}

impl Recording {
    /// Tells whoever listens that the build is under way.
    pub(crate) fn begin(&self, request: &SolveRequest) {
        let told = request.frontend_attrs.iter().filter(|(key, _)| is_kept(key) || is_note(key));
        let build = Build {
            r#ref: self.reference.clone(),
            started: Some(self.started.into()),
            frontend: request.frontend.clone(),
            attrs: told.map(|(key, value)| (key.clone(), redact(value).into_owned())).collect(),
            exports: self.exports.clone(),
            ..Build::default()
        };
        self.history.live().begin(list::record(&build, false));
    }

    /// Writes the record of a build whose job is closed and `held` these vertices. That it cannot is no reason to fail a build.
    pub(crate) async fn end(self, held: Vec<Held<Kiln>>, ended: Ended) {
        let begun = Instant::now();
        let (history, reference) = (self.history.clone(), self.reference.clone());
        let written = tokio::task::spawn_blocking(move || {
            let seen = self.recorder.take();
            let wanted = !self.history.live().is_unwanted(&self.reference);
            let details = ended.details();
            let Some(mut build) = self.record(&seen, &held, ended).filter(|_| wanted) else {
                return Ok(None);
            };
            if let Err(error) = self.history.save_files(&seen.contents) {
                tracing::warn!(%error, "lists of files are missing in the record of a build");
            }
            // What is left of a disk that is full is for the records of the store, so that something can be removed at all.
            let is_full = self.bridge.host().worker.free_space().is_ok_and(|free| free < LAST_ROOM);
            let kept = match is_full {
                true => self.history.give_room(),
                false => self.history.save_log(&build, self.build.log.path()),
            };
            if let Err(error) = kept {
                tracing::warn!(%error, "no log is kept of a build");
            }
            let details = details.filter(|_| !is_full);
            if let Some(Err(error)) = details.map(|details| self.history.save_error(&mut build, &details)) {
                tracing::warn!(%error, "the details of a build's error are not kept");
            }
            self.history.save(&build).map(|()| Some(list::record(&build, false)))
        });
        let written = written.await.map_err(std::io::Error::other).flatten();
        match &written {
            Ok(_) => tracing::debug!(took = ?begun.elapsed(), "recorded a build"),
            Err(error) => tracing::warn!(%error, "no record is kept of a build"),
        }
        // Whatever came of it, the build is not under way any more.
        history.live().end(&reference, written.ok().flatten());
        // Nobody waits for that.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = history.trim() {
                tracing::warn!(%error, "too much may be kept of builds");
            }
        }));
    }

    /// The record; `None` for what builds nothing: a frontend that was asked a question.
    fn record(&self, seen: &Seen, held: &[Held<Kiln>], ended: Ended) -> Option<Build> {
        let none = (String::new(), Default::default());
        let (frontend, attrs) = self.build.conversation.asked.first().unwrap_or(&none);
        if attrs.contains_key("requestid") {
            return None;
        }
        let part = |kept: fn(&str) -> bool| {
            let kept = attrs.iter().filter(move |(key, _)| kept(key));
            kept.map(|(key, value)| (key.clone(), redact(value).into_owned())).collect()
        };
        let (notes, attrs) = (part(is_note), part(is_kept));
        let nothing = HashMap::new();
        let (outcome, error, code, response) = match ended {
            Ended::Well(response) => (history::Outcome::Succeeded, String::new(), Code::Ok, response),
            Ended::Badly(error) if error.message.ends_with("context canceled") => {
                (history::Outcome::Canceled, String::new(), Code::Cancelled, nothing)
            }
            Ended::Badly(error) => {
                (history::Outcome::Failed, redact(&error.message).into_owned(), error.code, nothing)
            }
            Ended::Canceled => (history::Outcome::Canceled, String::new(), Code::Cancelled, nothing),
        };
        let response = response.into_iter().filter(|(_, value)| value.len() <= MAX_ANSWER);
        let response = response.map(|(key, value)| (key, redact(&value).into_owned())).collect();
        let mut steps = self.steps(seen, held);
        let truncated = steps.len() > MAX_STEPS;
        steps.truncate(MAX_STEPS);
        Some(Build {
            r#ref: self.reference.clone(),
            started: Some(self.started.into()),
            ended: Some(SystemTime::now().into()),
            outcome: outcome.into(),
            error,
            project: kiln_why::lineage::project(self.recorder.shared_key(), frontend, &attrs),
            frontend: frontend.clone(),
            attrs,
            steps,
            truncated,
            exports: self.exports.clone(),
            response,
            code: code.into(),
            warnings: i32::try_from(seen.warnings).unwrap_or(i32::MAX),
            notes,
            images: self.images(),
            ..Build::default()
        })
    }

    /// What exporters have made.
    fn images(&self) -> BTreeMap<i64, history::Image> {
        let images = self.build.images.lock().unwrap_or_else(PoisonError::into_inner);
        let image = |image: &Descriptor| history::Image {
            media_type: image.media_type.to_string(),
            digest: image.digest.to_string(),
            size: i64::try_from(image.size).unwrap_or(i64::MAX),
        };
        images.iter().map(|(place, descriptor)| (*place, image(descriptor))).collect()
    }

    /// The steps of all definitions, each once, after those that they take.
    fn steps(&self, seen: &Seen, held: &[Held<Kiln>]) -> Vec<Step> {
        let held: HashMap<Digest, &Held<Kiln>> =
            held.iter().map(|h| (h.vertex().digest().clone(), h)).collect();
        let mut refs = self.bridge.refs();
        let name = |one: &Arc<BuildRef>| {
            let root = one.graph().get(&one.graph().root().vertex);
            root.map(|vertex| vertex.name().to_owned())
        };
        refs.sort_by_cached_key(name);
        let mut known = std::collections::HashSet::new();
        let mut steps = Vec::new();
        for one in &refs {
            let graph = one.graph();
            for vertex in graph.vertices().iter().filter(|vertex| known.insert(vertex.digest.clone())) {
                let mut step =
                    step(seen.vertices.get(&vertex.digest), held.get(&vertex.digest).copied(), vertex);
                let place = vertex.locations.locations.first().and_then(|place| {
                    let source = graph.sources().get(usize::try_from(place.source_index).ok()?)?;
                    Some((source.filename.clone(), place.ranges.iter().next()?.start?.line))
                });
                (step.file, step.line) = place.unwrap_or_default();
                steps.push(step);
            }
        }
        steps
    }
}

/// Options that belong to a list of builds.
fn is_note(key: &str) -> bool {
    ["vcs:", "label:", "attest:"].iter().any(|kind| key.starts_with(kind)) || key == "cmdline"
}

/// What of a frontend's options says what is built. Others (caches, attestations) may hold credentials.
fn is_kept(key: &str) -> bool {
    const NAMES: [&str; 13] = [
        "add-hosts",
        "cgroup-parent",
        "context",
        "contextkey",
        "dockerfilekey",
        "filename",
        "force-network-mode",
        "hostname",
        "no-cache",
        "platform",
        "shm-size",
        "source",
        "target",
    ];
    // Proxies are in no key, and often hold passwords.
    let argument = key.strip_prefix("build-arg:").map(str::to_lowercase);
    let argument = argument.is_some_and(|name| !name.ends_with("_proxy"));
    NAMES.contains(&key) || argument || key.starts_with("context:")
}

fn step(seen: Option<&VertexSeen>, held: Option<&Held<Kiln>>, vertex: &kiln_llb::Vertex) -> Step {
    let event = seen.and_then(|seen| seen.event.as_ref());
    let decision = seen.and_then(|seen| seen.decision.as_ref());
    let edge = held.and_then(|held| held.edges.first());
    let found = held.is_some_and(|held| held.edges.iter().any(|edge| edge.found));
    let inputs = decision.map(|d| d.inputs.as_slice()).filter(|inputs| !inputs.is_empty());
    let inputs = inputs.or(edge.map(|edge| edge.inputs.as_slice())).unwrap_or_default();
    let maps = held.map(|held| held.vertex().cache_maps()).unwrap_or_default();
    let pin = maps.iter().rev().flat_map(|map| &map.materials).find(|m| !m.pin.is_empty());
    let is_source = vertex.inputs.is_empty();
    let mut step = Step {
        digest: vertex.digest.to_string(),
        name: redact(vertex.name()).into_owned(),
        op: op(vertex),
        ignore_cache: vertex.metadata.ignore_cache,
        started: event.and_then(|e| e.started).map(Into::into),
        completed: event.and_then(|e| e.completed).map(Into::into),
        ending: ending(seen, found && !is_source).into(),
        error: event.and_then(|e| e.error.as_deref()).map(|e| redact(e).into_owned()).unwrap_or_default(),
        keys: maps.iter().map(|map| map.digest.to_string()).collect(),
        inputs: inputs.iter().map(input).collect(),
        pin: pin.map(|m| m.pin.clone()).unwrap_or_default(),
        by_content: inputs.iter().any(|input| input.content.is_some()),
        lost: seen.and_then(|seen| seen.lost.as_deref()).map(|e| redact(e).into_owned()).unwrap_or_default(),
        ..Step::default()
    };
    match decision.map(|d| &d.outcome) {
        Some(Outcome::Run(reason)) => {
            let (reason, barren) = match reason {
                Reason::IgnoreCache => (history::Reason::IgnoreCache, 0),
                Reason::NoMatch { input } => (history::Reason::NoMatch, *input),
                Reason::NoCommonKey => (history::Reason::NoCommonKey, 0),
                Reason::UnknownDigest => (history::Reason::UnknownDigest, 0),
                Reason::NoResult => (history::Reason::NoResult, 0),
            };
            step.reason = reason.into();
            step.barren_input = i32::try_from(barren).unwrap_or(i32::MAX);
        }
        Some(Outcome::Load { way, store, .. }) => {
            step.store = store.to_string();
            step.by_content = *way == Way::Content;
        }
        Some(Outcome::Join(other)) => step.joined = other.to_string(),
        Some(Outcome::Gone { .. }) | None => {}
    }
    step
}

fn input(trace: &InputTrace) -> Input {
    Input {
        selector: trace.selector.as_ref().map(ToString::to_string).unwrap_or_default(),
        content: trace.content.as_ref().map(ToString::to_string).unwrap_or_default(),
        matches: u32::try_from(trace.matches).unwrap_or(u32::MAX),
    }
}

/// How a step ended; `found` says whether a key of it was found.
fn ending(seen: Option<&VertexSeen>, found: bool) -> Ending {
    let Some(seen) = seen else { return Ending::Pending };
    let event = seen.event.as_ref();
    let error = event.and_then(|e| e.error.as_deref());
    if let Some(error) = error {
        return if error.ends_with("context canceled") { Ending::StepCanceled } else { Ending::StepFailed };
    }
    let over = event.is_some_and(|e| e.completed.is_some());
    match seen.decision.as_ref().map(|d| &d.outcome) {
        Some(Outcome::Run(_)) if over => Ending::Ran,
        Some(Outcome::Load { .. }) if over => Ending::Cached,
        Some(Outcome::Join(_)) if over => Ending::Joined,
        Some(_) if event.is_some_and(|e| e.started.is_some()) => Ending::StepCanceled,
        Some(_) => Ending::Pending,
        None if found => Ending::Cached,
        None if event.is_some_and(|e| e.cached) => Ending::Unneeded,
        None if over => Ending::Resolved,
        None => Ending::Pending,
    }
}
