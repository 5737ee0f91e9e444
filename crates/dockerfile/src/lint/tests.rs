use super::*;
use crate::lint::checks;
use crate::shell::{Lexer, VariableList};

fn lint(text: &str) -> Vec<(Rule, u32)> {
    let mut linter = Linter::for_file(text, None).unwrap();
    crate::parse_linted(text, &mut linter).unwrap();
    linter.warnings().iter().map(|w| (w.rule, w.span.start.line)).collect()
}

#[test]
fn names_and_keywords() {
    assert_eq!(lint("FROM a AS Big\n"), [(Rule::StageNameCasing, 1)]);
    assert_eq!(lint("FROM a as b\n"), [(Rule::FromAsCasing, 1)]);
    assert_eq!(lint("from a AS b\n"), [(Rule::FromAsCasing, 1)]);
    // Mixed case is another rule's.
    assert_eq!(lint("From a as b\n"), [(Rule::ConsistentInstructionCasing, 1)]);
    assert_eq!(
        lint("FROM a\nrun b\nRun c\nRUN d\n"),
        [(Rule::ConsistentInstructionCasing, 2), (Rule::ConsistentInstructionCasing, 3)]
    );
    assert_eq!(lint("from a\nrun b\nRUN c\n"), [(Rule::ConsistentInstructionCasing, 3)]);
    assert_eq!(
        lint("FROM a AS x\nFROM a AS X\n"),
        [(Rule::StageNameCasing, 2), (Rule::DuplicateStageName, 2)]
    );
    assert_eq!(lint("FROM a AS scratch\nFROM a AS context\n").len(), 2);
}

#[test]
fn lines_and_old_instructions() {
    assert_eq!(lint("FROM a\nRUN b \\\n\n c\n"), [(Rule::NoEmptyContinuation, 4)]);
    assert_eq!(lint("FROM a\nMAINTAINER b\n"), [(Rule::MaintainerDeprecated, 2)]);
}

#[test]
fn descriptions_are_checked_when_asked_for() {
    let body = "# A is it\nARG A\n# other\nARG B C\n\n# x\nFROM a AS b\n# b\n#\nARG D\n# a note\nFROM c\n";
    assert!(lint(body).is_empty());
    let text = format!("# check=experimental=InvalidDefinitionDescription\n{body}");
    assert_eq!(
        lint(&text),
        [(Rule::InvalidDefinitionDescription, 5), (Rule::InvalidDefinitionDescription, 8)]
    );
}

#[test]
fn comments_switch_rules_off() {
    assert!(lint("# check=skip=StageNameCasing,FromAsCasing\nFROM a as B\n").is_empty());
    assert!(lint("# check=skip=all\nFROM a as B\n").is_empty());
    assert_eq!(
        lint("FROM x\n# check=skip=MaintainerDeprecated\nMAINTAINER a\nMAINTAINER b\n"),
        [(Rule::MaintainerDeprecated, 4)]
    );
}

#[test]
fn the_argument_takes_the_place_of_the_directive() {
    let text = "# check=skip=all;error=true\nFROM a AS B\n";
    let mut linter = Linter::for_file(text, Some("error=true")).unwrap();
    crate::parse_linted(text, &mut linter).unwrap();
    assert_eq!(linter.error().unwrap_err().message(), "lint violation found for rules: StageNameCasing");
    assert!(Linter::for_file("# check=nonsense\nFROM a\n", None).is_err());
    assert!(Linter::for_file("# check=skip=all; error=true\nFROM a\n", None).is_err());
}

#[test]
fn warnings_before_an_error_are_kept() {
    let mut linter = Linter::default();
    crate::parse_linted("FROM a AS B\nMAINTAINER\nMAINTAINER x\n", &mut linter).unwrap_err();
    let rules: Vec<_> = linter.warnings().iter().map(|w| w.rule).collect();
    assert_eq!(rules, [Rule::StageNameCasing, Rule::MaintainerDeprecated]);
}

#[test]
fn a_silent_linter_hears_nothing() {
    let mut linter = Linter::silent();
    linter.run(Span::line(1), Finding::MaintainerDeprecated);
    assert!(linter.warnings().is_empty());
}

fn scoped(check: impl FnOnce(&mut Scoped<'_>)) -> Vec<String> {
    let mut linter = Linter::default();
    check(&mut linter.with_comments(&[]));
    linter.into_warnings().into_iter().map(|w| w.message).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn undefined_names_have_neighbours() {
    let declared = names(&["VERSION", "OK"]);
    let found = scoped(|l| {
        checks::undefined_args_in_from(l, Span::line(1), &names(&["VERSOIN", "OK"]), || &declared)
    });
    assert_eq!(found, ["FROM argument 'VERSOIN' is not declared (did you mean VERSION?)"]);
    let found = scoped(|l| {
        checks::undefined_variables(
            l,
            Span::line(1),
            &names(&["FOOO", "DECLARED"]),
            |n| n == "DECLARED",
            || ["FOO"].into_iter(),
        );
    });
    assert_eq!(found, ["Usage of undefined variable '$FOOO' (did you mean $FOO?)"]);
}

#[test]
fn platforms_of_from() {
    let check = |from: &str| {
        let file = crate::parse(from).unwrap();
        let vars: VariableList =
            [("TARGETPLATFORM", "linux/amd64"), ("P", "linux/arm64")].into_iter().collect();
        let expanded = Lexer::new('\\').word(file.stages[0].platform.as_deref().unwrap(), &vars);
        scoped(|l| checks::from_platform(l, &file.stages[0], &expanded, Some("linux/amd64")))
    };
    assert!(check("FROM --platform=$TARGETPLATFORM a")[0].contains("redundant"));
    assert!(check("FROM --platform=linux/arm64 a")[0].contains("constant value \"linux/arm64\""));
    assert!(check("FROM --platform=$P a").is_empty());
    assert!(check("FROM --platform=linux/${TARGETPLATFORM#linux/} a AS b")[0].contains("redundant"));
    assert!(check("FROM --platform=linux/arm64 a AS build-arm64").is_empty());
    assert!(check("FROM --platform=non/sense/x/y/z a").is_empty());
}

#[test]
fn secrets_by_name() {
    let check = |key: &str| scoped(|l| checks::secret_name(l, Span::line(1), "ARG", key)).len();
    for key in ["API_KEY", "password", "GITHUB_TOKEN", "auth_x", "X_Secret_Y"] {
        assert_eq!(check(key), 1, "{key}");
    }
    for key in ["MONKEY", "KEY_FILE", "PUBLIC_KEY", "TOKEN_VERSION", "AUTHOR", "PASS"] {
        assert_eq!(check(key), 0, "{key}");
    }
}

#[test]
fn ports() {
    let check = |port: &str| scoped(|l| checks::exposed_port(l, Span::line(1), port)).len();
    assert_eq!(
        [check("80"), check("80/tcp"), check("80/TCP"), check("80:80"), check("1.2.3.4:80:80/UDP")],
        [0, 0, 1, 1, 2]
    );
}

#[test]
fn ignored_sources() {
    let check = |ignore: &str, source: &str| {
        let (_, matcher) = crate::ignore::read("i", ignore).unwrap();
        scoped(|l| checks::ignored_source(l, Span::line(1), false, source, Some(&matcher))).len()
    };
    assert_eq!([check("a", "a"), check("a", "./a/b"), check("a", "b"), check("a\n!a/b", "a")], [1, 1, 0, 0]);
    assert_eq!([check("*", "."), check(".*", "."), check("**", "/")], [1, 0, 1]);
}

#[test]
fn bases_and_pairs() {
    let file = crate::parse("ARG V\nFROM a:$V\nENV a b\nCMD x\nCMD [\"x\"]\n").unwrap();
    let mut linter = Linter::default();
    checks::default_base(&mut linter, &file.stages[0], "a:");
    assert_eq!(
        linter.warnings()[0].message,
        "Default value for ARG a:$V results in empty or invalid base image name"
    );
    let mut once = checks::OnlyOnce::default();
    let [env, cmd, exec] = file.stages[0].instructions.as_slice() else { panic!() };
    let mut lint = linter.with_comments(&[]);
    if let crate::ast::Command::Env(pairs) = &env.command {
        checks::legacy_pair(&mut lint, env, &pairs[0]);
    }
    once.note(&mut lint, cmd);
    once.note(&mut lint, exec);
    checks::json_recommended(&mut lint, cmd, false);
    checks::json_recommended(&mut lint, cmd, true);
    checks::json_recommended(&mut lint, exec, false);
    let rules: Vec<_> = linter.warnings().iter().skip(1).map(|w| (w.rule, w.span.start.line)).collect();
    assert_eq!(
        rules,
        [
            (Rule::LegacyKeyValueFormat, 3),
            (Rule::MultipleInstructionsDisallowed, 4),
            (Rule::JsonArgsRecommended, 4)
        ]
    );
}
