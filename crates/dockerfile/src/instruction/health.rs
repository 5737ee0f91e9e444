//! HEALTHCHECK.

use bytestring::ByteString;

use super::flags::{Flags, Kind};
use super::{refuse, words};
use crate::ast::Healthcheck;
use crate::error::{Error, ErrorKind};
use crate::parser::Statement;
use crate::text::parse_duration;
use crate::word::Word;

/// Shortest time that a health check may be given, in nanoseconds.
const SHORTEST: i64 = 1_000_000;

pub(super) fn healthcheck(statement: &mut Statement) -> Result<Healthcheck, Error> {
    let json = statement.args.json;
    let mut words = words(statement).into_iter();
    let Some(kind) = words.next() else {
        return Err(refuse("HEALTHCHECK without arguments").expected("CMD and a command, or NONE"));
    };
    let command: Vec<ByteString> = words.map(|word| word.text).collect();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => {
            Ok(Healthcheck { test: vec![ByteString::from_static("NONE")], ..Healthcheck::default() })
        }
        "NONE" => Err(refuse("HEALTHCHECK NONE with arguments").at(kind.span)),
        "CMD" => check(&mut statement.flags, &kind, command, json),
        other => Err(refuse(format!("HEALTHCHECK of the unknown type \"{other}\""))
            .at(kind.span)
            .expected("CMD and a command, or NONE")),
    }
}

fn check(
    flags: &mut Vec<Word>,
    kind: &Word,
    command: Vec<ByteString>,
    json: bool,
) -> Result<Healthcheck, Error> {
    let mut flags = Flags::take(
        flags,
        &[
            ("interval", Kind::Value),
            ("timeout", Kind::Value),
            ("start-period", Kind::Value),
            ("start-interval", Kind::Value),
            ("retries", Kind::Value),
        ],
    )?;
    if command.is_empty() {
        return Err(refuse("HEALTHCHECK CMD without a command").at(kind.span));
    }
    let mut test = vec![ByteString::from_static(if json { "CMD" } else { "CMD-SHELL" })];
    test.extend(command);
    Ok(Healthcheck {
        test,
        interval: duration(&mut flags, "interval")?,
        timeout: duration(&mut flags, "timeout")?,
        start_period: duration(&mut flags, "start-period")?,
        start_interval: duration(&mut flags, "start-interval")?,
        retries: flags.value("retries").map_or(Ok(0), |word| retries(&word))?,
    })
}

fn duration(flags: &mut Flags, name: &str) -> Result<i64, Error> {
    let Some(word) = flags.value(name) else { return Ok(0) };
    let refuse = |message: String| {
        Error::new(ErrorKind::Flag, message)
            .at(word.span)
            .expected("a duration such as `1m30s`, of 1ms or more")
    };
    let duration =
        parse_duration(&word).ok_or_else(|| refuse(format!("--{name}: invalid duration \"{word}\"")))?;
    if duration != 0 && duration < SHORTEST {
        return Err(refuse(format!("--{name}: {word} is less than 1ms")));
    }
    Ok(duration)
}

fn retries(word: &Word) -> Result<i32, Error> {
    let count: i32 = word.parse().map_err(|_| {
        Error::new(ErrorKind::Flag, format!("--retries: invalid number \"{word}\""))
            .at(word.span)
            .expected("a number")
    })?;
    if count < 0 {
        return Err(Error::new(ErrorKind::Flag, format!("--retries={count} is negative")).at(word.span));
    }
    Ok(count)
}
