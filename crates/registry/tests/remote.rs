//! A registry that does what it is told, on a loopback port.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::TryStreamExt as _;
use kiln_oci::{Descriptor, Reference, media_type};
use kiln_registry::{Auth, Error, HostConfig, Pushed, Registries, Remote};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

struct Request {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Status line, headers and body; the connection closes after `body`, whatever the headers promise.
struct Answer(&'static str, Vec<(String, String)>, Vec<u8>);

impl Answer {
    fn new(status: &'static str) -> Self {
        Self(status, Vec::new(), Vec::new())
    }
    fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.1.push((name.into(), value.to_string()));
        self
    }
    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.2 = body.into();
        self
    }
}

/// Serves `answer` and returns the address.
async fn serve(answer: impl Fn(Request) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut lines = Vec::new();
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line.trim().is_empty() {
                        break;
                    }
                    lines.push(line.trim().to_owned());
                }
                let Some((first, rest)) = lines.split_first() else { return };
                let headers: BTreeMap<_, _> = rest
                    .iter()
                    .filter_map(|l| l.split_once(": "))
                    .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))
                    .collect();
                let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                let Answer(status, headers, body) = answer(Request { line: first.clone(), headers, body });
                let mut out = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
                if !headers.iter().any(|(k, _)| k == "Content-Length") {
                    out += &format!("Content-Length: {}\r\n", body.len());
                }
                for (name, value) in headers {
                    out += &format!("{name}: {value}\r\n");
                }
                stream.write_all((out + "\r\n").as_bytes()).await.unwrap();
                stream.write_all(&body).await.unwrap();
                stream.shutdown().await.ok();
            });
        }
    });
    address
}

fn remote(reference: &str, hosts: BTreeMap<String, HostConfig>) -> Remote {
    Registries::new(hosts, "kiln/test").remote(&Reference::parse(reference).unwrap(), Auth::Anonymous)
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_resumed() {
    let blob: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (served, requests) = (blob.clone(), Arc::new(AtomicUsize::new(0)));
    let count = requests.clone();
    let address = serve(move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        let from = request.headers.get("range").map_or(0, |r| r[6..r.len() - 1].parse().unwrap());
        let upto = served.len().min(from + 150_000);
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        Answer::new(status).header("Content-Length", served.len() - from).body(&served[from..upto])
    })
    .await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let got: Vec<bytes::Bytes> = remote.blob(&descriptor, 0).await.unwrap().try_collect().await.unwrap();
    assert!(got.concat() == blob);
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_blob_that_is_too_long_is_refused() {
    let address = serve(|_| Answer::new("200 OK").body(vec![0; 5000])).await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"short");
    let result: Result<Vec<_>, _> = remote.blob(&descriptor, 0).await.unwrap().try_collect().await;
    assert!(matches!(result, Err(Error::Size { expected: 5, .. })), "{result:?}");
}

#[tokio::test]
async fn a_challenge_is_answered_with_a_token_for_the_repository() {
    let manifest = r#"{"schemaVersion":2}"#;
    let realm = serve(|request| {
        assert!(request.line.contains("scope=repository%3Aa%2Fb%3Apull"), "{}", request.line);
        assert!(request.line.contains("service=r.example"), "{}", request.line);
        Answer::new("200 OK").body(r#"{"token":"open-sesame","expires_in":300}"#)
    })
    .await;
    let refusals = Arc::new(AtomicUsize::new(0));
    let count = refusals.clone();
    let address = serve(move |request| {
        if request.headers.get("authorization").map(String::as_str) == Some("Bearer open-sesame") {
            return Answer::new("200 OK").header("Content-Type", media_type::OCI_MANIFEST).body(manifest);
        }
        count.fetch_add(1, Ordering::SeqCst);
        let challenge = format!(r#"Bearer realm="http://{realm}/token",service="r.example""#);
        Answer::new("401 Unauthorized").header("WWW-Authenticate", challenge)
    })
    .await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, manifest.as_bytes());
    for _ in 0..3 {
        assert_eq!(remote.manifest(&descriptor).await.unwrap(), manifest);
    }
    assert_eq!(refusals.load(Ordering::SeqCst), 1, "the token is kept");
}

#[tokio::test]
async fn a_mirror_that_fails_is_passed_over() {
    let mirror = serve(|_| Answer::new("500 Internal Server Error")).await;
    let manifest = r#"{"schemaVersion":2}"#;
    let origin = serve(move |_| {
        Answer::new("200 OK")
            .header("Content-Type", media_type::OCI_MANIFEST)
            .header("Docker-Content-Digest", kiln_oci::Digest::sha256(manifest))
            .header("Content-Length", manifest.len())
    })
    .await;
    let config = HostConfig { mirrors: vec![mirror], ..HostConfig::default() };
    let remote = remote(&format!("{origin}/a/b"), BTreeMap::from([(origin, config)]));
    let resolved = remote.resolve("latest").await.unwrap();
    assert_eq!(resolved.descriptor, Descriptor::of(media_type::OCI_MANIFEST, manifest.as_bytes()));
}

#[tokio::test]
async fn a_manifest_that_was_damaged_is_refused() {
    let address = serve(|_| Answer::new("200 OK").body("{}")).await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let error = remote.manifest(&Descriptor::of(media_type::OCI_MANIFEST, b"other")).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[tokio::test]
async fn errors_name_the_reference_and_the_registrys_words() {
    let address = serve(|request| match request.line.contains("secret") {
        true => Answer::new("403 Forbidden").body(r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#),
        false => Answer::new("404 Not Found"),
    })
    .await;
    let missing = remote(&format!("{address}/a/b"), BTreeMap::new()).resolve("v1").await.unwrap_err();
    assert_eq!(missing.to_string(), format!("{address}/a/b:v1: not found"));
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, b"x");
    let denied = remote(&format!("{address}/a/secret"), BTreeMap::new())
        .manifest(&descriptor)
        .await
        .unwrap_err()
        .to_string();
    assert!(denied.contains("not yours (DENIED)"), "{denied}");
}

#[tokio::test]
async fn a_blob_is_pushed_once() {
    let stored = Arc::new(std::sync::Mutex::new(BTreeMap::<String, Vec<u8>>::new()));
    let store = stored.clone();
    let address = serve(move |request| {
        let mut words = request.line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let digest = path.rsplit(['/', '=']).next().unwrap().replace("%3A", ":");
        match method {
            "HEAD" if store.lock().unwrap().contains_key(&digest) => Answer::new("200 OK"),
            "HEAD" => Answer::new("404 Not Found"),
            "POST" => Answer::new("202 Accepted").header("Location", "/v2/a/b/blobs/uploads/1?state=x"),
            "PUT" => {
                store.lock().unwrap().insert(digest, request.body);
                Answer::new("201 Created")
            }
            _ => Answer::new("400 Bad Request"),
        }
    })
    .await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let blob = vec![1_u8; 70_000];
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let open = || reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(blob.clone())]));
    assert_eq!(remote.push_blob(&descriptor, &[], &open).await.unwrap(), Pushed::Sent);
    assert_eq!(remote.push_blob(&descriptor, &[], &open).await.unwrap(), Pushed::Existed);
    assert!(stored.lock().unwrap()[descriptor.digest.as_str()] == blob);
}
