//! The ways in: text becomes a [`Dockerfile`].

use bytestring::ByteString;

use crate::ast::{Command, Dockerfile, Instruction};
use crate::directives::{Directives, detect_syntax, find_check};
use crate::error::{Error, ErrorKind, Errors};
use crate::instruction::{self, Parsed};
use crate::lint::Linter;
use crate::lint::tree::{self, Casing};
use crate::parser::{Keyword, Statement, Statements};

/// Most errors that are reported of one file.
pub const MAX_ERRORS: usize = 20;

/// Parses a Dockerfile.
///
/// # Errors
/// All independent errors of the file (up to [`MAX_ERRORS`]), in the order of its lines.
pub fn parse(text: &str) -> Result<Dockerfile, Errors> {
    parse_linted(text, &mut Linter::silent())
}

/// Parses a Dockerfile that may not be UTF-8 (in its comments, say): bytes that aren't become U+FFFD.
///
/// # Errors
/// As [`parse`].
pub fn parse_bytes(bytes: &[u8]) -> Result<Dockerfile, Errors> {
    parse(&String::from_utf8_lossy(bytes))
}

/// Parses a Dockerfile, and tells the linter what its syntax tree shows.
///
/// When there are errors, the linter has what was found in the instructions before the first of them.
///
/// # Errors
/// As [`parse`].
pub fn parse_linted(text: &str, linter: &mut Linter) -> Result<Dockerfile, Errors> {
    let read = parse_all(&text.into(), linter);
    match Errors::from_vec(read.errors) {
        Some(errors) => Err(errors),
        None => Ok(read.dockerfile),
    }
}

/// What could be read of a text.
#[derive(Debug)]
pub(crate) struct Read {
    /// Without the statements that are wrong.
    pub(crate) dockerfile: Dockerfile,
    /// What is wrong, in the order of the lines.
    pub(crate) errors: Vec<Error>,
    /// Each of the others is in its stage: no FROM is among the wrong statements.
    pub(crate) stages_known: bool,
}

/// As [`parse_linted`], with what can be read in spite of errors.
pub(crate) fn parse_all(text: &ByteString, linter: &mut Linter) -> Read {
    if text.is_empty() {
        let errors = vec![Error::new(ErrorKind::Syntax, "the Dockerfile is empty")];
        return Read { dockerfile: Dockerfile::default(), errors, stages_known: false };
    }
    let mut statements = Statements::new(text);
    let mut builder = Builder::default();
    let mut errors = Vec::new();
    // What the lint finds counts if the file can be cut into statements, up to the first that is wrong.
    let mut found = linter.child();
    let (mut is_cut, mut stages_known) = (true, true);
    for statement in statements.by_ref() {
        let mut may_be_from = true;
        let added = match statement {
            Err(error) => {
                is_cut = false;
                Err(error)
            }
            Ok(statement) => {
                may_be_from = matches!(statement.kind, None | Some(Keyword::From));
                if errors.is_empty() {
                    tree::statement(&statement, &mut found);
                }
                builder.add(statement)
            }
        };
        match added {
            Ok(added) if errors.is_empty() => builder.describe(added, &mut found),
            Ok(_) => {}
            Err(error) => {
                stages_known &= !may_be_from;
                errors.push(error);
            }
        }
        if errors.len() == MAX_ERRORS {
            (is_cut, stages_known) = (false, false);
            break;
        }
    }
    if is_cut {
        tree::empty_continuations(statements.empty_continuations(), linter);
        linter.adopt(found);
    }
    builder.dockerfile.directives =
        Directives { escape: statements.escape(), syntax: detect_syntax(text), check: find_check(text) };
    let Builder { dockerfile, casing, .. } = builder;
    if errors.is_empty() && dockerfile.stages.is_empty() {
        errors.push(Error::new(ErrorKind::Syntax, "dockerfile contains no stages to build").expected("FROM"));
    }
    errors.sort_by_key(|e| e.blamed().start);
    if errors.is_empty() {
        tree::stage_names(&dockerfile.stages, linter);
        casing.check(&dockerfile.stages, linter);
    }
    Read { dockerfile, errors, stages_known }
}

/// Parses the text of one instruction other than FROM, such as an ONBUILD trigger of an image.
/// The escape character is `\`.
///
/// # Errors
/// When there is not exactly one instruction, or it is wrong.
pub fn parse_instruction(text: &str) -> Result<Instruction, Error> {
    let text = ByteString::from(text);
    let mut statements = Statements::new(&text);
    let first = statements.next().transpose()?;
    match (first, statements.next().transpose()?) {
        (Some(statement), None) => match instruction::parse(statement)? {
            Parsed::Instruction(instruction) => Ok(instruction),
            Parsed::Stage(stage) => {
                Err(Error::new(ErrorKind::Argument, "FROM can't stand here").at(stage.span))
            }
        },
        _ => Err(Error::new(ErrorKind::Syntax, "there is more than one instruction")
            .expected("a single instruction")),
    }
}

#[derive(Default)]
struct Builder {
    dockerfile: Dockerfile,
    casing: Casing,
    /// There was a FROM, right or wrong.
    in_stage: bool,
    /// An instruction before any FROM was reported.
    orphaned: bool,
}

/// Where a statement went.
enum Added {
    Stage,
    GlobalArg,
    Instruction,
    Nowhere,
}

impl Builder {
    fn add(&mut self, statement: Statement) -> Result<Added, Error> {
        self.in_stage |= statement.kind == Some(Keyword::From);
        let instruction = match instruction::parse(statement)? {
            Parsed::Stage(stage) => {
                self.casing.count(stage.keyword());
                self.dockerfile.stages.push(*stage);
                return Ok(Added::Stage);
            }
            Parsed::Instruction(instruction) => instruction,
        };
        if let Some(stage) = self.dockerfile.stages.last_mut() {
            self.casing.count(instruction.keyword());
            if instruction.is_user() {
                stage.users.push(stage.instructions.len());
            }
            stage.instructions.push(instruction);
            return Ok(Added::Instruction);
        }
        if matches!(instruction.command, Command::Arg(_)) {
            self.dockerfile.global_args.push(instruction);
            return Ok(Added::GlobalArg);
        }
        if self.in_stage || std::mem::replace(&mut self.orphaned, true) {
            return Ok(Added::Nowhere);
        }
        Err(Error::new(ErrorKind::Syntax, format!("{} stands before any FROM", instruction.command.name()))
            .expected("FROM, or ARG for variables of FROM")
            .at(instruction.span)
            .within(instruction.span))
    }

    /// Checks the comment above a definition that was just added.
    fn describe(&self, added: Added, linter: &mut Linter) {
        let stage = self.dockerfile.stages.last();
        let instruction = match added {
            Added::Stage => {
                if let Some(stage) = stage
                    && let Some(name) = stage.name()
                {
                    tree::description("FROM", std::iter::once(name), &stage.comments, stage.span, linter);
                }
                return;
            }
            Added::GlobalArg => self.dockerfile.global_args.last(),
            Added::Instruction => stage.and_then(|stage| stage.instructions.last()),
            Added::Nowhere => None,
        };
        if let Some(instruction) = instruction
            && let Command::Arg(arg) = &instruction.command
        {
            let names = arg.args.iter().map(|decl| decl.key.as_str());
            tree::description("ARG", names, &instruction.comments, instruction.span, linter);
        }
    }
}
