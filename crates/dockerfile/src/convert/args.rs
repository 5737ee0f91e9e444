//! Variables: those of FROM, and those of a state.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use kiln_llb::build::{Env, State};

use super::outline::ArgInfo;
use super::platform::Platforms;
use crate::ast::{Command, Dockerfile, Instruction};
use crate::error::Error;
use crate::lint::{Linter, checks};
use crate::shell::{Lexer, Variables};

impl Variables for Env {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        Self::get(self, name).map(Cow::Borrowed)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|(name, _)| name.to_owned()).collect()
    }
}

/// The variables of a state.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateEnv<'a>(pub(super) &'a State);

impl Variables for StateEnv<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get_env(name).map(Cow::Borrowed)
    }

    fn names(&self) -> Vec<String> {
        self.0.envs().names()
    }
}

/// A state's variables, with some hidden behind stars.
pub(super) struct Masked<'a> {
    pub(super) base: StateEnv<'a>,
    pub(super) masked: BTreeSet<&'a str>,
}

impl Variables for Masked<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        if self.masked.contains(name) { Some(Cow::Borrowed("****")) } else { self.base.get(name) }
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.base.names();
        names.retain(|n| !self.masked.contains(n.as_str()));
        names.extend(self.masked.iter().map(|&n| n.to_owned()));
        names
    }
}

/// The variables that FROM has before any ARG.
pub(super) fn defaults(platforms: &Platforms, build_args: &BTreeMap<String, String>, target: &str) -> Env {
    let (build, to) = (&platforms.build, &platforms.target);
    let mut env = Env::default();
    for (name, value) in [
        ("BUILDPLATFORM", build.format().as_str()),
        ("BUILDOS", &build.os),
        ("BUILDOSVERSION", &build.os_version),
        ("BUILDARCH", &build.architecture),
        ("BUILDVARIANT", &build.variant),
        ("TARGETPLATFORM", &to.format_all()),
        ("TARGETOS", &to.os),
        ("TARGETOSVERSION", &to.os_version),
        ("TARGETARCH", &to.architecture),
        ("TARGETVARIANT", &to.variant),
        ("TARGETSTAGE", if target.is_empty() { "default" } else { target }),
    ] {
        env.set(name, build_args.get(name).map_or(value, String::as_str));
    }
    env
}

/// Reads the ARGs before the first FROM.
pub(super) fn globals(
    instructions: &[Instruction],
    lexer: &Lexer,
    mut env: Env,
    build_args: &BTreeMap<String, String>,
) -> Result<(Env, BTreeMap<String, ArgInfo>), Error> {
    let mut all: BTreeMap<String, ArgInfo> = BTreeMap::new();
    for instruction in instructions {
        let Command::Arg(arg) = &instruction.command else { continue };
        for decl in &arg.args {
            let name = decl.key.as_str();
            let mut info = ArgInfo::new(decl, instruction.span);
            let value = match (build_args.get(name), &decl.value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let expansion = lexer.word(default, &env);
                    info.depends_on(name, expansion.matched, all.get(name));
                    Some(expansion.text.map_err(|e| e.in_word(default).within(instruction.span))?)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                env.set(name, value.as_str());
                info.value = value;
            }
            all.insert(name.to_owned(), info);
        }
    }
    Ok((env, all))
}

/// Bases should name images when no build arguments are given, too.
pub(super) fn lint_default_bases(file: &Dockerfile, lexer: &Lexer, defaults: &Env, linter: &mut Linter) {
    // An error here comes up again where it counts.
    let Ok((env, _)) = globals(&file.global_args, lexer, defaults.clone(), &BTreeMap::new()) else { return };
    // Many stages may start from the same.
    let mut known = HashSet::new();
    for stage in &file.stages {
        if known.contains(stage.base.as_str()) {
            continue;
        }
        let Ok(base) = lexer.text(&stage.base, &env) else { return };
        if checks::default_base(linter, stage, &base) {
            known.insert(stage.base.as_str());
        }
    }
}

/// The names that FROM may use.
pub(super) fn declared(env: &Env, all: &BTreeMap<String, ArgInfo>) -> BTreeSet<String> {
    all.keys().cloned().chain(env.names()).collect()
}
