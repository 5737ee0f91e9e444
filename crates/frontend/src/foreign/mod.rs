//! The frontend `gateway.v0`: an image whose program makes LLB. It runs in a container and calls the gateway service over its
//! standard input and output.
//!
//! The image is a stranger's. Its program is confined as a step is, has what the build has and no more, and ends with the build.

mod environment;
mod image;
mod pipe;

use std::{sync::Arc, time::Duration};

use kiln_executor::{Exit, ProcessIo, Stdin};
use kiln_ops::{
    OpError,
    container::{ContainerSpec, ProcessRequest, SideContainer},
};
use kiln_proto::{
    pb,
    status::{Detail, WireError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::Code;

use crate::{Bridge, FrontendCall, FrontendResult, Request, dockerfile, errors::wire_error};
use image::FrontendImage;

/// How many frontends may call one another.
const MAX_DEPTH: usize = 16;
/// Bytes under way between a frontend and the service, each way.
const BUFFER: usize = 1 << 18;
/// Pieces of a program's input and output that may wait.
const QUEUE: usize = 16;
/// How long a frontend that has returned its result may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Builds with the frontend that the request's `source` names.
pub(crate) async fn build(bridge: &Arc<Bridge>, mut request: Request) -> Result<FrontendResult, WireError> {
    let invalid = |message: &str| WireError::new(Code::InvalidArgument, message);
    if request.attrs.contains_key("gateway-devel") {
        return Err(invalid("development gateway is no longer supported (the option gateway-devel)"));
    }
    let source = request.attrs.get("source").cloned().unwrap_or_default();
    if source.is_empty() {
        return Err(invalid("no frontend source defined: gateway.v0 needs the option source"));
    }
    // By its own name it is no image.
    let frontends = bridge.frontends();
    if source != dockerfile::NAME {
        frontends.check_source(&source)?;
    }
    if source == dockerfile::NAME || frontends.builtin.covers(&source) {
        frontends.check(dockerfile::NAME)?;
        request.attrs.entry("cmdline".to_owned()).or_insert(source);
        return dockerfile::build(bridge, request).await;
    }
    let built = foreign(bridge, request, &source).await;
    built.map_err(|error| error.with(Detail::Frontend { name: "gateway.v0".into(), source: source.clone() }))
}

async fn foreign(bridge: &Arc<Bridge>, request: Request, source: &str) -> Result<FrontendResult, WireError> {
    if request.depth >= MAX_DEPTH {
        let message = format!("frontend {source}: {MAX_DEPTH} frontends have called one another already");
        return Err(WireError::new(Code::ResourceExhausted, message));
    }
    let image = FrontendImage::load(bridge, source, &request).await?;
    environment::check_caps(&image.config, &request)?;
    let nothing = || wire_error(format_args!("frontend image {source} is empty"));
    let tree = bridge.solve_definition(image.definition.clone(), &request.policies, &[]).await?;
    let tree = tree.ok_or_else(nothing)?;
    let files = tree.unpack().await?.ok_or_else(nothing)?;
    let failed = |error: OpError| wire_error(format_args!("frontend {source}: {error}"));
    let spec = ContainerSpec {
        name: source.to_owned(),
        mounts: vec![(pb::Mount { dest: "/".into(), ..pb::Mount::default() }, Some(files))],
        network: environment::network(&image.config).into(),
        generated: vec![environment::metadata(&image.definition)],
        ..ContainerSpec::default()
    };
    let (host, group, allowed) = (bridge.host().clone(), bridge.group(), bridge.allowed().clone());
    let container = SideContainer::new(host, group, allowed, spec).await.map_err(failed)?;
    let process = ProcessRequest {
        meta: environment::meta(&image.config, bridge, &request),
        ..ProcessRequest::default()
    };
    let result = run(bridge, request, &container, process, source).await;
    container.release().await;
    result
}

/// Runs the frontend to its end. Dropped, it leaves the container to be dropped, which kills it.
async fn run(
    bridge: &Arc<Bridge>,
    request: Request,
    container: &SideContainer,
    process: ProcessRequest,
    source: &str,
) -> Result<FrontendResult, WireError> {
    let (near, far) = tokio::io::duplex(BUFFER);
    let (returned, mut answer) = oneshot::channel();
    let call =
        FrontendCall { bridge: bridge.clone(), inputs: request.inputs, depth: request.depth + 1, returned };
    let _service = AbortOnDrop(tokio::spawn(bridge.frontends().door.serve(call, far)));
    let (input, stdin) = mpsc::channel(QUEUE);
    let (output, outputs) = mpsc::channel(QUEUE);
    let io = ProcessIo { stdin: Stdin::Channel(stdin), output: Some(output) };
    let failed = |error: OpError| wire_error(format_args!("frontend {source}: {error}"));
    let process = container.start(process, io).await.map_err(failed)?;
    let ended = async { tokio::join!(process.wait(), pipe::connect(near, input, outputs)) };
    tokio::pin!(ended);
    let (returned, ended) = tokio::select! {
        ended = &mut ended => (answer.try_recv().ok(), Some(ended)),
        Ok(returned) = &mut answer => (Some(returned), timeout(GRACE, &mut ended).await.ok()),
    };
    let ended = ended.map(|(exit, said)| (exit.map_err(failed), said));
    verdict(source, returned, ended)
}

/// What comes of a frontend: its own error before anything else, then how it ended, then its result.
fn verdict(
    source: &str,
    returned: Option<Result<FrontendResult, WireError>>,
    ended: Option<(Result<Exit, WireError>, String)>,
) -> Result<FrontendResult, WireError> {
    let result = returned.transpose()?;
    let (exit, said) = match ended {
        Some((exit, said)) => (Some(exit?), said),
        None => (None, String::new()),
    };
    let said = if said.is_empty() { said } else { format!(": {said}") };
    if let Some(exit) = exit.filter(|exit| exit.code != 0) {
        let memory = if exit.oom_killed { " (out of memory: the kernel killed it)" } else { "" };
        let message = format!("frontend {source} failed: exit code: {}{memory}{said}", exit.code);
        return Err(wire_error(message).with(Detail::Exit(exit.code)));
    }
    result.ok_or_else(|| wire_error(format_args!("frontend {source} ended without a result{said}")))
}

/// A task that ends with whoever started it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: u32, said: &str) -> Option<(Result<Exit, WireError>, String)> {
        Some((Ok(Exit { code, ..Exit::default() }), said.to_owned()))
    }

    fn message(
        returned: Option<Result<FrontendResult, WireError>>,
        ended: Option<(Result<Exit, WireError>, String)>,
    ) -> String {
        verdict("x", returned, ended).map_or_else(|error| error.message, |_| "a result".into())
    }

    #[test]
    fn the_frontends_own_error_comes_first() {
        let good = || Some(Ok(FrontendResult::single(None)));
        let bad = || Some(Err(wire_error("its own")));
        assert_eq!(message(bad(), ended(1, "noise")), "its own");
        assert_eq!(message(good(), ended(0, "noise")), "a result");
        assert_eq!(message(good(), None), "a result");
        assert_eq!(message(good(), ended(2, "panic: y")), "frontend x failed: exit code: 2: panic: y");
        assert_eq!(message(None, ended(0, "")), "frontend x ended without a result");
        assert_eq!(message(None, Some((Err(wire_error("lost")), String::new()))), "lost");
    }
}
