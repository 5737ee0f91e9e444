//! `kiln build`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use kiln_client::{
    Error,
    build::{Build as Request, Outcome, Prepared},
    metadata::write_metadata_file,
    options::{parse_allow, parse_cache_export, parse_cache_import, parse_opts, parse_pairs},
    progress::{Display, Extras, Mode, Style, To},
    services::{Auth, Secrets, Uploads},
};
use kiln_session::client::ClientSession;

use super::{
    context::{Temporary, add_context, add_named_context},
    daemon::Daemon,
    output::{Flags, outputs},
    value::{bytes, extra_host},
};
use crate::{args, buildctl::build as shared, local::Connection, runtime};

/// Names a file with a source policy, as for `docker buildx`.
const SOURCE_POLICY: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";

/// Build an image from a Dockerfile.
#[derive(Args)]
pub(crate) struct Build {
    /// Files of the build: a folder, a URL of a git repository or archive, or - for standard input.
    #[arg(value_name = "PATH|URL|-")]
    context: String,
    /// Image identifier (format: [registry/]repository[:tag]).
    #[arg(short, long)]
    tag: Vec<String>,
    /// Name of the Dockerfile (default: PATH/Dockerfile); - for standard input.
    #[arg(short, long)]
    file: Option<String>,
    /// Set the target build stage to build.
    #[arg(long)]
    target: Option<String>,
    /// Set build-time variables; one without a value has that of the environment.
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Additional build contexts (e.g., name=path).
    #[arg(long, value_name = "NAME=VALUE")]
    build_context: Vec<String>,
    /// Set target platforms for build.
    #[arg(long, value_delimiter = ',')]
    platform: Vec<String>,
    /// Secret to expose to the build (format: id=mysecret[,src=/local/secret]).
    #[arg(long)]
    secret: Vec<String>,
    /// SSH agent socket or keys to expose to the build (format: default|<id>[=<socket>|<key>[,<key>]]).
    #[arg(long)]
    ssh: Vec<String>,
    /// Do not use cache when building the image.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    no_cache: bool,
    /// Do not cache specified stages.
    #[arg(long, value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Always attempt to pull all referenced images.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    pull: bool,
    /// Shorthand for --output=type=registry.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    push: bool,
    /// Shorthand for --output=type=docker, which is handed to `docker load`.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    load: bool,
    /// Output destination (format: type=local,dest=path); a folder alone means type=local.
    #[arg(short, long)]
    output: Vec<String>,
    /// Set type of progress output (auto, plain, tty, rawjson, quiet) [$BUILDKIT_PROGRESS].
    #[arg(long, default_value = "auto")]
    progress: String,
    /// Suppress the build output and print image ID on success.
    #[arg(short, long)]
    quiet: bool,
    /// Write build result metadata to a file.
    #[arg(long)]
    metadata_file: Option<PathBuf>,
    /// Write the image ID to a file.
    #[arg(long)]
    iidfile: Option<PathBuf>,
    /// Set metadata for an image.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Add annotation to the image.
    #[arg(long, value_name = "[LEVEL:]KEY=VALUE")]
    annotation: Vec<String>,
    /// Add a custom host-to-IP mapping (format: host:ip).
    #[arg(long, value_parser = extra_host)]
    add_host: Vec<String>,
    /// Set the networking mode for the RUN instructions during build (default, host, none).
    #[arg(long, value_parser = ["default", "host", "none"], default_value = "default")]
    network: String,
    /// Allow extra privileged entitlement (e.g., network.host, security.insecure, device).
    #[arg(long)]
    allow: Vec<String>,
    /// External cache sources (e.g., user/app:cache, type=local,src=path/to/dir).
    #[arg(long)]
    cache_from: Vec<String>,
    /// Cache export destinations (e.g., user/app:cache, type=local,dest=path/to/dir).
    #[arg(long)]
    cache_to: Vec<String>,
    /// Attestation parameters (format: type=sbom,generator=image).
    #[arg(long)]
    attest: Vec<String>,
    /// Shorthand for --attest=type=provenance.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// Shorthand for --attest=type=sbom.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// Shared memory size for build containers.
    #[arg(long, value_parser = bytes)]
    shm_size: Option<i64>,
    /// Ulimit options (format: name=soft[:hard]).
    #[arg(long)]
    ulimit: Vec<String>,
    /// Set the parent cgroup for the RUN instructions during build.
    #[arg(long)]
    cgroup_parent: Option<String>,
    /// Set method for evaluating build (build, check, outline, targets).
    #[arg(long, default_value = "build")]
    call: String,
    /// Shorthand for --call=check.
    #[arg(long)]
    check: bool,
}

impl Build {
    pub(crate) async fn run(self, daemon: &Daemon) -> Result<(), Error> {
        let mode = if self.quiet { Mode::Quiet } else { shared::progress_mode(&self.progress)? };
        let (uploads, mut temporary) = (Uploads::new(), Temporary::default());
        let request = self.request(&uploads, &mut temporary)?;
        let idle =
            request.outputs.is_empty() && !request.attrs.contains_key("requestid") && self.output.is_empty();
        let connection = daemon.connect().await?;
        let result = self.build(request, &connection, mode, &uploads).await;
        connection.close().await;
        self.conclude(&result?)?;
        if idle && !self.quiet {
            eprintln!(
                "The result stays in the build cache, as no output was named (-t, -o, --push or --load)."
            );
        }
        Ok(())
    }

    /// Builds, and shows it.
    async fn build(
        &self,
        request: Request,
        connection: &Connection,
        mode: Mode,
        uploads: &Uploads,
    ) -> Result<Outcome, Error> {
        let (secrets, agents) = (shared::secrets(&self.secret)?, shared::agents(&self.ssh)?);
        let config = shared::docker_config()?;
        let (display, events) =
            Display::start(To::Stderr, mode, Style::from_env(&args::env), Extras::default())?;
        let auth = Auth::new(config, Default::default(), events.clone(), shared::no_client_tokens());
        let add = |session: ClientSession| {
            let mut session = session.with(auth).with(uploads.service());
            if let Some(agents) = agents {
                session = session.with(agents);
            }
            if !secrets.is_empty() {
                session = session.with(Secrets::new(secrets));
            }
            session
        };
        let result = match Prepared::new(request, add) {
            Ok(build) => build.run(connection.channel(), events, runtime::interrupted()).await,
            Err(error) => {
                drop(events);
                Err(error)
            }
        };
        // Progress that cannot be shown is no reason to lose the result.
        drop(display.finish());
        result
    }

    /// Writes down what came of the build.
    fn conclude(&self, outcome: &Outcome) -> Result<(), Error> {
        let response = &outcome.response;
        if let Some(path) = self.metadata_file.as_deref().filter(|_| !response.is_empty()) {
            write_metadata_file(path, response)?;
        }
        let id =
            response.get("containerimage.config.digest").or_else(|| response.get("containerimage.digest"));
        if let (Some(path), Some(id)) = (&self.iidfile, id) {
            kiln_client::fs::write_atomic(path, id.as_bytes())?;
        }
        if let (true, Some(id)) = (self.quiet, id) {
            crate::buildctl::print(|out| writeln!(out, "{id}"))?;
        }
        let Some(answer) = &outcome.answer else { return Ok(()) };
        let text = answer.get("result.txt").or_else(|| answer.get("result.json"));
        if let Some(text) = text {
            crate::buildctl::print(|out| out.write_all(text))?;
        }
        match answer.get("result.statuscode") {
            Some(code) if &code[..] != b"0" => Err(Error::Usage("the check found problems".into())),
            _ => Ok(()),
        }
    }

    fn request(&self, uploads: &Uploads, temporary: &mut Temporary) -> Result<Request, Error> {
        let flags = Flags {
            outputs: &self.output,
            tags: &self.tag,
            push: self.push,
            load: self.load,
            annotations: &self.annotation,
        };
        let mut request =
            Request { frontend: "dockerfile.v0".into(), attrs: self.attrs()?, ..Request::default() };
        if !request.attrs.contains_key("requestid") {
            request.outputs = outputs(&flags)?;
        }
        request.cache_to =
            self.cache_to.iter().map(|t| parse_cache_export(t, &args::env)).collect::<Result<_, _>>()?;
        request.cache_from =
            self.cache_from.iter().map(|t| parse_cache_import(t, &args::env)).collect::<Result<_, _>>()?;
        request.entitlements = self.allow.iter().map(|t| parse_allow(t)).collect::<Result<_, _>>()?;
        if self.network == "host" && !request.entitlements.iter().any(|e| e == "network.host") {
            request.entitlements.push("network.host".into());
        }
        request.source_policy = match args::env(SOURCE_POLICY) {
            Some(path) if !path.is_empty() => Some(shared::read_policy(Path::new(&path))?),
            _ => None,
        };
        for context in &self.build_context {
            add_named_context(&mut request, context)?;
        }
        let file = self.file.as_deref();
        add_context(&mut request, &self.context, file, uploads, temporary)?;
        if let Some(path) = file.filter(|f| *f != "-" && request.folders.contains_key("context"))
            && !Path::new(path).is_file()
        {
            return Err(Error::Usage(format!("failed to read Dockerfile: {path} is not there")));
        }
        Ok(request)
    }

    /// What the frontend is told.
    fn attrs(&self) -> Result<kiln_client::options::Attrs, Error> {
        let args: Vec<_> = self.build_arg.iter().map(|arg| format!("build-arg:{arg}")).collect();
        let mut attrs = parse_opts(&args, &args::env)?;
        let mut set = |key: &str, value: Option<String>| {
            attrs.extend(value.map(|value| (key.to_owned(), value)));
        };
        let list = |texts: &[String]| (!texts.is_empty()).then(|| texts.join(","));
        set("target", self.target.clone());
        set("platform", list(&self.platform));
        set("no-cache", list(&self.no_cache_filter));
        set("no-cache", self.no_cache.then(String::new));
        set("image-resolve-mode", self.pull.then(|| "pull".into()));
        set("add-hosts", list(&self.add_host));
        set("force-network-mode", (self.network != "default").then(|| self.network.clone()));
        set("shm-size", self.shm_size.map(|size| size.to_string()));
        set("ulimit", list(&self.ulimit));
        set("cgroup-parent", self.cgroup_parent.clone());
        set("requestid", self.request_id()?);
        for (key, value) in parse_pairs(&self.label)? {
            set(&format!("label:{key}"), Some(value));
        }
        for (kind, value) in self.attestations()? {
            set(&format!("attest:{kind}"), Some(value));
        }
        Ok(attrs)
    }

    /// The sub-request that takes the place of a build.
    fn request_id(&self) -> Result<Option<String>, Error> {
        Ok(match if self.check { "check" } else { self.call.as_str() } {
            "build" => None,
            "check" | "lint" => Some("frontend.lint".into()),
            name @ ("outline" | "targets") => Some(format!("frontend.{name}")),
            "subrequests.describe" => Some("frontend.subrequests.describe".into()),
            other => return Err(Error::Usage(format!("unknown --call {other}"))),
        })
    }

    /// Attestations by kind. The least provenance is asked for unless somebody says otherwise.
    fn attestations(&self) -> Result<Vec<(String, String)>, Error> {
        let mut all: Vec<(String, String)> = Vec::new();
        if args::env("BUILDX_NO_DEFAULT_ATTESTATIONS").and_then(|v| args::switch(&v).ok()) != Some(true) {
            all.push(("provenance".into(), "mode=min,inline-only=true".into()));
        }
        let mut set = |kind: &str, value: Option<String>| {
            all.retain(|(known, _)| known != kind);
            all.extend(value.map(|value| (kind.to_owned(), value)));
        };
        for text in &self.attest {
            let rest = text.split(',').filter(|f| !f.starts_with("type=") && *f != "disabled=false");
            let kind = text.split(',').find_map(|field| field.strip_prefix("type="));
            let kind =
                kind.ok_or_else(|| Error::Usage(format!("invalid attestation {text:?}: it has no type=")))?;
            let value = rest.collect::<Vec<_>>().join(",");
            set(kind, (!value.contains("disabled=true")).then_some(value));
        }
        for (kind, flag) in [("provenance", &self.provenance), ("sbom", &self.sbom)] {
            match flag.as_deref().map(|text| (args::switch(text), text)) {
                None => {}
                Some((Ok(true), _)) => set(kind, Some(String::new())),
                Some((Ok(false), _)) => set(kind, None),
                Some((Err(_), text)) => set(kind, Some(text.to_owned())),
            }
        }
        Ok(all)
    }
}
