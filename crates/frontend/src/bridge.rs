//! What a frontend may do within one build.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kiln_dockerfile::convert::Replaced;
use kiln_engine::{Job, WarningEvent};
use kiln_fstree::Root;
use kiln_llb::policy::Policy;
use kiln_oci::{Digest, Platform};
use kiln_ops::{Entitlements, Host, Kiln, NamedMount};
use kiln_proto::{
    fsutil::Stat,
    gateway, pb,
    status::{Detail, WireError},
};
use kiln_session::Group;
use kiln_source::image::ResolvedImage;
use kiln_worker::Unpacked;
use tonic::Code;

use crate::{
    BuildRef, CacheImport, CacheImports, FrontendResult, Frontends, Results, Steps, dockerfile,
    errors::wire_error,
    files::{self, nothing},
    foreign,
    policy::{self, SourcePolicies},
    sources::{NamedImage, pb_platform},
};

/// An image that was found.
#[derive(Clone, Debug)]
pub struct FoundImage {
    /// Its name: the one that was asked for, unless a policy put another in its place.
    pub reference: String,
    /// What it is.
    pub image: Arc<ResolvedImage>,
}

/// Why no image was found.
#[derive(Clone, Debug)]
pub enum ImageError {
    /// A policy put something in its place that is no image.
    Replaced(Replaced),
    /// Anything else.
    Other(WireError),
}

impl From<WireError> for ImageError {
    fn from(error: WireError) -> Self {
        Self::Other(error)
    }
}

impl From<ImageError> for WireError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Replaced(replaced) => Self::new(Code::InvalidArgument, replaced.to_string()),
            ImageError::Other(error) => error,
        }
    }
}

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
    /// Policies for the sources of the definition, beside those of the build.
    pub policies: Vec<Policy>,
    /// How many frontends in containers have called one another up to this request.
    pub depth: usize,
}

/// What a build may do, and what it may take from outside.
#[derive(Clone, Debug)]
pub struct Permissions {
    /// The entitlements that its steps have.
    pub entitlements: Entitlements,
    /// What its sources have to pass.
    pub policies: Arc<SourcePolicies>,
}

/// One build, as its frontend sees it.
#[derive(Debug)]
pub struct Bridge {
    host: Arc<Host>,
    job: Arc<Job<Kiln>>,
    session: String,
    allowed: Entitlements,
    steps: Steps,
    frontends: Arc<Frontends>,
    caches: Arc<dyn CacheImports>,
    refs: Mutex<HashMap<String, Arc<BuildRef>>>,
    failures: Arc<Results>,
    /// Keys of cache mounts that were emptied for this build.
    dropped: Mutex<BTreeSet<(String, bool)>>,
    policies: Arc<SourcePolicies>,
}

impl Bridge {
    /// A bridge into `job`, with the client `session` and what may be used as sources.
    #[must_use]
    pub fn new(
        host: Arc<Host>,
        job: Arc<Job<Kiln>>,
        session: String,
        permissions: Permissions,
        steps: Steps,
        frontends: Arc<Frontends>,
        caches: Arc<dyn CacheImports>,
    ) -> Arc<Self> {
        let Permissions { entitlements: allowed, policies } = permissions;
        Arc::new(Self {
            host,
            job,
            session,
            allowed,
            steps,
            frontends,
            caches,
            refs: Mutex::default(),
            failures: Arc::default(),
            dropped: Mutex::default(),
            policies,
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

    /// What the build's steps may do.
    #[must_use]
    pub fn allowed(&self) -> &Entitlements {
        &self.allowed
    }

    /// The files of a ref or of what a failed step has left, by name.
    ///
    /// # Errors
    /// `NotFound` for any other name; the build's.
    pub async fn tree(&self, id: &str) -> Result<Option<Unpacked>, WireError> {
        let Some(left) = self.failures.find(id) else { return self.find(id)?.unpack().await };
        let Some(tree) = left.tree() else { return Ok(None) };
        // A step has had its files before it failed.
        let gone = || WireError::new(Code::NotFound, format!("the files of {id} are not here any more"));
        tree.unpacked().map(Some).ok_or_else(gone)
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

    /// The frontends of the daemon.
    #[must_use]
    pub fn frontends(&self) -> &Frontends {
        &self.frontends
    }

    /// Solves a request.
    ///
    /// # Errors
    /// What is wrong with the definition or the frontend's input; of building it only with [`Request::evaluate`].
    pub fn solve(self: &Arc<Self>, request: Request) -> BoxFuture<'_, Result<FrontendResult, WireError>> {
        // Frontends call one another.
        Box::pin(self.solve_now(request))
    }

    async fn solve_now(self: &Arc<Self>, request: Request) -> Result<FrontendResult, WireError> {
        let evaluate = request.evaluate;
        self.frontends.check(&request.frontend)?;
        let result = match request.frontend.as_str() {
            "" => {
                let definition = request.definition.unwrap_or_default();
                let solved = self.solve_definition(definition, &request.policies, &request.imports);
                FrontendResult::single(solved.await?)
            }
            dockerfile::NAME => Box::pin(dockerfile::build(self, request)).await?,
            foreign::NAME => Box::pin(foreign::build(self, request)).await?,
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

    /// A ref for a definition; `None` for the empty one, which is the empty tree. `policies` are the frontend's own,
    /// `imports` are caches that may serve it.
    ///
    /// # Errors
    /// What is wrong with it; `PermissionDenied` for sources that a policy denies; a kind of cache that there is not.
    pub async fn solve_definition(
        &self,
        definition: pb::Definition,
        policies: &[Policy],
        imports: &[CacheImport],
    ) -> Result<Option<Arc<BuildRef>>, WireError> {
        let caches = imports.iter().map(|import| self.caches.open(import)).collect::<Result<_, _>>()?;
        if definition.def.is_empty() {
            return Ok(None);
        }
        let definition = self.policies.admit(definition, policies).await?;
        let (job, host) = (self.job.clone(), self.host.clone());
        let place = (self.failures.clone(), self.steps.clone());
        let new = BuildRef::new(definition, job, host, self.allowed.clone(), caches, place)?;
        self.note_cache_mounts(new.graph());
        let new = Arc::new(new);
        self.refs.lock().unwrap_or_else(PoisonError::into_inner).insert(new.id().to_owned(), new.clone());
        Ok(Some(new))
    }

    /// Notes the cache mounts of the build, and empties those of steps that ignore the cache, each once in a build.
    fn note_cache_mounts(&self, graph: &kiln_llb::Graph) {
        let mounts = kiln_ops::cache_mounts(graph);
        self.caches.note_mounts(&mounts);
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        for NamedMount { name, based, .. } in mounts.into_iter().filter(|mount| mount.fresh) {
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
        self.policies.sources().images()
    }

    /// The digest and config of an image, shown as the step `log_name` unless that is empty. `policies` are the frontend's own.
    ///
    /// # Errors
    /// The registry's, the client's; `PermissionDenied` by a policy; that a policy wants something else than an image.
    pub async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        layout: Option<(String, String)>,
        log_name: &str,
        policies: &[Policy],
    ) -> Result<FoundImage, ImageError> {
        let scheme = if layout.is_some() { "oci-layout" } else { "docker-image" };
        let asked = pb::SourceOp { identifier: format!("{scheme}://{reference}"), attrs: BTreeMap::new() };
        let message = platform.map(pb_platform);
        let reference = match self.policies.judge(&asked, message.as_ref(), policies).await? {
            None => reference.to_owned(),
            Some(other) => match other.identifier.split_once("://") {
                Some((found, reference)) if found == scheme => reference.to_owned(),
                _ => {
                    let (reference, identifier) = (reference.to_owned(), other.identifier);
                    return Err(ImageError::Replaced(Replaced { reference, identifier }));
                }
            },
        };
        let image = self.policies.sources().image(&reference, platform, layout, log_name).await?;
        Ok(FoundImage { reference, image })
    }

    /// What a source stands for now.
    ///
    /// # Errors
    /// The source's; `Unimplemented` for kinds of which nothing can be told yet; `PermissionDenied` by a policy.
    pub async fn resolve_source(
        &self,
        mut request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse, WireError> {
        if let Some(source) = &request.source {
            let policies = policy::compile(&request.source_policies)?;
            let judged = self.policies.judge(source, request.platform.as_ref(), &policies).await?;
            if judged.is_some() {
                request.source = judged;
            }
        }
        self.policies.sources().metadata(&request).await
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
        let built = match tree {
            Some(tree) => tree.output().await?.tree().is_some(),
            None => false,
        };
        if !built && files::is_root(path) {
            return Ok(Vec::new());
        }
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
        work: impl FnOnce(&Root, &str) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        let unpacked = match tree {
            Some(tree) => tree.unpack().await?,
            None => None,
        };
        let Some(unpacked) = unpacked else { return Err(nothing(action, path)) };
        let path = path.to_owned();
        let work = move || work(&unpacked.open().map_err(wire_error)?, &path);
        tokio::task::spawn_blocking(work).await.map_err(wire_error)?
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
