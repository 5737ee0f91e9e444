//! A build: what is asked of the daemon, what it is given on the way, and what comes of it.
//!
//! ```text
//!   Control.Solve ────────────────────────────────▶ answer      ┐ all at once; whichever
//!   Control.Status ──▶ events … end                             │ comes first, the daemon
//!   Control.Session ═══ services                                ┘ waits for the others
//! ```
//! A sub-request is different: its answer is a result's metadata, which only the gateway gives. Then Solve names no frontend, and
//! `LLBBridge.Solve` and `Return` on the same connection take its place.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use kiln_oci::{Descriptor, Digest};
use kiln_proto::{
    control::{
        CacheOptions, CacheOptionsEntry, Exporter, SolveRequest, SolveResponse, StatusRequest,
        StatusResponse, control_client::ControlClient,
    },
    gateway::{self, llb_bridge_client::LlbBridgeClient},
    limits::Limited as _,
    pb,
    sourcepolicy::Policy,
};
use kiln_session::{client::ClientSession, headers};
use tonic::{Request, metadata::AsciiMetadataValue, transport::Channel};

use crate::{
    Error,
    options::{Attrs, CacheEntry, Destination, Output},
    progress::{
        Events,
        time::{nanos, timestamp},
    },
    services::{Content, Files, Layout, Name, Results, Target},
};

/// After the build has ended, its events end too, unless nothing comes for so long.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// What happens when a build is asked for, in the words of its errors.
const DOING: &str = "failed to solve";

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// The client's name for it; random if empty.
    pub reference: String,
    /// Which frontend; none with a definition.
    pub frontend: String,
    /// What the frontend is told.
    pub attrs: Attrs,
    /// LLB, if no frontend makes it.
    pub definition: Option<pb::Definition>,
    /// Folders by name.
    pub folders: BTreeMap<String, PathBuf>,
    /// OCI layouts by id.
    pub layouts: BTreeMap<String, PathBuf>,
    /// What to make of the result.
    pub outputs: Vec<Output>,
    /// Where cached results go.
    pub cache_to: Vec<CacheEntry>,
    /// Where cached results come from.
    pub cache_from: Vec<CacheEntry>,
    /// What the build may do that builds may not.
    pub entitlements: Vec<String>,
    /// Rules for its sources.
    pub source_policy: Option<Policy>,
    /// Steps reach the network by the daemon's proxy only.
    pub proxy_network: bool,
    /// Names this host's project, so that trees of its folders are found again: [`shared_key`].
    pub shared_key: String,
}

/// What came of a build.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the exporters answered.
    pub response: BTreeMap<String, String>,
    /// The answer of a sub-request: a result's metadata.
    pub answer: Option<BTreeMap<String, Bytes>>,
}

/// A build whose outputs are open and whose session is complete.
pub struct Prepared {
    build: Build,
    session: ClientSession,
    cache: CacheOptions,
    /// Caches that get an index when the build is done: folder and tag.
    cache_layouts: Vec<(Layout, String)>,
    /// Results that get an index when the build is done.
    result_layouts: Vec<Layout>,
}

impl Prepared {
    /// Opens files for outputs, makes folders for layouts, and gives the session what the build needs of them.
    /// `add` gives the session what else there is: credentials, secrets, agents.
    ///
    /// # Errors
    /// If a file or folder cannot be made or read.
    pub fn new(mut build: Build, add: impl FnOnce(ClientSession) -> ClientSession) -> Result<Self, Error> {
        if build.reference.is_empty() {
            build.reference = kiln_session::random_id();
        }
        let mut session = add(ClientSession::new(build.shared_key.clone()));
        if !build.folders.is_empty() {
            check_folders(&build.folders)?;
            session = session.with(Files::new(build.folders.clone()));
        }
        let mut stores: BTreeMap<String, Layout> =
            build.layouts.iter().map(|(id, path)| (format!("oci:{id}"), Layout::new(path))).collect();
        let (cache, cache_layouts) = prepare_caches(&build, &mut stores)?;
        let (targets, result_layouts) = prepare_outputs(&build.outputs, &mut stores)?;
        if !stores.is_empty() {
            session = session.with(Content::new(stores));
        }
        if !targets.is_empty() {
            session = session.with(Results::new(targets));
        }
        Ok(Self { build, session, cache, cache_layouts, result_layouts })
    }

    /// The build's name.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.build.reference
    }

    /// Builds. When `cancel` completes, the daemon is told to stop; what it still says is shown for a moment.
    ///
    /// # Errors
    /// The daemon's, with its details; [`Error::Canceled`]; and what goes wrong with the results here.
    pub async fn run(
        self,
        channel: Channel,
        events: Events,
        cancel: impl Future<Output = ()>,
    ) -> Result<Outcome, Error> {
        let Self { build, session, cache, cache_layouts, result_layouts } = self;
        let request = request(&build, cache, session.id());
        let mut status = tokio::spawn(follow(channel.clone(), build.reference.clone(), events));
        let session = tokio::spawn(session.run(channel.clone()));
        let result = tokio::select! {
            result = solve(channel, &build, request) => result,
            () = cancel => Err(Error::Canceled(DOING)),
        };
        if tokio::time::timeout(STATUS_PATIENCE, &mut status).await.is_err() {
            status.abort();
        }
        session.abort();
        let outcome = result?;
        write_indexes(&outcome.response, &cache_layouts, &result_layouts)?;
        Ok(outcome)
    }
}

/// What a project is known by to the daemon, whatever its folders are called: the place of its main folder.
#[must_use]
pub fn shared_key(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let base = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let place = Digest::sha256(absolute.as_os_str().as_encoded_bytes());
    format!("{}:{}", base.replace(|c: char| !c.is_ascii_graphic(), "_"), place.hex())
}

/// A folder that is not there is found before the daemon asks for it.
fn check_folders(folders: &BTreeMap<String, PathBuf>) -> Result<(), Error> {
    for (name, path) in folders {
        let metadata = std::fs::metadata(path)
            .map_err(Error::io(format!("invalid local {name}: {}", path.display())))?;
        if !metadata.is_dir() {
            return Err(Error::Usage(format!("invalid local {name}: {} is not a directory", path.display())));
        }
    }
    Ok(())
}

type Targets = BTreeMap<usize, Target>;

fn prepare_outputs(
    outputs: &[Output],
    stores: &mut BTreeMap<String, Layout>,
) -> Result<(Targets, Vec<Layout>), Error> {
    let mut targets = BTreeMap::new();
    let mut layouts = Vec::new();
    for (index, output) in outputs.iter().enumerate() {
        match &output.destination {
            Destination::None => {}
            Destination::Stdout => drop(targets.insert(index, Target::Stdout)),
            Destination::Program(words) => drop(targets.insert(index, Target::Program(words.clone()))),
            Destination::File(path) => {
                if path.is_dir() {
                    return Err(Error::Usage(format!("destination file {} is a directory", path.display())));
                }
                let file = File::create(path).map_err(Error::io(format!("creating {}", path.display())))?;
                targets.insert(index, Target::File(file));
            }
            Destination::Dir(path) => {
                let delete = match output.attrs.get("mode").map(String::as_str) {
                    None | Some("" | "copy") => false,
                    Some("delete") => true,
                    Some(mode) => return Err(Error::Usage(format!("invalid local exporter mode {mode:?}"))),
                };
                targets.insert(index, Target::Dir { path: path.clone(), delete });
            }
            Destination::Layout(path) => {
                make_dir(path)?;
                if stores.insert("export".into(), Layout::new(path)).is_some() {
                    return Err(Error::Unsupported("more than one OCI layout as output".into()));
                }
                layouts.push(Layout::new(path));
            }
        }
    }
    Ok((targets, layouts))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(Error::io(format!("making {}", path.display())))
}

type Caches = (CacheOptions, Vec<(Layout, String)>);

fn prepare_caches(build: &Build, stores: &mut BTreeMap<String, Layout>) -> Result<Caches, Error> {
    let mut layouts = Vec::new();
    let mut options = CacheOptions::default();
    let needs = |entry: &CacheEntry, what: &str, key: &str| match entry.attrs.get(key) {
        Some(value) if !value.is_empty() => Ok(value.clone()),
        _ => Err(Error::Usage(format!("{} cache {what} requires {key}", entry.kind))),
    };
    let wire =
        |entry: &CacheEntry| CacheOptionsEntry { r#type: entry.kind.clone(), attrs: entry.attrs.clone() };
    let tag_of = |entry: &CacheEntry| entry.attrs.get("tag").cloned().unwrap_or_else(|| "latest".into());
    for entry in &build.cache_to {
        match entry.kind.as_str() {
            "local" => {
                let path = needs(entry, "exporter", "dest")?;
                if entry.attrs.get("reset").is_some_and(|v| crate::options::parse_bool(v) != Some(false)) {
                    return Err(Error::Unsupported("reset=true of a local cache".into()));
                }
                make_dir(path.as_ref())?;
                stores.insert(format!("local:{path}"), Layout::new(&path));
                layouts.push((Layout::new(path), tag_of(entry)));
            }
            "registry" => drop(needs(entry, "exporter", "ref")?),
            _ => {}
        }
        options.exports.push(wire(entry));
    }
    for entry in &build.cache_from {
        let mut entry = entry.clone();
        match entry.kind.as_str() {
            "local" => {
                let path = needs(&entry, "importer", "src")?;
                let layout = Layout::new(&path);
                if !entry.attrs.contains_key("digest") {
                    // A cache that is not there yet is one that has nothing.
                    let Ok(Some(found)) = layout.find(&tag_of(&entry)) else { continue };
                    entry.attrs.insert("digest".into(), found.digest.to_string());
                }
                stores.insert(format!("local:{path}"), layout);
            }
            "registry" => drop(needs(&entry, "importer", "ref")?),
            _ => {}
        }
        options.imports.push(wire(&entry));
    }
    Ok((options, layouts))
}

fn request(build: &Build, cache: CacheOptions, session: &str) -> SolveRequest {
    let exporter = |output: &Output| Exporter { r#type: output.kind.clone(), attrs: output.attrs.clone() };
    let exporters: Vec<_> = build.outputs.iter().map(exporter).collect();
    // Older daemons know one exporter only.
    let first = exporters.first().cloned().unwrap_or_default();
    let mut attrs = build.attrs.clone();
    if !cache.imports.is_empty() {
        attrs.insert("cache-imports".into(), imports_json(&cache));
    }
    SolveRequest {
        r#ref: build.reference.clone(),
        session: session.to_owned(),
        frontend: build.frontend.clone(),
        frontend_attrs: attrs,
        definition: build.definition.clone(),
        exporters,
        exporter_deprecated: first.r#type,
        exporter_attrs_deprecated: first.attrs,
        cache: Some(cache),
        entitlements: build.entitlements.clone(),
        source_policy: build.source_policy.clone(),
        proxy_network: build.proxy_network,
        ..SolveRequest::default()
    }
}

/// Where a frontend that runs in a container reads of caches.
fn imports_json(cache: &CacheOptions) -> String {
    let entry = |entry: &CacheOptionsEntry| serde_json::json!({ "Type": entry.r#type, "Attrs": entry.attrs });
    serde_json::Value::from(cache.imports.iter().map(entry).collect::<Vec<_>>()).to_string()
}

async fn solve(channel: Channel, build: &Build, mut request: SolveRequest) -> Result<Outcome, Error> {
    let mut control = ControlClient::new(channel.clone()).limited();
    let done = |response: tonic::Response<SolveResponse>, answer| Outcome {
        response: response.into_inner().exporter_response,
        answer,
    };
    if !build.attrs.contains_key("requestid") {
        return control
            .solve(request)
            .await
            .map(|response| done(response, None))
            .map_err(Error::daemon(DOING));
    }
    let imports = request.cache.as_ref().map(|cache| cache.imports.clone()).unwrap_or_default();
    request.frontend = String::new();
    request.definition = None;
    let gateway = ask(channel, build, imports);
    let solve = async { control.solve(request).await.map_err(Error::daemon(DOING)) };
    // Both fail with the same error; that of the sub-request comes first.
    let (answer, response) = tokio::try_join!(gateway, solve)?;
    Ok(done(response, Some(answer)))
}

/// Drives the gateway on the control connection: one solve, whose result is the build's.
async fn ask(
    channel: Channel,
    build: &Build,
    imports: Vec<CacheOptionsEntry>,
) -> Result<BTreeMap<String, Bytes>, Error> {
    let mut bridge = LlbBridgeClient::new(channel).limited();
    let mut frontend_opt = build.attrs.clone();
    frontend_opt.entry("frontend.caps".into()).or_insert_with(|| "moby.buildkit.frontend.subrequests".into());
    let import = |e: CacheOptionsEntry| gateway::CacheOptionsEntry { r#type: e.r#type, attrs: e.attrs };
    let request = gateway::SolveRequest {
        frontend: build.frontend.clone(),
        frontend_opt,
        definition: build.definition.clone(),
        cache_imports: imports.into_iter().map(import).collect(),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..gateway::SolveRequest::default()
    };
    let (returned, answer) = match bridge.solve(of_build(request, build)?).await {
        Ok(response) => {
            let result = response.into_inner().result.unwrap_or_default();
            let metadata = result.metadata.clone();
            (gateway::ReturnRequest { result: Some(result), error: None }, Ok(metadata))
        }
        Err(status) => {
            let error = kiln_proto::status::WireError::from(&status).to_rpc();
            (gateway::ReturnRequest { result: None, error: Some(error) }, Err(Error::daemon(DOING)(status)))
        }
    };
    let told = bridge.r#return(of_build(returned, build)?).await;
    let answer = answer?;
    told.map(|_| answer).map_err(Error::daemon(DOING))
}

/// A call of the gateway that belongs to this build.
fn of_build<T>(message: T, build: &Build) -> Result<Request<T>, Error> {
    let mut request = Request::new(message);
    let id: AsciiMetadataValue = build.reference.parse().map_err(|_| {
        Error::Usage(format!("a build cannot be named {:?}: it is not ASCII", build.reference))
    })?;
    request.metadata_mut().insert(headers::BUILD_ID, id);
    Ok(request)
}

/// Follows the build's events until they end.
async fn follow(channel: Channel, reference: String, events: Events) -> Result<(), Error> {
    let failed = Error::daemon("failed to get status");
    let mut clock = Clock::new();
    let request = StatusRequest { r#ref: reference };
    let mut stream =
        ControlClient::new(channel).limited().status(request).await.map_err(&failed)?.into_inner();
    while let Some(mut event) = stream.message().await.map_err(&failed)? {
        clock.adjust(&mut event);
        events.send(event);
    }
    Ok(())
}

/// Moves the daemon's times so that the first step begins now by our clock.
pub struct Clock {
    begun: i64,
    offset: Option<i64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { begun: nanos(&SystemTime::now().into()), offset: None }
    }

    /// Moves all times of an event.
    pub fn adjust(&mut self, event: &mut StatusResponse) {
        if self.offset.is_none() {
            let started = event.vertexes.iter().filter_map(|v| v.started.as_ref()).next_back();
            self.offset = started.map(|started| nanos(started) - self.begun);
        }
        let Some(offset) = self.offset else { return };
        let shift = |time: &mut Option<prost_types::Timestamp>| {
            if let Some(time) = time {
                *time = timestamp(nanos(time).saturating_sub(offset));
            }
        };
        for vertex in &mut event.vertexes {
            shift(&mut vertex.started);
            shift(&mut vertex.completed);
        }
        for status in &mut event.statuses {
            shift(&mut status.started);
            shift(&mut status.completed);
            shift(&mut status.timestamp);
        }
        for log in &mut event.logs {
            shift(&mut log.timestamp);
        }
    }
}

/// The daemon has written the blobs; what they are called is for the client to write.
fn write_indexes(
    response: &BTreeMap<String, String>,
    caches: &[(Layout, String)],
    results: &[Layout],
) -> Result<(), Error> {
    let bad = |what: &str| Error::io(format!("the daemon's {what}"));
    if let Some(json) = response.get("cache.manifest").filter(|json| !json.is_empty()) {
        let descriptor: Descriptor =
            serde_json::from_str(json).map_err(|error| bad("cache.manifest")(error.into()))?;
        for (layout, tag) in caches {
            layout.put(&descriptor, &[Name::Tag(tag.clone())])?;
        }
    }
    let Some(text) = response.get("containerimage.descriptor").filter(|_| !results.is_empty()) else {
        return Ok(());
    };
    let data = BASE64
        .decode(text)
        .map_err(|error| bad("containerimage.descriptor")(std::io::Error::other(error)))?;
    let descriptor: Descriptor =
        serde_json::from_slice(&data).map_err(|error| bad("containerimage.descriptor")(error.into()))?;
    let names = match response.get("image.name") {
        Some(names) => names.split(',').map(|name| Name::Image(name.to_owned())).collect(),
        None => vec![Name::Tag("latest".into())],
    };
    results.iter().try_for_each(|layout| layout.put(&descriptor, &names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_told_apart_by_their_place() {
        let here = shared_key(Path::new("/src/a b/ü"));
        assert_eq!(here.split_once(':').unwrap().0, "_");
        assert!(here.is_ascii() && !here.contains(' '));
        assert_ne!(here, shared_key(Path::new("/src/other/ü")));
        assert_eq!(shared_key(Path::new("x")), shared_key(&std::env::current_dir().unwrap().join("x")));
    }
}
