//! Parses a Dockerfile and shows its stages, warnings and errors.
//!
//! ```text
//! cargo run -p kiln-dockerfile --example lint -- path/to/Dockerfile
//! ```

use std::process::ExitCode;

use kiln_dockerfile::lint::Linter;
use kiln_dockerfile::{parse_linted, render};

fn main() -> ExitCode {
    let path = std::env::args().nth(1).unwrap_or_else(|| "Dockerfile".to_owned());
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut linter = match Linter::for_file(&text, None) {
        Ok(linter) => linter,
        Err(error) => {
            eprint!("{}", render::error(&path, &text, &error));
            return ExitCode::FAILURE;
        }
    };
    let parsed = parse_linted(&text, &mut linter);
    for warning in linter.warnings() {
        println!("warning: {}: {}", warning.rule.name(), warning.message);
        print!("{}", render::excerpt(&path, &text, warning.span));
    }
    match parsed {
        Ok(file) => {
            for stage in &file.stages {
                println!(
                    "{}: {} instructions on {}",
                    stage.name().unwrap_or("-"),
                    stage.instructions.len(),
                    stage.base
                );
            }
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprint!("{}", render::errors(&path, &text, &errors));
            ExitCode::FAILURE
        }
    }
}
