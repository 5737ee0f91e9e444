//! `--secret id=…,src=…|env=…`.

use std::path::PathBuf;

use super::csv::parse_attrs;
use crate::Error;

/// The largest secret, in bytes; the daemon takes no larger one.
pub(super) const MAX_SECRET: u64 = 500 * 1024;

/// A secret that a build may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// What it is asked for by.
    pub id: String,
    /// Where it is.
    pub source: SecretSource,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

/// Reads one `--secret`. With an id alone, a variable of that name is meant if it is set, else a file of that name.
///
/// # Errors
/// [`Error::Usage`] for unknown keys, a missing id, and a file that is not there or too large.
pub fn parse_secret(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Secret, Error> {
    let (mut id, mut file, mut variable, mut kind) =
        (String::new(), String::new(), String::new(), String::new());
    for (key, value) in parse_attrs(text)? {
        match key.as_str() {
            "type" if value != "file" && value != "env" => {
                return Err(Error::Usage(format!("unsupported secret type {value:?}")));
            }
            "type" => kind = value,
            "id" => id = value,
            "source" | "src" => file = value,
            "env" => variable = value,
            _ => return Err(Error::Usage(format!("unexpected key '{key}' in '{text}'"))),
        }
    }
    if id.is_empty() {
        return Err(Error::Usage("secret missing ID".into()));
    }
    if kind == "env" && variable.is_empty() {
        variable = std::mem::take(&mut file);
    }
    if variable.is_empty() && file.is_empty() {
        if env(&id).is_some() { variable.clone_from(&id) } else { file.clone_from(&id) }
    }
    if !file.is_empty() {
        let size = std::fs::metadata(&file).map_err(Error::io(format!("secret {id}: {file}")))?.len();
        if size > MAX_SECRET {
            return Err(Error::Usage(format!("secret {file} too big. max size {MAX_SECRET} bytes")));
        }
    }
    let source =
        if variable.is_empty() { SecretSource::File(file.into()) } else { SecretSource::Env(variable) };
    Ok(Secret { id, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_alone_names_a_variable_or_a_file() {
        let set = |name: &str| (name == "TOKEN").then(String::new);
        assert_eq!(parse_secret("id=TOKEN", &set).unwrap().source, SecretSource::Env("TOKEN".into()));
        assert_eq!(parse_secret("id=x,type=env,src=Y", &set).unwrap().source, SecretSource::Env("Y".into()));
        assert!(parse_secret("id=/no/such/file", &set).is_err());
    }

    #[test]
    fn other_keys_are_refused() {
        let none = |_: &str| None;
        for text in ["src=x", "id=x,uid=0", "id=x,type=vault", "id"] {
            assert!(parse_secret(text, &none).is_err(), "{text}");
        }
    }
}
