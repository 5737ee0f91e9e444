//! The containers that a client runs beside its build, by the names that it gave them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kiln_frontend::{Bridge, wire_error};
use kiln_fstree::Root;
use kiln_ops::{
    OpError,
    container::{ContainerSpec, SideContainer},
};
use kiln_proto::{
    gateway::NewContainerRequest,
    pb,
    status::{Detail, WireError},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// How many containers a build has at once.
const MAX_CONTAINERS: usize = 256;
/// The longest name of a container, in bytes.
const MAX_NAME: usize = 256;

/// The containers of one build.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    known: Mutex<HashMap<String, Place>>,
    ended: CancellationToken,
}

/// What a name stands for.
#[derive(Debug)]
enum Place {
    /// A container that is being made.
    Taken,
    Ready(Arc<SideContainer>),
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when the build ends.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Makes a container of the build's trees.
    pub(crate) async fn make(&self, bridge: &Bridge, request: NewContainerRequest) -> Result<(), WireError> {
        let name = request.container_id.clone();
        let place = self.take(&name)?;
        let making = async {
            let spec = spec(bridge, request).await?;
            let (host, group, allowed) = (bridge.host().clone(), bridge.group(), bridge.allowed().clone());
            SideContainer::new(host, group, allowed, spec).await.map_err(|error| wire(&error))
        };
        let made = tokio::select! {
            made = making => made?,
            () = self.ended.cancelled() => return Err(over()),
        };
        place.fill(made)
    }

    /// Reserves a name.
    fn take(&self, name: &str) -> Result<Reserved<'_>, WireError> {
        if name.is_empty() || name.len() > MAX_NAME {
            let problem = format!("the name of a container has 1 to {MAX_NAME} bytes, not {}", name.len());
            return Err(WireError::new(Code::InvalidArgument, problem));
        }
        let mut known = self.lock();
        if self.ended.is_cancelled() {
            return Err(over());
        }
        if known.contains_key(name) {
            return Err(WireError::new(Code::AlreadyExists, format!("Container {name} already exists")));
        }
        if known.len() >= MAX_CONTAINERS {
            let problem = format!("the build has {MAX_CONTAINERS} containers already; release some");
            return Err(WireError::new(Code::ResourceExhausted, problem));
        }
        known.insert(name.to_owned(), Place::Taken);
        Ok(Reserved { containers: self, name: name.to_owned() })
    }

    /// The container of that name.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<SideContainer>, WireError> {
        match self.lock().get(name) {
            Some(Place::Ready(container)) => Ok(container.clone()),
            _ => Err(missing(name)),
        }
    }

    /// Ends the container of that name, and forgets it.
    pub(crate) async fn release(&self, name: &str) -> Result<(), WireError> {
        let container = {
            let mut known = self.lock();
            match known.get(name) {
                Some(Place::Ready(container)) => {
                    let container = container.clone();
                    known.remove(name);
                    container
                }
                _ => return Err(missing(name)),
            }
        };
        if container.release().await { Err(wire(&kiln_executor::Error::Cancelled.into())) } else { Ok(()) }
    }

    /// Does something with the tree of a mount.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        name: &str,
        mount: i32,
        work: impl FnOnce(&Root) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        let container = self.find(name)?;
        let index = usize::try_from(mount);
        let index = index.map_err(|_| {
            WireError::new(Code::InvalidArgument, format!("mount index {mount} is out of bounds"))
        })?;
        let root = container.view(index).await.map_err(|error| wire(&error))?;
        tokio::task::spawn_blocking(move || work(&root)).await.map_err(wire_error)?
    }

    /// The build has ended: whatever runs is killed, and nothing more can be made.
    pub(crate) fn close(&self) {
        self.ended.cancel();
        for (_, place) in self.lock().drain() {
            if let Place::Ready(container) = place {
                container.kill();
            }
        }
    }
}

/// A name that is not given to anybody else; free again when it is dropped before there is a container.
struct Reserved<'a> {
    containers: &'a Containers,
    name: String,
}

impl Reserved<'_> {
    fn fill(self, container: SideContainer) -> Result<(), WireError> {
        match self.containers.lock().get_mut(&self.name) {
            Some(place) => {
                *place = Place::Ready(Arc::new(container));
                Ok(())
            }
            None => Err(over()),
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut known = self.containers.lock();
        if matches!(known.get(&self.name), Some(Place::Taken)) {
            known.remove(&self.name);
        }
    }
}

async fn spec(bridge: &Bridge, request: NewContainerRequest) -> Result<ContainerSpec, WireError> {
    let mut mounts = Vec::with_capacity(request.mounts.len());
    for mount in request.mounts {
        let tree = match mount.result_id.as_str() {
            "" => None,
            id => bridge.tree(id).await.map_err(|error| of_mount(error, &mount))?,
        };
        mounts.push((mount, tree));
    }
    Ok(ContainerSpec {
        name: request.container_id,
        mounts,
        network: request.network,
        os: request.platform.map(|platform| platform.os).unwrap_or_default(),
        hostname: request.hostname,
        extra_hosts: request.extra_hosts,
        generated: Vec::new(),
    })
}

fn of_mount(error: WireError, mount: &pb::Mount) -> WireError {
    if error.code != Code::NotFound {
        return error;
    }
    let message =
        format!("failed to find ref {} for {:?} mount: {}", mount.result_id, mount.dest, error.message);
    WireError { message, ..error }
}

fn missing(name: &str) -> WireError {
    WireError::new(Code::NotFound, format!("container {name:?} previously released or not created"))
}

fn over() -> WireError {
    WireError::new(Code::FailedPrecondition, "the build has ended")
}

/// What a client is told of an error.
pub(crate) fn wire(error: &OpError) -> WireError {
    use kiln_executor::Error;
    let code = match error {
        // Clients know it by these words.
        OpError::Executor(Error::Cancelled) => {
            return WireError::new(Code::Cancelled, "context canceled: the container was released");
        }
        OpError::NotAllowed(_) => Code::PermissionDenied,
        OpError::Invalid(_) | OpError::Executor(Error::Invalid { .. }) => Code::InvalidArgument,
        OpError::Executor(Error::NotRunning(_)) => Code::FailedPrecondition,
        _ => Code::Unknown,
    };
    let wire = WireError::new(code, error.to_string());
    match error.exit_code() {
        Some(code) => wire.with(Detail::Exit(code)),
        None => wire,
    }
}
