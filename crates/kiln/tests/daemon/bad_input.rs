//! Bad input is a clear error; the daemon goes on, and its store is sound.

use kiln_llb::build::{Constraints, CopyOptions, File, Marshal, State};
use kiln_proto::{
    control::{SolveRequest, control_client::ControlClient},
    gateway::{self, llb_bridge_client::LlbBridgeClient},
    pb,
};
use prost::Message as _;
use rustix::process::Signal;
use tonic::{Code, Request, Status};

use crate::support::{
    Bench, Build, Context, Daemon, Image, Manner, Tar, Watch, alone, connect, descendants, gzip, wait_for,
};

/// A tar of one file, cut off in that file.
fn truncated() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.file("big", 0o644, &vec![7; 200_000]);
    let mut tar = tar.finish();
    tar.truncate(100_000);
    tar
}

#[test]
fn truncated_archives() {
    let Some(_alone) = alone() else { return };
    let bench = Bench::new();
    let good = Image::new();
    // As a layer: whole as a blob, but the tar in it is cut off; then the gzip stream too.
    bench.registry.hold(&Image::of(vec![truncated()]));
    let error = bench.fails("FROM BASE\nCOPY --from=BASE / /\n");
    assert!(error.contains("unexpected EOF"), "{error}");
    let layer = gzip(&truncated());
    bench.registry.hold(&Image::with_layer(layer[..layer.len() / 2].to_vec(), &truncated()));
    let error = bench.fails("FROM BASE\nCOPY --from=BASE / /\n");
    assert!(error.contains("unexpected EOF"), "{error}");
    // A layer that is not the one of the image's config.
    bench.registry.hold(&Image::with_layer(gzip(&Tar::default().finish()), b"something else"));
    let error = bench.fails("FROM BASE\nCOPY --from=BASE / /\n");
    assert!(error.contains("sha256:"), "{error}");
    bench.registry.hold(&good);
    // As a file of the context.
    let archive = bench.path().join("context/archive.tar");
    std::fs::write(&archive, truncated()).unwrap();
    let error = bench.fails("FROM scratch\nADD archive.tar /here/\n");
    assert!(error.contains("archive.tar"), "{error}");
    std::fs::write(&archive, &gzip(&truncated())[..200]).unwrap();
    let error = bench.fails("FROM scratch\nADD archive.tar /here/\n");
    assert!(error.contains("archive.tar"), "{error}");
    bench.end();
}

#[test]
fn registries_that_break_off() {
    let Some(_alone) = alone() else { return };
    let bench = Bench::new();
    let dockerfile = "FROM BASE\nRUN cat /layer2/file7 > /seven\n";
    // A registry that never gets further: an error that names the layer, after some tries.
    bench.registry.behave(Manner::Breaks);
    let error = bench.fails(dockerfile);
    let digests: Vec<_> = bench.registry.asked().into_iter().map(|(digest, _)| digest).collect();
    assert!(digests.iter().any(|digest| error.contains(digest)), "{error}");
    assert!(bench.registry.asked().iter().any(|(_, from)| *from > 0), "nothing was resumed");
    // One that gets a little further each time, with what came before: the build does not even notice.
    bench.registry.behave(Manner::Halves);
    bench.build(dockerfile).run(&bench.daemon.address());
    let asked = bench.registry.asked();
    assert!(asked.iter().any(|(_, from)| *from > 0), "{asked:?}");
    bench.prune();
    // One that is busy for a moment.
    bench.registry.behave(Manner::Busy(2));
    bench.build(dockerfile).run(&bench.daemon.address());
    bench.prune();
    // One that takes a half for the whole.
    bench.registry.behave(Manner::Truncated);
    let error = bench.fails(dockerfile);
    assert!(error.contains("sha256:"), "{error}");
    bench.registry.behave(Manner::Well);
    bench.end();
}

impl Bench {
    fn prune(&self) {
        crate::support::buildctl(&self.daemon.address(), &["prune", "--all"]);
    }
}

/// What a client gets for a definition, by `Control.Solve` and by the gateway.
async fn refusals(address: &str, definition: pb::Definition) -> [Status; 2] {
    let channel = connect(address).await;
    let mut control = ControlClient::new(channel.clone());
    let request = SolveRequest { definition: Some(definition.clone()), ..SolveRequest::default() };
    let direct = control.solve(request).await.unwrap_err();
    // A build that its client drives.
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let name = format!("build{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let request = SolveRequest { r#ref: name.clone(), ..SolveRequest::default() };
    let building = tokio::spawn(async move { control.solve(request).await });
    let mut request = Request::new(gateway::SolveRequest {
        definition: Some(definition),
        evaluate: true,
        allow_result_return: true,
        ..gateway::SolveRequest::default()
    });
    request.metadata_mut().insert(kiln_session::headers::BUILD_ID, name.parse().unwrap());
    let by_gateway = LlbBridgeClient::new(channel).solve(request).await.unwrap_err();
    building.abort();
    [direct, by_gateway]
}

/// Every op of a definition, changed by `change`, with the names of its inputs made right again.
fn changed(definition: &pb::Definition, change: impl Fn(&mut pb::Op)) -> pb::Definition {
    let mut made = pb::Definition::default();
    let mut names = std::collections::BTreeMap::new();
    for bytes in &definition.def {
        let mut op = pb::Op::decode(bytes.as_ref()).unwrap();
        for input in &mut op.inputs {
            if let Some(name) = names.get(&input.digest) {
                input.digest = String::clone(name);
            }
        }
        change(&mut op);
        let new = op.encode_to_vec();
        let old_name = kiln_oci::Digest::sha256(bytes).to_string();
        names.insert(old_name, kiln_oci::Digest::sha256(&new).to_string());
        made.def.push(new.into());
    }
    made
}

#[test]
fn definitions_with_wrong_indexes() {
    let Some(_alone) = alone() else { return };
    let mut bench = Bench::new();
    let file = File::new().mkfile("/a", 0o644, b"a".to_vec(), None, None);
    let made = State::scratch().file(file, Constraints::new());
    let copied = State::scratch()
        .file(File::new().copy(&made, "/a", "/b", CopyOptions::default()), Constraints::new());
    let good = copied.marshal(&Marshal::new("bad")).unwrap();
    type Change = fn(&mut pb::Op);
    let changes: [(&str, Change); 6] = [
        ("an output that is not there", |op| op.inputs.iter_mut().for_each(|input| input.index = 7)),
        ("a negative output", |op| op.inputs.iter_mut().for_each(|input| input.index = -7)),
        ("a vertex that is not there", |op| {
            op.inputs.iter_mut().for_each(|input| input.digest = kiln_oci::Digest::sha256("x").to_string());
        }),
        ("no digest", |op| op.inputs.iter_mut().for_each(|input| input.digest = "../../etc".to_owned())),
        ("an action's input that is not there", |op| {
            if let Some(pb::op::Op::File(file)) = &mut op.op {
                file.actions.iter_mut().for_each(|action| action.secondary_input = 99);
            }
        }),
        ("an action's output beyond all", |op| {
            if let Some(pb::op::Op::File(file)) = &mut op.op {
                file.actions.iter_mut().for_each(|action| action.output = i64::MAX);
            }
        }),
    ];
    let mut bad: Vec<_> = changes.iter().map(|(what, change)| (*what, changed(&good, change))).collect();
    bad.push(("garbage", pb::Definition { def: vec![vec![0xff; 100].into()], ..good.clone() }));
    bad.push(("an empty op", pb::Definition { def: vec![Vec::new().into()], ..good.clone() }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for (what, definition) in bad {
        let statuses = runtime.block_on(refusals(&bench.daemon.address(), definition.clone()));
        for status in statuses {
            println!("{what}: {:?} {}", status.code(), status.message());
            assert!(!status.message().is_empty() && status.code() != Code::Internal, "{what}: {status:?}");
            assert!(!status.message().contains("panic"), "{what}: {status:?}");
        }
        // And as a client sends it.
        Build::definition(definition.encode_to_vec()).fail(&bench.daemon.address());
        assert!(bench.daemon.is_up(), "{what}");
    }
    Build::definition(good.encode_to_vec()).run(&bench.daemon.address());
    bench.end();
}

/// Waits until nothing runs in the daemon but what it keeps for itself.
fn wait_idle(daemon: &Daemon) {
    wait_for("the end of the steps' processes", || {
        let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let all = descendants(daemon.pid());
        all.iter().all(|pid| matches!(name(pid).trim(), "" | "kiln-runtime")).then_some(())
    });
}

#[test]
fn clients_that_vanish() {
    let Some(_alone) = alone() else { return };
    let bench = Bench::new();
    let mark = |word: &str| format!("wget -q -O /dev/null http://{}/mark/{word}", bench.registry.address);
    // In the middle of a context, again and again: each time another half of it has changed.
    for version in 0..4 {
        Context::write(bench.path(), version);
        let watch = Watch::new(bench.path());
        let client = bench.build("FROM scratch\nCOPY . /\n").start(&bench.daemon.address());
        watch.wait();
        client.signal(Signal::KILL);
        client.end();
    }
    // Whole files of the last version came over one of another; what is built is the last version.
    let out = bench.path().join("out");
    let local = format!("--output=type=local,dest={}", out.display());
    bench.build("FROM scratch\nCOPY . /\n").arg(local).run(&bench.daemon.address());
    Context::assert_equal(&bench.path().join("context"), &out);
    // In the middle of a step that does not care for signals.
    let step = format!("FROM BASE\nRUN (trap '' TERM; setsid sleep 31415) & {}; sleep 31415\n", mark("run"));
    for signal in [Signal::KILL, Signal::INT] {
        bench.registry.forget();
        let client = bench.build(&step).start(&bench.daemon.address());
        bench.registry.wait("run");
        client.signal(signal);
        client.end();
        wait_idle(&bench.daemon);
    }
    bench.end();
}
