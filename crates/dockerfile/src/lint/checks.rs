//! Rules that need to know what variables hold: the converter calls them as it goes.
//!
//! Each takes the linter [scoped](super::Linter::with_comments) to its instruction, and the span to blame.

use std::collections::BTreeSet;

use kiln_oci::{ImageConfig, Platform, Reference};
use kiln_pattern::Matcher;

use super::{Finding, Scoped};
use crate::ast::{Command, Instruction, KeyValue, Stage};
use crate::shell::Expansion;
use crate::span::Span;

/// Variables of FROM that aren't declared. `declared` are the names of the global ARGs and of the predefined ones.
pub fn undefined_args_in_from<'n>(
    lint: &mut Scoped<'_>,
    span: Span,
    unmatched: &BTreeSet<String>,
    declared: impl FnOnce() -> &'n BTreeSet<String>,
) {
    if unmatched.is_empty() {
        return;
    }
    let declared = declared();
    for name in unmatched.difference(declared) {
        let nearest = lint.nearest(name, || declared.iter().map(String::as_str));
        lint.run(span, Finding::UndefinedArgInFrom { name, nearest });
    }
}

/// `--platform=$TARGETPLATFORM` and `--platform=linux/amd64`. `target` is the value of `TARGETPLATFORM`.
pub fn from_platform(lint: &mut Scoped<'_>, stage: &Stage, expanded: &Expansion, target: Option<&str>) {
    let (Some(written), Ok(value)) = (&stage.platform, &expanded.text) else { return };
    if expanded.unmatched.is_empty() && expanded.matched.iter().eq(["TARGETPLATFORM"]) {
        if target == Some(value) {
            lint.run(stage.span, Finding::RedundantTargetPlatform(written));
        }
        return;
    }
    if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = Platform::parse(value) else { return };
    // A stage that is named after its platform means it.
    let name = stage.name().unwrap_or_default();
    if !name.contains(platform.os.as_str()) && !name.contains(platform.architecture.as_str()) {
        lint.run(stage.span, Finding::FromPlatformFlagConstDisallowed(value));
    }
}

/// The base of a stage, expanded with the defaults of the global ARGs alone, should be an image's name. True if it is one.
pub fn default_base(lint: &mut super::Linter, stage: &Stage, expanded: &str) -> bool {
    let is_name = Reference::parse(expanded).is_ok();
    if !is_name {
        lint.run(stage.span, Finding::InvalidDefaultArgInFrom(&stage.base));
    }
    is_name
}

/// An image's platform should be the one asked for.
pub fn base_platform(
    lint: &mut super::Linter,
    span: Span,
    image: &str,
    expected: &Platform,
    config: &ImageConfig,
) {
    if expected.os != config.os || expected.architecture != config.architecture {
        let (expected, actual) =
            (expected.clone().normalize().format_all(), config.platform().normalize().format_all());
        lint.run(span, Finding::InvalidBaseImagePlatform { image, expected: &expected, actual: &actual });
    }
}

/// Variables that nothing defines. `declared` says which names the stage's ARGs declare (also those without a
/// value), `defined` are the names that have values.
pub fn undefined_variables<'a, I: Iterator<Item = &'a str>>(
    lint: &mut Scoped<'_>,
    span: Span,
    unmatched: &BTreeSet<String>,
    declared: impl Fn(&str) -> bool,
    defined: impl Fn() -> I,
) {
    for name in unmatched.iter().filter(|name| !declared(name)) {
        let nearest = lint.nearest(name, &defined);
        lint.run(span, Finding::UndefinedVar { name, nearest });
    }
}

/// Instructions of a kind of which only the last counts.
#[derive(Clone, Debug, Default)]
pub struct OnlyOnce {
    last: Option<Span>,
}

impl OnlyOnce {
    /// Notes an instruction; the one before it, which is lost now, is blamed.
    pub fn note(&mut self, lint: &mut Scoped<'_>, instruction: &Instruction) {
        if let Some(lost) = self.last.replace(instruction.span) {
            lint.run(lost, Finding::MultipleInstructionsDisallowed(instruction.keyword()));
        }
    }

    /// Whether there was one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.last.is_some()
    }
}

/// CMD and ENTRYPOINT in shell form, unless the stage chose its shell by itself.
pub fn json_recommended(lint: &mut Scoped<'_>, instruction: &Instruction, has_shell: bool) {
    if let Command::Cmd(line) | Command::Entrypoint(line) = &instruction.command
        && line.prepend_shell
        && !has_shell
    {
        lint.run(instruction.span, Finding::JsonArgsRecommended(instruction.keyword()));
    }
}

/// `key value` in ENV and LABEL.
pub fn legacy_pair(lint: &mut Scoped<'_>, instruction: &Instruction, pair: &KeyValue) {
    if !pair.has_delimiter {
        lint.run(instruction.span, Finding::LegacyKeyValueFormat(instruction.keyword()));
    }
}

/// A relative path (by the rules of the target's system) before any absolute one.
pub fn relative_workdir(lint: &mut Scoped<'_>, span: Span, path: &str) {
    lint.run(span, Finding::WorkdirRelativePath(path));
}

/// Words that make a variable a secret, and words that make it none after all.
const SECRETIVE: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// `instruction` is `ARG` or `ENV`.
pub fn secret_name(lint: &mut Scoped<'_>, span: Span, instruction: &str, key: &str) {
    let has =
        |words: &[&str]| key.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)));
    if has(&SECRETIVE) && !has(&HARMLESS) {
        lint.run(span, Finding::SecretsUsedInArgOrEnv { instruction, key });
    }
}

/// A source of COPY or ADD that the context's ignore file leaves out. Nothing is said when the file has exceptions:
/// what is left then depends on the files.
pub fn ignored_source(
    lint: &mut Scoped<'_>,
    span: Span,
    is_add: bool,
    source: &str,
    ignore: Option<&Matcher>,
) {
    let Some(ignore) = ignore.filter(|ignore| !ignore.has_exceptions()) else { return };
    let path = kiln_pattern::clean(source);
    let is_root = path == "." || path == "/";
    let all_ignored = || ignore.patterns().iter().any(|p| matches!(p.as_str(), "*" | "**" | "**/*"));
    if (!is_root || all_ignored()) && ignore.matches(&path) {
        lint.run(span, Finding::CopyIgnoredFile { action: if is_add { "Add" } else { "Copy" }, path: &path });
    }
}

/// A port of EXPOSE as written: its protocol in small letters, no address and no host port.
pub fn exposed_port(lint: &mut Scoped<'_>, span: Span, port: &str) {
    let container = port.rsplit(':').next().unwrap_or(port);
    if let Some((_, protocol)) = container.split_once('/')
        && protocol.chars().any(char::is_uppercase)
    {
        lint.run(span, Finding::ExposeProtoCasing(port));
    }
    if port.split(':').rev().skip(1).any(|part| !part.is_empty()) {
        lint.run(span, Finding::ExposeInvalidFormat(port));
    }
}
