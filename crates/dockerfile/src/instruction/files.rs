//! COPY and ADD.

use std::collections::HashMap;

use bytestring::ByteString;

use super::flags::{Flags, Kind};
use super::{refuse, words};
use crate::ast::{Add, Copy, InlineFile, Sources};
use crate::error::Error;
use crate::parser::{Statement, chomp, parse_marker};
use crate::word::Word;

pub(super) fn copy(statement: &mut Statement) -> Result<Copy, Error> {
    enough(statement, "COPY")?;
    let mut flags = Flags::take(
        &mut statement.flags,
        &[
            ("from", Kind::Value),
            ("chown", Kind::Value),
            ("chmod", Kind::Value),
            ("link", Kind::Bool),
            ("parents", Kind::Bool),
            ("exclude", Kind::Values),
        ],
    )?;
    Ok(Copy {
        sources: sources(statement, "COPY")?,
        from: flags.value("from"),
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.truth("link").unwrap_or(false),
        parents: flags.truth("parents").unwrap_or(false),
        excludes: flags.values("exclude").collect(),
    })
}

pub(super) fn add(statement: &mut Statement) -> Result<Add, Error> {
    enough(statement, "ADD")?;
    let mut flags = Flags::take(
        &mut statement.flags,
        &[
            ("chown", Kind::Value),
            ("chmod", Kind::Value),
            ("link", Kind::Bool),
            ("keep-git-dir", Kind::Bool),
            ("checksum", Kind::Value),
            ("unpack", Kind::Bool),
            ("exclude", Kind::Values),
        ],
    )?;
    Ok(Add {
        sources: sources(statement, "ADD")?,
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.truth("link").unwrap_or(false),
        excludes: flags.values("exclude").collect(),
        checksum: flags.value("checksum"),
        keep_git_dir: flags.truth("keep-git-dir"),
        unpack: flags.truth("unpack"),
    })
}

fn enough(statement: &Statement, name: &str) -> Result<(), Error> {
    match statement.args.words.as_slice() {
        [] => Err(refuse(format!("{name} without arguments")).expected("sources and a destination")),
        [only] => Err(refuse(format!("{name} without a destination"))
            .at(only.span)
            .expected("a destination after it")),
        _ => Ok(()),
    }
}

fn sources(statement: &mut Statement, name: &str) -> Result<Sources, Error> {
    let mut paths = words(statement).into_vec();
    let Some(dest) = paths.pop() else {
        return Err(refuse(format!("{name} without arguments")));
    };
    if parse_marker(&dest).is_some() {
        return Err(refuse(format!("a heredoc as the destination of {name}"))
            .at(dest.span)
            .expected("a path after the heredocs"));
    }
    if statement.heredocs.is_empty() && !paths.iter().any(|path| parse_marker(path).is_some()) {
        return Ok(Sources { paths, contents: Vec::new(), dest });
    }
    // A name announced twice has the content of its last lines.
    let bodies: HashMap<&str, &ByteString> =
        statement.heredocs.iter().map(|h| (&*h.name, &h.content)).collect();
    let mut sources = Sources { dest, ..Sources::default() };
    for path in paths {
        match parse_marker(&path) {
            None => sources.paths.push(path),
            Some(marker) => {
                let content = bodies.get(&*marker.name).map(|&content| content.clone()).unwrap_or_default();
                sources.contents.push(InlineFile {
                    data: if marker.chomp { chomp(&content).into() } else { content },
                    name: Word::new(marker.name, path.span),
                    expand: marker.expand,
                });
            }
        }
    }
    Ok(sources)
}
