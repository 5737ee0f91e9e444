use prost::Message;

use super::*;
use crate::Graph;

fn amd64() -> Marshal {
    Marshal { platform: Platform::new("linux", "amd64"), unique_id: "u".into(), caps: None }
}

fn busybox() -> State {
    image("busybox", ImageOptions::default(), Constraints::new()).unwrap()
}

/// Digests that other implementations compute for the same graphs.
#[test]
fn digests_are_everybodys() {
    let state = busybox()
        .run(Run::new(["echo", "hi"]))
        .unwrap()
        .root()
        .file(File::new().mkfile("/a", 0o644, "x", None, None), Constraints::new());
    let def = state.marshal(&amd64()).unwrap();
    let digests: Vec<String> = def.def.iter().map(|d| Digest::sha256(d).to_string()).collect();
    assert_eq!(
        digests,
        [
            "sha256:e1432b8e2054abb034451c15f0a8ad49d07f5892ca266016226fec77e95d20a0",
            "sha256:d65dfb3d39c3320531497b89336bcd7152846eb42a25c207b357b66b81c5668a",
            "sha256:815ed2370ddf3d5b664c7a15ab162ea370e2f7395e3963e872ff1b519eb3cdb2",
            "sha256:9f958b4bc6152fd5495f9c56f6d161633c6460daefc6cdeb1f1b63cd9f7077d3",
        ]
    );
}

use kiln_oci::Digest;

#[test]
fn what_is_built_passes_its_own_checks() {
    let context = local("context", LocalOptions::default(), Constraints::new());
    let exec = busybox()
        .run(
            Run::new(["make"])
                .mount(Mount::bind("/src", &context).selector("/sub").no_output())
                .mount(Mount::bind("/out", &State::scratch()))
                .mount(Mount::cache("/cache", "id").sharing(pb::CacheSharingOpt::Locked))
                .mount(Mount::tmpfs("/tmp", 1 << 20))
                .secret(Secret::file("s", "/run/secrets/s"))
                .secret(Secret::env("s", "S"))
                .ssh(Ssh::new("default"))
                .constraints(Constraints::new().custom_name("compile")),
        )
        .unwrap();
    let out = exec.mount("/out").unwrap();
    let merged = State::merge([exec.root(), out, &context], Constraints::new());
    let all = State::diff(exec.root(), &merged, Constraints::new()).requires("x", [&busybox()]).file(
        File::new()
            .copy(
                &context,
                "a",
                "b/",
                CopyOptions { owner: Some(Owner::parse("me:root")), ..Default::default() },
            )
            .rm("/x", true, true),
        Constraints::new(),
    );
    let graph = Graph::decode(&all.marshal(&amd64()).unwrap()).unwrap();
    assert_eq!(graph.vertices().len(), 7);
    let names: Vec<_> = graph.vertices().iter().map(|v| v.name()).collect();
    assert!(names.contains(&"compile"));
    assert!(names.contains(&"merge (compile, compile, local://context)"));
    assert!(names.contains(&"copy /a /b/, rm /x"));
    let exec = graph.vertices().iter().find(|v| v.name() == "compile").unwrap();
    let Some(pb::op::Op::Exec(op)) = &exec.op.op else { panic!("not an exec") };
    let outputs: Vec<_> = op.mounts.iter().map(|m| (m.dest.as_str(), m.input, m.output)).collect();
    assert_eq!(
        outputs,
        [
            ("/", 0, 0),
            ("/cache", -1, -1),
            ("/out", -1, 1),
            ("/src", 1, -1),
            ("/tmp", -1, -1),
            ("/run/secrets/s", -1, 0),
            ("/run/buildkit/ssh_agent.0", -1, 0)
        ]
    );
    assert_eq!(op.meta.as_ref().unwrap().env, ["SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"]);
}

#[test]
fn scratch_adds_nothing() {
    let s = State::scratch();
    assert!(s.marshal(&amd64()).unwrap().def.is_empty());
    assert!(State::merge([&s, &s], Constraints::new()).is_scratch());
    assert!(State::diff(&s, &s, Constraints::new()).is_scratch());
    assert!(s.file(File::new(), Constraints::new()).is_scratch());
    assert!(s.run(Run::new(Vec::<String>::new())).is_err());
    assert!(s.run(Run::new(["x"]).mount(Mount::tmpfs("/t", 0).from(&busybox()))).is_err());
}

#[test]
fn variables_and_folders() {
    let s = State::scratch().env("A", "1").env("B", "2").env("A", "3").dir("/x/y").dir("../z");
    assert_eq!(s.envs().iter().collect::<Vec<_>>(), [("B", "2"), ("A", "3")]);
    assert_eq!((s.get_dir(), s.get_env("A"), s.get_env("C")), ("/x/z", Some("3"), None));
}

#[test]
fn path_is_added_for_daemons_that_do_not() {
    let env = |caps: &[&str], os: &str| {
        let options = Marshal {
            caps: Some(caps.iter().copied().collect()),
            platform: Platform::new(os, "amd64"),
            unique_id: String::new(),
        };
        let def = busybox().run(Run::new(["x"])).unwrap().root().marshal(&options).unwrap();
        let Some(pb::op::Op::Exec(op)) = pb::Op::decode(def.def[1].clone()).unwrap().op else {
            panic!("not an exec")
        };
        op.meta.unwrap().env.len()
    };
    assert_eq!(env(&[crate::caps::EXEC_META_SETS_DEFAULT_PATH], "linux"), 0);
    assert_eq!(env(&[], "linux"), 1);
    assert_eq!(env(&[], "windows"), 0);
}

#[test]
fn locations_name_their_file_once() {
    let map = |data: &'static str| {
        Arc::new(SourceMap {
            filename: "Dockerfile".into(),
            language: "Dockerfile".into(),
            data: data.into(),
            state: Some(busybox()),
        })
    };
    let range = |line| pb::Range { start: Some(pb::Position { line, character: 0 }), end: None };
    let at = |m: &Arc<SourceMap>, line| Constraints::new().location(m, vec![range(line)]);
    let (a, b) = (map("a"), map("a"));
    let state = image("busybox", ImageOptions::default(), at(&a, 1))
        .unwrap()
        .file(File::new().rm("/x", true, false), at(&b, 2));
    let def = state.marshal(&amd64()).unwrap();
    assert_eq!(def.source.as_ref().unwrap().infos.len(), 1);
    let graph = Graph::decode(&def).unwrap();
    assert_eq!(graph.vertices()[1].locations.locations[0].ranges, vec![range(2)].into());
    assert!(graph.sources()[0].definition.is_some());
}

#[test]
fn local_sources_need_something_unique() {
    let none = Marshal { unique_id: String::new(), ..amd64() };
    assert!(local("c", LocalOptions::default(), Constraints::new()).marshal(&none).is_err());
    let options = LocalOptions { session: "s".into(), ..LocalOptions::default() };
    assert!(local("c", options, Constraints::new()).marshal(&none).is_ok());
    assert!(local("c", LocalOptions::default(), Constraints::new().unique_id("x")).marshal(&none).is_ok());
}

#[test]
fn paths() {
    for (dir, path, want) in [
        ("/w", "x/", "/w/x/"),
        ("/w", "/x/.", "/x/."),
        ("w", "x", "/w/x"),
        ("/", ".", "/"),
        ("/w", "./", "/w/"),
        ("/", "/.", "/."),
    ] {
        assert_eq!(normalize_path(dir, path, true), want, "{path:?}");
    }
}

#[test]
fn owners() {
    assert_eq!(Owner::parse("root:5"), Owner { user: Some(User::Id(0)), group: Some(User::Id(5)) });
    assert_eq!(Owner::parse("me"), Owner { user: Some(User::Name("me".into())), group: None });
}

#[test]
fn git_identifiers() {
    let id = |url: &str, options: GitOptions| {
        let def = git(url, options, Constraints::new()).unwrap().marshal(&amd64()).unwrap();
        let Some(pb::op::Op::Source(op)) = pb::Op::decode(def.def[0].clone()).unwrap().op else {
            panic!("not a source")
        };
        (op.identifier, op.attrs.get("git.fullurl").cloned().unwrap())
    };
    assert_eq!(
        id("https://me@github.com/a/b.git#v1:dir", GitOptions::default()),
        ("git://github.com/a/b.git#v1:dir".to_owned(), "https://me@github.com/a/b.git".to_owned())
    );
    assert_eq!(
        id("git@github.com:a/b.git", GitOptions { reference: "x".into(), ..Default::default() }),
        ("git://github.com/a/b.git#x".to_owned(), "git@github.com:a/b.git".to_owned())
    );
    assert_eq!(id("github.com/a/b", GitOptions::default()).1, "https://github.com/a/b");
}

/// A chain of states that is longer than any stack.
#[test]
fn long_chains() {
    let mut state = busybox();
    for i in 0..100_001 {
        state = state.file(File::new().mkfile("/a", 0o644, i.to_string(), None, None), Constraints::new());
    }
    let def = state.marshal(&amd64()).unwrap();
    assert!(matches!(Graph::decode(&def), Err(crate::Error::TooManyOps(_))));
    drop(state);
}

#[test]
fn deferred_states_are_what_fills_them() {
    let (later, slot) = State::deferred();
    let copy = |from: &State| {
        State::scratch().file(File::new().copy(from, "/a", "/b", CopyOptions::default()), Constraints::new())
    };
    let deferred = copy(&later);
    assert!(deferred.marshal(&amd64()).is_err());
    slot.fill(&busybox());
    slot.fill(&State::scratch());
    assert_eq!(deferred.marshal(&amd64()).unwrap(), copy(&busybox()).marshal(&amd64()).unwrap());
    let (scratch, slot) = State::deferred();
    slot.fill(&State::scratch());
    assert_eq!(copy(&scratch).marshal(&amd64()).unwrap().def.len(), 2);
    assert!(scratch.marshal(&amd64()).unwrap().def.is_empty());
}

#[test]
fn definitions_become_states_again() {
    let map = Arc::new(SourceMap { filename: "f".into(), ..SourceMap::default() });
    let state = busybox()
        .run(Run::new(["x"]).constraints(Constraints::new().custom_name("n").location(&map, vec![])))
        .unwrap();
    let def = state.root().marshal(&amd64()).unwrap();
    let again = State::from_definition(&def).unwrap();
    assert_eq!(again.marshal(&amd64()).unwrap(), def);
    assert_eq!(again.get_platform().unwrap().format(), "linux/amd64");
    let more = again.file(File::new().rm("/x", true, false), Constraints::new());
    assert_eq!(Graph::decode(&more.marshal(&amd64()).unwrap()).unwrap().vertices().len(), 3);
    assert!(State::from_definition(&pb::Definition::default()).unwrap().is_scratch());
}
