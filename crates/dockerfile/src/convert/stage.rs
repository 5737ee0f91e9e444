//! The stages of a conversion, and how they depend on each other.

use std::collections::BTreeSet;
use std::mem::take;
use std::sync::{Arc, LazyLock};

use bytestring::ByteString;
use kiln_llb::build::State;
use kiln_oci::{ImageConfig, Platform};
use smallvec::{SmallVec, smallvec};

use super::build_args::BuildArgs;
use super::env::ImageEnv;
use super::failure::refuse;
use super::named::NamedContext;
use super::names::Steps;
use super::outline::Capture;
use super::used_paths::UsedPaths;
use crate::ast::{self, Command, Instruction};
use crate::error::Error;
use crate::lint::checks::OnlyOnce;
use crate::shell::{Lexer, NoVariables};
use crate::span::Span;
use crate::suggest::nearest;
use crate::text::lower;

/// What FROM calls nothing at all.
const SCRATCH: &str = "scratch";

/// The stages that an instruction takes files from: one or two.
pub(super) type Sources = SmallVec<[usize; 2]>;

/// An instruction at work, and the stages it takes files from.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) instruction: Instruction,
    /// COPY: its `--from`. RUN: one for each mount.
    pub(super) sources: Sources,
    /// It came from a trigger of the base.
    pub(super) onbuild: bool,
}

/// A stage in the making, or an image that some instruction takes files from.
#[derive(Debug)]
pub(super) struct Stage {
    /// What it starts from; the complete reference once it is resolved.
    pub(super) base_name: String,
    /// The stage it starts from.
    pub(super) base: Option<usize>,
    /// Its name in lower case; empty if it has none.
    pub(super) name: String,
    /// The FROM as written.
    pub(super) code: ByteString,
    pub(super) description: ByteString,
    pub(super) span: Span,
    /// Those of the base that come before its own instructions.
    pub(super) triggers: Vec<Step>,
    pub(super) instructions: Vec<Instruction>,
    /// Which of them take files from somewhere else than the build context.
    pub(super) users: Vec<usize>,
    /// Which stages its instructions take files from: for those that take some, by their place.
    pub(super) sources: Vec<(usize, Sources)>,
    /// A client's context takes its place.
    pub(super) named: Option<NamedContext>,
    pub(super) deps: BTreeSet<usize>,
    /// It stands in no FROM: `COPY --from=image`.
    pub(super) unregistered: bool,
    pub(super) resolved: bool,
    pub(super) dispatched: bool,
    pub(super) triggers_known: bool,

    pub(super) state: State,
    /// Shared with other stages until it is changed.
    pub(super) image: Arc<ImageConfig>,
    /// The base image's config as it was.
    pub(super) base_image: Option<Arc<ImageConfig>>,
    pub(super) platform: Option<Arc<Platform>>,
    pub(super) names: Steps,
    pub(super) ignore_cache: bool,
    pub(super) env: ImageEnv,
    pub(super) build_args: BuildArgs,
    /// There was a WORKDIR.
    pub(super) workdir_set: bool,
    pub(super) cmd: OnlyOnce,
    pub(super) entrypoint: OnlyOnce,
    pub(super) healthcheck: OnlyOnce,
    /// Index of the set of paths that others use of what it starts from, if anybody asks for these.
    pub(super) paths: Option<usize>,
    /// What it can be given, where that is asked for.
    pub(super) outline: Option<Box<Capture>>,
    pub(super) scan_context: bool,
    pub(super) scan_stage: bool,
}

/// What a stage has before its base is known.
fn no_image() -> Arc<ImageConfig> {
    static NOTHING: LazyLock<Arc<ImageConfig>> = LazyLock::new(Arc::default);
    Arc::clone(&NOTHING)
}

impl Stage {
    /// The stage's image, its own from now on.
    pub(super) fn image_mut(&mut self) -> &mut ImageConfig {
        Arc::make_mut(&mut self.image)
    }
}

/// All stages, by index.
#[derive(Debug, Default)]
pub(super) struct Stages {
    pub(super) list: Vec<Stage>,
    by_name: foldhash::HashMap<String, usize>,
    /// The stage of those who take files from nothing.
    scratch: Option<usize>,
    pub(super) used_paths: UsedPaths,
    /// By stage, the last one that starts from it.
    last_users: foldhash::HashMap<usize, usize>,
}

impl Stages {
    /// A stage that starts from `base_name`.
    pub(super) fn stage(&mut self, base_name: String, span: Span) -> Stage {
        Stage {
            base_name,
            base: None,
            name: String::new(),
            code: ByteString::new(),
            description: ByteString::new(),
            span,
            triggers: Vec::new(),
            instructions: Vec::new(),
            users: Vec::new(),
            sources: Vec::new(),
            named: None,
            deps: BTreeSet::new(),
            unregistered: false,
            resolved: false,
            dispatched: false,
            triggers_known: false,
            state: State::scratch(),
            image: no_image(),
            base_image: None,
            platform: None,
            names: Steps::default(),
            ignore_cache: false,
            env: ImageEnv::default(),
            build_args: BuildArgs::default(),
            workdir_set: false,
            cmd: OnlyOnce::default(),
            entrypoint: OnlyOnce::default(),
            healthcheck: OnlyOnce::default(),
            paths: self.used_paths.new_set(),
            outline: None,
            scan_context: false,
            scan_stage: false,
        }
    }

    /// Adds a stage; it starts from an earlier one if its base has such a name.
    pub(super) fn add(&mut self, mut stage: Stage) -> usize {
        let index = self.list.len();
        if let Some(&base) = self.by_name.get(&stage.base_name) {
            stage.base = Some(base);
            stage.outline = self.list[base].outline.clone();
        }
        if !stage.name.is_empty() {
            self.by_name.insert(lower(&stage.name).into_owned(), index);
        }
        self.list.push(stage);
        index
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(lower(name).as_ref()).copied()
    }

    /// Names for suggestions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|s| s.names.stage.as_str()).filter(|n| !n.is_empty())
    }

    /// The wanted stage: the last one, or that of a name.
    pub(super) fn target(&self, name: &str) -> Result<usize, Error> {
        if name.is_empty() {
            return Ok(self.list.len() - 1);
        }
        self.find(name).ok_or_else(|| {
            refuse(format!("target stage {name:?} could not be found")).suggest(nearest(name, self.names()))
        })
    }

    /// Finds out which stages take files from which.
    pub(super) fn connect(&mut self, errors: &mut Vec<Error>) {
        for index in 0..self.list.len() {
            let instructions = take(&mut self.list[index].instructions);
            for place in take(&mut self.list[index].users) {
                let instruction = &instructions[place];
                match self.sources(instruction) {
                    Ok(sources) if sources.is_empty() => {}
                    Ok(sources) => {
                        self.list[index].deps.extend(&sources);
                        self.list[index].sources.push((place, sources));
                    }
                    Err(error) => errors.push(error.within(instruction.span)),
                }
            }
            self.list[index].instructions = instructions;
        }
        if errors.is_empty() {
            errors.extend(self.check_circles().err());
        }
        if let [only] = self.list.as_mut_slice() {
            only.names.stage.clear();
        }
    }

    /// The stages that an instruction takes files from; images are added as stages of their own.
    pub(super) fn sources(&mut self, instruction: &Instruction) -> Result<Sources, Error> {
        let span = instruction.span;
        match &instruction.command {
            Command::Copy(copy) => {
                let Some(from) = copy.from.as_ref().filter(|from| !from.is_empty()) else {
                    return Ok(Sources::new());
                };
                let plain = Lexer::new('\\').word(from, &NoVariables).text.map_err(|e| e.in_word(from))?;
                if plain != from.as_str() {
                    // BuildKit's clients mark no line for this error and the next.
                    return Err(refuse(
                        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global \
                         scope as a workaround",
                    )
                    .unblamed());
                }
                Ok(smallvec![match from.parse::<i64>() {
                    Ok(number) => usize::try_from(number)
                        .ok()
                        .filter(|&n| n < self.list.len())
                        .ok_or_else(|| refuse(format!("invalid stage index {number}")).unblamed())?,
                    Err(_) if from == SCRATCH => self.scratch(),
                    Err(_) => self.find_or_add(from, span),
                }])
            }
            Command::Run(run) => {
                // BuildKit's clients mark no line for an image that is not there.
                let source = |mount: &ast::Mount| match &*mount.from {
                    "" | SCRATCH => self.scratch(),
                    name => self.find_or_add(name, Span::default()),
                };
                Ok(run.mounts().map(source).collect())
            }
            _ => Ok(Sources::new()),
        }
    }

    /// The stage with this name, or the image, as a stage of its own.
    fn find_or_add(&mut self, name: &str, span: Span) -> usize {
        self.find(name).unwrap_or_else(|| {
            let mut stage = self.stage(name.to_owned(), span);
            stage.unregistered = true;
            self.add(stage)
        })
    }

    /// The stage that stands for nothing: there is one, whoever takes files from it.
    fn scratch(&mut self) -> usize {
        if let Some(index) = self.scratch {
            return index;
        }
        let index = self.find_or_add(SCRATCH, Span::default());
        self.scratch = Some(index);
        index
    }

    /// A stage must not take files from itself, over whatever detours.
    fn check_circles(&self) -> Result<(), Error> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.list.len()];
        let mut stack = Vec::new();
        for start in 0..self.list.len() {
            stack.push((start, false));
            while let Some((index, leave)) = stack.pop() {
                if leave {
                    marks[index] = Mark::Done;
                    continue;
                }
                if marks[index] != Mark::New {
                    continue;
                }
                marks[index] = Mark::Open;
                stack.push((index, true));
                for &dep in &self.list[index].deps {
                    if marks[dep] == Mark::Open {
                        let name = &self.list[start].names.stage;
                        let message = format!("circular dependency detected on stage: {name}");
                        return Err(refuse(message).within(self.user_of(index, dep)));
                    }
                    stack.push((dep, false));
                }
            }
        }
        Ok(())
    }

    /// The instruction by which one stage takes files from another.
    fn user_of(&self, index: usize, dep: usize) -> Span {
        let stage = &self.list[index];
        let user = stage.sources.iter().find(|(_, sources)| sources.contains(&dep));
        user.and_then(|&(place, _)| stage.instructions.get(place)).map_or(stage.span, |user| user.span)
    }

    /// The stages that a target needs, itself included.
    pub(super) fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![target];
        while let Some(index) = todo.pop() {
            if seen.insert(index) {
                todo.extend(self.list[index].base);
                todo.extend(&self.list[index].deps);
            }
        }
        seen
    }

    /// Lets a stage begin as the stage it starts from ended. The last one to do so takes what the other has, so that long
    /// chains of stages cost no more than their length: only the file system stays.
    pub(super) fn inherit(&mut self, index: usize) {
        let Some(base) = self.list[index].base else { return };
        let is_last = self.last_users.get(&base) == Some(&index);
        let Ok([base, stage]) = self.list.get_disjoint_mut([base, index]) else { return };
        stage.state = base.state.clone();
        stage.platform.clone_from(&base.platform);
        (stage.paths, stage.workdir_set) = (base.paths, base.workdir_set);
        if is_last {
            base.state = base.state.bare();
            stage.image = std::mem::replace(&mut base.image, no_image());
            stage.base_image = base.base_image.take();
            (stage.build_args, stage.env) = (take(&mut base.build_args), take(&mut base.env));
        } else {
            stage.image = Arc::clone(&base.image);
            stage.base_image.clone_from(&base.base_image);
            (stage.build_args, stage.env) = (base.build_args.clone(), base.env.clone());
        }
        // Triggers are for images built on this one, not for stages.
        if !stage.image.config.on_build.is_empty() {
            stage.image_mut().config.on_build.clear();
        }
    }

    /// Finds out which stages that are walked are the last to start from which others.
    pub(super) fn find_last_users(&mut self, walked: impl Fn(usize) -> bool) {
        self.last_users = (0..self.list.len())
            .filter(|&index| walked(index))
            .filter_map(|index| Some((self.list[index].base?, index)))
            .collect();
    }

    /// Lets go of what only stages that start from this one would need, if there are none.
    pub(super) fn let_go(&mut self, index: usize) {
        if self.last_users.contains_key(&index) {
            return;
        }
        let stage = &mut self.list[index];
        stage.image = no_image();
        stage.env = ImageEnv::default();
        stage.build_args = BuildArgs::default();
        stage.state = stage.state.bare();
    }

    /// Notes that all paths are used of what a stage starts from.
    pub(super) fn use_all(&mut self, index: usize) {
        self.used_paths.add_all(self.list[index].paths);
    }

    /// Notes that a path is used of what a stage starts from.
    pub(super) fn use_path(&mut self, index: usize, path: &str) {
        self.used_paths.add(self.list[index].paths, path);
    }
}
