//! What the arguments of each instruction mean: statements become the syntax tree.

mod files;
mod flags;
mod health;
mod run;
mod stage;

use bytestring::ByteString;

use crate::ast::{Arg, ArgDecl, Command, CommandLine, Few, Instruction, KeyValue, Onbuild, Stage};
use crate::error::{Error, ErrorKind};
use crate::parser::{Keyword, Statement};
use crate::span::Span;
use crate::suggest::nearest;
use crate::word::Word;
use flags::Flags;

/// A statement understood.
#[derive(Debug)]
pub(crate) enum Parsed {
    Stage(Box<Stage>),
    Instruction(Instruction),
}

fn refuse(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Argument, message)
}

/// Understands one statement. The error blames its lines.
pub(crate) fn parse(statement: Statement) -> Result<Parsed, Error> {
    let (span, keyword_span) = (statement.span, statement.keyword_span);
    parse_statement(statement).map_err(|e| e.at(keyword_span).within(span))
}

fn parse_statement(mut statement: Statement) -> Result<Parsed, Error> {
    let Some(kind) = statement.kind else {
        return Err(unknown_instruction(statement.keyword(), statement.keyword_span));
    };
    if kind == Keyword::From {
        return stage::from(statement).map(|stage| Parsed::Stage(Box::new(stage)));
    }
    let command = command(kind, &mut statement)?;
    Ok(Parsed::Instruction(Instruction {
        code: code(statement.text),
        span: statement.span,
        comments: statement.comments,
        command,
    }))
}

/// The text without the blanks at its end; there are none at its start.
fn code(text: ByteString) -> ByteString {
    match text.trim_end() {
        same if same.len() == text.len() => text,
        shorter => text.slice_ref(shorter),
    }
}

fn unknown_instruction(keyword: &str, span: Span) -> Error {
    let nearest = nearest(keyword, Keyword::names()).map(|name| {
        if keyword.chars().all(char::is_lowercase) { name.to_lowercase() } else { name.to_owned() }
    });
    Error::new(ErrorKind::UnknownInstruction, format!("unknown instruction: {keyword}"))
        .at(span)
        .suggest(nearest)
}

fn command(kind: Keyword, statement: &mut Statement) -> Result<Command, Error> {
    // ARG and STOPSIGNAL never look at flags, HEALTHCHECK looks at them by itself, and these have some.
    let has_own = matches!(
        kind,
        Keyword::Add
            | Keyword::Copy
            | Keyword::Run
            | Keyword::Healthcheck
            | Keyword::Arg
            | Keyword::Stopsignal
    );
    if !has_own {
        Flags::take(&mut statement.flags, &[])?;
    }
    Ok(match kind {
        Keyword::Add => Command::Add(Box::new(files::add(statement)?)),
        Keyword::Arg => Command::Arg(arg(statement)?),
        Keyword::Cmd => Command::Cmd(command_line(statement)),
        Keyword::Copy => Command::Copy(Box::new(files::copy(statement)?)),
        Keyword::Entrypoint => Command::Entrypoint(command_line(statement)),
        Keyword::Env => Command::Env(pairs(statement, "ENV")?),
        Keyword::Expose => Command::Expose(at_least_one(statement, "EXPOSE", "a port")?),
        Keyword::Healthcheck => Command::Healthcheck(Box::new(health::healthcheck(statement)?)),
        Keyword::Label => Command::Label(pairs(statement, "LABEL")?),
        Keyword::Maintainer => Command::Maintainer(exactly_one(statement, "MAINTAINER", "a name")?),
        Keyword::Onbuild => Command::Onbuild(onbuild(statement)?),
        Keyword::Run => Command::Run(Box::new(run::run(statement)?)),
        Keyword::Shell => Command::Shell(shell(statement)?),
        Keyword::Stopsignal => Command::Stopsignal(exactly_one(statement, "STOPSIGNAL", "a signal")?),
        Keyword::User => {
            Command::User(exactly_one(statement, "USER", "a user, and a group after a colon or none")?)
        }
        Keyword::Volume => Command::Volume(volume(statement)?),
        Keyword::Workdir => Command::Workdir(exactly_one(statement, "WORKDIR", "a path")?),
        Keyword::From => return Err(refuse("FROM is no command")),
    })
}

fn words(statement: &mut Statement) -> Few<Word> {
    std::mem::take(&mut statement.args.words)
}

fn at_least_one(statement: &mut Statement, name: &str, what: &str) -> Result<Few<Word>, Error> {
    let words = words(statement);
    if words.is_empty() {
        return Err(refuse(format!("{name} without arguments")).expected(what));
    }
    Ok(words)
}

fn exactly_one(statement: &mut Statement, name: &str, what: &str) -> Result<Word, Error> {
    words(statement).pop().ok_or_else(|| refuse(format!("{name} without its argument")).expected(what))
}

fn pairs(statement: &mut Statement, name: &str) -> Result<Vec<KeyValue>, Error> {
    let pairs = std::mem::take(&mut statement.args.pairs);
    if pairs.is_empty() {
        return Err(refuse(format!("{name} without arguments")).expected("`name=value`"));
    }
    match pairs.iter().find(|pair| pair.key.is_empty()) {
        Some(blank) => Err(blank_name(name, blank.key.span)),
        None => Ok(pairs),
    }
}

fn blank_name(instruction: &str, span: Span) -> Error {
    refuse(format!("{instruction} with an empty name")).at(span).expected("a name before the `=`")
}

fn arg(statement: &mut Statement) -> Result<Arg, Error> {
    let words = at_least_one(statement, "ARG", "`name` or `name=default`")?;
    // There are as many declarations: nothing is set aside for more.
    let mut args = Vec::with_capacity(words.len());
    for word in words {
        args.push(declaration(word, &statement.comments)?);
    }
    Ok(Arg { args })
}

fn declaration(word: Word, comments: &[ByteString]) -> Result<ArgDecl, Error> {
    let (key, value) = match word.split_once('=') {
        None => (word, None),
        Some((key, value)) => {
            let (key_span, value_span) = word.split_span(key.len());
            if key.is_empty() {
                return Err(blank_name("ARG", word.span));
            }
            (word.part(key, key_span), Some(word.part(value, value_span)))
        }
    };
    Ok(ArgDecl { description: description(comments, &key), key, value })
}

/// The description of a stage or variable: a comment above that begins with its name.
fn description(comments: &[ByteString], name: &str) -> Option<ByteString> {
    comments
        .iter()
        .find_map(|line| Some(line.slice_ref(line.strip_prefix(name)?.strip_prefix(' ')?)))
        .filter(|_| !name.is_empty())
}

/// The command of RUN, CMD and ENTRYPOINT.
fn command_line(statement: &mut Statement) -> CommandLine {
    CommandLine {
        args: words(statement).into_iter().map(|word| word.text).collect(),
        files: std::mem::take(&mut statement.heredocs).into_boxed_slice(),
        prepend_shell: !statement.args.json,
    }
}

fn shell(statement: &mut Statement) -> Result<Few<Word>, Error> {
    let json = statement.args.json;
    let words = at_least_one(statement, "SHELL", "a JSON array such as `[\"/bin/sh\", \"-c\"]`")?;
    if !json {
        return Err(refuse("SHELL in shell form")
            .at(words[0].span)
            .expected("an array such as `[\"/bin/sh\", \"-c\"]`"));
    }
    Ok(words)
}

fn volume(statement: &mut Statement) -> Result<Few<Word>, Error> {
    let mut words = at_least_one(statement, "VOLUME", "a path")?;
    for word in words.iter_mut() {
        word.text = word.text.slice_ref(word.text.trim());
        if word.is_empty() {
            return Err(refuse("VOLUME with an empty path").at(word.span).expected("a path"));
        }
    }
    Ok(words)
}

fn onbuild(statement: &mut Statement) -> Result<Onbuild, Error> {
    let trigger = exactly_one(statement, "ONBUILD", "an instruction")?;
    match Keyword::parse(&trigger) {
        Some(Keyword::Onbuild) => {
            return Err(refuse("ONBUILD within ONBUILD").at(trigger.span));
        }
        Some(name @ (Keyword::Maintainer | Keyword::From)) => {
            return Err(
                refuse(format!("{} can't be the trigger of an ONBUILD", name.name())).at(trigger.span)
            );
        }
        _ => {}
    }
    let expression = statement.text.get(statement.keyword().len()..).unwrap_or_default();
    let expression = expression.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if statement.heredocs.is_empty() {
        return Ok(Onbuild { expression: statement.text.slice_ref(expression) });
    }
    let mut expression = expression.to_owned();
    for heredoc in &statement.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    Ok(Onbuild { expression: expression.into() })
}
