//! The file op: copies, makes and removes files.
//!
//! Its actions form a small graph of their own: an action takes an input of the op or the result of an earlier action, and may be
//! one of the op's outputs. An action goes on writing where the action before it left off, as long as nobody else sees that result.

use std::{collections::HashMap, fs::File, io::Seek as _, path::Path, sync::Arc};

use kiln_engine::{CacheMap, ExecError, OpContext};
use kiln_fstree::contenthash::ChecksumOptions;
use kiln_fstree::{
    Root,
    fileop::{self, CopyOptions, Linked, Owner, Transfer},
};
use kiln_layer::add::UnpackOptions;
use kiln_oci::Digest;
use kiln_proto::pb::{self, file_action::Action};
use kiln_store::SnapshotterKind;
use kiln_worker::{MutableRef, RefOptions, Unpacked, Writes};

use crate::{
    Host, Kiln, OpError, Output, canonical,
    selector::{InputUse, Selector, content_digest, dedupe_selectors, digest_of_paths},
    stop::Stop,
};

/// Copies, makes and removes files.
#[derive(Debug)]
pub struct FileOp {
    pub(crate) op: pb::FileOp,
    pub(crate) inputs: usize,
    pub(crate) name: String,
    pub(crate) host: Arc<Host>,
}

impl FileOp {
    pub(crate) fn cache_map(&self) -> Result<CacheMap<Kiln>, OpError> {
        let mut map = CacheMap::new(canonical::file(&self.op, self.inputs)?, self.inputs);
        map.inputs = self.uses().iter().map(InputUse::map).collect();
        Ok(map)
    }

    /// How each input is used. One that is written onto counts as a whole; of the others only the selected paths do.
    fn uses(&self) -> Vec<InputUse> {
        let mut selectors: Vec<Vec<Selector>> = vec![Vec::new(); self.inputs];
        let mut written = vec![false; self.inputs];
        for action in &self.op.actions {
            if let Some(written) = index(action.input).and_then(|i| written.get_mut(i)) {
                *written = true;
            }
            if let Some(Action::Copy(copy)) = &action.action
                && let Some(of) = index(action.secondary_input).and_then(|i| selectors.get_mut(i))
            {
                of.push(copied(copy));
            }
            for (user, file) in named_owners(action) {
                if let Some(of) = index(user).and_then(|i| selectors.get_mut(i)) {
                    of.push(Selector::following(file));
                }
            }
        }
        let uses = selectors.into_iter().zip(written);
        uses.map(|(selectors, written)| {
            if written || selectors.is_empty() {
                InputUse::default()
            } else {
                let mut paths: Vec<&str> = selectors.iter().map(|s| s.path.as_str()).collect();
                paths.sort_unstable_by(|a, b| b.cmp(a));
                InputUse {
                    selector: Some(digest_of_paths(&paths)),
                    content: Some(dedupe_selectors(&selectors)),
                }
            }
        })
        .collect()
    }

    pub(crate) async fn content_digest(
        &self,
        cx: &OpContext<Kiln>,
        input: usize,
        result: &Output,
    ) -> Result<Option<Digest>, OpError> {
        let uses = self.uses();
        let Some(selectors) = uses.get(input).and_then(|u| u.content.as_deref()) else { return Ok(None) };
        content_digest(&self.host, cx, selectors, result).await.map(Some)
    }

    pub(crate) async fn exec(
        &self,
        cx: &OpContext<Kiln>,
        inputs: Vec<Output>,
    ) -> Result<Vec<Output>, ExecError<Kiln>> {
        let full = |full: kiln_worker::Error| ExecError::new(full.into());
        let mut growth = self.host.worker.grow().await.map_err(full)?;
        let unpack = async {
            let mut trees = Vec::with_capacity(inputs.len());
            for input in &inputs {
                trees.push(input.unpack(cx).await?);
            }
            Ok::<_, OpError>(trees)
        };
        let trees = growth.run(unpack).await.map_err(full)?.map_err(ExecError::new)?;
        let (stop, writes) = (Stop::new(cx.cancel_flag()), growth.writing());
        let (op, name, host, stopped) = (self.op.clone(), self.name.clone(), self.host.clone(), stop.clone());
        let mut work = tokio::task::spawn_blocking(move || {
            let stopped_now = || stopped.is_set();
            let actions = Actions {
                op: &op,
                name: &name,
                host: &host,
                inputs: &trees,
                stop: &stopped,
                cancelled: &stopped_now,
                writes: &writes,
                linked: Linked::default(),
            };
            actions.run()
        });
        let done = match growth.run(&mut work).await {
            Ok(done) => done,
            Err(error) => {
                // It counts as growing until it has let go of what it wrote.
                stop.set();
                if !work.is_finished() {
                    drop(work.await);
                }
                return Err(full(error));
            }
        };
        match done {
            Ok(Ok(outputs)) => Ok(outputs),
            Ok(Err(Failure { error, mut mounts })) => {
                mounts.resize(self.op.actions.len(), None);
                Err(ExecError { error: *error, inputs: inputs.into_iter().map(Some).collect(), mounts })
            }
            Err(error) => Err(ExecError::new(error.into())),
        }
    }
}

fn index(number: i64) -> Option<usize> {
    usize::try_from(number).ok()
}

fn copied(copy: &pb::FileActionCopy) -> Selector {
    let options = ChecksumOptions {
        follow_links: copy.follow_symlink,
        wildcard: copy.allow_wildcard && has_wildcards(&copy.src),
        include: copy.include_patterns.clone(),
        exclude: copy.exclude_patterns.clone(),
        required: copy.required_paths.clone(),
    };
    Selector { path: copy.src.clone(), options }
}

/// The inputs in whose user files an action looks up names.
fn named_owners(action: &pb::FileAction) -> Vec<(i64, &'static str)> {
    let owner = match &action.action {
        Some(Action::Copy(a)) => a.owner.as_ref(),
        Some(Action::Mkfile(a)) => a.owner.as_ref(),
        Some(Action::Mkdir(a)) => a.owner.as_ref(),
        // A link's owner has never taken part in its key.
        Some(Action::Symlink(_) | Action::Rm(_)) | None => None,
    };
    let Some(owner) = owner else { return Vec::new() };
    let named = |user: &Option<pb::UserOpt>, file| match user.as_ref().and_then(|u| u.user.as_ref()) {
        Some(pb::user_opt::User::ByName(named)) => Some((named.input, file)),
        _ => None,
    };
    [named(&owner.user, "/etc/passwd"), named(&owner.group, "/etc/group")].into_iter().flatten().collect()
}

fn has_wildcards(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// The actions of one op at work.
struct Actions<'a> {
    op: &'a pb::FileOp,
    name: &'a str,
    host: &'a Host,
    inputs: &'a [Option<Unpacked>],
    stop: &'a Stop,
    /// The same for whoever copies.
    cancelled: &'a (dyn Fn() -> bool + Sync),
    writes: &'a Writes,
    /// The files that have a second name in what the op makes.
    linked: Linked,
}

/// An action failed.
struct Failure {
    error: Box<OpError>,
    /// What it and the action that it takes from had made of their trees, by action.
    mounts: Vec<Option<Output>>,
}

impl<E: Into<OpError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: Box::new(error.into()), mounts: Vec::new() }
    }
}

/// The result of an action.
enum State {
    /// Somebody may go on writing.
    Writing(Box<MutableRef>),
    /// It is a ref.
    Done(Option<Unpacked>),
}

/// The tree without files, for an action that reads it.
struct EmptyTree {
    root: Root,
    _dir: tempfile::TempDir,
}

impl EmptyTree {
    fn new() -> Result<Self, OpError> {
        let failed = |source| OpError::Io { what: "making an empty folder".into(), source };
        let dir = tempfile::Builder::new().prefix("kiln-empty-").tempdir().map_err(failed)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(dir.path(), mode).map_err(failed)?;
        }
        let root = Root::open(dir.path()).map_err(|e| OpError::Invalid(e.to_string()))?;
        Ok(Self { root, _dir: dir })
    }
}

impl Actions<'_> {
    fn run(&self) -> Result<Vec<Output>, Failure> {
        let count = self.inputs.len();
        let mut seen: HashMap<i64, usize> = HashMap::new();
        for action in &self.op.actions {
            for taken in [action.input, action.secondary_input] {
                *seen.entry(taken).or_default() += 1;
            }
        }
        let mut states: HashMap<i64, State> =
            self.inputs.iter().zip(0..).map(|(tree, at)| (at, State::Done(tree.clone()))).collect();
        let mut outputs: HashMap<i64, Output> = HashMap::new();
        for at in self.order()? {
            if self.stop.is_set() {
                return Err(OpError::File { action: at, source: kiln_fstree::Error::Canceled }.into());
            }
            let action = &self.op.actions[at];
            let own = i64::try_from(count + at).unwrap_or(i64::MAX);
            let alone = seen.get(&action.input) == Some(&1);
            let mut target = self.target(&mut states, action.input, alone, at)?;
            let source = self.source(&mut states, action, at)?;
            if let Err(error) = self.apply(action, at, &mut target, source.as_ref()) {
                let mounts = self.salvage(at, target, &states);
                return Err(Failure { error: Box::new(error), mounts });
            }
            let shared = seen.get(&own).is_some_and(|n| *n > 1);
            let state =
                if action.output >= 0 || shared { commit(target)? } else { State::Writing(Box::new(target)) };
            if action.output >= 0
                && let State::Done(tree) = &state
            {
                let output = Output(tree.as_ref().map(|tree| tree.as_ref().clone()));
                if outputs.insert(action.output, output).is_some() {
                    let problem = format!("two actions make output {}", action.output);
                    return Err(OpError::Invalid(problem).into());
                }
            }
            states.insert(own, state);
        }
        let count = i64::try_from(outputs.len()).unwrap_or(i64::MAX);
        let missing = |i| OpError::Invalid(format!("no action makes output {i} of {count}"));
        (0..count).map(|i| outputs.remove(&i).ok_or_else(|| missing(i).into())).collect()
    }

    /// What had become of the trees of the action `at`, which has failed.
    fn salvage(&self, at: usize, target: MutableRef, states: &HashMap<i64, State>) -> Vec<Option<Output>> {
        let mut mounts = vec![None; self.op.actions.len()];
        match target.commit() {
            Ok(tree) => mounts[at] = Some(tree.into()),
            Err(error) => tracing::warn!(%error, action = at, "a failed action's files are lost"),
        }
        let taken = self.op.actions[at].secondary_input;
        let maker = index(taken).and_then(|taken| taken.checked_sub(self.inputs.len()));
        if let (Some(slot), Some(State::Done(Some(tree)))) =
            (maker.and_then(|maker| mounts.get_mut(maker)), states.get(&taken))
        {
            *slot = Some(tree.as_ref().clone().into());
        }
        mounts
    }

    /// The actions in an order in which each comes after those whose results it takes.
    fn order(&self) -> Result<Vec<usize>, OpError> {
        let count = self.inputs.len();
        let total = self.op.actions.len();
        let needs = |action: &pb::FileAction| -> Result<Vec<usize>, OpError> {
            let mut needs = Vec::new();
            for taken in [action.input, action.secondary_input].into_iter().filter(|t| *t != kiln_llb::EMPTY)
            {
                match index(taken) {
                    Some(i) if i < count => {}
                    Some(i) if i < count + total => needs.push(i - count),
                    _ => {
                        return Err(OpError::Invalid(format!(
                            "a file action takes input {taken}, of {count}"
                        )));
                    }
                }
            }
            Ok(needs)
        };
        let needs: Vec<Vec<usize>> = self.op.actions.iter().map(needs).collect::<Result<_, _>>()?;
        let (mut order, mut done) = (Vec::with_capacity(total), vec![false; total]);
        while order.len() < total {
            let before = order.len();
            for at in 0..total {
                if !done[at] && needs[at].iter().all(|n| done[*n]) {
                    done[at] = true;
                    order.push(at);
                }
            }
            if order.len() == before {
                return Err(OpError::Invalid("file actions take each other's results in a circle".into()));
            }
        }
        Ok(order)
    }

    /// The tree that an action writes to.
    fn target(
        &self,
        states: &mut HashMap<i64, State>,
        input: i64,
        alone: bool,
        action: usize,
    ) -> Result<MutableRef, OpError> {
        let below = match states.remove(&input) {
            None => None,
            Some(State::Writing(mutable)) if alone => return Ok(*mutable),
            Some(state) => {
                let state = match state {
                    State::Writing(mutable) => commit(*mutable)?,
                    done => done,
                };
                let State::Done(tree) = &state else { return Err(lost(action)) };
                let tree = tree.clone();
                states.insert(input, state);
                tree
            }
        };
        let options = RefOptions { linked: self.links(), ..RefOptions::described(self.name) };
        let created = self.host.worker.create(below.as_ref(), options)?;
        self.writes.to(created.snapshot());
        Ok(created)
    }

    /// Whether copies may be hard links of the files of other snapshots: only where nothing writes to them in place.
    fn links(&self) -> bool {
        self.host.worker.store().snapshots().kind() == SnapshotterKind::Overlay
    }

    /// The tree that an action copies from.
    fn source(
        &self,
        states: &mut HashMap<i64, State>,
        action: &pb::FileAction,
        at: usize,
    ) -> Result<Option<Root>, OpError> {
        if !matches!(action.action, Some(Action::Copy(_))) {
            return Ok(None);
        }
        if let Some(State::Writing(_)) = states.get(&action.secondary_input)
            && let Some(State::Writing(mutable)) = states.remove(&action.secondary_input)
        {
            states.insert(action.secondary_input, commit(*mutable)?);
        }
        match states.get(&action.secondary_input) {
            Some(State::Done(Some(tree))) => Ok(Some(tree.open()?)),
            Some(State::Done(None)) | None => Ok(None),
            Some(State::Writing(_)) => Err(lost(at)),
        }
    }

    fn apply(
        &self,
        action: &pb::FileAction,
        at: usize,
        target: &mut MutableRef,
        source: Option<&Root>,
    ) -> Result<(), OpError> {
        let failed = |source| OpError::File { action: at, source };
        let root = target.open()?;
        match &action.action {
            Some(Action::Copy(copy)) => {
                let empty;
                let source = match source {
                    Some(source) => source,
                    None => {
                        empty = EmptyTree::new()?;
                        &empty.root
                    }
                };
                let unpack = Archives(self.stop);
                let options = CopyOptions {
                    owner: self.owner(copy.owner.as_ref(), at)?,
                    transfer: if self.links() { Transfer::HardLink(&self.linked) } else { Transfer::Copy },
                    unpack: Some(&unpack),
                    cancelled: Some(self.cancelled),
                };
                fileop::copy(source, &root, copy, &options).map_err(failed)
            }
            Some(Action::Mkfile(a)) => {
                fileop::mkfile(&root, a, self.owner(a.owner.as_ref(), at)?).map_err(failed)
            }
            Some(Action::Mkdir(a)) => {
                fileop::mkdir(&root, a, self.owner(a.owner.as_ref(), at)?).map_err(failed)
            }
            Some(Action::Symlink(a)) => {
                fileop::symlink(&root, a, self.owner(a.owner.as_ref(), at)?).map_err(failed)
            }
            Some(Action::Rm(a)) => fileop::rm(&root, a).map_err(failed),
            None => Err(OpError::Invalid("a file action does nothing that is known here".into())),
        }
    }

    fn owner(&self, owner: Option<&pb::ChownOpt>, at: usize) -> Result<Option<Owner>, OpError> {
        let tree = |user: &Option<pb::UserOpt>| -> Result<Option<Root>, OpError> {
            match user.as_ref().and_then(|u| u.user.as_ref()) {
                Some(pb::user_opt::User::ByName(named)) => {
                    let tree = index(named.input).and_then(|i| self.inputs.get(i)).and_then(Option::as_ref);
                    Ok(tree.map(Unpacked::open).transpose()?)
                }
                _ => Ok(None),
            }
        };
        let Some(owner) = owner else { return Ok(None) };
        let (user, group) = (tree(&owner.user)?, tree(&owner.group)?);
        fileop::owner(Some(owner), user.as_ref(), group.as_ref())
            .map_err(|source| OpError::File { action: at, source })
    }
}

fn commit(mutable: MutableRef) -> Result<State, OpError> {
    Ok(State::Done(mutable.commit()?.unpacked()))
}

fn lost(action: usize) -> OpError {
    OpError::Invalid(format!("file action {action} takes a tree that is still being written"))
}

/// Unpacks archives for `ADD`.
struct Archives<'a>(&'a Stop);

impl fileop::Unpack for Archives<'_> {
    fn probe(&self, file: &mut File) -> kiln_fstree::Result<bool> {
        let copy = file
            .try_clone()
            .map_err(|error| kiln_fstree::Error::Refused(format!("cannot read the archive: {error}")))?;
        let is_archive = kiln_layer::add::is_archive(copy);
        file.rewind()
            .map_err(|error| kiln_fstree::Error::Refused(format!("cannot read the archive: {error}")))?;
        Ok(is_archive)
    }

    fn unpack(&self, file: File, dest: &Root, owner: Option<Owner>) -> kiln_fstree::Result<()> {
        let options = UnpackOptions { owner: owner.map(|o| (o.uid, o.gid)), ..UnpackOptions::default() };
        kiln_layer::add::unpack_until(file, dest, Path::new("/"), &options, || self.0.is_set())
            .map_err(|error| kiln_fstree::Error::Refused(format!("cannot unpack the archive: {error}")))
    }
}
