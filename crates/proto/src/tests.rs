//! Names and numbers that peers rely on: a slip of the pen in a .proto file would show here.

use prost::Message as _;

use crate::{fsutil, gateway, pb};

#[test]
fn packets_have_fsutils_bytes() {
    let packet = fsutil::Packet {
        r#type: fsutil::packet::PacketType::PacketData.into(),
        stat: None,
        id: 7,
        data: "x".into(),
    };
    assert_eq!(packet.encode_to_vec(), [0x08, 2, 0x18, 7, 0x22, 1, b'x']);
}

#[test]
fn a_definition_has_its_known_bytes() {
    let definition = pb::Definition { def: vec!["ab".into()], ..Default::default() };
    assert_eq!(definition.encode_to_vec(), [0x0a, 2, b'a', b'b']);
    let mount = pb::Mount { dest: "/".into(), ssh_opt: Some(pb::SshOpt::default()), ..Default::default() };
    assert_eq!(mount.encode_to_vec(), [0x1a, 1, b'/', 0xb2, 1, 0]);
}

#[test]
fn services_have_the_references_paths() {
    let set = prost_types::FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap();
    let mut paths: Vec<String> = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    for path in [
        "/moby.buildkit.v1.Control/Solve",
        "/moby.buildkit.v1.Control/Session",
        "/moby.buildkit.v1.frontend.LLBBridge/ResolveSourceMeta",
        "/moby.filesync.v1.FileSync/DiffCopy",
        "/moby.filesync.v1.FileSend/DiffCopy",
        "/moby.filesync.v1.Auth/GetTokenAuthority",
        "/moby.buildkit.secrets.v1.Secrets/GetSecret",
        "/moby.sshforward.v1.SSH/ForwardAgent",
        "/moby.upload.v1.Upload/Pull",
        "/moby.exporter.v1.Exporter/FindExporters",
        "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy",
        "/grpc.health.v1.Health/Check",
        "/containerd.services.content.v1.Content/Read",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/kiln.history.v1.History/Explain",
    ] {
        assert!(paths.iter().any(|p| p == path), "{path} is not among {paths:?}");
    }
}

#[test]
fn results_of_old_clients_are_readable() {
    // Field 1 of Result, the deprecated single ref.
    let result = gateway::Result::decode(&[0x0a, 1, b'r'][..]).unwrap();
    assert_eq!(result.result, Some(gateway::result::Result::RefDeprecated("r".into())));
}
