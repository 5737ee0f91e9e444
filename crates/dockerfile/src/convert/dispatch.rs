//! Walking through the instructions of the stages that are needed.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::{Arc, LazyLock};

use bytestring::ByteString;
use kiln_llb::build::{Args, Constraints, File, Owner, State};
use kiln_oci::{HealthCheck, History, ImageConfig, Platform, default_path_env};

use super::args::StateEnv;
use super::failure::refuse;
use super::format;
use super::outline::ArgInfo;
use super::paths;
use super::resolver::Resolver;
use super::stage::{Stage, Step};
use super::{Converter, Failure, certain, expose, names, signal};
use crate::ast::{ArgDecl, Command, CommandLine, Healthcheck, Instruction, KeyValue, is_plain};
use crate::document::MAX_ERRORS;
use crate::error::Error;
use crate::lint::checks;
use crate::shell::Lexer;
use crate::text::parse_bool;
use crate::word::Word;

/// Every RUN has all variables, and tells of all arguments: a small file can make very much of that.
const MAX_MADE: usize = 128 << 20;
const HISTORY_COMMENT: Cow<'static, str> = Cow::Borrowed("buildkit.dockerfile.v0");
/// Build arguments that choose what is scanned; no step sees them.
const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

impl<R: Resolver> Converter<'_, R> {
    /// Walks the stages that are needed, in the order of the file.
    pub(super) async fn dispatch_stages(&mut self, target: usize) -> Result<(), Failure> {
        self.ignore = Some(self.source.ignore(self.options, self.resolver).await?);
        let (reachable, all) = (self.stages.reachable(target), self.walks_all());
        self.stages.find_last_users(|index| all || reachable.contains(&index));
        for index in 0..self.stages.list.len() {
            let wanted = reachable.contains(&index) && !self.stages.list[index].dispatched;
            if (wanted || all) && self.errors.len() < MAX_ERRORS && self.made <= MAX_MADE {
                self.dispatch_stage(index);
                if index != target {
                    self.stages.let_go(index);
                }
            }
        }
        self.check()?;
        // All of the target is used, whoever looks.
        self.stages.use_all(target);
        Ok(())
    }

    fn dispatch_stage(&mut self, index: usize) {
        self.stages.inherit(index);
        let stage = &mut self.stages.list[index];
        stage.dispatched = true;
        let triggers = std::mem::take(&mut stage.triggers);
        let instructions = std::mem::take(&mut stage.instructions);
        let mut sources = std::mem::take(&mut stage.sources).into_iter().peekable();
        // Each leaves an entry.
        stage.image_mut().history.reserve(triggers.len() + instructions.len());
        if let Err(error) = self.begin_stage(index) {
            return self.blame(error);
        }
        let own = instructions.into_iter().enumerate().map(|(place, instruction)| {
            let sources = sources.next_if(|(user, _)| *user == place);
            Step { instruction, sources: sources.map(|(_, all)| all).unwrap_or_default(), onbuild: false }
        });
        for step in triggers.into_iter().chain(own) {
            let span = step.instruction.span;
            if let Err(error) = self.dispatch(index, step) {
                self.blame(error.within(span));
            }
            if self.made > MAX_MADE {
                let message = format!("steps and history up to here take more than {MAX_MADE} bytes");
                return self.blame(refuse(message).within(span));
            }
            if self.errors.len() >= MAX_ERRORS {
                return;
            }
        }
        self.note_scans(index);
    }

    /// Takes variables, folder and user from the base's config.
    fn begin_stage(&mut self, index: usize) -> Result<(), Error> {
        let stage = &mut self.stages.list[index];
        let platform = Arc::clone(stage.platform.get_or_insert_with(|| Arc::clone(&self.platforms.target)));
        let has_path = stage.image.config.env.iter().any(|e| e.starts_with("PATH="));
        if !platform.is_windows() && !has_path {
            stage.image_mut().config.env.push(format!("PATH={}", default_path_env(&platform.os)));
        }
        stage.begin_env();
        let mut state = std::mem::replace(&mut stage.state, State::scratch());
        if !self.options.hostname.is_empty() {
            state = state.hostname(self.options.hostname.as_str());
        }
        let working_dir = stage.image.config.working_dir.clone();
        if !working_dir.is_empty() {
            let dir = enter(stage.image_mut(), &working_dir, platform.is_windows())
                .map_err(|e| e.within(stage.span))?;
            state = state.dir(dir);
        }
        if !stage.image.config.user.is_empty() {
            state = state.user(stage.image.config.user.as_str());
        }
        stage.state = state.network(self.options.network);
        Ok(())
    }

    fn dispatch(&mut self, index: usize, mut step: Step) -> Result<(), Error> {
        self.expand(index, &mut step.instruction)?;
        if let Command::Run(run) = &mut step.instruction.command {
            let run = std::mem::take(&mut **run);
            return self.run_step(index, step, run);
        }
        if let Command::Label(pairs) = &mut step.instruction.command {
            let pairs = std::mem::take(pairs);
            return self.label(index, &step.instruction, pairs);
        }
        let instruction = &step.instruction;
        match &instruction.command {
            Command::Copy(copy) => self.copy_step(index, &step, copy),
            Command::Add(add) => self.add_step(index, &step, add),
            Command::Workdir(path) => self.workdir(index, &step, path),
            Command::Arg(arg) => self.arg(index, instruction, &arg.args),
            Command::Env(pairs) => self.env(index, instruction, pairs),
            Command::Cmd(line) => self.cmd(index, instruction, line),
            Command::Entrypoint(line) => self.entrypoint(index, instruction, line),
            Command::Healthcheck(check) => self.healthcheck(index, instruction, check),
            Command::Expose(ports) => self.expose(index, instruction, ports),
            command => {
                if let Some(message) = self.stages.list[index].metadata(command)? {
                    self.commit(index, message, false);
                }
                Ok(())
            }
        }
    }

    /// Expands the instruction's words in the scope of the stage.
    fn expand(&mut self, index: usize, instruction: &mut Instruction) -> Result<(), Error> {
        let Instruction { comments, command, span, .. } = instruction;
        let stage = &self.stages.list[index];
        let (lexer, heredoc) = (&self.lexer, Lexer::for_heredoc());
        let mut lint = self.linter.with_comments(comments);
        let mut expand = |lexer: &Lexer, word: &str| {
            let expansion = lexer.word_and_unmatched(word, &StateEnv(&stage.state));
            stage.report(&mut lint, *span, &expansion.unmatched);
            expansion.text
        };
        command.expand(&mut |word| expand(lexer, word))?;
        command.expand_raw(&mut |word| expand(&heredoc, word))
    }

    fn arg(&mut self, index: usize, instruction: &Instruction, args: &[ArgDecl]) -> Result<(), Error> {
        let mut message = String::with_capacity(instruction.code.len() + 8);
        message.push_str("ARG");
        let mut lint = self.linter.with_comments(&instruction.comments);
        for decl in args {
            let name = &decl.key.text;
            checks::secret_name(&mut lint, instruction.span, "ARG", name);
            let stage = &mut self.stages.list[index];
            let given = self.build_args.get(&**name).map(|given| given.as_str().into());
            let inherited = given.is_none() && decl.value.is_none() && self.globals.get(name).is_some();
            let value = match (given, &decl.value) {
                (Some(given), _) => Some(given),
                (None, Some(default)) if is_plain(default) => Some(default.text.clone()),
                (None, Some(default)) => {
                    let expansion = self.lexer.word(default, &StateEnv(&stage.state));
                    stage.report(&mut lint, instruction.span, &expansion.unmatched);
                    Some(expansion.text.map_err(|e| e.in_word(default))?.into())
                }
                (None, None) => self.globals.get(name).map(ByteString::from),
            };
            if let Some(value) = value.as_ref().filter(|_| ![SCAN_CONTEXT, SCAN_STAGE].contains(&&**name)) {
                stage.set_arg(name, value);
            }
            if let Some(outline) = &mut stage.outline {
                if inherited {
                    outline.used.insert(name.to_string());
                } else {
                    let mut info = ArgInfo::new(decl, instruction.span);
                    info.value = value.as_deref().unwrap_or_default().to_owned();
                    outline.args.insert(name.to_string(), info);
                }
            }
            message.extend([" ", name]);
            message.extend(value.iter().flat_map(|value| ["=", value]));
            stage.build_args.declare(name, value);
        }
        self.commit(index, message, false);
        Ok(())
    }

    fn env(&mut self, index: usize, instruction: &Instruction, pairs: &[KeyValue]) -> Result<(), Error> {
        let mut message = String::with_capacity(instruction.code.len() + 8);
        message.push_str("ENV");
        let mut lint = self.linter.with_comments(&instruction.comments);
        for pair in pairs {
            checks::legacy_pair(&mut lint, instruction, pair);
            checks::secret_name(&mut lint, instruction.span, "ENV", &pair.key);
            let (key, value) = (&pair.key.text, &pair.value.text);
            message.extend([" ", key, "=", value]);
            self.stages.list[index].set_env(key, value);
        }
        self.commit(index, message, false);
        Ok(())
    }

    fn label(&mut self, index: usize, instruction: &Instruction, pairs: Vec<KeyValue>) -> Result<(), Error> {
        let mut message = String::with_capacity(instruction.code.len() + 8);
        message.push_str("LABEL");
        let mut lint = self.linter.with_comments(&instruction.comments);
        for pair in pairs {
            checks::legacy_pair(&mut lint, instruction, &pair);
            message.extend([" ", &pair.key, "=", &pair.value]);
            let labels = &mut self.stages.list[index].image_mut().config.labels;
            labels.insert(pair.key.as_str().to_owned(), pair.value.as_str().to_owned());
        }
        self.commit(index, message, false);
        Ok(())
    }

    fn cmd(&mut self, index: usize, instruction: &Instruction, line: &CommandLine) -> Result<(), Error> {
        let mut lint = self.linter.with_comments(&instruction.comments);
        let stage = &mut self.stages.list[index];
        stage.cmd.note(&mut lint, instruction);
        checks::json_recommended(&mut lint, instruction, !stage.image.config.shell.is_empty());
        let args = stage.with_shell(line);
        let message = ["CMD ", &format::quoted_list(&args)].concat();
        let config = &mut stage.image_mut().config;
        (config.cmd, config.args_escaped) = (args, true);
        self.commit(index, message, false);
        Ok(())
    }

    fn entrypoint(
        &mut self,
        index: usize,
        instruction: &Instruction,
        line: &CommandLine,
    ) -> Result<(), Error> {
        let mut lint = self.linter.with_comments(&instruction.comments);
        let stage = &mut self.stages.list[index];
        stage.entrypoint.note(&mut lint, instruction);
        checks::json_recommended(&mut lint, instruction, !stage.image.config.shell.is_empty());
        let args = stage.with_shell(line);
        let message = ["ENTRYPOINT ", &format::quoted_list(&args)].concat();
        stage.image_mut().config.entrypoint = args;
        // The base's arguments were for the base's program.
        if !stage.cmd.is_set() {
            stage.image_mut().config.cmd.clear();
        }
        self.commit(index, message, false);
        Ok(())
    }

    fn healthcheck(
        &mut self,
        index: usize,
        instruction: &Instruction,
        check: &Healthcheck,
    ) -> Result<(), Error> {
        let mut lint = self.linter.with_comments(&instruction.comments);
        let stage = &mut self.stages.list[index];
        stage.healthcheck.note(&mut lint, instruction);
        let check = HealthCheck {
            test: check.test.iter().map(ToString::to_string).collect(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: i64::from(check.retries),
        };
        let message = format!("HEALTHCHECK {}", format::health_check(&check));
        stage.image_mut().config.healthcheck = Some(check);
        self.commit(index, message, false);
        Ok(())
    }

    fn expose(&mut self, index: usize, instruction: &Instruction, ports: &[Word]) -> Result<(), Error> {
        let mut all = Vec::new();
        let mut lint = self.linter.with_comments(&instruction.comments);
        for port in ports {
            let stage = &self.stages.list[index];
            let words = self.lexer.words(port, &StateEnv(&stage.state)).map_err(|e| e.in_word(port))?;
            for word in words {
                let parsed = expose::ports(&word, port.span)?;
                checks::exposed_port(&mut lint, instruction.span, &word);
                all.extend(parsed);
            }
        }
        let message = format!("EXPOSE {}", format::plain_list(&all));
        self.stages.list[index].image_mut().config.exposed_ports.extend(all);
        self.commit(index, message, false);
        Ok(())
    }

    fn workdir(&mut self, index: usize, step: &Step, path: &Word) -> Result<(), Error> {
        let instruction = &step.instruction;
        let stage = &mut self.stages.list[index];
        let platform = Arc::clone(stage.platform());
        if !stage.workdir_set && !paths::is_absolute(path, platform.is_windows()) {
            let mut lint = self.linter.with_comments(&instruction.comments);
            checks::relative_workdir(&mut lint, instruction.span, path);
        }
        stage.workdir_set = true;
        let dir = enter(stage.image_mut(), path, platform.is_windows()).map_err(|e| e.at(path.span))?;
        stage.change_state(|state| state.dir(&dir));
        let layer = dir != "/";
        if layer {
            let env = StateEnv(&stage.state);
            let text = names::display(&self.lexer, &instruction.code, &env);
            let name =
                stage.names.next(&mut self.texts, &text, Some(&platform), stage.state.envs(), step.onbuild);
            let user = &stage.image.config.user;
            let owner = Some(Owner::parse(user)).filter(|_| !user.is_empty());
            let constraints = Constraints::new()
                .custom_name(name)
                .location(&self.source.map, instruction.span.lines())
                .platform(platform);
            let file = File::new().mkdir(&dir, 0o755, true, owner, self.epoch.as_ref().map(nanos));
            stage.state = stage.state.file(file, constraints);
        }
        self.commit(index, ["WORKDIR ", &dir].concat(), layer);
        Ok(())
    }

    /// Adds an entry to the image's history.
    pub(super) fn commit(&mut self, index: usize, created_by: String, layer: bool) {
        self.made += created_by.len();
        let created = self.epoch.clone();
        let comment = HISTORY_COMMENT;
        let entry = History { created, created_by, comment, empty_layer: !layer, ..History::default() };
        self.stages.list[index].image_mut().history.push(entry);
    }

    /// What the build arguments say of scanning.
    fn note_scans(&mut self, index: usize) {
        for name in [SCAN_CONTEXT, SCAN_STAGE] {
            let stage = &self.stages.list[index];
            let Some(value) = stage.build_args.given(name).or_else(|| self.globals.get(name)) else {
                continue;
            };
            let named = || value.split(',').any(|v| v == stage.names.stage);
            let on = parse_bool(value).unwrap_or_else(named);
            let stage = &mut self.stages.list[index];
            match name {
                SCAN_CONTEXT => stage.scan_context = on,
                _ => stage.scan_stage = on,
            }
        }
    }
}

impl Stage {
    /// The platform of a stage that is being walked.
    pub(super) fn platform(&self) -> &Arc<Platform> {
        // Set when the walk began.
        static NONE: LazyLock<Arc<Platform>> = LazyLock::new(|| Arc::new(Platform::host()));
        self.platform.as_ref().unwrap_or(&NONE)
    }

    /// Warns of variables that nothing defines.
    pub(super) fn report(
        &self,
        lint: &mut crate::lint::Scoped<'_>,
        span: crate::Span,
        unmatched: &std::collections::BTreeSet<String>,
    ) {
        if unmatched.is_empty() {
            return;
        }
        let declared =
            |name: &str| name == SCAN_CONTEXT || name == SCAN_STAGE || self.build_args.declares(name);
        let ordered = OnceCell::new();
        let defined = || ordered.get_or_init(|| self.ordered_state()).envs().iter().map(|(name, _)| name);
        checks::undefined_variables(lint, span, unmatched, declared, defined);
    }

    /// Changes the state without a copy of what it holds.
    pub(super) fn change_state(&mut self, change: impl FnOnce(State) -> State) {
        self.state = change(std::mem::replace(&mut self.state, State::scratch()));
    }

    /// The arguments of a command, after the stage's shell if it is in shell form.
    fn with_shell(&self, line: &CommandLine) -> Vec<String> {
        let command = self.shell_command(&line.args, line.prepend_shell);
        command.iter().map(ToString::to_string).collect()
    }

    pub(super) fn shell_command(&self, args: &[ByteString], in_shell: bool) -> Args {
        let fixed =
            |words: &[&'static str]| words.iter().map(|&word| ByteString::from_static(word)).collect();
        let mut command: Args = match self.image.config.shell.as_slice() {
            _ if !in_shell => return args.into(),
            [] if self.image.os == "windows" => fixed(&["cmd", "/S", "/C", ""]),
            [] => fixed(&["/bin/sh", "-c", ""]),
            shell => shell.iter().map(String::as_str).chain([""]).map(ByteString::from).collect(),
        };
        if let Some(last) = command.last_mut() {
            *last = match args {
                [only] => only.clone(),
                args => args.join(" ").into(),
            };
        }
        command
    }

    /// Instructions that change nothing but the config; the history gets what comes back.
    fn metadata(&mut self, command: &Command) -> Result<Option<String>, Error> {
        let image = Arc::make_mut(&mut self.image);
        let config = &mut image.config;
        Ok(Some(match command {
            Command::Maintainer(name) => {
                name.as_str().clone_into(&mut image.author);
                format!("MAINTAINER {name}")
            }
            Command::Onbuild(onbuild) => {
                config.on_build.push(onbuild.expression[..].to_owned());
                return Ok(None);
            }
            Command::User(user) => {
                user.as_str().clone_into(&mut config.user);
                self.change_state(|state| state.user(user.as_str()));
                ["USER ", user].concat()
            }
            Command::Volume(volumes) => {
                certain::check_volumes(volumes)?;
                config.volumes.extend(volumes.iter().map(|v| v.as_str().to_owned()));
                format!("VOLUME {}", format::plain_list(volumes))
            }
            Command::Stopsignal(name) => {
                signal::check(name)?;
                name.as_str().clone_into(&mut config.stop_signal);
                ["STOPSIGNAL ", name].concat()
            }
            Command::Shell(shell) => {
                config.shell = shell.iter().map(|w| w.as_str().to_owned()).collect();
                format!("SHELL {}", format::plain_list(shell))
            }
            other => return Err(refuse(format!("{} is not supported here", other.name()))),
        }))
    }
}

/// Changes the working directory of the image; returns it with slashes.
fn enter(image: &mut ImageConfig, path: &str, windows: bool) -> Result<String, Error> {
    let dir = paths::workdir(&image.config.working_dir, path, windows)
        .map_err(|e| refuse(format!("normalizing workdir: {e}")))?;
    image.config.working_dir.clone_from(&dir);
    Ok(if windows { paths::to_slash(&dir, true).into_owned() } else { dir })
}

/// A time as ops have it.
pub(super) fn nanos(time: &kiln_oci::Time) -> i64 {
    i64::try_from(time.timestamp().as_nanosecond()).unwrap_or(i64::MAX)
}
