//! RUN.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytestring::ByteString;
use kiln_llb::build::{CUSTOM_NAME, Constraints, File, Mount, Run, State};
use kiln_llb::caps;
use kiln_proto::pb;

use super::Converter;
use super::args::{Masked, StateEnv};
use super::failure::refuse;
use super::format::push_number;
use super::names;
use super::resolver::Resolver;
use super::stage::{Stage, Step};
use crate::ast::{self, CommandLine, Few, Heredoc, NetworkMode, SecurityMode};
use crate::error::Error;
use crate::parser;
use crate::shell::Lexer;

/// Where a script that stands in the Dockerfile is mounted.
const SCRIPTS: &str = "/dev/pipes/";

/// The command of a RUN, its heredocs folded in.
struct Script {
    args: Few<ByteString>,
    /// Goes after the instruction in the step's name.
    summary: String,
    /// The file to mount at [`SCRIPTS`].
    file: Option<(ByteString, ByteString)>,
}

impl<R: Resolver> Converter<'_, R> {
    pub(super) fn run_step(&mut self, index: usize, step: Step, mut run: ast::Run) -> Result<(), Error> {
        let span = step.instruction.span;
        // A program may look at any file.
        self.stages.use_all(index);
        let stage = &mut self.stages.list[index];
        stage.order_env();
        let in_shell = run.command.prepend_shell;
        let script = read_script(std::mem::take(&mut run.command), stage.image.os == "windows")?;
        let args = stage.shell_command(&script.args, in_shell);
        let message = stage.history_of(&args);
        let env = stage.state.envs();
        self.made += env.bytes() + env.len();
        let mut spec = Run::of(args);
        if let Some((name, data)) = &script.file {
            let file = State::scratch().file(
                File::new().mkfile(name, 0o755, data.clone().into_bytes(), None, None),
                super::context::internal("preparing inline document").platform(Arc::clone(stage.platform())),
            );
            spec = spec.mount(Mount::bind(SCRIPTS, &file).selector("/").read_only());
        }
        spec = self.add_mounts(index, &step, &run, spec)?;
        let mut around = self.surroundings(index, &run);
        if !self.options.ulimits.is_empty() && self.options.caps.supports(caps::EXEC_META_ULIMIT) {
            for limit in &self.options.ulimits {
                around = around.ulimit(&limit.name, limit.soft, limit.hard);
            }
        }
        if let Some(proxy) = self.proxy.clone() {
            spec = spec.proxy(proxy);
        }
        if self.options.shm_size > 0 && self.options.caps.supports(caps::EXEC_MOUNT_TMPFS_SIZE) {
            spec = spec.mount(Mount::tmpfs("/dev/shm", self.options.shm_size));
        }
        for device in &run.devices {
            if !self.options.caps.supports(caps::EXEC_META_CDI) {
                let message = format!("--device={}: the daemon does not support devices", device.name);
                return Err(refuse(message));
            }
            spec = spec.device(&device.name, !device.required);
        }
        let constraints = self.run_constraints(index, step, &run, &script.summary);
        let stage = &mut self.stages.list[index];
        let exec = stage.state.run(spec.surroundings(around).constraints(constraints));
        let exec = exec.map_err(|e| refuse(e.to_string()).within(span))?;
        stage.state = exec.into_root();
        self.commit(index, message, true);
        Ok(())
    }

    /// The stage's state with what holds for this step alone.
    fn surroundings(&self, index: usize, run: &ast::Run) -> State {
        let mut state = self.stages.list[index].state.clone();
        state = match run.security {
            SecurityMode::Sandbox => state.security(pb::SecurityMode::Sandbox),
            SecurityMode::Insecure => state.security(pb::SecurityMode::Insecure),
        };
        state = match run.network {
            NetworkMode::Default => state,
            NetworkMode::None => state.network(pb::NetMode::None),
            NetworkMode::Host => state.network(pb::NetMode::Host),
        };
        for (host, ip) in &self.options.extra_hosts {
            state = state.extra_host(host, ip);
        }
        if !self.options.cgroup_parent.is_empty() && self.options.caps.supports(caps::EXEC_META_CGROUP_PARENT)
        {
            state = state.cgroup_parent(self.options.cgroup_parent.as_str());
        }
        state
    }

    fn run_constraints(&mut self, index: usize, step: Step, run: &ast::Run, summary: &str) -> Constraints {
        let instruction = step.instruction;
        let lexer = Lexer { raw_quotes: true, keep_unset: true, ..self.lexer.clone() };
        let stage = &mut self.stages.list[index];
        let env = StateEnv(&stage.state);
        let masked = run
            .mounts()
            .filter(|m| m.kind == ast::MountType::Secret)
            .filter_map(|m| m.env.as_deref())
            .collect();
        let code: Cow<'_, str> = match summary {
            "" => Cow::Borrowed(&*instruction.code),
            summary => Cow::Owned(format!("{}{summary}", instruction.code)),
        };
        let text = names::display(&lexer, &code, &Masked { base: env, masked });
        let name = stage.names.next(
            &mut self.texts,
            &text,
            stage.state.get_platform(),
            stage.state.envs(),
            step.onbuild,
        );
        let mut constraints = Constraints::new()
            .descriptions([(names::COMMAND, instruction.code), (CUSTOM_NAME, name)])
            .location(&self.source.map, instruction.span.lines());
        if stage.ignore_cache {
            constraints = constraints.ignore_cache();
        }
        match self.options.linux_resources.clone() {
            Some(r) if self.options.caps.supports(caps::EXEC_META_LINUX_RESOURCES) => {
                constraints.linux_resources(r)
            }
            _ => constraints,
        }
    }
}

/// Proxies that were given as build arguments, whatever their case; the last in byte order counts.
pub(super) fn proxy(build_args: &BTreeMap<String, String>) -> Option<pb::ProxyEnv> {
    let mut proxy = pb::ProxyEnv::default();
    let mut any = false;
    for (name, value) in build_args {
        let field = match name.to_lowercase().as_str() {
            "http_proxy" => &mut proxy.http_proxy,
            "https_proxy" => &mut proxy.https_proxy,
            "ftp_proxy" => &mut proxy.ftp_proxy,
            "no_proxy" => &mut proxy.no_proxy,
            "all_proxy" => &mut proxy.all_proxy,
            _ => continue,
        };
        field.clone_from(value);
        any = true;
    }
    any.then_some(proxy)
}

impl Stage {
    /// A RUN as the history has it: its command after the values of the ARGs that it may depend on.
    fn history_of(&self, args: &[ByteString]) -> String {
        let variables = self.build_args.iter().map(|(name, value)| {
            let value = self.state.get_env(name).or(value).unwrap_or_default();
            [" ", name, "=", value]
        });
        let words = args.iter().map(|arg| arg.len() + 1);
        let length = words.chain(variables.clone().flatten().map(str::len)).sum::<usize>();
        let mut out = String::with_capacity(length + "RUN |12345 # buildkit".len());
        out.push_str("RUN");
        if self.build_args.len() > 0 {
            out.push_str(" |");
            push_number(&mut out, self.build_args.len() as u64);
        }
        out.extend(variables.flatten());
        for arg in args {
            out.extend([" ", arg]);
        }
        out.push_str(" # buildkit");
        out
    }
}

fn read_script(line: CommandLine, windows: bool) -> Result<Script, Error> {
    let plain = |args| Script { args, summary: String::new(), file: None };
    let Some(first) = line.files.first() else { return Ok(plain(line.args)) };
    let ([text], true) = (line.args.as_slice(), line.prepend_shell) else {
        return Err(refuse("heredocs need a command in shell form"));
    };
    if parser::parse_marker(text).is_none() {
        return Ok(plain([ByteString::from(rebuild(text, &line.files))].into()));
    }
    // The heredoc is the whole command.
    let data = if first.chomp { parser::chomp(&first.content).into() } else { first.content.clone() };
    let summary = format!(" ({})", summarize(&first.content));
    if !windows && data.starts_with("#!") {
        let path = super::paths::join(SCRIPTS, &first.name);
        return Ok(Script {
            args: [ByteString::from(path)].into(),
            summary,
            file: Some((first.name.clone(), data)),
        });
    }
    Ok(Script { args: [data].into(), summary, file: None })
}

/// A command with heredocs inside it: the shell reads them itself.
fn rebuild(text: &str, files: &[Heredoc]) -> String {
    let mut out = text.to_owned();
    for file in files {
        out.push('\n');
        out.push_str(&file.content);
        out.push_str(&file.name);
    }
    out
}

/// The first line, and dots if there are more.
fn summarize(content: &str) -> String {
    let text = content.trim();
    match text.split_once('\n') {
        Some((first, _)) => format!("{}...", first.strip_suffix('\r').unwrap_or(first)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &str, content: &str) -> CommandLine {
        let file = Heredoc { name: "EOF".into(), content: content.into(), ..Heredoc::default() };
        CommandLine { args: [ByteString::from(args)].into(), files: [file].into(), prepend_shell: true }
    }

    #[test]
    fn heredocs() {
        let script = read_script(line("<<EOF", "echo a\necho b\n"), false).unwrap();
        assert_eq!((&*script.args[0], script.summary.as_str()), ("echo a\necho b\n", " (echo a...)"));
        let script = read_script(line("<<EOF", "#!/bin/sh\n"), false).unwrap();
        assert_eq!(*script.args, ["/dev/pipes/EOF"]);
        assert!(read_script(line("<<EOF", "#!/bin/sh\n"), true).unwrap().file.is_none());
        let script = read_script(line("cat <<EOF", "x\n"), false).unwrap();
        assert_eq!((&*script.args[0], script.summary.as_str()), ("cat <<EOF\nx\nEOF", ""));
    }
}
