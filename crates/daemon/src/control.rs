//! The control service.

use std::pin::Pin;

use futures::Stream;
use kiln_exporter::Images;
use kiln_ops::Host;
use kiln_proto::control::{
    BuildHistoryEvent, BuildHistoryRequest, BytesMessage, DiskUsageRequest, DiskUsageResponse, InfoRequest,
    InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse,
    StatusRequest, StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord,
    control_server::Control,
};
use kiln_proto::types;
use kiln_session::{Tunnel, headers::Opening, outgoing};
use kiln_worker::{DiskRecord, Filter, PruneOptions};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{build, daemon::Daemon, history, log::Reader, version::version};

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The control service of a daemon.
#[derive(Clone, Debug)]
pub(crate) struct ControlService(pub(crate) Daemon);

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

/// Why records could not be listed or pruned, told as BuildKit tells it.
fn usage_error(what: &str, filters: &[String], error: kiln_worker::Error) -> Status {
    match error {
        kiln_worker::Error::Filter(error) => {
            Status::unknown(format!("failed to parse {what} filters [{}]: {error}", filters.join(" ")))
        }
        error => internal(error),
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type PruneStream = Messages<UsageRecord>;
    type StatusStream = Messages<StatusResponse>;
    type SessionStream = Messages<BytesMessage>;
    type ListenBuildHistoryStream = Messages<BuildHistoryEvent>;

    async fn disk_usage(&self, request: Request<DiskUsageRequest>) -> Answer<DiskUsageResponse> {
        let request = request.into_inner();
        let age = u64::try_from(request.age_limit / 1_000_000).unwrap_or_default();
        let filters = filters(request.filter);
        let record = self.0.host().worker.disk_usage(&filters, age).await;
        let record = record.map_err(|error| usage_error("diskusage", &filters, error))?;
        Ok(DiskUsageResponse { record: record.into_iter().map(usage).collect() }.into())
    }

    async fn prune(&self, request: Request<PruneRequest>) -> Answer<Self::PruneStream> {
        let request = request.into_inner();
        let bytes = |n: i64| u64::try_from(n).unwrap_or_default();
        let options = PruneOptions {
            filters: filters(request.filter),
            all: request.all,
            keep_duration_ms: bytes(request.keep_duration / 1_000_000),
            reserved_space: bytes(request.reserved_space),
            max_used_space: bytes(request.max_used_space),
            min_free_space: bytes(request.min_free_space),
        };
        let (sender, removed) = mpsc::unbounded_channel();
        let host = self.0.host().clone();
        tokio::spawn(async move {
            let worker = &host.worker;
            let everything = options.is_everything();
            let (told, filters) = (sender.clone(), options.filters.clone());
            // A client that left does not stop the prune that it asked for.
            let tell = move |record: DiskRecord| drop(told.send(Ok(usage(record))));
            if let Err(error) = worker.prune(vec![options], tell).await {
                drop(sender.send(Err(usage_error("prune", &filters, error))));
            }
            if everything && let Err(error) = forget_images(&host).await {
                drop(sender.send(Err(error)));
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(removed))))
    }

    async fn solve(&self, request: Request<SolveRequest>) -> Answer<SolveResponse> {
        let (daemon, request) = (self.0.clone(), request.into_inner());
        // Dropping this call's future, which is what a client's leaving does, drops the build.
        let building = AbortOnDrop(tokio::spawn(async move { build::solve(&daemon, request).await }));
        match building.join().await {
            Ok(Ok(response)) => Ok(response.into()),
            Ok(Err(error)) => Err(error.into()),
            Err(error) if error.is_panic() => Err(internal("the build panicked; the daemon's log has more")),
            Err(_) => Err(Status::cancelled("the build was cancelled")),
        }
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<Self::StatusStream> {
        let reader = self.log(request.into_inner().r#ref).await?;
        let messages = futures::stream::unfold(reader, |mut reader| async move {
            let message = reader.next().await?;
            Some((Ok(message), reader))
        });
        let mut response: Response<Self::StatusStream> = Response::new(Box::pin(messages));
        if let Ok(now) = kiln_oci::Time::now().as_str().parse() {
            response.metadata_mut().insert("buildkit-current-timestamp", now);
        }
        Ok(response)
    }

    async fn session(&self, request: Request<Streaming<BytesMessage>>) -> Answer<Self::SessionStream> {
        let opening =
            Opening::read(request.metadata()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (sender, messages) = outgoing();
        let tunnel = Tunnel::new(request.into_inner(), sender);
        let sessions = self.0.sessions().clone();
        tokio::spawn(async move {
            let id = opening.id.clone();
            if let Err(error) = sessions.serve(opening, tunnel).await {
                tracing::debug!(%error, session = id, "session failed");
            }
        });
        let messages = futures::StreamExt::map(messages, Ok);
        Ok(Response::new(Box::pin(messages)))
    }

    async fn list_workers(&self, request: Request<ListWorkersRequest>) -> Answer<ListWorkersResponse> {
        let cdi_devices = self.0.devices().await;
        let record = types::WorkerRecord { cdi_devices, ..self.0.worker_record() };
        let wanted = filters(request.into_inner().filter);
        let filter = Filter::parse(&wanted).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let field = |path: &[String]| match path {
            [id] if id == "id" => (std::borrow::Cow::Borrowed(record.id.as_str()), true),
            [labels, rest @ ..] if labels == "labels" => match record.labels.get(&rest.join(".")) {
                Some(value) => (value.as_str().into(), true),
                None => ("".into(), false),
            },
            _ => ("".into(), false),
        };
        let matches = filter.matches(field);
        Ok(ListWorkersResponse { record: if matches { vec![record] } else { Vec::new() } }.into())
    }

    async fn info(&self, _request: Request<InfoRequest>) -> Answer<InfoResponse> {
        Ok(InfoResponse { buildkit_version: Some(version()) }.into())
    }

    async fn listen_build_history(
        &self,
        request: Request<BuildHistoryRequest>,
    ) -> Answer<Self::ListenBuildHistoryStream> {
        Ok(Response::new(history::listen(self.0.history(), request.into_inner()).await?))
    }

    async fn update_build_history(
        &self,
        request: Request<UpdateBuildHistoryRequest>,
    ) -> Answer<UpdateBuildHistoryResponse> {
        history::update(self.0.history(), request.into_inner()).await?;
        Ok(UpdateBuildHistoryResponse {}.into())
    }
}

impl ControlService {
    /// The log of a build: of one that is under way or about to start, or that of a record.
    async fn log(&self, reference: String) -> Result<Reader, Status> {
        if !self.0.builds().knows(&reference) {
            let (history, wanted) = (self.0.history().clone(), reference.clone());
            let kept = tokio::task::spawn_blocking(move || history.log(&wanted));
            if let Some(path) = kept.await.map_err(internal)?.map_err(internal)? {
                return Reader::of_ended(&path).map_err(internal);
            }
        }
        let build = self.0.builds().get(&reference).await.map_err(Status::from)?;
        build.log.reader().map_err(internal)
    }
}

/// What a prune of everything takes beside the records: the documents that coming builds could have used, and the images that earlier
/// ones left under their names. No other call would ever remove these.
async fn forget_images(host: &Host) -> Result<(), Status> {
    host.sources.images().forget().await.map_err(internal)?;
    let images = Images::new(host.worker.store());
    tokio::task::spawn_blocking(move || images.clear()).await.map_err(internal)?.map_err(internal)?;
    Ok(())
}

/// Some clients send an empty filter where they mean none.
fn filters(all: Vec<String>) -> Vec<String> {
    all.into_iter().filter(|filter| !filter.is_empty()).collect()
}

fn usage(record: DiskRecord) -> UsageRecord {
    let time = |ms: u64| {
        let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        let nanos = i32::try_from(ms % 1000 * 1_000_000).unwrap_or_default();
        prost_types::Timestamp { seconds, nanos }
    };
    let parents: Vec<String> = record.parents.iter().map(ToString::to_string).collect();
    UsageRecord {
        id: record.id.to_string(),
        mutable: record.mutable,
        in_use: record.in_use,
        size: i64::try_from(record.size).unwrap_or(i64::MAX),
        #[expect(deprecated, reason = "older clients read it")]
        parent: parents.first().cloned().unwrap_or_default(),
        created_at: Some(time(record.created * 1000)),
        last_used_at: record.last_used.map(time),
        usage_count: i64::try_from(record.usage_count).unwrap_or(i64::MAX),
        description: record.description,
        record_type: record.record_type.as_str().to_owned(),
        shared: record.shared,
        parents,
    }
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn join(mut self) -> Result<T, tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
