//! A client and a daemon in one process, over an in-memory connection.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use kiln_proto::{
    filesync::{
        BytesMessage,
        file_send_server::{FileSend, FileSendServer},
    },
    limits::Limited as _,
    secrets::{
        GetSecretRequest, GetSecretResponse,
        secrets_server::{Secrets, SecretsServer},
    },
};
use kiln_session::{Error, Group, Manager, Session, caller, client::ClientSession};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

struct OneSecret;

#[tonic::async_trait]
impl Secrets for OneSecret {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        match request.into_inner().id.as_str() {
            "never" => std::future::pending().await,
            "token" => Ok(GetSecretResponse { data: "42".into() }.into()),
            // Longer than the header limits of most gRPC libraries.
            "long" => Err(Status::internal("x".repeat(100_000))),
            other => Err(Status::not_found(other)),
        }
    }
}

struct Outputs(mpsc::UnboundedSender<(BTreeMap<String, String>, Vec<u8>)>);

#[tonic::async_trait]
impl FileSend for Outputs {
    type DiffCopyStream = futures::stream::Empty<Result<BytesMessage, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let headers = request.metadata().iter().filter_map(|pair| match pair {
            tonic::metadata::KeyAndValueRef::Ascii(k, v) => {
                Some((k.to_string(), v.to_str().unwrap().to_owned()))
            }
            tonic::metadata::KeyAndValueRef::Binary(..) => None,
        });
        let headers =
            headers.filter(|(k, _)| k.starts_with("exporter-md-") || k.contains("exporter-id")).collect();
        let mut all = Vec::new();
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            all.extend_from_slice(&message.data);
        }
        self.0.send((headers, all)).unwrap();
        Ok(Response::new(futures::stream::empty()))
    }
}

/// A manager and a client that is connected to it, and the task that is the client.
async fn connect(session: ClientSession) -> (Arc<Manager>, Arc<Session>, tokio::task::JoinHandle<()>) {
    let manager = Arc::new(Manager::default());
    let (near, far) = tokio::io::duplex(1 << 20);
    let opening = session.opening();
    let client = tokio::spawn(async move { session.serve(near).await.unwrap() });
    let (daemon, id) = (manager.clone(), opening.id.clone());
    tokio::spawn(async move { daemon.serve(opening, far).await.unwrap() });
    let session = manager.get(&id, Duration::from_secs(5)).await.unwrap();
    (manager, session, client)
}

#[tokio::test]
async fn secrets_are_had_or_missing_or_an_error_in_full() {
    let session = ClientSession::new("").with(SecretsServer::new(OneSecret).limited());
    let (_, session, _client) = connect(session).await;
    assert_eq!(caller::secret(&session, "token").await.unwrap(), Some(Bytes::from("42")));
    assert_eq!(caller::secret(&session, "other").await.unwrap(), None);
    let long = caller::secret(&session, "long").await.unwrap_err();
    assert_eq!(long.to_string().len(), 100_000);
}

#[tokio::test]
async fn a_file_reaches_the_output_with_its_metadata() {
    let (sender, mut received) = mpsc::unbounded_channel();
    let session = ClientSession::new("").with(FileSendServer::new(Outputs(sender)).limited());
    let (_, session, _client) = connect(session).await;
    let metadata = BTreeMap::from([("containerimage.digest".to_owned(), "sha256:abc".to_owned())]);
    let mut writer = caller::send_file(&session, 3, &metadata).unwrap();
    let bytes = Bytes::from(vec![7_u8; 5 << 20]);
    writer.write(bytes.clone()).await.unwrap();
    writer.close().await.unwrap();
    let (headers, got) = received.recv().await.unwrap();
    assert!(got == bytes);
    assert_eq!(headers["exporter-md-containerimage.digest"], "sha256:abc");
    assert_eq!(headers["buildkit-attachable-exporter-id"], "3");
}

#[tokio::test]
async fn a_method_that_is_not_served_is_named() {
    let (_, session, _client) = connect(ClientSession::new("")).await;
    let error = caller::send_file(&session, 0, &BTreeMap::new()).err().unwrap();
    assert!(error.to_string().contains("FileSend/DiffCopy"), "{error}");
    assert!(error.to_string().contains("--output"), "{error}");
}

#[tokio::test]
async fn a_group_asks_whoever_is_there() {
    let session = ClientSession::new("").with(SecretsServer::new(OneSecret).limited());
    let (manager, session, _client) = connect(session).await;
    let group = Group::of(manager, vec!["gone".into(), String::new(), session.id().into()]);
    let answer = group.any("a secret", |s| async move { caller::secret(&s, "token").await }).await.unwrap();
    assert_eq!(answer, Some(Bytes::from("42")));
}

#[tokio::test(start_paused = true)]
async fn an_absent_group_says_who_was_waited_for() {
    let group = Group::of(Arc::default(), vec!["gone".into()]);
    let error = group.any("a secret", |_| async { Ok(()) }).await.unwrap_err();
    assert!(matches!(&error, Error::NoActiveSession { ids, .. } if ids == "gone"), "{error}");
    let none = Group::of(Arc::default(), vec![]).any("a secret", |_| async { Ok(()) }).await.unwrap_err();
    assert!(none.to_string().contains("a secret"), "{none}");
}

#[tokio::test]
async fn a_client_that_leaves_is_gone_at_once() {
    let (manager, session, client) = connect(ClientSession::new("key")).await;
    assert_eq!(session.shared_key(), "key");
    client.abort();
    tokio::time::timeout(Duration::from_secs(2), session.closed()).await.unwrap();
    while manager.find(session.id()).is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_call_under_way_ends_with_its_session() {
    let session = ClientSession::new("").with(SecretsServer::new(OneSecret).limited());
    let manager = Arc::new(Manager::default());
    let (near, far) = tokio::io::duplex(1 << 20);
    let opening = session.opening();
    tokio::spawn(async move { session.serve(near).await.unwrap() });
    let (daemon, id) = (manager.clone(), opening.id.clone());
    let serving = tokio::spawn(async move { daemon.serve(opening, far).await.unwrap() });
    let session = manager.get(&id, Duration::from_secs(5)).await.unwrap();
    let call = tokio::spawn(async move { caller::secret(&session, "never").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!call.is_finished());
    // As when the client does not answer any more.
    serving.abort();
    let ended = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap();
    assert!(ended.is_err());
}

#[tokio::test]
async fn ids_with_a_prefix_find_their_session() {
    let (manager, session, _client) = connect(ClientSession::new("")).await;
    assert!(manager.find(&format!("context:{}", session.id())).is_some());
    assert!(manager.find("context:").is_none());
}

#[tokio::test]
async fn many_calls_share_the_connection() {
    let session = ClientSession::new("").with(SecretsServer::new(OneSecret).limited());
    let (_, session, _client) = connect(session).await;
    let calls = (0..200).map(|_| caller::secret(&session, "token"));
    let answers: Vec<_> = futures::stream::iter(calls).buffer_unordered(50).collect().await;
    assert!(answers.into_iter().all(|a| a.unwrap().is_some()));
}
