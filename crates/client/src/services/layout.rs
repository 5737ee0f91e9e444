//! A folder in the OCI image layout.
//!
//! ```text
//!   oci-layout               {"imageLayoutVersion":"1.0.0"}
//!   index.json               what is in it, by name
//!   blobs/sha256/<hex>       the blobs
//!   ingest/<id>              a blob that is being written; whoever finds an old one may remove it
//! ```

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use kiln_oci::{Descriptor, Digest, Index, Reference};

use crate::{Error, fs::write_atomic};

/// The annotation that holds a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that holds a whole name.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// An index larger than this is not read, in bytes.
const MAX_INDEX: u64 = 16 << 20;

/// What something is called in an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A tag alone.
    Tag(String),
    /// A whole reference.
    Image(String),
}

/// A folder in the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// The layout at `path`, which need not be there.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a blob is or would be.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// A folder for blobs that are being written.
    #[must_use]
    pub fn ingest(&self) -> PathBuf {
        self.path.join("ingest")
    }

    /// Reads the index.
    ///
    /// # Errors
    /// If there is none, or it is none.
    pub fn read_index(&self) -> Result<Index, Error> {
        let path = self.path.join("index.json");
        let read = || {
            let mut data = Vec::new();
            File::open(&path)?.take(MAX_INDEX).read_to_end(&mut data)?;
            Index::decode(&data).map_err(io::Error::other)
        };
        read().map_err(Error::io(format!("OCI layout index {}", path.display())))
    }

    /// What the index has under `name`: a whole name, or a tag.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Descriptor>, Error> {
        let index = self.read_index()?;
        let called = |key: &str| {
            let is = |d: &&Descriptor| d.annotations.get(key).is_some_and(|v| v == name);
            index.manifests.iter().find(is).cloned()
        };
        Ok(called(IMAGE_NAME).or_else(|| called(REF_NAME)))
    }

    /// Writes the marker and puts a descriptor into the index under each name, in place of what had the name before.
    ///
    /// # Errors
    /// If the folder cannot be written to, or holds an index that is none.
    pub fn put(&self, descriptor: &Descriptor, names: &[Name]) -> Result<(), Error> {
        let index_path = self.path.join("index.json");
        let mut index = if index_path.exists() {
            self.read_index()?
        } else {
            Index::new(kiln_oci::media_type::OCI_INDEX, Vec::new())
        };
        for name in names {
            let named = with_name(descriptor, name);
            index.manifests.retain(|old| !same_name(old, &named));
            index.manifests.push(named);
        }
        if names.is_empty() {
            index.manifests.retain(|old| old.digest != descriptor.digest || !old.annotations.is_empty());
            index.manifests.push(descriptor.clone());
        }
        write_atomic(&self.path.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        write_atomic(&index_path, &index.encode())
    }

    /// Opens a blob at an offset and says how many bytes follow.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open_blob(&self, digest: &Digest, offset: u64) -> io::Result<(File, u64)> {
        let mut file = File::open(self.blob(digest))?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset))?;
        Ok((file, size.saturating_sub(offset)))
    }

    /// Digests and sizes of all blobs.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn blobs(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        let algorithms = match fs::read_dir(self.path.join("blobs")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            other => other?,
        };
        for algorithm in algorithms {
            let algorithm = algorithm?;
            for blob in fs::read_dir(algorithm.path())? {
                let blob = blob?;
                let name = format!(
                    "{}:{}",
                    algorithm.file_name().to_string_lossy(),
                    blob.file_name().to_string_lossy()
                );
                if let Ok(digest) = Digest::parse(&name) {
                    found.push((digest, blob.metadata()?.len()));
                }
            }
        }
        Ok(found)
    }
}

fn with_name(descriptor: &Descriptor, name: &Name) -> Descriptor {
    let mut named = descriptor.clone();
    named.annotations.remove(IMAGE_NAME);
    match name {
        Name::Tag(tag) => drop(named.annotations.insert(REF_NAME.into(), tag.clone())),
        Name::Image(image) => {
            let tag =
                Reference::parse(image).ok().and_then(|r| r.with_default_tag().tag().map(str::to_owned));
            named.annotations.insert(IMAGE_NAME.into(), image.clone());
            named.annotations.insert(REF_NAME.into(), tag.unwrap_or_else(|| image.clone()));
        }
    }
    named
}

/// Two entries of an index are for the same name.
fn same_name(a: &Descriptor, b: &Descriptor) -> bool {
    match (a.annotations.get(IMAGE_NAME), b.annotations.get(IMAGE_NAME)) {
        (None, None) => a.annotations.get(REF_NAME) == b.annotations.get(REF_NAME),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let (one, two) = (Descriptor::of("a/b", b"1"), Descriptor::of("a/b", b"2"));
        layout.put(&one, &[Name::Tag("latest".into())]).unwrap();
        layout.put(&one, &[Name::Image("docker.io/library/x:v1".into())]).unwrap();
        layout.put(&two, &[Name::Tag("latest".into())]).unwrap();
        assert_eq!(layout.read_index().unwrap().manifests.len(), 2);
        assert_eq!(layout.find("latest").unwrap().unwrap().digest, two.digest);
        assert_eq!(layout.find("docker.io/library/x:v1").unwrap().unwrap().digest, one.digest);
        assert_eq!(layout.find("v1").unwrap().unwrap().digest, one.digest);
        assert!(layout.find("other").unwrap().is_none());
        assert!(dir.path().join("oci-layout").exists());
    }

    #[test]
    fn a_folder_without_an_index_says_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Layout::new(dir.path()).find("x").unwrap_err().to_string().contains("index.json"));
    }
}
