//! `--export-cache` and `--import-cache`: where cached results go and come from.

use super::csv::{Attrs, parse_attrs, parse_bool};
use crate::Error;

/// One place of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its kind, such as `registry`.
    pub kind: String,
    /// What the daemon is told of it.
    pub attrs: Attrs,
}

/// Looks up a variable of the environment.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads an `--export-cache`; a bare reference means a registry.
///
/// # Errors
/// [`Error::Usage`] for what cannot be read, or lacks what its kind needs.
pub fn parse_cache_export(text: &str, env: Env<'_>) -> Result<CacheEntry, Error> {
    let mut entry = parse(text, "--export-cache", env)?;
    entry.attrs.entry("mode".into()).or_insert_with(|| "min".into());
    Ok(entry)
}

/// Reads an `--import-cache`; a bare reference means a registry.
///
/// # Errors
/// [`Error::Usage`] for what cannot be read, or lacks what its kind needs.
pub fn parse_cache_import(text: &str, env: Env<'_>) -> Result<CacheEntry, Error> {
    parse(text, "--import-cache", env)
}

fn parse(text: &str, flag: &str, env: Env<'_>) -> Result<CacheEntry, Error> {
    if !text.contains("type=") {
        return Ok(CacheEntry { kind: "registry".into(), attrs: [("ref".into(), text.to_owned())].into() });
    }
    let mut attrs = parse_attrs(text)?;
    let kind = attrs.remove("type").unwrap_or_default();
    if kind.is_empty() {
        return Err(Error::Usage(format!("{flag} requires type=<type>")));
    }
    if kind == "gha" {
        add_github(&mut attrs, env)?;
    }
    Ok(CacheEntry { kind, attrs })
}

/// A job of GitHub's finds address and token of its cache in the environment.
fn add_github(attrs: &mut Attrs, env: Env<'_>) -> Result<(), Error> {
    let second_version = match attrs.get("version") {
        Some(version) => version == "2",
        None => env("ACTIONS_CACHE_SERVICE_V2").and_then(|v| parse_bool(&v)).unwrap_or(false),
    };
    let mut default = |key: &str, value: Option<String>| {
        if let (false, Some(value)) = (attrs.contains_key(key), value) {
            attrs.insert(key.into(), value);
        }
    };
    if second_version {
        default("url_v2", env("ACTIONS_RESULTS_URL"));
    }
    default("url", env("ACTIONS_CACHE_URL").or_else(|| env("ACTIONS_RESULTS_URL")));
    default("token", env("ACTIONS_RUNTIME_TOKEN"));
    if !attrs.contains_key("url") && !attrs.contains_key("url_v2") {
        return Err(Error::Usage("a cache of type gha needs the parameter url".into()));
    }
    if !attrs.contains_key("token") {
        return Err(Error::Usage(
            "a cache of type gha needs the parameter token, or $ACTIONS_RUNTIME_TOKEN".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_bare_reference_is_a_registry() {
        let entry = parse_cache_export("example.com/a:b", &none).unwrap();
        assert_eq!(entry.kind, "registry");
        assert_eq!(entry.attrs["ref"], "example.com/a:b");
        assert_eq!(entry.attrs["mode"], "min");
        assert!(!parse_cache_import("type=local,src=x", &none).unwrap().attrs.contains_key("mode"));
    }

    #[test]
    fn github_is_found_in_the_environment() {
        let env = |name: &str| (name != "ACTIONS_CACHE_SERVICE_V2").then(|| format!("<{name}>"));
        let entry = parse_cache_import("type=gha", &env).unwrap();
        assert_eq!(entry.attrs["url"], "<ACTIONS_CACHE_URL>");
        assert_eq!(entry.attrs["token"], "<ACTIONS_RUNTIME_TOKEN>");
        assert!(!entry.attrs.contains_key("url_v2"));
        assert!(parse_cache_import("type=gha", &none).is_err());
    }
}
