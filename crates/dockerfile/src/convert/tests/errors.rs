//! Dockerfiles that can't be built: an error with its place, never a panic.

use proptest::prelude::*;

use super::{Failure, Host, convert_on};

/// A Dockerfile, the line to blame (0 for none), a part of the message.
const ERRORS: &[(&str, u32, &str)] = &[
    ("FROM $X\n", 1, "should not be blank"),
    ("FROM Upper\n", 1, "lowercase"),
    ("FROM --platform=a/b/c/d busybox\n", 1, "platform"),
    ("FROM --platform=$NONE busybox\n", 1, "empty platform"),
    ("FROM missing\n", 1, "not found"),
    (
        "FROM busybox AS first\nCOPY --from=later / /\nFROM busybox AS later\nFROM first\n",
        2,
        "needs to be defined before",
    ),
    ("FROM busybox AS a\nCOPY --from=a / /\n", 2, "circular"),
    ("FROM busybox\nCOPY --from=9 / /\n", 0, "stage index 9"),
    ("FROM busybox\nCOPY --from=$X / /\n", 0, "--from"),
    ("FROM busybox\nCOPY --from=missing / /\n", 2, "not found"),
    ("FROM busybox\nRUN --mount=from=missing,target=/x true\n", 0, "not found"),
    ("FROM busybox\nRUN --mount=target=/ true\n", 2, "mount target"),
    ("FROM busybox\nRUN --mount=type=bind,target=${X:?no} true\n", 2, "no"),
    ("FROM busybox\nCOPY --chmod=9 a b\n", 2, "chmod"),
    ("FROM busybox\nCOPY https://example.com/x /\n", 2, "URL"),
    ("FROM busybox\nCOPY https://example.com/x.git /\n", 2, "git"),
    ("FROM busybox\nADD https://example.com/x.git?nope=1 /\n", 2, "nope"),
    ("FROM busybox\nADD --checksum=sha256:0 a /\n", 2, "checksum"),
    ("FROM busybox\nADD --checksum=sha256:0 https://example.com/x /\n", 2, "digest"),
    ("FROM busybox\nEXPOSE x\n", 2, "containerPort"),
    ("FROM busybox\nSTOPSIGNAL nope\n", 2, "signal"),
    ("FROM busybox\nVOLUME [\"\"]\n", 2, ""),
    ("FROM busybox\nENV A=${B:?unset}\n", 2, "unset"),
    ("FROM busybox AS a\nONBUILD COPY --from=missing / /\nFROM a\n", 3, "not found"),
];

#[test]
fn errors_have_their_place() {
    let mut wrong = Vec::new();
    for &(text, line, message) in ERRORS {
        match convert_on(&Host::new(text), &[]) {
            Ok(_) => wrong.push(format!("{text:?} must be refused")),
            Err(failure) => {
                let (said, at) = (failure.to_string(), failure.span().map_or(0, |s| s.start.line));
                if !said.contains(message) || at != line {
                    wrong.push(format!("{text:?}: {said} at {at}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn independent_errors_are_told_in_one_run() {
    let text =
        "FROM busybox AS a\nSTOPSIGNAL nope\nEXPOSE x\nENV OK=1\nFROM a\nCOPY --chmod=9 a b\nEXPOSE y\n";
    let failure = convert_on(&Host::new(text), &[]).unwrap_err();
    let Failure::Dockerfile(errors) = &failure else { panic!("{failure}") };
    let lines: Vec<u32> = errors.as_slice().iter().map(|e| e.span().start.line).collect();
    assert_eq!(lines, [2, 3, 6, 7]);
    assert!(failure.to_string().ends_with("(and 3 more errors)"), "{failure}");
    assert_eq!(failure.span().unwrap().start.line, 2);
    // Also of FROM, where nothing is walked yet.
    let failure = convert_on(&Host::new("FROM Upper\nFROM $X\nFROM $Y\n"), &[]).unwrap_err();
    assert!(failure.to_string().contains("and 1 more error"), "{failure}");
    // Also beside what can't be parsed, where nothing else can change it.
    let lines = |text: &str, attrs: &[(&str, &str)]| {
        let failure = convert_on(&Host::new(text), attrs).unwrap_err();
        let Failure::Dockerfile(errors) = &failure else { panic!("{failure}") };
        errors.as_slice().iter().map(|e| e.blamed().start.line).collect::<Vec<_>>()
    };
    let text = "FROM busybox AS unused\nSTOPSIGNAL nope\nFROM busybox AS a\nEXPOSE x 80\nADD --nope a b\nFROM a\nCOPY --chmod=9 a b\n\
                STOPSIGNAL $X\nEXPOSE 80\nCOPY --link=maybe a b\n";
    assert_eq!(lines(text, &[]), [4, 5, 7, 10]);
    assert_eq!(lines(text, &[("target", "a")]), [4, 5, 10]);
    assert_eq!(lines(text, &[("context:x", "local:x")]), [5, 10]);
    assert_eq!(lines("FROM busybox\nSTOPSIGNAL nope\nFORM scratch\n", &[]), [3]);
    // Not more than people read.
    let many = "FROM busybox\n".to_owned() + &"STOPSIGNAL nope\n".repeat(100);
    let failure = convert_on(&Host::new(&many), &[]).unwrap_err();
    let Failure::Dockerfile(errors) = &failure else { panic!("{failure}") };
    assert_eq!(errors.as_slice().len(), crate::MAX_ERRORS);
}

#[test]
fn a_small_file_does_not_make_everything() {
    let text = format!("FROM busybox\nARG A={}\n{}", "x".repeat(60_000), "RUN x\n".repeat(2000));
    let failure = convert_on(&Host::new(&text), &[]).unwrap_err();
    assert!(failure.to_string().contains("take more than"), "{failure}");
    assert!(failure.span().unwrap().start.line > 100);
}

#[test]
fn warnings_up_to_the_first_error_are_told() {
    let host = Host::new("FROM busybox AS A\nCMD x\nSTOPSIGNAL nope\nENTRYPOINT y\n");
    let options = super::options(&[]);
    let source = super::now(super::Source::load(&options, &host)).unwrap();
    let failed = super::now(super::convert(&source, &options, None, &host)).unwrap_err();
    let rules: Vec<&str> = failed.warnings.iter().map(|w| w.rule.name()).collect();
    assert_eq!(rules, ["StageNameCasing", "JSONArgsRecommended"]);
}

#[test]
fn options_name_stages_that_must_exist() {
    let host = Host::new("FROM scratch AS one\nFROM scratch AS two\n");
    let failure = convert_on(&host, &[("target", "tow")]).unwrap_err();
    assert!(failure.to_string().contains("did you mean two"), "{failure}");
    let host = Host { files: Default::default(), ..Host::new("") };
    assert!(convert_on(&host, &[]).unwrap_err().to_string().contains("open Dockerfile"));
}

#[test]
fn windows_paths() {
    for path in ["D:\\x", "C:", "\\\\server\\share\\x"] {
        let text = format!("# escape=`\nFROM mcr.microsoft.com/windows/nanoserver:ltsc2022\nCOPY a {path}\n");
        let failure = convert_on(&Host::new(&text), &[("platform", "windows/amd64")]).unwrap_err();
        assert_eq!(failure.span().unwrap().start.line, 3, "{path}");
    }
}

#[test]
fn many_stages_do_not_use_the_stack() {
    let mut text = "FROM scratch AS s0\n".to_owned();
    for i in 1..5_000 {
        text.push_str(&format!("FROM scratch AS s{i}\nCOPY --from=s{} / /\n", i - 1));
    }
    assert!(convert_on(&Host::new(&text), &[]).is_ok());
}

const LINES: &[&str] = &[
    "FROM busybox",
    "FROM scratch AS a",
    "FROM a AS b",
    "FROM b",
    "FROM $A",
    "ARG A",
    "ARG A=b",
    "ARG A=${A:-x}",
    "ENV A=$A",
    "COPY --from=a / /",
    "COPY --from=b x y",
    "COPY --from=0 x /",
    "COPY a b c/",
    "COPY <<E /e\n$A\nE",
    "ADD https://h/x /",
    "ADD https://h/x.git /",
    "RUN x",
    "RUN --mount=from=a,target=/m x",
    "RUN --mount=type=cache,target=$A x",
    "RUN <<E\nx\nE",
    "WORKDIR $A",
    "WORKDIR /",
    "USER $A",
    "EXPOSE $A",
    "EXPOSE 1-3",
    "VOLUME $A",
    "ONBUILD RUN y",
    "ONBUILD COPY --from=a / /",
    "SHELL [\"s\"]",
    "CMD x",
    "ENTRYPOINT [\"e\"]",
    "HEALTHCHECK NONE",
    "STOPSIGNAL 9",
    "LABEL $A=$A",
    "MAINTAINER m",
];

proptest! {
    /// Instructions in whatever order: a definition that passes its checks, or an error.
    #[test]
    fn any_instructions(picks in proptest::collection::vec(0..LINES.len(), 1..14), windows in any::<bool>()) {
        let text: String = picks.iter().map(|&i| format!("{}\n", LINES[i])).collect();
        let attrs: &[(&str, &str)] = if windows { &[("platform", "windows/amd64")] } else { &[] };
        if let Ok(all) = convert_on(&Host::new(&text), attrs) {
            for converted in all {
                if !converted.definition.def.is_empty() {
                    kiln_llb::Graph::decode(&converted.definition).unwrap();
                }
            }
        }
    }
}
