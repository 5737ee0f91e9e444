//! Names of refs.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::Error;

/// The name of a ref's record: 25 characters of `0-9a-z`, as BuildKit's are. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefId(Arc<str>);

/// Characters of an id.
const LENGTH: usize = 25;

impl RefId {
    /// A new id, never used before.
    pub(crate) fn random() -> Result<Self, Error> {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut bytes = [0u8; 17];
        getrandom::fill(&mut bytes).map_err(|e| Error::Random(e.to_string()))?;
        let mut value = bytes.iter().take(16).fold(0u128, |value, byte| value << 8 | u128::from(*byte));
        let mut text = String::with_capacity(LENGTH);
        for _ in 0..LENGTH {
            text.push(char::from(DIGITS[(value % 36) as usize]));
            value /= 36;
        }
        Ok(Self(text.into()))
    }

    /// Reads an id; `None` when `text` has other characters or another length.
    pub fn parse(text: &str) -> Option<Self> {
        let valid =
            text.len() == LENGTH && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        valid.then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RefId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RefId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or(text)
    }
}

impl From<RefId> for String {
    fn from(id: RefId) -> Self {
        id.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_look_like_buildkits() {
        let id = RefId::random().unwrap();
        assert_eq!(RefId::parse(id.as_str()), Some(id.clone()));
        assert_ne!(RefId::random().unwrap(), id);
        assert!(RefId::parse("../../etc").is_none());
    }
}
