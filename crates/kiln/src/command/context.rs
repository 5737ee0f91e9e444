//! Where a build's files come from: a folder, an address that the daemon fetches, or standard input.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use kiln_client::{
    Error,
    build::{Build, shared_key},
    services::{Layout, Uploads},
};
use kiln_oci::Digest;

/// A Dockerfile on standard input is no larger, in bytes.
const MAX_DOCKERFILE: u64 = 4 << 20;
/// Bytes that tell an archive from a Dockerfile: a tar's magic ends here.
const HEADER: usize = 262;

/// Folders that live as long as the build.
#[derive(Default)]
pub(crate) struct Temporary(Vec<PathBuf>);

impl Temporary {
    fn dir(&mut self) -> Result<PathBuf, Error> {
        let path = std::env::temp_dir().join(format!("kiln-{}", kiln_session::random_id()));
        private().create(&path).map_err(Error::io(format!("making {}", path.display())))?;
        self.0.push(path.clone());
        Ok(path)
    }

    /// A folder with a Dockerfile in it.
    fn dockerfile(&mut self, text: &[u8]) -> Result<PathBuf, Error> {
        let dir = self.dir()?;
        std::fs::write(dir.join("Dockerfile"), text)
            .map_err(Error::io(format!("writing to {}", dir.display())))?;
        Ok(dir)
    }
}

/// Makes folders that nobody else may look into.
#[cfg(unix)]
fn private() -> std::fs::DirBuilder {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Makes folders. The temporary folder is the user's own already.
#[cfg(not(unix))]
fn private() -> std::fs::DirBuilder {
    std::fs::DirBuilder::new()
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Whoever cleans up temporary folders finds what could not be removed.
        self.0.iter().for_each(|path| drop(std::fs::remove_dir_all(path)));
    }
}

/// Tells the build of its context and Dockerfile.
pub(crate) fn add_context(
    build: &mut Build,
    context: &str,
    file: Option<&str>,
    uploads: &Uploads,
    temporary: &mut Temporary,
) -> Result<(), Error> {
    if context == "-" {
        if file == Some("-") {
            return Err(Error::Usage(
                "context and Dockerfile cannot both be read from standard input".into(),
            ));
        }
        return from_stdin(build, file, uploads, temporary);
    }
    if is_remote(context) {
        build.attrs.insert("context".into(), context.into());
        match file {
            Some("-") => {
                build.folders.insert("dockerfile".into(), temporary.dockerfile(&read_dockerfile()?)?);
                build.attrs.insert("dockerfilekey".into(), "dockerfile".into());
            }
            Some(file) => drop(build.attrs.insert("filename".into(), file.into())),
            None => {}
        }
        return Ok(());
    }
    let folder = PathBuf::from(context);
    if !folder.is_dir() {
        return Err(Error::Usage(format!("unable to prepare context: path {context:?} is no folder")));
    }
    let (dir, name) = match file {
        Some("-") => (temporary.dockerfile(&read_dockerfile()?)?, "Dockerfile".to_owned()),
        Some(file) => split(Path::new(file))?,
        None => split(&folder.join("Dockerfile"))?,
    };
    build.shared_key = shared_key(&folder);
    build.folders.insert("context".into(), folder);
    build.folders.insert("dockerfile".into(), dir);
    build.attrs.insert("filename".into(), name);
    Ok(())
}

/// What the daemon fetches itself.
fn is_remote(context: &str) -> bool {
    let prefixes = ["http://", "https://", "git://", "ssh://", "git@", "github.com/"];
    !Path::new(context).exists() && prefixes.iter().any(|prefix| context.starts_with(prefix))
}

/// The folder of a Dockerfile and its name; one in lower case is found, too.
fn split(file: &Path) -> Result<(PathBuf, String), Error> {
    let mut file = file.to_owned();
    if !file.exists() && file.file_name().is_some_and(|name| name == "Dockerfile") {
        let lower = file.with_file_name("dockerfile");
        if lower.exists() {
            file = lower;
        }
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        return Err(Error::Usage(format!("unable to find the Dockerfile: {} is no folder", dir.display())));
    }
    let name =
        file.file_name().ok_or_else(|| Error::Usage(format!("{} is no Dockerfile", file.display())))?;
    Ok((dir.to_owned(), name.to_string_lossy().into_owned()))
}

fn read_dockerfile() -> Result<Vec<u8>, Error> {
    read_limited(&mut io::stdin())
}

fn read_limited(from: &mut dyn Read) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    from.take(MAX_DOCKERFILE + 1)
        .read_to_end(&mut text)
        .map_err(Error::io("reading the Dockerfile from standard input"))?;
    if text.len() as u64 > MAX_DOCKERFILE {
        return Err(Error::Usage("the Dockerfile on standard input is too large".into()));
    }
    Ok(text)
}

/// An archive is the context; anything else is a Dockerfile that has none.
fn from_stdin(
    build: &mut Build,
    file: Option<&str>,
    uploads: &Uploads,
    temporary: &mut Temporary,
) -> Result<(), Error> {
    let mut header = Vec::new();
    io::stdin().take(HEADER as u64).read_to_end(&mut header).map_err(Error::io("reading standard input"))?;
    if is_archive(&header) {
        let url = uploads.add(Box::new(io::Cursor::new(header).chain(io::stdin())));
        build.attrs.insert("context".into(), url);
        if let Some(file) = file {
            build.attrs.insert("filename".into(), file.into());
        }
        return Ok(());
    }
    if file.is_some() {
        return Err(Error::Usage("standard input is no archive, and -f names a file of one".into()));
    }
    let text = read_limited(&mut io::Cursor::new(header).chain(io::stdin()))?;
    build.folders.insert("context".into(), temporary.dir()?);
    build.folders.insert("dockerfile".into(), temporary.dockerfile(&text)?);
    Ok(())
}

/// A tar, or one that is compressed with gzip, bzip2, xz or zstd.
fn is_archive(header: &[u8]) -> bool {
    let magics: [&[u8]; 4] =
        [&[0x1f, 0x8b], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z'], &[0x28, 0xb5, 0x2f, 0xfd]];
    magics.iter().any(|magic| header.starts_with(magic)) || header.get(257..262) == Some(b"ustar")
}

/// Tells the build of a context beside its own: `name=folder`, or a name of something that the daemon fetches.
pub(crate) fn add_named_context(build: &mut Build, text: &str) -> Result<(), Error> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| Error::Usage(format!("invalid build context {text}: it must be name=value")))?;
    let key = format!("context:{name}");
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (path, reference) = find_in_layout(layout)?;
        let id = kiln_session::random_id();
        build.attrs.insert(key, format!("oci-layout://{id}@{reference}"));
        build.layouts.insert(id, path);
        build.attrs.insert("frontend.caps".into(), "moby.buildkit.frontend.contexts+forward".into());
    } else if is_remote(value) || value.contains("://") {
        build.attrs.insert(key, value.into());
    } else {
        let local =
            if matches!(name, "context" | "dockerfile") { format!("_{name}") } else { name.to_owned() };
        build.attrs.insert(key, format!("local:{local}"));
        build.folders.insert(local, value.into());
    }
    Ok(())
}

/// `folder[:tag][@digest]` as the folder and the digest that is meant.
fn find_in_layout(text: &str) -> Result<(PathBuf, Digest), Error> {
    let bad = |problem: String| Error::Usage(format!("invalid OCI layout {text}: {problem}"));
    if let Some((path, digest)) = text.split_once('@') {
        let digest = Digest::parse(digest).map_err(|error| bad(error.to_string()))?;
        let path = if Path::new(path).exists() {
            path
        } else {
            path.rsplit_once(':').map_or(path, |(path, _)| path)
        };
        return Ok((path.into(), digest));
    }
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !Path::new(text).exists() => (path, tag),
        _ => (text, "latest"),
    };
    let layout = Layout::new(path);
    let found = match layout.find(tag)? {
        Some(found) => Some(found),
        None => match layout.read_index()?.manifests.as_slice() {
            [only] if tag == "latest" => Some(only.clone()),
            _ => None,
        },
    };
    Ok((path.into(), found.ok_or_else(|| bad(format!("there is no {tag}")))?.digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar) && is_archive(&[0x1f, 0x8b, 8]));
        assert!(!is_archive(b"FROM scratch\n") && !is_archive(b""));
    }

    #[test]
    fn named_contexts_are_folders_or_addresses() {
        let mut build = Build::default();
        for text in ["a=dir", "b=docker-image://busybox", "c=https://example.com/x.git", "context=."] {
            add_named_context(&mut build, text).unwrap();
        }
        assert_eq!(build.attrs["context:a"], "local:a");
        assert_eq!(build.attrs["context:b"], "docker-image://busybox");
        assert_eq!(build.attrs["context:c"], "https://example.com/x.git");
        assert_eq!(build.attrs["context:context"], "local:_context");
        assert_eq!(build.folders["a"], PathBuf::from("dir"));
        assert!(add_named_context(&mut build, "a").is_err());
    }
}
