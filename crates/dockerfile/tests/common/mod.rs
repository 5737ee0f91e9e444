//! A host for conversions that knows everything it is asked at once: one image per name, and the files of one context.

// Each test uses what it needs.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use bytes::Bytes;
use kiln_dockerfile::convert::{
    self, BoxError, Converted, Environment, Failed, ImageRequest, Options, ResolvedImage, Resolver, Source,
    SourceTime,
};
use kiln_oci::{Digest, Platform, Time};
use kiln_proto::pb;

/// The config of every image that has none of its own.
pub const IMAGE: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;

pub struct Host {
    /// Of the folders `dockerfile` and `context`.
    pub files: BTreeMap<String, String>,
    /// By the beginning of the complete reference.
    pub images: BTreeMap<String, String>,
}

impl Host {
    pub fn new(dockerfile: impl Into<String>) -> Self {
        let files = [("Dockerfile".to_owned(), dockerfile.into())].into();
        Self { files, images: BTreeMap::new() }
    }
}

impl Resolver for Host {
    type Ref = ();

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, BoxError> {
        let own = self.images.iter().find(|(name, _)| request.reference.starts_with(name.as_str()));
        let config = own.map_or(IMAGE, |(_, config)| config).to_owned();
        Ok(ResolvedImage {
            digest: Some(Digest::sha256(&config)),
            reference: request.reference,
            config: config.into(),
        })
    }

    async fn solve(&self, _: pb::Definition) -> Result<(), BoxError> {
        Ok(())
    }

    async fn read_file(&self, _: &(), path: &str, _: Option<u64>) -> Result<Option<Bytes>, BoxError> {
        Ok(self.files.get(path).map(|text| Bytes::from(text.clone())))
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, BoxError> {
        Ok(BTreeMap::new())
    }

    async fn source_time(&self, _: pb::SourceOp, _: String) -> Result<SourceTime, BoxError> {
        Ok(SourceTime { time: Some(Time::from_unix(1_600_000_000)) })
    }
}

pub fn options(attrs: &BTreeMap<String, String>) -> Options {
    let environment = Environment {
        session_id: "session".into(),
        unique_id: "unique".into(),
        build_platform: Platform::new("linux", "amd64"),
        caps: kiln_llb::caps::ALL.iter().copied().collect(),
    };
    Options::parse(attrs, environment).expect("options")
}

/// Converts for each platform asked for.
pub fn convert(host: &Host, attrs: &BTreeMap<String, String>) -> Result<Vec<Converted>, Failed> {
    let options = options(attrs);
    let early = |failure| Failed { failure, warnings: Vec::new() };
    let source = now(Source::load(&options, host)).map_err(early)?;
    match options.platforms.as_slice() {
        [] => Ok(vec![now(convert::convert(&source, &options, None, host))?]),
        all => all.iter().map(|p| now(convert::convert(&source, &options, Some(p), host))).collect(),
    }
}

/// Nothing in the host ever waits.
pub fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the conversion waits for nobody"),
    }
}
