//! From blocking code that writes to a client that listens.

use std::{collections::BTreeMap, io};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::{
    Context,
    client::is_there,
    error::{Error, Result, blocking},
};

/// Bytes gathered before they are sent on.
const CHUNK: usize = 256 << 10;
/// Pieces on their way.
const QUEUE: usize = 4;

/// The blocking end. Flush it at the end.
pub(crate) struct Pipe {
    sender: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

impl Pipe {
    fn send(&mut self) -> io::Result<()> {
        let piece = self.buffer.split().freeze();
        self.buffer.reserve(CHUNK);
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for Pipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..count]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Sends to the client, as its output file, what `produce` writes. A client that says that it has the file is fine.
pub(crate) async fn send_file(
    cx: &Context,
    response: &BTreeMap<String, String>,
    produce: impl FnOnce(&mut Pipe) -> Result<()> + Send + 'static,
) -> Result<()> {
    let step = cx.step("sending tarball");
    let outcome = match transfer(cx, response, produce).await {
        Err(error) if is_there(&error) => Ok(()),
        result => result,
    };
    step.end(outcome)
}

async fn transfer(
    cx: &Context,
    response: &BTreeMap<String, String>,
    produce: impl FnOnce(&mut Pipe) -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut file = cx.client()?.open_file(response)?;
    let (sender, mut pieces) = mpsc::channel(QUEUE);
    let producer = tokio::spawn(blocking(move || {
        let mut pipe = Pipe { sender, buffer: BytesMut::with_capacity(CHUNK) };
        produce(&mut pipe)?;
        io::Write::flush(&mut pipe).map_err(Error::io("send the output"))
    }));
    while let Some(piece) = pieces.recv().await {
        // What the client says explains more than the broken pipe on the other side.
        file.write(piece).await?;
    }
    producer.await.map_err(|error| Error::io("run a thread")(io::Error::other(error)))??;
    file.close().await
}
