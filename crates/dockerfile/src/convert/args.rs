//! Variables: those of FROM, and those of a state.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use kiln_llb::build::{Env, State};

use super::outline::ArgInfo;
use super::platform::Platforms;
use crate::ast::{ArgDecl, Command, Dockerfile, Instruction};
use crate::error::Error;
use crate::lint::{Linter, checks};
use crate::shell::{Lexer, Variables};
use crate::span::Span;

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

/// The variables of FROM: those before any ARG, and what the ARGs before the first FROM make of them. What an outline tells of
/// these goes into `infos`, where one is wanted.
pub(super) fn globals(
    instructions: &[Instruction],
    lexer: &Lexer,
    mut env: Env,
    build_args: &BTreeMap<String, String>,
    mut infos: Option<&mut BTreeMap<String, ArgInfo>>,
) -> Result<Env, Error> {
    for (decl, span) in declarations(instructions) {
        let name = &*decl.key;
        let mut used = BTreeSet::new();
        let value: Option<ByteString> = match (build_args.get(name), &decl.value) {
            (Some(given), _) => Some(given.as_str().into()),
            (None, Some(default)) if lexer.keeps(default) => Some(default.text.clone()),
            (None, Some(default)) => {
                let expansion = lexer.word(default, &env);
                used = expansion.matched;
                Some(expansion.text.map_err(|e| e.in_word(default).within(span))?.into())
            }
            (None, None) => None,
        };
        if let Some(infos) = &mut infos {
            let mut info = ArgInfo::new(decl, span);
            info.depends_on(name, used, infos.get(name));
            info.value = value.as_deref().unwrap_or_default().to_owned();
            infos.insert(name.to_owned(), info);
        }
        if let Some(value) = value {
            env.set(decl.key.text.clone(), value);
        }
    }
    Ok(env)
}

fn declarations(instructions: &[Instruction]) -> impl Iterator<Item = (&ArgDecl, Span)> {
    instructions.iter().flat_map(|instruction| {
        let args = match &instruction.command {
            Command::Arg(arg) => arg.args.as_slice(),
            _ => &[],
        };
        args.iter().map(|decl| (decl, instruction.span))
    })
}

/// Bases should name images when no build arguments are given, too. `env` are the variables of FROM then.
pub(super) fn lint_default_bases(file: &Dockerfile, lexer: &Lexer, env: &Env, linter: &mut Linter) {
    // Many stages may start from the same.
    let mut known = foldhash::HashSet::default();
    for stage in &file.stages {
        if known.contains(stage.base.as_str()) {
            continue;
        }
        // An error here comes up again where it counts.
        let Ok(base) = lexer.text(&stage.base, env) else { return };
        if checks::default_base(linter, stage, &base) {
            known.insert(stage.base.as_str());
        }
    }
}

/// The names that FROM may use, with a value or without.
pub(super) struct Declared<'a> {
    env: &'a Env,
    instructions: &'a [Instruction],
    names: OnceCell<BTreeSet<String>>,
}

impl<'a> Declared<'a> {
    pub(super) fn new(env: &'a Env, instructions: &'a [Instruction]) -> Self {
        Self { env, instructions, names: OnceCell::new() }
    }

    /// The names in order. They are listed for findings and errors only.
    pub(super) fn names(&self) -> &BTreeSet<String> {
        self.names.get_or_init(|| {
            let declared = declarations(self.instructions).map(|(decl, _)| decl.key.as_str().to_owned());
            declared.chain(self.env.names()).collect()
        })
    }
}
