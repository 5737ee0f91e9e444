//! Frontends that are images, run in containers.

use std::collections::BTreeMap;

use kiln_daemon::Daemon;
use kiln_llb::build::{Constraints, File, Marshal, State};
use kiln_proto::{
    gateway::{ReadFileRequest, SolveRequest, result::Result as AnyRef},
    pb,
    status::{Detail, WireError},
};
use serde_json::json;
use tonic::{Code, Status};

use crate::{
    bench::{Build, Test, running},
    registry::serve_ourselves,
};

pub(crate) const TESTS: &[Test] = &[
    ("frontends_in_containers", |daemon| Box::pin(frontends_in_containers(daemon))),
    ("frontends_end_with_their_build", |daemon| Box::pin(frontends_end_with_their_build(daemon))),
];

/// The file that the frontend makes, asked for by options.
async fn built(
    build: &Build,
    source: &str,
    options: &[(&str, &str)],
    inputs: BTreeMap<String, pb::Definition>,
) -> Result<String, Status> {
    let mut attrs: BTreeMap<String, String> =
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    attrs.insert("source".into(), source.into());
    let request = SolveRequest {
        frontend: "gateway.v0".into(),
        frontend_opt: attrs,
        frontend_inputs: inputs,
        allow_result_return: true,
        ..SolveRequest::default()
    };
    let answer = build.client().solve(build.call(request)).await?.into_inner();
    let Some(AnyRef::RefDeprecated(tree)) = answer.result.unwrap().result else { panic!("no ref") };
    let file = ReadFileRequest { r#ref: tree, file_path: "/file".into(), ..Default::default() };
    let data = build.client().read_file(build.call(file)).await?.into_inner().data;
    Ok(String::from_utf8(data.into()).unwrap())
}

async fn frontends_in_containers(daemon: Daemon) {
    let source =
        serve_ourselves(json!({"moby.buildkit.frontend.caps": "moby.buildkit.frontend.inputs"})).await;
    let build = Build::new(&daemon, &[]).await;
    let of = async |mode: &str| built(&build, &source, &[("mode", mode)], BTreeMap::new()).await;
    assert_eq!(of("file").await.unwrap(), "made by a frontend");
    assert_eq!(of("told").await.unwrap(), "yes false linux true");
    assert_eq!(of("nested").await.unwrap(), "made by a frontend");
    assert_eq!(of("curious").await.unwrap(), "x");
    let error = of("odd").await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "what is odd?"));
    let error = WireError::from(of("dies").await.unwrap_err());
    assert!(error.message.ends_with("failed: exit code: 3: panic: no reason"), "{}", error.message);
    assert!(error.details.contains(&Detail::Frontend { name: "gateway.v0".into(), source: source.clone() }));
    assert!(of("silent").await.unwrap_err().message().contains("ended without a result"));
    assert!(of("forever").await.unwrap_err().message().contains("have called one another"));
    let file = File::new().mkfile("/file", 0o644, "an input", None, None);
    let folder = State::scratch().file(file, Constraints::new()).marshal(&Marshal::new("test")).unwrap();
    let inputs = BTreeMap::from([("folder".to_owned(), folder)]);
    assert_eq!(built(&build, &source, &[("mode", "inputs")], inputs).await.unwrap(), "an input");
    // What the image does not say that it can do is refused before anything runs.
    let options = [("mode", "file"), ("frontend.caps", "moby.buildkit.frontend.contexts+forward")];
    let error = WireError::from(built(&build, &source, &options, BTreeMap::new()).await.unwrap_err());
    assert_eq!(error.code, Code::Unimplemented);
    assert!(error.details.contains(&Detail::FrontendCap("moby.buildkit.frontend.contexts".into())));
    build.end().await;
}

async fn frontends_end_with_their_build(daemon: Daemon) {
    let source = serve_ourselves(json!({})).await;
    let build = Build::new(&daemon, &[]).await;
    let (client, request) = (
        build.client(),
        SolveRequest {
            frontend: "gateway.v0".into(),
            frontend_opt: [("source".to_owned(), source), ("mode".to_owned(), "hangs".to_owned())].into(),
            ..SolveRequest::default()
        },
    );
    let request = build.call(request);
    let mut client = client;
    let call = tokio::spawn(async move { client.solve(request).await.map(drop) });
    let there = async |wanted: bool| {
        for _ in 0..500 {
            if running("/frontend") == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("running: {}", !wanted);
    };
    there(true).await;
    // The client leaves: the call, and the build with it.
    call.abort();
    build.vanish();
    there(false).await;
}
