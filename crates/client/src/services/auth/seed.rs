//! Random seeds by host, kept beside Docker's configuration so that a user's sessions have the same keys.
//!
//! `<docker config>/.token_seed` is `{"<host>": {"Seed": "<base64>"}}`, shared with Docker's own clients, and
//! `.token_seed.lock` is locked while it changes.

use std::{collections::BTreeMap, fs, io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

/// Bytes of a seed.
const LENGTH: usize = 16;

#[derive(Serialize, Deserialize)]
struct Seed {
    #[serde(rename = "Seed")]
    seed: String,
}

/// The seed of a host, made if there is none. Where it cannot be kept it is good for this process.
///
/// # Errors
/// If the folder cannot be made or locked for other reasons than being read-only.
pub(super) fn of(dir: &Path, host: &str) -> io::Result<Vec<u8>> {
    let harmless = |error: io::Error| match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory => Ok(()),
        _ => Err(error),
    };
    fs::create_dir_all(dir).or_else(harmless)?;
    let lock = fs::File::create(dir.join(".token_seed.lock"));
    let _held = match lock {
        Ok(file) => {
            file.lock()?;
            Some(file)
        }
        Err(error) => harmless(error).map(|()| None)?,
    };
    let path = dir.join(".token_seed");
    // A file that cannot be read or understood is written anew.
    let mut seeds: BTreeMap<String, Seed> =
        fs::read(&path).ok().and_then(|data| serde_json::from_slice(&data).ok()).unwrap_or_default();
    if let Some(found) = seeds.get(host).and_then(|seed| BASE64.decode(&seed.seed).ok()) {
        return Ok(found);
    }
    let mut fresh = vec![0; LENGTH];
    getrandom::fill(&mut fresh).map_err(|error| io::Error::other(error.to_string()))?;
    seeds.insert(host.to_owned(), Seed { seed: BASE64.encode(&fresh) });
    let json = serde_json::to_vec_pretty(&seeds).map_err(io::Error::other)?;
    write_private(&path, &json).or_else(harmless)?;
    Ok(fresh)
}

fn write_private(path: &Path, data: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_its_seed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (of(dir.path(), "a").unwrap(), of(dir.path(), "b").unwrap());
        assert_eq!(a.len(), LENGTH);
        assert_ne!(a, b);
        assert_eq!(of(dir.path(), "a").unwrap(), a);
    }
}
