//! Asking a web server, or a client that plays one.

use std::error::Error as _;

use futures::TryStreamExt as _;
use kiln_llb::source::Http;
use kiln_session::{Group, caller};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use super::{Body, boxed, date};
use crate::{Asking, Error, Sources};

/// The host whose files the build's client has.
const SESSION_HOST: &str = "buildkit-session";

/// Secrets that are looked for when none is named, before the host's name.
const HEADER_SECRET: &str = "HTTP_AUTH_HEADER_";
const TOKEN_SECRET: &str = "HTTP_AUTH_TOKEN_";

/// What the headers of an answer say.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Without the mark of a weak one.
    pub(super) etag: Option<String>,
    pub(super) disposition: Option<String>,
    /// Seconds since 1970.
    pub(super) modified: Option<i64>,
    /// The body is compressed for its way only.
    pub(super) gzip: bool,
}

impl Answer {
    /// `sent` are the tags that were asked about: "not modified" without a tag is about the only one.
    fn of(response: &Response, sent: &[String]) -> Self {
        let text = |name: HeaderName| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let etag = text(header::ETAG).map(|tag| tag.strip_prefix("W/").unwrap_or(&tag).to_owned());
        let implied = match sent {
            [only] if response.status() == StatusCode::NOT_MODIFIED => Some(only.clone()),
            _ => None,
        };
        Self {
            etag: etag.filter(|tag| !tag.is_empty()).or(implied),
            disposition: text(header::CONTENT_DISPOSITION),
            modified: text(header::LAST_MODIFIED).and_then(|text| date::parse(&text)),
            gzip: text(header::CONTENT_ENCODING).is_some_and(|e| e.eq_ignore_ascii_case("gzip")),
        }
    }
}

/// How to ask for one URL, with the credentials of one build.
pub(super) struct Requests {
    client: Client,
    url: Url,
    headers: HeaderMap,
    sessions: Group,
}

impl Requests {
    pub(super) async fn new(http: &Http, sources: &Sources, asking: &Asking) -> Result<Self, Error> {
        let bad = |problem: String| Error::Http { url: shown(&http.url), problem };
        let url = Url::parse(&http.url).map_err(|e| bad(e.to_string()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &http.headers {
            let value =
                HeaderValue::from_str(value).map_err(|_| bad(format!("header {name} has no valid value")))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(e.to_string()))?;
            headers.insert(name, value);
        }
        // Said outright, since some servers have another tag for each encoding.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        if url.host_str() != Some(SESSION_HOST)
            && let Some(value) = authorization(http, &url, &asking.sessions).await?
        {
            let value = HeaderValue::from_str(value.trim_end_matches(['\r', '\n']));
            let mut value = value.map_err(|_| bad("the authorization secret is no header value".into()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let client = sources.registries.web_client()?;
        Ok(Self { client, url, headers, sessions: asking.sessions.clone() })
    }

    fn failed(&self, error: &reqwest::Error) -> Error {
        let mut problem = String::new();
        let mut cause: Option<&dyn std::error::Error> = error.source();
        while let Some(error) = cause {
            problem = error.to_string();
            cause = error.source();
        }
        if problem.is_empty() {
            problem = error.to_string();
        }
        Error::Http { url: shown(self.url.as_str()), problem }
    }

    async fn send(&self, method: Method, tags: &[String]) -> Result<Response, Error> {
        let mut request = self.client.request(method, self.url.clone()).headers(self.headers.clone());
        if let Ok(value) = HeaderValue::from_str(&tags.join(", "))
            && !tags.is_empty()
        {
            request = request.header(header::IF_NONE_MATCH, value);
        }
        request.send().await.map_err(|e| self.failed(&e))
    }

    /// What the server says of the file now; `None` when it does not answer such questions.
    pub(super) async fn head(&self, tags: &[String]) -> Option<Answer> {
        let response = self.send(Method::HEAD, tags).await.ok()?;
        let usable = matches!(response.status(), StatusCode::OK | StatusCode::NOT_MODIFIED);
        usable.then(|| Answer::of(&response, tags))
    }

    /// The file; no body when it has one of `tags`.
    pub(super) async fn get(&self, tags: &[String]) -> Result<(Answer, Option<Body>), Error> {
        if self.url.host_str() == Some(SESSION_HOST) {
            return Ok((Answer::default(), Some(self.pull().await?)));
        }
        let response = self.send(Method::GET, tags).await?;
        let answer = Answer::of(&response, tags);
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok((answer, None)),
            status if status.is_success() => {}
            status => {
                let problem = format!("invalid response status {}", status.as_u16());
                return Err(Error::Http { url: shown(self.url.as_str()), problem });
            }
        }
        let url = shown(self.url.as_str());
        let body = response.bytes_stream().map_err(move |error| {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Error::Http { url: url.clone(), problem: cause }
        });
        Ok((answer, Some(boxed(body))))
    }

    async fn pull(&self) -> Result<Body, Error> {
        let (wanted, path) = (shown(self.url.as_str()), self.url.path().to_owned());
        let path = &path;
        let stream = self
            .sessions
            .any(&wanted, |session| async move { caller::pull(&session, SESSION_HOST, path).await });
        Ok(boxed(stream.await?.map_err(Error::from)))
    }
}

/// The value of the `Authorization` header, if the build's client has a secret for it.
async fn authorization(http: &Http, url: &Url, sessions: &Group) -> Result<Option<String>, Error> {
    if let Some(name) = &http.auth_header_secret {
        let secret = secret(sessions, name).await.map_err(|error| Error::Http {
            url: shown(&http.url),
            problem: format!("failed to retrieve HTTP auth secret {name}: {error}"),
        })?;
        return match secret {
            Some(value) => Ok(Some(value)),
            None => Err(Error::Http {
                url: shown(&http.url),
                problem: format!("failed to retrieve HTTP auth secret {name}: not found"),
            }),
        };
    }
    let host = url.host_str().unwrap_or_default();
    // Nobody asked for these, so that they cannot be had is no error.
    if let Ok(Some(token)) = secret(sessions, &format!("{TOKEN_SECRET}{host}")).await {
        return Ok(Some(format!("Bearer {token}")));
    }
    Ok(secret(sessions, &format!("{HEADER_SECRET}{host}")).await.unwrap_or_default())
}

/// A secret as text, from whichever client has it.
pub(crate) async fn secret(sessions: &Group, id: &str) -> Result<Option<String>, kiln_session::Error> {
    if sessions.ids().is_empty() {
        return Ok(None);
    }
    let mut found = None;
    let wanted = format!("the secret {id}");
    let asked = sessions.any(&wanted, |session| async move {
        let secret = caller::secret(&session, id).await?;
        secret.ok_or_else(|| tonic::Status::not_found(id).into())
    });
    match asked.await {
        Ok(value) => found = Some(String::from_utf8_lossy(&value).into_owned()),
        Err(error) if error.code() == Some(tonic::Code::NotFound) => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// A URL as errors and records show it: without user and password.
pub(crate) fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            match authority.rsplit_once('@') {
                Some((user, host)) if user.contains(':') => format!("{scheme}://xxxxx:xxxxx@{host}{path}"),
                Some((_, host)) => format!("{scheme}://xxxxx@{host}{path}"),
                None => url.to_owned(),
            }
        }
        None => url.to_owned(),
    }
}

/// A header's name as Go writes it.
pub(super) fn canonical(name: &str) -> String {
    let part = |part: &str| match part.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + &rest.to_ascii_lowercase(),
        None => String::new(),
    };
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(shown("https://me:pw@host/a?b"), "https://xxxxx:xxxxx@host/a?b");
        assert_eq!(shown("https://token@host/a@b"), "https://xxxxx@host/a@b");
        assert_eq!(shown("https://host/a@b"), "https://host/a@b");
        assert_eq!(shown("git@host:a"), "git@host:a");
    }

    #[test]
    fn canonical_names() {
        assert_eq!(canonical("user-agent"), "User-Agent");
        assert_eq!(canonical("accept"), "Accept");
    }
}
