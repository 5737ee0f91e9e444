//! The frontend `gateway.v0`: an image whose program makes LLB. It runs in a container and calls the gateway service over its
//! standard input and output.
//!
//! The image is a stranger's. Its program is confined as a step is, has what the build has and no more, and ends with the build.

mod environment;
mod image;
mod pipe;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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

use crate::{
    Bridge, FrontendCall, FrontendResult, Frontends, LastSolve, Request, dockerfile, errors::wire_error,
};
use image::FrontendImage;

/// The name of frontends that are images.
pub const NAME: &str = "gateway.v0";
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
    let built = match choose(bridge.frontends(), &source, &request.attrs)? {
        Choice::Own => {
            request.attrs.entry("cmdline".to_owned()).or_insert(source);
            return dockerfile::build(bridge, request).await;
        }
        Choice::Image(used) => foreign(bridge, request, &used).await,
    };
    built.map_err(|error| error.with(Detail::Frontend { name: NAME.into(), source: source.clone() }))
}

/// Whose work a frontend's name stands for.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// That of the one in this process.
    Own,
    /// That of the image of this name.
    Image(String),
}

/// Who does the work of the frontend `source`. What counts is the image that is used in the end, not the one that was named.
fn choose(
    frontends: &Frontends,
    source: &str,
    attrs: &BTreeMap<String, String>,
) -> Result<Choice, WireError> {
    // By its own name it is no image.
    let own = source == dockerfile::NAME;
    let used = if own { source.to_owned() } else { image::used(source, attrs)? };
    if !own {
        frontends.check_source(&used)?;
    }
    if own || frontends.builtin.covers(&used) {
        frontends.check(dockerfile::NAME)?;
        return Ok(Choice::Own);
    }
    Ok(Choice::Image(used))
}

/// Whether the frontend in this process does the work of the image `source`.
pub(crate) fn is_own(frontends: &Frontends, source: &str, attrs: &BTreeMap<String, String>) -> bool {
    choose(frontends, source, attrs) == Ok(Choice::Own)
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
    // The policies had another look.
    bridge.frontends().check_images(tree.graph())?;
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
    let last = LastSolve::default();
    let call = FrontendCall {
        bridge: bridge.clone(),
        inputs: request.inputs,
        depth: request.depth + 1,
        returned,
        last: last.clone(),
    };
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
    verdict(source, returned, ended, last.error())
}

/// What comes of a frontend: its own error before anything else, then how it ended, then its result. `refused` is why the last
/// solve failed that it asked for: many frontends end over that without a word.
fn verdict(
    source: &str,
    returned: Option<Result<FrontendResult, WireError>>,
    ended: Option<(Result<Exit, WireError>, String)>,
    refused: Option<String>,
) -> Result<FrontendResult, WireError> {
    let result = returned.transpose()?;
    let (exit, said) = match ended {
        Some((exit, said)) => (Some(exit?), said),
        None => (None, String::new()),
    };
    let mut said = if said.is_empty() { said } else { format!(": {said}") };
    if let Some(refused) = refused.filter(|refused| !said.contains(refused.as_str())) {
        said.push_str(&format!(": its last solve failed: {refused}"));
    }
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
        verdict("x", returned, ended, None).map_or_else(|error| error.message, |_| "a result".into())
    }

    #[test]
    fn the_image_that_is_used_counts_not_the_one_that_was_named() {
        let attrs = |image: &str| {
            let key = "context:docker/dockerfile:1".to_owned();
            BTreeMap::from([(key, format!("docker-image://{image}"))])
        };
        let chosen = |allowed: &[&str], source: &str, attrs: &BTreeMap<String, String>| {
            choose(&crate::frontends::tests::frontends(allowed), source, attrs).map_err(|error| error.code)
        };
        let (official, none) = ("docker/dockerfile:1", BTreeMap::new());
        let image = |name: &str| Ok(Choice::Image(name.to_owned()));
        assert_eq!(chosen(&[], official, &none), Ok(Choice::Own));
        assert_eq!(chosen(&[], dockerfile::NAME, &none), Ok(Choice::Own));
        assert_eq!(chosen(&[], official, &attrs("example.com/evil:1")), image("example.com/evil:1"));
        // No name that is allowed lets in one that is not, nor is one kept out for the name that it stands for.
        let list = ["docker.io/docker/dockerfile", "docker.io/me/front"];
        assert_eq!(chosen(&list, official, &none), Ok(Choice::Own));
        assert_eq!(chosen(&list, official, &attrs("example.com/evil:1")), Err(Code::PermissionDenied));
        assert_eq!(chosen(&list[1..], official, &attrs("me/front:2")), image("docker.io/me/front:2"));
        assert_eq!(chosen(&list[1..], official, &none), Err(Code::PermissionDenied));
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
        // What it had asked for last, unless it has told itself.
        let refused = |said: &str| {
            let refused = Some("no such source".into());
            verdict("x", None, ended(4, said), refused).unwrap_err().message
        };
        assert_eq!(refused(""), "frontend x failed: exit code: 4: its last solve failed: no such source");
        assert_eq!(refused("E: no such source"), "frontend x failed: exit code: 4: E: no such source");
        assert!(verdict("x", good(), ended(0, ""), Some("passed over".into())).is_ok());
    }
}
