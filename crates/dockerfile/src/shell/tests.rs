use super::*;

fn vars() -> VariableList {
    [("A", "x"), ("EMPTY", ""), ("PATH_LIKE", "/usr/local/bin"), ("SPACED", "a  b"), ("NL", "a\nb")]
        .into_iter()
        .collect()
}

fn word(text: &str) -> String {
    Lexer::new('\\').word(text, &vars()).text.unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn fails(text: &str) -> String {
    Lexer::new('\\').word(text, &vars()).text.unwrap_err().to_string()
}

fn words(text: &str) -> Vec<String> {
    Lexer::new('\\').words(text, &vars()).unwrap()
}

#[test]
fn plain_names() {
    assert_eq!(word("$A ${A} $Ab $A-b ${A}b"), "x x  x-b xb");
    assert_eq!(word("$ $. a$"), "$ $. a$");
    assert_eq!(word("$1a $@ $# $? $$ $! $* $-"), "a       ");
}

#[test]
fn defaults_and_alternatives() {
    let cases = [
        ("${A:-d}", "x"),
        ("${EMPTY:-d}", "d"),
        ("${NO:-d}", "d"),
        ("${A-d}", "x"),
        ("${EMPTY-d}", ""),
        ("${NO-d}", "d"),
        ("${A:+d}", "d"),
        ("${EMPTY:+d}", ""),
        ("${NO:+d}", ""),
        ("${A+d}", "d"),
        ("${EMPTY+d}", "d"),
        ("${NO+d}", ""),
        ("${A:?d}", "x"),
        ("${A?d}", "x"),
        ("${EMPTY?d}", ""),
        ("${NO:-${A:-y}}z", "xz"),
        ("${NO:-'a b'}", "a b"),
        ("${NO:-a\\}b}", "a}b"),
        ("${NO:-\"}\"}", "}"),
    ];
    for (text, expected) in cases {
        assert_eq!(word(text), expected, "{text}");
    }
}

#[test]
fn required_variables_say_why() {
    assert!(fails("${NO:?is needed}").contains("NO: is needed"));
    assert!(fails("${EMPTY:?}").contains("EMPTY: must not be empty"));
    assert!(fails("${NO?}").contains("NO: must be set"));
}

#[test]
fn prefixes_and_suffixes() {
    let cases = [
        ("${PATH_LIKE#*/}", "usr/local/bin"),
        ("${PATH_LIKE##*/}", "bin"),
        ("${PATH_LIKE%/*}", "/usr/local"),
        ("${PATH_LIKE%%/*}", ""),
        ("${PATH_LIKE#/usr}", "/local/bin"),
        ("${PATH_LIKE%b?n}", "/usr/local/"),
        ("${PATH_LIKE#usr}", "/usr/local/bin"),
        ("${PATH_LIKE%%*local}", "/usr/local/bin"),
        ("${NO#x}", ""),
        ("${NL#*}", "a\nb"),
        ("${NL##*}", "\nb"),
    ];
    for (text, expected) in cases {
        assert_eq!(word(text), expected, "{text}");
    }
}

#[test]
fn replacement() {
    let cases = [
        ("${PATH_LIKE/\\//_}", "_usr/local/bin"),
        ("${PATH_LIKE//\\//_}", "_usr_local_bin"),
        ("${PATH_LIKE/l*l/L}", "/usr/L/bin"),
        ("${PATH_LIKE//?i?/x}", "/usr/local/x"),
        ("${PATH_LIKE//[a-z]/x}", "/usr/local/bin"),
        ("${PATH_LIKE/usr/}", "//local/bin"),
        ("${A/x/$0}", ""),
        ("${NO/x/y}", ""),
    ];
    for (text, expected) in cases {
        assert_eq!(word(text), expected, "{text}");
    }
    assert!(fails("${A/x}").contains("pattern has no end"));
    assert!(fails("${A/\\q/}").contains("invalid escape"));
    assert!(fails("${A#\\}").contains("never closed"));
}

#[test]
fn quotes_and_escapes() {
    assert_eq!(word(r#"'$A' "$A" \$A "\$A" "\x\\" \x '\x'"#), r"$A x $A $A \x\ x \x");
    assert_eq!(word(r#""a'b" 'a"b'"#), r#"a'b a"b"#);
    assert_eq!(word("a\\"), "a");
    assert!(fails("'a").contains("single quote"));
    assert!(fails("\"a").contains("double quote"));
    assert_eq!(Lexer::new('`').word(r"C:\$A `$A", &vars()).text.unwrap(), r"C:\x $A");
    assert_eq!(Lexer::for_heredoc().word("'$A' \"${A}\" \\$A", &vars()).text.unwrap(), "'x' \"x\" $A");
}

#[test]
fn what_is_no_substitution_is_named() {
    assert!(fails("${A").contains("never closed"));
    assert!(fails("${").contains("never closed"));
    assert!(fails("${NO:-${A}").contains("never closed"));
    for bad in ["${}", "${{A}}", "${:x}"] {
        assert!(fails(bad).contains("bad substitution"), "{bad}");
    }
    for bad in ["${A!b}", "${A:#b}", "${A:x}", "${A,,}", "${#A}"] {
        assert!(fails(bad).contains("no modifier"), "{bad}");
    }
}

#[test]
fn names_are_counted_even_when_it_fails() {
    let expansion = Lexer::new('\\').word("$A $NO ${MISSING:?x}", &vars());
    assert!(expansion.text.is_err());
    assert!(expansion.matched.iter().eq(["A"]) && expansion.unmatched.iter().eq(["MISSING", "NO"]));
}

#[test]
fn words_split_at_blanks_outside_quotes() {
    assert_eq!(
        words(r#" a  "b c"d 'e f' g\ h $SPACED "$SPACED" "" "#),
        ["a", "b cd", "e f", "g h", "a", "b", "a  b"]
    );
    assert_eq!(words("80$A/tcp 80${A}"), ["80x/tcp", "80x"]);
    assert_eq!(words("cat << EOF <<'X Y'"), ["cat", "<< EOF", "<<X Y"]);
}

#[test]
fn words_lose_what_stands_before_an_operand() {
    assert_eq!(words("80${A:-0}/tcp b${A#x}"), ["x/tcp"]);
    assert_eq!(words("a\"b${A:-0}\"c"), ["bxc"]);
    assert_eq!(word("80${A:-0}"), "80x");
}

#[test]
fn unset_variables_can_stay() {
    let lexer = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let text = "$NO ${NO} ${NO:-a} ${NO#b} ${NO/a/b} $A";
    assert_eq!(lexer.word(text, &vars()).text.unwrap(), "$NO ${NO} ${NO:-a} ${NO#b} ${NO/a/b} x");
}

#[test]
fn names_may_ignore_case() {
    let mut vars = VariableList::ignoring_case();
    vars.set("Path", "p");
    assert_eq!(Lexer::new('`').word("$PATH", &vars).text.unwrap(), "p");
    assert_eq!(vars.names(), ["Path"]);
}

#[test]
fn hostile_words_end() {
    let deep = "${a:-".repeat(20_000);
    assert!(Lexer::new('\\').word(&deep, &NoVariables).text.is_err());
    let many = "$".repeat(100_000) + &"'".repeat(100_001);
    assert!(Lexer::new('\\').word(&many, &NoVariables).text.is_err());
    let vars: VariableList = [("BIG", "x".repeat(1 << 20))].into_iter().collect();
    let error = Lexer::new('\\').word(&"$BIG".repeat(40), &vars).text.unwrap_err();
    assert!(error.to_string().contains("larger"));
}

#[test]
fn errors_point_into_the_word() {
    use crate::ast::Command;
    let mut instruction = crate::parse_instruction("LABEL ok=1 a=b${A!c}").unwrap();
    let Command::Label(_) = &instruction.command else { panic!() };
    let lexer = Lexer::new('\\');
    let error = instruction.command.expand(&mut |w| lexer.word(w, &vars()).text).unwrap_err();
    assert_eq!((error.span().start.column, error.span().start.line), (17, 1));
}
