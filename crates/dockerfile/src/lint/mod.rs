//! Lint: warnings about Dockerfiles that build, but not as their authors may think.
//!
//! Most rules look at the syntax tree and run while [`crate::parse_linted`] reads ([`tree`]). Those that need to know
//! what variables hold are called by the converter ([`checks`]).
//!
//! Which rules run is said by `# check=skip=…;error=true` at the top of the file (or by the build argument
//! `BUILDKIT_DOCKERFILE_CHECK` in its place), and by `# check=skip=…` above one instruction.

pub mod checks;
mod config;
mod rule;
pub mod tree;

pub use config::{Config, RuleSet};
pub use rule::{Finding, Rule};

use std::collections::BTreeSet;
use std::fmt::Write;

use bytestring::ByteString;

use crate::error::{Error, ErrorKind};
use crate::span::Span;
use crate::suggest::nearest_variable;

/// The build argument whose value takes the place of a file's `check` directive.
pub const CHECK_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule that was broken.
    pub rule: Rule,
    /// How, in this file.
    pub message: String,
    /// The instruction; its [lines](Span::lines) are shown.
    pub span: Span,
}

/// Collects warnings of the rules that are switched on.
#[derive(Clone, Debug, Default)]
pub struct Linter {
    config: Config,
    warnings: Vec<Warning>,
    silent: bool,
    /// How many names were compared for suggestions.
    compared: usize,
}

/// Once so many names were compared, findings suggest nothing: people don't read as many.
const MAX_COMPARED: usize = 100_000;

impl Linter {
    /// A linter with a configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// A linter that hears nothing: for instructions from elsewhere, such as ONBUILD triggers.
    #[must_use]
    pub fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// The linter for a file: by its `check` directive, unless `argument` (the value of [`CHECK_ARGUMENT`]) is given.
    pub fn for_file(text: &str, argument: Option<&str>) -> Result<Self, Error> {
        let directive = crate::directives::find_check(text);
        let config = match (argument, &directive) {
            (Some(argument), _) => Config::parse(argument)?,
            // Blanks end the value, as they end the image of a syntax directive.
            (None, Some(check)) => Config::parse(check.split(' ').next().unwrap_or_default())
                .map_err(|e| e.at(check.span).unblamed())?,
            (None, None) => Config::default(),
        };
        Ok(Self::new(config))
    }

    /// Reports a finding, if its rule is on.
    pub fn run(&mut self, span: Span, finding: Finding<'_>) {
        let config = std::mem::take(&mut self.config);
        self.report(&config, span, finding);
        self.config = config;
    }

    /// The linter for one instruction or stage, whose comments may switch more rules off or on.
    pub fn with_comments<'a>(&'a mut self, comments: &'a [ByteString]) -> Scoped<'a> {
        Scoped { linter: self, comments, config: None }
    }

    /// The warnings so far, in the order they were found.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// All warnings, in the order they were found.
    #[must_use]
    pub fn into_warnings(self) -> Vec<Warning> {
        self.warnings
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `check=error=true`: the error when there are warnings.
    pub fn error(&self) -> Result<(), Error> {
        if !self.config.error || self.warnings.is_empty() {
            return Ok(());
        }
        let rules: BTreeSet<&str> = self.warnings.iter().map(|w| w.rule.name()).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        Err(Error::new(ErrorKind::Lint, format!("lint violation found for rules: {}", rules.join(", "))))
    }

    /// A linter of the same kind without warnings, for findings that may not count in the end.
    pub(crate) fn child(&self) -> Self {
        Self { warnings: Vec::new(), ..self.clone() }
    }

    /// Hears nothing from here on.
    pub(crate) fn silence(&mut self) {
        self.silent = true;
    }

    /// Takes the findings of a child over.
    pub(crate) fn adopt(&mut self, child: Self) {
        self.warnings.extend(child.warnings);
    }

    fn report(&mut self, config: &Config, span: Span, finding: Finding<'_>) {
        let rule = finding.rule();
        if !self.silent && config.runs(rule) {
            // Most messages are sentences of about this length.
            let mut message = String::with_capacity(96);
            // Writing to a string never fails.
            let _ok = write!(message, "{finding}");
            self.warnings.push(Warning { rule, message, span });
        }
    }
}

/// A [`Linter`] under the comments of one instruction.
#[derive(Debug)]
pub struct Scoped<'a> {
    linter: &'a mut Linter,
    comments: &'a [ByteString],
    /// What holds here, if the comments say something; read when there is a finding.
    config: Option<Option<Config>>,
}

impl Scoped<'_> {
    /// The known name nearest to a variable's. The known ones are not asked for once people have enough suggestions.
    pub(super) fn nearest<'n, I: Iterator<Item = &'n str>>(
        &mut self,
        name: &str,
        known: impl FnOnce() -> I,
    ) -> Option<&'n str> {
        let compared = &mut self.linter.compared;
        if *compared > MAX_COMPARED {
            return None;
        }
        nearest_variable(name, known().inspect(|_| *compared += 1))
    }

    /// Reports a finding, if its rule is on here.
    pub fn run(&mut self, span: Span, finding: Finding<'_>) {
        let (linter, comments) = (&mut *self.linter, self.comments);
        let own = self
            .config
            .get_or_insert_with(|| Config::from_comments(comments).map(|extra| linter.config.merged(&extra)));
        match own {
            None => linter.run(span, finding),
            Some(config) => linter.report(config, span, finding),
        }
    }
}

#[cfg(test)]
mod tests;
