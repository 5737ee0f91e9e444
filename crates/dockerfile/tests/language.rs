//! The language as a whole, by small files: what becomes of each instruction, and where errors point.

use kiln_dockerfile::ast::{Command, Dockerfile, Instruction, MountType, NetworkMode, SecurityMode};
use kiln_dockerfile::{ByteString, Error, ErrorKind, Position, parse, parse_bytes, parse_instruction};

fn file(text: &str) -> Dockerfile {
    parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

/// The instructions of the only stage.
fn body(text: &str) -> Vec<Instruction> {
    let mut stages = file(&format!("FROM base\n{text}")).stages;
    assert_eq!(stages.len(), 1);
    stages.remove(0).instructions
}

fn one(text: &str) -> Command {
    let mut instructions = body(text);
    assert_eq!(instructions.len(), 1, "{text}");
    instructions.remove(0).command
}

fn error(text: &str) -> Error {
    let errors = parse(&format!("FROM base\n{text}")).expect_err(text);
    assert_eq!(errors.as_slice().len(), 1, "{text}: {errors:?}");
    errors.first().clone()
}

fn args(command: &Command) -> (Vec<&str>, bool) {
    match command {
        Command::Cmd(line) | Command::Entrypoint(line) => {
            (line.args.iter().map(|arg| &**arg).collect(), line.prepend_shell)
        }
        Command::Run(run) => (run.command.args.iter().map(|arg| &**arg).collect(), run.command.prepend_shell),
        other => panic!("{other:?}"),
    }
}

#[test]
fn stages_and_global_arguments() {
    let file = file(
        "# syntax=x\nARG V=1\n# build makes it\nFROM --platform=$P img:$V AS Build\nRUN a\nFROM scratch\nCOPY --from=build /a /\n",
    );
    assert_eq!(file.directives.syntax.as_ref().map(|s| s.image.as_str()), Some("x"));
    assert_eq!(file.global_args.len(), 1);
    let [build, last] = file.stages.as_slice() else { panic!() };
    assert_eq!((build.name(), build.spelled_name.as_deref()), (Some("build"), Some("Build")));
    assert_eq!((build.base.as_str(), build.platform.as_deref()), ("img:$V", Some("$P")));
    assert_eq!(build.description.as_deref(), Some("makes it"));
    assert_eq!(build.code, "FROM --platform=$P img:$V AS Build");
    assert_eq!((last.name(), last.base.as_str()), (None, "scratch"));
    assert_eq!((file.stage_index("BUILD"), file.stage_index("none")), (Some(0), None));
}

#[test]
fn shell_and_exec_forms() {
    assert_eq!(args(&one("RUN a  b && c")), (vec!["a  b && c"], true));
    assert_eq!(args(&one(r#"RUN ["a", "b c"]"#)), (vec!["a", "b c"], false));
    assert_eq!(args(&one("CMD [ -f x ] && y")), (vec!["[ -f x ] && y"], true));
    assert_eq!(args(&one("CMD []")), (vec![], false));
    assert_eq!(args(&one("ENTRYPOINT")), (vec![], true));
    assert!(error(r#"CMD ["a", 1]"#).to_string().contains("strings"));
}

#[test]
fn run_flags() {
    let Command::Run(run) =
        one("RUN --mount=type=cache,target=/c --mount=from=x,target=/y --network=none --security=insecure \
         --device=v.com/d=all,required make")
    else {
        panic!()
    };
    assert_eq!((run.network, run.security), (NetworkMode::None, SecurityMode::Insecure));
    assert_eq!((run.devices[0].name.as_str(), run.devices[0].required), ("v.com/d=all", true));
    assert_eq!(run.flags_used, ["mount", "network", "security", "device"]);
    // Types may be variables: they are read when expanded.
    assert_eq!(
        run.mounts().map(|m| (m.kind, &*m.from)).collect::<Vec<_>>(),
        [(MountType::Bind, ""), (MountType::Bind, "x")]
    );
    assert!(error("RUN --network=hst x").to_string().contains("did you mean host?"));
    assert!(error("RUN --security=none x").to_string().contains("sandbox or insecure"));
    assert!(error("RUN --mount=from=$x,target=/a x").to_string().contains("variable expansion"));
}

#[test]
fn expansion_reads_mounts() {
    let mut command = one("RUN --mount=type=$T,target=$D x");
    command.expand(&mut |word| Ok(word.replace("$T", "tmpfs").replace("$D", "/d"))).unwrap();
    let Command::Run(run) = &command else { panic!() };
    assert_eq!(run.mounts().map(|m| (m.kind, &*m.target)).collect::<Vec<_>>(), [(MountType::Tmpfs, "/d")]);
    let mut bad = one("RUN --mount=type=volume,target=/x y");
    let error = bad.expand(&mut |word| Ok(word.to_owned())).unwrap_err();
    assert_eq!((error.kind(), error.span().start), (ErrorKind::Flag, Position::new(2, 12)));
}

#[test]
fn copy_and_add() {
    let Command::Copy(copy) =
        one("COPY --from=b --chown=1:2 --chmod=u+x --link --parents=false --exclude=*.o --exclude=x a b c/")
    else {
        panic!()
    };
    assert_eq!((copy.from.as_deref(), copy.link, copy.parents), (Some("b"), true, false));
    assert_eq!(copy.excludes.len(), 2);
    assert_eq!((copy.sources.paths.len(), copy.sources.dest.as_str()), (2, "c/"));
    let Command::Add(add) = one("ADD --checksum=sha256:x --keep-git-dir --unpack=false https://a/b /c")
    else {
        panic!()
    };
    assert_eq!(
        (add.keep_git_dir, add.unpack, add.checksum.as_deref()),
        (Some(true), Some(false), Some("sha256:x"))
    );
    let Command::Copy(spaced) = one(r#"COPY ["a b", "c d"]"#) else { panic!() };
    assert_eq!((spaced.sources.paths[0].as_str(), spaced.sources.dest.as_str()), ("a b", "c d"));
    assert!(error("COPY a").to_string().contains("destination"));
    assert!(error("COPY a <<EOF\nEOF").to_string().contains("heredoc"));
    assert!(error("ADD --from=x a b").to_string().contains("unknown flag: --from"));
}

#[test]
fn heredocs_of_copy() {
    let Command::Copy(copy) = one("COPY <<a.txt <<-'b' x /d/\n$A\na.txt\n\t$B\n\tb\n") else { panic!() };
    let files: Vec<_> = copy.sources.contents.iter().map(|f| (f.name.as_str(), &*f.data, f.expand)).collect();
    assert_eq!(files, [("a.txt", "$A\n", true), ("b", "$B\n", false)]);
    assert_eq!(copy.sources.paths[0].as_str(), "x");
}

#[test]
fn heredocs_of_run() {
    let instructions = body("RUN <<EOF cat 3<<-B\n# not a comment\nEOF\n\tx\n\tB\nRUN y\n");
    let Command::Run(run) = &instructions[0].command else { panic!() };
    let files: Vec<_> = run.command.files.iter().map(|f| (&*f.name, &*f.content, f.chomp)).collect();
    assert_eq!(files, [("EOF", "# not a comment\n", false), ("B", "\tx\n", true)]);
    assert_eq!(instructions[0].span.lines(), 2..=6);
    assert_eq!((&*instructions[0].code, &*instructions[1].code), ("RUN <<EOF cat 3<<-B", "RUN y"));
    // JSON takes no heredocs, and other instructions don't either.
    assert_eq!(body("RUN [\"<<EOF\"]\nCMD <<EOF\n").len(), 2);
}

#[test]
fn pairs() {
    let pairs = |text| match one(text) {
        Command::Env(pairs) | Command::Label(pairs) => {
            pairs.into_iter().map(|p| (p.key.text, p.value.text, p.has_delimiter)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let pair = |k: &str, v: &str, d| (ByteString::from(k), ByteString::from(v), d);
    assert_eq!(
        pairs(r#"ENV a=b c="d e" f=g\ h"#),
        [pair("a", "b", true), pair("c", "\"d e\"", true), pair("f", "g\\ h", true)]
    );
    assert_eq!(pairs("LABEL a  b c "), [pair("a", "b c", false)]);
    for bad in ["ENV", "ENV a", "ENV =b", "ENV a=b c", "LABEL"] {
        let error = error(bad);
        assert_eq!(error.blamed().lines(), 2..=2, "{bad}");
    }
}

#[test]
fn the_simple_ones() {
    assert!(matches!(one("USER a b"), Command::User(w) if w == "a b"));
    assert!(matches!(one("WORKDIR /a b"), Command::Workdir(w) if w == "/a b"));
    assert!(matches!(one("STOPSIGNAL 9"), Command::Stopsignal(w) if w == "9"));
    assert!(matches!(one("MAINTAINER a <b>"), Command::Maintainer(w) if w == "a <b>"));
    assert!(matches!(one("EXPOSE 90 80/udp"), Command::Expose(w) if w[0] == "80/udp" && w[1] == "90"));
    assert!(matches!(one("VOLUME /a /b"), Command::Volume(w) if w.len() == 2));
    assert!(matches!(one("VOLUME [\" /a \"]"), Command::Volume(w) if w[0] == "/a"));
    assert!(matches!(one("SHELL [\"a\", \"-c\"]"), Command::Shell(w) if w.len() == 2));
    for bad in [
        "USER",
        "WORKDIR",
        "STOPSIGNAL",
        "MAINTAINER",
        "EXPOSE",
        "VOLUME",
        "SHELL",
        "SHELL []",
        "SHELL a",
        "VOLUME [\"\"]",
        "ARG",
        "ARG =x",
        "ONBUILD",
        "WORKDIR --x /a",
    ] {
        error(bad);
    }
}

#[test]
fn args_and_their_descriptions() {
    let instructions = body("# A is it\n# B too\nARG A=1 B C=\"x y\"\n");
    let Command::Arg(arg) = &instructions[0].command else { panic!() };
    let args: Vec<_> =
        arg.args.iter().map(|a| (a.key.as_str(), a.value.as_deref(), a.description.as_deref())).collect();
    assert_eq!(
        args,
        [("A", Some("1"), Some("is it")), ("B", None, Some("too")), ("C", Some("\"x y\""), None)]
    );
}

#[test]
fn health_checks() {
    let Command::Healthcheck(check) = one("HEALTHCHECK --interval=1m --timeout=1.5s --retries=3 CMD a b")
    else {
        panic!()
    };
    assert_eq!((check.interval, check.timeout, check.retries), (60_000_000_000, 1_500_000_000, 3));
    assert_eq!(check.test, ["CMD-SHELL", "a b"]);
    assert!(matches!(one("healthcheck cmd [\"a\"]"), Command::Healthcheck(c) if c.test == ["CMD", "a"]));
    assert!(matches!(one("HEALTHCHECK NONE"), Command::Healthcheck(c) if c.test == ["NONE"]));
    for bad in [
        "",
        "NONE x",
        "CMD",
        "PING x",
        "--interval=1us CMD x",
        "--interval=1 CMD x",
        "--retries=-1 CMD x",
        "--retries=x CMD x",
    ] {
        error(&format!("HEALTHCHECK {bad}"));
    }
}

#[test]
fn triggers() {
    assert!(matches!(one("onbuild  copy   a b"), Command::Onbuild(o) if o.expression == "copy   a b"));
    assert!(matches!(one("ONBUILD RUN <<E\nx\nE\n"), Command::Onbuild(o) if o.expression == "RUN <<E\nx\nE"));
    assert!(matches!(one("ONBUILD NOPE x"), Command::Onbuild(o) if o.expression == "NOPE x"));
    for bad in ["ONBUILD FROM x", "ONBUILD MAINTAINER x", "ONBUILD onbuild RUN x", "ONBUILD ENV x"] {
        error(bad);
    }
    assert!(matches!(parse_instruction("RUN <<E\nx\nE").unwrap().command, Command::Run(_)));
    for bad in ["RUN a\nRUN b", "", "FROM x", "NOPE"] {
        assert!(parse_instruction(bad).is_err(), "{bad}");
    }
}

#[test]
fn comments_blanks_and_line_ends() {
    let text = "\u{feff}# a\r\n\r\n  from base\r\n\trun a \\\r\n  # note\r\n\r\n  b\r\n # c\r\n";
    let file = parse_bytes(text.as_bytes()).unwrap();
    assert_eq!(file.stages[0].instructions[0].code, "run a   b");
    assert_eq!(file.stages[0].instructions[0].span.lines(), 4..=7);
    let latin1 = b"# \xe9\nFROM base\nRUN \xe9\n";
    assert_eq!(parse_bytes(latin1).unwrap().stages[0].instructions[0].code, "RUN \u{fffd}");
}

#[test]
fn the_escape_character_is_the_files_choice() {
    let file = file("# escape=`\nFROM base\nRUN dir C:\\ `\n  /w\nCOPY a` b C:\\\n");
    assert_eq!(file.directives.escape, '`');
    assert_eq!(file.stages[0].instructions[0].code, "RUN dir C:\\   /w");
    let bad = parse("# escape=x\nFROM base\n").unwrap_err();
    assert!(bad.first().to_string().contains("escape") && !bad.first().blamed().is_known());
    assert!(parse("# escape=`\n# escape=`\nFROM base\n").is_err());
    // After a comment it is a comment.
    assert!(parse("# x\n# escape=x\nFROM base\n").is_ok());
}

#[test]
fn errors_are_independent() {
    let text = "FROM a AS 1\nRUNN <<EOF\nnot an instruction\nEOF\nCOPY x\nENV\nRUN --mont=x y\nRUN fine\nUSER <<EOF\n";
    let errors = parse(text).unwrap_err();
    let found: Vec<_> = errors.as_slice().iter().map(|e| (e.span().start.line, e.kind())).collect();
    assert_eq!(
        found,
        [
            (1, ErrorKind::Argument),
            (2, ErrorKind::UnknownInstruction),
            (5, ErrorKind::Argument),
            (6, ErrorKind::Argument),
            (7, ErrorKind::Flag)
        ]
    );
    assert_eq!(errors.as_slice()[4].span().start.column, 4);
    assert!(
        errors.to_string().starts_with("dockerfile parse error on line 1: ")
            && errors.to_string().ends_with("(and 4 more errors)")
    );
    assert_eq!(parse(&"NOPE\n".repeat(1000)).unwrap_err().as_slice().len(), kiln_dockerfile::MAX_ERRORS);
}

#[test]
fn files_without_instructions() {
    for empty in ["", "\n\n", "# x\n", "ARG A\n", "\u{feff}"] {
        assert!(parse(empty).is_err(), "{empty:?}");
    }
    let early = parse("RUN a\nRUN b\nFROM c\n").unwrap_err();
    assert_eq!((early.as_slice().len(), early.first().blamed().lines()), (1, 1..=1));
}

#[test]
fn whole_instructions_are_blamed() {
    let errors = parse("FROM a\nRUN <<EOF\nx\n").unwrap_err();
    assert_eq!(errors.first().blamed().lines(), 2..=3);
    let errors = parse("FROM a\nENV a=b \\\n # c\n\n  d\n").unwrap_err();
    assert_eq!((errors.first().blamed().lines(), errors.first().span().start), (2..=5, Position::new(5, 2)));
}

#[test]
fn hostile_files_end_in_errors_or_trees() {
    let samples = [
        "FROM a\nRUN ".to_owned() + &"[".repeat(60_000),
        "FROM a\nCOPY ".to_owned() + &"<<A ".repeat(15_000),
        "FROM a\nENV ".to_owned() + &"${".repeat(30_000),
        "FROM a\nONBUILD ".to_owned() + &"ONBUILD ".repeat(7_000),
        "FROM a\nRUN ".to_owned() + &"\\\n".repeat(200_000),
        "\\\n".repeat(100_000),
        "FROM a\nRUN <<\0\n\0\n".to_owned(),
        "FROM a\nLABEL ".to_owned() + &"'".repeat(60_001),
        "FROM a\nRUN --mount=".to_owned() + &"\",".repeat(30_000),
        "x".repeat(70_000),
        "RNU <<X\n".repeat(100_000),
        "FROM a\n".to_owned() + &"# x\n".repeat(50_000) + "ARG " + &"a ".repeat(30_000),
        "FROM a\nCOPY \\\n".to_owned()
            + &(0..20_000).map(|i| format!("<<a{i} \\\n")).collect::<String>()
            + "/d\n"
            + &(0..20_000).map(|i| format!("a{i}\n")).collect::<String>(),
    ];
    for sample in samples {
        if let Err(errors) = parse(&sample) {
            assert!(!kiln_dockerfile::render::errors("Dockerfile", &sample, &errors).is_empty());
        }
    }
}

/// Where a text begins in memory.
fn address(text: &str) -> usize {
    text.as_ptr() as usize
}

#[test]
fn texts_of_plain_lines_are_slices_of_the_file() {
    let text = "FROM base AS built\n# v is read\nARG v=1\nENV a=b\nCOPY --chown=1:2 src dst\nRUN --mount=target=/m,from=x make all  \n\
                CMD [\"serve\", \"-v\"]\nRUN <<EOF\nbody\nEOF\nHEALTHCHECK CMD check\nONBUILD RUN later\n";
    let file = file(text);
    let stage = &file.stages[0];
    let begin = address(&stage.code);
    // Each is where the file has it, counted from the first byte of the file.
    let is_slice = |part: &str| {
        let at = address(part).wrapping_sub(begin);
        assert_eq!(text.get(at..at + part.len()), Some(part));
    };
    is_slice(&stage.base);
    is_slice(stage.name().unwrap());
    for instruction in &stage.instructions {
        is_slice(&instruction.code);
        is_slice(instruction.keyword());
        instruction.comments.iter().for_each(|comment| is_slice(comment));
        match &instruction.command {
            Command::Arg(arg) => {
                is_slice(&arg.args[0].key);
                is_slice(arg.args[0].value.as_ref().unwrap());
                is_slice(arg.args[0].description.as_ref().unwrap());
            }
            Command::Env(pairs) => {
                [&pairs[0].key, &pairs[0].value].into_iter().for_each(|word| is_slice(word))
            }
            Command::Copy(copy) => {
                let words = [&copy.sources.paths[0], &copy.sources.dest, copy.chown.as_ref().unwrap()];
                words.into_iter().for_each(|word| is_slice(word));
            }
            Command::Run(run) => {
                run.command.args.iter().for_each(|arg| is_slice(arg));
                run.command.files.iter().for_each(|file| is_slice(&file.content));
                run.mounts.iter().for_each(|flag| is_slice(&flag.raw));
                run.mounts().for_each(|mount| is_slice(&mount.from));
            }
            Command::Cmd(line) => line.args.iter().for_each(|arg| is_slice(arg)),
            Command::Healthcheck(check) => is_slice(&check.test[1]),
            Command::Onbuild(onbuild) => is_slice(&onbuild.expression),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn texts_of_a_joined_line_are_slices_of_one_memory() {
    let instructions = body("COPY a \\\n# note\n b \\\n c\nRUN --mount=target=/m make \\\n all\nUSER u\n");
    let within = |code: &str, part: &str| {
        let at = address(part).wrapping_sub(address(code));
        assert_eq!(code.get(at..at + part.len()), Some(part));
    };
    let [copied, ran, plain] = instructions.as_slice() else { panic!() };
    let Command::Copy(copy) = &copied.command else { panic!() };
    assert_eq!(copied.code, "COPY a  b  c");
    copy.sources.paths.iter().chain([&copy.sources.dest]).for_each(|word| within(&copied.code, word));
    let Command::Run(run) = &ran.command else { panic!() };
    within(&ran.code, &run.command.args[0]);
    within(&ran.code, &run.mounts[0].raw);
    // A text that is made anew is no slice of what it was written as.
    let Command::Cmd(line) = one(r#"CMD ["a\tb"]"#) else { panic!() };
    assert_eq!(line.args[0], "a\tb");
    let Command::User(user) = &plain.command else { panic!() };
    within(&plain.code, user);
}

#[test]
fn instructions_are_small() {
    // A megabyte has tens of thousands of them.
    assert!(size_of::<Instruction>() <= 136, "{}", size_of::<Instruction>());
}
