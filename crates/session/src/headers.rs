//! Names of the headers that carry what is not in the messages, and how lists of paths are written into them.

use http::HeaderMap;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::Error;

/// The session's id; opens every session.
pub const SESSION_ID: &str = "x-docker-expose-session-uuid";
/// A name that older clients gave their sessions.
pub const SESSION_NAME: &str = "x-docker-expose-session-name";
/// Names the client's host, so that the trees of its folders are found again at its next build.
pub const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
/// One for each method that the client serves, as `/service/method`.
pub const METHOD: &str = "x-docker-expose-session-grpc-method";
/// Milliseconds between health checks, and the time that each may take; at least a second.
pub const HEALTH_TIMEOUT: &str = "x-buildkit-session-health-custom-timeout";

/// `FileSync`: which of the client's folders.
pub const DIR_NAME: &str = "dir-name";
/// `FileSync`: patterns of what to send.
pub const INCLUDE_PATTERNS: &str = "include-patterns";
/// `FileSync`: patterns of what not to send.
pub const EXCLUDE_PATTERNS: &str = "exclude-patterns";
/// `FileSync`: paths to send with whatever their links lead to.
pub const FOLLOW_PATHS: &str = "followpaths";
/// `FileSend`: which of the client's outputs.
pub const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
/// `FileSend`: the daemon sends all platforms of a folder in one transfer.
pub const EXPORTER_MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
/// `FileSend`: what comes before the name of each of the exporter's metadata.
pub const EXPORTER_METADATA_PREFIX: &str = "exporter-md-";
/// `SSH`: which of the client's agents.
pub const SSH_ID: &str = "buildkit.ssh.id";
/// `Upload`: path of the URL that stands for the upload.
pub const UPLOAD_PATH: &str = "urlpath";
/// `Upload`: host of the URL that stands for the upload.
pub const UPLOAD_HOST: &str = "urlhost";
/// `Content`: which of the client's stores.
pub const STORE_ID: &str = "buildkit-attachable-store-id";
/// The gateway's methods on a control connection: which build they belong to.
pub const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// Says beside a list that its values are percent-encoded.
const ENCODED_SUFFIX: &str = "-encoded";

/// What opens a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// The session's id.
    pub id: String,
    /// See [`SHARED_KEY`].
    pub shared_key: String,
    /// See [`METHOD`].
    pub methods: Vec<String>,
    /// See [`HEALTH_TIMEOUT`].
    pub health_timeout: Option<std::time::Duration>,
}

impl Opening {
    /// Reads the headers of a stream.
    ///
    /// # Errors
    /// [`Error::Header`] when the id is missing or no text.
    pub fn read(headers: &MetadataMap) -> Result<Self, Error> {
        let text = |name: &'static str| headers.get(name).map(|v| v.to_str().unwrap_or_default().to_owned());
        let id = text(SESSION_ID).unwrap_or_default();
        if id.is_empty() {
            return Err(Error::Header { name: SESSION_ID, problem: "a session must have an id".into() });
        }
        let methods =
            headers.get_all(METHOD).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
        let health_timeout = text(HEALTH_TIMEOUT)
            .and_then(|ms| ms.parse::<u64>().ok())
            .filter(|ms| *ms > 0)
            .map(|ms| std::time::Duration::from_millis(ms.max(1000)));
        Ok(Self { id, shared_key: text(SHARED_KEY).unwrap_or_default(), methods, health_timeout })
    }

    /// Writes the headers of a stream.
    ///
    /// # Errors
    /// [`Error::Header`] for a text that no header can carry.
    pub fn write(&self, headers: &mut MetadataMap) -> Result<(), Error> {
        let mut put = |name: &'static str, text: &str| {
            let value = text
                .parse::<AsciiMetadataValue>()
                .map_err(|_| Error::Header { name, problem: format!("{text:?} is not ASCII") })?;
            headers.append(name, value);
            Ok::<_, Error>(())
        };
        put(SESSION_ID, &self.id)?;
        put(SESSION_NAME, "")?;
        put(SHARED_KEY, &self.shared_key)?;
        for method in &self.methods {
            put(METHOD, method)?;
        }
        if let Some(timeout) = self.health_timeout {
            put(HEALTH_TIMEOUT, &timeout.as_millis().to_string())?;
        }
        Ok(())
    }
}

/// Puts a list of texts under `name`. Lists with anything but ASCII are percent-encoded, and a second header says so.
pub fn put_list(headers: &mut MetadataMap, name: &'static str, values: &[String]) {
    let plain = values.iter().all(|v| v.is_ascii());
    for value in values {
        let text = if plain { value.clone() } else { query_escape(value) };
        if let Ok(value) = text.parse::<AsciiMetadataValue>() {
            headers.append(name, value);
        }
    }
    if !plain && let Ok(key) = format!("{name}{ENCODED_SUFFIX}").parse::<AsciiMetadataKey>() {
        headers.insert(key, AsciiMetadataValue::from_static("1"));
    }
}

/// Reads what [`put_list`] wrote.
#[must_use]
pub fn get_list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let encoded = headers
        .get(format!("{name}{ENCODED_SUFFIX}"))
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| matches!(v, "1" | "t" | "T" | "true" | "TRUE" | "True"));
    let texts = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    if encoded { texts.map(|text| query_unescape(&text)).collect() } else { texts.collect() }
}

/// Percent-encoding of an HTML form: letters, digits and `-_.~` stay, a space becomes `+`.
fn query_escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => {
                // Writing to a String cannot fail.
                let _infallible = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The reverse of [`query_escape`]; a text that is not well-formed comes out empty.
fn query_unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
                    return String::new();
                };
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ascii_travel_as_they_are() {
        let mut headers = MetadataMap::new();
        put_list(&mut headers, INCLUDE_PATTERNS, &["a b".into(), "c%20+d".into()]);
        let headers = headers.into_headers();
        assert_eq!(headers.len(), 2);
        assert_eq!(get_list(&headers, INCLUDE_PATTERNS), ["a b", "c%20+d"]);
    }

    #[test]
    fn other_lists_are_encoded_and_say_so() {
        let mut headers = MetadataMap::new();
        put_list(&mut headers, FOLLOW_PATHS, &["schön/ä b".into(), "x+y".into()]);
        let headers = headers.into_headers();
        assert_eq!(headers.get("followpaths").unwrap(), "sch%C3%B6n%2F%C3%A4+b");
        assert_eq!(headers.get("followpaths-encoded").unwrap(), "1");
        assert_eq!(get_list(&headers, FOLLOW_PATHS), ["schön/ä b", "x+y"]);
    }

    #[test]
    fn malformed_escapes_do_not_panic() {
        for text in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(query_unescape(text), "");
        }
    }

    #[test]
    fn an_opening_survives_its_headers() {
        let opening = Opening {
            id: "abc".into(),
            shared_key: "key".into(),
            methods: vec!["/a/B".into(), "/a/C".into()],
            health_timeout: Some(std::time::Duration::from_secs(2)),
        };
        let mut headers = MetadataMap::new();
        opening.write(&mut headers).unwrap();
        assert_eq!(Opening::read(&headers).unwrap(), opening);
    }

    #[test]
    fn an_opening_without_an_id_is_refused() {
        assert!(matches!(Opening::read(&MetadataMap::new()), Err(Error::Header { name: SESSION_ID, .. })));
    }
}
