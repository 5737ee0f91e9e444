//! The gateway service: a client that drives its build itself, or a frontend in a container, speaks to the build's bridge.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures::Stream;
use kiln_frontend::{Bridge, BuildRef, FrontendResult, Refs, Request as BuildRequest, caps, files, policy};
use kiln_fstree::Root;
use kiln_oci::Platform;
use kiln_proto::{
    caps::ApiCap,
    gateway::{
        self, EvaluateRequest, EvaluateResponse, ExecMessage, InputsRequest, InputsResponse,
        NewContainerRequest, NewContainerResponse, PingRequest, PongResponse, ReadDirRequest,
        ReadDirResponse, ReadFileRequest, ReadFileResponse, ReleaseContainerRequest,
        ReleaseContainerResponse, ResolveImageConfigRequest, ResolveImageConfigResponse,
        ResolveSourceMetaRequest, ResolveSourceMetaResponse, ReturnRequest, ReturnResponse, SolveRequest,
        SolveResponse, StatFileRequest, StatFileResponse, WarnRequest, WarnResponse,
        llb_bridge_server::LlbBridge, result::Result as AnyRef,
    },
    pb,
    status::WireError,
};
use kiln_session::headers::BUILD_ID;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{conversation::Conversation, daemon::Daemon, exec};

type Answer<T> = Result<Response<T>, Status>;

/// The gateway service of a daemon.
#[derive(Clone, Debug)]
pub(crate) struct GatewayService {
    daemon: Daemon,
    /// The frontend that it is for alone; `None`: for the clients of all builds.
    one: Option<Arc<Conversation>>,
}

impl GatewayService {
    /// For clients: the header of each call names its build.
    pub(crate) fn new(daemon: &Daemon) -> Self {
        Self { daemon: daemon.clone(), one: None }
    }

    /// For one frontend.
    pub(crate) fn of(daemon: &Daemon, conversation: &Arc<Conversation>) -> Self {
        Self { daemon: daemon.clone(), one: Some(conversation.clone()) }
    }

    /// The conversation that a call belongs to.
    async fn conversation<T>(&self, request: &Request<T>) -> Result<Arc<Conversation>, Status> {
        if let Some(one) = &self.one {
            return Ok(one.clone());
        }
        let name = request.metadata().get(BUILD_ID).and_then(|v| v.to_str().ok());
        let name = name.ok_or_else(|| {
            Status::invalid_argument(format!(
                "no buildid found in context: the call has no header {BUILD_ID}"
            ))
        })?;
        Ok(self.daemon.builds().get(name).await.map_err(Status::from)?.conversation.clone())
    }

    async fn bridge<T>(&self, request: &Request<T>) -> Result<Arc<Bridge>, Status> {
        Ok(self.conversation(request).await?.bridge()?)
    }
}

/// A ref by its name; the empty name is the empty tree.
fn find(bridge: &Bridge, id: &str) -> Result<Option<Arc<BuildRef>>, WireError> {
    if id.is_empty() { Ok(None) } else { bridge.find(id).map(Some) }
}

fn platform(message: &pb::Platform) -> Platform {
    Platform {
        os: message.os.clone(),
        architecture: message.architecture.clone(),
        variant: message.variant.clone(),
        os_version: message.os_version.clone(),
        os_features: message.os_features.clone(),
    }
}

#[tonic::async_trait]
impl LlbBridge for GatewayService {
    async fn resolve_image_config(
        &self,
        request: Request<ResolveImageConfigRequest>,
    ) -> Answer<ResolveImageConfigResponse> {
        let bridge = self.bridge(&request).await?;
        let request = request.into_inner();
        let policies = policy::compile(&request.source_policies)?;
        let layout =
            (request.resolver_type == 1).then(|| (request.session_id.clone(), request.store_id.clone()));
        let wanted = request.platform.as_ref().map(platform);
        let found = bridge
            .resolve_image(&request.r#ref, wanted.as_ref(), layout, &request.log_name, &policies)
            .await
            .map_err(WireError::from)?;
        Ok(ResolveImageConfigResponse {
            digest: found.image.root.digest.to_string(),
            config: found.image.config.clone(),
            r#ref: found.reference,
        }
        .into())
    }

    async fn resolve_source_meta(
        &self,
        request: Request<ResolveSourceMetaRequest>,
    ) -> Answer<ResolveSourceMetaResponse> {
        let bridge = self.bridge(&request).await?;
        Ok(bridge.resolve_source(request.into_inner()).await?.into())
    }

    async fn solve(&self, request: Request<SolveRequest>) -> Answer<SolveResponse> {
        let talk = self.conversation(&request).await?;
        let bridge = talk.bridge()?;
        let request = request.into_inner();
        let array = request.allow_result_array_ref;
        let wanted = BuildRequest {
            definition: request.definition,
            frontend: request.frontend,
            attrs: request.frontend_opt,
            inputs: request.frontend_inputs,
            imports: request.cache_imports.into_iter().map(Into::into).collect(),
            evaluate: request.evaluate,
            policies: policy::compile(&request.source_policies)?,
            depth: talk.depth,
        };
        talk.asked.begin(&wanted.frontend, &wanted.attrs);
        let producers = self.daemon.producers();
        let asked = producers.request(&bridge, &wanted.frontend, &wanted.attrs, &wanted.inputs);
        let result = bridge.solve(wanted).await;
        talk.last.note(&result);
        let result = result?;
        producers.made(&bridge, &asked, &result);
        talk.asked.note(asked, &result);
        if !request.allow_result_return {
            return match result.refs {
                Refs::Single(one) => {
                    let id = one.map(|r| r.id().to_owned()).unwrap_or_default();
                    Ok(SolveResponse { r#ref: id, result: None }.into())
                }
                Refs::Map(_) => {
                    Err(Status::failed_precondition("the client cannot take a result of several refs"))
                }
            };
        }
        Ok(SolveResponse { r#ref: String::new(), result: Some(to_wire(&result, array)) }.into())
    }

    async fn read_file(&self, request: Request<ReadFileRequest>) -> Answer<ReadFileResponse> {
        let bridge = self.bridge(&request).await?;
        let request = request.into_inner();
        let tree = find(&bridge, &request.r#ref)?;
        let range = request.range.unwrap_or_default();
        let bytes = |n: i64| u64::try_from(n).unwrap_or_default();
        let data = bridge
            .read_file(tree.as_ref(), &request.file_path, bytes(range.offset), bytes(range.length))
            .await?;
        Ok(ReadFileResponse { data }.into())
    }

    async fn read_dir(&self, request: Request<ReadDirRequest>) -> Answer<ReadDirResponse> {
        let bridge = self.bridge(&request).await?;
        let request = request.into_inner();
        let tree = find(&bridge, &request.r#ref)?;
        let entries = bridge.read_dir(tree.as_ref(), &request.dir_path, &request.include_pattern).await?;
        Ok(ReadDirResponse { entries }.into())
    }

    async fn stat_file(&self, request: Request<StatFileRequest>) -> Answer<StatFileResponse> {
        let bridge = self.bridge(&request).await?;
        let request = request.into_inner();
        let tree = find(&bridge, &request.r#ref)?;
        let stat = bridge.stat_file(tree.as_ref(), &request.path).await?;
        Ok(StatFileResponse { stat: Some(stat) }.into())
    }

    async fn evaluate(&self, request: Request<EvaluateRequest>) -> Answer<EvaluateResponse> {
        let talk = self.conversation(&request).await?;
        let bridge = talk.bridge()?;
        if let Some(tree) = find(&bridge, &request.into_inner().r#ref)? {
            let result = tree.result().await;
            talk.last.note(&result);
            result?;
        }
        Ok(EvaluateResponse {}.into())
    }

    async fn ping(&self, request: Request<PingRequest>) -> Answer<PongResponse> {
        self.conversation(&request).await?;
        let all = |names: Vec<&str>| {
            let cap = |id: &str| ApiCap { id: id.to_owned(), enabled: true, ..ApiCap::default() };
            names.into_iter().map(cap).collect()
        };
        Ok(PongResponse {
            frontend_api_caps: all(caps::gateway().collect()),
            llb_caps: all(caps::llb().collect()),
            workers: vec![self.daemon.worker_record()],
        }
        .into())
    }

    async fn r#return(&self, request: Request<ReturnRequest>) -> Answer<ReturnResponse> {
        let talk = self.conversation(&request).await?;
        let request = request.into_inner();
        let result = match request.error {
            Some(error) => Err(WireError::from_rpc(&error)),
            None => from_wire(&*talk.bridge()?, request.result.unwrap_or_default()),
        };
        talk.give(result)?;
        Ok(ReturnResponse {}.into())
    }

    async fn inputs(&self, request: Request<InputsRequest>) -> Answer<InputsResponse> {
        let talk = self.conversation(&request).await?;
        Ok(InputsResponse { definitions: talk.inputs.clone() }.into())
    }

    async fn new_container(&self, request: Request<NewContainerRequest>) -> Answer<NewContainerResponse> {
        let talk = self.conversation(&request).await?;
        talk.containers.make(&*talk.bridge()?, request.into_inner()).await?;
        Ok(NewContainerResponse {}.into())
    }

    async fn release_container(
        &self,
        request: Request<ReleaseContainerRequest>,
    ) -> Answer<ReleaseContainerResponse> {
        let talk = self.conversation(&request).await?;
        talk.containers.release(&request.into_inner().container_id).await?;
        Ok(ReleaseContainerResponse {}.into())
    }

    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<ExecMessage, Status>> + Send>>;

    async fn exec_process(
        &self,
        request: Request<Streaming<ExecMessage>>,
    ) -> Answer<Self::ExecProcessStream> {
        let talk = self.conversation(&request).await?;
        talk.bridge()?;
        Ok(Response::new(Box::pin(exec::serve(talk, request.into_inner()))))
    }

    async fn read_file_container(&self, request: Request<ReadFileRequest>) -> Answer<ReadFileResponse> {
        let talk = self.conversation(&request).await?;
        let request = request.into_inner();
        let (name, index) = (request.r#ref.clone(), request.mount_index);
        let range = request.range.unwrap_or_default();
        let bytes = |n: i64| u64::try_from(n).unwrap_or_default();
        let (offset, length) = (bytes(range.offset), bytes(range.length));
        let read = move |root: &Root| files::read(root, &request.file_path, offset, length);
        let data = talk.containers.look(&name, index, read).await?;
        Ok(ReadFileResponse { data }.into())
    }

    async fn read_dir_container(&self, request: Request<ReadDirRequest>) -> Answer<ReadDirResponse> {
        let talk = self.conversation(&request).await?;
        let request = request.into_inner();
        let (name, index) = (request.r#ref.clone(), request.mount_index);
        let list = move |root: &Root| files::list(root, &request.dir_path, &request.include_pattern);
        let entries = talk.containers.look(&name, index, list).await?;
        Ok(ReadDirResponse { entries }.into())
    }

    async fn stat_file_container(&self, request: Request<StatFileRequest>) -> Answer<StatFileResponse> {
        let talk = self.conversation(&request).await?;
        let request = request.into_inner();
        let (name, index) = (request.r#ref.clone(), request.mount_index);
        let stat = move |root: &Root| files::stat_mounted(root, &request.path);
        let stat = talk.containers.look(&name, index, stat).await?;
        Ok(StatFileResponse { stat: Some(stat) }.into())
    }

    async fn warn(&self, request: Request<WarnRequest>) -> Answer<WarnResponse> {
        let bridge = self.bridge(&request).await?;
        bridge.warn(request.into_inner())?;
        Ok(WarnResponse {}.into())
    }
}

/// A result as a client takes it; `array`: with definitions beside the names of refs.
fn to_wire(result: &FrontendResult, array: bool) -> gateway::Result {
    let id = |one: &Option<Arc<BuildRef>>| one.as_ref().map(|r| r.id().to_owned()).unwrap_or_default();
    let full = |one: &Option<Arc<BuildRef>>| gateway::Ref {
        id: id(one),
        def: one.as_ref().map(|r| r.definition().clone()),
    };
    let refs = match (&result.refs, array) {
        (Refs::Single(one), true) => AnyRef::Ref(full(one)),
        (Refs::Single(one), false) => AnyRef::RefDeprecated(id(one)),
        (Refs::Map(many), true) => {
            let refs = many.iter().map(|(platform, one)| (platform.clone(), full(one))).collect();
            AnyRef::Refs(gateway::RefMap { refs })
        }
        (Refs::Map(many), false) => {
            let refs = many.iter().map(|(platform, one)| (platform.clone(), id(one))).collect();
            AnyRef::RefsDeprecated(gateway::RefMapDeprecated { refs })
        }
    };
    gateway::Result {
        result: Some(refs),
        metadata: result.metadata.clone(),
        attestations: result.attestations.clone(),
    }
}

/// A result as a client gives it back.
fn from_wire(bridge: &Bridge, result: gateway::Result) -> Result<FrontendResult, WireError> {
    let refs = match result.result {
        None => Refs::Single(None),
        Some(AnyRef::RefDeprecated(id)) => Refs::Single(find(bridge, &id)?),
        Some(AnyRef::Ref(one)) => Refs::Single(find(bridge, &one.id)?),
        Some(AnyRef::RefsDeprecated(many)) => map(many.refs, |id| find(bridge, &id))?,
        Some(AnyRef::Refs(many)) => map(many.refs, |one| find(bridge, &one.id))?,
    };
    if result.metadata.len() > MAX_METADATA {
        let message = format!(
            "a result with {} metadata entries; at most {MAX_METADATA} are taken",
            result.metadata.len()
        );
        return Err(WireError::new(Code::InvalidArgument, message));
    }
    Ok(FrontendResult { refs, metadata: result.metadata, attestations: result.attestations })
}

/// Entries of a result's metadata.
const MAX_METADATA: usize = 10_000;

fn map<T>(
    all: BTreeMap<String, T>,
    find: impl Fn(T) -> Result<Option<Arc<BuildRef>>, WireError>,
) -> Result<Refs, WireError> {
    let refs = all.into_iter().map(|(platform, one)| Ok((platform, find(one)?)));
    Ok(Refs::Map(refs.collect::<Result<_, WireError>>()?))
}
