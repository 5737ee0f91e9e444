//! The agent protocol (draft-miller-ssh-agent): an agent of our own keys, and a door before another agent.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    key::PrivateKey,
    wire::{Reader, put_string},
};

/// The largest message of either side.
const MAX_MESSAGE: u32 = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Keys that this process signs with.
pub(super) struct Keys(Vec<PrivateKey>);

impl Keys {
    pub(super) fn new(keys: Vec<PrivateKey>) -> Self {
        Self(keys)
    }

    /// The answer to a request. What is not understood or not allowed is a failure.
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        match request.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => self.identities(),
            Some((&SIGN_REQUEST, rest)) => self.sign(rest).unwrap_or_else(|| vec![FAILURE]),
            _ => vec![FAILURE],
        }
    }

    fn identities(&self) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend_from_slice(&u32::try_from(self.0.len()).unwrap_or_default().to_be_bytes());
        for key in &self.0 {
            put_string(&mut answer, key.public());
            put_string(&mut answer, b"");
        }
        answer
    }

    fn sign(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut reader = Reader(request);
        let (public, data, flags) = (reader.string()?, reader.string()?, reader.number()?);
        let key = self.0.iter().find(|key| key.public() == public)?;
        let mut answer = vec![SIGN_RESPONSE];
        put_string(&mut answer, &key.sign(data, flags)?);
        Some(answer)
    }
}

/// Answers requests until the other side is gone.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, keys: &Keys) -> io::Result<()> {
    loop {
        let request = read_message(&mut stream).await?;
        write_message(&mut stream, &keys.answer(&request)).await?;
    }
}

/// Hands requests that list keys or sign on to another agent, and refuses all others: a build must not change or lock it.
pub(super) async fn filter<S, U>(mut stream: S, mut upstream: U) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let request = read_message(&mut stream).await?;
        let answer = match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                write_message(&mut upstream, &request).await?;
                read_message(&mut upstream).await?
            }
            _ => vec![FAILURE],
        };
        write_message(&mut stream, &answer).await?;
    }
}

async fn read_message<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    if length > MAX_MESSAGE {
        return Err(io::Error::other("a message of the ssh agent protocol is too large"));
    }
    let mut message = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(message.len() + 4);
    put_string(&mut framed, message);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_behind_the_door_only_lists_and_signs() {
        let (mut client, door) = tokio::io::duplex(1024);
        let (upstream, mut agent) = tokio::io::duplex(1024);
        tokio::spawn(filter(door, upstream));
        // Remove all identities.
        write_message(&mut client, &[19]).await.unwrap();
        assert_eq!(read_message(&mut client).await.unwrap(), [FAILURE]);
        write_message(&mut client, &[REQUEST_IDENTITIES]).await.unwrap();
        assert_eq!(read_message(&mut agent).await.unwrap(), [REQUEST_IDENTITIES]);
        write_message(&mut agent, &[IDENTITIES_ANSWER, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(read_message(&mut client).await.unwrap(), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
    }

    #[test]
    fn nonsense_is_a_failure() {
        let keys = Keys::new(Vec::new());
        for request in [&[][..], &[SIGN_REQUEST], &[SIGN_REQUEST, 255, 255, 255, 255], &[99]] {
            assert_eq!(keys.answer(request), [FAILURE]);
        }
    }
}
