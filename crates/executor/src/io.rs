//! What a process reads and writes.

use bytes::Bytes;
use tokio::sync::mpsc;

/// The ends of a process's standard streams.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// What it reads.
    pub stdin: Stdin,
    /// Where what it writes goes, in the order of arrival; `None` discards it. A full channel makes the process wait.
    pub output: Option<mpsc::Sender<Output>>,
}

impl ProcessIo {
    /// No input; output to a new channel of `capacity` chunks (of up to 32 KiB).
    #[must_use]
    pub fn output(capacity: usize) -> (Self, mpsc::Receiver<Output>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self { stdin: Stdin::Null, output: Some(sender) }, receiver)
    }
}

/// What a process reads.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nothing: `/dev/null`.
    #[default]
    Null,
    /// The chunks of a channel; its end is the end of the file.
    Channel(mpsc::Receiver<Bytes>),
}

/// A chunk of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it was written.
    pub stream: OutputStream,
    /// The bytes as they came.
    pub data: Bytes,
}

/// One of the two output streams; the number is the file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, or the terminal.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}
