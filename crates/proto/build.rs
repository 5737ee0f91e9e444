//! Compiles `proto/*.proto` with a compiler written in Rust, so that nothing but cargo is needed.

use std::{env, error::Error, fs, path::Path};

use prost::Message as _;

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
    fs::write(Path::new(&out).join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        // There is one for each op: see src/metadata.rs.
        .extern_path(".pb.OpMetadata", "crate::OpMetadata")
        .include_file("packages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
