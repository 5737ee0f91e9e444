//! Conversions from end to end, with a host that knows one image.

mod cases;
mod errors;

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use kiln_llb::{Graph, caps};
use kiln_oci::Digest;
use prost::Message;

use super::*;

/// The config of every image.
const IMAGE: &str = r#"{"created":"2024-01-02T03:04:05Z","architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin","BASE=yes"],"WorkingDir":"/srv","User":"app","Cmd":["sh"],"Labels":{"from":"base"},"ExposedPorts":{"80/tcp":{}},"OnBuild":null},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"base"}],"docker_version":"1"}"#;
const WINDOWS_IMAGE: &str = r#"{"architecture":"amd64","os":"windows","os.version":"10.0.20348.1","config":{"WorkingDir":"C:\\","User":"ContainerUser"},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;

/// Knows every image but those called `missing`, and the files of one context.
struct Host {
    files: BTreeMap<String, String>,
    asked: Mutex<Vec<String>>,
}

impl Host {
    fn new(dockerfile: &str) -> Self {
        Self { files: [("Dockerfile".to_owned(), dockerfile.to_owned())].into(), asked: Mutex::default() }
    }
}

impl Resolver for Host {
    type Ref = ();

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, BoxError> {
        self.asked.lock().unwrap().push(request.log_name.clone());
        if request.reference.contains("missing") {
            return Err(format!("{}: not found", request.reference).into());
        }
        if request.reference.contains("replaced") {
            let identifier = "local://folder".to_owned();
            return Err(Replaced { reference: request.reference, identifier }.into());
        }
        let config = if request.reference.contains("nanoserver") { WINDOWS_IMAGE } else { IMAGE };
        let digest = Some(Digest::sha256("image"));
        Ok(ResolvedImage {
            reference: request.reference,
            digest,
            config: Bytes::from_static(config.as_bytes()),
        })
    }

    async fn solve(&self, definition: pb::Definition) -> Result<(), BoxError> {
        let graph = Graph::decode(&definition)?;
        self.asked.lock().unwrap().extend(graph.vertices().iter().map(|v| v.name().to_owned()));
        Ok(())
    }

    async fn read_file(&self, _: &(), path: &str, _: Option<u64>) -> Result<Option<Bytes>, BoxError> {
        Ok(self.files.get(path).map(|text| Bytes::from(text.clone())))
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, BoxError> {
        Ok(BTreeMap::new())
    }

    async fn source_time(&self, _: pb::SourceOp, _: String) -> Result<SourceTime, BoxError> {
        Ok(SourceTime { time: Some(Time::from_unix(1_600_000_000)) })
    }
}

fn options(attrs: &[(&str, &str)]) -> Options {
    let environment = Environment {
        session_id: "session".into(),
        unique_id: "unique".into(),
        build_platform: Platform::new("linux", "amd64"),
        caps: caps::ALL.iter().copied().collect(),
    };
    let attrs = attrs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    Options::parse(&attrs, environment).unwrap()
}

/// Nothing in the host ever waits.
fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the conversion waits for nobody"),
    }
}

fn convert_on(host: &Host, attrs: &[(&str, &str)]) -> Result<Vec<Converted>, Failure> {
    let options = options(attrs);
    let source = now(Source::load(&options, host))?;
    match options.platforms.as_slice() {
        [] => Ok(vec![one(&source, &options, None, host)?]),
        platforms => platforms.iter().map(|p| one(&source, &options, Some(p), host)).collect(),
    }
}

fn one(
    source: &Source,
    options: &Options,
    platform: Option<&Platform>,
    host: &Host,
) -> Result<Converted, Failure> {
    now(convert(source, options, platform, host)).map_err(|failed| failed.failure)
}

fn convert_text(dockerfile: &str, attrs: &[(&str, &str)]) -> Converted {
    convert_on(&Host::new(dockerfile), attrs).unwrap().remove(0)
}

/// The digest of the vertex that the result comes from.
fn root(converted: &Converted) -> String {
    let Some(last) = converted.definition.def.last() else { return "scratch".into() };
    pb::Op::decode(last.clone()).unwrap().inputs.remove(0).digest
}

/// Names of the steps, inputs first.
fn names(converted: &Converted) -> Vec<String> {
    let graph = Graph::decode(&converted.definition).unwrap();
    graph.vertices().iter().map(|v| v.name().to_owned()).collect()
}

fn history(converted: &Converted) -> Vec<&str> {
    converted.image.history.iter().map(|h| h.created_by.as_str()).collect()
}

/// Digests that the reference implementation computed for the same files, options and image.
#[test]
fn definitions_are_everybodys() {
    let mut wrong = Vec::new();
    for case in cases::CASES {
        let converted = convert_on(&Host::new(case.dockerfile), case.attrs).unwrap();
        let roots: Vec<String> = converted.iter().map(root).collect();
        if roots != case.roots {
            wrong.push(format!("{}: {roots:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn config_and_history() {
    let converted = convert_text(cases::METADATA, &[("label:given", "1")]);
    let image = &converted.image;
    assert_eq!(String::from_utf8(converted.image.encode()).unwrap(), cases::METADATA_IMAGE);
    assert_eq!(image.created, None);
    assert_eq!(converted.base_image.unwrap().created.unwrap().as_str(), "2024-01-02T03:04:05Z");
}

#[test]
fn variables_reach_steps_and_history() {
    let text = "ARG V=1\nFROM busybox\nARG V\nARG W=2\nARG X\nENV W=3 Y=$V\nRUN echo $W $Y $X\n";
    let converted = convert_text(text, &[("build-arg:X", "x"), ("build-arg:HTTP_PROXY", "p")]);
    assert_eq!(names(&converted)[1], "[2/2] RUN echo 3 1 x");
    let expected = [
        "base",
        "ARG V=1",
        "ARG W=2",
        "ARG X=x",
        "ENV W=3 Y=1",
        "RUN |3 V=1 W=3 X=x /bin/sh -c echo $W $Y $X # buildkit",
    ];
    assert_eq!(history(&converted), expected);
    let graph = Graph::decode(&converted.definition).unwrap();
    let Some(pb::op::Op::Exec(exec)) = &graph.vertices()[1].op.op else { panic!("not an exec") };
    let meta = exec.meta.as_ref().unwrap();
    assert_eq!(meta.env, ["PATH=/bin", "BASE=yes", "V=1", "X=x", "W=3", "Y=1"]);
    assert_eq!((meta.cwd.as_str(), meta.user.as_str()), ("/srv", "app"));
    assert_eq!(meta.proxy_env.as_ref().unwrap().http_proxy, "p");
}

#[test]
fn only_what_is_needed_is_resolved() {
    let text = "FROM missing AS a\nFROM busybox AS b\nRUN b\nFROM missing AS c\nFROM b\n";
    let host = Host::new(text);
    convert_on(&host, &[]).unwrap();
    let asked = host.asked.into_inner().unwrap();
    assert_eq!(
        asked,
        [
            "[internal] load build definition from Dockerfile",
            "[internal] load metadata for docker.io/library/busybox:latest",
            "[internal] load .dockerignore"
        ]
    );
    let host = Host::new(text);
    let failure = convert_on(&host, &[("target", "C")]).unwrap_err();
    assert_eq!(
        (failure.to_string().as_str(), failure.span().unwrap().start.line),
        ("missing: docker.io/library/missing:latest: not found", 4)
    );
}

#[test]
fn step_names() {
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\nRUN make\nFROM scratch\nCOPY --link --from=build /a /b\n";
    let host = Host::new(text);
    let converted = convert_on(&host, &[("platform", "linux/arm64"), ("multi-platform", "true")]).unwrap();
    let image = format!("docker.io/library/busybox:latest@{}", Digest::sha256("image"));
    let expected = [
        format!("[linux/amd64 build 1/2] FROM {image}"),
        "[linux/amd64->arm64 build 2/2] RUN make".into(),
        "[linux/arm64 stage-1 1/1] COPY --link --from=build /a /b".into(),
    ];
    assert_eq!(names(&converted[0]), expected);
    // One stage has no name, unless a mount brings in others.
    assert_eq!(names(&convert_text("FROM scratch\nCOPY a /\nRUN x\n", &[]))[2], "[2/2] RUN x");
    let with_mount = convert_text("FROM scratch\nCOPY a /\nRUN --mount=type=cache,target=/c x\n", &[]);
    assert_eq!(names(&with_mount)[2], "[stage-0 2/2] RUN --mount=type=cache,target=/c x");
}

#[test]
fn merged_copies_are_one_group() {
    let converted = convert_text("FROM busybox\nCOPY --link a /\nCOPY --link b /\n", &[]);
    let graph = Graph::decode(&converted.definition).unwrap();
    let mut groups: Vec<_> = graph
        .vertices()
        .iter()
        .filter_map(|v| {
            v.metadata.progress_group.as_deref().map(|g| (v.name(), g.name.as_str(), g.weak, g.id.as_str()))
        })
        .collect();
    groups.sort();
    let shown: Vec<_> = groups.iter().map(|&(name, group, weak, _)| (name, group, weak)).collect();
    assert_eq!(
        shown,
        [
            ("[2/3] COPY --link a /", "[2/3] COPY --link a /", true),
            ("[2/3] LINK COPY --link a /", "[2/3] COPY --link a /", false),
            ("[3/3] COPY --link b /", "[3/3] COPY --link b /", true),
            ("[3/3] LINK COPY --link b /", "[3/3] COPY --link b /", false),
        ]
    );
    assert!(groups[0].3 == groups[1].3 && groups[1].3 != groups[2].3 && groups[0].3.len() == 25);
}

#[test]
fn contexts_ask_for_needed_paths() {
    // Of all sources with this name, sorted.
    let attr = |converted: &Converted, name: &str, key: &str| {
        let graph = Graph::decode(&converted.definition).unwrap();
        let value = |v: &Arc<kiln_llb::Vertex>| match &v.op.op {
            Some(pb::op::Op::Source(s)) if s.identifier == name => {
                Some(s.attrs.get(key).cloned().unwrap_or_default())
            }
            _ => None,
        };
        let mut values: Vec<String> = graph.vertices().iter().filter_map(value).collect();
        values.sort();
        values.join(" ")
    };
    let mut host = Host::new("FROM scratch\nCOPY b /a/c d/\nADD http://x/y z /\n");
    host.files.insert(".dockerignore".into(), "# no\n*.o\n!x.o\n".into());
    let converted = convert_on(&host, &[]).unwrap().remove(0);
    assert_eq!(attr(&converted, "local://context", "local.followpaths"), r#"["a/c","b","z"]"#);
    assert_eq!(attr(&converted, "local://context", "local.excludepatterns"), r#"["*.o","!x.o"]"#);
    host.files.insert("Dockerfile.dockerignore".into(), "own\n".into());
    let converted = convert_on(&host, &[]).unwrap().remove(0);
    assert_eq!(attr(&converted, "local://context", "local.excludepatterns"), r#"["own"]"#);
    let whole = convert_text("FROM scratch\nCOPY . /\n", &[]);
    assert_eq!(attr(&whole, "local://context", "local.followpaths"), "");
    let named = convert_text(
        "FROM scratch\nCOPY --from=lib a /\nCOPY --from=lib b /\n",
        &[("context:lib", "local:folder")],
    );
    // A policy may put the same folder in place of an image.
    let replaced = convert_text(
        "FROM scratch\nCOPY --from=lib a /\nCOPY --from=lib b /\n",
        &[("context:lib", "docker-image://replaced")],
    );
    assert_eq!(attr(&replaced, "local://folder", "local.followpaths"), r#"["a"] ["b"]"#);
    // Each COPY has a source of its own.
    assert_eq!(attr(&named, "local://folder", "local.followpaths"), r#"["a"] ["b"]"#);
}

#[test]
fn warnings_come_along() {
    let converted =
        convert_text("FROM busybox AS Base\nCMD run $NOPE\nENV KEY=1\nWORKDIR x\nEXPOSE 80/TCP\n", &[]);
    let rules: Vec<&str> = converted.warnings.iter().map(|w| w.rule.name()).collect();
    assert_eq!(
        rules,
        [
            "StageNameCasing",
            "JSONArgsRecommended",
            "SecretsUsedInArgOrEnv",
            "WorkdirRelativePath",
            "ExposeProtoCasing"
        ]
    );
    let text = "# check=error=true\nFROM busybox\nCMD x\n";
    assert!(convert_on(&Host::new(text), &[]).unwrap_err().to_string().contains("JSONArgsRecommended"));
}

#[test]
fn lint_looks_at_all_stages() {
    let text = "FROM busybox AS a\nCMD x\nFROM busybox AS b\nCMD y\n";
    let rules = |attrs: &[(&str, &str)]| {
        let (options, host) = (options(attrs), Host::new(text));
        let source = now(Source::load(&options, &host)).unwrap();
        let (warnings, failure) = now(lint(&source, &options, &host));
        assert!(failure.is_none());
        warnings.len()
    };
    assert_eq!((rules(&[]), rules(&[("target", "b")])), (2, 1));
}

#[test]
fn outlines_tell_what_a_target_takes() {
    let text = "# G is global\nARG G=1\nFROM busybox:$G AS a\nARG A=2\nRUN --mount=type=secret,id=s,required --mount=type=ssh x\nFROM a AS b\nARG B\nFROM a AS c\n";
    let (options, host) = (options(&[("target", "b")]), Host::new(text));
    let source = now(Source::load(&options, &host)).unwrap();
    let (outline, _) = now(outline(&source, &options, &host)).unwrap();
    let args: Vec<_> = outline.args.iter().map(|a| (a.name.as_str(), a.value.as_str())).collect();
    assert_eq!(args, [("G", "1"), ("A", "2"), ("B", "")]);
    assert_eq!((outline.secrets[0].name.as_str(), outline.secrets[0].required), ("s", true));
    assert_eq!(outline.ssh[0].name, "default");
}

#[test]
fn times_come_from_arguments() {
    let epoch = |value: &str, attrs: &[(&str, &str)]| {
        let mut all = vec![("build-arg:SOURCE_DATE_EPOCH", value)];
        all.extend(attrs);
        let text =
            "FROM scratch AS when\nADD https://h/x.tar /\nFROM scratch\nARG SOURCE_DATE_EPOCH\nWORKDIR /x\n";
        let converted = convert_on(&Host::new(text), &all).map(|mut c| c.remove(0));
        converted.map(|c| {
            (c.epoch.map(|t| t.unix()), c.image.history.last().unwrap().created.as_ref().map(Time::unix))
        })
    };
    assert_eq!(epoch("7", &[]).unwrap(), (Some(7), Some(7)));
    assert_eq!(epoch("", &[]).unwrap(), (None, None));
    assert_eq!(epoch("when", &[]).unwrap().0, Some(1_600_000_000));
    assert_eq!(epoch("context", &[]).unwrap().0, None);
    assert_eq!(epoch("context", &[("context", "https://h/r.git")]).unwrap().0, Some(1_600_000_000));
    assert!(epoch("never", &[]).is_err());
}

/// A stage begins with the variables of its base in the order of the config, behind those that only ARGs have set.
#[test]
fn variables_of_steps_are_in_order() {
    let text = "FROM busybox AS x\nENV A=1 B=2\nARG C=3\nARG A=9 BASE=no\n\
                FROM x AS y\nENV A=5 BASE=1\nARG D=1\n\
                FROM y\nENV B=6\nRUN x\n";
    let converted = convert_text(text, &[]);
    let graph = Graph::decode(&converted.definition).unwrap();
    let envs = graph.vertices().iter().filter_map(|vertex| match &vertex.op.op {
        Some(pb::op::Op::Exec(exec)) => exec.meta.as_ref().map(|meta| meta.env.join(" ")),
        _ => None,
    });
    assert_eq!(envs.collect::<Vec<_>>(), ["C=3 D=1 PATH=/bin BASE=1 A=5 B=6"]);
}
