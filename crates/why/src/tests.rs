//! Builds of one Dockerfile that differ in one thing each.

use std::collections::BTreeMap;

use kiln_oci::Digest;
use kiln_proto::{
    history::{Build, Ending, File, Files, Input, Reason, Step},
    pb,
};
use prost::Message as _;

use crate::{Answer, Cause, Change, Kind, NoStep, StepAnswer, explain, facts};

/// A build of `FROM`, `COPY` of a context and `RUN`.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) reference: &'static str,
    pub(crate) at: i64,
    pub(crate) image: &'static str,
    pub(crate) content: &'static str,
    pub(crate) command: &'static str,
    pub(crate) env: &'static str,
    pub(crate) mounts: Vec<pb::Mount>,
    pub(crate) attrs: Vec<(&'static str, &'static str)>,
    /// How image, copy and run ended, and why they ran.
    pub(crate) ended: [(Ending, Reason); 3],
    pub(crate) extra: Option<&'static str>,
}

const RAN: (Ending, Reason) = (Ending::Ran, Reason::NoMatch);
const CACHED: (Ending, Reason) = (Ending::Cached, Reason::None);

pub(crate) fn scene(reference: &'static str, at: i64) -> Scene {
    Scene {
        reference,
        at,
        image: "sha256:1",
        content: "c1",
        command: "make",
        env: "V=1",
        mounts: Vec::new(),
        attrs: Vec::new(),
        ended: [(Ending::Resolved, Reason::None), RAN, RAN],
        extra: None,
    }
}

impl Scene {
    pub(crate) fn build(&self) -> Build {
        let mut steps = Vec::new();
        let image = self.source("docker-image://x/base:1", self.image);
        steps.push(self.step("[1/3] FROM x/base:1", image, &[], self.ended[0]));
        let local = self.source("local://context", "");
        let mut local =
            self.step("[internal] load build context", local, &[], (Ending::Ran, Reason::UnknownDigest));
        // A session's own, every time another.
        local.keys = vec![format!("random:{}", self.reference)];
        steps.push(local);
        let copy =
            pb::FileActionCopy { src: "/".into(), dest: "/src".into(), ..pb::FileActionCopy::default() };
        let action = Some(pb::file_action::Action::Copy(copy));
        let file = pb::FileOp { actions: vec![pb::FileAction { action, ..pb::FileAction::default() }] };
        let copy = pb::op::Op::File(file);
        let copy = self.step(
            "[2/3] COPY . /src",
            copy,
            &[(&steps[0], ""), (&steps[1], self.content)],
            self.ended[1],
        );
        steps.push(copy);
        let mut before = 2;
        if let Some(command) = self.extra {
            let extra =
                self.step(&format!("[3/4] RUN {command}"), self.exec(command), &[(&steps[2], "")], RAN);
            steps.push(extra);
            before = 3;
        }
        let name = format!("[3/3] RUN {}", self.command);
        let run = self.step(&name, self.exec(self.command), &[(&steps[before], "")], self.ended[2]);
        steps.push(run);
        let attrs = self.attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        Build {
            r#ref: self.reference.into(),
            started: time(self.at),
            ended: time(self.at + 1),
            project: "p".into(),
            frontend: "dockerfile.v0".into(),
            attrs: attrs.collect::<BTreeMap<_, _>>(),
            steps,
            ..Build::default()
        }
    }

    fn source(&self, identifier: &str, digest: &str) -> pb::op::Op {
        let identifier =
            if digest.is_empty() { identifier.to_owned() } else { format!("{identifier}@{digest}") };
        pb::op::Op::Source(pb::SourceOp { identifier, ..pb::SourceOp::default() })
    }

    fn exec(&self, command: &str) -> pb::op::Op {
        let args = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
        let meta = pb::Meta { args, env: vec![self.env.into()], ..pb::Meta::default() };
        pb::op::Op::Exec(pb::ExecOp {
            meta: Some(meta),
            mounts: self.mounts.clone(),
            ..pb::ExecOp::default()
        })
    }

    fn step(&self, name: &str, op: pb::op::Op, inputs: &[(&Step, &str)], ended: (Ending, Reason)) -> Step {
        let parents = inputs.iter().map(|(step, _)| pb::Input { digest: step.digest.clone(), index: 0 });
        let op = pb::Op { inputs: parents.collect(), op: Some(op), ..pb::Op::default() };
        let known =
            inputs.iter().map(|(_, content)| Input { content: (*content).into(), ..Input::default() });
        Step {
            digest: format!("{} {}", self.reference, name),
            name: name.into(),
            keys: vec![Digest::sha256(format!("{:?}", facts(&op, ""))).to_string()],
            op: op.encode_to_vec().into(),
            ending: ended.0.into(),
            reason: ended.1.into(),
            store: if ended == CACHED { "local".into() } else { String::new() },
            inputs: known.collect(),
            ..Step::default()
        }
    }
}

/// The files behind `c1` and `c2`.
fn files(content: &str) -> Option<Files> {
    let files = |all: &[(&str, u64)]| Files {
        files: all.iter().map(|(path, sum)| File { path: (*path).into(), sum: *sum }).collect(),
        truncated: false,
    };
    match content {
        "c1" => Some(files(&[("a", 1), ("b", 1)])),
        "c2" => Some(files(&[("a", 2), ("c", 1)])),
        _ => None,
    }
}

pub(crate) fn why(now: &Scene, earlier: &[Scene]) -> Answer {
    explain(now.build(), earlier.iter().map(Scene::build).collect(), "", &files).unwrap()
}

fn step<'a>(answer: &'a Answer, name: &str) -> &'a StepAnswer {
    answer.steps.iter().find(|step| step.name.contains(name)).unwrap()
}

type Shown<'a> = (Kind, &'a str, Change, Option<&'a str>, Option<&'a str>);

fn shown(step: &StepAnswer) -> Vec<Shown<'_>> {
    step.differences
        .iter()
        .map(|d| (d.kind, d.name.as_str(), d.change, d.before.as_deref(), d.after.as_deref()))
        .collect()
}

#[test]
fn without_an_earlier_build_there_is_nothing_to_compare() {
    let answer = why(&scene("b", 2), &[]);
    assert_eq!(step(&answer, "RUN").cause, Some(Cause::NoEarlierBuild));
    assert_eq!(step(&answer, "load build context").cause, Some(Cause::Always));
    assert_eq!(step(&answer, "FROM").cause, None, "it did not run");
    let numbers: Vec<_> = answer.steps.iter().map(|s| (s.number, s.name.as_str())).collect();
    assert_eq!(numbers[0], (Some(1), "[1/3] FROM x/base:1"));
    assert_eq!(numbers[3], (None, "[internal] load build context"), "housekeeping comes last");
}

#[test]
fn a_changed_file_is_told_by_its_path_and_what_follows_follows() {
    let now = Scene { content: "c2", ..scene("b", 2) };
    let answer = why(&now, &[scene("a", 1)]);
    let copy = step(&answer, "COPY");
    assert_eq!(copy.cause, Some(Cause::Changed));
    assert_eq!(
        shown(copy),
        [
            (Kind::File, "a", Change::Changed, None, None),
            (Kind::File, "b", Change::Removed, None, None),
            (Kind::File, "c", Change::Added, None, None),
        ]
    );
    let run = step(&answer, "RUN");
    assert_eq!(run.cause, Some(Cause::Follows));
    assert_eq!((run.follows[0].number, run.follows[0].before.as_deref()), (Some(2), None));
    assert_eq!(run.roots.len(), 1);
    assert_eq!((run.roots[0].number, run.roots[0].differences.len()), (Some(2), 3));
}

#[test]
fn files_of_which_no_list_is_kept_are_told_as_such() {
    let now = Scene { content: "c9", ..scene("b", 2) };
    let answer = why(&now, &[scene("a", 1)]);
    let context = "[internal] load build context";
    assert_eq!(shown(step(&answer, "COPY")), [(Kind::Files, context, Change::Changed, None, None)]);
}

#[test]
fn files_that_nobody_looked_at_are_not_said_to_differ() {
    let middle =
        Scene { content: "", ended: [(Ending::Resolved, Reason::None), CACHED, CACHED], ..scene("m", 2) };
    let now = Scene { content: "c2", ..scene("b", 3) };
    let answer = why(&now, &[scene("a", 1), middle]);
    // A folder of the client has no key of its own, so that nobody knows whether the middle one had the first one's files.
    let copy = step(&answer, "COPY");
    assert_eq!((copy.cause, shown(copy)), (Some(Cause::Unknown), vec![]));
    assert_eq!(copy.detail, "nobody looked at the files of [internal] load build context in that build");
    assert_eq!(step(&answer, "COPY").compared_with.as_ref().unwrap().reference, "m");
}

#[test]
fn the_base_image_is_told_by_its_digest() {
    let now = Scene { image: "sha256:2", ..scene("b", 2) };
    let answer = why(&now, &[scene("a", 1)]);
    let copy = step(&answer, "COPY");
    assert_eq!(copy.cause, Some(Cause::Changed));
    assert_eq!(shown(copy), [(Kind::Image, "x/base:1", Change::Changed, Some("sha256:1"), Some("sha256:2"))]);
    assert_eq!(step(&answer, "RUN").cause, Some(Cause::Follows));
}

#[test]
fn a_command_an_environment_and_a_mount_are_told_by_their_values() {
    let a = scene("a", 1);
    let run = |now: Scene| step(&why(&now, std::slice::from_ref(&a)), "RUN").clone();
    let command = run(Scene { command: "make all", ended: [CACHED, CACHED, RAN], ..scene("b", 2) });
    assert_eq!(shown(&command), [(Kind::Command, "", Change::Changed, Some("make"), Some("make all"))]);
    let env = run(Scene { env: "V=2", ended: [CACHED, CACHED, RAN], ..scene("b", 2) });
    assert_eq!(shown(&env), [(Kind::Env, "V", Change::Changed, Some("1"), Some("2"))]);
    let mount =
        pb::Mount { dest: "/c".into(), mount_type: pb::MountType::Tmpfs.into(), ..pb::Mount::default() };
    let mounts = run(Scene { mounts: vec![mount], ended: [CACHED, CACHED, RAN], ..scene("b", 2) });
    assert_eq!(shown(&mounts), [(Kind::Mount, "/c", Change::Added, None, Some("type=tmpfs"))]);
}

#[test]
fn a_build_argument_is_told_as_one() {
    let old = Scene { attrs: vec![("build-arg:V", "1")], ..scene("a", 1) };
    let now = Scene {
        env: "V=2",
        attrs: vec![("build-arg:V", "2")],
        ended: [CACHED, CACHED, RAN],
        ..scene("b", 2)
    };
    let answer = why(&now, &[old]);
    let run = step(&answer, "RUN");
    assert_eq!(shown(run), [(Kind::BuildArg, "V", Change::Changed, Some("1"), Some("2"))]);
    assert_eq!(run.differences[0].build_arg.as_deref(), Some("V"));
}

#[test]
fn ignoring_the_cache_is_told_by_the_option() {
    let ignored = (Ending::Ran, Reason::IgnoreCache);
    let mut now =
        Scene { attrs: vec![("no-cache", "")], ended: [ignored, ignored, ignored], ..scene("b", 2) };
    let answer = why(&now, &[scene("a", 1)]);
    assert_eq!(step(&answer, "COPY").cause, Some(Cause::Ignored));
    assert!(step(&answer, "COPY").detail.ends_with("--no-cache"));
    now.attrs = vec![("no-cache", "one,two")];
    now.ended = [CACHED, ignored, RAN];
    let answer = why(&now, &[scene("a", 1)]);
    assert!(step(&answer, "COPY").detail.contains("--no-cache-filter"));
    let run = step(&answer, "RUN");
    assert_eq!((run.cause, run.follows[0].number), (Some(Cause::Follows), Some(2)), "{run:?}");
}

#[test]
fn what_is_as_it_was_has_been_removed() {
    let answer = why(&scene("b", 2), &[scene("a", 1)]);
    let run = step(&answer, "RUN");
    assert_eq!(run.cause, Some(Cause::Removed));
    assert_eq!(run.removed_since.as_ref().unwrap().reference, "a");
    let copy = step(&answer, "COPY");
    assert_eq!((copy.cause, shown(copy)), (Some(Cause::Removed), vec![]));
}

#[test]
fn what_went_back_to_an_older_state_is_compared_with_the_last_and_told_to_be_gone() {
    let middle = Scene { command: "make all", ended: [CACHED, CACHED, RAN], ..scene("m", 2) };
    let answer = why(&Scene { ended: [CACHED, CACHED, RAN], ..scene("b", 3) }, &[scene("a", 1), middle]);
    let run = step(&answer, "RUN");
    assert_eq!(
        (run.cause, run.compared_with.as_ref().unwrap().reference.as_str()),
        (Some(Cause::Changed), "m")
    );
    assert_eq!(run.removed_since.as_ref().unwrap().reference, "a");
}

#[test]
fn a_step_that_failed_before_was_never_finished() {
    let failed = Scene { ended: [CACHED, CACHED, (Ending::StepFailed, Reason::NoMatch)], ..scene("a", 1) };
    let answer = why(&Scene { ended: [CACHED, CACHED, RAN], ..scene("b", 2) }, std::slice::from_ref(&failed));
    let run = step(&answer, "RUN");
    assert_eq!((run.cause, run.detail.as_str()), (Some(Cause::Unfinished), "it failed in that build"));
    let other = Scene { command: "make all", ..failed };
    let answer = why(&Scene { ended: [CACHED, CACHED, RAN], ..scene("b", 2) }, &[other]);
    assert_eq!(step(&answer, "RUN").cause, Some(Cause::Changed));
}

#[test]
fn a_new_step_is_new_and_what_follows_it_says_so() {
    let now = Scene { extra: Some("new"), ended: [CACHED, CACHED, RAN], ..scene("b", 2) };
    let answer = why(&now, &[scene("a", 1)]);
    assert_eq!(step(&answer, "RUN new").cause, Some(Cause::NewStep));
    let run = step(&answer, "RUN make");
    assert_eq!(run.cause, Some(Cause::Follows));
    assert_eq!(run.follows[0].before.as_deref(), Some("[2/3] COPY . /src"));
}

#[test]
fn a_result_that_could_not_be_loaded_is_told_with_its_error() {
    let mut build = scene("b", 2).build();
    let run = build.steps.last_mut().unwrap();
    run.lost = "blob is gone".into();
    let answer = explain(build, vec![scene("a", 1).build()], "", &files).unwrap();
    assert_eq!(
        (step(&answer, "RUN").cause, step(&answer, "RUN").detail.as_str()),
        (Some(Cause::Lost), "blob is gone")
    );
}

#[test]
fn what_takes_a_folder_unseen_cannot_be_cached() {
    let now = Scene { content: "", ..scene("b", 2) };
    let answer = why(&now, &[scene("a", 1)]);
    let copy = step(&answer, "COPY");
    assert_eq!(
        (copy.cause, copy.detail.as_str()),
        (Some(Cause::Uncacheable), "[internal] load build context")
    );
}

#[test]
fn a_key_that_differs_while_nothing_listed_does_is_told_to_differ() {
    let mut build = scene("b", 2).build();
    build.steps.last_mut().unwrap().keys = vec!["sha256:other".into()];
    let answer = explain(build, vec![scene("a", 1).build()], "", &files).unwrap();
    assert_eq!(shown(step(&answer, "RUN")), [(Kind::Definition, "", Change::Changed, None, None)]);
}

#[test]
fn steps_are_found_by_number_bracket_and_name() {
    let find = |wanted: &str| {
        explain(scene("b", 2).build(), Vec::new(), wanted, &files)
            .map(|answer| answer.steps.into_iter().map(|s| s.name).collect::<Vec<_>>())
    };
    assert_eq!(find("2").unwrap(), ["[2/3] COPY . /src"]);
    assert_eq!(find("[3/3]").unwrap(), ["[3/3] RUN make"]);
    assert_eq!(find("3/3").unwrap(), ["[3/3] RUN make"]);
    assert_eq!(find("copy .").unwrap(), ["[2/3] COPY . /src"]);
    assert_eq!(find("build context").unwrap(), ["[internal] load build context"]);
    let NoStep { wanted, names } = find("nothing").unwrap_err();
    assert_eq!((wanted.as_str(), names.len()), ("nothing", 4));
    assert!(find("9").is_err());
}

#[test]
fn the_json_is_what_its_readers_know() {
    let now = Scene {
        env: "V=2",
        attrs: vec![("build-arg:V", "2")],
        ended: [CACHED, CACHED, RAN],
        ..scene("b", 2)
    };
    let answer = why(&now, &[scene("a", 1)]);
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(
        json["build"],
        serde_json::json!({
            "ref": "b",
            "started": "1970-01-01T00:00:02Z",
            "ended": "1970-01-01T00:00:03Z",
            "outcome": "succeeded",
        })
    );
    let key = &answer.steps[2].key.as_ref().unwrap().digests[0];
    assert_eq!(
        json["steps"][2],
        serde_json::json!({
            "number": 3,
            "name": "[3/3] RUN make",
            "digest": "b [3/3] RUN make",
            "status": "ran",
            "cause": "changed",
            "compared_with": {"ref": "a", "ended": "1970-01-01T00:00:02Z", "step": "[3/3] RUN make"},
            "differences": [
                {"kind": "build-arg", "name": "V", "change": "changed", "before": "1", "after": "2", "build_arg": "V"},
            ],
            "key": {
                "digests": [key],
                "inputs": [{"name": "[2/3] COPY . /src", "matches": 0}],
                "result": "no-match",
            },
        })
    );
    assert_eq!(json["version"], 1);
    assert_eq!(serde_json::from_value::<Answer>(json).unwrap(), answer);
}

#[test]
fn records_of_any_shape_are_no_reason_to_panic() {
    let mut build = scene("b", 2).build();
    for step in &mut build.steps {
        step.op = vec![0xff, 0xff].into();
        step.inputs.clear();
    }
    let empty = Build { steps: vec![Step::default(); 3], started: build.started, ..Build::default() };
    let first = scene("a", 1).build();
    for one in [&build, &empty, &first] {
        let all = vec![build.clone(), empty.clone(), first.clone()];
        explain(one.clone(), all, "", &files).unwrap();
    }
}
