//! Names of steps: `[linux/amd64->arm64 builder 2/5] RUN make`.

use std::borrow::Cow;

use bytestring::ByteString;
use kiln_llb::build::Env;
use kiln_oci::Platform;

use super::format::push_number;
use crate::ast::is_plain;
use crate::shell::{Lexer, Variables};
use crate::text::upper;
use crate::texts::Texts;

/// The key of an instruction's text, among an op's descriptions.
pub(super) const COMMAND: &str = "com.docker.dockerfile.v1.command";

/// Counts the steps of a stage and names them.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps {
    /// The stage's name; empty if it is the only one.
    pub(super) stage: String,
    /// How many steps it has.
    pub(super) total: usize,
    /// Step names tell their platform.
    pub(super) with_platform: bool,
    done: usize,
}

impl Steps {
    /// The name of the next step. `env` are the variables that may name a target platform.
    pub(super) fn next(
        &mut self,
        texts: &mut Texts,
        text: &str,
        platform: Option<&Platform>,
        env: &Env,
        onbuild: bool,
    ) -> ByteString {
        if self.total == 0 {
            return texts.keep(text);
        }
        self.done += 1;
        let digits = |number: usize| number.checked_ilog10().unwrap_or(0) as usize + 1;
        let width = digits(self.total);
        texts.make(|out| {
            out.push('[');
            if let Some(platform) = platform.filter(|_| self.with_platform) {
                out.push_str(&platform.format_all());
                out.push_str(&cross(platform, target(env)));
                out.push(' ');
            }
            if !self.stage.is_empty() {
                out.push_str(&self.stage);
                out.push(' ');
            }
            let blanks = width.saturating_sub(digits(self.done));
            out.extend(std::iter::repeat_n(' ', blanks));
            push_number(out, self.done as u64);
            out.push('/');
            push_number(out, self.total as u64);
            out.push_str("] ");
            if onbuild {
                out.push_str("ONBUILD ");
            }
            out.push_str(text);
        })
    }

    /// Makes the next name repeat the number of the last one.
    pub(super) fn again(&mut self) {
        self.done = self.done.saturating_sub(1);
    }
}

/// `->arm64`: what is built for, if it is another platform than the one that builds.
fn cross(base: &Platform, target: Option<Platform>) -> String {
    let Some(mut target) = target else { return String::new() };
    if target.os.is_empty() {
        target.os.clone_from(&base.os);
    }
    if target.architecture.is_empty() {
        target.architecture.clone_from(&base.architecture);
    }
    let target = target.normalize();
    if target.os != base.os {
        return format!("->{}", target.format_all());
    }
    if target.architecture == base.architecture {
        return String::new();
    }
    match target.variant.as_str() {
        "" => format!("->{}", target.architecture),
        variant => format!("->{}/{variant}", target.architecture),
    }
}

/// The platform that the step's TARGET… variables name.
fn target(env: &Env) -> Option<Platform> {
    if let Some(platform) = env.get("TARGETPLATFORM").and_then(|value| Platform::parse(value).ok()) {
        return Some(platform);
    }
    let [os, architecture, variant] = ["TARGETOS", "TARGETARCH", "TARGETVARIANT"].map(|name| env.get(name));
    os.or(architecture).or(variant)?;
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    Some(Platform {
        os: text(os),
        architecture: text(architecture),
        variant: text(variant),
        ..Platform::default()
    })
}

/// An instruction's text with its variables expanded and its keyword in upper case.
pub(super) fn display<'c>(lexer: &Lexer, code: &'c str, env: &dyn Variables) -> Cow<'c, str> {
    let mut text = match is_plain(code) {
        true => Cow::Borrowed(code),
        false => lexer.text(code, env).map_or(Cow::Borrowed(code), Cow::Owned),
    };
    let keyword = text.find(' ').unwrap_or(text.len());
    if let Cow::Owned(upper) = upper(&text[..keyword]) {
        text.to_mut().replace_range(..keyword, &upper);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Platform {
        Platform::parse(s).unwrap()
    }

    fn env(pairs: &[(&str, &str)]) -> Env {
        let mut env = Env::default();
        pairs.iter().for_each(|&(name, value)| env.set(name, value));
        env
    }

    #[test]
    fn numbers_and_platforms() {
        let texts = &mut Texts::default();
        let mut steps = Steps { stage: "base".into(), total: 10, with_platform: true, done: 0 };
        assert_eq!(
            steps.next(texts, "RUN a", Some(&p("linux/amd64")), &env(&[]), false),
            "[linux/amd64 base  1/10] RUN a"
        );
        let to = env(&[("TARGETARCH", "arm64")]);
        assert_eq!(
            steps.next(texts, "b", Some(&p("linux/amd64")), &to, true),
            "[linux/amd64->arm64 base  2/10] ONBUILD b"
        );
        steps.again();
        let to = env(&[("TARGETPLATFORM", "windows/amd64")]);
        assert_eq!(
            steps.next(texts, "b", Some(&p("linux/amd64")), &to, false),
            "[linux/amd64->windows/amd64 base  2/10] b"
        );
        assert_eq!(steps.next(texts, "b", None, &to, false), "[base  3/10] b");
        let mut none = Steps::default();
        assert_eq!(none.next(texts, "FROM x", None, &env(&[]), false), "FROM x");
        let to = env(&[
            ("TARGETPLATFORM", "?"),
            ("TARGETOS", "linux"),
            ("TARGETARCH", "arm"),
            ("TARGETVARIANT", "v6"),
        ]);
        assert_eq!(cross(&p("linux/amd64"), target(&to)), "->arm/v6");
    }

    #[test]
    fn texts() {
        let vars = Env::default();
        assert_eq!(display(&Lexer::new('\\'), "copy $a b", &vars), "COPY  b");
        assert_eq!(display(&Lexer::new('\\'), "run ${", &vars), "RUN ${");
    }
}
