use kiln_proto::history::{Ending, Reason};

use super::*;
use crate::{
    Change, Difference, Kind,
    tests::{Scene, scene, why},
};

fn written(answer: &Answer, full: bool) -> String {
    let mut out = Vec::new();
    write(&mut out, answer, full).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn an_overview_says_why_each_step_ran() {
    let cached = (Ending::Cached, Reason::None);
    let ran = (Ending::Ran, Reason::NoMatch);
    let now = Scene { content: "c2", ended: [cached, ran, ran], ..scene("b", 2) };
    let text = written(&why(&now, &[scene("a", 1)]), false);
    assert_eq!(
        text,
        "\
Build b, 1970-01-01 00:00:02 UTC, succeeded: 2 steps ran, 1 was cached.
Compared with build a, 1970-01-01 00:00:01 UTC.

  1  cached    [1/3] FROM x/base:1
  2  ran       [2/3] COPY . /src
               file a changed
               file b is gone
               file c is new
  3  ran       [3/3] RUN make
               follows step 2
"
    );
}

#[test]
fn a_step_is_told_in_full_with_its_key() {
    let cached = (Ending::Cached, Reason::None);
    let now = Scene { env: "V=2", ended: [cached, cached, (Ending::Ran, Reason::NoMatch)], ..scene("b", 2) };
    let mut answer = why(&now, &[scene("a", 1)]);
    answer.steps.retain(|step| step.number == Some(3));
    let key = answer.steps[0].key.as_ref().unwrap().digests[0].clone();
    let text = written(&answer, true);
    let step = text.split_once("\n\n").unwrap().1;
    assert_eq!(
        step,
        format!(
            "\
Step 3: [3/3] RUN make
  status   ran
  before   [3/3] RUN make in build a of 1970-01-01 00:00:02 UTC
  why      env V: \"1\" → \"2\"
  key      {key}
  input 0  [2/3] COPY . /src by definition: led to no key
  result   no cache has a key that follows from its inputs
"
        )
    );
}

#[test]
fn roots_are_told_below_what_follows_them() {
    let now = Scene { content: "c2", ..scene("b", 2) };
    let mut answer = why(&now, &[scene("a", 1)]);
    answer.steps.retain(|step| step.number == Some(3));
    let text = written(&answer, true);
    let told = "  why      follows step 2\n  root     step 2, [2/3] COPY . /src changed:\n             file a changed\n";
    assert!(text.contains(told), "{text}");
}

#[test]
fn differences_have_phrases() {
    let of = |kind, name: &str, change, before: Option<&str>, after: Option<&str>| {
        difference(&Difference {
            kind,
            name: name.into(),
            change,
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            build_arg: None,
            input: None,
        })
    };
    assert_eq!(of(Kind::File, "a/", Change::Changed, None, None), "folder a/ changed (mode or owner)");
    assert_eq!(of(Kind::BuildArg, "V", Change::Added, None, Some("1")), "build-arg V is new: \"1\"");
    assert_eq!(
        of(Kind::Workdir, "", Change::Removed, Some("/"), None),
        "working directory is gone, it was \"/\""
    );
    assert_eq!(
        of(Kind::FileAction, "copy owner", Change::Changed, Some("1:1"), Some("2:2")),
        "copy owner: \"1:1\" → \"2:2\""
    );
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    assert_eq!(
        of(Kind::Image, "alpine", Change::Changed, Some(&digest("a")), Some(&digest("b"))),
        "image alpine: sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb"
    );
}

#[test]
fn long_values_are_cut_around_what_differs() {
    let (before, after) = (format!("{}old", "x".repeat(1000)), format!("{}new", "x".repeat(1000)));
    let text = difference(&Difference {
        kind: Kind::Command,
        name: String::new(),
        change: Change::Changed,
        before: Some(before),
        after: Some(after),
        build_arg: Some("V".into()),
        input: None,
    });
    assert!(text.len() < 400 && text.contains("xold\"") && text.ends_with("xnew\" (build-arg V)"), "{text}");
}

#[test]
fn nothing_of_a_build_drives_the_terminal() {
    let ran = (Ending::Ran, Reason::NoMatch);
    let now = Scene { env: "V=2", ended: [ran, ran, ran], ..scene("b", 2) };
    let mut answer = why(&now, &[scene("a", 1)]);
    let evil = "x\u{1b}]0;y\u{7}\nforged\u{9b}z";
    for step in &mut answer.steps {
        step.name = evil.into();
        step.error = evil.into();
        step.detail = evil.into();
        step.store = evil.into();
        step.differences.push(Difference {
            kind: Kind::File,
            name: evil.into(),
            change: Change::Changed,
            before: None,
            after: None,
            build_arg: None,
            input: None,
        });
    }
    answer.warnings.push(evil.into());
    for full in [false, true] {
        let text = written(&answer, full);
        assert!(text.contains("forged"));
        assert!(text.lines().all(|line| !line.starts_with("forged") && !line.contains(char::is_control)));
    }
}
