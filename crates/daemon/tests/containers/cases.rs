//! What clients do with containers, and what they must not be able to.

use std::time::Duration;

use kiln_daemon::Daemon;
use kiln_llb::build::{Constraints, File, Mount, Run, State};
use kiln_proto::{
    gateway::{
        InitMessage, NewContainerRequest, ReadDirRequest, ReadFileRequest, ResizeMessage, SignalMessage,
        StatFileRequest, exec_message::Input,
    },
    pb,
    status::{Detail, WireError},
};
use tonic::Code;

use crate::bench::{Build, Test, base, bind, named, running, script_of};

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[Test] = &[$((stringify!($name), |daemon| Box::pin($name(daemon)))),*];
    };
}

tests![
    streams_and_codes,
    the_first_process_ends_the_others,
    signals_and_terminals,
    release_cancels,
    files_of_mounts,
    failed_steps_can_be_looked_into,
    failed_file_actions_can_be_looked_into,
    nothing_outlives_a_build,
    mounts_outlive_what_uses_them,
    modes_are_entitlements,
    what_makes_no_sense_is_refused,
    other_builds_are_out_of_reach,
];

async fn streams_and_codes(daemon: Daemon) {
    let build = Build::new(&daemon, &[]).await;
    build.container("c").await;
    let mut processes = build.processes().await;
    processes.script("a", "c", "read x; echo got $x; echo bad >&2; exit 7");
    processes.input("a", "word\n", true);
    let seen = processes.end("a").await;
    assert_eq!((seen.out.as_str(), seen.err.as_str(), seen.code()), ("got word\n", "bad\n", 7));
    assert_eq!(seen.order, ["started", "end of out", "end of err", "exit", "done"]);
    let error = WireError::from_rpc(seen.exit.as_ref().unwrap().error.as_ref().unwrap());
    assert_eq!((error.message.as_str(), error.exit_code()), ("exit code: 7", Some(7)));
    // The first has ended, and with it the container.
    processes.script("b", "c", "true");
    assert!(processes.end("b").await.error().contains("not running"));
    // One that is missing is told as one that could not be started.
    processes.script("c", "other", "true");
    let seen = processes.end("c").await;
    assert_eq!(seen.code(), 255);
    assert!(seen.error().contains("previously released or not created"), "{}", seen.error());
    build.release("c").await.unwrap();
    build.end().await;
}

async fn the_first_process_ends_the_others(daemon: Daemon) {
    let build = Build::new(&daemon, &[]).await;
    build.container("c").await;
    let mut processes = build.processes().await;
    processes.script("first", "c", "echo up; read x");
    processes.until("first", |seen| seen.out == "up\n").await;
    processes.script("second", "c", "touch /mark; test -f /hello && echo there; sleep 100");
    processes.until("second", |seen| seen.out == "there\n").await;
    processes.script("third", "c", "test -f /mark");
    assert_eq!(processes.end("third").await.code(), 0);
    processes.input("first", "", true);
    assert_eq!(processes.end("second").await.code(), 137);
    processes.end("first").await;
    build.release("c").await.unwrap();
    build.end().await;
}

async fn signals_and_terminals(daemon: Daemon) {
    let build = Build::new(&daemon, &[]).await;
    build.container("c").await;
    let mut processes = build.processes().await;
    processes.script("a", "c", "trap 'exit 42' HUP; echo ready; while :; do sleep 0.05; done");
    processes.until("a", |seen| seen.out.contains("ready")).await;
    let init = InitMessage {
        tty: true,
        fds: vec![0, 1],
        ..script_of("c", "echo $TERM; while :; do /bin/busybox stty size; sleep 0.05; done")
    };
    processes.send("b", Input::Init(init));
    processes.until("b", |seen| seen.out.contains("xterm")).await;
    processes.send("b", Input::Resize(ResizeMessage { rows: 40, cols: 100 }));
    processes.until("b", |seen| seen.out.contains("40 100")).await;
    // A size that no terminal has does no harm.
    processes.send("b", Input::Resize(ResizeMessage { rows: u32::MAX, cols: 80 }));
    processes.send("b", Input::Resize(ResizeMessage { rows: 41, cols: 101 }));
    processes.until("b", |seen| seen.out.contains("41 101")).await;
    processes.send("b", Input::Signal(SignalMessage { name: "KILL".into() }));
    assert_eq!(processes.end("b").await.code(), 137);
    // It hears no more, which is no error.
    processes.send("b", Input::Resize(ResizeMessage { rows: 1, cols: 1 }));
    processes.send("a", Input::Signal(SignalMessage { name: "HUP".into() }));
    assert_eq!(processes.end("a").await.code(), 42);
    processes.send("a", Input::Signal(SignalMessage { name: "NOSUCH".into() }));
    assert_eq!(processes.failure().await.unwrap().code(), Code::InvalidArgument);
    build.end().await;
}

async fn release_cancels(daemon: Daemon) {
    let build = Build::new(&daemon, &[]).await;
    build.container("c").await;
    let mut processes = build.processes().await;
    processes.script("a", "c", "echo up; sleep 100");
    processes.script("b", "c", "echo up; sleep 100");
    processes.until("b", |seen| seen.out == "up\n").await;
    let error = build.release("c").await.unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    for process in ["a", "b"] {
        let error = processes.end(process).await.error();
        assert!(error.contains("context canceled"), "{error}");
    }
    assert_eq!(build.release("c").await.unwrap_err().code(), Code::NotFound);
    // A stream that its client leaves takes along what it has started.
    build.container("d").await;
    let mut processes = build.processes().await;
    processes.script("a", "d", "echo up; sleep 100");
    processes.until("a", |seen| seen.out == "up\n").await;
    drop(processes);
    let mut again = build.processes().await;
    for attempt in 0.. {
        let process = format!("p{attempt}");
        again.script(&process, "d", "true");
        if again.end(&process).await.error().contains("not running") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    build.end().await;
}

async fn files_of_mounts(daemon: Daemon) {
    let build = Build::new(&daemon, &[]).await;
    let root = build.tree(&base()).await.unwrap();
    let folder = File::new().mkfile("/a", 0o600, "A", None, None);
    let folder =
        folder.symlink("/etc/passwd", "/out", None, None).symlink("../../../etc/passwd", "/up", None, None);
    let other = build.tree(&State::scratch().file(folder, Constraints::new())).await.unwrap();
    let tmpfs = pb::Mount { mount_type: pb::MountType::Tmpfs.into(), ..bind("/tmp", "") };
    let shown = pb::Mount { readonly: true, ..bind("/other", &other) };
    let request = NewContainerRequest {
        mounts: vec![bind("/", &root), shown, tmpfs],
        hostname: "forge".into(),
        extra_hosts: vec![pb::HostIp { host: "some.host".into(), ip: "169.254.1.2".into() }],
        ..named("c")
    };
    build.client().new_container(build.call(request)).await.unwrap();
    let mut processes = build.processes().await;
    let script = "echo written > /new; touch /tmp/x; cat /other/a /proc/sys/kernel/hostname; \
                  grep -c some.host /etc/hosts; touch /other/b || echo refused; read x";
    processes.script("a", "c", script);
    let out = processes.until("a", |seen| seen.out.contains("refused")).await.out.clone();
    assert_eq!(out, "Aforge\n1\nrefused\n");
    let file = |path: &str, mount: i32| ReadFileRequest {
        r#ref: "c".into(),
        file_path: path.into(),
        mount_index: mount,
        ..ReadFileRequest::default()
    };
    let mut client = build.client();
    let mut read = async |path, mount| {
        let read = client.read_file_container(build.call(file(path, mount))).await;
        read.map(|answer| answer.into_inner().data)
    };
    assert_eq!(read("/new", 0).await.unwrap(), "written\n");
    assert_eq!(read("/link", 0).await.unwrap(), "hello\n");
    assert_eq!(read("a", 1).await.unwrap(), "A");
    // Links do not lead out of the mount, to the host least of all.
    assert_eq!(read("/out", 1).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(read("/up", 1).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(read("/../../../etc/passwd", 1).await.unwrap_err().code(), Code::NotFound);
    for mount in [2, 3, -1] {
        assert_eq!(read("/x", mount).await.unwrap_err().code(), Code::InvalidArgument, "{mount}");
    }
    let stat =
        |path: &str, index: i32| StatFileRequest { r#ref: "c".into(), path: path.into(), mount_index: index };
    let link =
        client.stat_file_container(build.call(stat("/out", 1))).await.unwrap().into_inner().stat.unwrap();
    assert_eq!(link.linkname, "/etc/passwd");
    let link =
        client.stat_file_container(build.call(stat("/link", 0))).await.unwrap().into_inner().stat.unwrap();
    assert_eq!((link.linkname.as_ref(), link.size), (&b""[..], 6));
    let list =
        ReadDirRequest { r#ref: "c".into(), dir_path: "/".into(), mount_index: 1, ..Default::default() };
    let entries = client.read_dir_container(build.call(list)).await.unwrap().into_inner().entries;
    assert_eq!(entries.iter().map(|e| e.path.as_ref()).collect::<Vec<_>>(), [&b"a"[..], b"out", b"up"]);
    // What a container writes is its own.
    let request = NewContainerRequest { mounts: vec![bind("/", &root)], ..named("d") };
    build.client().new_container(build.call(request)).await.unwrap();
    processes.script("b", "d", "test ! -e /new");
    assert_eq!(processes.end("b").await.code(), 0);
    build.end().await;
}

/// The names that a failed solve tells: of what it began with, and of what had become of that.
fn left(status: tonic::Status) -> serde_json::Value {
    let details = WireError::from(status).details;
    let solve = details.iter().find_map(|detail| match detail {
        Detail::Other(any) if any.type_url.ends_with("/errdefs.Solve+json") => Some(any.value.clone()),
        _ => None,
    });
    serde_json::from_slice(&solve.unwrap()).unwrap()
}

async fn failed_steps_can_be_looked_into(daemon: Daemon) {
    let build = Build::new(&daemon, &[]).await;
    let run = Run::new(["sh", "-c", "echo half > /made; echo more > /rw/made; exit 3"])
        .mount(Mount::bind("/rw", &State::scratch()));
    let step = base().env("PATH", "/bin").run(run).unwrap();
    let failure = left(build.tree(step.root()).await.unwrap_err());
    let mounts = failure["mountIDs"].as_array().unwrap();
    assert_eq!((mounts.len(), failure["inputIDs"].as_array().unwrap().len()), (2, 2));
    assert_eq!(failure["op"]["exec"]["mounts"][1]["dest"], "/rw");
    let places = mounts.iter().zip(["/", "/rw"]).map(|(id, dest)| bind(dest, id.as_str().unwrap()));
    let request = NewContainerRequest { mounts: places.collect(), ..named("c") };
    build.client().new_container(build.call(request)).await.unwrap();
    let mut processes = build.processes().await;
    processes.script("a", "c", "cat /made /rw/made");
    assert_eq!(processes.end("a").await.out, "half\nmore\n");
    build.end().await;
}

async fn failed_file_actions_can_be_looked_into(daemon: Daemon) {
    let build = Build::new(&daemon, &[]).await;
    let root = build.tree(&base()).await.unwrap();
    let files = File::new().mkdir("/found", 0o755, false, None, None);
    let files = files.mkfile("/found/a", 0o644, "A", None, None);
    let files = files.mkfile("/missing/a", 0o644, "B", None, None);
    let state = State::scratch().file(files, Constraints::new());
    let failure = left(build.tree(&state).await.unwrap_err());
    assert_eq!(failure["file"]["index"], "2");
    let mounts = failure["mountIDs"].as_array().unwrap();
    assert_eq!((mounts.len(), mounts[0].as_str()), (3, Some("")));
    let places = vec![bind("/", &root), bind("/left", mounts[2].as_str().unwrap())];
    let request = NewContainerRequest { mounts: places, ..named("c") };
    build.client().new_container(build.call(request)).await.unwrap();
    let mut processes = build.processes().await;
    processes.script("a", "c", "cat /left/found/a");
    assert_eq!(processes.end("a").await.out, "A");
    build.end().await;
}

async fn nothing_outlives_a_build(daemon: Daemon) {
    // At its end, and when the client vanishes.
    for vanishes in [false, true] {
        let build = Build::new(&daemon, &[]).await;
        build.container("c").await;
        let mut processes = build.processes().await;
        processes.script("a", "c", "trap '' TERM HUP INT; echo up; while :; do sleep 4321; done");
        processes.until("a", |seen| seen.out == "up\n").await;
        while !running("4321") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if vanishes {
            build.vanish();
        } else {
            build.end().await;
        }
        // The stream ends, as nothing can come any more.
        processes.failure().await;
        for _ in 0..200 {
            if !running("4321") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!running("4321"));
    }
}

async fn mounts_outlive_what_uses_them(daemon: Daemon) {
    let cache = pb::CacheOpt { id: "locked".into(), sharing: pb::CacheSharingOpt::Locked.into() };
    let cache =
        pb::Mount { mount_type: pb::MountType::Cache.into(), cache_opt: Some(cache), ..bind("/cache", "") };
    let with_cache =
        |root: &str| NewContainerRequest { mounts: vec![bind("/", root), cache.clone()], ..named("c") };
    let build = Build::new(&daemon, &[]).await;
    let root = build.tree(&base()).await.unwrap();
    build.client().new_container(build.call(with_cache(&root))).await.unwrap();
    let mut processes = build.processes().await;
    let many = "i=0; while [ $i -lt 300 ]; do sleep 4322 & i=$((i+1)); done; echo up; wait";
    processes.script("a", "c", many);
    processes.until("a", |seen| seen.out == "up\n").await;
    assert!(running("4322"));
    // The next one has the mount for himself as soon as the first lets go of it.
    let next = Build::new(&daemon, &[]).await;
    let root = next.tree(&base()).await.unwrap();
    let mut client = next.client();
    let made = client.new_container(next.call(with_cache(&root)));
    tokio::pin!(made);
    tokio::select! {
        made = &mut made => panic!("{made:?}"),
        () = tokio::time::sleep(Duration::from_millis(100)) => build.vanish(),
    }
    made.await.unwrap();
    assert!(!running("4322"), "others still use it");
    next.end().await;
}

async fn modes_are_entitlements(daemon: Daemon) {
    let insecure =
        |process: InitMessage| InitMessage { security: pb::SecurityMode::Insecure.into(), ..process };
    // The daemon allows both, but the build has not asked.
    let build = Build::new(&daemon, &[]).await;
    let mut processes = build.processes().await;
    build.container("c").await;
    processes.send("a", Input::Init(insecure(script_of("c", "touch /ran"))));
    let seen = processes.end("a").await;
    assert!(seen.error().contains("security.insecure is not allowed"), "{}", seen.error());
    // Nor beside a process that is allowed.
    processes.script("b", "c", "test ! -e /ran && echo up; read x");
    processes.until("b", |seen| seen.out == "up\n").await;
    processes.send("c", Input::Init(insecure(script_of("c", "true"))));
    assert!(processes.end("c").await.error().contains("security.insecure is not allowed"));
    for mode in [2, -1, i32::MAX] {
        let process = format!("mode {mode}");
        processes.send(&process, Input::Init(InitMessage { security: mode, ..script_of("c", "true") }));
        let seen = processes.end(&process).await;
        assert!(seen.error().contains("invalid security mode"), "{}", seen.error());
    }
    let root = build.tree(&base()).await.unwrap();
    let request = NewContainerRequest {
        mounts: vec![bind("/", &root)],
        network: pb::NetMode::Host.into(),
        ..named("host")
    };
    build.client().new_container(build.call(request)).await.unwrap();
    processes.script("d", "host", "true");
    let seen = processes.end("d").await;
    assert!(seen.error().contains("network.host is not allowed"), "{}", seen.error());
    build.end().await;

    let build = Build::new(&daemon, &["security.insecure"]).await;
    build.container("c").await;
    let mut processes = build.processes().await;
    let script = "awk '/^Seccomp:/ {print $2}' /proc/self/status; read x";
    processes.send("a", Input::Init(insecure(script_of("c", script))));
    assert_eq!(processes.until("a", |seen| !seen.out.is_empty()).await.out, "0\n");
    // One without confinement in a container that began with it would be confined.
    build.container("d").await;
    processes.script("b", "d", "read x");
    processes.send("c", Input::Init(insecure(script_of("d", "true"))));
    assert!(processes.end("c").await.error().contains("not supported"));
    build.end().await;
}

async fn what_makes_no_sense_is_refused(daemon: Daemon) {
    let build = Build::new(&daemon, &[]).await;
    let root = build.tree(&base()).await.unwrap();
    let code = async |request: NewContainerRequest| {
        build.client().new_container(build.call(request)).await.map_or_else(|e| e.code(), |_| Code::Ok)
    };
    let with = |mounts: Vec<pb::Mount>| NewContainerRequest { mounts, ..named("x") };
    assert_eq!(code(with(vec![])).await, Code::InvalidArgument);
    assert_eq!(code(with(vec![bind("/a", &root)])).await, Code::InvalidArgument);
    assert_eq!(code(with(vec![bind("/", &root), bind("", &root)])).await, Code::InvalidArgument);
    assert_eq!(code(with(vec![bind("/", "nothing")])).await, Code::NotFound);
    let cache = pb::Mount { mount_type: pb::MountType::Cache.into(), ..bind("/", &root) };
    assert_eq!(code(with(vec![cache])).await, Code::InvalidArgument);
    let unknown = pb::Mount { mount_type: 42, ..bind("/a", "") };
    assert_eq!(code(with(vec![bind("/", &root), unknown])).await, Code::InvalidArgument);
    assert_eq!(
        code(NewContainerRequest { container_id: "n".repeat(300), ..with(vec![]) }).await,
        Code::InvalidArgument
    );
    assert_eq!(code(with(vec![bind("/", &root)])).await, Code::Ok);
    assert_eq!(code(with(vec![bind("/", &root)])).await, Code::AlreadyExists);
    // A mount that climbs out of the root by its text, and one that names a host's file.
    let own = File::new().mkdir("/etc", 0o755, false, None, None);
    let own = State::scratch().file(own.mkfile("/etc/own", 0o644, "own", None, None), Constraints::new());
    let own = build.tree(&own).await.unwrap();
    let selector =
        pb::Mount { selector: "../../../../etc".into(), readonly: true, ..bind("/../../up", &own) };
    assert_eq!(
        code(NewContainerRequest { container_id: "up".into(), ..with(vec![bind("/", &root), selector]) })
            .await,
        Code::Ok
    );
    let mut processes = build.processes().await;
    // Both end at the tops of their trees. The host has a file of that name, the tree has none.
    assert!(std::path::Path::new("/etc/passwd").exists());
    processes.script("up", "up", "cat /up/own; test -e /up/passwd || echo , alone");
    let seen = processes.end("up").await;
    assert_eq!((seen.out.as_str(), seen.code()), ("own, alone\n", 0), "{} {}", seen.err, seen.error());
    let of_process = [
        (
            pb::Meta { cgroup_parent: "/elsewhere".into(), ..pb::Meta::default() },
            "a cgroup parent of its own",
        ),
        (pb::Meta { hostname: "h".into(), ..pb::Meta::default() }, "a host name of its own"),
        (pb::Meta::default(), "arguments"),
    ];
    for (number, (meta, problem)) in of_process.into_iter().enumerate() {
        let process = format!("meta {number}");
        processes.send(&process, Input::Init(InitMessage { meta: Some(meta), ..script_of("x", "true") }));
        let seen = processes.end(&process).await;
        assert_eq!(seen.code(), 255, "{process}");
        assert!(seen.error().contains(problem), "{problem}: {}", seen.error());
    }
    processes.script("x", "x", "echo fine");
    assert_eq!(processes.end("x").await.out, "fine\n");
    processes.input("nobody", "x", false);
    assert_eq!(processes.failure().await.unwrap().code(), Code::NotFound);
    build.end().await;
}

async fn other_builds_are_out_of_reach(daemon: Daemon) {
    let (mine, theirs) = (Build::new(&daemon, &[]).await, Build::new(&daemon, &[]).await);
    theirs.container("c").await;
    let tree = theirs.tree(&base()).await.unwrap();
    let request = NewContainerRequest { mounts: vec![bind("/", &tree)], ..named("x") };
    assert_eq!(mine.client().new_container(mine.call(request)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(mine.release("c").await.unwrap_err().code(), Code::NotFound);
    let mut processes = mine.processes().await;
    processes.script("a", "c", "true");
    let seen = processes.end("a").await;
    assert_eq!(seen.code(), 255);
    assert!(seen.error().contains("previously released or not created"), "{}", seen.error());
    let file = ReadFileRequest { r#ref: "c".into(), file_path: "/hello".into(), ..Default::default() };
    let read = mine.client().read_file_container(mine.call(file)).await;
    assert_eq!(read.unwrap_err().code(), Code::NotFound);
    mine.end().await;
    theirs.release("c").await.unwrap();
    theirs.end().await;
}
