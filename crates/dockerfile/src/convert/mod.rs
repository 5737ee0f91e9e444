//! From a Dockerfile to LLB and an image config.
//!
//! Nothing here does I/O: what must be known from outside (image configs, the Dockerfile itself, ignore files) is asked
//! through a [`Resolver`]. One build goes like this:
//!
//! ```text
//! Options::parse     frontend attributes (build-arg:…, target, platform, context:…) become types
//! Source::load       the Dockerfile, and what the build context is
//! convert            once per target platform: stages that the target needs are resolved side by side,
//!                    then walked in order; out come a definition and an image config
//! ```
//!
//! Definitions are equal to those of BuildKit's frontend, byte by byte: digests, and with them caches, are shared.

mod args;
mod build_args;
mod certain;
mod chmod;
mod context;
mod copy;
mod dispatch;
mod env;
mod epoch;
mod expose;
mod failure;
mod format;
mod git_ref;
mod ignore;
mod mounts;
mod named;
mod names;
mod onbuild;
mod options;
mod outline;
mod paths;
mod platform;
mod resolve;
mod resolver;
mod result;
mod run;
mod signal;
mod stage;
mod used_paths;

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_llb::build::{CopyOptions, Deferred, Env, Marshal, State};
use kiln_oci::{Platform, Time};
use kiln_proto::pb;

use crate::error::{Error, Errors};
use crate::lint::Linter;
use crate::shell::Lexer;
use crate::subrequest::Outline;
use crate::texts::Texts;

pub use context::{CONTEXT_NAME, DOCKERFILE_NAME, Source};
pub use failure::{Failed, Failure};
pub use git_ref::{GitRef, GitRefError};
pub use options::{CacheImport, Environment, NoCache, Options};
pub use platform::export_platform;
pub use resolver::{BoxError, ImageRequest, OciStore, Replaced, ResolvedImage, Resolver, SourceTime};
pub use result::Converted;

use ignore::Ignore;
use platform::Platforms;
use stage::Stages;

/// Converts the target for one platform; `None` is the platform of the build, to be taken from the base image where
/// that says something else.
///
/// # Errors
/// What is wrong in the Dockerfile, with its place; what the resolver could not find. What the linter found until then comes
/// along.
pub async fn convert<R: Resolver>(
    source: &Source,
    options: &Options,
    platform: Option<&Platform>,
    resolver: &R,
) -> Result<Converted, Failed> {
    let mut linter = Linter::default();
    let result = async {
        let mut converter =
            Converter::new(source, options, platform, resolver, &mut linter, Purpose::Build).await?;
        let target = converter.run().await?;
        converter.finish(target).await
    };
    let result = result.await;
    let warnings = linter.into_warnings();
    match result {
        Ok(converted) => Ok(Converted { warnings, ..converted }),
        Err(failure) => Err(Failed { failure, warnings }),
    }
}

/// Warnings of all stages (or those that the target needs, if one is named), and the error that ended the check.
pub async fn lint<R: Resolver>(
    source: &Source,
    options: &Options,
    resolver: &R,
) -> (Vec<crate::lint::Warning>, Option<Failure>) {
    let purpose = Purpose::Lint { all_stages: options.target.is_empty() };
    let mut linter = Linter::default();
    let result: Result<(), Failure> = async {
        let mut converter = Converter::new(source, options, None, resolver, &mut linter, purpose).await?;
        converter.run().await?;
        Ok(converter.linter.error()?)
    }
    .await;
    (linter.into_warnings(), result.err())
}

/// What the target can be given from outside, and what the linter found on the way.
///
/// # Errors
/// As [`convert`].
pub async fn outline<R: Resolver>(
    source: &Source,
    options: &Options,
    resolver: &R,
) -> Result<(Outline, Vec<crate::lint::Warning>), Failed> {
    let mut linter = Linter::default();
    let result: Result<Outline, Failure> = async {
        let mut converter =
            Converter::new(source, options, None, resolver, &mut linter, Purpose::Outline).await?;
        let target = converter.run().await?;
        Ok(converter.outline(target))
    }
    .await;
    let warnings = linter.into_warnings();
    match result {
        Ok(outline) => Ok((outline, warnings)),
        Err(failure) => Err(Failed { failure, warnings }),
    }
}

/// What a conversion is made for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Purpose {
    Build,
    Lint { all_stages: bool },
    Outline,
}

/// One conversion at work.
struct Converter<'a, R> {
    options: &'a Options,
    source: &'a Source,
    resolver: &'a R,
    platforms: Platforms,
    /// Build arguments; SOURCE_DATE_EPOCH is a number here.
    build_args: BTreeMap<String, String>,
    /// Variables of FROM.
    globals: Arc<Env>,
    global_info: Arc<BTreeMap<String, outline::ArgInfo>>,
    epoch: Option<Time>,
    /// Proxies that every RUN gets.
    proxy: Option<pb::ProxyEnv>,
    lexer: Lexer,
    linter: &'a mut Linter,
    /// What is wrong in the Dockerfile; the walk goes on, for more of it.
    errors: Vec<Error>,
    stages: Stages,
    /// Bytes of variables and history that the steps took so far.
    made: usize,
    ignore: Option<Arc<Ignore>>,
    /// What steps are called, and what else is made for each.
    texts: Texts,
    /// Of the last COPY or ADD.
    copy_options: Arc<CopyOptions>,
    /// The build context, known at the end.
    context: State,
    context_slot: Deferred,
    /// Named contexts that are folders of the client, likewise.
    pending: Vec<named::PendingLocal>,
    purpose: Purpose,
}

impl<'a, R: Resolver> Converter<'a, R> {
    async fn new(
        source: &'a Source,
        options: &'a Options,
        platform: Option<&Platform>,
        resolver: &'a R,
        linter: &'a mut Linter,
        purpose: Purpose,
    ) -> Result<Self, Failure> {
        *linter = Linter::for_file(&source.text, options.check.as_deref())?;
        let mut read = crate::document::parse_all(&source.text, linter);
        if !read.errors.is_empty() && read.stages_known {
            certain::add_errors(&read.dockerfile, options, &mut read.errors);
        }
        if let Some(errors) = Errors::from_vec(read.errors) {
            return Err(errors.into());
        }
        let file = read.dockerfile;
        let platforms = Platforms::new(options, platform);
        let lexer = Lexer::new(file.directives.escape);
        let target = if options.target.is_empty() {
            file.stages.last().and_then(|s| s.name()).unwrap_or_default()
        } else {
            &options.target
        };
        let defaults = args::defaults(&platforms, &options.build_args, target);
        let mut global_info = BTreeMap::new();
        let infos = (purpose == Purpose::Outline).then_some(&mut global_info);
        let globals = |env, given: &_, infos| args::globals(&file.global_args, &lexer, env, given, infos);
        let env = globals(defaults.clone(), &options.build_args, infos);
        let without_arguments = match options.build_args.is_empty() {
            true => None,
            false => Some(globals(defaults, &BTreeMap::new(), None)),
        };
        // What is wrong comes up again where it counts.
        if let Ok(env) = without_arguments.as_ref().unwrap_or(&env) {
            args::lint_default_bases(&file, &lexer, env, linter);
        }
        let globals = Arc::new(env?);
        let (context, context_slot) = State::deferred();
        let mut converter = Self {
            options,
            source,
            resolver,
            platforms,
            build_args: options.build_args.clone(),
            globals,
            global_info: Arc::new(global_info),
            epoch: None,
            proxy: run::proxy(&options.build_args),
            lexer,
            linter,
            errors: Vec::new(),
            stages: Stages::default(),
            made: 0,
            ignore: None,
            texts: Texts::default(),
            copy_options: Arc::default(),
            context,
            context_slot,
            pending: Vec::new(),
            purpose,
        };
        converter.stages.used_paths.has_sets = options.has_contexts();
        converter.resolve_epoch(&file).await?;
        converter.add_stages(file.stages, &file.global_args)?;
        Ok(converter)
    }

    /// Resolves and walks; the result is the target's index.
    async fn run(&mut self) -> Result<usize, Failure> {
        let target = self.stages.target(&self.options.target)?;
        self.stages.connect(&mut self.errors);
        self.check()?;
        self.resolve_stages(target).await?;
        self.dispatch_stages(target).await?;
        Ok(target)
    }

    /// Stages that the target does not need are looked at too.
    fn walks_all(&self) -> bool {
        self.purpose == Purpose::Lint { all_stages: true }
    }

    /// Notes an error in the Dockerfile. What the linter finds from here on does not count: it may come of the error.
    fn blame(&mut self, error: Error) {
        self.linter.silence();
        self.errors.push(error);
    }

    /// Ends the conversion if something is wrong.
    fn check(&mut self) -> Result<(), Failure> {
        match Errors::from_vec(std::mem::take(&mut self.errors)) {
            Some(errors) => Err(errors.into()),
            None => Ok(()),
        }
    }

    fn marshal_options(&self) -> Marshal {
        Marshal {
            platform: Platform::clone(&self.platforms.target),
            unique_id: self.options.unique_id.clone(),
            caps: Some(self.options.caps.clone()),
        }
    }

    /// Where an instruction stands, for errors of the daemon.
    fn constraints(&self, span: crate::Span) -> kiln_llb::build::Constraints {
        kiln_llb::build::Constraints::new().location(&self.source.map, span.lines())
    }
}

#[cfg(test)]
mod tests;
