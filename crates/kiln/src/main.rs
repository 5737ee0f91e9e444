//! `kiln`, which is also `buildkitd` and `buildctl`: by the name it is started under, or by its first argument.

mod args;
mod buildctl;
mod buildkitd;
mod command;
mod edge;
mod holder;
mod local;
mod runtime;
mod table;
mod template;

use std::{ffi::OsString, path::Path, process::ExitCode};

fn main() -> ExitCode {
    // The runtime helper must have one thread, so it is looked for before anything else exists.
    if kiln_executor::is_runtime() {
        return kiln_executor::runtime_main();
    }
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let own_name = args.first().map(|name| face_of(Path::new(name))).unwrap_or_default();
    if matches!(own_name.as_str(), "buildkitd" | "buildctl") {
        return run(&own_name, args);
    }
    match args.get(1).and_then(|arg| arg.to_str()).map(str::to_owned) {
        Some(face) if matches!(face.as_str(), "buildkitd" | "buildctl") => {
            args.remove(0);
            run(&face, args)
        }
        _ => command::main(args),
    }
}

fn run(face: &str, args: Vec<OsString>) -> ExitCode {
    match face {
        "buildkitd" => buildkitd::main(args),
        _ => buildctl::main(args),
    }
}

/// The name of a program without its folder and, on Windows, its ending.
fn face_of(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.strip_suffix(".exe").map(str::to_owned).unwrap_or(name)
}
