//! What ops need of the machine that they run on.

use std::sync::Arc;

use kiln_engine::{OpContext, Permit};
use kiln_executor::{CgroupParent, Executor};
use kiln_oci::Platform;
use kiln_session::{Group, Manager};
use kiln_source::{SourceContext, Sources};
use kiln_worker::Worker;
use tokio::sync::Semaphore;

use crate::{DeviceRegistry, Hashes, Kiln};

/// One worker with all that its ops use.
#[derive(Clone, Debug)]
pub struct Host {
    /// Keeps results.
    pub worker: Worker,
    /// Where builds come from.
    pub sources: Sources,
    /// Runs steps.
    pub executor: Arc<dyn Executor>,
    /// The clients that are connected.
    pub sessions: Arc<Manager>,
    /// Content hashes of refs.
    pub hashes: Arc<Hashes>,
    /// The platform of steps and sources that name none.
    pub platform: Platform,
    /// How many ops may run at once; `None`: as many as there are.
    pub permits: Option<Arc<Semaphore>>,
    /// Whether a step that names no network gets one of its own. Otherwise it shares the machine's.
    pub sandbox_network: bool,
    /// Parent cgroup of steps that name none.
    pub cgroup_parent: Option<CgroupParent>,
    /// Devices that steps may ask for; `None`: none are offered.
    pub devices: Option<Arc<DeviceRegistry>>,
}

impl Host {
    /// The sessions of the jobs that want a vertex, now and later.
    pub(crate) fn sessions_of(&self, cx: &OpContext<Kiln>) -> Group {
        let jobs = cx.group();
        Group::new(self.sessions.clone(), move || jobs.jobs().into_iter().map(|job| job.session).collect())
    }

    pub(crate) fn source_context(&self, cx: &OpContext<Kiln>) -> SourceContext {
        SourceContext { sessions: self.sessions_of(cx), progress: cx.progress().clone() }
    }

    /// Waits until one more op may run.
    pub(crate) async fn permit(&self) -> Permit {
        match &self.permits {
            None => Permit::none(),
            // The semaphore is never closed.
            Some(permits) => {
                permits.clone().acquire_owned().await.map_or_else(|_| Permit::none(), Permit::new)
            }
        }
    }
}
