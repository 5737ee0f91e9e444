//! The door through which frontends in containers come to the gateway service.

use std::sync::Arc;

use futures::future::BoxFuture;
use kiln_frontend::{Door, FrontendCall, Frontends, dockerfile::Builtin};
use kiln_oci::gojson;
use serde::Serialize;
use tokio::io::DuplexStream;

use crate::{
    conversation::Conversation,
    daemon::{Daemon, WeakDaemon},
    services,
    version::version,
};

/// A daemon's door, which the daemon has.
#[derive(Debug)]
struct FrontendDoor(WeakDaemon);

impl Door for FrontendDoor {
    fn serve(&self, call: FrontendCall, stream: DuplexStream) -> BoxFuture<'static, ()> {
        let conversation = Closing(Conversation::of(call));
        // Without a daemon there is nobody to speak to.
        let Some(daemon) = self.0.upgrade() else { return Box::pin(std::future::ready(())) };
        let routes = services::frontend_routes(&daemon, &conversation.0);
        Box::pin(async move {
            if let Err(error) = kiln_session::serve(stream, routes).await {
                tracing::debug!(%error, "connection of a frontend");
            }
            drop(conversation);
        })
    }
}

/// A conversation that is over when this is dropped.
struct Closing(Arc<Conversation>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What frontends are told of a worker.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Worker<'a> {
    id: &'a str,
    labels: &'a std::collections::BTreeMap<String, String>,
    platforms: &'a [kiln_oci::Platform],
    buildkit_version: Version<'a>,
}

#[derive(Serialize)]
struct Version<'a> {
    package: &'a str,
    version: &'a str,
    revision: &'a str,
}

impl Daemon {
    /// The frontends that a build may use. They are the same for all.
    pub(crate) fn make_frontends(&self) -> Frontends {
        let config = &self.config().frontends;
        let (record, version) = (self.worker_record(), version());
        let worker = Worker {
            id: &record.id,
            labels: &record.labels,
            platforms: self.platforms(),
            buildkit_version: Version {
                package: &version.package,
                version: &version.version,
                revision: &version.revision,
            },
        };
        // Texts and lists of texts: encoding cannot fail.
        let workers = gojson::to_vec(&[worker]).unwrap_or_default();
        Frontends {
            builtin: Builtin { enabled: config.builtin && config.dockerfile },
            dockerfile: config.dockerfile,
            gateway: config.gateway,
            allowed_repositories: config.allowed_repositories.clone(),
            workers: String::from_utf8_lossy(&workers).into_owned(),
            door: Arc::new(FrontendDoor(self.downgrade())),
        }
    }
}
