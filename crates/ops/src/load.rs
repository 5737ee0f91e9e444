//! From a checked definition to the engine's graph.

use std::{cell::OnceCell, sync::Arc};

use kiln_cdi::Devices;
use kiln_engine::{Edge, Graph, GraphError, Vertex, VertexOptions};
use kiln_oci::Platform;
use kiln_proto::pb::{self, op::Op};

use crate::{
    DeviceError, Entitlement, Entitlements, Host, Kiln, KilnOp,
    build::BuildOp,
    devices::{grant, meaning_of},
    domain::{DiffOp, MergeOp},
    exec::ExecOp,
    file::FileOp,
    passthrough::PassthroughOp,
    source::SourceOp,
};

/// Why a definition cannot be built here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A step wants what the build may not do.
    #[error(
        "{name}: entitlement {entitlement} is not allowed (the client must ask for it with --allow {entitlement}, and the daemon's insecure-entitlements must list it)"
    )]
    NotAllowed {
        /// The step.
        name: String,
        /// What it wants.
        entitlement: Entitlement,
    },
    /// A step asks for a device that it does not get.
    #[error("{name}: {error}")]
    Device {
        /// The step.
        name: String,
        /// Why.
        error: DeviceError,
    },
    /// A source makes no sense.
    #[error(transparent)]
    Source(#[from] kiln_source::Error),
    /// An op is of a kind that is not there yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// The definition is no graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// The engine's graph of a definition, and the edge that it stands for.
///
/// # Errors
/// [`LoadError`]: what the definition asks for is refused before anything of it runs.
pub fn load(
    graph: &kiln_llb::Graph,
    host: &Arc<Host>,
    allowed: &Entitlements,
) -> Result<(Graph<Kiln>, Edge), LoadError> {
    let devices = DevicesOf::new(host);
    let vertices = graph.vertices().iter().map(|vertex| load_vertex(vertex, host, allowed, &devices));
    let graph_of = Graph::new(vertices.collect::<Result<_, _>>()?)?;
    let root = graph.root();
    Ok((graph_of, Edge::new(root.vertex.clone(), root.output)))
}

/// As [`load`], with every vertex told to ignore the cache.
///
/// # Errors
/// As [`load`].
pub fn load_uncached(
    graph: &kiln_llb::Graph,
    host: &Arc<Host>,
    allowed: &Entitlements,
) -> Result<(Graph<Kiln>, Edge), LoadError> {
    let devices = DevicesOf::new(host);
    let vertices = graph.vertices().iter().map(|vertex| {
        let mut vertex = load_vertex(vertex, host, allowed, &devices)?;
        vertex.options.ignore_cache = true;
        Ok(vertex)
    });
    let graph_of = Graph::new(vertices.collect::<Result<_, LoadError>>()?)?;
    let root = graph.root();
    Ok((graph_of, Edge::new(root.vertex.clone(), root.output)))
}

/// A cache mount that a step of a definition names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedMount {
    /// Its id.
    pub name: String,
    /// Whether it begins with files of an input.
    pub based: bool,
    /// Whether the step is to run whatever the cache holds: it begins with a new mount.
    pub fresh: bool,
}

/// The cache mounts of a definition's steps.
pub fn cache_mounts(graph: &kiln_llb::Graph) -> Vec<NamedMount> {
    let mut named = Vec::new();
    for vertex in graph.vertices() {
        let Some(Op::Exec(op)) = &vertex.op.op else { continue };
        for mount in op.mounts.iter().filter(|m| m.mount_type() == pb::MountType::Cache) {
            let name = match mount.cache_opt.as_ref().map(|c| c.id.as_str()) {
                None | Some("") => mount.dest.clone(),
                Some(id) => id.to_owned(),
            };
            let (based, fresh) = (mount.input != kiln_llb::EMPTY, vertex.metadata.ignore_cache);
            named.push(NamedMount { name, based, fresh });
        }
    }
    named
}

/// The devices of a machine, the same for all of a definition. Most definitions want none, and then none are read.
struct DevicesOf<'a> {
    host: &'a Host,
    read: OnceCell<Option<Devices>>,
}

impl<'a> DevicesOf<'a> {
    fn new(host: &'a Host) -> Self {
        Self { host, read: OnceCell::new() }
    }

    fn get(&self) -> Option<&Devices> {
        self.read.get_or_init(|| self.host.devices.as_ref().map(|devices| devices.read())).as_ref()
    }
}

fn load_vertex(
    vertex: &kiln_llb::Vertex,
    host: &Arc<Host>,
    allowed: &Entitlements,
    devices: &DevicesOf<'_>,
) -> Result<Vertex<Kiln>, LoadError> {
    let (name, inputs, host) = (vertex.name().to_owned(), vertex.inputs.len(), host.clone());
    let mut meaning = None;
    let op = match vertex.op.op.clone() {
        Some(Op::Source(op)) => {
            let platform = vertex.op.platform.clone();
            let source = host.sources.open(&op, platform.as_ref(), &host.platform)?;
            KilnOp::Source(Box::new(SourceOp { op, platform, source, host }))
        }
        Some(Op::Exec(mut op)) => {
            check(&op, &name, allowed)?;
            if !op.cdi_devices.is_empty() {
                let given = grant(&op.cdi_devices, allowed.devices(), devices.get())
                    .map_err(|error| LoadError::Device { name: name.clone(), error })?;
                meaning = meaning_of(&op.cdi_devices, &given);
                op.cdi_devices = given;
            }
            let platform = vertex.platform().unwrap_or_else(Platform::host);
            let resources = vertex.metadata.linux_resources.as_deref().cloned().unwrap_or_default();
            KilnOp::Exec(Box::new(ExecOp { op, platform, inputs, resources, host }))
        }
        Some(Op::File(op)) => KilnOp::File(FileOp { op, inputs, name: name.clone(), host }),
        Some(Op::Merge(op)) => KilnOp::Merge(MergeOp { op, name: name.clone(), host }),
        Some(Op::Diff(op)) => KilnOp::Diff(DiffOp { op, name: name.clone(), host }),
        Some(Op::Build(op)) => {
            meaning = allowed.meaning();
            KilnOp::Build(BuildOp { op, inputs, host })
        }
        Some(Op::Passthrough(op)) => KilnOp::Passthrough(PassthroughOp { op, inputs }),
        None => return Err(LoadError::Unsupported(format!("vertex {} of an unknown kind", vertex.digest))),
    };
    let metadata = &vertex.metadata;
    Ok(Vertex {
        digest: vertex.digest.clone(),
        name,
        inputs: vertex.inputs.iter().map(|edge| Edge::new(edge.vertex.clone(), edge.output)).collect(),
        op: Arc::new(op),
        options: VertexOptions {
            ignore_cache: metadata.ignore_cache,
            meaning,
            export_cache: metadata.export_cache.map(|e| e.value),
            progress_group: metadata.progress_group.as_deref().cloned(),
            description: metadata.description.to_texts(),
        },
    })
}

fn check(op: &pb::ExecOp, name: &str, allowed: &Entitlements) -> Result<(), LoadError> {
    let wanted = [
        (op.network() == pb::NetMode::Host, Entitlement::NetworkHost),
        (op.security() == pb::SecurityMode::Insecure, Entitlement::SecurityInsecure),
    ];
    for (wants, entitlement) in wanted {
        if wants && !allowed.allow(entitlement) {
            return Err(LoadError::NotAllowed { name: name.to_owned(), entitlement });
        }
    }
    Ok(())
}
