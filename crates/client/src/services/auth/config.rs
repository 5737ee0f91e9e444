//! Docker's configuration: `config.json` with credentials in it, or with the names of helpers that keep them.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;

use super::helper;

/// Who we are to a registry. All fields empty: nobody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// A token that stands for user and password when tokens are fetched.
    pub identity_token: String,
    /// A token that is good as it is.
    pub registry_token: String,
}

impl Credentials {
    /// The name to send, which an identity token replaces.
    #[must_use]
    pub fn user(&self) -> &str {
        if self.identity_token.is_empty() { &self.username } else { "" }
    }

    /// The secret to send.
    #[must_use]
    pub fn secret(&self) -> &str {
        if self.identity_token.is_empty() { &self.password } else { &self.identity_token }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

/// Docker's configuration, read once.
#[derive(Default)]
pub struct DockerConfig {
    dir: PathBuf,
    file: File,
}

impl DockerConfig {
    /// Reads `config.json` of a folder; a file that is not there is an empty one.
    ///
    /// # Errors
    /// If the file cannot be read or understood.
    pub fn load(dir: &Path) -> io::Result<Self> {
        let path = dir.join("config.json");
        let file = match std::fs::read(&path) {
            Ok(data) => serde_json::from_slice(&data)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                File::default()
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        Ok(Self { dir: dir.to_owned(), file })
    }

    /// The folder of the configuration.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Credentials for a server: those of its helper, of the common helper, or those in the file.
    ///
    /// # Errors
    /// If a helper fails for other reasons than having none.
    pub fn credentials(&self, server: &str) -> io::Result<Credentials> {
        let helper = match self.file.cred_helpers.get(server) {
            Some(own) => own,
            None => &self.file.creds_store,
        };
        if !helper.is_empty()
            && let Some(found) = helper::get(helper, server)?
        {
            return Ok(found);
        }
        let by_host =
            || self.file.auths.iter().find(|(key, _)| host_of(key) == server).map(|(_, entry)| entry);
        let entry = self.file.auths.get(server).or_else(by_host);
        entry.map_or_else(|| Ok(Credentials::default()), Entry::credentials)
    }
}

impl Entry {
    fn credentials(&self) -> io::Result<Credentials> {
        let mut found = Credentials {
            username: self.username.clone(),
            password: self.password.clone(),
            identity_token: self.identitytoken.clone(),
            registry_token: self.registrytoken.clone(),
        };
        if !self.auth.is_empty() {
            let bad =
                || io::Error::other("the field auth of Docker's config.json is not base64 of user:password");
            let text = BASE64
                .decode(&self.auth)
                .ok()
                .and_then(|data| String::from_utf8(data).ok())
                .ok_or_else(bad)?;
            let (user, password) = text.split_once(':').ok_or_else(bad)?;
            found.username = user.to_owned();
            found.password = password.trim_end_matches('\0').to_owned();
        }
        Ok(found)
    }
}

/// Old configurations have URLs for names.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> DockerConfig {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        DockerConfig::load(dir.path()).unwrap()
    }

    #[test]
    fn entries_are_found_by_host_and_by_url() {
        let config = config(
            r#"{"auths":{"a.example":{"auth":"dTpwOng="},"https://b.example/v1/":{"username":"n","password":"s"},
                "https://index.docker.io/v1/":{"identitytoken":"t"}}}"#,
        );
        let a = config.credentials("a.example").unwrap();
        assert_eq!((a.user(), a.secret()), ("u", "p:x"));
        assert_eq!(config.credentials("b.example").unwrap().secret(), "s");
        let hub = config.credentials("https://index.docker.io/v1/").unwrap();
        assert_eq!((hub.user(), hub.secret()), ("", "t"));
        assert_eq!(config.credentials("other").unwrap(), Credentials::default());
    }

    #[test]
    fn no_file_is_an_empty_one_and_no_secret_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(DockerConfig::load(dir.path()).unwrap().credentials("x").unwrap(), Credentials::default());
        let secret = Credentials { password: "hidden".into(), ..Credentials::default() };
        assert!(!format!("{secret:?}").contains("hidden"));
    }
}
