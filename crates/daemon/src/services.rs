//! Everything that a connection can ask for, in one place.

use std::sync::Arc;

use kiln_proto::{
    content::content_server::ContentServer,
    control::control_server::ControlServer,
    gateway::llb_bridge_server::LlbBridgeServer,
    health::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    history::history_server::HistoryServer,
    limits::Limited as _,
    trace::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tonic::{Request, Response, Status, service::Routes};

use crate::{
    content::ContentService, control::ControlService, conversation::Conversation, daemon::Daemon,
    gateway::GatewayService, history::HistoryService,
};

/// The services of `daemon`.
pub(crate) fn routes(daemon: &Daemon) -> Routes {
    let content = ContentService(daemon.host().worker.store().clone(), daemon.history().clone());
    let mut routes = Routes::new(ControlServer::new(ControlService(daemon.clone())).limited())
        .add_service(LlbBridgeServer::new(GatewayService::new(daemon)).limited())
        .add_service(ContentServer::new(content).limited())
        .add_service(HistoryServer::new(HistoryService(daemon.history().clone())).limited())
        .add_service(HealthServer::new(Serving).limited())
        .add_service(TraceServiceServer::new(NoTraces).limited());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kiln_proto::DESCRIPTORS);
    match reflection.build_v1() {
        Ok(service) => routes = routes.add_service(service),
        Err(error) => tracing::warn!(%error, "no reflection service"),
    }
    routes
}

/// The services for one frontend in a container.
pub(crate) fn frontend_routes(daemon: &Daemon, conversation: &Arc<Conversation>) -> Routes {
    Routes::new(LlbBridgeServer::new(GatewayService::of(daemon, conversation)).limited())
        .add_service(HealthServer::new(Serving).limited())
}

/// A daemon that answers is healthy.
struct Serving;

#[tonic::async_trait]
impl Health for Serving {
    type WatchStream = futures::stream::Once<std::future::Ready<Result<HealthCheckResponse, Status>>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(HealthCheckResponse { status: ServingStatus::Serving.into() }.into())
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let serving = HealthCheckResponse { status: ServingStatus::Serving.into() };
        Ok(Response::new(futures::stream::once(std::future::ready(Ok(serving)))))
    }
}

/// Clients send their traces to whatever daemon they use. Nobody collects them here, and the answer says so.
struct NoTraces;

#[tonic::async_trait]
impl TraceService for NoTraces {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let rejected = i64::try_from(request.into_inner().resource_spans.len()).unwrap_or(i64::MAX);
        let partial = kiln_proto::trace::ExportTracePartialSuccess {
            rejected_spans: rejected,
            error_message: "this daemon collects no traces".into(),
        };
        Ok(ExportTraceServiceResponse { partial_success: Some(partial) }.into())
    }
}
