//! What one party says to the gateway service: the client that drives a build, or a frontend that runs in a container.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use kiln_frontend::{Bridge, FrontendCall, FrontendResult, LastSolve};
use kiln_proto::{pb, status::WireError};
use tokio::sync::oneshot;
use tonic::Code;

use crate::{containers::Containers, provenance::Asked};

/// One party's conversation about a build.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// What it asked of frontends.
    pub(crate) asked: Asked,
    /// What it runs beside the build.
    pub(crate) containers: Containers,
    /// Definitions that it may ask for.
    pub(crate) inputs: BTreeMap<String, pb::Definition>,
    /// How many frontends in containers have called one another up to it.
    pub(crate) depth: usize,
    /// How the last solve ended that it asked for.
    pub(crate) last: LastSolve,
    /// Gone once the conversation is over: it holds all that was built.
    bridge: Mutex<Option<Arc<Bridge>>>,
    /// Where it puts its result.
    returned: Mutex<Option<oneshot::Sender<Result<FrontendResult, WireError>>>>,
}

impl Conversation {
    /// With the client of a build. Beside it: what the client will return.
    pub(crate) fn new(
        bridge: Arc<Bridge>,
        inputs: BTreeMap<String, pb::Definition>,
    ) -> (Arc<Self>, oneshot::Receiver<Result<FrontendResult, WireError>>) {
        let (returned, receiver) = oneshot::channel();
        (Self::of(FrontendCall { bridge, inputs, depth: 0, returned, last: LastSolve::default() }), receiver)
    }

    /// With a frontend.
    pub(crate) fn of(call: FrontendCall) -> Arc<Self> {
        Arc::new(Self {
            asked: Asked::default(),
            containers: Containers::default(),
            inputs: call.inputs,
            depth: call.depth,
            last: call.last,
            bridge: Mutex::new(Some(call.bridge)),
            returned: Mutex::new(Some(call.returned)),
        })
    }

    /// One that is over before it began.
    pub(crate) fn over() -> Arc<Self> {
        let over = Self {
            asked: Asked::default(),
            containers: Containers::default(),
            inputs: BTreeMap::new(),
            depth: 0,
            last: LastSolve::default(),
            bridge: Mutex::new(None),
            returned: Mutex::new(None),
        };
        over.containers.close();
        Arc::new(over)
    }

    /// The build's bridge.
    pub(crate) fn bridge(&self) -> Result<Arc<Bridge>, WireError> {
        let bridge = self.bridge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        bridge.ok_or_else(|| WireError::new(Code::FailedPrecondition, "the build has ended"))
    }

    /// Takes the result.
    pub(crate) fn give(&self, result: Result<FrontendResult, WireError>) -> Result<(), WireError> {
        let slot = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let late = || WireError::new(Code::FailedPrecondition, "the build has its result already");
        slot.ok_or_else(late)?.send(result).map_err(|_| late())
    }

    /// Ends it: its containers are killed, and what was built is let go.
    pub(crate) fn close(&self) {
        self.containers.close();
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
