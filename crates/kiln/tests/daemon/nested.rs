//! Steps whose result is a definition that is built in its turn.

use kiln_llb::build::{Constraints, File, Marshal, Run, State, image};
use kiln_proto::pb;
use prost::Message as _;

use crate::support::{
    Bench, Build, Daemon, Image, Left, Registry, alone, assert_sound, folder_for, wait_for,
};

/// A definition that another one brings along as a file.
fn nested(inner: &pb::Definition) -> Vec<u8> {
    let file = File::new().mkfile("/buildkit.llb.definition", 0o644, inner.encode_to_vec(), None, None);
    let holder = State::scratch().file(file, Constraints::new().custom_name("holder"));
    let mut definition = holder.marshal(&Marshal::new("nested")).unwrap();
    let input = |op: &[u8]| {
        let digest = kiln_oci::Digest::sha256(op).to_string();
        pb::Input { digest, index: 0 }
    };
    definition.def.pop();
    let build = pb::BuildOp {
        builder: -1,
        inputs: [("buildkit.llb.definition".to_owned(), pb::BuildInput { input: 0 })].into(),
        ..pb::BuildOp::default()
    };
    let inputs = vec![input(&definition.def[0])];
    let build = pb::Op { inputs, op: Some(pb::op::Op::Build(build)), ..pb::Op::default() };
    let build = kiln_llb::marshal::op(build);
    let root = pb::Op { inputs: vec![input(&build)], ..pb::Op::default() };
    definition.def.extend([build, root.encode_to_vec().into()]);
    definition.encode_to_vec()
}

#[test]
fn a_build_that_may_less_does_not_join_what_one_that_may_more_has_under_way() {
    let Some(_alone) = alone() else { return };
    let registry = Registry::start(&Image::new());
    let folder = folder_for(&registry);
    let config = "insecure-entitlements = [\"network.host\"]\n".to_owned() + &registry.config();
    std::fs::write(folder.path().join("buildkitd.toml"), config).unwrap();
    let daemon = Daemon::start(folder.path());
    let bench = Bench { registry, folder, daemon };

    let base = format!("{}/base:latest", bench.registry.address);
    let script = format!("wget -q -O /dev/null http://{}/mark/nested; sleep 2", bench.registry.address);
    let step = image(&base, Default::default(), Constraints::new())
        .unwrap()
        .env("PATH", "/bin")
        .network(pb::NetMode::Host)
        .run(Run::new(["sh", "-c", &script]))
        .unwrap();
    let outer = nested(&step.root().marshal(&Marshal::new("inner")).unwrap());

    let allowed = Build::definition(outer.clone()).arg("--allow=network.host").start(&bench.daemon.address());
    wait_for("the step", || bench.registry.mark("nested"));
    let error = Build::definition(outer).fail(&bench.daemon.address());
    assert!(error.contains("entitlement network.host is not allowed"), "{error}");
    assert!(!allowed.is_over(), "the step has ended too soon to tell");
    let seen = allowed.end();
    assert!(seen.success, "{:#?}", seen.other);
    let root = bench.path().join("root");
    bench.daemon.stop();
    Left::no_processes();
    assert_sound(&root);
}
