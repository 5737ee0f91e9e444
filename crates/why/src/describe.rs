//! What a record says by itself, in the answer's words.

use kiln_oci::Time;
use kiln_proto::history::{self, Build, Ending, Step};

use crate::{BuildInfo, Change, Counts, Difference, FoundBy, Kind, Outcome, Place, Status, StepAnswer};

pub(crate) fn plain(kind: Kind, name: String, change: Change, input: Option<usize>) -> Difference {
    Difference { kind, name, change, before: None, after: None, build_arg: None, input }
}

pub(crate) fn unfinished(step: &Step) -> &'static str {
    match step.ending() {
        Ending::StepFailed => "it failed in that build",
        Ending::StepCanceled => "it was stopped in that build",
        _ => "that build ended before it",
    }
}

pub(crate) fn blank(step: &Step, number: Option<usize>) -> StepAnswer {
    let status = match step.ending() {
        Ending::Pending => Status::Pending,
        Ending::Ran => Status::Ran,
        Ending::Cached => Status::Cached,
        Ending::Unneeded => Status::Unneeded,
        Ending::Resolved => Status::Resolved,
        Ending::Joined => Status::Joined,
        Ending::StepFailed => Status::Failed,
        Ending::StepCanceled => Status::Canceled,
    };
    let found_by = (status == Status::Cached).then_some(if step.by_content {
        FoundBy::Content
    } else {
        FoundBy::Definition
    });
    let seconds = step.started.zip(step.completed).map(|(from, to)| {
        let nanos = i64::from(to.nanos - from.nanos);
        // Microseconds are exact enough, and survive being written.
        #[expect(clippy::cast_precision_loss, reason = "no step takes that long")]
        let seconds = (((to.seconds - from.seconds) * 1_000_000 + nanos / 1000).max(0)) as f64 / 1e6;
        seconds
    });
    StepAnswer {
        number,
        name: step.name.clone(),
        digest: step.digest.clone(),
        source: (step.line > 0).then(|| Place { file: step.file.clone(), line: step.line }),
        status,
        error: step.error.clone(),
        seconds: seconds.filter(|_| matches!(status, Status::Ran | Status::Failed | Status::Canceled)),
        found_by,
        store: step.store.clone(),
        cause: None,
        detail: String::new(),
        compared_with: None,
        differences: Vec::new(),
        more_files: 0,
        files_incomplete: false,
        follows: Vec::new(),
        roots: Vec::new(),
        removed_since: None,
        key: None,
    }
}

pub(crate) fn info(build: &Build) -> BuildInfo {
    BuildInfo {
        reference: build.r#ref.clone(),
        started: time(build.started),
        ended: time(build.ended),
        outcome: match build.outcome() {
            history::Outcome::Succeeded => Outcome::Succeeded,
            history::Outcome::Failed => Outcome::Failed,
            history::Outcome::Canceled => Outcome::Canceled,
        },
        error: build.error.clone(),
    }
}

pub(crate) fn time(time: Option<prost_types::Timestamp>) -> String {
    time.map(|t| Time::from_unix(t.seconds).as_str().to_owned()).unwrap_or_default()
}

/// How many steps ended how.
pub(crate) fn counts(steps: &[StepAnswer]) -> Counts {
    let mut counts = Counts::default();
    for step in steps.iter().filter(|step| step.number.is_some()) {
        match step.status {
            Status::Ran | Status::Failed | Status::Canceled => counts.ran += 1,
            Status::Cached => counts.cached += 1,
            Status::Unneeded | Status::Resolved => counts.unneeded += 1,
            Status::Joined | Status::Pending => {}
        }
    }
    counts
}
