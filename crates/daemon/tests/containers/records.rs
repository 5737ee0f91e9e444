//! What is kept of builds, as `kiln why` asks for it.

use std::time::Duration;

use kiln_daemon::Daemon;
use kiln_llb::build::{Constraints, HttpOptions, http};
use kiln_proto::{
    history::{ExplainRequest, history_client::HistoryClient},
    limits::Limited as _,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::Code;

use crate::bench::{Build, Test};

pub(crate) const TESTS: &[Test] = &[("what_was_stopped_is_recorded_as_such", |daemon| {
    Box::pin(what_was_stopped_is_recorded_as_such(daemon))
})];

/// The record of a build that is about to end.
async fn record(daemon: &Daemon, name: &str) -> Value {
    let mut history = HistoryClient::new(daemon.connect().await.unwrap()).limited();
    loop {
        match history.explain(ExplainRequest { r#ref: name.to_owned(), step: String::new() }).await {
            Ok(answer) => return serde_json::from_slice(&answer.into_inner().document).unwrap(),
            Err(error) => assert_eq!(error.code(), Code::NotFound, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn what_was_stopped_is_recorded_as_such(daemon: Daemon) {
    // A server that takes a request and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let build = Build::new(&daemon, &[]).await;
    let name = build.name().to_owned();
    let state = http(&url, HttpOptions::default(), Constraints::new());
    // The connection stays open.
    let _asked = tokio::select! {
        built = build.tree(&state) => panic!("{built:?}"),
        asked = listener.accept() => asked.unwrap(),
    };
    build.vanish();
    let record = record(&daemon, &name).await;
    assert_eq!(record["build"]["outcome"], "canceled");
    let step = &record["steps"][0];
    assert_eq!((&step["status"], &step["error"]), (&"canceled".into(), &"context canceled".into()), "{step}");
}
