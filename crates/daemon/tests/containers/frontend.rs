//! A frontend, which this program is when it runs in a container: what it does is an option.

use std::{collections::BTreeMap, time::Duration};

use kiln_llb::build::{Constraints, File, Marshal, State};
use kiln_proto::{
    gateway::{
        self, InputsRequest, PingRequest, ReadFileRequest, ReturnRequest, SolveRequest,
        llb_bridge_client::LlbBridgeClient, result::Result as AnyRef,
    },
    limits::Limited as _,
    pb, rpc,
};
use tonic::{Status, transport::Channel};

/// The options that a frontend is started with; `None` where this is no frontend.
pub(crate) fn options() -> Option<BTreeMap<String, String>> {
    std::env::var_os("BUILDKIT_EXPORTEDPRODUCT")?;
    let all = std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
    all.map(|(_, option)| option.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect()
}

pub(crate) fn main(options: &BTreeMap<String, String>) -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(options));
    // A read of standard input may be under way, which nothing ends.
    runtime.shutdown_background();
    std::process::ExitCode::SUCCESS
}

async fn run(options: &BTreeMap<String, String>) {
    let streams = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
    let channel = kiln_session::connect(streams).await.unwrap();
    let mut client = LlbBridgeClient::new(channel).limited();
    let mode = options["mode"].clone();
    let result = match mode.as_str() {
        "file" => tree(&mut client, file("made by a frontend")).await,
        "told" => tree(&mut client, file(&told())).await,
        "nested" | "forever" => {
            let mut attrs = options.clone();
            if mode == "nested" {
                attrs.insert("mode".into(), "file".into());
            }
            let request = SolveRequest {
                frontend: "gateway.v0".into(),
                frontend_opt: attrs,
                allow_result_return: true,
                ..SolveRequest::default()
            };
            client.solve(request).await.map(|answer| answer.into_inner().result.unwrap())
        }
        "inputs" => {
            let inputs = client.inputs(InputsRequest {}).await.unwrap().into_inner().definitions;
            tree(&mut client, inputs["folder"].clone()).await
        }
        "curious" => curious(&mut client).await,
        "dies" => {
            eprintln!("panic: no reason");
            std::process::exit(3);
        }
        "silent" => return,
        "hangs" => {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            return;
        }
        other => Err(Status::failed_precondition(format!("what is {other}?"))),
    };
    let answer = match result {
        Ok(result) => ReturnRequest { result: Some(result), error: None },
        Err(status) => {
            let error =
                rpc::Status { code: status.code().into(), message: status.message().into(), details: vec![] };
            ReturnRequest { result: None, error: Some(error) }
        }
    };
    client.r#return(answer).await.unwrap();
}

/// `/file` with this text.
fn file(text: &str) -> pb::Definition {
    let file = File::new().mkfile("/file", 0o644, text.to_owned(), None, None);
    State::scratch().file(file, Constraints::new()).marshal(&Marshal::new("frontend")).unwrap()
}

/// What the environment says, for the test to look at.
fn told() -> String {
    let has = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let workers = std::env::var("BUILDKIT_WORKERS").unwrap();
    let workers: serde_json::Value = serde_json::from_str(&workers).unwrap();
    let metadata = std::fs::metadata("/run/config/buildkit/metadata/frontend.bin");
    format!(
        "{} {} {} {}",
        std::env::var("FROM_IMAGE").unwrap(),
        has("BUILDKIT_SESSION_ID"),
        workers[0]["platforms"][0]["os"].as_str().unwrap(),
        metadata.is_ok_and(|file| file.len() > 0),
    )
}

async fn tree(
    client: &mut LlbBridgeClient<Channel>,
    definition: pb::Definition,
) -> Result<gateway::Result, Status> {
    let request =
        SolveRequest { definition: Some(definition), allow_result_return: true, ..SolveRequest::default() };
    Ok(client.solve(request).await?.into_inner().result.unwrap())
}

/// Asks for what it must not get: everything that it got is an error of the build.
async fn curious(client: &mut LlbBridgeClient<Channel>) -> Result<gateway::Result, Status> {
    let got = |what: &str| Status::internal(format!("got {what}"));
    client.ping(PingRequest {}).await?;
    let result = tree(client, file("x")).await?;
    let Some(AnyRef::RefDeprecated(id)) = &result.result else { return Err(got("another result")) };
    for path in ["../../../../etc/passwd", "/proc/self/environ", "/file/../../etc/passwd"] {
        let file = ReadFileRequest { r#ref: id.clone(), file_path: path.into(), ..Default::default() };
        if client.read_file(file).await.is_ok() {
            return Err(got(path));
        }
    }
    // The confinement of a step: nothing of the host is there, and nothing of it can be mounted.
    for path in ["/etc/shadow", "/proc/1/root/etc/shadow", "/dev/sda", "/proc/sysrq-trigger"] {
        if std::fs::OpenOptions::new().write(true).open(path).is_ok() {
            return Err(got(path));
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.contains("Seccomp:\t2") {
        return Err(got("out of the filter"));
    }
    Ok(result)
}
