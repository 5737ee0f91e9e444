//! Compiles `proto/*.proto` with a compiler written in Rust, so that nothing but cargo is needed.

use std::{env, error::Error, fs, path::Path};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const FILES: &[&str] = &[
    "caps",
    "content",
    "control",
    "errdefs",
    "exporter",
    "filesync",
    "fsutil",
    "gateway",
    "health",
    "history",
    "llb",
    "policy",
    "policysession",
    "secrets",
    "sshforward",
    "stack",
    "trace",
    "upload",
    "worker",
    "google/rpc/status",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files: Vec<String> = FILES.iter().map(|name| format!("{name}.proto")).collect();
    let descriptors = protox::compile(files, ["proto"])?;
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let out = Path::new(&out);
    fs::write(out.join("methods.rs"), format!("&{:?}", methods(&descriptors)))?;
    fs::write(out.join("descriptors.bin"), without_comments(&descriptors).encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        // They have much for each op: see src/definition.rs, src/location.rs and src/metadata.rs.
        .extern_path(".pb.Definition", "crate::Definition")
        .extern_path(".pb.Source", "crate::Source")
        .extern_path(".pb.Locations", "crate::Locations")
        .extern_path(".pb.Location", "crate::Location")
        .extern_path(".pb.OpMetadata", "crate::OpMetadata")
        .include_file("packages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

/// All methods, as `/package.Service/Method`.
fn methods(descriptors: &FileDescriptorSet) -> Vec<String> {
    let mut methods = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let prefix = format!("/{}.{}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| format!("{prefix}/{}", method.name())));
        }
    }
    methods
}

fn without_comments(descriptors: &FileDescriptorSet) -> FileDescriptorSet {
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    bare
}
