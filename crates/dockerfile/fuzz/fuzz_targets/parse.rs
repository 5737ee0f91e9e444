//! Any text is a tree or errors, whose places are in the text and which can be shown.
#![no_main]

use kiln_dockerfile::lint::Linter;
use kiln_dockerfile::{directives, parse_linted, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let detected = directives::detect_syntax(&text);
    assert!(detected.is_none_or(|syntax| syntax.command.starts_with(&syntax.image)));
    let mut linter = Linter::for_file(&text, None).unwrap_or_default();
    let lines = u32::try_from(text.split('\n').count()).unwrap_or(u32::MAX);
    match parse_linted(&text, &mut linter) {
        Err(errors) => {
            for error in errors.as_slice() {
                assert!(error.span().end.line <= lines && error.blamed().end.line <= lines, "{error:?}");
            }
            assert!(!render::errors("Dockerfile", &text, &errors).is_empty());
        }
        Ok(file) => {
            for stage in &file.stages {
                assert!(stage.span.is_known() && stage.span.end.line <= lines);
                let mut last = stage.span.end.line;
                for instruction in &stage.instructions {
                    assert!(instruction.span.start.line > last, "instructions stand on lines of their own");
                    last = instruction.span.end.line;
                    assert!(last <= lines);
                    assert!(!instruction.code.is_empty());
                }
            }
        }
    }
    for warning in linter.warnings() {
        assert!(!render::excerpt("Dockerfile", &text, warning.span).is_empty());
    }
});
