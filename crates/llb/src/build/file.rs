//! Copying, making and removing files.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use kiln_pattern::{cleaned, join};
use kiln_proto::pb;
use prost::Message;
use smallvec::SmallVec;

use super::node::{Inputs, Kind, Node, Output};
use super::{Constraints, State};
use crate::{EMPTY, SKIP_OUTPUT, caps, marshal};

/// File operations, done one after the other as one op.
#[derive(Debug, Clone, Default)]
pub struct File {
    actions: SmallVec<[Action; 1]>,
    /// What is copied from.
    sources: Inputs,
}

/// A user or group, by number or by name (looked up in the file system that is changed).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

/// Who a file belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// The user; 0 when `None`.
    pub user: Option<User>,
    /// The group; that of the user when `None`.
    pub group: Option<User>,
}

impl Owner {
    /// Reads `user[:group]`; numbers and `root` are ids.
    pub fn parse(s: &str) -> Self {
        let (user, group) = s.split_once(':').map_or((s, None), |(u, g)| (u, Some(g)));
        let read = |s: &str| match s.parse::<i32>() {
            _ if s == "root" => User::Id(0),
            Ok(id) => User::Id(id as u32),
            Err(_) => User::Name(s.to_owned()),
        };
        Self { user: Some(read(user)), group: group.map(read) }
    }

    /// `base` is the input where names are looked up.
    fn into_pb(self, base: i64) -> pb::ChownOpt {
        let user = |u: User| pb::UserOpt {
            user: Some(match u {
                User::Name(name) if !name.is_empty() => {
                    pb::user_opt::User::ByName(pb::NamedUserOpt { name, input: base })
                }
                User::Name(_) => pb::user_opt::User::ById(0),
                User::Id(id) => pb::user_opt::User::ById(id),
            }),
        };
        pb::ChownOpt { user: self.user.map(user), group: self.group.map(user) }
    }
}

/// Options of [`File::copy`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Who the copies belong to; as in the source when `None`.
    pub owner: Option<Owner>,
    /// Mode of the copies; as in the source when `None`.
    pub mode: Option<u32>,
    /// Mode in `chmod`'s symbols, in place of `mode`.
    pub mode_str: Option<String>,
    /// Copy what a link points to.
    pub follow_symlinks: bool,
    /// Copy what is in a folder rather than the folder.
    pub dir_contents_only: bool,
    /// Unpack archives.
    pub attempt_unpack: bool,
    /// Make missing folders above the destination.
    pub create_dest_path: bool,
    /// The source may hold wildcards.
    pub allow_wildcard: bool,
    /// A wildcard may match nothing.
    pub allow_empty_wildcard: bool,
    /// Copy only what matches.
    pub include: Vec<String>,
    /// Leave out what matches.
    pub exclude: Vec<String>,
    /// Patterns that must match something.
    pub required_paths: Vec<String>,
    /// Replace a folder by a file and the reverse.
    pub always_replace: bool,
    /// Modification time in nanoseconds since 1970; as in the source when `None`.
    pub timestamp: Option<i64>,
}

impl File {
    /// No actions yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with room for as many actions as there will be.
    pub fn with_capacity(actions: usize) -> Self {
        Self { actions: SmallVec::with_capacity(actions), ..Self::default() }
    }

    /// Are there no actions?
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    fn add(mut self, what: What, source: Option<&Output>) -> Self {
        self.actions.push(Action { what, source: source.map(|_| self.sources.len()) });
        self.sources.extend(source.cloned());
        self
    }

    fn other(self, action: pb::file_action::Action) -> Self {
        self.add(What::Other(Box::new(action)), None)
    }

    /// Copies `src` of another state to `dest`. Relative paths continue the working directory of their state. Copies with the same
    /// options may share them.
    #[must_use]
    pub fn copy(
        self,
        source: &State,
        src: impl Into<ByteString>,
        dest: impl Into<ByteString>,
        options: impl Into<Arc<CopyOptions>>,
    ) -> Self {
        let mut src = src.into();
        if !src.starts_with('/') {
            src = join(source.get_dir(), &cleaned(&src)).into();
        }
        src = settled(&src, "/", false);
        self.add(What::Copy { src, dest: dest.into(), options: options.into() }, source.output.as_ref())
    }

    /// Makes a folder.
    #[must_use]
    pub fn mkdir(
        self,
        path: &str,
        mode: u32,
        parents: bool,
        owner: Option<Owner>,
        timestamp: Option<i64>,
    ) -> Self {
        let action = pb::FileActionMkDir {
            path: path.to_owned(),
            mode: (mode & 0o777) as i32,
            make_parents: parents,
            owner: owner.map(|owner| owner.into_pb(0)),
            timestamp: timestamp.unwrap_or(-1),
        };
        self.other(pb::file_action::Action::Mkdir(action))
    }

    /// Makes a file.
    #[must_use]
    pub fn mkfile(
        self,
        path: &str,
        mode: u32,
        data: impl Into<Bytes>,
        owner: Option<Owner>,
        timestamp: Option<i64>,
    ) -> Self {
        let action = pb::FileActionMkFile {
            path: path.to_owned(),
            mode: (mode & 0o777) as i32,
            data: data.into(),
            owner: owner.map(|owner| owner.into_pb(0)),
            timestamp: timestamp.unwrap_or(-1),
        };
        self.other(pb::file_action::Action::Mkfile(action))
    }

    /// Makes a symlink at `link` that points to `target`; both are taken as they are.
    #[must_use]
    pub fn symlink(self, target: &str, link: &str, owner: Option<Owner>, timestamp: Option<i64>) -> Self {
        let action = pb::FileActionSymlink {
            oldpath: target.to_owned(),
            newpath: link.to_owned(),
            owner: owner.map(|owner| owner.into_pb(0)),
            timestamp: timestamp.unwrap_or(-1),
        };
        self.other(pb::file_action::Action::Symlink(action))
    }

    /// Removes a file or a folder with all that is in it.
    #[must_use]
    pub fn rm(self, path: &str, allow_not_found: bool, allow_wildcard: bool) -> Self {
        let action = pb::FileActionRm { path: path.to_owned(), allow_not_found, allow_wildcard };
        self.other(pb::file_action::Action::Rm(action))
    }
}

/// An action whose inputs are still positions among the node's inputs.
#[derive(Debug, Clone)]
pub(super) struct Action {
    what: What,
    /// Position of a copy's source.
    source: Option<usize>,
}

#[derive(Debug, Clone)]
enum What {
    /// There are many of these, and most have the same options.
    Copy {
        src: ByteString,
        dest: ByteString,
        options: Arc<CopyOptions>,
    },
    Other(Box<pb::file_action::Action>),
}

impl State {
    /// Changes files. Nothing happens when there are no actions.
    #[must_use]
    pub fn file(&self, file: File, constraints: Constraints) -> Self {
        if file.is_empty() {
            return self.clone();
        }
        let File { mut actions, mut sources } = file;
        let base = self.output.as_ref().map(|output| {
            sources.insert(0, output.clone());
            0
        });
        for Action { what, source } in &mut actions {
            what.resolve_paths(self.get_dir());
            // The base is before the sources.
            *source = source.map(|place| place + usize::from(base.is_some()));
        }
        self.with_output(Node::output(Kind::File { actions, base }, sources, constraints))
    }
}

/// What the daemon must be capable of.
pub(super) fn note_caps(actions: &[Action], caps: &mut Vec<&'static str>) {
    use pb::file_action::Action as Other;
    caps.push(caps::FILE_BASE);
    for action in actions {
        match &action.what {
            What::Copy { options, .. } => options.note_caps(caps),
            What::Other(other) => match &**other {
                Other::Symlink(_) => caps.push(caps::FILE_SYMLINK_CREATE),
                Other::Rm(rm) if rm.allow_wildcard => caps.push(caps::FILE_RM_WILDCARD),
                _ => {}
            },
        }
    }
}

impl CopyOptions {
    fn note_caps(&self, caps: &mut Vec<&'static str>) {
        for (needed, cap) in [
            (!self.include.is_empty() || !self.exclude.is_empty(), caps::FILE_COPY_INCLUDE_EXCLUDE_PATTERNS),
            (!self.required_paths.is_empty(), caps::FILE_COPY_REQUIRED_PATHS),
            (self.always_replace, caps::FILE_COPY_ALWAYS_REPLACE),
            (!self.symbols().is_empty(), caps::FILE_COPY_MODE_STRING),
        ] {
            if needed {
                caps.push(cap);
            }
        }
    }

    fn symbols(&self) -> &str {
        self.mode_str.as_deref().unwrap_or_default()
    }

    /// The message without its paths; names of owners are looked up in the input `base`.
    fn to_pb(&self, base: i64) -> pb::FileActionCopy {
        let mode = match self.mode {
            _ if !self.symbols().is_empty() => 0,
            Some(mode) => mode as i32,
            None => -1,
        };
        pb::FileActionCopy {
            src: String::new(),
            dest: String::new(),
            owner: self.owner.clone().map(|owner| owner.into_pb(base)),
            mode,
            follow_symlink: self.follow_symlinks,
            dir_copy_contents: self.dir_contents_only,
            attempt_unpack_docker_compatibility: self.attempt_unpack,
            create_dest_path: self.create_dest_path,
            allow_wildcard: self.allow_wildcard,
            allow_empty_wildcard: self.allow_empty_wildcard,
            timestamp: self.timestamp.unwrap_or(-1),
            include_patterns: self.include.clone(),
            exclude_patterns: self.exclude.clone(),
            always_replace_existing_dest_paths: self.always_replace,
            mode_str: self.symbols().to_owned(),
            required_paths: self.required_paths.clone(),
        }
    }
}

impl What {
    /// Relative paths continue the state's working directory.
    fn resolve_paths(&mut self, dir: &str) {
        use pb::file_action::Action as Other;
        match self {
            Self::Copy { dest, .. } => {
                *dest = settled(dest, dir, true);
            }
            Self::Other(other) => match &mut **other {
                Other::Mkdir(a) => settle(&mut a.path, dir),
                Other::Mkfile(a) => settle(&mut a.path, dir),
                Other::Rm(a) => settle(&mut a.path, dir),
                Other::Copy(_) | Other::Symlink(_) => {}
            },
        }
    }

    /// Names of owners are looked up in the input `base`.
    fn encode(&self, out: &mut BytesMut, known: &mut EncodedOptions, base: i64) {
        match self {
            Self::Copy { src, dest, options } => marshal::nested(out, 4, |out| {
                marshal::string(out, 1, src);
                marshal::string(out, 2, dest);
                out.extend_from_slice(known.of(options, base));
            }),
            // Input 0 is where they are looked up if nothing else is said.
            Self::Other(other) if base == 0 => other.encode(out),
            Self::Other(other) => {
                let mut other = other.clone();
                set_owner_input(&mut other, base);
                other.encode(out);
            }
        }
    }
}

/// The options of the last copy, as they are encoded: many copies share theirs.
#[derive(Default)]
pub(super) struct EncodedOptions {
    of: Option<(Arc<CopyOptions>, i64)>,
    encoded: BytesMut,
}

impl EncodedOptions {
    fn of(&mut self, options: &Arc<CopyOptions>, base: i64) -> &[u8] {
        let is_same = |(known, with): &(Arc<CopyOptions>, i64)| Arc::ptr_eq(known, options) && *with == base;
        if !self.of.as_ref().is_some_and(is_same) {
            self.encoded.clear();
            options.to_pb(base).encode_raw(&mut self.encoded);
            self.of = Some((Arc::clone(options), base));
        }
        &self.encoded
    }
}

/// Encodes actions with their final inputs: `position` maps the node's inputs to the op's, of which there are `count`.
pub(super) fn encode_actions(
    out: &mut BytesMut,
    actions: &[Action],
    known: &mut EncodedOptions,
    base: Option<usize>,
    count: usize,
    position: impl Fn(usize) -> i64,
) {
    let base = base.map_or(EMPTY, &position);
    let last = actions.len() - 1;
    for (i, action) in actions.iter().enumerate() {
        marshal::nested(out, 2, |out| {
            marshal::number(out, 1, if i == 0 { base } else { (count + i - 1) as i64 });
            marshal::number(out, 2, action.source.map_or(EMPTY, &position));
            marshal::number(out, 3, if i == last { 0 } else { SKIP_OUTPUT });
            action.what.encode(out, known, base);
        });
    }
}

fn set_owner_input(action: &mut pb::file_action::Action, base: i64) {
    use pb::file_action::Action;
    let owner = match action {
        Action::Mkdir(a) => &mut a.owner,
        Action::Mkfile(a) => &mut a.owner,
        Action::Symlink(a) => &mut a.owner,
        Action::Copy(_) | Action::Rm(_) => return,
    };
    let users = owner.iter_mut().flat_map(|o| [&mut o.user, &mut o.group]).flatten();
    for user in users {
        if let Some(pb::user_opt::User::ByName(named)) = &mut user.user {
            named.input = base;
        }
    }
}

/// What [`normalize_path`] makes of a path if that is what it begins with: most stay as they are, but for slashes at their ends.
fn kept(path: &str, keep_slash: bool) -> Option<&str> {
    match cleaned(path) {
        Cow::Borrowed(bare) if path.starts_with('/') => {
            let slash = keep_slash && path.len() > bare.len() && bare != "/";
            path.get(..bare.len() + usize::from(slash))
        }
        _ => None,
    }
}

/// [`normalize_path`] of a text that may be shared.
fn settled(path: &ByteString, dir: &str, keep_slash: bool) -> ByteString {
    match kept(path, keep_slash) {
        Some(kept) => path.slice_ref(kept),
        None => normalize_path(dir, path, keep_slash).into(),
    }
}

/// [`normalize_path`] in place.
fn settle(path: &mut String, dir: &str) {
    match kept(path, false).map(str::len) {
        Some(length) => path.truncate(length),
        None => *path = normalize_path(dir, path, false),
    }
}

/// Makes `path` absolute below `dir` and resolves `.` and `..` by name. `keep_slash` keeps what says "this is a folder":
/// a slash or `/.` at the end.
pub fn normalize_path(dir: &str, path: &str, keep_slash: bool) -> String {
    let below = || if dir.starts_with('/') { join(dir, path) } else { join(&join("/", dir), path) };
    let mut out = if path.starts_with('/') { cleaned(path).into_owned() } else { below() };
    if keep_slash {
        if path.ends_with('/') && !out.ends_with('/') {
            out.push('/');
        } else if path.ends_with("/.") {
            if out != "/" {
                out.push('/');
            }
            out.push('.');
        }
    }
    out
}
