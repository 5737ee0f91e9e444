//! RUN.

use super::command_line;
use super::flags::{Flags, Kind};
use crate::ast::{Device, MountFlag, NetworkMode, Run, SecurityMode};
use crate::error::{Error, ErrorKind};
use crate::parser::Statement;
use crate::suggest::nearest;
use crate::word::Word;

pub(super) fn run(statement: &mut Statement) -> Result<Run, Error> {
    let mut flags = Flags::take(
        &mut statement.flags,
        &[
            ("mount", Kind::Values),
            ("network", Kind::Value),
            ("security", Kind::Value),
            ("device", Kind::Values),
        ],
    )?;
    Ok(Run {
        mounts: all(&mut flags, "mount", MountFlag::read)?,
        network: match flags.given("network") {
            None => NetworkMode::Default,
            Some(mode) => network(mode)?,
        },
        security: match flags.given("security") {
            None => SecurityMode::Sandbox,
            Some(mode) => security(mode)?,
        },
        devices: all(&mut flags, "device", |word| Device::read(&word))?,
        flags_used: flags.names(),
        command: command_line(statement),
    })
}

/// Reads all values of a flag. There are as many results: nothing is set aside for more.
fn all<T>(flags: &mut Flags, name: &str, read: impl Fn(Word) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let mut list = Vec::with_capacity(flags.count(name));
    for value in flags.values(name) {
        list.push(read(value)?);
    }
    Ok(list)
}

fn network(mode: &Word) -> Result<NetworkMode, Error> {
    match mode.as_str() {
        "default" => Ok(NetworkMode::Default),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        _ => Err(Error::new(ErrorKind::Flag, format!("invalid network mode \"{mode}\""))
            .at(mode.span)
            .expected("default, none or host")
            .suggest(nearest(mode, ["default", "none", "host"]))),
    }
}

fn security(mode: &Word) -> Result<SecurityMode, Error> {
    match mode.as_str() {
        "sandbox" => Ok(SecurityMode::Sandbox),
        "insecure" => Ok(SecurityMode::Insecure),
        _ => Err(Error::new(ErrorKind::Flag, format!("invalid security mode \"{mode}\""))
            .at(mode.span)
            .expected("sandbox or insecure")
            .suggest(nearest(mode, ["sandbox", "insecure"]))),
    }
}
