//! From text to statements: which lines belong together, what is a comment, where heredocs end, how an instruction's
//! text is cut into arguments. What the arguments mean is decided in `crate::instruction`.

mod heredoc;
mod json;
mod keyword;
mod line;
mod split;

use bytestring::ByteString;

pub use heredoc::chomp;
pub(crate) use heredoc::parse_marker;
pub(crate) use keyword::Keyword;
pub use line::MAX_LINE;

use crate::ast::{Few, Heredoc, KeyValue};
use crate::directives::{DirectiveReader, Name};
use crate::error::{Error, ErrorKind};
use crate::span::Span;
use crate::suggest::nearest;
use crate::word::Word;
use json::Array;
use line::{Lines, LogicalLine, comment_text};
use split::Part;

/// Of a longer run of comments above an instruction, only the last ones are kept: this many at least, twice as many
/// at most.
const COMMENTS_KEPT: usize = 500;

/// An instruction whose arguments are cut but not understood.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Where its keyword stands.
    pub(crate) keyword_span: Span,
    /// `None` when it's no instruction.
    pub(crate) kind: Option<Keyword>,
    /// Words with `--` at the front.
    pub(crate) flags: Vec<Word>,
    pub(crate) args: Args,
    pub(crate) heredocs: Vec<Heredoc>,
    /// The joined text; blanks at its start are cut, those at its end are kept.
    pub(crate) text: ByteString,
    /// With the heredocs.
    pub(crate) span: Span,
    /// The comments above.
    pub(crate) comments: Box<[ByteString]>,
}

impl Statement {
    /// The keyword as it was spelled.
    pub(crate) fn keyword(&self) -> &str {
        spelled_keyword(&self.text)
    }
}

/// The keyword that the text of an instruction begins with.
pub(crate) fn spelled_keyword(text: &str) -> &str {
    let text = text.trim();
    &text[..text.bytes().position(split::is_blank).unwrap_or(text.len())]
}

/// The arguments of an instruction.
#[derive(Debug, Default)]
pub(crate) struct Args {
    /// Words: several, or the rest of the line as one.
    pub(crate) words: Few<Word>,
    /// ENV and LABEL only.
    pub(crate) pairs: Vec<KeyValue>,
    /// The words come from a JSON array.
    pub(crate) json: bool,
}

impl Args {
    fn words(words: impl Into<Few<Word>>) -> Self {
        Self { words: words.into(), ..Self::default() }
    }
}

/// Cuts a file into statements, one after the other. Errors don't end it; a statement with an error is left out.
pub(crate) struct Statements<'a> {
    lines: Lines<'a>,
    directives: DirectiveReader,
    comments: Vec<ByteString>,
    escape: char,
    empty_continuations: Vec<Span>,
    /// There was an instruction or an error.
    begun: bool,
}

impl<'a> Statements<'a> {
    /// The texts of the statements share the memory of the file.
    pub(crate) fn new(file: &'a ByteString) -> Self {
        Self {
            lines: Lines::new(file),
            directives: DirectiveReader::new("#"),
            comments: Vec::new(),
            escape: '\\',
            empty_continuations: Vec::new(),
            begun: false,
        }
    }

    /// The escape character, as far as the file is read.
    pub(crate) fn escape(&self) -> char {
        self.escape
    }

    /// The last lines of instructions with blank lines inside, as far as the file is read.
    pub(crate) fn empty_continuations(&self) -> &[Span] {
        &self.empty_continuations
    }

    /// Nothing to build is an error too.
    fn nothing(&self) -> Error {
        Error::new(ErrorKind::Syntax, "there are no instructions")
            .at(Span::line(self.lines.number()))
            .expected("FROM")
    }
}

impl Iterator for Statements<'_> {
    type Item = Result<Statement, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(Step::Statement(statement)) => return Some(Ok(statement)),
                Ok(Step::Nothing) => {}
                Ok(Step::End) if self.begun => return None,
                Ok(Step::End) => {
                    self.begun = true;
                    return Some(Err(self.nothing()));
                }
                Err(error) => {
                    self.begun = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// What a look at the next line brought.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once, and there are many")]
enum Step {
    Statement(Statement),
    Nothing,
    End,
}

impl<'a> Statements<'a> {
    /// Reads one comment, blank line or instruction.
    fn step(&mut self) -> Result<Step, Error> {
        let Some(line) = self.lines.next()? else { return Ok(Step::End) };
        let comment = comment_text(line);
        if self.directive(line)? {
            return Ok(Step::Nothing);
        }
        match comment {
            // A comment without text cuts the ones above off.
            Some("") => self.comments.clear(),
            Some(text) => {
                if self.comments.len() == 2 * COMMENTS_KEPT {
                    self.comments.drain(..COMMENTS_KEPT);
                }
                self.comments.push(self.lines.slice(text));
            }
            None => {
                if let Some(joined) = LogicalLine::join(line, self.escape, &mut self.lines)? {
                    self.begun = true;
                    return self.instruction(joined).map(Step::Statement);
                }
            }
        }
        Ok(Step::Nothing)
    }

    fn directive(&mut self, line: line::Line<'a>) -> Result<bool, Error> {
        let at = |error: Error| error.at(Span::line(line.number)).unblamed();
        let Some(directive) = self.directives.line(line.trimmed().trim_start()).map_err(at)? else {
            return Ok(false);
        };
        if directive.name == Name::Escape {
            self.escape = match directive.value {
                "\\" => '\\',
                "`" => '`',
                other => {
                    return Err(at(Error::new(ErrorKind::Syntax, format!("invalid escape token '{other}'"))
                        .expected("a backslash or a backtick")));
                }
            };
        }
        Ok(true)
    }

    fn instruction(&mut self, line: LogicalLine) -> Result<Statement, Error> {
        let comments = self.comments.drain(..).collect();
        if let Some(last) = line.empty_continuation {
            self.empty_continuations.push(Span::line(last));
        }
        let span = line.span();
        let whole = Part { start: 0, end: line.text.len() };
        let mut cut = cut(&line, whole, self.escape).map_err(|e| e.within(span))?;
        let heredocs = if cut.takes_heredocs { self.heredocs(&line, span)? } else { Vec::new() };
        if cut.kind.is_none() {
            self.skip_lost_heredocs(cut.keyword.text(&line), &line);
        }
        let span = if heredocs.is_empty() { span } else { self.through_last_line(span) };
        if cut.kind == Some(Keyword::Expose) {
            // The reference keeps the words in order.
            cut.args.words.sort_by(|a, b| a.text.cmp(&b.text));
        }
        Ok(Statement {
            keyword_span: cut.keyword_span,
            kind: cut.kind,
            flags: cut.flags,
            args: cut.args,
            heredocs,
            text: line.text,
            span,
            comments,
        })
    }

    fn heredocs(&mut self, line: &LogicalLine, span: Span) -> Result<Vec<Heredoc>, Error> {
        let mut heredocs = heredoc::markers(line);
        for heredoc in &mut heredocs {
            heredoc::read_body(heredoc, &mut self.lines)
                .map_err(|e| e.within(self.through_last_line(span)))?;
        }
        Ok(heredocs)
    }

    fn through_last_line(&self, span: Span) -> Span {
        Span::new(span.start, crate::span::Position::new(self.lines.number(), 0).max(span.end))
    }

    /// A misspelled RUN, COPY or ADD with heredocs: their lines are no instructions, so that one slip gives one error.
    fn skip_lost_heredocs(&mut self, keyword: &str, line: &LogicalLine) {
        let meant = nearest(keyword, Keyword::names()).and_then(Keyword::parse);
        if !meant.is_some_and(Keyword::takes_heredocs) {
            return;
        }
        for mut heredoc in heredoc::markers(line) {
            let terminated = self.lines.rest().lines().any(|l| heredoc.name == l.trim_start_matches('\t'));
            if !terminated || heredoc::read_body(&mut heredoc, &mut self.lines).is_err() {
                return;
            }
        }
    }
}

/// An instruction's pieces.
struct Cut {
    keyword: Part,
    keyword_span: Span,
    kind: Option<Keyword>,
    flags: Vec<Word>,
    args: Args,
    takes_heredocs: bool,
}

fn cut(line: &LogicalLine, part: Part, escape: char) -> Result<Cut, Error> {
    let (keyword, flags, rest) = split::instruction(line, part, escape);
    let (kind, keyword_span) = keyword_of(line, keyword);
    let mut takes_heredocs = kind.is_some_and(Keyword::takes_heredocs);
    let args = match kind {
        None => Args::default(),
        Some(Keyword::Onbuild) => {
            let trigger = if rest.is_empty() { None } else { Some(trigger(line, rest, escape)?) };
            takes_heredocs = trigger.as_ref().is_some_and(|t| t.takes_heredocs);
            trigger.map_or_else(Args::default, |t| Args::words([t.keyword.word(line)]))
        }
        Some(kind) => arguments(line, rest, kind, escape)?,
    };
    Ok(Cut { takes_heredocs: takes_heredocs && !args.json, keyword, keyword_span, kind, flags, args })
}

/// What ONBUILD holds. Its own trigger may not be ONBUILD, so this goes one level deep.
fn trigger(line: &LogicalLine, part: Part, escape: char) -> Result<Cut, Error> {
    let (keyword, flags, rest) = split::instruction(line, part, escape);
    let (kind, keyword_span) = keyword_of(line, keyword);
    let args = match kind {
        None | Some(Keyword::Onbuild) => Args::default(),
        Some(kind) => arguments(line, rest, kind, escape)?,
    };
    let takes_heredocs = kind.is_some_and(Keyword::takes_heredocs) && !args.json;
    Ok(Cut { keyword, keyword_span, kind, flags, args, takes_heredocs })
}

/// The instruction that a part names, and where.
fn keyword_of(line: &LogicalLine, part: Part) -> (Option<Keyword>, Span) {
    (Keyword::parse(part.text(line)), line.span_of(part.start, part.end))
}

fn arguments(line: &LogicalLine, rest: Part, kind: Keyword, escape: char) -> Result<Args, Error> {
    Ok(match kind {
        Keyword::Run | Keyword::Cmd | Keyword::Entrypoint | Keyword::Shell => {
            json_or(line, rest, |line, rest| [rest.word(line)].into())?
        }
        Keyword::Copy | Keyword::Add | Keyword::Volume => json_or(line, rest, split::plain_words)?,
        Keyword::Healthcheck => healthcheck(line, rest)?,
        Keyword::Arg => Args::words(split::declarations(line, rest, escape)),
        Keyword::Env | Keyword::Label => {
            Args { pairs: split::pairs(line, rest, kind.name(), escape)?, ..Args::default() }
        }
        Keyword::Expose | Keyword::From => Args::words(split::plain_words(line, rest)),
        Keyword::Maintainer | Keyword::Onbuild | Keyword::Stopsignal | Keyword::User | Keyword::Workdir => {
            if rest.is_empty() {
                Args::default()
            } else {
                Args::words([rest.word(line)])
            }
        }
    })
}

/// A JSON array, or what `other` makes of the text.
fn json_or(
    line: &LogicalLine,
    rest: Part,
    other: impl FnOnce(&LogicalLine, Part) -> Few<Word>,
) -> Result<Args, Error> {
    if rest.is_empty() {
        return Ok(Args::default());
    }
    match json::parse_array(rest.text(line)) {
        Array::Strings(strings) => {
            let words = strings
                .into_iter()
                .map(|(text, at)| {
                    Word::new(line.share(text), line.span_of(rest.start + at.start, rest.start + at.end))
                })
                .collect();
            Ok(Args { words, json: true, ..Args::default() })
        }
        Array::Other => {
            Err(Error::new(ErrorKind::Syntax, "a JSON array of arguments holds something else than strings")
                .at(rest.word(line).span)
                .expected("strings only, each in double quotes"))
        }
        Array::Invalid => Ok(Args::words(other(line, rest))),
    }
}

/// A type, then a command.
fn healthcheck(line: &LogicalLine, rest: Part) -> Result<Args, Error> {
    if rest.is_empty() {
        return Ok(Args::default());
    }
    let text = rest.text(line);
    let end = rest.start + text.find(char::is_whitespace).unwrap_or(text.len());
    let kind = Part { start: rest.start, end };
    let command = Part { start: end, end: rest.end }.trim(line);
    let Args { words, json, .. } = json_or(line, command, |line, part| [part.word(line)].into())?;
    let words = std::iter::once(kind.word(line)).chain(words).collect();
    Ok(Args { words, json, ..Args::default() })
}
