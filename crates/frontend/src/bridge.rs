//! What a frontend may do within one build.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use kiln_engine::{Job, WarningEvent};
use kiln_llb::source::Identifier;
use kiln_oci::{Digest, Platform, Reference};
use kiln_ops::{Entitlements, Host, Kiln};
use kiln_proto::{
    fsutil::Stat,
    gateway, pb,
    status::{Detail, WireError},
};
use kiln_session::Group;
use kiln_source::{
    Metadata,
    image::{self, ResolvedImage},
};
use tonic::Code;

use crate::{
    BuildRef, CacheImport, CacheImports, FrontendResult, Steps, dockerfile,
    errors::wire_error,
    files::{self, nothing},
    metadata,
};

/// What to solve: a definition, or whatever a frontend makes of its attributes.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// A definition; with a frontend, ignored.
    pub definition: Option<pb::Definition>,
    /// The frontend's name; empty for a definition.
    pub frontend: String,
    /// The frontend's attributes.
    pub attrs: BTreeMap<String, String>,
    /// Definitions that stand for folders of the frontend, by name.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// Caches that may serve the definition. A frontend names its own in its attributes.
    pub imports: Vec<CacheImport>,
    /// Build at once, rather than when somebody reads the result.
    pub evaluate: bool,
}

/// An image whose config a frontend has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// Its name, with a tag.
    pub reference: Reference,
    /// The platform that it was taken for.
    pub platform: Platform,
    /// What the name stood for.
    pub digest: Digest,
    /// From an OCI layout of the client.
    pub local: bool,
}

/// One build, as its frontend sees it.
#[derive(Debug)]
pub struct Bridge {
    host: Arc<Host>,
    job: Arc<Job<Kiln>>,
    session: String,
    allowed: Entitlements,
    steps: Steps,
    builtin: dockerfile::Builtin,
    caches: Arc<dyn CacheImports>,
    refs: Mutex<HashMap<String, Arc<BuildRef>>>,
    inputs: Mutex<BTreeMap<String, pb::Definition>>,
    /// Keys of cache mounts that were emptied for this build.
    dropped: Mutex<BTreeSet<(String, bool)>>,
    images: Mutex<Vec<NamedImage>>,
}

impl Bridge {
    /// A bridge into `job`, with the client `session`.
    #[must_use]
    pub fn new(
        host: Arc<Host>,
        job: Arc<Job<Kiln>>,
        session: String,
        allowed: Entitlements,
        steps: Steps,
        builtin: dockerfile::Builtin,
        caches: Arc<dyn CacheImports>,
    ) -> Arc<Self> {
        Arc::new(Self {
            host,
            job,
            session,
            allowed,
            steps,
            builtin,
            caches,
            refs: Mutex::default(),
            inputs: Mutex::default(),
            dropped: Mutex::default(),
            images: Mutex::default(),
        })
    }

    /// The machine.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The client's session; empty for none.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Whoever may answer for the build's client.
    #[must_use]
    pub fn group(&self) -> Group {
        Group::of(self.host.sessions.clone(), vec![self.session.clone()])
    }

    /// Where housekeeping is shown.
    #[must_use]
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Which images the frontend in this process stands for.
    #[must_use]
    pub fn builtin(&self) -> &dockerfile::Builtin {
        &self.builtin
    }

    /// Definitions that the client gave beside the build, for a frontend that asks.
    pub fn set_inputs(&self, inputs: BTreeMap<String, pb::Definition>) {
        *self.inputs.lock().unwrap_or_else(PoisonError::into_inner) = inputs;
    }

    /// See [`Bridge::set_inputs`].
    #[must_use]
    pub fn inputs(&self) -> BTreeMap<String, pb::Definition> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Solves a request.
    ///
    /// # Errors
    /// What is wrong with the definition or the frontend's input; of building it only with [`Request::evaluate`].
    pub async fn solve(self: &Arc<Self>, request: Request) -> Result<FrontendResult, WireError> {
        let evaluate = request.evaluate;
        let result = match request.frontend.as_str() {
            "" => {
                let definition = request.definition.unwrap_or_default();
                FrontendResult::single(self.solve_with(definition, &request.imports)?)
            }
            "dockerfile.v0" => Box::pin(dockerfile::build(self, request)).await?,
            "gateway.v0" => Box::pin(dockerfile::gateway(self, request)).await?,
            other => {
                let message =
                    format!("failed to find frontend: {other} (there are dockerfile.v0 and gateway.v0)");
                return Err(WireError::new(Code::NotFound, message)
                    .with(Detail::Frontend { name: other.to_owned(), source: String::new() }));
            }
        };
        if evaluate {
            let refs: Vec<_> = result.refs.iter().cloned().collect();
            futures::future::try_join_all(refs.iter().map(|r| r.result())).await?;
        }
        Ok(result)
    }

    /// A ref for a definition; `None` for the empty one, which is the empty tree.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn solve_definition(&self, definition: pb::Definition) -> Result<Option<Arc<BuildRef>>, WireError> {
        self.solve_with(definition, &[])
    }

    /// As [`Bridge::solve_definition`], with caches that may serve it.
    ///
    /// # Errors
    /// What is wrong with the definition; a kind of cache that there is not.
    pub fn solve_with(
        &self,
        definition: pb::Definition,
        imports: &[CacheImport],
    ) -> Result<Option<Arc<BuildRef>>, WireError> {
        let caches = imports.iter().map(|import| self.caches.open(import)).collect::<Result<_, _>>()?;
        if definition.def.is_empty() {
            return Ok(None);
        }
        let (job, host) = (self.job.clone(), self.host.clone());
        let new = BuildRef::new(definition, job, host, self.allowed.clone(), caches, self.steps.clone())?;
        self.drop_cache_mounts(new.graph());
        let new = Arc::new(new);
        self.refs.lock().unwrap_or_else(PoisonError::into_inner).insert(new.id().to_owned(), new.clone());
        Ok(Some(new))
    }

    /// Empties the cache mounts of steps that ignore the cache, each once in a build.
    fn drop_cache_mounts(&self, graph: &kiln_llb::Graph) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, based) in kiln_ops::cache_mounts_to_drop(graph) {
            if !dropped.insert((name.clone(), based)) {
                continue;
            }
            if let Err(error) = self.host.worker.drop_cache_mounts(&name, based) {
                tracing::warn!(%error, name, "a cache mount stays");
            }
        }
    }

    /// A ref that this bridge has made.
    ///
    /// # Errors
    /// `NotFound` for any other name.
    pub fn find(&self, id: &str) -> Result<Arc<BuildRef>, WireError> {
        let refs = self.refs.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || WireError::new(Code::NotFound, format!("no such ref: {id}"));
        refs.get(id).cloned().ok_or_else(missing)
    }

    /// All refs that this bridge has made, in no order.
    #[must_use]
    pub fn refs(&self) -> Vec<Arc<BuildRef>> {
        self.refs.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The images that were asked about, each once for a platform.
    #[must_use]
    pub fn images(&self) -> Vec<NamedImage> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The digest and config of an image, shown as the step `log_name` unless that is empty.
    ///
    /// # Errors
    /// The registry's, the client's.
    pub async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        layout: Option<(String, String)>,
        log_name: &str,
    ) -> Result<Arc<ResolvedImage>, WireError> {
        let reference = Reference::parse(reference)
            .map_err(|e| WireError::new(Code::InvalidArgument, format!("{reference}: {e}")))?
            .with_default_tag();
        let platform = platform.unwrap_or(&self.host.platform);
        let local = layout.is_some();
        let request = match layout {
            None => image::Request::registry(&reference, platform),
            Some((session, store)) => {
                let session = if session.is_empty() { self.session.clone() } else { session };
                image::Request::layout(&reference, platform, Some(session), store)
            }
        };
        let group = self.group();
        let work = self.host.sources.images().resolve(&request, &group);
        let resolved = if log_name.is_empty() { work.await } else { self.steps.run(log_name, work).await };
        let resolved = resolved.map_err(|error| {
            let code = if error.is_not_found() { Code::NotFound } else { Code::Unknown };
            WireError::new(code, error.to_string())
        })?;
        let (digest, platform) = (resolved.root.digest.clone(), platform.clone());
        let named = NamedImage { reference, platform, digest, local };
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if !images.contains(&named) {
            images.push(named);
        }
        drop(images);
        Ok(resolved)
    }

    /// What a source stands for now.
    ///
    /// # Errors
    /// The source's; `Unimplemented` for kinds of which nothing can be told yet.
    pub async fn resolve_source(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse, WireError> {
        let invalid = |message: String| WireError::new(Code::InvalidArgument, message);
        if request.source_policies.iter().any(|policy| !policy.rules.is_empty()) {
            return Err(WireError::new(Code::Unimplemented, "source policies are not supported yet"));
        }
        let source = request.source.clone().ok_or_else(|| invalid("the request names no source".into()))?;
        let parsed =
            Identifier::parse(&source, request.platform.as_ref()).map_err(|e| invalid(e.to_string()))?;
        let image = match parsed {
            Identifier::Image(image) => {
                let platform = image.platform.as_ref();
                self.resolve_image(&image.reference.to_string(), platform, None, &request.log_name).await?
            }
            Identifier::OciLayout(layout) => {
                let store = layout.store.clone().unwrap_or_else(|| layout.reference.path().to_owned());
                let place = Some((layout.session.clone().unwrap_or_default(), store));
                let reference = layout.reference.to_string();
                self.resolve_image(&reference, layout.platform.as_ref(), place, &request.log_name).await?
            }
            Identifier::Local(_) => {
                return Ok(gateway::ResolveSourceMetaResponse { source: Some(source), ..Default::default() });
            }
            Identifier::Git(_) | Identifier::Http(_) => {
                let metadata = self.source_metadata(&source, &request).await?;
                return Ok(metadata::answer(&request, metadata));
            }
            _ => {
                let message = format!("metadata of {} is not supported yet", source.identifier);
                return Err(WireError::new(Code::Unimplemented, message));
            }
        };
        let wants_chain =
            request.image.as_ref().is_some_and(|i| i.attestation_chain || !i.resolve_attestations.is_empty());
        if wants_chain {
            return Err(WireError::new(
                Code::Unimplemented,
                "attestation chains of images are not supported yet",
            ));
        }
        let no_config = request.image.as_ref().is_some_and(|i| i.no_config);
        let image = gateway::ResolveSourceImageResponse {
            digest: image.root.digest.to_string(),
            config: if no_config { Bytes::new() } else { image.config.clone() },
            attestation_chain: None,
        };
        Ok(gateway::ResolveSourceMetaResponse {
            source: Some(source),
            image: Some(image),
            ..Default::default()
        })
    }

    /// What a git or web source stands for, shown as a step if the request gives it a name.
    async fn source_metadata(
        &self,
        source: &pb::SourceOp,
        request: &gateway::ResolveSourceMetaRequest,
    ) -> Result<Metadata, WireError> {
        let (wanted, group) = (metadata::wanted(request)?, self.group());
        let work = self.host.sources.metadata(source, &group, &wanted);
        let name = request.log_name.as_str();
        let found = if name.is_empty() { work.await } else { self.steps.run(name, work).await };
        let found = found.map_err(|error| WireError::new(Code::Unknown, error.to_string()))?;
        found.ok_or_else(|| {
            let message = format!("metadata of {} is not supported yet", source.identifier);
            WireError::new(Code::Unimplemented, message)
        })
    }

    /// Part of a file of a ref; `length` 0 means all that follows.
    ///
    /// # Errors
    /// `NotFound` when it is not there; the build's.
    pub async fn read_file(
        &self,
        tree: Option<&Arc<BuildRef>>,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, WireError> {
        self.with_tree(tree, path, "open", move |tree, path| files::read(tree, path, offset, length)).await
    }

    /// The entries of a folder of a ref.
    ///
    /// # Errors
    /// As [`Bridge::read_file`].
    pub async fn read_dir(
        &self,
        tree: Option<&Arc<BuildRef>>,
        path: &str,
        pattern: &str,
    ) -> Result<Vec<Stat>, WireError> {
        let pattern = pattern.to_owned();
        self.with_tree(tree, path, "open", move |tree, path| files::list(tree, path, &pattern)).await
    }

    /// One entry of a ref, links not followed.
    ///
    /// # Errors
    /// As [`Bridge::read_file`].
    pub async fn stat_file(&self, tree: Option<&Arc<BuildRef>>, path: &str) -> Result<Stat, WireError> {
        self.with_tree(tree, path, "lstat", files::stat).await
    }

    async fn with_tree<T: Send + 'static>(
        &self,
        tree: Option<&Arc<BuildRef>>,
        path: &str,
        action: &'static str,
        work: impl FnOnce(&kiln_worker::Unpacked, &str) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        let unpacked = match tree {
            Some(tree) => tree.unpack().await?,
            None => None,
        };
        let Some(unpacked) = unpacked else { return Err(nothing(action, path)) };
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || work(&unpacked, &path)).await.map_err(wire_error)?
    }

    /// Shows a warning at a vertex.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed digest.
    pub fn warn(&self, request: gateway::WarnRequest) -> Result<(), WireError> {
        let vertex = Digest::parse(&request.digest)
            .map_err(|e| WireError::new(Code::InvalidArgument, format!("vertex of a warning: {e}")))?;
        self.steps.warn(WarningEvent {
            vertex,
            level: request.level,
            short: request.short,
            detail: request.detail,
            url: request.url,
            info: request.info,
            ranges: request.ranges,
        });
        Ok(())
    }
}
