//! The Dockerfile and the build context: where they come from.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use futures::lock::Mutex;
use kiln_llb::build::{
    Constraints, CopyOptions, File, HttpOptions, LocalOptions, Marshal, SourceMap, State, http, local,
};
use kiln_llb::source::FileMeta;
use kiln_oci::Digest;
use kiln_proto::pb;
use prost::Message;

use super::failure::refuse;
use super::git_ref::{GitRef, GitRefError};
use super::ignore::Ignore;
use super::resolver::Resolver;
use super::{Failure, Options};
use crate::ignore::IGNORE_FILE;
use crate::span::Span;
use crate::text::parse_bool;

/// The client's folder that is the build context.
pub const CONTEXT_NAME: &str = "context";
/// The client's folder that has the Dockerfile.
pub const DOCKERFILE_NAME: &str = "dockerfile";

const DEFAULT_FILENAME: &str = "Dockerfile";
/// How much of a file tells whether it is an archive.
const ARCHIVE_HEADER: u64 = 1024;

/// A Dockerfile that was read, and where its build context comes from.
#[derive(Debug)]
pub struct Source {
    /// The Dockerfile's path.
    pub filename: String,
    /// Its content.
    pub data: Bytes,
    /// The same for error messages of the daemon.
    pub map: Arc<SourceMap>,
    /// How it was loaded; part of the source information of warnings and errors.
    pub definition: pb::Definition,
    /// The vertex that loaded it, which warnings belong to.
    pub vertex: Option<Digest>,
    /// Its content as text: the same memory, if it is UTF-8.
    pub(super) text: ByteString,
    /// The build context, if it is not the client's folder.
    pub(super) context: Option<State>,
    own_ignore: Option<Bytes>,
    ignore: Mutex<Option<Arc<Ignore>>>,
}

impl Source {
    /// Finds out what the build context is, and reads the Dockerfile.
    ///
    /// # Errors
    /// When the context can't be fetched, or there is no Dockerfile.
    pub async fn load<R: Resolver>(options: &Options, resolver: &R) -> Result<Self, Failure> {
        let found = Context::find(options, resolver).await?;
        let state = match &found.dockerfile {
            Some(state) => state.clone(),
            None => dockerfile_state(options, &found),
        };
        let definition = state.marshal(&marshal_options(options))?;
        let outside = |e| Failure::outside("failed to resolve dockerfile", Span::default(), e);
        let reference = resolver.solve(definition.clone()).await.map_err(outside)?;
        let reference = &reference;
        let read = |path: String| async move {
            let outside = |e| Failure::outside("failed to read dockerfile", Span::default(), e);
            resolver.read_file(reference, &path, None).await.map_err(outside)
        };
        let mut data = read(found.filename.clone()).await?;
        if let (None, Some(lower)) = (&data, lower_case(&found.filename)) {
            data = read(lower).await?;
        }
        let Some(data) = data else {
            let message =
                format!("failed to read dockerfile: open {}: no such file or directory", found.filename);
            return Err(refuse(message).into());
        };
        let own_ignore = read(format!("{}{IGNORE_FILE}", found.filename)).await?;
        let map = SourceMap {
            filename: found.filename.clone(),
            language: "Dockerfile".into(),
            data: data.clone(),
            state: Some(state),
        };
        Ok(Self {
            text: read_text(&data),
            filename: found.filename,
            data,
            map: Arc::new(map),
            vertex: head(&definition),
            definition,
            context: found.context,
            own_ignore,
            ignore: Mutex::new(None),
        })
    }

    /// The frontend that the file asks for in its first lines.
    pub fn syntax(&self) -> Option<crate::directives::Syntax> {
        crate::directives::detect_syntax(&self.text)
    }

    /// What an error or warning about the file carries.
    pub fn source_info(&self) -> pb::SourceInfo {
        pb::SourceInfo {
            filename: self.map.filename.clone(),
            language: self.map.language.clone(),
            data: self.data.clone(),
            definition: Some(self.definition.clone()),
        }
    }

    /// What the build context leaves out; read once.
    pub(super) async fn ignore<R: Resolver>(
        &self,
        options: &Options,
        resolver: &R,
    ) -> Result<Arc<Ignore>, Failure> {
        let mut cached = self.ignore.lock().await;
        if let Some(known) = &*cached {
            return Ok(Arc::clone(known));
        }
        let ignore = Arc::new(self.read_ignore(options, resolver).await?);
        *cached = Some(Arc::clone(&ignore));
        Ok(ignore)
    }

    async fn read_ignore<R: Resolver>(&self, options: &Options, resolver: &R) -> Result<Ignore, Failure> {
        if self.context.is_some() {
            return Ok(Ignore::default());
        }
        let (name, text) = match &self.own_ignore {
            Some(data) if !data.is_empty() => (format!("{}{IGNORE_FILE}", self.filename), Some(data.clone())),
            _ => (IGNORE_FILE.to_owned(), load_ignore_file(options, resolver).await?),
        };
        let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(Ignore::default()) };
        let (patterns, matcher) = crate::ignore::read(&name, &String::from_utf8_lossy(&text))?;
        Ok(Ignore { matcher: Some(matcher).filter(|_| !patterns.is_empty()), patterns })
    }

    /// The build context, of which only some paths are needed (all if there are none).
    pub(super) fn main_context(&self, options: &Options, ignore: &Ignore, paths: Vec<String>) -> State {
        if let Some(state) = &self.context {
            return state.clone();
        }
        let local_options = LocalOptions {
            session: options.session_of(CONTEXT_NAME),
            exclude: ignore.patterns.clone(),
            shared_key_hint: CONTEXT_NAME.into(),
            follow_paths: paths,
            ..LocalOptions::default()
        };
        local(CONTEXT_NAME, local_options, internal("load build context"))
    }
}

/// Nearly all files are UTF-8, which is found out much faster than what is wrong with others.
fn read_text(data: &Bytes) -> ByteString {
    data.clone().try_into().unwrap_or_else(|_| String::from_utf8_lossy(data).into_owned().into())
}

/// A step of the frontend's own.
pub(super) fn internal(name: &str) -> Constraints {
    Constraints::new().custom_name(format!("[internal] {name}"))
}

/// Definitions that are solved before the conversion: for whatever platform the build runs on.
pub(super) fn marshal_options(options: &Options) -> Marshal {
    Marshal {
        platform: options.build_platform.clone(),
        unique_id: options.unique_id.clone(),
        caps: Some(options.caps.clone()),
    }
}

async fn load_ignore_file<R: Resolver>(options: &Options, resolver: &R) -> Result<Option<Bytes>, Failure> {
    let local_options = LocalOptions {
        session: options.session_of(CONTEXT_NAME),
        follow_paths: vec![IGNORE_FILE.into()],
        shared_key_hint: format!("{CONTEXT_NAME}-{IGNORE_FILE}"),
        differ: Some((kiln_llb::attr::LOCAL_DIFFER_NONE.into(), false)),
        ..LocalOptions::default()
    };
    let state = local(CONTEXT_NAME, local_options, internal(&format!("load {IGNORE_FILE}")));
    let outside = |e| Failure::outside("failed to read dockerignore patterns", Span::default(), e);
    let reference = resolver.solve(state.marshal(&marshal_options(options))?).await.map_err(outside)?;
    // A file that can't be read ignores nothing, as one that isn't there.
    Ok(resolver.read_file(&reference, IGNORE_FILE, None).await.unwrap_or_default())
}

/// Where context and Dockerfile come from.
struct Context {
    /// The context, if it is not the client's folder.
    context: Option<State>,
    /// What has the Dockerfile, if it is not a folder of the client.
    dockerfile: Option<State>,
    /// The folder of the client that has the Dockerfile.
    dockerfile_name: String,
    filename: String,
}

impl Context {
    async fn find<R: Resolver>(options: &Options, resolver: &R) -> Result<Self, Failure> {
        let forced = options.attr("dockerfilekey");
        let mut found = Self {
            context: None,
            dockerfile: None,
            dockerfile_name: forced.unwrap_or(DOCKERFILE_NAME).to_owned(),
            filename: options.attr("filename").unwrap_or(DEFAULT_FILENAME).to_owned(),
        };
        // The attribute names the option that has the URL; the folder's name stays.
        let url = options.attr(options.attr("contextkey").unwrap_or(CONTEXT_NAME)).unwrap_or_default();
        match GitRef::parse(url) {
            Ok(git) => {
                let keep =
                    parse_bool(options.attr("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR").unwrap_or_default());
                let dated = options.attr("build-arg:SOURCE_DATE_EPOCH").is_some_and(|v| !v.is_empty());
                let state = git.context(keep == Some(true), dated, url)?;
                found.dockerfile = Some(state.clone());
                found.context = Some(state);
            }
            Err(GitRefError::Query(e)) => return Err(refuse(format!("invalid git URL {url}: {e}")).into()),
            Err(GitRefError::NotGit) if url.starts_with("http://") || url.starts_with("https://") => {
                found.web(url, options, resolver).await?;
            }
            Err(GitRefError::NotGit) => found.inputs(resolver).await?,
        }
        if forced.is_some() {
            found.dockerfile = None;
        }
        if let (Some(state), Some(dir)) = (&found.context, options.attr("contextsubdir")) {
            let copy = CopyOptions { dir_contents_only: true, ..CopyOptions::default() };
            found.context =
                Some(State::scratch().file(File::new().copy(state, dir, "/", copy), Constraints::new()));
        }
        Ok(found)
    }

    /// A URL is an archive that is the context, or a Dockerfile.
    async fn web<R: Resolver>(&mut self, url: &str, options: &Options, resolver: &R) -> Result<(), Failure> {
        let file = FileMeta { filename: Some(CONTEXT_NAME.into()), ..FileMeta::default() };
        let state =
            http(url, HttpOptions { file, ..HttpOptions::default() }, internal("load remote build context"));
        let outside = |e| Failure::outside("failed to resolve httpcontext", Span::default(), e);
        let reference = resolver.solve(state.marshal(&marshal_options(options))?).await.map_err(outside)?;
        let outside = |e| Failure::outside("failed to read downloaded context", Span::default(), e);
        let head =
            resolver.read_file(&reference, CONTEXT_NAME, Some(ARCHIVE_HEADER)).await.map_err(outside)?;
        let state = if is_archive(&head.unwrap_or_default()) {
            let unpack = CopyOptions { attempt_unpack: true, ..CopyOptions::default() };
            let copy = File::new().copy(&state, format!("/{CONTEXT_NAME}"), "/", unpack);
            State::scratch().file(copy, Constraints::new())
        } else {
            self.filename = CONTEXT_NAME.into();
            state
        };
        self.dockerfile = Some(state.clone());
        self.context = Some(state);
        Ok(())
    }

    /// Definitions may take the places of the client's folders.
    async fn inputs<R: Resolver>(&mut self, resolver: &R) -> Result<(), Failure> {
        let outside = |e| Failure::outside("failed to get frontend inputs", Span::default(), e);
        let inputs = resolver.inputs().await.map_err(outside)?;
        let state = |name: &str| inputs.get(name).map(State::from_definition).transpose();
        // No Dockerfile can be in nothing. The second half is what clients look for.
        if inputs.get(&self.dockerfile_name).is_some_and(|definition| definition.def.is_empty()) {
            let name = &self.dockerfile_name;
            let message =
                format!("the input {name:?} is empty: invalid nil input definition to definition op");
            return Err(refuse(message).into());
        }
        self.dockerfile = state(&self.dockerfile_name)?;
        self.context = state(CONTEXT_NAME)?;
        Ok(())
    }
}

fn dockerfile_state(options: &Options, found: &Context) -> State {
    let mut paths = vec![found.filename.clone(), format!("{}{IGNORE_FILE}", found.filename)];
    paths.extend(lower_case(&found.filename));
    let local_options = LocalOptions {
        session: options.session_of(&found.dockerfile_name),
        follow_paths: paths,
        shared_key_hint: found.dockerfile_name.clone(),
        differ: Some((kiln_llb::attr::LOCAL_DIFFER_NONE.into(), false)),
        ..LocalOptions::default()
    };
    let name = format!("load build definition from {}", found.filename);
    local(&found.dockerfile_name, local_options, internal(&name))
}

/// `dockerfile` will do where `Dockerfile` is meant.
fn lower_case(filename: &str) -> Option<String> {
    let (dir, base) = filename.rsplit_once('/').unwrap_or(("", filename));
    (base == DEFAULT_FILENAME).then(|| super::paths::join(dir, "dockerfile"))
}

/// The vertex that a definition's result comes from.
fn head(definition: &pb::Definition) -> Option<Digest> {
    let op = pb::Op::decode(definition.def.last()?.clone()).ok()?;
    Digest::parse(&op.inputs.first()?.digest).ok()
}

/// bzip2, gzip and xz by their first bytes, tar by the checksum of its first header.
fn is_archive(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 3] = [b"BZh", &[0x1f, 0x8b, 0x08], &[0xfd, b'7', b'z', b'X', b'Z', 0]];
    if MAGIC.iter().any(|m| head.starts_with(m)) {
        return true;
    }
    let Some(header) = head.get(..512) else { return false };
    let (before, rest) = header.split_at(148);
    let (sum, after) = rest.split_at(8);
    let digits = String::from_utf8_lossy(sum);
    let wanted = u32::from_str_radix(digits.trim_matches(['\0', ' ']), 8);
    let actual = before.iter().chain(after).map(|&b| u32::from(b)).sum::<u32>() + 8 * u32::from(b' ');
    wanted == Ok(actual) && header.iter().any(|&b| b != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives() {
        let mut tar = [0u8; 1024];
        tar[0] = b'a';
        let sum: u32 = tar[..512].iter().map(|&b| u32::from(b)).sum::<u32>() + 256;
        tar[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        assert!(is_archive(&tar));
        tar[1] = b'b';
        assert!(!is_archive(&tar) && !is_archive(&[0; 512]) && !is_archive(b"FROM x") && !is_archive(b""));
        assert!(is_archive(b"BZh91") && is_archive(&[0x1f, 0x8b, 8, 0]));
    }

    #[test]
    fn small_letters() {
        assert_eq!(lower_case("a/b/Dockerfile").as_deref(), Some("a/b/dockerfile"));
        assert_eq!(lower_case("Dockerfile").as_deref(), Some("dockerfile"));
        assert_eq!(lower_case("Containerfile"), None);
    }
}
