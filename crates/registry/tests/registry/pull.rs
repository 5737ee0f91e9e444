//! Resolving references and reading blobs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::TryStreamExt as _;
use kiln_oci::{Descriptor, Digest, Index, media_type};
use kiln_registry::{Error, HostConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Answer, remote, serve};

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
            .header("Docker-Content-Digest", Digest::sha256(manifest))
            .header("Content-Length", manifest.len())
    })
    .await;
    let config = HostConfig { mirrors: vec![mirror], ..HostConfig::default() };
    let remote = remote(&format!("{origin}/a/b"), BTreeMap::from([(origin, config)]));
    let resolved = remote.resolve("latest").await.unwrap();
    assert_eq!(resolved.descriptor, Descriptor::of(media_type::OCI_MANIFEST, manifest.as_bytes()));
}

#[tokio::test]
async fn referrers_are_a_list_a_tag_or_none() {
    let signature = Descriptor {
        artifact_type: "application/vnd.dev.sigstore.bundle.v0.3+json".into(),
        ..Descriptor::of(media_type::OCI_MANIFEST, b"signature")
    };
    let index = Index::new(media_type::OCI_INDEX, vec![signature.clone()]).encode();
    let subject = Digest::sha256("subject");
    for (place, found) in [
        (format!("/v2/a/b/referrers/{subject}"), true),
        (format!("/v2/a/b/manifests/sha256-{}", subject.hex()), true),
        ("nowhere".to_owned(), false),
    ] {
        let index = index.clone();
        let address = serve(move |request| match request.line.split(' ').nth(1) == Some(place.as_str()) {
            true => Answer::new("200 OK").header("Content-Type", media_type::OCI_INDEX).body(index.clone()),
            false => Answer::new("404 Not Found"),
        })
        .await;
        let got = remote(&format!("{address}/a/b"), BTreeMap::new()).referrers(&subject).await.unwrap();
        assert_eq!(got, if found { vec![signature.clone()] } else { Vec::new() });
    }
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
async fn a_token_that_expires_on_the_way_is_renewed() {
    let blob: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let issued = Arc::new(AtomicUsize::new(0));
    let count = issued.clone();
    // The first question is answered by a server that is busy.
    let realm = serve(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new("503 Service Unavailable"),
        n => Answer::new("200 OK").body(format!(r#"{{"token":"number{n}","expires_in":300}}"#)),
    })
    .await;
    let (served, valid) = (blob.clone(), issued.clone());
    let address = serve(move |request| {
        // Each token serves for one request.
        let wanted = format!("Bearer number{}", valid.load(Ordering::SeqCst).saturating_sub(1));
        if request.header("authorization") != Some(&wanted) || wanted.ends_with("number0") {
            let challenge = format!(r#"Bearer realm="http://{realm}/token",service="r.example""#);
            return Answer::new("401 Unauthorized").header("WWW-Authenticate", challenge);
        }
        valid.fetch_add(1, Ordering::SeqCst);
        let from = request.header("range").map_or(0, |r| r[6..r.len() - 1].parse().unwrap());
        let upto = served.len().min(from + 150_000);
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        Answer::new(status).header("Content-Length", served.len() - from).body(&served[from..upto])
    })
    .await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let got: Vec<bytes::Bytes> = remote.blob(&descriptor, 0).await.unwrap().try_collect().await.unwrap();
    assert!(got.concat() == blob);
}

#[tokio::test]
async fn servers_that_are_busy_are_asked_again() {
    let manifest = r#"{"schemaVersion":2}"#;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let statuses = ["500 Internal Server Error", "429 Too Many Requests", "503 Service Unavailable"];
    let address = serve(move |_| match statuses.get(count.fetch_add(1, Ordering::SeqCst)) {
        Some(status) => Answer::new(status),
        None => Answer::new("200 OK").header("Content-Type", media_type::OCI_MANIFEST).body(manifest),
    })
    .await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(remote.manifest(&descriptor).await.unwrap(), manifest);
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_server_says_when_it_wants_to_be_asked_again() {
    // In a moment; long ago; in hours, which is not waited for.
    let values = ["1", "Thu, 01 Jan 1970 00:00:00 GMT", "21600"];
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let host = serve(move |_| match values.get(count.fetch_add(1, Ordering::SeqCst)) {
        Some(value) => Answer::new("429 Too Many Requests").header("Retry-After", value),
        None => Answer::new("404 Not Found"),
    })
    .await;
    let start = std::time::Instant::now();
    let error = remote(&format!("{host}/a/b"), BTreeMap::new()).resolve("latest").await.unwrap_err();
    assert!(error.to_string().ends_with("(the registry asks to come back in 21600 s)"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert!((1.0..10.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_not_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // What such servers say to a greeting of TLS.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.ok();
            stream.read_u8().await.ok();
        }
    });
    let config = HostConfig { insecure: true, http: Some(false), ..HostConfig::default() };
    let hosts = BTreeMap::from([(address.clone(), config)]);
    let error = remote(&format!("{address}/a/b"), hosts).resolve("latest").await.unwrap_err();
    assert!(matches!(error, Error::Http { .. }) && !error.is_transient(), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
