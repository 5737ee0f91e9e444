//! Hostile definitions: every one is an error.

use bytes::Bytes;
use kiln_oci::Digest;
use kiln_proto::pb;
use proptest::prelude::*;
use prost::Message;

use crate::{Error, Graph, marshal};

fn source(id: &str) -> pb::Op {
    let source = pb::SourceOp { identifier: id.into(), ..Default::default() };
    pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }
}

fn input(raw: &Bytes, index: i64) -> pb::Input {
    pb::Input { digest: Digest::sha256(raw).to_string(), index }
}

/// A definition of `op` on a source, and its result.
fn on_source(inner: pb::op::Op, outputs: i64) -> pb::Definition {
    let base = marshal::op(source("docker-image://x"));
    let op = marshal::op(pb::Op { inputs: vec![input(&base, 0)], op: Some(inner), ..Default::default() });
    let root = marshal::op(pb::Op { inputs: vec![input(&op, outputs)], ..Default::default() });
    pb::Definition { def: vec![base, op, root], ..Default::default() }
}

fn exec(mounts: Vec<pb::Mount>) -> pb::op::Op {
    let meta = Some(pb::Meta { args: vec!["a".into()], ..Default::default() });
    pb::op::Op::Exec(pb::ExecOp { meta, mounts, ..Default::default() })
}

fn root_mount() -> pb::Mount {
    pb::Mount { dest: "/".into(), ..Default::default() }
}

fn fails(inner: pb::op::Op) -> String {
    Graph::decode(&on_source(inner, 0)).expect_err("must be refused").to_string()
}

#[test]
fn a_good_one() {
    let graph = Graph::decode(&on_source(exec(vec![root_mount()]), 0)).unwrap();
    assert_eq!(graph.vertices().len(), 2);
    assert_eq!(graph.root().vertex, graph.vertices()[1].digest);
    assert_eq!(graph.vertices()[1].inputs[0].vertex, graph.vertices()[0].digest);
}

#[test]
fn shapes() {
    assert!(matches!(Graph::decode(&pb::Definition::default()), Err(Error::Empty)));
    let one = |op: &pb::Op| pb::Definition { def: vec![marshal::op(op.clone())], ..Default::default() };
    assert!(matches!(Graph::decode(&one(&source("x"))), Err(Error::NoRoot)));
    let garbage = pb::Definition { def: vec![Bytes::from_static(b"\xff\xff")], ..Default::default() };
    assert!(matches!(Graph::decode(&garbage), Err(Error::Decode { index: 0, .. })));
    for digest in ["", "x", "sha256:00", Digest::sha256("nothing").as_str()] {
        let op = pb::Op { inputs: vec![pb::Input { digest: digest.into(), index: 0 }], ..Default::default() };
        assert!(matches!(Graph::decode(&one(&op)), Err(Error::MissingInput { .. })), "{digest}");
    }
    let base = marshal::op(source("x"));
    for index in [-1, 1, i64::MAX] {
        let root = marshal::op(pb::Op { inputs: vec![input(&base, index)], ..Default::default() });
        assert!(
            Graph::decode(&pb::Definition { def: vec![base.clone(), root], ..Default::default() }).is_err()
        );
    }
}

#[test]
fn what_is_not_needed_does_not_matter() {
    let mut def = on_source(exec(vec![root_mount()]), 0);
    def.def.insert(0, marshal::op(pb::Op { op: Some(exec(vec![])), ..Default::default() }));
    assert_eq!(Graph::decode(&def).unwrap().vertices().len(), 2);
}

#[test]
fn execs() {
    assert!(fails(pb::op::Op::Exec(pb::ExecOp::default())).contains("no meta"));
    let no_args =
        pb::ExecOp { meta: Some(pb::Meta::default()), mounts: vec![root_mount()], ..Default::default() };
    assert!(fails(pb::op::Op::Exec(no_args)).contains("no args"));
    assert!(fails(exec(vec![])).contains("no mounts"));
    assert!(fails(exec(vec![pb::Mount { dest: "/a".into(), ..Default::default() }])).contains("no rootfs"));
    let mounts = [
        pb::Mount { input: 1, ..root_mount() },
        pb::Mount { input: -2, ..root_mount() },
        pb::Mount { input: i64::MIN, ..root_mount() },
        pb::Mount { output: 1, ..root_mount() },
        pb::Mount { output: -2, ..root_mount() },
        pb::Mount { mount_type: 9, ..root_mount() },
        pb::Mount { content_cache: 9, ..root_mount() },
        pb::Mount { mount_type: pb::MountType::Cache as i32, ..root_mount() },
        pb::Mount { mount_type: pb::MountType::Secret as i32, ..root_mount() },
        pb::Mount { mount_type: pb::MountType::Ssh as i32, ..root_mount() },
    ];
    for mount in mounts {
        fails(exec(vec![mount]));
    }
    let mut odd = pb::ExecOp {
        meta: Some(pb::Meta { args: vec!["a".into()], ..Default::default() }),
        ..Default::default()
    };
    odd.mounts = vec![root_mount()];
    odd.network = 7;
    assert!(fails(pb::op::Op::Exec(odd.clone())).contains("network"));
    odd.network = 0;
    odd.security = 7;
    assert!(fails(pb::op::Op::Exec(odd)).contains("security"));
    // The second output of an op that has one.
    assert!(Graph::decode(&on_source(exec(vec![root_mount()]), 1)).is_err());
}

#[test]
fn files() {
    use pb::file_action::Action;
    let rm = || Some(Action::Rm(pb::FileActionRm::default()));
    let action =
        |input, secondary_input, output| pb::FileAction { input, secondary_input, output, action: rm() };
    let file = |actions| pb::op::Op::File(pb::FileOp { actions });
    assert!(Graph::decode(&on_source(file(vec![action(0, -1, -1), action(1, 1, 0)]), 0)).is_ok());
    for bad in [
        vec![],
        vec![action(1, -1, 0)],
        vec![action(0, 1, 0)],
        vec![action(0, -2, 0)],
        vec![action(0, -1, 1)],
        vec![action(0, -1, -1)],
        vec![action(0, -1, 0), action(0, -1, 0)],
        vec![action(0, -1, 0), action(2, -1, 1)],
        vec![pb::FileAction { action: None, ..action(0, -1, 0) }],
    ] {
        fails(file(bad));
    }
    let named = pb::user_opt::User::ByName(pb::NamedUserOpt { name: "x".into(), input: 4 });
    let owner = pb::ChownOpt { user: Some(pb::UserOpt { user: Some(named) }), group: None };
    let mkdir = Action::Mkdir(pb::FileActionMkDir { owner: Some(owner), ..Default::default() });
    assert!(fails(file(vec![pb::FileAction { action: Some(mkdir), ..action(0, -1, 0) }])).contains("owner"));
}

#[test]
fn others() {
    use pb::op::Op;
    assert!(fails(Op::Source(pb::SourceOp::default())).contains("identifier"));
    fails(Op::Merge(pb::MergeOp::default()));
    fails(Op::Merge(pb::MergeOp { inputs: vec![pb::MergeInput { input: 1 }] }));
    fails(Op::Diff(pb::DiffOp::default()));
    fails(Op::Diff(pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: 3 }),
        upper: Some(pb::UpperDiffInput { input: 0 }),
    }));
    fails(Op::Build(pb::BuildOp { builder: 3, ..Default::default() }));
    let inputs = [("x".to_owned(), pb::BuildInput { input: -1 })].into();
    fails(Op::Build(pb::BuildOp { builder: -1, inputs, ..Default::default() }));
    fails(Op::Passthrough(pb::PassthroughOp::default()));
    fails(Op::Passthrough(pb::PassthroughOp { id: "x".into(), outputs: vec![] }));
    fails(Op::Passthrough(pb::PassthroughOp { id: "x".into(), outputs: vec![5] }));
    let none = pb::Op { ..Default::default() };
    let raw = marshal::op(none.clone());
    let root = marshal::op(pb::Op { inputs: vec![input(&raw, 0)], ..Default::default() });
    assert!(Graph::decode(&pb::Definition { def: vec![raw, root], ..Default::default() }).is_err());
}

#[test]
fn source_maps() {
    let mut def = on_source(exec(vec![root_mount()]), 0);
    let digest = Digest::sha256(&def.def[1]).to_string();
    for index in [-1, 0] {
        let location = pb::Location { source_index: index, ranges: vec![].into() };
        let locations = [(digest.clone(), pb::Locations { locations: [location].into() })].into();
        def.source = Some(pb::Source { locations, infos: vec![] });
        assert!(matches!(Graph::decode(&def), Err(Error::SourceIndex { .. })));
    }
}

proptest! {
    /// Whatever the bytes are, decoding ends with a graph or an error.
    #[test]
    fn no_bytes_panic(ops in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..6)) {
        let def = pb::Definition { def: ops.into_iter().map(Bytes::from).collect(), ..Default::default() };
        drop(Graph::decode(&def));
    }

    /// The same for valid messages with arbitrary indexes.
    #[test]
    fn no_indexes_panic(a in any::<i64>(), b in any::<i64>(), c in any::<i64>(), small in -2i64..3, kind in 0..4) {
        let mount = pb::Mount { input: small, output: a, mount_type: (b % 7) as i32, ..root_mount() };
        let op = match kind {
            0 => exec(vec![mount, root_mount()]),
            1 => pb::op::Op::Merge(pb::MergeOp { inputs: vec![pb::MergeInput { input: a }, pb::MergeInput { input: small }] }),
            2 => pb::op::Op::File(pb::FileOp { actions: vec![pb::FileAction { input: small, secondary_input: a, output: b, action: None }] }),
            _ => pb::op::Op::Passthrough(pb::PassthroughOp { id: "p".into(), outputs: vec![a, small] }),
        };
        drop(Graph::decode(&on_source(op, c)));
    }

    /// Encoding loses nothing.
    #[test]
    fn encoded_ops_decode(args in proptest::collection::vec(".*", 0..4), attrs in proptest::collection::btree_map(".*", ".*", 0..4)) {
        let source = pb::Op { op: Some(pb::op::Op::Source(pb::SourceOp { identifier: "x".into(), attrs })), ..Default::default() };
        prop_assert_eq!(&pb::Op::decode(marshal::op(source.clone())).unwrap(), &source);
        let meta = Some(pb::Meta { args, ..Default::default() });
        let exec = pb::Op { op: Some(pb::op::Op::Exec(pb::ExecOp { meta, ..Default::default() })), ..Default::default() };
        prop_assert_eq!(&pb::Op::decode(marshal::op(exec.clone())).unwrap(), &exec);
    }
}
