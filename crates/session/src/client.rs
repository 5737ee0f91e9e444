//! The client's end: services that the daemon may call.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use kiln_proto::{
    METHODS,
    control::control_client::ControlClient,
    health::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    limits::Limited as _,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{body::Body, server::NamedService, service::Routes, transport::Channel};

use crate::{Error, Tunnel, connection, headers::Opening, outgoing, random_id};

/// A session that is about to be opened.
pub struct ClientSession {
    opening: Opening,
    routes: Routes,
}

impl ClientSession {
    /// A session without services. `shared_key` names this host, so that the daemon finds the trees of its folders again.
    #[must_use]
    pub fn new(shared_key: impl Into<String>) -> Self {
        let opening = Opening { id: random_id(), shared_key: shared_key.into(), ..Opening::default() };
        let session = Self { opening, routes: Routes::default() };
        session.with(HealthServer::new(Alive).limited())
    }

    /// The same with one more service, which the daemon is told of.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.opening.methods.extend(methods_of(S::NAME));
        self.routes = self.routes.add_service(service);
        self
    }

    /// The same with another interval and limit of the daemon's health checks.
    #[must_use]
    pub fn with_health_timeout(mut self, timeout: Duration) -> Self {
        self.opening.health_timeout = Some(timeout);
        self
    }

    /// The session's id, which a build names to use it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.opening.id
    }

    /// Serves over a daemon's control service until the daemon closes the session or the future is dropped.
    ///
    /// # Errors
    /// The daemon's refusal, or a connection that broke.
    pub async fn run(self, channel: Channel) -> Result<(), Error> {
        let (sender, messages) = outgoing();
        let mut call = tonic::Request::new(messages);
        self.opening.write(call.metadata_mut())?;
        let incoming = ControlClient::new(channel).limited().session(call).await?.into_inner();
        self.serve(Tunnel::new(incoming, sender)).await
    }

    /// Serves over any connection, whose other end is given what [`ClientSession::opening`] says.
    ///
    /// # Errors
    /// A connection that broke.
    pub async fn serve<IO>(self, io: IO) -> Result<(), Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| Error::Io {
            what: "session connection".into(),
            source: std::io::Error::other(error),
        };
        connection::serve(io, self.routes).await.map_err(broken)
    }

    /// What the daemon must be told to open the session.
    #[must_use]
    pub fn opening(&self) -> Opening {
        self.opening.clone()
    }
}

/// The methods of a service, as `/service/method`.
fn methods_of(service: &str) -> Vec<String> {
    let prefix = format!("/{service}/");
    METHODS.iter().filter(|method| method.starts_with(&prefix)).map(ToString::to_string).collect()
}

/// A client that answers is healthy.
struct Alive;

#[tonic::async_trait]
impl Health for Alive {
    type WatchStream = futures::stream::Empty<Result<HealthCheckResponse, tonic::Status>>;

    async fn check(
        &self,
        _request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
        Ok(HealthCheckResponse { status: ServingStatus::Serving.into() }.into())
    }

    async fn watch(
        &self,
        _request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("a session's health is asked for with Check"))
    }
}

#[cfg(test)]
mod tests {
    use super::methods_of;

    #[test]
    fn the_daemon_is_told_each_method() {
        assert_eq!(
            methods_of("moby.filesync.v1.FileSync"),
            ["/moby.filesync.v1.FileSync/DiffCopy", "/moby.filesync.v1.FileSync/TarStream"]
        );
    }
}
