//! Lists of builds, as clients of the control service ask for them.

use std::{borrow::Cow, pin::Pin, time::SystemTime};

use futures::Stream;
use kiln_proto::{
    control::{
        BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, BuildResultInfo,
        Descriptor, Exporter, UpdateBuildHistoryRequest,
    },
    history::{Build, Ending, Image, Outcome},
    rpc,
};
use kiln_worker::Filter;
use prost_types::Timestamp;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{History, keep::name_of};
use crate::config::parse_duration;

type Events = Pin<Box<dyn Stream<Item = Result<BuildHistoryEvent, Status>> + Send>>;

/// Events that wait for a client.
const QUEUE: usize = 16;
/// The media type of errors with their details, spelled as clients know it.
const STATUS: &str = "application/vnd.googeapis.google.rpc.status+proto";
const NANOS: i128 = 1_000_000_000;

/// A build as clients are told of it.
pub(super) fn record(build: &Build, pinned: bool) -> BuildHistoryRecord {
    let ending = |wanted: &[Ending]| {
        let count = build.steps.iter().filter(|step| wanted.contains(&step.ending())).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    let cached = [Ending::Cached, Ending::Unneeded];
    let over = [Ending::Ran, Ending::Cached, Ending::Unneeded, Ending::Resolved, Ending::Joined];
    let error = (build.outcome() != Outcome::Succeeded).then(|| rpc::Status {
        code: build.code,
        message: match build.outcome() {
            Outcome::Canceled => "context canceled".into(),
            _ => build.error.clone(),
        },
        details: Vec::new(),
    });
    let export = |export: &kiln_proto::history::Export| Exporter {
        r#type: export.r#type.clone(),
        attrs: export.attrs.clone(),
    };
    BuildHistoryRecord {
        r#ref: build.r#ref.clone(),
        frontend: build.frontend.clone(),
        frontend_attrs: build.attrs.iter().chain(&build.notes).map(|(k, v)| (k.clone(), v.clone())).collect(),
        exporters: build.exports.iter().map(export).collect(),
        error,
        created_at: build.started,
        completed_at: build.ended,
        exporter_response: build.response.clone(),
        // Clients look into it without a look whether it is there.
        result: (build.ended.is_some() && build.outcome() == Outcome::Succeeded).then(|| BuildResultInfo {
            result_deprecated: build.images.get(&0).map(image),
            results: build.images.iter().map(|(place, made)| (*place, image(made))).collect(),
            ..BuildResultInfo::default()
        }),
        external_error: Some(&build.error_digest).filter(|digest| !digest.is_empty()).map(|digest| {
            Descriptor {
                media_type: STATUS.into(),
                digest: digest.clone(),
                size: build.error_size,
                ..Descriptor::default()
            }
        }),
        pinned,
        num_cached_steps: ending(&cached),
        num_total_steps: i32::try_from(build.steps.len()).unwrap_or(i32::MAX),
        num_completed_steps: ending(&over),
        num_warnings: build.warnings,
        ..BuildHistoryRecord::default()
    }
}

fn image(made: &Image) -> Descriptor {
    let (media_type, digest) = (made.media_type.clone(), made.digest.clone());
    Descriptor { media_type, digest, size: made.size, ..Descriptor::default() }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("reading the records of builds: {error}"))
}

/// What there is, and then what happens.
///
/// # Errors
/// `InvalidArgument` for a filter or a limit that makes no sense.
pub(crate) async fn listen(history: &History, request: BuildHistoryRequest) -> Result<Events, Status> {
    let wanted = Wanted::parse(&request)?;
    let turn = history.turns().take().await?;
    // First, so that nothing that happens meanwhile is missed.
    let (active, mut events) = history.live().listen();
    let mut told: Vec<BuildHistoryEvent> = Vec::new();
    let event =
        |kind: BuildHistoryEventType, record| BuildHistoryEvent { r#type: kind.into(), record: Some(record) };
    let active = active.into_iter().filter(|record| wanted.is_of(record));
    told.extend(active.map(|record| event(BuildHistoryEventType::Started, record)));
    if !request.active_only {
        let history = history.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let kept = stored(&history);
            drop(turn);
            kept
        });
        let mut kept = kept.await.map_err(failed)?.map_err(failed)?;
        kept.retain(|record| wanted.is_of(record) && wanted.fits(record));
        if let Some(limit) = wanted.limit {
            kept.truncate(limit);
        }
        told.extend(kept.into_iter().map(|record| event(BuildHistoryEventType::Complete, record)));
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        for event in told {
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if request.early_exit {
            return;
        }
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = sender.closed() => return,
            };
            let message = match event {
                Ok(event) if event.record.as_ref().is_some_and(|record| wanted.is_of(record)) => Ok(event),
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
                Err(broadcast::error::RecvError::Lagged(_)) => Err(Status::data_loss(
                    "the client reads too slowly: events of builds were dropped; list them anew",
                )),
            };
            let over = message.is_err();
            if sender.send(message).await.is_err() || over {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// The records that are kept, the latest first.
fn stored(history: &History) -> std::io::Result<Vec<BuildHistoryRecord>> {
    let pinned = history.pinned()?;
    let (builds, problems) = history.builds()?;
    for problem in problems {
        tracing::warn!("{problem}");
    }
    Ok(builds.iter().map(|build| record(build, pinned.contains(&name_of(build)))).collect())
}

/// Pins a build, or forgets it.
///
/// # Errors
/// `NotFound` for a build of which there is no record, `FailedPrecondition` to pin one that is under way.
pub(crate) async fn update(history: &History, request: UpdateBuildHistoryRequest) -> Result<(), Status> {
    let reference = request.r#ref.clone();
    if history.live().is_active(&reference) {
        if request.finalize {
            // There is nothing to be waited for: what a build leaves is written when it ends.
            return Ok(());
        }
        if request.delete {
            history.live().forget(&reference);
            return Ok(());
        }
        return Err(Status::failed_precondition(format!(
            "build {reference} is running: it can be pinned when it has ended"
        )));
    }
    let history = history.clone();
    let done = tokio::task::spawn_blocking(move || {
        let Some((name, build)) = history.find(&reference)? else { return Ok(false) };
        if request.finalize && !request.delete {
            return Ok(true);
        }
        let pinned = history.pinned()?.contains(&name);
        let (kind, pins) = if request.delete {
            history.forget(&name)?;
            (BuildHistoryEventType::Deleted, pinned)
        } else if pinned == request.pinned {
            return Ok(true);
        } else {
            history.pin(&name, request.pinned)?;
            (BuildHistoryEventType::Complete, request.pinned)
        };
        history.live().tell(kind, record(&build, pins));
        Ok::<_, std::io::Error>(true)
    });
    match done.await.map_err(failed)?.map_err(failed)? {
        true => Ok(()),
        false => Err(Status::not_found(format!("no record of build {} is kept", request.r#ref))),
    }
}

/// Which builds a client wants to hear of.
struct Wanted {
    reference: String,
    /// Any of these; all if there are none.
    filters: Vec<Vec<Term>>,
    limit: Option<usize>,
}

/// A part of a filter.
enum Term {
    /// Of containerd's kind.
    Field(Filter),
    Time(TimeTerm),
}

/// `startedAt>=2h`, `completedAt<2026-01-02T03:04:05Z`, `duration>1m`. Times in nanoseconds, since 1970 or as they last.
struct TimeTerm {
    field: &'static str,
    /// What the value may be beside the bound.
    less: bool,
    or_equal: bool,
    bound: i128,
}

impl Wanted {
    fn parse(request: &BuildHistoryRequest) -> Result<Self, Status> {
        let limit = usize::try_from(request.limit)
            .map_err(|_| Status::invalid_argument(format!("limit {}: want 0 or more", request.limit)))?;
        let now = since_1970(&SystemTime::now().into());
        let filters = request.filter.iter().filter(|filter| !filter.is_empty());
        let filters = filters.map(|filter| {
            let terms = terms_of(filter).into_iter().map(|term| Term::parse(term, now));
            let terms: Result<Vec<_>, _> = terms.collect();
            terms.map_err(|problem| Status::invalid_argument(format!("filter {filter:?}: {problem}")))
        });
        Ok(Self {
            reference: request.r#ref.clone(),
            filters: filters.collect::<Result<_, _>>()?,
            limit: Some(limit).filter(|limit| *limit > 0),
        })
    }

    fn is_of(&self, record: &BuildHistoryRecord) -> bool {
        self.reference.is_empty() || record.r#ref == self.reference
    }

    fn fits(&self, record: &BuildHistoryRecord) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|all| all.iter().all(|term| term.fits(record)))
    }
}

impl Term {
    fn parse(text: &str, now: i128) -> Result<Self, String> {
        for field in ["startedAt", "completedAt", "duration"] {
            let Some(rest) = text.strip_prefix(field) else { continue };
            let (less, rest) = match (rest.strip_prefix('<'), rest.strip_prefix('>')) {
                (Some(rest), _) => (true, rest),
                (_, Some(rest)) => (false, rest),
                _ => return Err(format!("{field} is compared by <, <=, > or >=")),
            };
            let (or_equal, value) = rest.strip_prefix('=').map_or((false, rest), |value| (true, value));
            let length =
                parse_duration(value).map(|length| i128::try_from(length.as_nanos()).unwrap_or(i128::MAX));
            let bound = match (length, field) {
                (Ok(length), "duration") => length,
                (Ok(ago), _) => now - ago,
                (Err(_), "duration") => return Err(format!("invalid duration {value}")),
                (Err(_), _) => value.parse::<Timestamp>().map(|time| since_1970(&time)).map_err(|_| {
                    format!("invalid time {value}: want a duration such as 2h, or 2026-01-02T03:04:05Z")
                })?,
            };
            return Ok(Self::Time(TimeTerm { field, less, or_equal, bound }));
        }
        Filter::parse(&[text]).map(Self::Field).map_err(|error| error.to_string())
    }

    fn fits(&self, record: &BuildHistoryRecord) -> bool {
        match self {
            Self::Field(filter) => filter.matches(|path| match path {
                [field] if field == "ref" => (Cow::Owned(record.r#ref.clone()), true),
                [field] if field == "status" => (Cow::Borrowed(status(record)), true),
                [field] if field == "repository" => match record.frontend_attrs.get("vcs:source") {
                    Some(source) => (Cow::Owned(source.clone()), true),
                    None => ("".into(), false),
                },
                _ => ("".into(), false),
            }),
            Self::Time(term) => term.fits(record),
        }
    }
}

impl TimeTerm {
    fn fits(&self, record: &BuildHistoryRecord) -> bool {
        let [began, ended] =
            [record.created_at, record.completed_at].map(|time| time.map(|time| since_1970(&time)));
        let value = match self.field {
            "startedAt" => began,
            "completedAt" => ended,
            _ => began.zip(ended).map(|(began, ended)| ended - began),
        };
        value.is_some_and(|value| match self.less {
            _ if value == self.bound => self.or_equal,
            true => value < self.bound,
            false => value > self.bound,
        })
    }
}

/// How a build is doing, in the words of filters.
fn status(record: &BuildHistoryRecord) -> &'static str {
    match (&record.completed_at, &record.error) {
        (None, _) => "running",
        (_, None) => "completed",
        (_, Some(error)) if error.code == i32::from(Code::Cancelled) => "canceled",
        _ => "error",
    }
}

fn since_1970(time: &Timestamp) -> i128 {
    i128::from(time.seconds) * NANOS + i128::from(time.nanos)
}

/// The terms of a filter, which commas outside quotes part.
fn terms_of(filter: &str) -> Vec<&str> {
    let mut quoted = false;
    let parts = filter.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(reference: &str, started: i64, ended: i64) -> BuildHistoryRecord {
        let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
        BuildHistoryRecord {
            r#ref: reference.into(),
            created_at: time(started),
            completed_at: time(ended),
            ..BuildHistoryRecord::default()
        }
    }

    fn fits(filters: &[&str], record: &BuildHistoryRecord) -> bool {
        let filter = filters.iter().map(|filter| (*filter).to_owned()).collect();
        Wanted::parse(&BuildHistoryRequest { filter, ..Default::default() }).unwrap().fits(record)
    }

    #[test]
    fn filters_choose_by_field_and_time() {
        let mut well = build("abc", 1_000_000_000, 1_000_000_090);
        well.frontend_attrs.insert("vcs:source".into(), "https://host/r.git".into());
        let code = Code::Unknown.into();
        let failed = BuildHistoryRecord {
            error: Some(rpc::Status { code, ..Default::default() }),
            ..build("abd", 1_000_000_000, 1_000_000_010)
        };
        for (filters, of_well, of_failed) in [
            (&[][..], true, true),
            (&["status==completed"], true, false),
            (&["status==error"], false, true),
            (&["status==error", "status==completed"], true, true),
            (&["ref~=^ab,status!=error"], true, false),
            (&["repository==https://host/r.git"], true, false),
            (&["duration>1m"], true, false),
            (&["duration<=10s"], false, true),
            (&["duration<10s"], false, false),
            (&["startedAt>2001-01-01T00:00:00Z"], true, true),
            (&["completedAt<2001-01-01T00:00:00Z"], false, false),
            // Ages.
            (&["startedAt<1h"], true, true),
            (&["startedAt>1h30m"], false, false),
            (&["ref~=\"^ab{1,2}c\",duration>1m"], true, false),
        ] {
            assert_eq!((fits(filters, &well), fits(filters, &failed)), (of_well, of_failed), "{filters:?}");
        }
        let wrong = |filter: &str| {
            let request = BuildHistoryRequest { filter: vec![filter.into()], ..Default::default() };
            Wanted::parse(&request).err().unwrap().message().to_owned()
        };
        assert!(wrong("startedAt==2h").contains("compared by"));
        assert!(wrong("duration>soon").contains("invalid duration soon"));
        assert!(wrong("completedAt>soon").contains("invalid time soon"));
        assert!(wrong("ref~=(").starts_with("filter \"ref~=(\""));
        assert!(Wanted::parse(&BuildHistoryRequest { limit: -1, ..Default::default() }).is_err());
    }
}
