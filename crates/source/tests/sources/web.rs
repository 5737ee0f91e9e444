//! Files from the web.

use std::{
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use kiln_oci::{Algorithm, Digest};
use kiln_proto::{
    limits::Limited as _,
    secrets::{
        GetSecretRequest, GetSecretResponse,
        secrets_server::{Secrets, SecretsServer},
    },
    upload::{
        BytesMessage,
        upload_server::{Upload, UploadServer},
    },
};
use kiln_session::client::ClientSession;
use kiln_source::{Metadata, MetadataRequest};
use tonic::{Request, Response, Status, Streaming};

use crate::support::{Answer, Fixture, Server, connect, files, fixture, nobody, op};

const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A server of one file that can be changed.
async fn changing(tag: &'static str) -> (Server, Arc<Mutex<(String, String)>>) {
    let state = Arc::new(Mutex::new((tag.to_owned(), "one".to_owned())));
    let shared = state.clone();
    let server = Server::start(move |request| {
        let (tag, body) = shared.lock().unwrap().clone();
        let tag = format!("W/\"{tag}\"");
        let known = request.headers.get("if-none-match").is_some_and(|t| tag.ends_with(t.as_str()));
        match known && request.method == "GET" {
            true => Answer::status("304 Not Modified"),
            false => Answer::ok(body).header("ETag", tag).header("Last-Modified", MODIFIED),
        }
    })
    .await;
    (server, state)
}

#[tokio::test]
async fn a_file_is_asked_for_by_its_tag_until_it_changes() {
    let Some(fixture) = fixture() else { return };
    let (server, state) = changing("a").await;
    let op = op(server.url("/f/file.txt"), &[]);
    let (key, first) = fixture.build(&op, &nobody()).await.unwrap();
    assert_eq!(server.asked(), ["GET /f/file.txt"]);
    assert_eq!(key.pin, Digest::sha256("one").to_string());
    assert_eq!(files(&first), ["file.txt=one"]);
    let meta = first.unpacked().unwrap().open().unwrap().stat("file.txt").unwrap();
    assert_eq!((meta.mode, meta.mtime.secs, meta.mtime.nanos), (0o600, 784_111_777, 0));

    let (again, second) = fixture.build(&op, &nobody()).await.unwrap();
    assert_eq!(server.asked(), ["HEAD /f/file.txt"]);
    assert_eq!((again.key, second), (key.key.clone(), first));

    *state.lock().unwrap() = ("b".into(), "two".into());
    let (other, third) = fixture.build(&op, &nobody()).await.unwrap();
    assert_eq!(server.asked(), ["HEAD /f/file.txt", "GET /f/file.txt"]);
    assert_ne!(other.key, key.key);
    assert_eq!(files(&third), ["file.txt=two"]);

    // Both are known now, and asked about together.
    *state.lock().unwrap() = ("a".into(), "one".into());
    let (back, _) = fixture.build(&op, &nobody()).await.unwrap();
    let asked = server.taken();
    assert_eq!((asked.len(), back.key), (1, key.key));
    assert!(asked[0].headers["if-none-match"].contains(", "));
}

#[tokio::test]
async fn a_server_without_head_is_asked_by_get() {
    let Some(fixture) = fixture() else { return };
    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Answer::status("405 Method Not Allowed"),
        // "Not modified", and no tag: it can only be the one that was sent.
        _ if request.headers.contains_key("if-none-match") => Answer::status("304 Not Modified"),
        _ => Answer::ok("one").header("ETag", "\"a\""),
    })
    .await;
    let op = op(server.url("/x"), &[]);
    let (first, tree) = fixture.build(&op, &nobody()).await.unwrap();
    server.asked();
    let (second, same) = fixture.build(&op, &nobody()).await.unwrap();
    assert_eq!(server.asked(), ["HEAD /x", "GET /x"]);
    assert_eq!((first.key, tree), (second.key, same));
}

#[tokio::test]
async fn a_checksum_spares_the_network() {
    let Some(fixture) = fixture() else { return };
    let (server, state) = changing("a").await;
    let digest = Digest::sha256("one");
    let pinned = op(server.url("/x"), &[("http.checksum", digest.as_str())]);
    let source = fixture.open(&pinned).unwrap();
    let cx = crate::support::context(&nobody());
    assert_eq!(source.key(&cx, 0).await.unwrap().pin, digest.to_string());
    assert_eq!(server.asked(), [""; 0]);
    let tree = source.snapshot(&cx).await.unwrap().unwrap();
    assert_eq!((files(&tree), server.asked()), (vec!["x=one".into()], vec!["GET /x".to_owned()]));

    *state.lock().unwrap() = ("b".into(), "two".into());
    let (_, again) = fixture.build(&pinned, &nobody()).await.unwrap();
    assert_eq!((again, server.asked()), (tree, Vec::new()));

    let wrong = Digest::sha256("three");
    let wrong = op(server.url("/x"), &[("http.checksum", wrong.as_str())]);
    let error = fixture.build(&wrong, &nobody()).await.unwrap_err().to_string();
    assert!(error.contains("digest mismatch"), "{error}");

    let mut sha512 = kiln_oci::Hasher::new(Algorithm::Sha512);
    sha512.update("two");
    let sha512 = sha512.finish();
    let long = op(server.url("/x"), &[("http.checksum", sha512.as_str())]);
    assert_eq!(fixture.build(&long, &nobody()).await.unwrap().0.pin, sha512.to_string());
}

#[tokio::test]
async fn attributes_shape_the_file_and_the_request() {
    let Some(fixture) = fixture() else { return };
    let server =
        Server::start(|_| Answer::ok("x").header("Content-Disposition", "attachment; filename=\"a b\""))
            .await;
    let plain = op(server.url("/x"), &[]);
    assert_eq!(files(&fixture.build(&plain, &nobody()).await.unwrap().1), ["a b=x"]);
    let mut attrs = vec![
        ("http.filename", "sub/../name"),
        ("http.perm", "0755"),
        ("http.header.accept", "text/x"),
        ("http.header.user-agent", "me"),
        ("http.header.cookie", "no"),
    ];
    if rustix_is_root() {
        attrs.extend([("http.uid", "7"), ("http.gid", "8")]);
    }
    server.taken();
    let (_, tree) = fixture.build(&op(server.url("/x"), &attrs), &nobody()).await.unwrap();
    let meta = tree.unpacked().unwrap().open().unwrap().stat("name").unwrap();
    assert_eq!((meta.mode, meta.mtime.secs), (0o755, 0));
    if rustix_is_root() {
        assert_eq!((meta.uid, meta.gid), (7, 8));
    }
    let headers = &server.taken()[0].headers;
    assert_eq!((headers["accept"].as_str(), headers["user-agent"].as_str()), ("text/x", "me"));
    assert!(!headers.contains_key("cookie"));
}

#[cfg(unix)]
fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}
#[cfg(not(unix))]
fn rustix_is_root() -> bool {
    false
}

#[tokio::test]
async fn what_is_compressed_for_the_way_arrives_as_it_was() {
    let Some(fixture) = fixture() else { return };
    let server = Server::start(|request| {
        assert_eq!(request.headers["accept-encoding"], "gzip");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"one").unwrap();
        let body = gzip.finish().unwrap();
        let cut = if request.path == "/cut" { body.len() - 4 } else { body.len() };
        Answer::ok(&body[..cut]).header("Content-Encoding", "gzip")
    })
    .await;
    let (key, tree) = fixture.build(&op(server.url("/x"), &[]), &nobody()).await.unwrap();
    assert_eq!((key.pin, files(&tree)), (Digest::sha256("one").to_string(), vec!["x=one".to_owned()]));
    assert!(fixture.build(&op(server.url("/cut"), &[]), &nobody()).await.is_err());
}

#[tokio::test]
async fn errors_name_the_url_but_no_password() {
    let Some(fixture) = fixture() else { return };
    let server = Server::start(|request| match request.path.as_str() {
        "/moved" => Answer::status("302 Found").header("Location", "/there"),
        "/loop" => Answer::status("302 Found").header("Location", "/loop"),
        "/there" => Answer::ok("x"),
        _ => Answer::status("404 Not Found"),
    })
    .await;
    let build = async |url: String| fixture.build(&op(url, &[]), &nobody()).await;
    let error = build(format!("http://me:secret@{}/no", server.address)).await.unwrap_err().to_string();
    assert!(error.contains("invalid response status 404") && error.contains(&server.address), "{error}");
    assert!(!error.contains("secret"), "{error}");
    assert_eq!(files(&build(server.url("/moved")).await.unwrap().1), ["moved=x"]);
    assert!(build(server.url("/loop")).await.is_err());
    let error = build("http://127.0.0.1:1/x".into()).await.unwrap_err().to_string();
    assert!(error.starts_with("http://127.0.0.1:1/x: "), "{error}");
}

struct Client;

#[tonic::async_trait]
impl Secrets for Client {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        match request.into_inner().id.as_str() {
            "header" => Ok(GetSecretResponse { data: "Basic abc".into() }.into()),
            "HTTP_AUTH_TOKEN_127.0.0.1" => Ok(GetSecretResponse { data: "xyz".into() }.into()),
            other => Err(Status::not_found(other)),
        }
    }
}

#[tonic::async_trait]
impl Upload for Client {
    type PullStream = futures::stream::Iter<std::vec::IntoIter<Result<BytesMessage, Status>>>;

    async fn pull(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let path = request.metadata().get("urlpath").unwrap().to_str().unwrap();
        if path != "/id" {
            return Err(Status::not_found(path));
        }
        let pieces = ["stdin ", "context"].map(|data| Ok(BytesMessage { data: data.into() }));
        Ok(Response::new(futures::stream::iter(pieces.to_vec())))
    }
}

fn client() -> ClientSession {
    ClientSession::new("")
        .with(SecretsServer::new(Client).limited())
        .with(UploadServer::new(Client).limited())
}

#[tokio::test]
async fn secrets_become_headers() {
    let Some(fixture) = fixture() else { return };
    let server = Server::start(|request| {
        Answer::ok(request.headers.get("authorization").cloned().unwrap_or_default())
    })
    .await;
    let (sessions, _client) = connect(client()).await;
    let build = async |attrs: &[(&str, &str)]| {
        fixture.build(&op(server.url("/x"), attrs), &sessions).await.map(|(_, tree)| files(&tree))
    };
    assert_eq!(build(&[("http.authheadersecret", "header")]).await.unwrap(), ["x=Basic abc"]);
    assert_eq!(build(&[]).await.unwrap(), ["x=Bearer xyz"]);
    let error = build(&[("http.authheadersecret", "none")]).await.unwrap_err().to_string();
    assert!(error.contains("failed to retrieve HTTP auth secret none"), "{error}");
}

#[tokio::test]
async fn a_client_uploads() {
    let Some(fixture) = fixture() else { return };
    let (sessions, _client) = connect(client()).await;
    let (key, tree) = fixture.build(&op("http://buildkit-session/id", &[]), &sessions).await.unwrap();
    assert_eq!(files(&tree), ["id=stdin context"]);
    assert_eq!(key.pin, Digest::sha256("stdin context").to_string());
    assert!(fixture.build(&op("http://buildkit-session/other", &[]), &sessions).await.is_err());
}

#[tokio::test]
async fn a_build_sees_one_state_and_keeps_it() {
    let Some(fixture) = fixture() else { return };
    let (server, state) = changing("a").await;
    let (sessions, client) = connect(client()).await;
    let op = op(server.url("/x"), &[]);
    let metadata =
        fixture.sources.metadata(&op, &sessions, &MetadataRequest::default()).await.unwrap().unwrap();
    let Metadata::Http(metadata) = metadata else { panic!("{metadata:?}") };
    assert_eq!((metadata.filename.as_str(), metadata.last_modified), ("x", Some(784_111_777)));

    *state.lock().unwrap() = ("b".into(), "two".into());
    let (key, tree) = fixture.build(&op, &sessions).await.unwrap();
    assert_eq!((key.pin, files(&tree)), (metadata.digest.to_string(), vec!["x=one".to_owned()]));
    assert_eq!(server.asked(), ["GET /x"]);

    let checksum = Some((Algorithm::Sha512, b" more".to_vec()));
    let request = MetadataRequest { http_checksum: checksum, ..MetadataRequest::default() };
    let Some(Metadata::Http(metadata)) = fixture.sources.metadata(&op, &sessions, &request).await.unwrap()
    else {
        panic!()
    };
    let mut hasher = kiln_oci::Hasher::new(Algorithm::Sha512);
    hasher.update("one more");
    assert_eq!(metadata.checksum, Some(hasher.finish()));

    client.abort();
    forgotten(&fixture, &op, &sessions).await;
}

/// Waits until a build of the session's group sees what there is now.
async fn forgotten(fixture: &Fixture, op: &kiln_proto::pb::SourceOp, sessions: &kiln_session::Group) {
    for _ in 0..100 {
        if files(&fixture.build(op, &nobody()).await.unwrap().1) == ["x=two"] && sessions.ids().len() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still the old state");
}

#[tokio::test]
async fn equal_questions_at_once_are_asked_once() {
    let Some(fixture) = fixture() else { return };
    let (server, _) = changing("a").await;
    let op = op(server.url("/x"), &[]);
    let group = nobody();
    let builds = futures::future::join_all((0..4).map(|_| fixture.build(&op, &group))).await;
    assert!(builds.iter().all(|b| b.as_ref().unwrap().1 == builds[0].as_ref().unwrap().1));
    assert_eq!(server.asked().iter().filter(|a| a.starts_with("GET")).count(), 1);
}
