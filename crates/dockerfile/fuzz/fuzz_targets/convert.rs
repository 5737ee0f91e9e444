//! Any text converts to a definition that decodes, or to errors whose places are in the text.
#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use kiln_dockerfile::convert::{
    BoxError, Environment, Failure, ImageRequest, Options, ResolvedImage, Resolver, Source, SourceTime, convert,
    lint, outline,
};
use kiln_dockerfile::render;
use kiln_llb::Graph;
use kiln_oci::Platform;
use kiln_proto::pb;
use libfuzzer_sys::fuzz_target;

const IMAGE: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin","A=b"],"WorkingDir":"/w","User":"u","OnBuild":["RUN x"]},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;

struct Host(Bytes);

impl Resolver for Host {
    type Ref = ();

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, BoxError> {
        Ok(ResolvedImage {
            reference: request.reference,
            digest: None,
            config: Bytes::from_static(IMAGE.as_bytes()),
        })
    }

    async fn solve(&self, _: pb::Definition) -> Result<(), BoxError> {
        Ok(())
    }

    async fn read_file(&self, _: &(), path: &str, _: Option<u64>) -> Result<Option<Bytes>, BoxError> {
        Ok((path == "Dockerfile").then(|| self.0.clone()))
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, BoxError> {
        Ok(BTreeMap::new())
    }

    async fn source_time(&self, _: pb::SourceOp, _: String) -> Result<SourceTime, BoxError> {
        Ok(SourceTime { time: None })
    }
}

fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the conversion waits for nobody"),
    }
}

fuzz_target!(|data: &[u8]| {
    // The first byte chooses among the options.
    let Some((&choice, text)) = data.split_first() else { return };
    let mut attrs = BTreeMap::new();
    for (bit, name, value) in [
        (1, "platform", "windows/amd64"),
        (2, "no-cache", ""),
        (4, "build-arg:A", "x"),
        (8, "build-arg:SOURCE_DATE_EPOCH", "1"),
        (16, "context:b", "local:b"),
    ] {
        if choice & bit != 0 {
            attrs.insert(name.to_owned(), value.to_owned());
        }
    }
    let environment = Environment {
        session_id: "s".into(),
        unique_id: "u".into(),
        build_platform: Platform::new("linux", "amd64"),
        caps: kiln_llb::caps::ALL.iter().copied().collect(),
    };
    let options = Options::parse(&attrs, environment).unwrap();
    let host = Host(Bytes::copy_from_slice(text));
    let Ok(source) = now(Source::load(&options, &host)) else { return };
    let lines = text.split(|&byte| byte == b'\n').count();
    let platform = options.platforms.first();
    match now(convert(&source, &options, platform, &host)) {
        Ok(converted) => {
            if !converted.definition.def.is_empty() {
                Graph::decode(&converted.definition).unwrap();
            }
            converted.image.encode();
        }
        Err(failed) => {
            if let Failure::Dockerfile(errors) = &failed.failure {
                for error in errors.as_slice() {
                    assert!(error.span().end.line as usize <= lines, "{error:?}");
                }
                assert!(!render::errors("Dockerfile", &String::from_utf8_lossy(text), errors).is_empty());
            }
        }
    }
    now(lint(&source, &options, &host));
    drop(now(outline(&source, &options, &host)));
});
