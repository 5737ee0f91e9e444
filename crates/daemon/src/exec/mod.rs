//! Processes in containers beside a build: one stream of messages carries any number of them.
//!
//! ```text
//!   client ── init ──▶  start in its container       started ──▶ client
//!          ── file ──▶  standard input               file (output, end of each stream) ──▶
//!          ── resize, signal ──▶                     exit, done ──▶
//! ```
//!
//! A process that could not be started is told as one that has ended with an error. When the client leaves, what it has
//! started is killed; when it only sends no more, what runs goes on with its input at an end.

mod known;

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use kiln_executor::{OutputStream, ProcessIo, Stdin, WinSize};
use kiln_ops::{
    OpError,
    container::{ProcessRequest, SideProcess},
};
use kiln_proto::{
    gateway::{
        DoneMessage, ExecMessage, ExitMessage, FdMessage, InitMessage, StartedMessage, exec_message::Input,
    },
    status::{Detail, WireError},
};
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::{JoinError, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{containers, conversation::Conversation, signals};
use known::{Control, Handle, Known};

/// Messages to the client that may wait, and pieces of a process's output.
const QUEUE: usize = 16;
/// Pieces of input that may wait for a process. When it takes none, the client has to wait.
const INPUT_QUEUE: usize = 64;
/// Signals and sizes of its terminal that may wait for a process.
const CONTROL_QUEUE: usize = 16;
/// The code of a process that has none.
const UNKNOWN_EXIT: u32 = 255;

type Answers = Sender<Result<ExecMessage, Status>>;

/// Serves the processes of one stream.
pub(crate) fn serve(
    conversation: Arc<Conversation>,
    messages: Streaming<ExecMessage>,
) -> impl Stream<Item = Result<ExecMessage, Status>> + Send {
    let (answers, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut exchange =
            Exchange { conversation, answers, known: Known::default(), running: JoinSet::new() };
        if let Err(error) = exchange.run(messages).await {
            drop(exchange.answers.send(Err(error)).await);
        }
    });
    ReceiverStream::new(stream)
}

/// One stream.
struct Exchange {
    conversation: Arc<Conversation>,
    answers: Answers,
    known: Known,
    /// Killed when this is dropped. Each tells its name when it ends.
    running: JoinSet<String>,
}

impl Exchange {
    async fn run(&mut self, mut messages: Streaming<ExecMessage>) -> Result<(), Status> {
        let ended = self.conversation.containers.ended().clone();
        loop {
            let message = tokio::select! {
                message = messages.message() => message?,
                // The client does not listen any more.
                () = self.answers.closed() => return Ok(()),
                () = ended.cancelled() => break,
                Some(ended) = self.running.join_next() => {
                    self.note_end(ended);
                    continue;
                }
            };
            let Some(message) = message else { break };
            tokio::select! {
                taken = Self::take(&self.conversation, &self.answers, &mut self.known, &mut self.running, message) => taken?,
                () = self.answers.closed() => return Ok(()),
            }
        }
        self.known.close_inputs();
        loop {
            tokio::select! {
                left = self.running.join_next() => if left.is_none() { return Ok(()) },
                () = self.answers.closed() => return Ok(()),
            }
        }
    }

    fn note_end(&mut self, ended: Result<String, JoinError>) {
        match ended {
            Ok(name) => self.known.ended(name),
            // It counts as one that runs until the stream ends.
            Err(error) => tracing::error!(%error, "listening to a process"),
        }
    }

    async fn take(
        conversation: &Conversation,
        answers: &Answers,
        known: &mut Known,
        running: &mut JoinSet<String>,
        message: ExecMessage,
    ) -> Result<(), Status> {
        let ExecMessage { process_id: id, input } = message;
        if id.is_empty() {
            return Err(Status::invalid_argument("ProcessID required"));
        }
        match input {
            Some(Input::Init(init)) => {
                known.check(&id)?;
                let (handle, process) = start(conversation, &id, answers, init).await;
                known.enter(id.clone(), handle);
                match process {
                    Some(process) => drop(running.spawn(async move {
                        process.await;
                        id
                    })),
                    None => known.ended(id),
                }
            }
            Some(Input::File(file)) => feed(known.find(&id)?, file).await?,
            Some(Input::Resize(size)) => {
                let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                let size = WinSize { rows: clamp(size.rows), cols: clamp(size.cols) };
                known.find(&id)?.tell(Control::Resize(size)).await;
            }
            Some(Input::Signal(signal)) => {
                let unknown = || Status::invalid_argument(format!("Unknown signal {}", signal.name));
                let number = signals::number(&signal.name).ok_or_else(unknown)?;
                known.find(&id)?.tell(Control::Signal(number)).await;
            }
            // The rest is what we tell.
            Some(Input::Started(_) | Input::Exit(_) | Input::Done(_)) | None => {
                return Err(Status::invalid_argument(format!("process {id}: not a message of a client")));
            }
        }
        Ok(())
    }
}

/// Gives a piece of input to a process.
async fn feed(handle: &mut Handle, file: FdMessage) -> Result<(), Status> {
    if file.fd != 0 {
        return Err(Status::out_of_range(format!("fd {} unavailable to write", file.fd)));
    }
    if let Some(input) = &handle.input
        && !file.data.is_empty()
        && input.send(file.data).await.is_err()
    {
        handle.input = None;
    }
    if file.eof {
        handle.input = None;
    }
    Ok(())
}

/// Starts a process, and tells so. The result: how it is spoken to, and the work of listening to it.
async fn start(
    conversation: &Conversation,
    id: &str,
    answers: &Answers,
    init: InitMessage,
) -> (Handle, Option<impl Future<Output = ()> + Send + 'static>) {
    let talk = Talk { id: id.to_owned(), fds: init.fds.clone(), answers: answers.clone() };
    let (control, controls) = mpsc::channel(CONTROL_QUEUE);
    let (input, stdin) = match init.fds.contains(&0) {
        true => {
            let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
            (Some(sender), Stdin::Channel(receiver))
        }
        false => (None, Stdin::Null),
    };
    let (output, outputs) = mpsc::channel(QUEUE);
    let io = ProcessIo { stdin, output: Some(output) };
    let request = ProcessRequest {
        meta: init.meta.unwrap_or_default(),
        tty: init.tty,
        security: init.security,
        secret_env: init.secretenv,
    };
    let process = match conversation.containers.find(&init.container_id) {
        Ok(container) => container.start(request, io).await.map_err(|error| containers::wire(&error)),
        Err(error) => Err(error),
    };
    talk.send(Input::Started(StartedMessage {})).await;
    match process {
        Ok(process) => (Handle { input, control }, Some(talk.listen(process, outputs, controls))),
        Err(error) => {
            talk.end(Err(error)).await;
            (Handle { input: None, control }, None)
        }
    }
}

/// What is told of one process.
struct Talk {
    id: String,
    /// The streams that the client wants.
    fds: Vec<u32>,
    answers: Answers,
}

impl Talk {
    async fn send(&self, input: Input) {
        let message = ExecMessage { process_id: self.id.clone(), input: Some(input) };
        // A client that has left is noticed by the exchange.
        drop(self.answers.send(Ok(message)).await);
    }

    /// Tells all that a process writes, and its end. Dropped, it kills the process.
    async fn listen(
        self,
        process: SideProcess,
        mut outputs: Receiver<kiln_executor::Output>,
        mut controls: Receiver<Control>,
    ) {
        let process = KillOnDrop(process);
        loop {
            tokio::select! {
                output = outputs.recv() => {
                    let Some(output) = output else { break };
                    let fd = match output.stream {
                        OutputStream::Stdout => 1,
                        OutputStream::Stderr => 2,
                    };
                    if self.fds.contains(&fd) {
                        let told = self.send(Input::File(FdMessage { fd, eof: false, data: output.data }));
                        process.obey_during(&mut controls, told).await;
                    }
                }
                Some(control) = controls.recv() => process.obey(control),
            }
        }
        // It may have closed its output long before it ends.
        let exit = process.obey_during(&mut controls, process.0.wait()).await;
        self.end(exit.map(|exit| exit.code).map_err(|error: OpError| containers::wire(&error))).await;
    }

    /// Tells the end of a process: its exit code, or why it has none.
    async fn end(&self, exit: Result<u32, WireError>) {
        for fd in self.fds.iter().copied().filter(|fd| *fd != 0) {
            self.send(Input::File(FdMessage { fd, eof: true, data: Bytes::new() })).await;
        }
        let (code, error) = match exit {
            Ok(0) => (0, None),
            Ok(code) => {
                let error = WireError::new(Code::Unknown, format!("exit code: {code}"));
                (code, Some(error.with(Detail::Exit(code))))
            }
            Err(error) => (UNKNOWN_EXIT, Some(error)),
        };
        let error = error.map(|error| error.to_rpc());
        self.send(Input::Exit(ExitMessage { code, error })).await;
        self.send(Input::Done(DoneMessage {})).await;
    }
}

/// A process that goes with whoever listens to it.
struct KillOnDrop(SideProcess);

impl KillOnDrop {
    /// Does `work`, and meanwhile what the process is told.
    async fn obey_during<T>(&self, controls: &mut Receiver<Control>, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(control) = controls.recv() => self.obey(control),
            }
        }
    }

    fn obey(&self, control: Control) {
        match control {
            Control::Signal(signal) => self.0.signal(signal),
            Control::Resize(size) => self.0.resize(size),
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}
