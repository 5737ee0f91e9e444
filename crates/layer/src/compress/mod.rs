//! Compression of layers: which there are, how a stream is recognised, packed and unpacked.
//!
//! Packing is parallel and deterministic. The stream is cut into blocks of a fixed size, each block becomes a whole gzip
//! member (RFC 1952, 2.2) or zstd frame (RFC 8878, 3) of its own, and these follow one another in order:
//!
//! ```text
//! tar stream   |  1 MiB  |  1 MiB  |  rest  |
//!                  ▼ any core   ▼       ▼
//! gzip blob    | member  | member  | member |        equal input and settings, equal bytes
//! ```

mod decompress;
mod pack;

pub use decompress::{Decompressed, Format, decompress};
pub use pack::{LayerWriter, Written};

use kiln_oci::media_type;

use crate::error::{Error, Result};

/// How a layer's bytes are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// The tar stream as it is.
    Uncompressed,
    /// Gzip, what every client reads.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Reads the value of the `compression` option: `uncompressed`, `gzip` or `zstd`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for `estargz`, [`Error::Compression`] for anything else.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "uncompressed" => Ok(Compression::Uncompressed),
            "gzip" => Ok(Compression::Gzip),
            "zstd" => Ok(Compression::Zstd),
            "estargz" | "nydus" => Err(Error::Unsupported(format!("layer compression {name}"))),
            _ => Err(Error::Compression(format!(
                "unsupported compression type {name}: want uncompressed, gzip or zstd"
            ))),
        }
    }

    /// The name that [`Compression::parse`] reads.
    pub fn as_str(self) -> &'static str {
        match self {
            Compression::Uncompressed => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// The OCI media type of layers that are packed so; [`media_type::to_docker`] gives Docker's.
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::Uncompressed => media_type::OCI_LAYER,
            Compression::Gzip => media_type::OCI_LAYER_GZIP,
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        }
    }

    /// How a layer of this media type (OCI or Docker, distributable or not) is packed; `None` if it is no layer.
    pub fn from_media_type(name: &str) -> Option<Self> {
        if !media_type::is_layer(name) {
            return None;
        }
        Some(match name.rsplit(['+', '.']).next() {
            Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            _ => Compression::Uncompressed,
        })
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that decides the bytes of a packed layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The algorithm.
    pub compression: Compression,
    /// The level in the algorithm's own scale (gzip 0 to 9, zstd 1 to 22); `None` is the default.
    pub level: Option<i32>,
}

impl Settings {
    /// Checks the level against the algorithm's scale. `-1` means the default, as in zlib.
    ///
    /// # Errors
    ///
    /// [`Error::Compression`] for a level out of range.
    pub fn new(compression: Compression, level: Option<i32>) -> Result<Self> {
        let range = match compression {
            Compression::Uncompressed => i32::MIN..=i32::MAX,
            Compression::Gzip => -1..=9,
            Compression::Zstd => -1..=22,
        };
        match level {
            Some(level) if !range.contains(&level) => Err(Error::Compression(format!(
                "compression level {level} is out of range: {compression} takes {} to {}",
                range.start() + 1,
                range.end()
            ))),
            _ => Ok(Settings { compression, level: level.filter(|&level| level != -1) }),
        }
    }
}

impl From<Compression> for Settings {
    fn from(compression: Compression) -> Self {
        Settings { compression, level: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_media_types() {
        for compression in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
            assert_eq!(Compression::parse(compression.as_str()).expect("a name"), compression);
            let oci = compression.media_type();
            assert_eq!(Compression::from_media_type(oci), Some(compression));
            assert_eq!(Compression::from_media_type(media_type::to_docker(oci)), Some(compression));
        }
        let foreign = media_type::DOCKER_LAYER_FOREIGN_GZIP;
        assert_eq!(Compression::from_media_type(foreign), Some(Compression::Gzip));
        assert_eq!(Compression::from_media_type(media_type::OCI_CONFIG), None);
        assert!(matches!(Compression::parse("estargz"), Err(Error::Unsupported(_))));
        assert!(matches!(Compression::parse("lzma"), Err(Error::Compression(_))));
    }

    #[test]
    fn levels_have_a_range() {
        assert!(Settings::new(Compression::Gzip, Some(10)).is_err());
        assert!(Settings::new(Compression::Zstd, Some(23)).is_err());
        assert_eq!(Settings::new(Compression::Gzip, Some(-1)).expect("default").level, None);
        assert_eq!(Settings::new(Compression::Zstd, Some(19)).expect("level").level, Some(19));
    }
}
