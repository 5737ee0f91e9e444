//! A registry on this machine with one image: a program with the libraries that it needs.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use kiln_oci::Digest;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

type Content = Arc<HashMap<String, (&'static str, Vec<u8>)>>;

/// Serves the image of this very program. The result: its name, by digest.
pub(crate) async fn serve_ourselves(labels: serde_json::Value) -> String {
    let layer = layer();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/frontend"], "Env": ["FROM_IMAGE=yes"], "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer).to_string()]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest::sha256(&config).to_string(), "size": config.len()},
        "layers": [{"mediaType": LAYER, "digest": Digest::sha256(&layer).to_string(), "size": layer.len()}],
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::sha256(&manifest).to_string();
    let blob = |content: &[u8]| format!("/v2/test/frontend/blobs/{}", Digest::sha256(content));
    let content: Content = Arc::new(HashMap::from([
        (blob(&layer), ("application/octet-stream", layer)),
        (blob(&config), ("application/octet-stream", config)),
        (format!("/v2/test/frontend/manifests/{digest}"), (MANIFEST, manifest)),
    ]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let content = content.clone();
            tokio::spawn(async move {
                // A client may hang up at any time.
                let _ended = answer(stream, content).await;
            });
        }
    });
    format!("{address}/test/frontend@{digest}")
}

async fn answer(stream: TcpStream, content: Content) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line.trim().is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = match content.get(path) {
        Some((kind, body)) => ("200 OK", *kind, body.as_slice()),
        None => ("404 Not Found", "text/plain", &b""[..]),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    if method == "GET" {
        stream.write_all(body).await?;
    }
    stream.flush().await
}

/// This program as `/frontend`, with the libraries that are mapped into it at their places.
fn layer() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut libraries: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.contains(".so"))
        .map(PathBuf::from)
        .collect();
    // Programs name their loader by this path.
    libraries.push("/lib64/ld-linux-x86-64.so.2".into());
    libraries.sort();
    libraries.dedup();
    let mut tar = Vec::new();
    add(&mut tar, "frontend", &std::fs::read("/proc/self/exe").unwrap());
    for library in libraries.iter().filter(|library| library.exists()) {
        add(&mut tar, library.to_str().unwrap().trim_start_matches('/'), &std::fs::read(library).unwrap());
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Adds a file to a tar, in the format of `ustar`.
fn add(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    assert!(name.len() < 100, "{name}");
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&header);
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}
