//! Pushing blobs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use kiln_oci::{Descriptor, media_type};
use kiln_registry::Pushed;

use crate::support::{Answer, remote, serve, serve_in_part};

/// A body in many pieces.
fn body(blob: &[u8]) -> reqwest::Body {
    let chunks: Vec<_> =
        blob.chunks(1000).map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk))).collect();
    reqwest::Body::wrap_stream(futures::stream::iter(chunks))
}

#[tokio::test]
async fn a_blob_is_pushed_once() {
    let stored = Arc::new(Mutex::new(BTreeMap::<String, Vec<u8>>::new()));
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

/// A registry of which one repository has a blob, and that takes it into others if it `mounts`.
async fn neighbours(mounts: bool) -> (String, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    let address = serve(move |request| {
        let path = request.path().split("/blobs/").nth(1).unwrap_or_default().to_owned();
        let path = path.split("sha256").next().unwrap_or_default();
        log.lock().unwrap().push(format!("{} {path}{}", request.method(), query(request.path())));
        match request.method() {
            "HEAD" => Answer::new("404 Not Found"),
            "POST" if mounts => Answer::new("201 Created"),
            "POST" => Answer::new("202 Accepted").header("Location", "/v2/a/b/blobs/uploads/1"),
            "DELETE" => Answer::new("204 No Content"),
            _ => Answer::new("400 Bad Request"),
        }
    })
    .await;
    (address, seen)
}

/// What of a query does not depend on digests.
fn query(path: &str) -> String {
    let from = path.split_once("from=").map(|(_, from)| format!(" from {}", from.replace("%2F", "/")));
    from.unwrap_or_default()
}

#[tokio::test]
async fn a_blob_that_another_repository_has_is_not_sent() {
    let (address, seen) = neighbours(true).await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"blob");
    let sources = ["elsewhere.example/c/d", &format!("{address}/a/b"), &format!("{address}/c/d:1")]
        .map(|name| kiln_oci::Reference::parse(name).unwrap());
    assert_eq!(remote.spare_blob(&descriptor, &sources).await.unwrap(), Some(Pushed::Mounted));
    let mount = "POST uploads/?mount= from c/d";
    assert_eq!(*seen.lock().unwrap(), ["HEAD ", mount]);

    let sent = || unreachable!("nothing is sent");
    assert_eq!(remote.push_blob(&descriptor, &sources, &sent).await.unwrap(), Pushed::Mounted);
    // Nobody of the same registry is known to have it: nothing is asked but whether it is there.
    seen.lock().unwrap().clear();
    assert_eq!(remote.spare_blob(&descriptor, &sources[..2]).await.unwrap(), None);
    assert_eq!(*seen.lock().unwrap(), ["HEAD "]);
}

#[tokio::test]
async fn an_upload_in_place_of_a_mount_is_given_up() {
    let (address, seen) = neighbours(false).await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"blob");
    let source = kiln_oci::Reference::parse(&format!("{address}/c/d")).unwrap();
    assert_eq!(remote.spare_blob(&descriptor, &[source]).await.unwrap(), None);
    assert_eq!(*seen.lock().unwrap(), ["HEAD ", "POST uploads/?mount= from c/d", "DELETE uploads/1"]);
}

/// A registry in which `first/one` has a blob, and of whose repository `secret` nobody may read.
async fn several() -> (String, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    let address = serve(move |request| {
        let from = query(request.path());
        log.lock().unwrap().push(format!("{}{from}", request.method()));
        match (request.method(), from.as_str()) {
            ("HEAD", _) => Answer::new("404 Not Found"),
            ("POST", " from first/one") => Answer::new("201 Created"),
            ("POST", " from secret") => Answer::new("403 Forbidden"),
            ("POST", _) => Answer::new("202 Accepted").header("Location", "/v2/a/b/blobs/uploads/1"),
            ("DELETE", _) => Answer::new("204 No Content"),
            ("PUT", _) => Answer::new("201 Created"),
            _ => Answer::new("400 Bad Request"),
        }
    })
    .await;
    (address, seen)
}

#[tokio::test]
async fn repositories_are_asked_in_turn_those_known_last_first() {
    let (address, seen) = several().await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"blob");
    let known = |names: &[&str]| -> Vec<_> {
        names.iter().map(|name| kiln_oci::Reference::parse(&format!("{address}/{name}")).unwrap()).collect()
    };
    let sources = known(&["first/one:1", "other:1", "first/one:2", "other:2", "secret"]);
    assert_eq!(remote.spare_blob(&descriptor, &sources).await.unwrap(), Some(Pushed::Mounted));
    let expected = ["HEAD", "POST from secret", "POST from other", "POST from first/one", "DELETE"];
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), expected);

    // Only a few, and an upload that the last began is used.
    let sources = known(&["first/one", "e", "d", "c", "b"]);
    let pushed = remote.push_blob(&descriptor, &sources, &|| body(b"blob")).await.unwrap();
    assert_eq!(pushed, Pushed::Sent);
    let expected = [
        "HEAD",
        "POST from b",
        "POST from c",
        "DELETE",
        "POST from d",
        "DELETE",
        "POST from e",
        "DELETE",
        "PUT",
    ];
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), expected);

    // Nobody may read of any of them, but that is no word against the push.
    let pushed = remote.push_blob(&descriptor, &known(&["secret"]), &|| body(b"blob")).await.unwrap();
    assert_eq!(pushed, Pushed::Sent);
    assert_eq!(*seen.lock().unwrap(), ["HEAD", "POST from secret", "POST", "PUT"]);
}

#[tokio::test]
async fn what_was_asked_is_not_asked_again() {
    let (address, seen) = several().await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"blob");
    let source = kiln_oci::Reference::parse(&format!("{address}/other")).unwrap();
    assert_eq!(remote.spare_blob(&descriptor, &[source]).await.unwrap(), None);
    assert_eq!(remote.send_blob(&descriptor, &|| body(b"blob")).await.unwrap(), Pushed::Sent);
    assert_eq!(*seen.lock().unwrap(), ["HEAD", "POST from other", "DELETE", "POST", "PUT"]);
}

/// What a registry has seen.
#[derive(Default)]
struct Seen {
    requests: Vec<String>,
    /// Of the upload under way.
    partial: Vec<u8>,
    stored: Option<Vec<u8>>,
}

/// A registry to which connections break after so many bytes of a body; then it keeps what came, if it `resumes`.
async fn fragile(breaks: Vec<usize>, resumes: bool) -> (String, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (state, breaks) = (seen.clone(), Mutex::new(breaks.into_iter()));
    let limit = move |line: &str| {
        let has_body = line.starts_with("PUT") || line.starts_with("PATCH");
        has_body.then(|| breaks.lock().unwrap().next()).flatten()
    };
    let address = serve_in_part(limit, move |request| {
        let mut seen = state.lock().unwrap();
        let range = request.header("content-range").map(|r| format!(" {r}")).unwrap_or_default();
        seen.requests.push(format!("{}{range} {}", request.method(), request.body.len()));
        match request.method() {
            "HEAD" => Answer::new("404 Not Found"),
            "POST" => {
                seen.partial.clear();
                Answer::new("202 Accepted").header("Location", "/v2/a/b/blobs/uploads/1?state=x")
            }
            "GET" if resumes => Answer::new("204 No Content")
                .header("Range", format!("0-{}", seen.partial.len().saturating_sub(1)))
                .header("Location", "/v2/a/b/blobs/uploads/1?state=y"),
            "PATCH" | "PUT" => {
                seen.partial.extend(&request.body);
                if request.whole && request.path().contains("digest=") {
                    seen.stored = Some(std::mem::take(&mut seen.partial));
                    return Answer::new("201 Created");
                }
                Answer::new("202 Accepted").header("Location", "/v2/a/b/blobs/uploads/1?state=z")
            }
            _ => Answer::new("404 Not Found"),
        }
    })
    .await;
    (address, seen)
}

#[tokio::test]
async fn an_upload_that_breaks_off_goes_on_where_it_ended() {
    let blob: Vec<u8> = (0..25_000_u32).flat_map(u32::to_le_bytes).collect();
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let (address, seen) = fragile(vec![40_500, 30_000], true).await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    assert_eq!(remote.push_blob(&descriptor, &[], &|| body(&blob)).await.unwrap(), Pushed::Sent);
    let seen = seen.lock().unwrap();
    assert!(seen.stored.as_ref().unwrap() == &blob);
    let expected = [
        "HEAD 0",
        "POST 0",
        "PUT 40500",
        "GET 0",
        "PATCH 40500-99999 30000",
        "GET 0",
        "PATCH 70500-99999 29500",
        "PUT 0",
    ];
    assert_eq!(seen.requests, expected);
}

#[tokio::test]
async fn a_registry_that_forgets_gets_all_of_it_again() {
    let blob = vec![7; 100_000];
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let (address, seen) = fragile(vec![40_500], false).await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    assert_eq!(remote.push_blob(&descriptor, &[], &|| body(&blob)).await.unwrap(), Pushed::Sent);
    let seen = seen.lock().unwrap();
    assert!(seen.stored.as_ref().unwrap() == &blob);
    assert_eq!(seen.requests, ["HEAD 0", "POST 0", "PUT 40500", "GET 0", "POST 0", "PUT 100000"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_takes_it_is_given_up() {
    let blob = vec![7; 100_000];
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let (address, seen) = fragile(vec![100; 50], false).await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let error = remote.push_blob(&descriptor, &[], &|| body(&blob)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let tries = seen.lock().unwrap().requests.iter().filter(|r| r.starts_with("PUT")).count();
    assert_eq!(tries, 5);
}

#[tokio::test]
async fn a_refusal_is_final() {
    let blob = vec![7; 1000];
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let tries = Arc::new(Mutex::new(0));
    let count = tries.clone();
    let address = serve(move |request| match request.method() {
        "POST" => Answer::new("202 Accepted").header("Location", "/v2/a/b/blobs/uploads/1"),
        "PUT" => {
            *count.lock().unwrap() += 1;
            Answer::new("400 Bad Request").body(r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#)
        }
        _ => Answer::new("404 Not Found"),
    })
    .await;
    let remote = remote(&format!("{address}/a/b"), BTreeMap::new());
    let error = remote.push_blob(&descriptor, &[], &|| body(&blob)).await.unwrap_err();
    assert!(error.to_string().contains("no (DIGEST_INVALID)"), "{error}");
    assert_eq!(*tries.lock().unwrap(), 1);
}
