//! The standard streams of a frontend's program as one connection.

use bytes::{Bytes, BytesMut};
use kiln_executor::{Output, OutputStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc::{Receiver, Sender},
};

/// Most bytes that are given to the program at once.
const CHUNK: usize = 32 << 10;
/// How much of what a program says on standard error is kept, in bytes: its last words.
const LAST_WORDS: usize = 2 << 10;

/// Moves what the program writes into `stream` and what comes out of it to the program, until the program writes no more. The
/// result: its last words on standard error.
pub(super) async fn connect(
    stream: DuplexStream,
    input: Sender<Bytes>,
    mut outputs: Receiver<Output>,
) -> String {
    let (mut read, mut write) = tokio::io::split(stream);
    let to_program = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match read.read_buf(&mut buffer).await {
                Ok(1..) if input.send(buffer.split().freeze()).await.is_ok() => {}
                _ => break,
            }
        }
        // The program's input is at its end; it may still have something to say.
        drop(input);
        std::future::pending::<()>().await;
    };
    let from_program = async move {
        let mut said = Vec::new();
        let mut open = true;
        while let Some(Output { stream, data }) = outputs.recv().await {
            match stream {
                OutputStream::Stdout => open = open && write.write_all(&data).await.is_ok(),
                OutputStream::Stderr => {
                    said.extend_from_slice(&data);
                    said.drain(..said.len().saturating_sub(LAST_WORDS));
                }
            }
        }
        // The service sees the end of the connection.
        drop(write.shutdown().await);
        String::from_utf8_lossy(&said).trim().to_owned()
    };
    tokio::select! {
        said = from_program => said,
        () = to_program => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(stream: OutputStream, data: &str) -> Output {
        Output { stream, data: Bytes::copy_from_slice(data.as_bytes()) }
    }

    #[tokio::test]
    async fn both_ways_and_last_words() {
        let (near, mut far) = tokio::io::duplex(64);
        let (input, mut program) = tokio::sync::mpsc::channel(4);
        let (writes, outputs) = tokio::sync::mpsc::channel(4);
        let connection = tokio::spawn(connect(near, input, outputs));
        far.write_all(b"call").await.unwrap();
        assert_eq!(program.recv().await.unwrap(), "call");
        writes.send(output(OutputStream::Stdout, "answer")).await.unwrap();
        let mut answer = [0; 6];
        far.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        writes.send(output(OutputStream::Stderr, &"x".repeat(3 * LAST_WORDS))).await.unwrap();
        writes.send(output(OutputStream::Stderr, "\nthe end\n")).await.unwrap();
        drop(writes);
        let said = connection.await.unwrap();
        assert!(said.ends_with("x\nthe end") && said.len() <= LAST_WORDS, "{}", said.len());
        assert_eq!(far.read(&mut answer).await.unwrap(), 0);
        assert!(program.recv().await.is_none());
    }
}
