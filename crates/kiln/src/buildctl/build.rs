//! `buildctl build`.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use kiln_client::{
    Error,
    build::{Build as Request, Outcome, Prepared, shared_key},
    metadata::write_metadata_file,
    metrics::Metrics,
    options::{
        Secret, parse_allow, parse_cache_export, parse_cache_import, parse_opts, parse_output, parse_pairs,
        parse_registry_tls, parse_secret, parse_source_policy, parse_ssh,
    },
    progress::{Display, Events, Extras, Mode, Style, To},
    services::{Agents, Auth, Secrets, auth::DockerConfig},
};
use kiln_oci::Digest;
use kiln_proto::pb;
use kiln_session::client::ClientSession;
use prost::Message as _;

use super::Global;
use crate::{args, runtime};

/// LLB on standard input is no larger, in bytes: the daemon takes no larger message.
const MAX_DEFINITION: u64 = 16 << 20;

/// Build.
///
/// To build and push an image from a Dockerfile:
///   buildctl build --frontend dockerfile.v0 --opt target=foo --opt build-arg:foo=bar --local context=. --local dockerfile=. --output type=image,name=docker.io/username/image,push=true
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Build {
    /// Define exports for build result, e.g. --output type=image,name=docker.io/username/image,push=true.
    #[arg(short, long)]
    output: Vec<String>,
    /// Set type of progress (auto, plain, tty, rawjson, quiet). Use plain to show container output [$BUILDKIT_PROGRESS].
    #[arg(long, default_value = "auto")]
    progress: String,
    /// Path to trace file. Defaults to no tracing.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Allow build access to the local directory.
    #[arg(long, value_name = "NAME=DIR")]
    local: Vec<String>,
    /// Allow build access to the local OCI layout.
    #[arg(long, value_name = "ID=DIR")]
    oci_layout: Vec<String>,
    /// Define frontend used for build.
    #[arg(long, default_value = "")]
    frontend: String,
    /// Define custom options for frontend, e.g. --opt target=foo --opt build-arg:foo=bar.
    #[arg(long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Disable cache for all the vertices.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    no_cache: bool,
    /// Export build cache, e.g. --export-cache type=registry,ref=example.com/foo/bar, or --export-cache type=local,dest=path/to/dir.
    #[arg(long)]
    export_cache: Vec<String>,
    /// Import build cache, e.g. --import-cache type=registry,ref=example.com/foo/bar, or --import-cache type=local,src=path/to/dir.
    #[arg(long)]
    import_cache: Vec<String>,
    /// Secret value exposed to the build. Format id=secretname,src=filepath.
    #[arg(long)]
    secret: Vec<String>,
    /// Allow extra privileged entitlement, e.g. network.host, security.insecure, device.
    #[arg(long)]
    allow: Vec<String>,
    /// Allow forwarding SSH agent to the builder. Format default|<id>[=<socket>|<key>[,<key>]].
    #[arg(long)]
    ssh: Vec<String>,
    /// Output build metadata (e.g., image digest) to a file as JSON.
    #[arg(long)]
    metadata_file: Option<PathBuf>,
    /// Read source policy file from a JSON file.
    #[arg(long)]
    source_policy_file: Option<PathBuf>,
    /// Give steps the network only through the daemon's proxy.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    proxy_network: bool,
    /// Write build ref to a file.
    #[arg(long)]
    ref_file: Option<PathBuf>,
    /// Overwrite TLS configuration when authenticating with registries, e.g. --registry-auth-tlscontext host=https://myserver:2376,insecure=false,ca=/path/to/my/ca.crt,cert=/path/to/my/cert.crt,key=/path/to/my/key.crt.
    #[arg(long)]
    registry_auth_tlscontext: Vec<String>,
    /// Where to output json cache metrics, use 'stdout' or 'stderr' for standard (error) output.
    #[arg(long)]
    debug_json_cache_metrics: Option<String>,
}

impl Build {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let begun = Instant::now();
        let mode = progress_mode(&self.progress)?;
        let trace = self.trace.as_deref().map(open_trace).transpose()?;
        let metrics = self.debug_json_cache_metrics.as_deref().map(MetricsTo::open).transpose()?;
        let request = self.request()?;
        let reference = request.reference.clone();
        let extras = Extras { trace, metrics: metrics.is_some() };
        let channel = global.connect().await?;
        let (display, events) = Display::start(To::Stderr, mode, Style::from_env(&args::env), extras)?;
        let result = self.build(request, channel, events).await;
        let finished = display.finish();
        if let Some(path) = &self.ref_file {
            kiln_client::fs::write_atomic(path, reference.as_bytes())?;
        }
        let outcome = result?;
        if let Some(path) = self.metadata_file.as_deref().filter(|_| !outcome.response.is_empty()) {
            write_metadata_file(path, &outcome.response)?;
        }
        print_answer(&outcome)?;
        match (metrics, finished.metrics) {
            (Some(to), Some(counted)) => to.write(&counted, begun),
            _ => Ok(()),
        }
    }

    async fn build(
        &self,
        request: Request,
        channel: tonic::transport::Channel,
        events: Events,
    ) -> Result<Outcome, Error> {
        let secrets = secrets(&self.secret)?;
        let agents = agents(&self.ssh)?;
        let tls = parse_registry_tls(&self.registry_auth_tlscontext)?;
        let auth = Auth::new(docker_config()?, tls, events.clone(), no_client_tokens());
        let add = |mut session: ClientSession| {
            session = session.with(auth);
            if let Some(agents) = agents {
                session = session.with(agents);
            }
            if !secrets.is_empty() {
                session = session.with(Secrets::new(secrets));
            }
            session
        };
        Prepared::new(request, add)?.run(channel, events, runtime::interrupted()).await
    }

    fn request(&self) -> Result<Request, Error> {
        let folders = |texts: &[String], what: &str| {
            let pairs =
                parse_pairs(texts).map_err(|error| Error::Usage(format!("invalid {what}: {error}")))?;
            Ok::<_, Error>(pairs.into_iter().map(|(name, dir)| (name, PathBuf::from(dir))).collect())
        };
        let mut attrs = parse_opts(&self.opt, &args::env)?;
        let mut definition = None;
        if self.frontend.is_empty() {
            definition = Some(read_definition(self.no_cache)?);
        } else if self.no_cache {
            attrs.insert("no-cache".into(), String::new());
        }
        let local: BTreeMap<String, PathBuf> = folders(&self.local, "local")?;
        let project = local.get("context").or_else(|| local.values().next());
        Ok(Request {
            shared_key: project.map(|folder| shared_key(folder)).unwrap_or_default(),
            reference: kiln_session::random_id(),
            frontend: self.frontend.clone(),
            attrs,
            definition,
            folders: local,
            layouts: folders(&self.oci_layout, "oci-layout")?,
            outputs: self.output.iter().map(|t| parse_output(t)).collect::<Result<_, _>>()?,
            cache_to: self
                .export_cache
                .iter()
                .map(|t| parse_cache_export(t, &args::env))
                .collect::<Result<_, _>>()?,
            cache_from: self
                .import_cache
                .iter()
                .map(|t| parse_cache_import(t, &args::env))
                .collect::<Result<_, _>>()?,
            entitlements: self.allow.iter().map(|t| parse_allow(t)).collect::<Result<_, _>>()?,
            source_policy: self.source_policy_file.as_deref().map(read_policy).transpose()?,
            proxy_network: self.proxy_network,
        })
    }
}

/// The mode that is meant: the environment decides where the flag leaves it open.
pub(crate) fn progress_mode(flag: &str) -> Result<Mode, Error> {
    match args::env("BUILDKIT_PROGRESS") {
        Some(mode) if flag == "auto" && !mode.is_empty() => mode.parse(),
        _ => flag.parse(),
    }
}

/// The secrets of flags.
pub(crate) fn secrets(texts: &[String]) -> Result<Vec<Secret>, Error> {
    texts.iter().map(|text| parse_secret(text, &args::env)).collect()
}

/// The agents of flags, if any.
pub(crate) fn agents(
    texts: &[String],
) -> Result<Option<kiln_proto::sshforward::ssh_server::SshServer<Agents>>, Error> {
    if texts.is_empty() {
        return Ok(None);
    }
    let configs = texts.iter().map(|text| parse_ssh(text)).collect::<Result<_, _>>()?;
    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
    Agents::new(configs, socket).map(Some)
}

/// Docker's configuration of this user.
pub(crate) fn docker_config() -> Result<DockerConfig, Error> {
    let dir = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || std::env::home_dir().unwrap_or_default().join(".docker");
    DockerConfig::load(&dir.unwrap_or_else(home)).map_err(Error::io("Docker's configuration"))
}

/// The user wants no tokens to be fetched by the client.
pub(crate) fn no_client_tokens() -> bool {
    args::env("BUILDKIT_NO_CLIENT_TOKEN").and_then(|v| args::switch(&v).ok()).unwrap_or(false)
}

/// A source policy in a file of JSON.
pub(crate) fn read_policy(path: &Path) -> Result<kiln_proto::sourcepolicy::Policy, Error> {
    let json = fs::read(path).map_err(Error::io(format!("reading {}", path.display())))?;
    parse_source_policy(&json)
}

fn open_trace(path: &Path) -> Result<File, Error> {
    let file = private().append(true).open(path).map_err(Error::io(format!("opening {}", path.display())))?;
    eprintln!("tracing logs to {}", path.display());
    Ok(file)
}

/// A file that others may not read is made if it is not there.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// LLB from standard input. With `no_cache` every step is told to ignore the cache.
fn read_definition(no_cache: bool) -> Result<pb::Definition, Error> {
    if io::stdin().is_terminal() {
        return Err(Error::Usage("please specify --frontend or pipe LLB definition to stdin".into()));
    }
    let mut data = Vec::new();
    io::stdin()
        .take(MAX_DEFINITION + 1)
        .read_to_end(&mut data)
        .map_err(Error::io("reading LLB from standard input"))?;
    if data.len() as u64 > MAX_DEFINITION {
        return Err(Error::Usage("the LLB on standard input is too large".into()));
    }
    let mut definition = pb::Definition::decode(data.as_slice())
        .map_err(|error| Error::Usage(format!("failed to parse input: {error}")))?;
    if definition.def.is_empty() {
        return Err(Error::Usage("empty definition sent to build. Specify --frontend instead?".into()));
    }
    if no_cache {
        for op in &definition.def {
            definition.metadata.get_or_insert_default(Digest::sha256(op).as_str()).ignore_cache = true;
        }
    }
    Ok(definition)
}

/// The answer to a sub-request: its text, or all of it.
fn print_answer(outcome: &Outcome) -> Result<(), Error> {
    let Some(answer) = &outcome.answer else { return Ok(()) };
    super::print(|out| {
        if let Some(text) = answer.get("result.txt") {
            return out.write_all(text);
        }
        for (key, value) in answer.iter().filter(|(key, _)| key.starts_with("result.")) {
            writeln!(out, "{key}")?;
            out.write_all(value)?;
            writeln!(out)?;
        }
        Ok(())
    })
}

/// Where cache metrics go.
enum MetricsTo {
    Stdout,
    Stderr,
    File(File),
}

impl MetricsTo {
    fn open(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            path => Self::File(
                private()
                    .write(true)
                    .truncate(true)
                    .open(path)
                    .map_err(Error::io(format!("opening {path}")))?,
            ),
        })
    }

    fn write(self, metrics: &Metrics, begun: Instant) -> Result<(), Error> {
        let taken = begun.elapsed();
        let result = match self {
            Self::Stdout => metrics.write(&mut io::stdout(), taken),
            Self::Stderr => metrics.write(&mut io::stderr(), taken),
            Self::File(mut file) => metrics.write(&mut file, taken),
        };
        result.map_err(Error::io("writing cache metrics"))
    }
}
