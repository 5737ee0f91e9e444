//! What an administrator adds to provenance: `provenance.d/*.json`, each an object, the later file's values first.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use crate::Error;

/// Keys that provenance says by itself.
const OWN: [&str; 3] = ["buildConfig", "builderPlatform", "platform"];
/// The largest file, in bytes.
const MAX: u64 = 1 << 20;

/// Reads all `.json` files of a folder. One that does not exist is empty.
///
/// # Errors
/// [`Error::Config`] for files that cannot be read, are no JSON objects, or have keys that provenance says by itself.
pub fn provenance_environment(folder: &Path) -> Result<BTreeMap<String, Value>, Error> {
    let bad = |path: &Path, problem: String| Error::Config { path: path.to_owned(), problem };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(bad(folder, error.to_string())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| bad(folder, error.to_string()))?.path();
        if path.extension().is_some_and(|ending| ending == "json") && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    let mut all = BTreeMap::new();
    for path in paths {
        let size = path.metadata().map_err(|error| bad(&path, error.to_string()))?.len();
        if size > MAX {
            return Err(bad(&path, format!("{size} bytes; at most {MAX} are read")));
        }
        let text = std::fs::read(&path).map_err(|error| bad(&path, error.to_string()))?;
        let values: BTreeMap<String, Value> =
            serde_json::from_slice(&text).map_err(|error| bad(&path, error.to_string()))?;
        if let Some(own) = OWN.iter().find(|own| values.contains_key(**own)) {
            return Err(bad(&path, format!("the key {own} is provenance's own")));
        }
        all.extend(values);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_put_together_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("b.json", r#"{"who": "b", "more": {"x": 1}}"#);
        write("a.json", r#"{"who": "a"}"#);
        write("c.txt", "not read");
        let all = provenance_environment(folder.path()).unwrap();
        assert_eq!(all["who"], "b");
        assert_eq!(all["more"]["x"], 1);
        assert!(provenance_environment(&folder.path().join("nowhere")).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (text, word) in [("[]", "bad.json"), ("{", "bad.json"), (r#"{"platform": "x"}"#, "platform")] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("bad.json"), text).unwrap();
            let error = provenance_environment(folder.path()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
