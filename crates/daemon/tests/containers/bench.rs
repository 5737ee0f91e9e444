//! The harness, a daemon, and one build of it that this process drives as a client does.

use std::{collections::HashMap, path::Path, pin::Pin, process::ExitCode, time::Duration};

use bytes::Bytes;
use kiln_daemon::{Config, Daemon};
use kiln_llb::build::{Constraints, File, Marshal, State};
use kiln_ops::Entitlement;
use kiln_proto::{
    control::{SolveRequest as BuildRequest, control_client::ControlClient},
    gateway::{
        self, ExecMessage, ExitMessage, FdMessage, InitMessage, NewContainerRequest, ReleaseContainerRequest,
        SolveRequest, exec_message::Input, llb_bridge_client::LlbBridgeClient, result::Result as AnyRef,
    },
    limits::Limited as _,
    pb,
};
use kiln_session::headers::BUILD_ID;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

/// A test: its name and what it does.
pub(crate) type Test = (&'static str, fn(Daemon) -> Pin<Box<dyn Future<Output = ()>>>);

const BUSYBOX: &str = "/bin/busybox";

pub(crate) fn run_all(groups: &[&[Test]]) -> ExitCode {
    if !Path::new(BUSYBOX).exists() {
        println!("skipped: {BUSYBOX} is missing (Debian: busybox-static)");
        return ExitCode::SUCCESS;
    }
    if !std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t")) {
        println!("skipped: containers need root");
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        root: folder.path().to_owned(),
        entitlements: vec![Entitlement::NetworkHost, Entitlement::SecurityInsecure],
        ..Config::default()
    };
    let daemon = runtime.block_on(Daemon::start(config)).unwrap();
    let mut failed = 0;
    for (name, test) in groups.iter().copied().flatten() {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async {
                let work = test(daemon.clone());
                tokio::time::timeout(Duration::from_secs(60), work).await.expect("in time");
            });
        }));
        println!("{name}: {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed += u32::from(outcome.is_err());
    }
    runtime.block_on(daemon.stop());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A tree with busybox, and the file `/hello`.
pub(crate) fn base() -> State {
    let busybox = std::fs::read(BUSYBOX).unwrap();
    let mut files = File::new().mkdir("/bin", 0o755, false, None, None);
    files = files.mkfile("/bin/busybox", 0o755, busybox, None, None);
    for applet in ["sh", "cat", "echo", "sleep", "grep", "awk", "test", "touch", "kill"] {
        files = files.symlink("busybox", &format!("/bin/{applet}"), None, None);
    }
    let files = files.mkfile("/hello", 0o644, "hello\n", None, None);
    State::scratch().file(files.symlink("hello", "/link", None, None), Constraints::new())
}

/// One build.
pub(crate) struct Build {
    name: String,
    channel: Channel,
    solve: Option<JoinHandle<Result<(), Status>>>,
}

impl Build {
    /// A build that asks for these entitlements.
    pub(crate) async fn new(daemon: &Daemon, entitlements: &[&str]) -> Self {
        let (name, channel) = (kiln_session::random_id(), daemon.connect().await.unwrap());
        let request = BuildRequest {
            r#ref: name.clone(),
            entitlements: entitlements.iter().map(|e| (*e).to_owned()).collect(),
            ..BuildRequest::default()
        };
        let mut control = ControlClient::new(channel.clone()).limited();
        let solve = tokio::spawn(async move { control.solve(request).await.map(drop) });
        Self { name, channel, solve: Some(solve) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(BUILD_ID, self.name.parse().unwrap());
        request
    }

    pub(crate) fn client(&self) -> LlbBridgeClient<Channel> {
        LlbBridgeClient::new(self.channel.clone()).limited()
    }

    /// Builds a tree at once. The result: its name.
    pub(crate) async fn tree(&self, state: &State) -> Result<String, Status> {
        let definition = state.marshal(&Marshal::new("test")).unwrap();
        let request = SolveRequest {
            definition: Some(definition),
            evaluate: true,
            allow_result_return: true,
            ..SolveRequest::default()
        };
        let answer = self.client().solve(self.call(request)).await?.into_inner();
        match answer.result.and_then(|result| result.result) {
            Some(AnyRef::RefDeprecated(id)) => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    /// Makes a container over the base.
    pub(crate) async fn container(&self, name: &str) {
        let root = self.tree(&base()).await.unwrap();
        let request = NewContainerRequest { mounts: vec![bind("/", &root)], ..named(name) };
        self.client().new_container(self.call(request)).await.unwrap();
    }

    pub(crate) async fn release(&self, name: &str) -> Result<(), Status> {
        let request = ReleaseContainerRequest { container_id: name.to_owned() };
        self.client().release_container(self.call(request)).await.map(drop)
    }

    /// Opens a stream of processes.
    pub(crate) async fn processes(&self) -> Processes {
        let (sender, messages) = mpsc::unbounded_channel();
        let request = self.call(UnboundedReceiverStream::new(messages));
        let answers = self.client().exec_process(request).await.unwrap().into_inner();
        Processes { sender, answers, seen: HashMap::new() }
    }

    /// Ends the build.
    pub(crate) async fn end(mut self) {
        let request = gateway::ReturnRequest { result: Some(gateway::Result::default()), error: None };
        self.client().r#return(self.call(request)).await.unwrap();
        self.solve.take().unwrap().await.unwrap().unwrap();
    }

    /// The client goes without a word.
    pub(crate) fn vanish(mut self) {
        self.solve.take().unwrap().abort();
    }
}

pub(crate) fn named(name: &str) -> NewContainerRequest {
    NewContainerRequest { container_id: name.to_owned(), ..NewContainerRequest::default() }
}

pub(crate) fn bind(dest: &str, tree: &str) -> pb::Mount {
    pb::Mount { dest: dest.to_owned(), result_id: tree.to_owned(), ..pb::Mount::default() }
}

/// What has been heard of a process.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) out: String,
    pub(crate) err: String,
    /// The kinds of messages in their order, output left out.
    pub(crate) order: Vec<&'static str>,
    pub(crate) exit: Option<ExitMessage>,
}

impl Seen {
    pub(crate) fn code(&self) -> u32 {
        self.exit.as_ref().unwrap().code
    }

    pub(crate) fn error(&self) -> String {
        self.exit.as_ref().and_then(|exit| exit.error.clone()).map(|error| error.message).unwrap_or_default()
    }
}

/// A stream of processes.
pub(crate) struct Processes {
    sender: mpsc::UnboundedSender<ExecMessage>,
    answers: Streaming<ExecMessage>,
    seen: HashMap<String, Seen>,
}

impl Processes {
    pub(crate) fn send(&self, process: &str, input: Input) {
        let message = ExecMessage { process_id: process.to_owned(), input: Some(input) };
        self.sender.send(message).unwrap();
    }

    /// Starts a shell script, with all three streams.
    pub(crate) fn script(&self, process: &str, container: &str, script: &str) {
        self.send(process, Input::Init(script_of(container, script)));
    }

    pub(crate) fn input(&self, process: &str, data: &'static str, eof: bool) {
        self.send(process, Input::File(FdMessage { fd: 0, eof, data: Bytes::from_static(data.as_bytes()) }));
    }

    /// Listens until `enough`.
    pub(crate) async fn until(&mut self, process: &str, enough: impl Fn(&Seen) -> bool) -> &Seen {
        while !self.seen.get(process).is_some_and(&enough) {
            let heard = tokio::time::timeout(Duration::from_secs(15), self.next()).await;
            heard.unwrap_or_else(|_| panic!("silence: {:?}", self.seen.get(process))).unwrap();
        }
        &self.seen[process]
    }

    /// Listens until the process is done.
    pub(crate) async fn end(&mut self, process: &str) -> &Seen {
        self.until(process, |seen| seen.order.last() == Some(&"done")).await
    }

    /// The end of the stream.
    pub(crate) async fn failure(&mut self) -> Option<Status> {
        loop {
            match self.next().await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    async fn next(&mut self) -> Result<(), Option<Status>> {
        let message = self.answers.message().await.map_err(Some)?.ok_or(None)?;
        let seen = self.seen.entry(message.process_id).or_default();
        match message.input.unwrap() {
            Input::Started(_) => seen.order.push("started"),
            Input::File(FdMessage { eof: true, fd, .. }) => {
                seen.order.push(if fd == 1 { "end of out" } else { "end of err" });
            }
            Input::File(file) => {
                let text = String::from_utf8_lossy(&file.data).into_owned();
                if file.fd == 1 { seen.out.push_str(&text) } else { seen.err.push_str(&text) }
            }
            Input::Exit(exit) => {
                seen.order.push("exit");
                seen.exit = Some(exit);
            }
            Input::Done(_) => seen.order.push("done"),
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

pub(crate) fn script_of(container: &str, script: &str) -> InitMessage {
    let args = ["sh", "-c", script].map(str::to_owned).into();
    InitMessage {
        container_id: container.to_owned(),
        meta: Some(pb::Meta { args, ..pb::Meta::default() }),
        fds: vec![0, 1, 2],
        ..InitMessage::default()
    }
}

/// Whether some process of this machine has `word` among its arguments.
pub(crate) fn running(word: &str) -> bool {
    let lines = std::fs::read_dir("/proc").unwrap().flatten();
    lines
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()))
}
