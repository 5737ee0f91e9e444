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
mod chmod;
mod context;
mod copy;
mod dispatch;
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

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_llb::build::{Deferred, Marshal, State};
use kiln_oci::{Platform, Time};
use kiln_proto::pb;

use crate::lint::Linter;
use crate::shell::Lexer;
use crate::subrequest::Outline;

pub use context::{CONTEXT_NAME, DOCKERFILE_NAME, Source};
pub use failure::Failure;
pub use git_ref::{GitRef, GitRefError};
pub use options::{CacheImport, Environment, NoCache, Options};
pub use platform::export_platform;
pub use resolver::{BoxError, ImageRequest, OciStore, ResolvedImage, Resolver, SourceTime};
pub use result::Converted;

use args::Env;
use ignore::Ignore;
use platform::Platforms;
use stage::Stages;

/// Converts the target for one platform; `None` is the platform of the build, to be taken from the base image where
/// that says something else.
///
/// # Errors
/// What is wrong in the Dockerfile, with its place; what the resolver could not find.
pub async fn convert<R: Resolver>(
    source: &Source,
    options: &Options,
    platform: Option<&Platform>,
    resolver: &R,
) -> Result<Converted, Failure> {
    let mut converter = Converter::new(source, options, platform, resolver, false).await?;
    let target = converter.run().await?;
    converter.finish(target).await
}

/// Warnings of all stages (or those that the target needs, if one is named), and the error that ended the check.
pub async fn lint<R: Resolver>(
    source: &Source,
    options: &Options,
    resolver: &R,
) -> (Vec<crate::lint::Warning>, Option<Failure>) {
    let all_stages = options.target.is_empty();
    let mut converter = match Converter::new(source, options, None, resolver, all_stages).await {
        Ok(converter) => converter,
        Err(failure) => return (parse_warnings(source, options), Some(failure)),
    };
    let failure = match converter.run().await {
        Ok(_) => converter.linter.error().err().map(Failure::from),
        Err(failure) => Some(failure),
    };
    (converter.linter.into_warnings(), failure)
}

/// What the linter finds in a file that does not parse.
fn parse_warnings(source: &Source, options: &Options) -> Vec<crate::lint::Warning> {
    let Ok(mut linter) = Linter::for_file(&source.text, options.check.as_deref()) else { return Vec::new() };
    drop(crate::parse_linted(&source.text, &mut linter));
    linter.into_warnings()
}

/// What the target can be given from outside.
///
/// # Errors
/// As [`convert`].
pub async fn outline<R: Resolver>(
    source: &Source,
    options: &Options,
    resolver: &R,
) -> Result<Outline, Failure> {
    let mut converter = Converter::new(source, options, None, resolver, false).await?;
    let target = converter.run().await?;
    Ok(converter.outline(target))
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
    globals: Env,
    global_info: BTreeMap<String, outline::ArgInfo>,
    epoch: Option<Time>,
    lexer: Lexer,
    linter: Linter,
    stages: Stages,
    ignore: Option<Arc<Ignore>>,
    /// The build context, known at the end.
    context: State,
    context_slot: Deferred,
    /// Named contexts that are folders of the client, likewise.
    pending: Vec<named::PendingLocal>,
    all_stages: bool,
}

impl<'a, R: Resolver> Converter<'a, R> {
    async fn new(
        source: &'a Source,
        options: &'a Options,
        platform: Option<&Platform>,
        resolver: &'a R,
        all_stages: bool,
    ) -> Result<Self, Failure> {
        let mut linter = Linter::for_file(&source.text, options.check.as_deref())?;
        let file = crate::parse_linted(&source.text, &mut linter)?;
        let platforms = Platforms::new(options, platform);
        let lexer = Lexer::new(file.directives.escape);
        let target = if options.target.is_empty() {
            file.stages.last().and_then(|s| s.name()).unwrap_or_default()
        } else {
            &options.target
        };
        let defaults = args::defaults(&platforms, &options.build_args, target);
        args::lint_default_bases(&file, &lexer, &defaults, &mut linter);
        let (globals, global_info) = args::globals(&file.global_args, &lexer, defaults, &options.build_args)?;
        let (context, context_slot) = State::deferred();
        let mut converter = Self {
            options,
            source,
            resolver,
            platforms,
            build_args: options.build_args.clone(),
            globals,
            global_info,
            epoch: None,
            lexer,
            linter,
            stages: Stages::default(),
            ignore: None,
            context,
            context_slot,
            pending: Vec::new(),
            all_stages,
        };
        converter.resolve_epoch(&file).await?;
        converter.add_stages(file.stages)?;
        Ok(converter)
    }

    /// Resolves and walks; the result is the target's index.
    async fn run(&mut self) -> Result<usize, Failure> {
        let target = self.stages.target(&self.options.target)?;
        self.stages.connect()?;
        self.resolve_stages(target).await?;
        self.dispatch_stages(target).await?;
        Ok(target)
    }

    fn marshal_options(&self) -> Marshal {
        Marshal {
            platform: self.platforms.target.clone(),
            unique_id: self.options.unique_id.clone(),
            caps: Some(self.options.caps.clone()),
        }
    }

    /// Where an instruction stands, for errors of the daemon.
    fn constraints(&self, span: crate::Span) -> kiln_llb::build::Constraints {
        kiln_llb::build::Constraints::new().location(&self.source.map, ranges(span))
    }
}

/// The lines of a span, each a range of its own, as clients expect them.
pub fn ranges(span: crate::Span) -> Vec<pb::Range> {
    span.lines()
        .map(|line| {
            let position = Some(pb::Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
            pb::Range { start: position, end: position }
        })
        .collect()
}

#[cfg(test)]
mod tests;
