//! `--ssh default|id=socket|id=key1,key2|id=socket,raw=true`.

use std::path::PathBuf;

use super::csv::parse_bool;
use crate::Error;

/// An agent that a build may ask to sign, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// What it is asked for by.
    pub id: String,
    /// A socket, or private keys; none for the agent of the environment.
    pub paths: Vec<PathBuf>,
    /// Hand the socket on as it is, whatever is spoken over it.
    pub raw: bool,
}

/// The id of an agent that nobody named.
pub(super) const DEFAULT_ID: &str = "default";

/// Reads one `--ssh`.
///
/// # Errors
/// [`Error::Usage`] for a `raw` that is neither true nor false, or with other than one path.
pub fn parse_ssh(text: &str) -> Result<AgentConfig, Error> {
    let (id, value) = text.split_once('=').map_or((text, None), |(id, value)| (id, Some(value)));
    let id = if id.is_empty() { DEFAULT_ID } else { id };
    let mut config = AgentConfig { id: id.to_owned(), paths: Vec::new(), raw: false };
    for part in value.into_iter().flat_map(|value| value.split(',')) {
        match part.strip_prefix("raw=") {
            Some(raw) => {
                config.raw =
                    parse_bool(raw).ok_or_else(|| Error::Usage(format!("invalid value for 'raw': {raw}")))?;
            }
            None if part.is_empty() => {}
            None => config.paths.push(part.into()),
        }
    }
    if config.raw && config.paths.len() != 1 {
        return Err(Error::Usage(format!("raw mode must supply exactly one socket path for {id:?}")));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_an_id_and_paths() {
        assert_eq!(
            parse_ssh("default").unwrap(),
            AgentConfig { id: "default".into(), paths: vec![], raw: false }
        );
        let config = parse_ssh("x=/a,raw=true").unwrap();
        assert!(config.raw && config.paths == [PathBuf::from("/a")]);
        assert!(parse_ssh("x=/a,/b,raw=1").is_err());
        assert!(parse_ssh("x=raw=maybe").is_err());
    }
}
