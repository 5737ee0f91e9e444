//! Any word expands to bounded text or an error; what was looked up is a name in the word.
#![no_main]

use kiln_dockerfile::parse;
use kiln_dockerfile::shell::{Lexer, MAX_EXPANSION, VariableList};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let vars: VariableList =
        [("A", "x"), ("EMPTY", ""), ("P", "/usr/local/bin"), ("S", "a  b\n"), ("U", "éü€")]
            .into_iter()
            .collect();
    for escape in ['\\', '`'] {
        for keep_unset in [false, true] {
            let lexer = Lexer { keep_unset, ..Lexer::new(escape) };
            let expansion = lexer.word(&text, &vars);
            if let Ok(result) = &expansion.text {
                assert!(result.len() <= text.len() + MAX_EXPANSION);
            }
            for name in expansion.matched.iter().chain(&expansion.unmatched) {
                assert!(text.contains(name.as_str()));
            }
            let _words = lexer.words(&text, &vars);
        }
    }
    Lexer::for_heredoc().word(&text, &vars).text.ok();
    // The same through an instruction, whose errors must point into it.
    let lexer = Lexer::new('\\');
    for instruction in ["LABEL a=", "RUN --mount=", "COPY "] {
        let line = format!("FROM a\n{instruction}{}\n", text.replace(['\n', '\r'], " "));
        let Ok(file) = parse(&line) else { continue };
        for instruction in &file.stages[0].instructions {
            let mut command = instruction.command.clone();
            if let Err(error) = command.expand(&mut |word| lexer.word(word, &vars).text) {
                assert_eq!(error.span().start.line, 2, "{error:?}");
            }
        }
    }
});
