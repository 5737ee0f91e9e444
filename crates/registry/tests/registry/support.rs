//! A server that does what it is told.

use std::{collections::BTreeMap, sync::Arc};

use kiln_oci::Reference;
use kiln_registry::{Auth, HostConfig, Registries, Remote};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// What was read of it: see [`serve_in_part`].
    pub(crate) body: Vec<u8>,
    /// Whether that is all of it.
    pub(crate) whole: bool,
}

impl Request {
    pub(crate) fn method(&self) -> &str {
        self.line.split(' ').next().unwrap()
    }

    /// With the query.
    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Status line, headers and body; the connection closes after `body`, whatever the headers promise.
pub(crate) struct Answer(&'static str, Vec<(String, String)>, Vec<u8>);

impl Answer {
    pub(crate) fn new(status: &'static str) -> Self {
        Self(status, Vec::new(), Vec::new())
    }
    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.1.push((name.into(), value.to_string()));
        self
    }
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.2 = body.into();
        self
    }
}

/// Serves `answer` and returns the address.
pub(crate) async fn serve(answer: impl Fn(Request) -> Answer + Send + Sync + 'static) -> String {
    serve_in_part(|_| None, answer).await
}

/// The same, but of the bodies of some requests only so many bytes are read, and then the connection breaks.
pub(crate) async fn serve_in_part(
    limit: impl Fn(&str) -> Option<usize> + Send + Sync + 'static,
    answer: impl Fn(Request) -> Answer + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (limit, answer) = (Arc::new(limit), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (limit, answer) = (limit.clone(), answer.clone());
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
                let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
                let read = limit(first).map_or(length, |limit| limit.min(length));
                let mut body = vec![0; read];
                stream.read_exact(&mut body).await.unwrap();
                let Answer(status, headers, body) =
                    answer(Request { line: first.clone(), headers, body, whole: read == length });
                if read < length {
                    return;
                }
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

pub(crate) fn remote(reference: &str, hosts: BTreeMap<String, HostConfig>) -> Remote {
    Registries::new(hosts, "kiln/test").remote(&Reference::parse(reference).unwrap(), Auth::Anonymous)
}
