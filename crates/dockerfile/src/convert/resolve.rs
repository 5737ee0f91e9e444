//! What stages start from: images, named contexts, nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::try_join_all;
use kiln_llb::build::{CUSTOM_NAME, Constraints, Env, ImageOptions, State, image_of};
use kiln_oci::{ImageConfig, Platform, Reference, default_path_env};

use super::args::Declared;
use super::failure::refuse;
use super::named::{self, Loaded, NamedContext};
use super::names::COMMAND;
use super::outline::Capture;
use super::resolver::{ImageRequest, ResolvedImage, Resolver};
use super::stage::Stage;
use super::{Converter, Failure, Purpose};
use crate::ast::{self, Command, Instruction};
use crate::error::Error;
use crate::lint::checks;
use crate::suggest::nearest;

/// Names that people misspell.
const COMMON_IMAGES: &[&str] = &["alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"];

/// What came of a stage's base.
enum Base {
    /// A context in place of the stage.
    Stage(Loaded),
    /// A context in place of the image.
    Context(Loaded),
    /// The image.
    Image(Arc<FoundImage>),
    /// Nobody needs it.
    Unneeded(Reference),
}

/// The config of an image that stages start from: only what the specification knows.
struct BaseImage {
    config: Arc<ImageConfig>,
    /// The same without its time, for stages to begin with.
    undated: Arc<ImageConfig>,
}

/// An image, found once for all stages that start from it.
struct FoundImage {
    /// The reference that came back, with its digest.
    name: String,
    /// The same with a tag, if it has neither tag nor digest.
    complete: String,
    base: BaseImage,
    /// There are no layers.
    is_scratch: bool,
}

impl<R: Resolver> Converter<'_, R> {
    /// Adds the stages of the file.
    pub(super) fn add_stages(
        &mut self,
        stages: Vec<ast::Stage>,
        global_args: &[Instruction],
    ) -> Result<(), Failure> {
        let globals = Arc::clone(&self.globals);
        let names = Declared::new(&globals, global_args);
        self.stages.list.reserve(stages.len());
        for (index, stage) in stages.into_iter().enumerate() {
            let span = stage.span;
            if let Err(error) = self.add_stage(index, stage, &names) {
                self.blame(error.within(span));
            }
        }
        self.check()
    }

    fn add_stage(&mut self, index: usize, from: ast::Stage, names: &Declared<'_>) -> Result<(), Error> {
        let base = self.lexer.word(&from.base, &*self.globals);
        let mut lint = self.linter.with_comments(&from.comments);
        checks::undefined_args_in_from(&mut lint, from.span, &base.unmatched, || names.names());
        let base_name = base.text.map_err(|e| e.in_word(&from.base))?;
        if base_name.is_empty() {
            return Err(refuse(format!("base name ({}) should not be blank", from.base)).at(from.base.span));
        }
        let mut used = base.matched;
        let mut stage = self.stages.stage(base_name, from.span);
        stage.platform = self.platform_of(&from, names, &mut used)?.map(Arc::new);
        stage.name = from.name().unwrap_or_default().to_owned();
        stage.description = from.description.unwrap_or_default();
        stage.code = from.code;
        if self.purpose == Purpose::Outline {
            let globals = Arc::clone(&self.global_info);
            stage.outline = Some(Box::new(Capture { globals, ..Capture::default() }));
        }
        if !stage.name.is_empty() {
            let platform = stage.platform.as_ref().unwrap_or(&self.platforms.target);
            stage.named = named::find(self.options, &stage.name, Some(platform))?;
        }
        stage.names.stage = match (stage.name.as_str(), &stage.named) {
            ("", _) => format!("stage-{index}"),
            (name, _) => name.to_owned(),
        };
        stage.names.with_platform = self.options.multi_platform;
        stage.ignore_cache = self.options.no_cache.contains(&stage.name);
        stage.instructions = from.instructions;
        stage.users = from.users;
        let replaced = stage.named.is_some();
        let added = self.stages.add(stage);
        let stage = &mut self.stages.list[added];
        if replaced {
            stage.base = None;
            return Ok(());
        }
        if let Some(outline) = &mut stage.outline {
            outline.used.extend(used);
        }
        stage.names.total = count_steps(stage);
        Ok(())
    }

    /// The value of `FROM --platform`.
    fn platform_of(
        &mut self,
        from: &ast::Stage,
        names: &Declared<'_>,
        used: &mut BTreeSet<String>,
    ) -> Result<Option<Platform>, Error> {
        let Some(written) = from.platform.as_ref().filter(|p| !p.is_empty()) else { return Ok(None) };
        let expansion = self.lexer.word(written, &*self.globals);
        let mut lint = self.linter.with_comments(&from.comments);
        checks::undefined_args_in_from(&mut lint, from.span, &expansion.unmatched, || names.names());
        checks::from_platform(&mut lint, from, &expansion, self.globals.get("TARGETPLATFORM"));
        let text = expansion.text.map_err(|e| e.in_word(written))?;
        let suggestion = || {
            let unknown = expansion.unmatched.iter();
            unknown.flat_map(|name| nearest(name, names.names().iter().map(String::as_str))).next()
        };
        if text.is_empty() {
            let message = format!("empty platform value from expression {written}");
            return Err(refuse(message).at(written.span).suggest(suggestion()));
        }
        let platform = Platform::parse(&text).map_err(|e| {
            refuse(format!("failed to parse platform {written}: {e}")).at(written.span).suggest(suggestion())
        })?;
        used.extend(expansion.matched);
        Ok(Some(platform))
    }

    /// Resolves what the target needs, until triggers of bases bring nothing new.
    pub(super) async fn resolve_stages(&mut self, target: usize) -> Result<(), Failure> {
        loop {
            let reachable = self.stages.reachable(target);
            self.resolve_bases(&reachable).await?;
            let mut more = false;
            for index in reachable {
                more |= self.add_triggers(index)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn resolve_bases(&mut self, reachable: &BTreeSet<usize>) -> Result<(), Failure> {
        let all = self.walks_all();
        let empty = Arc::new(empty_image(&self.platforms.target));
        let mut wanted = Vec::new();
        for index in 0..self.stages.list.len() {
            let needed = all || reachable.contains(&index);
            let stage = &mut self.stages.list[index];
            if stage.base.is_some() || stage.dispatched || stage.resolved {
                continue;
            }
            stage.resolved = needed;
            if stage.base_name == "scratch" && stage.named.is_none() {
                stage.state = State::scratch();
                stage.image = Arc::clone(&empty);
                stage.platform = Some(Arc::clone(&self.platforms.target));
                stage.dispatched |= stage.unregistered;
                continue;
            }
            wanted.push((index, needed));
        }
        let (asked, answers) = self.questions(&wanted);
        let bases = try_join_all(asked.iter().map(|&(index, needed)| self.find_base(index, needed))).await?;
        let mut bases: Vec<Option<Base>> = bases.into_iter().map(Some).collect();
        for ((index, _), answer) in wanted.into_iter().zip(answers) {
            let base = match &mut bases[answer] {
                Some(Base::Image(image)) => Some(Base::Image(Arc::clone(image))),
                own => own.take(),
            };
            let span = self.stages.list[index].span;
            base.map_or(Ok(()), |base| self.apply_base(index, base)).map_err(|e| e.within(span))?;
            let stage = &mut self.stages.list[index];
            stage.dispatched |= stage.unregistered;
        }
        Ok(())
    }

    /// The stages among the wanted ones that ask for others too, and for each wanted stage the place of the one that asks for it:
    /// stages that start from the same image have one question.
    fn questions(&self, wanted: &[(usize, bool)]) -> (Vec<(usize, bool)>, Vec<usize>) {
        let mut asked = Vec::new();
        let mut answers = Vec::with_capacity(wanted.len());
        let mut known = foldhash::HashMap::default();
        for &(index, needed) in wanted {
            let stage = &self.stages.list[index];
            let next = asked.len();
            // A context of the client may be another one for each stage.
            let place = match needed && !self.options.has_contexts() {
                true => *known.entry((&stage.base_name, self.base_platform(index))).or_insert(next),
                false => next,
            };
            if place == next {
                asked.push((index, needed));
            }
            answers.push(place);
        }
        (asked, answers)
    }

    fn base_platform(&self, index: usize) -> Arc<Platform> {
        self.stages.list[index].platform.as_ref().unwrap_or(&self.platforms.target).clone()
    }

    /// Asks outside for a stage's base; changes nothing yet, since stages are asked for side by side.
    async fn find_base(&self, index: usize, needed: bool) -> Result<Base, Failure> {
        let stage = &self.stages.list[index];
        self.ask_for_base(stage, index, needed).await.map_err(|e| e.within(stage.span))
    }

    async fn ask_for_base(&self, stage: &Stage, index: usize, needed: bool) -> Result<Base, Failure> {
        let name = &stage.base_name;
        let reference = Reference::parse(name)
            .map_err(|e| refuse(format!("failed to parse stage name {name:?}: {e}")))?
            .with_default_tag();
        if !needed {
            return Ok(Base::Unneeded(reference));
        }
        if let Some(context) = &stage.named {
            return Ok(Base::Stage(self.load(context, stage).await?));
        }
        let complete = reference.to_string();
        let platform = self.base_platform(index);
        if self.options.has_contexts()
            && let Some(context) = named::find(self.options, &complete, Some(&platform))?
        {
            return Ok(Base::Context(self.load(&context, stage).await?));
        }
        let prefix = match self.options.multi_platform {
            true => format!("[{} internal]", platform.format_all()),
            false => "[internal]".to_owned(),
        };
        let request = ImageRequest {
            log_name: format!("{prefix} load metadata for {complete}"),
            reference: complete,
            platform: Some(Arc::unwrap_or_clone(platform)),
            resolve_mode: self.options.resolve_mode,
            oci_layout: None,
        };
        let resolved = self.resolver.resolve_image(request).await.map_err(|e| self.not_found(stage, e))?;
        Ok(Base::Image(Arc::new(FoundImage::read(resolved, &reference)?)))
    }

    async fn load(&self, context: &NamedContext, stage: &Stage) -> Result<Loaded, Failure> {
        context.load(self.options, self.resolver, stage.paths).await
    }

    fn not_found(&self, stage: &Stage, error: super::BoxError) -> Failure {
        let known = self.stages.names().chain(COMMON_IMAGES.iter().copied());
        let what = match nearest(&stage.base_name, known) {
            Some(near) => format!("{} (did you mean {near}?)", stage.base_name),
            None => stage.base_name.clone(),
        };
        Failure::outside(what, stage.span, error)
    }

    fn apply_base(&mut self, index: usize, base: Base) -> Result<(), Failure> {
        let mut platform = self.base_platform(index);
        let unneeded;
        let (name, complete, found) = match &base {
            Base::Image(image) => (&image.name, &image.complete, Some(image)),
            Base::Unneeded(reference) => {
                unneeded = reference.to_string();
                (&unneeded, &unneeded, None)
            }
            Base::Stage(_) | Base::Context(_) => {
                self.take_loaded(index, base, platform);
                return Ok(());
            }
        };
        if let Some(image) = found {
            let stage = &mut self.stages.list[index];
            if stage.platform.is_none() && self.platforms.implicit {
                platform = self.platforms.detect(&image.base.config, platform);
            }
            image.base.begin(stage);
        }
        let stage = &mut self.stages.list[index];
        let written = std::mem::replace(&mut stage.base_name, name.clone());
        if !found.is_some_and(|image| image.is_scratch) {
            let name = ["FROM ", &stage.base_name].concat();
            let name = stage.names.next(&mut self.texts, &name, Some(&platform), &Env::default(), false);
            let constraints = Constraints::new()
                .descriptions([(COMMAND, stage.code.clone()), (CUSTOM_NAME, name)])
                .location(&self.source.map, stage.span.lines())
                .platform(Arc::clone(&platform));
            let options = ImageOptions { resolve_mode: self.options.resolve_mode, ..ImageOptions::default() };
            stage.state = image_of(complete, options, constraints);
            if found.is_some() {
                checks::base_platform(self.linter, stage.span, &written, &platform, &stage.image);
            }
        }
        stage.platform = Some(platform);
        Ok(())
    }

    /// A client's context takes the place of a stage or its image.
    fn take_loaded(&mut self, index: usize, base: Base, platform: Arc<Platform>) {
        match base {
            Base::Stage(loaded) => self.take_stage(index, loaded),
            Base::Context(loaded) => self.take_context(index, loaded, platform),
            Base::Image(_) | Base::Unneeded(_) => {}
        }
    }

    /// A client's context takes the place of a stage: its instructions are not looked at.
    fn take_stage(&mut self, index: usize, loaded: Loaded) {
        self.pending.extend(loaded.pending);
        let stage = &mut self.stages.list[index];
        stage.dispatched = true;
        stage.state = loaded.state;
        if let Some(mut image) = loaded.image {
            forget_unknown(&mut image);
            image.created = None;
            if !image.architecture.is_empty() && !image.os.is_empty() {
                stage.platform = Some(Arc::new(image.platform()));
            }
            stage.image = Arc::new(image);
        }
    }

    /// A client's context takes the place of an image.
    fn take_context(&mut self, index: usize, loaded: Loaded, platform: Arc<Platform>) {
        self.pending.extend(loaded.pending);
        let stage = &mut self.stages.list[index];
        let mut image = loaded.image.unwrap_or_else(|| empty_image(&platform));
        forget_unknown(&mut image);
        BaseImage::new(image).begin(stage);
        stage.state = loaded.state.platform(Arc::clone(&platform));
        stage.platform = Some(platform);
    }
}

/// How many steps have a number: those that make a layer, and the base.
fn count_steps(stage: &Stage) -> usize {
    let counts = |instruction: &&Instruction| {
        matches!(
            instruction.command,
            Command::Add(_) | Command::Copy(_) | Command::Run(_) | Command::Workdir(_)
        )
    };
    let base = usize::from(stage.base_name != "scratch" && stage.base.is_none());
    base + stage.instructions.iter().filter(counts).count()
}

impl FoundImage {
    /// What came back when an image was asked for by its complete reference.
    fn read(resolved: ResolvedImage, asked: &Reference) -> Result<Self, Error> {
        let mut config = ImageConfig::decode(&resolved.config)
            .map_err(|e| refuse(format!("failed to parse image config of {asked}: {e}")))?;
        let is_scratch = config.rootfs.diff_ids.is_empty() && config.history.iter().all(|h| h.empty_layer);
        forget_unknown(&mut config);
        let mut reference = Reference::parse(&resolved.reference)
            .map_err(|e| refuse(format!("failed to parse ref {:?}: {e}", resolved.reference)))?;
        if let Some(digest) = resolved.digest {
            reference = reference.with_digest(digest);
        }
        let name = reference.to_string();
        let complete = reference.with_default_tag().to_string();
        Ok(Self { name, complete, base: BaseImage::new(config), is_scratch })
    }
}

impl BaseImage {
    fn new(config: ImageConfig) -> Self {
        let config = Arc::new(config);
        let undated = match config.created {
            None => Arc::clone(&config),
            Some(_) => Arc::new(ImageConfig { created: None, ..ImageConfig::clone(&config) }),
        };
        Self { config, undated }
    }

    /// A stage begins with it.
    fn begin(&self, stage: &mut Stage) {
        stage.image = Arc::clone(&self.undated);
        stage.base_image = Some(Arc::clone(&self.config));
    }
}

/// Only what the specification knows reaches images that are built on this one.
fn forget_unknown(image: &mut ImageConfig) {
    image.extra.clear();
    image.config.extra.clear();
}

/// The config of `FROM scratch`.
fn empty_image(platform: &Platform) -> ImageConfig {
    let mut image = ImageConfig::empty(platform);
    image.config.working_dir = "/".into();
    if !platform.is_windows() {
        image.config.env = vec![["PATH=", default_path_env(&platform.os)].concat()];
    }
    image
}
