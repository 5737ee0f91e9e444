//! Named contexts: what a client gives in place of an image or a stage.
//!
//! ```text
//! context:NAME[::PLATFORM] = docker-image://ref | oci-layout://store@digest | local:folder | input:name |
//!                            git@… | https://… | http://…
//! ```

use kiln_llb::build::{
    Constraints, Deferred, HttpOptions, ImageOptions, LocalOptions, OciLayoutOptions, State, http, image,
    local, oci_layout,
};
use kiln_llb::source::FileMeta;
use kiln_oci::{ImageConfig, Platform, Reference};

use super::context::marshal_options;
use super::failure::refuse;
use super::git_ref::{GitRef, GitRefError};
use super::resolver::{ImageRequest, OciStore, Replaced, Resolver};
use super::{Failure, Options};
use crate::error::Error;
use crate::ignore::IGNORE_FILE;
use crate::span::Span;

/// A named context that the client gave.
#[derive(Debug, Clone)]
pub(super) struct NamedContext {
    /// What it is.
    input: String,
    /// The short name.
    name: String,
    /// The name that the client used, maybe with a platform.
    key: String,
    platform: Option<Platform>,
}

/// What a named context came out as.
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) image: Option<ImageConfig>,
    /// It is a folder of the client, of which the paths are known at the end.
    pub(super) pending: Option<PendingLocal>,
}

impl Loaded {
    fn state(state: State) -> Self {
        Self { state, image: None, pending: None }
    }
}

/// A folder of the client whose needed paths are not known yet.
#[derive(Debug)]
pub(super) struct PendingLocal {
    slot: Deferred,
    folder: String,
    key: String,
    shared_key: String,
    excludes: Vec<String>,
    /// The set of paths that stages use of it.
    pub(super) paths: Option<usize>,
}

impl PendingLocal {
    /// Says which paths are needed; all if there are none.
    pub(super) fn fill(self, options: &Options, paths: Vec<String>) {
        let local_options = LocalOptions {
            session: options.session_of(&self.folder),
            shared_key_hint: format!("context:{}-{}", self.key, self.shared_key),
            exclude: self.excludes,
            follow_paths: paths,
            ..LocalOptions::default()
        };
        let name = format!("[context {}] load from client", self.key);
        self.slot.fill(&local(&self.folder, local_options, Constraints::new().custom_name(name)));
    }
}

/// Looks for a context of this name: with the platform first.
pub(super) fn find(
    options: &Options,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Option<NamedContext>, Error> {
    if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
        return Ok(None);
    }
    // A plain name has nothing wrong with it.
    let is_plain = name.len() < 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if is_plain && !name.is_empty() && !options.has_contexts() {
        return Ok(None);
    }
    let reference =
        Reference::parse(name).map_err(|e| refuse(format!("invalid context name {name}: {e}")))?;
    if !options.has_contexts() {
        return Ok(None);
    }
    let familiar = reference.familiar();
    let name = familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned();
    let normal = platform.cloned().unwrap_or_else(Platform::host).normalize();
    let found = [format!("{name}::{}", normal.format_all()), name.clone()].into_iter().find_map(|key| {
        let input = options.attr(&format!("context:{key}"))?.to_owned();
        Some(NamedContext { input, name: name.clone(), key, platform: platform.cloned() })
    });
    Ok(found)
}

impl NamedContext {
    /// Loads it. `paths` is the set of paths that stages use of it.
    pub(super) async fn load<R: Resolver>(
        &self,
        options: &Options,
        resolver: &R,
        paths: Option<usize>,
    ) -> Result<Loaded, Failure> {
        let loaded = self.load_as_given(options, resolver, paths).await;
        match loaded.as_ref().err().and_then(replacement) {
            None => loaded,
            // As if the client had given what the policy names; one that goes on replacing is not followed.
            Some(input) => Self { input, ..self.clone() }.load_as_given(options, resolver, paths).await,
        }
    }

    async fn load_as_given<R: Resolver>(
        &self,
        options: &Options,
        resolver: &R,
        paths: Option<usize>,
    ) -> Result<Loaded, Failure> {
        let invalid = || refuse(format!("invalid context specifier {} for {}", self.input, self.key));
        let (scheme, rest) = self.input.split_once(':').ok_or_else(invalid)?;
        match scheme {
            "docker-image" => self.image(rest.trim_start_matches("//"), options, resolver).await,
            "oci-layout" => self.layout(rest.trim_start_matches("//"), options, resolver).await,
            "local" => self.local(rest, options, resolver, paths).await,
            "input" => self.input(rest, options, resolver).await,
            "http" | "https" => Ok(Loaded::state(match self.git()? {
                Some(state) => state,
                None => self.web(),
            })),
            scheme if scheme == "git" || scheme.starts_with("git@") => Ok(Loaded::state(
                self.git()?.ok_or_else(|| refuse(format!("invalid git context {}", self.input)))?,
            )),
            _ => Err(refuse(format!("unsupported context source {scheme} for {}", self.key)).into()),
        }
    }

    fn outside(&self, error: super::BoxError) -> Failure {
        Failure::outside(format!("named context {}", self.key), Span::default(), error)
    }

    fn config(&self, bytes: &[u8]) -> Result<ImageConfig, Failure> {
        let config = ImageConfig::decode(bytes);
        Ok(config.map_err(|e| refuse(format!("failed to parse image config for {}: {e}", self.key)))?)
    }

    async fn image<R: Resolver>(
        &self,
        name: &str,
        options: &Options,
        resolver: &R,
    ) -> Result<Loaded, Failure> {
        if name == "scratch" {
            return Ok(Loaded::state(State::scratch()));
        }
        let reference =
            Reference::parse(name).map_err(|e| refuse(format!("named context {}: {e}", self.key)))?;
        let request = ImageRequest {
            reference: reference.with_default_tag().to_string(),
            platform: self.platform.clone(),
            resolve_mode: options.resolve_mode,
            log_name: format!("[context {}] load metadata for {name}", self.key),
            oci_layout: None,
        };
        let resolved = resolver.resolve_image(request).await.map_err(|e| self.outside(e))?;
        let mut config = self.config(&resolved.config)?;
        let constraints = self.constraints(format!("[context {}] {}", self.key, name));
        let state = image(&resolved.reference, ImageOptions::default(), constraints)?.image_config(&config);
        config.created = None;
        Ok(Loaded { state, image: Some(config), pending: None })
    }

    fn constraints(&self, name: String) -> Constraints {
        let constraints = Constraints::new().custom_name(name);
        match &self.platform {
            Some(platform) => constraints.platform(platform.clone()),
            None => constraints,
        }
    }

    async fn layout<R: Resolver>(
        &self,
        spec: &str,
        options: &Options,
        resolver: &R,
    ) -> Result<Loaded, Failure> {
        let fail = |reason: &str| refuse(format!("could not use oci-layout reference {spec:?}: {reason}"));
        let (store, digest) = spec.split_once('@').ok_or_else(|| fail("it has no digest"))?;
        let digest = kiln_oci::Digest::parse(digest).map_err(|e| fail(&e.to_string()))?;
        // The store's name is the client's own business; progress and keys show the context's.
        let reference =
            Reference::parse(&self.name).map_err(|e| fail(&e.to_string()))?.with_digest(digest).to_string();
        let store = without_tag(store).to_owned();
        let session_id = options.session_id.clone();
        let request = ImageRequest {
            reference: reference.clone(),
            platform: self.platform.clone(),
            resolve_mode: options.resolve_mode,
            log_name: format!("[context {}] load metadata for {reference}", self.key),
            oci_layout: Some(OciStore { session_id: session_id.clone(), store_id: store.clone() }),
        };
        let resolved = resolver.resolve_image(request).await.map_err(|e| self.outside(e))?;
        let config = self.config(&resolved.config)?;
        let layout = OciLayoutOptions { session: session_id, store, layer_limit: None };
        let constraints = self.constraints(format!("[context {}] OCI load from client", self.key));
        let state = oci_layout(&reference, layout, constraints).image_config(&config);
        Ok(Loaded { state, image: Some(config), pending: None })
    }

    async fn local<R: Resolver>(
        &self,
        folder: &str,
        options: &Options,
        resolver: &R,
        paths: Option<usize>,
    ) -> Result<Loaded, Failure> {
        let local_options = LocalOptions {
            session: options.session_of(folder),
            follow_paths: vec![IGNORE_FILE.into()],
            shared_key_hint: format!("context:{}-{IGNORE_FILE}", self.key),
            differ: Some((kiln_llb::attr::LOCAL_DIFFER_NONE.into(), false)),
            ..LocalOptions::default()
        };
        let name = format!("[context {}] load {IGNORE_FILE}", self.key);
        let state = local(folder, local_options, Constraints::new().custom_name(name));
        let definition = state.marshal(&marshal_options(options))?;
        let reference = resolver.solve(definition).await.map_err(|e| self.outside(e))?;
        // A file that can't be read ignores nothing, as one that isn't there.
        let text =
            resolver.read_file(&reference, IGNORE_FILE, None).await.unwrap_or_default().unwrap_or_default();
        let excludes = kiln_pattern::read_ignore_file(&String::from_utf8_lossy(&text));
        let (state, slot) = State::deferred();
        let shared_key =
            options.attr(&format!("sharedkey:localdir:{}", self.key)).unwrap_or_default().to_owned();
        let pending = PendingLocal {
            slot,
            folder: folder.to_owned(),
            key: self.key.clone(),
            shared_key,
            excludes,
            paths,
        };
        Ok(Loaded { state, image: None, pending: Some(pending) })
    }

    async fn input<R: Resolver>(
        &self,
        name: &str,
        options: &Options,
        resolver: &R,
    ) -> Result<Loaded, Failure> {
        let inputs = resolver.inputs().await.map_err(|e| self.outside(e))?;
        let definition =
            inputs.get(name).ok_or_else(|| refuse(format!("invalid input {name} for {}", self.key)))?;
        let mut loaded = Loaded::state(State::from_definition(definition)?);
        let Some(metadata) = options.attr(&format!("input-metadata:{name}")) else { return Ok(loaded) };
        let fail = |e: String| refuse(format!("failed to parse input metadata of {name}: {e}"));
        let all: std::collections::BTreeMap<String, String> =
            serde_json::from_str(metadata).map_err(|e| fail(e.to_string()))?;
        if let Some(config) = all.get("containerimage.config") {
            use base64::Engine as _;
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(config).map_err(|e| fail(e.to_string()))?;
            let config = self.config(&bytes)?;
            loaded.state = loaded.state.image_config(&config);
            loaded.image = Some(config);
        }
        Ok(loaded)
    }

    fn git(&self) -> Result<Option<State>, Failure> {
        match GitRef::parse(&self.input) {
            Ok(git) => Ok(Some(git.context(false, false, &self.input)?)),
            Err(GitRefError::NotGit) => Ok(None),
            Err(GitRefError::Query(e)) => Err(refuse(format!("named context {}: {e}", self.key)).into()),
        }
    }

    fn web(&self) -> State {
        let file = FileMeta { filename: Some("context".into()), ..FileMeta::default() };
        let name = format!("[context {}] {}", self.key, self.input);
        http(
            &self.input,
            HttpOptions { file, ..HttpOptions::default() },
            Constraints::new().custom_name(name),
        )
    }
}

/// What a policy puts in place of an image, as a client gives a context.
fn replacement(failure: &Failure) -> Option<String> {
    let Failure::Outside { source, .. } = failure else { return None };
    let Replaced { identifier, .. } = source.downcast_ref()?;
    Some(match identifier.strip_prefix("local://") {
        Some(folder) => format!("local:{folder}"),
        None => identifier.clone(),
    })
}

/// A colon after the last slash begins a tag.
fn without_tag(s: &str) -> &str {
    let path = s.rfind('/').map_or(0, |i| i + 1);
    s[path..].find(':').map_or(s, |i| &s[..path + i])
}
