//! ssh agents.

use bytes::BytesMut;
use kiln_proto::{
    limits::Limited as _,
    sshforward::{BytesMessage, CheckAgentRequest, ssh_client::SshClient},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, metadata::AsciiMetadataValue};

use crate::{Error, Incoming, Session, headers};

const QUEUE: usize = 8;
const CHUNK: usize = 32 << 10;

/// Whether the client offers the agent `id`; `default` is the usual one.
///
/// # Errors
/// The client's when it does not.
pub async fn check_agent(session: &Session, id: &str) -> Result<(), Error> {
    let request = CheckAgentRequest { id: id.to_owned() };
    SshClient::new(session.channel()).limited().check_agent(request).await?;
    Ok(())
}

/// Connects `io`, one connection to an agent's socket, with the client's agent `id` until either side closes.
///
/// # Errors
/// The client's, or the socket's.
pub async fn forward_agent<IO>(session: &Session, id: &str, io: IO) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Send,
{
    let (outgoing, messages) = mpsc::channel(QUEUE);
    let mut call = Request::new(ReceiverStream::new(messages));
    let value = id
        .parse::<AsciiMetadataValue>()
        .map_err(|_| Error::Header { name: headers::SSH_ID, problem: format!("{id:?} is not ASCII") })?;
    call.metadata_mut().insert(headers::SSH_ID, value);
    let mut client = SshClient::new(session.channel()).limited();
    let mut incoming = Incoming::open(async move { client.forward_agent(call).await });
    let (mut read, mut write) = tokio::io::split(io);
    let failed = |source| Error::Io { what: format!("socket of ssh agent {id}"), source };
    let up = async {
        loop {
            let mut buffer = BytesMut::with_capacity(CHUNK);
            if read.read_buf(&mut buffer).await.map_err(failed)? == 0 {
                drop(outgoing);
                return Ok::<_, Error>(());
            }
            if outgoing.send(BytesMessage { data: buffer.freeze() }).await.is_err() {
                return Ok(());
            }
        }
    };
    let down = async {
        while let Some(message) = incoming.message().await? {
            write.write_all(&message.data).await.map_err(failed)?;
        }
        write.shutdown().await.map_err(failed)
    };
    tokio::try_join!(up, down)?;
    Ok(())
}
