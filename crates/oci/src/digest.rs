//! Content digests: `algorithm:hex`, as the OCI image spec writes them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// The hash algorithms that images may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256: 64 hexadecimal digits. What everything uses.
    Sha256,
    /// SHA-384: 96 hexadecimal digits.
    Sha384,
    /// SHA-512: 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a digest of this algorithm has.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512].into_iter().find(|a| a.as_str() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A string is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:value` in it, or the value has other characters than lower-case hex.
    #[error("invalid digest {0:?}: want <algorithm>:<lower-case hex>")]
    Format(String),
    /// The algorithm is not one of [`Algorithm`].
    #[error("unsupported digest algorithm in {0:?}: want sha256, sha384 or sha512")]
    Unsupported(String),
    /// Too few or too many digits.
    #[error("invalid digest length in {0:?}: {1} wants {2} digits")]
    Length(String, Algorithm, usize),
}

/// A validated content digest, for example `sha256:e3b0…b855`. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Arc<str>);

impl Digest {
    /// Validates `s`.
    ///
    /// # Errors
    /// When `s` is not `algorithm:hex` of a known algorithm with the right number of lower-case digits.
    pub fn parse(s: &str) -> Result<Self, DigestError> {
        let (name, value) = s.split_once(':').ok_or_else(|| DigestError::Format(clip(s)))?;
        let algorithm = Algorithm::parse(name).ok_or_else(|| DigestError::Unsupported(clip(s)))?;
        if value.len() != algorithm.hex_len() {
            return Err(DigestError::Length(clip(s), algorithm, algorithm.hex_len()));
        }
        if !value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Format(clip(s)));
        }
        Ok(Self(s.into()))
    }

    /// The SHA-256 of `data`.
    pub fn sha256(data: impl AsRef<[u8]>) -> Self {
        Self::from_sha256(sha2::Sha256::digest(data.as_ref()).into())
    }

    /// The digest whose SHA-256 value is already known.
    pub fn from_sha256(value: [u8; 32]) -> Self {
        Self::encode(Algorithm::Sha256, &value)
    }

    /// The text of a digest whose SHA-256 value is known.
    pub fn text_of_sha256(value: &[u8; 32]) -> String {
        with_text(Algorithm::Sha256, value, |text| text.to_owned())
    }

    fn encode(algorithm: Algorithm, value: &[u8]) -> Self {
        Self(with_text(algorithm, value, |text| text.into()))
    }

    /// The hash algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0.as_bytes().get(3) {
            Some(b'3') => Algorithm::Sha384,
            Some(b'5') => Algorithm::Sha512,
            _ => Algorithm::Sha256,
        }
    }

    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hands on the text of a digest, which is not kept.
fn with_text<T>(algorithm: Algorithm, value: &[u8], take: impl FnOnce(&str) -> T) -> T {
    let name = algorithm.as_str().as_bytes();
    let start = name.len() + 1;
    let mut text = [b':'; "sha512:".len() + 128];
    text[..name.len()].copy_from_slice(name);
    let end = start + 2 * value.len().min(64);
    // There are two digits for each byte, and all of it is ASCII.
    let done = const_hex::encode_to_slice(value, &mut text[start..end]).is_ok();
    take(std::str::from_utf8(&text[..end]).ok().filter(|_| done).unwrap_or_default())
}

/// At most the beginning of a hostile string goes into an error.
fn clip(s: &str) -> String {
    s.chars().take(160).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Digest {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Digest {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Digest {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(s: &str) -> Result<Self, DigestError> {
        Self::parse(s)
    }
}

impl TryFrom<&str> for Digest {
    type Error = DigestError;
    fn try_from(s: &str) -> Result<Self, DigestError> {
        Self::parse(s)
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> Self {
        d.0.as_ref().to_owned()
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = std::borrow::Cow::<str>::deserialize(d)?;
        Self::parse(&s).map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher for SHA-256.
    pub fn sha256() -> Self {
        Self::new(Algorithm::Sha256)
    }

    /// A hasher for `algorithm`, for example the one of an expected digest.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => State::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Adds the next bytes.
    pub fn update(&mut self, data: impl AsRef<[u8]>) {
        match &mut self.0 {
            State::Sha256(h) => h.update(data.as_ref()),
            State::Sha384(h) => h.update(data.as_ref()),
            State::Sha512(h) => h.update(data.as_ref()),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(h) => Digest::encode(Algorithm::Sha256, &h.finalize()),
            State::Sha384(h) => Digest::encode(Algorithm::Sha384, &h.finalize()),
            State::Sha512(h) => Digest::encode(Algorithm::Sha512, &h.finalize()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn hashes_and_parses() {
        let d = Digest::sha256(b"");
        assert_eq!(d, EMPTY);
        assert_eq!(Digest::parse(EMPTY).unwrap(), d);
        assert_eq!(d.algorithm(), Algorithm::Sha256);
        assert_eq!(d.hex().len(), 64);
        assert_eq!(Hasher::sha256().finish(), d);
        let mut h = Hasher::new(Algorithm::Sha512);
        h.update("a");
        assert_eq!(h.finish().algorithm(), Algorithm::Sha512);
    }

    #[test]
    fn refuses_what_is_no_digest() {
        for bad in
            ["", "sha256", "sha256:", "sha256:ab", "md5:d41d8cd98f00b204e9800998ecf8427e", "random:abc"]
        {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
        assert!(Digest::parse(&EMPTY.to_uppercase()).is_err());
        assert!(Digest::parse(&EMPTY.replace('e', "E")).is_err());
        assert!(Digest::parse(&format!("sha256:{}", "é".repeat(32))).is_err());
        assert!(Digest::parse(&format!("{EMPTY}0")).is_err());
    }

    #[test]
    fn serde_validates() {
        assert!(serde_json::from_str::<Digest>(&format!("{EMPTY:?}")).is_ok());
        assert!(serde_json::from_str::<Digest>("\"sha256:zz\"").is_err());
    }
}
