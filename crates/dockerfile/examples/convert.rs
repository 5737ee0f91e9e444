//! Parses, lints and converts a Dockerfile, without a daemon and without a network:
//!
//! ```text
//! cargo run -p kiln-dockerfile --example convert Dockerfile [TARGET]
//! ```
//!
//! Prints the steps that the target needs with the digests of their vertices, the image's config, and warnings; or what is
//! wrong, as a compiler would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use kiln_dockerfile::convert::{
    self, BoxError, Environment, Failure, ImageRequest, Options, ResolvedImage, Resolver, Source, SourceTime,
};
use kiln_dockerfile::render;
use kiln_llb::Graph;
use kiln_oci::Platform;
use kiln_proto::pb;

/// What a conversion asks of the world outside. A daemon would ask the client for files and registries for images; this host
/// reads the folder of the Dockerfile, and takes every image for an empty one.
struct Host {
    folder: PathBuf,
}

impl Resolver for Host {
    /// What [`Resolver::solve`] made: here there is only one tree, the folder.
    type Ref = ();

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, BoxError> {
        let config = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#;
        Ok(ResolvedImage {
            reference: request.reference,
            digest: None,
            config: Bytes::from_static(config.as_bytes()),
        })
    }

    async fn solve(&self, _: pb::Definition) -> Result<(), BoxError> {
        Ok(())
    }

    async fn read_file(&self, _: &(), path: &str, _: Option<u64>) -> Result<Option<Bytes>, BoxError> {
        match std::fs::read(self.folder.join(path)) {
            Ok(data) => Ok(Some(data.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, BoxError> {
        Ok(BTreeMap::new())
    }

    async fn source_time(&self, _: pb::SourceOp, _: String) -> Result<SourceTime, BoxError> {
        Ok(SourceTime { time: None })
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(file), target) = (args.next(), args.next()) else {
        eprintln!("usage: convert Dockerfile [TARGET]");
        return ExitCode::FAILURE;
    };
    match block_on(run(Path::new(&file), target)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprint!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// This host answers at once, so nothing ever waits; a real one brings its runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

async fn run(file: &Path, target: Option<String>) -> Result<(), String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let host = Host { folder: file.parent().unwrap_or(Path::new("")).to_owned() };
    // What `docker build` would send as options of the frontend.
    let mut attrs = BTreeMap::from([("filename".to_owned(), name.clone())]);
    attrs.extend(target.map(|target| ("target".to_owned(), target)));
    let environment = Environment {
        session_id: String::new(),
        unique_id: "example".to_owned(),
        build_platform: Platform::host(),
        caps: kiln_llb::caps::ALL.iter().copied().collect(),
    };
    let options = Options::parse(&attrs, environment).map_err(|error| format!("{error}\n"))?;
    let source = Source::load(&options, &host).await.map_err(|error| format!("{error}\n"))?;
    let text = String::from_utf8_lossy(&source.data).into_owned();
    let converted =
        convert::convert(&source, &options, None, &host).await.map_err(|failed| match failed.failure {
            Failure::Dockerfile(errors) => render::errors(&name, &text, &errors),
            outside => format!("{outside}\n"),
        })?;
    let lines = render::lines(&text);
    for warning in &converted.warnings {
        println!("warning: {}: {}", warning.rule.name(), warning.message);
        print!("{}", render::excerpt_of(&name, &lines, warning.span));
    }
    if !converted.definition.def.is_empty() {
        let graph = Graph::decode(&converted.definition).map_err(|error| format!("{error}\n"))?;
        for vertex in graph.vertices() {
            println!("{} {}", vertex.digest, vertex.name());
        }
    }
    println!("{}", String::from_utf8_lossy(&converted.image.encode()));
    Ok(())
}
