//! COPY and ADD.

use bytestring::ByteString;

use crate::word::Word;

/// What COPY and ADD take from where to where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Paths, wildcards, and for ADD also URLs.
    pub paths: Vec<Word>,
    /// Heredocs that become files, in order; copied after `paths`.
    pub contents: Vec<InlineFile>,
    /// The destination.
    pub dest: Word,
}

/// A heredoc that COPY or ADD makes a file of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InlineFile {
    /// Name of the file: the heredoc's word.
    pub name: Word,
    /// Content; leading tabs are dropped already when `<<-` asked for it.
    pub data: ByteString,
    /// Variables in the content expand (see [`super::Command::expand_raw`]).
    pub expand: bool,
}

/// `COPY [flags] source… dest`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// Sources and destination.
    pub sources: Sources,
    /// `--from`: a stage's name or number, a named context or an image. Never expanded by [`super::Command::expand`].
    pub from: Option<Word>,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`, in order
    pub excludes: Vec<Word>,
}

/// `ADD [flags] source… dest`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Add {
    /// Sources and destination.
    pub sources: Sources,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude`, in order
    pub excludes: Vec<Word>,
    /// `--checksum`
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, when given
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, when given
    pub unpack: Option<bool>,
}
