//! The syntax tree of a Dockerfile.
//!
//! ```text
//! Dockerfile
//! ├── directives      # syntax=, escape=, check=
//! ├── global_args     ARG before the first FROM
//! └── stages
//!     └── Stage       FROM base AS name
//!         └── instructions: Instruction { code, span, comments, command: Command }
//! ```
//!
//! Text in the tree is as written: variables are not expanded and quotes are kept, until the converter clones a
//! [`Command`] and calls [`Command::expand`] with its scope. What doesn't expand (the command of RUN, a
//! HEALTHCHECK, the name of a stage) is final.
//!
//! Texts are slices: those of a line that stands for itself share the memory that the file was copied to, those of lines that
//! were joined share one memory of theirs. Who keeps one of them keeps that memory.

mod expand;
mod files;
mod mount;
mod run;

use bytestring::ByteString;

pub use expand::Expander;
pub(crate) use expand::is_plain;
pub use files::{Add, Copy, InlineFile, Sources};
pub use run::{Device, Mount, MountFlag, MountType, NetworkMode, Run, SecurityMode, Sharing};

use crate::directives::Directives;
use crate::parser;
use crate::span::Span;
use crate::word::Word;

/// A list that has one entry most of the time, which needs no memory of its own.
pub type Few<T> = smallvec::SmallVec<[T; 1]>;

/// A parsed Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// The parser directives at the top.
    pub directives: Directives,
    /// Instructions before the first FROM, all of them `Command::Arg`.
    pub global_args: Vec<Instruction>,
    /// The stages in the order of the file.
    pub stages: Vec<Stage>,
}

impl Dockerfile {
    /// Index of the stage with this name; names are compared without case.
    #[must_use]
    pub fn stage_index(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|s| s.name().is_some_and(|n| n.eq_ignore_ascii_case(name)))
    }
}

/// `FROM [--platform=…] base [AS name]` and what follows it up to the next FROM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// The FROM instruction as written, continuations joined, trimmed.
    pub code: ByteString,
    /// Where the FROM instruction stands.
    pub span: Span,
    /// Comment lines directly above, without `#` and surrounding blanks.
    pub comments: Box<[ByteString]>,
    /// `scratch`, an image, or an earlier stage's name; may hold variables.
    pub base: Word,
    /// The name in lower case.
    pub name: Option<Word>,
    /// The name as it was spelled.
    pub spelled_name: Option<ByteString>,
    /// The word between base and name as it was spelled (`AS`, `as`).
    pub spelled_as: Option<ByteString>,
    /// Value of `--platform`; may hold variables.
    pub platform: Option<Word>,
    /// The description: a comment above which starts with the stage's name.
    pub description: Option<ByteString>,
    /// What follows, in order.
    pub instructions: Vec<Instruction>,
    /// Which of them take files from somewhere else than the build context.
    pub(crate) users: Vec<usize>,
}

impl Stage {
    /// The stage's name in lower case, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The keyword as it was spelled (`FROM`, `from`).
    #[must_use]
    pub fn keyword(&self) -> &str {
        parser::spelled_keyword(&self.code)
    }
}

/// One instruction other than FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The instruction as written, continuations joined, comments in between dropped, heredoc bodies left out,
    /// trimmed. History entries and step names are made of it.
    pub code: ByteString,
    /// Where it stands, heredoc bodies included.
    pub span: Span,
    /// Comment lines directly above, without `#` and surrounding blanks.
    pub comments: Box<[ByteString]>,
    /// What it says.
    pub command: Command,
}

impl Instruction {
    /// It has mounts, or takes files from a stage or an image.
    pub(crate) fn is_user(&self) -> bool {
        match &self.command {
            Command::Copy(copy) => copy.from.is_some(),
            Command::Run(run) => !run.mounts.is_empty(),
            _ => false,
        }
    }

    /// The keyword as it was spelled (`RUN`, `run`).
    #[must_use]
    pub fn keyword(&self) -> &str {
        parser::spelled_keyword(&self.code)
    }
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `ADD`
    Add(Box<Add>),
    /// `ARG`
    Arg(Arg),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Box<Copy>),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<KeyValue>),
    /// `EXPOSE`: words in byte order, not yet expanded nor parsed
    Expose(Few<Word>),
    /// `HEALTHCHECK`
    Healthcheck(Box<Healthcheck>),
    /// `LABEL`
    Label(Vec<KeyValue>),
    /// `MAINTAINER`
    Maintainer(Word),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `RUN`
    Run(Box<Run>),
    /// `SHELL`
    Shell(Few<Word>),
    /// `STOPSIGNAL`
    Stopsignal(Word),
    /// `USER`
    User(Word),
    /// `VOLUME`
    Volume(Few<Word>),
    /// `WORKDIR`
    Workdir(Word),
}

impl Command {
    /// The instruction's name in upper case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// `key=value` of ENV and LABEL, quotes kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// Name, may hold variables.
    pub key: Word,
    /// Value, may hold variables.
    pub value: Word,
    /// `false` for the legacy form `ENV key value`.
    pub has_delimiter: bool,
}

/// `ARG name[=value] …`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arg {
    /// The variables it declares, in order.
    pub args: Vec<ArgDecl>,
}

/// One variable of an ARG.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgDecl {
    /// Name.
    pub key: Word,
    /// Default, quotes kept; `None` without `=`.
    pub value: Option<Word>,
    /// The description: a comment above which starts with the variable's name.
    pub description: Option<ByteString>,
}

/// The command of RUN, CMD and ENTRYPOINT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Exec form: the arguments. Shell form: one string, or none at all if there was no text.
    pub args: Few<ByteString>,
    /// Heredocs in the order of their `<<` words.
    pub files: Box<[Heredoc]>,
    /// Shell form: the stage's shell goes before `args`.
    pub prepend_shell: bool,
}

/// A here-document: `<<EOF` in an instruction and the lines up to `EOF`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The word after `<<`, without quotes.
    pub name: ByteString,
    /// The number before `<<`; 0 when there is none.
    pub file_descriptor: u32,
    /// Variables expand: the word was not quoted.
    pub expand: bool,
    /// `<<-`: leading tabs are dropped.
    pub chomp: bool,
    /// The lines, each with its newline, as in the file.
    pub content: ByteString,
    /// Where the `<<` word stands.
    pub span: Span,
}

/// `HEALTHCHECK`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    pub test: Vec<ByteString>,
    /// `--interval` in nanoseconds; 0 when not given.
    pub interval: i64,
    /// `--timeout` in nanoseconds; 0 when not given.
    pub timeout: i64,
    /// `--start-period` in nanoseconds; 0 when not given.
    pub start_period: i64,
    /// `--start-interval` in nanoseconds; 0 when not given.
    pub start_interval: i64,
    /// `--retries`; 0 when not given.
    pub retries: i32,
}

/// `ONBUILD instruction`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Onbuild {
    /// The trigger's text, with the bodies of its heredocs, as the image config keeps it.
    pub expression: ByteString,
}
