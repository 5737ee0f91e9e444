//! COPY and ADD.

use std::borrow::Cow;
use std::sync::Arc;

use bytestring::ByteString;
use kiln_llb::build::{Constraints, CopyOptions, File, GitOptions, HttpOptions, Owner, State, git, http};
use kiln_llb::caps;
use kiln_llb::source::FileMeta;
use kiln_oci::Digest;
use kiln_proto::pb;

use super::Converter;
use super::args::StateEnv;
use super::chmod::{self, Mode};
use super::failure::refuse;
use super::git_ref::{GitRef, GitRefError, http_filename, is_git, is_http};
use super::names;
use super::paths;
use super::resolver::Resolver;
use super::stage::Step;
use crate::ast::{self, Sources};
use crate::error::Error;
use crate::lint::checks;
use crate::texts::Texts;
use crate::word::Word;

/// What COPY and ADD have in common.
struct Request<'a> {
    step: &'a Step,
    sources: &'a Sources,
    from: State,
    add: Option<&'a ast::Add>,
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    excludes: &'a [Word],
    link: bool,
    parents: bool,
    /// The source is the build context.
    from_context: bool,
}

/// A request whose parts are known to be right.
struct Plan<'a> {
    request: &'a Request<'a>,
    windows: bool,
    dest: ByteString,
    /// For paths.
    options: Arc<CopyOptions>,
    /// The step's name.
    name: ByteString,
}

impl<R: Resolver> Converter<'_, R> {
    pub(super) fn copy_step(&mut self, index: usize, step: &Step, copy: &ast::Copy) -> Result<(), Error> {
        let source = step.sources.first().copied();
        let from = match source {
            None => self.context.clone(),
            Some(source) => {
                let stage = &self.stages.list[source];
                if !stage.dispatched {
                    let (name, here) =
                        (copy.from.as_deref().unwrap_or_default(), &self.stages.list[index].names.stage);
                    return Err(refuse(format!(
                        "cannot copy from stage {name:?}, it needs to be defined before current stage {here:?}"
                    )));
                }
                stage.state.clone()
            }
        };
        self.copy(
            index,
            &Request {
                step,
                sources: &copy.sources,
                from,
                add: None,
                chown: copy.chown.as_ref(),
                chmod: copy.chmod.as_ref(),
                excludes: &copy.excludes,
                link: copy.link,
                parents: copy.parents,
                from_context: source.is_none(),
            },
        )?;
        for path in &copy.sources.paths {
            match source {
                None => self.stages.used_paths.add_of_context(&path.text),
                Some(source) => self.stages.use_path(source, path),
            }
        }
        Ok(())
    }

    pub(super) fn add_step(&mut self, index: usize, step: &Step, add: &ast::Add) -> Result<(), Error> {
        self.copy(
            index,
            &Request {
                step,
                sources: &add.sources,
                from: self.context.clone(),
                add: Some(add),
                chown: add.chown.as_ref(),
                chmod: add.chmod.as_ref(),
                excludes: &add.excludes,
                link: add.link,
                parents: false,
                from_context: true,
            },
        )?;
        let local =
            add.sources.paths.iter().filter(|p| !p.starts_with("http://") && !p.starts_with("https://"));
        local.for_each(|path| self.stages.used_paths.add_of_context(&path.text));
        Ok(())
    }

    fn copy(&mut self, index: usize, request: &Request<'_>) -> Result<(), Error> {
        let instruction = &request.step.instruction;
        request.check_checksum()?;
        let stage = &self.stages.list[index];
        let platform = Arc::clone(stage.platform());
        let windows = platform.is_windows();
        let dest_word = &request.sources.dest;
        let dest = paths::in_workdir(stage.state.get_dir(), dest_word, windows)
            .map_err(|e| refuse(e).at(dest_word.span))?;
        let dest = self.texts.share(&dest_word.text, dest);
        let options = request.options()?;
        let text = names::display(&self.lexer, &instruction.code, &StateEnv(&stage.state));
        let stage = &mut self.stages.list[index];
        let name = stage.names.next(
            &mut self.texts,
            &text,
            Some(&platform),
            stage.state.envs(),
            request.step.onbuild,
        );
        // Most steps have those of the step before.
        if *self.copy_options != options {
            self.copy_options = Arc::new(options);
        }
        let plan = Plan { request, windows, dest, options: Arc::clone(&self.copy_options), name };
        let sources = request.sources;
        let mut file = File::with_capacity(sources.paths.len() + sources.contents.len());
        for source in &sources.paths {
            file = self.source(&plan, source, file).map_err(|e| e.at(source.span))?;
        }
        for inline in &sources.contents {
            let path = paths::strip_drive(&inline.name, windows, false)
                .map_err(|e| refuse(e).at(inline.name.span))?;
            let made = State::scratch().file(
                File::new().mkfile(&path, 0o644, inline.data.clone().into_bytes(), None, None),
                super::context::internal("preparing inline document").platform(Arc::clone(&platform)),
            );
            file =
                file.copy(&made, &*paths::to_slash(&path, windows), plan.dest.clone(), plan.file_options());
        }
        let constraints = self.constraints(instruction.span).custom_name(plan.name);
        let stage = &mut self.stages.list[index];
        let constraints = if stage.ignore_cache { constraints.ignore_cache() } else { constraints };
        // With a mode, folders on the way would get it too: that needs the folders that are there.
        let link = request.link && request.chmod.is_none_or(|w| w.is_empty());
        if link && self.options.caps.supports(caps::MERGE_OP) {
            let group = progress_id(&self.options.unique_id, index, stage.image.history.len());
            let mut again = |text: &str| {
                stage.names.again();
                stage.names.next(
                    &mut self.texts,
                    text,
                    Some(&platform),
                    stage.state.envs(),
                    request.step.onbuild,
                )
            };
            let (name, link_name) = (again(&text), again(&format!("LINK {text}")));
            let group = |weak| pb::ProgressGroup { id: group.clone(), name: name.to_string(), weak };
            let copy = constraints.clone().platform(Arc::clone(&platform)).progress_group(group(true));
            let merge = constraints.progress_group(group(false)).custom_name(link_name);
            let layer = State::scratch().file(file, copy);
            stage.state = stage.state.on(&State::merge([&stage.state, &layer], merge));
        } else {
            stage.state = stage.state.file(file, constraints);
        }
        self.commit(index, request.history(), true);
        Ok(())
    }

    /// Adds one source: a repository, a file from the web, or paths.
    fn source(&mut self, plan: &Plan<'_>, source: &Word, file: File) -> Result<File, Error> {
        match GitRef::parse(source) {
            Ok(git) if !git.looks_local => return plan.git(&git, file),
            Err(GitRefError::Query(e)) => return Err(refuse(format!("invalid git URL {source}: {e}"))),
            _ => {}
        }
        if is_http(source) {
            return plan.web(source, file);
        }
        if plan.request.from_context {
            let mut lint = self.linter.with_comments(&plan.request.step.instruction.comments);
            let matcher = self.ignore.as_ref().and_then(|i| i.matcher.as_ref());
            let span = plan.request.step.instruction.span;
            checks::ignored_source(&mut lint, span, plan.request.add.is_some(), source, matcher);
        }
        plan.paths(&source.text, file, &mut self.texts)
    }
}

impl Request<'_> {
    fn checksum(&self) -> &str {
        self.add.and_then(|a| a.checksum.as_ref()).map_or("", |w| w.as_str())
    }

    fn check_checksum(&self) -> Result<(), Error> {
        if self.checksum().is_empty() {
            return Ok(());
        }
        let [only] = self.sources.paths.as_slice() else {
            return Err(refuse("checksum can't be specified for multiple sources"));
        };
        if !is_http(only) && !is_git(only) {
            return Err(refuse("checksum requires HTTP(S) or Git sources").at(only.span));
        }
        Ok(())
    }

    /// The options of paths.
    fn options(&self) -> Result<CopyOptions, Error> {
        let mut options = CopyOptions {
            create_dest_path: true,
            follow_symlinks: true,
            dir_contents_only: true,
            attempt_unpack: self.add.is_some_and(|add| add.unpack.unwrap_or(true)),
            allow_wildcard: true,
            allow_empty_wildcard: true,
            ..CopyOptions::default()
        };
        if let Some(chown) = self.chown.filter(|w| !w.is_empty()) {
            options.owner = Some(Owner::parse(chown));
        }
        if let Some(mode) = self.chmod.filter(|w| !w.is_empty()) {
            match chmod::read(mode)? {
                Mode::Octal(mode) => options.mode = Some(mode),
                Mode::Symbols(text) => options.mode_str = Some(text),
            }
        }
        options.exclude = self.excludes.iter().map(|w| w.as_str().to_owned()).collect();
        Ok(options)
    }

    /// The instruction as the history has it: what changes the files, and no more.
    fn history(&self) -> String {
        let mut out = String::with_capacity(self.step.instruction.code.len() + " # buildkit".len());
        out.push_str(if self.add.is_some() { "ADD" } else { "COPY" });
        if self.parents {
            out.push_str(" --parents");
        }
        for (flag, value) in [("chown", self.chown), ("chmod", self.chmod)] {
            if let Some(value) = value.filter(|w| !w.is_empty()) {
                out.extend([" --", flag, "=", value]);
            }
        }
        for path in &self.sources.paths {
            out.extend([" ", path]);
        }
        for inline in &self.sources.contents {
            out.extend([" <<", &inline.name]);
        }
        out.extend([" ", &self.sources.dest, " # buildkit"]);
        out
    }
}

impl Plan<'_> {
    /// The options of one file or tree that is fetched or made.
    fn file_options(&self) -> CopyOptions {
        CopyOptions {
            follow_symlinks: false,
            dir_contents_only: false,
            attempt_unpack: false,
            allow_wildcard: false,
            allow_empty_wildcard: false,
            ..CopyOptions::clone(&self.options)
        }
    }

    fn add(&self, what: &str) -> Result<&ast::Add, Error> {
        self.request.add.ok_or_else(|| refuse(format!("source can't be a {what} for COPY")))
    }

    fn git(&self, reference: &GitRef, file: File) -> Result<File, Error> {
        let add = self.add("git ref")?;
        let mut options = GitOptions { mtime: String::new(), ..reference.options() };
        match (add.keep_git_dir, reference.keep_git_dir) {
            (Some(flag), Some(query)) if flag != query => {
                return Err(refuse("inconsistent keep-git-dir configuration"));
            }
            (flag, query) => options.keep_git_dir = query.or(flag) == Some(true),
        }
        let checksum = self.request.checksum();
        if !checksum.is_empty() && !options.checksum.is_empty() && checksum != options.checksum {
            return Err(refuse(format!("checksum mismatch {checksum:?} != {:?}", options.checksum)));
        }
        if options.checksum.is_empty() {
            options.checksum = checksum.to_owned();
        }
        let constraints = Constraints::new().custom_name(self.name.clone());
        let state = git(&reference.remote, options, constraints).map_err(|e| refuse(e.to_string()))?;
        Ok(file.copy(&state, "/", self.dest.clone(), self.file_options()))
    }

    fn web(&self, url: &str, file: File) -> Result<File, Error> {
        let add = self.add("URL")?;
        let name = http_filename(url);
        let checksum = match self.request.checksum() {
            "" => None,
            text => Some(Digest::parse(text).map_err(|e| refuse(e.to_string()))?),
        };
        let meta = FileMeta { filename: Some(name.clone()), ..FileMeta::default() };
        let options = HttpOptions { checksum, file: meta, ..HttpOptions::default() };
        let constraints = Constraints::new().custom_name(self.name.clone()).description(names::COMMAND, "");
        let state = http(url, options, constraints);
        let copy = CopyOptions { attempt_unpack: add.unpack == Some(true), ..self.file_options() };
        Ok(file.copy(&state, name, self.dest.clone(), copy))
    }

    fn normalize<'p>(&self, path: &'p str) -> Result<Cow<'p, str>, Error> {
        paths::normalize("/", path, self.windows, false).map_err(refuse)
    }

    fn paths(&self, source: &ByteString, file: File, texts: &mut Texts) -> Result<File, Error> {
        let mut options = Arc::clone(&self.options);
        let mut path = self.normalize(source)?;
        if self.request.parents {
            let options = Arc::make_mut(&mut options);
            // What is before "/./" is not made at the destination.
            let (root, pattern) = source.split_once("/./").unwrap_or(("/", source));
            let pattern = self.normalize(pattern)?;
            if !has_wildcard(root) && !has_wildcard(&pattern) {
                options.required_paths = vec![self.normalize(&paths::join(root, &pattern))?.into_owned()];
            }
            options.include = vec![pattern.trim_start_matches('/').to_owned()];
            path = Cow::Owned(self.normalize(root)?.into_owned());
        }
        let path = texts.share(source, path);
        Ok(file.copy(&self.request.from, path, self.dest.clone(), options))
    }
}

/// A backslash takes the meaning from what follows.
fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

/// An id that no other step of any build has.
fn progress_id(unique: &str, stage: usize, step: usize) -> String {
    let digest = Digest::sha256(format!("{unique} {stage} {step}"));
    digest.hex().chars().take(25).collect()
}
