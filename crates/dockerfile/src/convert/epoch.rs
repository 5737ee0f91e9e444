//! SOURCE_DATE_EPOCH: the time of everything that a build makes.
//!
//! A number of seconds, or the name of something that has a time: `context`, a named context, or a stage that is
//! nothing but one ADD of something remote.

use std::sync::Arc;

use kiln_llb::Graph;
use kiln_llb::build::{Constraints, Env, HttpOptions, State, git, http};
use kiln_llb::source::FileMeta;
use kiln_oci::{Digest, Time};
use kiln_proto::pb;

use super::context::marshal_options;
use super::failure::refuse;
use super::git_ref::{GitRef, GitRefError, http_filename, is_http};
use super::ignore::Ignore;
use super::named;
use super::resolver::Resolver;
use super::{Converter, Failure};
use crate::ast::{self, Command, Dockerfile};
use crate::error::Error;
use crate::span::Span;
use crate::word::Word;

const NAME: &str = "SOURCE_DATE_EPOCH";

impl<R: Resolver> Converter<'_, R> {
    /// Finds out the time, and makes the build argument a number.
    pub(super) async fn resolve_epoch(&mut self, file: &Dockerfile) -> Result<(), Failure> {
        let given = self.build_args.get(NAME).cloned();
        let Some(value) =
            given.clone().or_else(|| self.globals.get(NAME).map(str::to_owned).filter(|v| !v.is_empty()))
        else {
            return Ok(());
        };
        self.epoch = self.time_of(&value, file).await?;
        let text = self.epoch.as_ref().map(|t| t.unix().to_string());
        if given.is_some() {
            match &text {
                Some(text) => self.build_args.insert(NAME.into(), text.clone()),
                None => self.build_args.remove(NAME),
            };
        }
        if self.globals.get(NAME).is_some() {
            match text {
                Some(text) => Arc::make_mut(&mut self.globals).set(NAME, text),
                None => Arc::make_mut(&mut self.globals).unset(NAME),
            }
        }
        Ok(())
    }

    async fn time_of(&self, value: &str, file: &Dockerfile) -> Result<Option<Time>, Failure> {
        if value.is_empty() {
            return Ok(None);
        }
        if let Ok(seconds) = value.parse::<i64>() {
            return Ok(Some(Time::from_unix(seconds)));
        }
        if value == "context" {
            let state = self.source.main_context(self.options, &Ignore::default(), Vec::new());
            return self.time_of_state(&state, "[internal] resolve main build context metadata".into()).await;
        }
        if let Some(context) = named::find(self.options, value, None)? {
            let loaded = context.load(self.options, self.resolver, None).await?;
            if loaded.pending.is_some() {
                // A folder of the client has no time of its own.
                return Ok(None);
            }
            let name = format!("[internal] resolve {NAME} named context {value}");
            return self.time_of_state(&loaded.state, name).await;
        }
        let Some(stage) =
            file.stages.iter().find(|s| s.name().is_some_and(|n| n.eq_ignore_ascii_case(value)))
        else {
            return Err(refuse(format!("invalid {NAME}: {value}")).into());
        };
        let state = self.stage_source(stage).map_err(|e| e.within(stage.span))?;
        let name = format!("[internal] resolve {NAME} source stage {}", stage.name().unwrap_or_default());
        self.time_of_state(&state, name).await
    }

    /// What the only ADD of a stage fetches.
    fn stage_source(&self, stage: &ast::Stage) -> Result<State, Error> {
        let mut env = Env::clone(&self.globals);
        env.unset(NAME);
        let word = |word: &Word, env: &Env| self.lexer.word(word, env).text.map_err(|e| e.in_word(word));
        if word(&stage.base, &env)? != "scratch" {
            return Err(refuse(format!("{NAME} stage must use FROM scratch")));
        }
        let mut source = None;
        for instruction in &stage.instructions {
            match &instruction.command {
                Command::Arg(arg) => {
                    for decl in &arg.args {
                        let value = match (self.build_args.get(decl.key.as_str()), &decl.value) {
                            (Some(given), _) => given.clone(),
                            (None, Some(default)) => word(default, &env)?,
                            (None, None) => continue,
                        };
                        env.set(decl.key.as_str(), value);
                    }
                }
                Command::Add(add) => {
                    let (true, [path]) = (add.sources.contents.is_empty(), add.sources.paths.as_slice())
                    else {
                        return Err(refuse(format!(
                            "{NAME} stage must contain exactly one remote ADD source"
                        )));
                    };
                    let checksum = add.checksum.as_ref().map_or(Ok(String::new()), |c| word(c, &env))?;
                    let state = remote(&word(path, &env)?, &checksum, add.keep_git_dir == Some(true))?;
                    if source.replace(state).is_some() {
                        return Err(refuse(format!("{NAME} stage must contain exactly one remote ADD")));
                    }
                }
                other => {
                    let message = "stage does not meet source-only requirements: unsupported";
                    return Err(refuse(format!("{NAME} {message} {} instruction", other.name())));
                }
            }
        }
        source.ok_or_else(|| refuse(format!("{NAME} stage must contain exactly one remote ADD")))
    }

    /// The time of a state that is one source and nothing else that has one.
    async fn time_of_state(&self, state: &State, log_name: String) -> Result<Option<Time>, Failure> {
        let definition = state.marshal(&marshal_options(self.options))?;
        if definition.def.is_empty() {
            return Ok(None);
        }
        let graph = Graph::decode(&definition)?;
        let mut sources = graph.vertices().iter().filter_map(|v| match &v.op.op {
            Some(pb::op::Op::Source(source)) => Some(source.clone()),
            _ => None,
        });
        let (Some(source), None) = (sources.next(), sources.next()) else { return Ok(None) };
        if !["git://", "http://", "https://"].iter().any(|s| source.identifier.starts_with(s)) {
            return Ok(None);
        }
        let outside = |e| Failure::outside(NAME, Span::default(), e);
        Ok(self.resolver.source_time(source, log_name).await.map_err(outside)?.time)
    }
}

/// A repository or a file from the web.
fn remote(source: &str, checksum: &str, keep_git_dir: bool) -> Result<State, Error> {
    if is_http(source) {
        let checksum = (!checksum.is_empty()).then(|| Digest::parse(checksum)).transpose();
        let file = FileMeta { filename: Some(http_filename(source)), ..FileMeta::default() };
        let checksum = checksum.map_err(|e| refuse(e.to_string()))?;
        return Ok(http(
            source,
            HttpOptions { checksum, file, ..HttpOptions::default() },
            Constraints::new(),
        ));
    }
    match GitRef::parse(source) {
        Ok(reference) if !reference.looks_local => {
            let mut options = reference.options();
            options.keep_git_dir |= keep_git_dir;
            if !checksum.is_empty() {
                options.checksum = checksum.to_owned();
            }
            git(&reference.remote, options, Constraints::new()).map_err(|e| refuse(e.to_string()))
        }
        Err(GitRefError::Query(e)) => Err(refuse(format!("invalid git URL {source}: {e}"))),
        _ => Err(refuse(format!("{NAME} stage source must be a single HTTP(S) or Git ADD"))),
    }
}
