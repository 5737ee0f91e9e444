//! Which frontends a daemon has, and how one that runs in a container speaks to it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use kiln_llb::Graph;
use kiln_oci::Reference;
use kiln_proto::{pb, status::WireError};
use tokio::{io::DuplexStream, sync::oneshot};
use tonic::Code;

use crate::{
    Bridge, FrontendResult,
    dockerfile::{self, Builtin},
    foreign,
};

/// The frontends of a daemon.
#[derive(Clone, Debug)]
pub struct Frontends {
    /// Which images the frontend in this process stands for.
    pub builtin: Builtin,
    /// Whether `dockerfile.v0` may be used.
    pub dockerfile: bool,
    /// Whether `gateway.v0` may be used.
    pub gateway: bool,
    /// The repositories whose images may be frontends, in their full spelling; empty: all.
    pub allowed_repositories: Vec<String>,
    /// What frontends in containers are told of the workers, as JSON.
    pub workers: String,
    /// Speaks with frontends in containers.
    pub door: Arc<dyn Door>,
}

impl Frontends {
    /// Whether the frontend `name` may be used.
    ///
    /// # Errors
    /// `PermissionDenied` when the daemon's configuration says no.
    pub fn check(&self, name: &str) -> Result<(), WireError> {
        let on = match name {
            dockerfile::NAME => self.dockerfile,
            foreign::NAME => self.gateway,
            _ => true,
        };
        if on {
            return Ok(());
        }
        let message =
            format!("frontend {name} is switched off (frontend.{name:?}.enabled in buildkitd.toml)");
        Err(WireError::new(Code::PermissionDenied, message))
    }

    /// Whether the image `source` may be a frontend.
    ///
    /// # Errors
    /// `PermissionDenied` when its repository is not on the daemon's list; `InvalidArgument` for what is no image's name.
    pub fn check_source(&self, source: &str) -> Result<(), WireError> {
        if self.allowed_repositories.is_empty() {
            return Ok(());
        }
        let reference = Reference::parse(source)
            .map_err(|e| WireError::new(Code::InvalidArgument, format!("frontend image {source}: {e}")))?;
        if self.allowed_repositories.contains(&reference.name()) {
            return Ok(());
        }
        let message = format!(
            "'{source}' is not an allowed gateway source (frontend.\"gateway.v0\".allowedRepositories in buildkitd.toml)"
        );
        Err(WireError::new(Code::PermissionDenied, message))
    }

    /// Whether all images of a frontend's definition may be frontends.
    pub(crate) fn check_images(&self, definition: &Graph) -> Result<(), WireError> {
        for vertex in definition.vertices() {
            if let Some(pb::op::Op::Source(source)) = &vertex.op.op {
                let image = source.identifier.strip_prefix("docker-image://");
                self.check_source(image.unwrap_or(&source.identifier))?;
            }
        }
        Ok(())
    }
}

/// A frontend that runs in a container, as the daemon's gateway service needs to know it.
pub struct FrontendCall {
    /// The build.
    pub bridge: Arc<Bridge>,
    /// Definitions that stand for folders of the frontend, by name.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// How many frontends have called one another up to this one.
    pub depth: usize,
    /// Where what the frontend returns goes.
    pub returned: oneshot::Sender<Result<FrontendResult, WireError>>,
    /// How the last solve ended that it asked for.
    pub last: LastSolve,
}

/// The error of the last solve that somebody asked for, if it failed. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct LastSolve(Arc<Mutex<Option<String>>>);

impl LastSolve {
    /// Notes how a solve ended.
    pub fn note<T>(&self, result: &Result<T, WireError>) {
        let error = result.as_ref().err().map(|error| error.message.clone());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Speaks the gateway's protocol. It is the daemon's, which has the service.
pub trait Door: Send + Sync + fmt::Debug {
    /// Serves a frontend's calls on `stream` until either end closes it. Dropped, it ends whatever the frontend had started.
    fn serve(&self, call: FrontendCall, stream: DuplexStream) -> BoxFuture<'static, ()>;
}

#[cfg(test)]
pub(crate) mod tests {
    use kiln_llb::build::{Constraints, ImageOptions, Marshal, image};

    use super::*;

    #[derive(Debug)]
    struct Nobody;

    impl Door for Nobody {
        fn serve(&self, _: FrontendCall, _: DuplexStream) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    pub(crate) fn frontends(allowed: &[&str]) -> Frontends {
        Frontends {
            builtin: Builtin::default(),
            dockerfile: true,
            gateway: false,
            allowed_repositories: allowed.iter().map(|one| (*one).to_owned()).collect(),
            workers: String::new(),
            door: Arc::new(Nobody),
        }
    }

    #[test]
    fn what_is_switched_off_is_refused() {
        assert!(frontends(&[]).check("dockerfile.v0").is_ok());
        assert_eq!(frontends(&[]).check("gateway.v0").unwrap_err().code, Code::PermissionDenied);
    }

    #[test]
    fn repositories_are_compared_in_full() {
        let some = frontends(&["docker.io/docker/dockerfile"]);
        for source in ["docker/dockerfile", "docker/dockerfile:1", "docker.io/docker/dockerfile:1"] {
            assert!(some.check_source(source).is_ok(), "{source}");
        }
        for source in ["docker/dockerfile2", "example.com/docker/dockerfile", "not a name"] {
            assert!(some.check_source(source).is_err(), "{source}");
        }
        assert!(frontends(&[]).check_source("whatever").is_ok());
    }

    #[test]
    fn a_definition_may_take_only_images_that_are_allowed() {
        let check = |name: &str| {
            let state = image(name, ImageOptions::default(), Constraints::new()).unwrap();
            let definition = state.marshal(&Marshal::new("test")).unwrap();
            frontends(&["docker.io/me/front"]).check_images(&Graph::decode(&definition).unwrap())
        };
        assert!(check("docker.io/me/front:1").is_ok());
        assert_eq!(check("docker.io/me/other:1").unwrap_err().code, Code::PermissionDenied);
    }
}
