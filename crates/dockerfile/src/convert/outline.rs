//! What the outline of a target is made of, collected on the way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::Converter;
use super::resolver::Resolver;
use crate::ast::ArgDecl;
use crate::span::Span;
use crate::subrequest::{Location, Outline, OutlineArg, OutlineSecret, OutlineSsh};

/// An ARG with its value.
#[derive(Debug, Clone, Default)]
pub(super) struct ArgInfo {
    pub(super) description: String,
    pub(super) value: String,
    span: Span,
    /// ARGs in its default.
    deps: BTreeSet<String>,
}

impl ArgInfo {
    pub(super) fn new(decl: &ArgDecl, span: Span) -> Self {
        let description = decl.description.as_deref().unwrap_or_default().to_owned();
        Self { description, span, ..Self::default() }
    }

    /// Its default names others; one that names itself depends on what the earlier one did.
    pub(super) fn depends_on(&mut self, name: &str, mut used: BTreeSet<String>, earlier: Option<&Self>) {
        if used.remove(name) {
            used.extend(earlier.into_iter().flat_map(|e| e.deps.iter().cloned()));
        }
        self.deps = used;
    }
}

/// What a stage can be given.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture {
    /// Those before the first FROM.
    pub(super) globals: Arc<BTreeMap<String, ArgInfo>>,
    /// Those of the stage itself.
    pub(super) args: HashMap<String, ArgInfo>,
    /// Those of the ones before the first FROM that it uses.
    pub(super) used: HashSet<String>,
    pub(super) secrets: BTreeMap<String, (bool, Span)>,
    pub(super) ssh: BTreeMap<String, (bool, Span)>,
}

impl Capture {
    fn arg(&self, name: &str) -> Option<&ArgInfo> {
        self.args.get(name).or_else(|| self.globals.get(name))
    }

    /// The ARGs that are used, which a stage's own always are, and those in their defaults.
    fn all_used(&self) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<&str> = self.used.iter().chain(self.args.keys()).map(String::as_str).collect();
        while let Some(name) = todo.pop() {
            if seen.insert(name) {
                todo.extend(self.arg(name).into_iter().flat_map(|a| a.deps.iter().map(String::as_str)));
            }
        }
        seen
    }
}

impl<R: Resolver> Converter<'_, R> {
    /// The outline of a target that was walked.
    pub(super) fn outline(&self, target: usize) -> Outline {
        let stage = &self.stages.list[target];
        let mut outline = Outline {
            name: stage.name.clone(),
            description: stage.description[..].to_owned(),
            sources: vec![self.source.data.to_vec()],
            ..Outline::default()
        };
        let (mut args, mut secrets, mut ssh) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        // The target first: what it says of a name counts.
        let others = self.stages.reachable(target).into_iter().rev().filter(|&i| i != target);
        for index in std::iter::once(target).chain(others) {
            let Some(capture) = &self.stages.list[index].outline else { continue };
            for name in capture.all_used() {
                let Some(info) = capture.arg(name) else { continue };
                if args.insert(name) {
                    outline.args.push(OutlineArg {
                        name: name.to_owned(),
                        description: info.description.clone(),
                        value: info.value.clone(),
                        location: Location::of(info.span),
                    });
                }
            }
            for (name, &(required, span)) in &capture.secrets {
                if secrets.insert(name) {
                    outline.secrets.push(OutlineSecret {
                        name: name.clone(),
                        required,
                        location: Location::of(span),
                    });
                }
            }
            for (name, &(required, span)) in &capture.ssh {
                if ssh.insert(name) {
                    outline.ssh.push(OutlineSsh {
                        name: name.clone(),
                        required,
                        location: Location::of(span),
                    });
                }
            }
        }
        outline.sort();
        outline
    }
}
