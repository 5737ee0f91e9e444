//! The answer for people.
//!
//! ```text
//!   Build 2nq1…, 2026-11-27 14:30:05 UTC, succeeded: 2 steps ran, 1 was cached.
//!   Compared with build m3xa…, 2026-11-27 14:29:58 UTC.
//!
//!     1  cached    [1/3] FROM docker.io/library/alpine:3.20
//!     2  ran       [2/3] COPY . /src
//!                  file src/main.rs changed
//!     3  ran       [3/3] RUN make
//!                  follows step 2
//! ```
//! One step that was asked for is told in full, with the key that was tried.

mod phrase;

use std::io::{self, Write};

use crate::{Answer, BuildInfo, Cause, Counts, FoundBy, Outcome, Root, Status, StepAnswer};

pub use phrase::{difference, shorten};

/// In an overview, no more differences of a step are told.
const OVERVIEW: usize = 6;

/// Writes the answer: an overview, or in full (`full`) what was asked for.
///
/// # Errors
/// If `out` cannot be written to.
pub fn write(out: &mut impl Write, answer: &Answer, full: bool) -> io::Result<()> {
    put(out, &format!("Build {}.", summary(answer)))?;
    if let Some(other) = &answer.compared_with {
        put(out, &format!("Compared with build {}.", build(other)))?;
    }
    for warning in &answer.warnings {
        put(out, &format!("Warning: {warning}."))?;
    }
    if full {
        for step in &answer.steps {
            writeln!(out)?;
            in_full(out, step, answer)?;
        }
        return Ok(());
    }
    writeln!(out)?;
    let shown: Vec<&StepAnswer> = answer.steps.iter().filter(|step| step.number.is_some()).collect();
    if shown.is_empty() {
        return put(out, "It ended before it came to a step.");
    }
    for step in shown {
        let number = step.number.unwrap_or_default();
        put(out, &format!("{number:>3}  {:<9} {}", word(step.status), shorten(&step.name)))?;
        for line in reasons(step, answer, OVERVIEW) {
            put(out, &format!("{:14} {line}", ""))?;
        }
    }
    Ok(())
}

/// One line, without anything that a terminal would obey: names of files and steps are a stranger's.
fn put(out: &mut impl Write, text: &str) -> io::Result<()> {
    let shown: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    writeln!(out, "{shown}")
}

fn summary(answer: &Answer) -> String {
    let mut text = build(&answer.build);
    match answer.build.outcome {
        Outcome::Succeeded => text.push_str(", succeeded"),
        Outcome::Failed => text.push_str(", failed"),
        Outcome::Canceled => text.push_str(", canceled"),
    }
    let Counts { ran, cached, unneeded } = answer.counts;
    let was = |n: usize| if n == 1 { "was" } else { "were" };
    let steps = if ran == 1 { "step" } else { "steps" };
    text.push_str(&format!(": {ran} {steps} ran, {cached} {} cached", was(cached)));
    if unneeded > 0 {
        text.push_str(&format!(", {unneeded} {} not needed", was(unneeded)));
    }
    text
}

/// `ref, 2026-11-27 14:30:05 UTC`.
fn build(build: &BuildInfo) -> String {
    format!("{}, {}", build.reference, time(&build.started))
}

fn time(text: &str) -> String {
    text.replace('T', " ").replace('Z', " UTC")
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ran => "ran",
        Status::Cached => "cached",
        Status::Unneeded | Status::Resolved => "unneeded",
        Status::Joined => "joined",
        Status::Failed => "failed",
        Status::Canceled => "canceled",
        Status::Pending => "-",
    }
}

/// Why a step ran, a line for each reason.
fn reasons(step: &StepAnswer, answer: &Answer, most: usize) -> Vec<String> {
    let Some(cause) = step.cause else {
        return if step.detail.is_empty() { Vec::new() } else { vec![step.detail.clone()] };
    };
    let mut lines = Vec::new();
    let with = || {
        step.compared_with.as_ref().map_or("an earlier build".into(), |c| format!("build {}", c.reference))
    };
    match cause {
        Cause::Ignored => lines.push(format!("ignored the cache: {}", step.detail)),
        Cause::Lost => lines.push(format!("a cached result could not be used: {}", step.detail)),
        Cause::Removed => lines.push(match &step.removed_since {
            Some(had) => format!(
                "same as in build {} of {}, but its result has been removed since (pruned, collected as garbage, or lost in a power cut)",
                had.reference,
                time(&had.ended)
            ),
            None => "its key is known, but no result of it is left (pruned, collected as garbage, or lost in a power cut)".into(),
        }),
        Cause::Unfinished => lines.push(format!("same as in {}, but {}", with(), step.detail)),
        Cause::NewStep => lines.push("no earlier build had this step".into()),
        Cause::NoEarlierBuild => lines.push("no earlier build of this is known".into()),
        Cause::Always => {
            lines.push("a client's folder is always looked at anew; steps that use it go by its content".into());
        }
        Cause::Uncacheable => lines.push(format!(
            "cannot be cached: it takes {} as a whole, and no other build's folder can be told to be the same",
            step.detail
        )),
        Cause::Unknown if step.detail.is_empty() => {
            lines.push(format!("no difference from {} is known", with()));
        }
        Cause::Unknown => lines.push(format!("no difference from {} is known: {}", with(), step.detail)),
        Cause::Changed | Cause::Follows => {}
    }
    let shown = step.differences.iter().take(most).map(difference);
    lines.extend(shown);
    let more = step.differences.len().saturating_sub(most) + step.more_files;
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    if step.files_incomplete {
        lines.push("other files may differ: there are more than are listed".into());
    }
    lines.extend(step.follows.iter().map(|follow| {
        let of = match follow.number {
            Some(number) => format!("follows step {number}"),
            None => format!("follows {}", shorten(&follow.name)),
        };
        match &follow.before {
            Some(before) => format!("{of}, where it followed {} before", shorten(before)),
            None => of,
        }
    }));
    if let (Cause::Changed, Some(had)) = (cause, &step.removed_since) {
        lines.push(format!("build {} had its result, which has been removed since", had.reference));
    }
    let usual = answer.compared_with.as_ref().map(|build| build.reference.as_str());
    if let Some(compared) = step.compared_with.as_ref().filter(|c| Some(c.reference.as_str()) != usual) {
        let of = time(&compared.ended);
        lines.push(format!("(compared with build {} of {of}, the last one that had it)", compared.reference));
    }
    lines
}

fn in_full(out: &mut impl Write, step: &StepAnswer, answer: &Answer) -> io::Result<()> {
    match step.number {
        Some(number) => put(out, &format!("Step {number}: {}", step.name))?,
        None => put(out, &step.name)?,
    }
    if let Some(place) = &step.source {
        put(out, &format!("  at       {}:{}", place.file, place.line))?;
    }
    let took = step.seconds.map(|s| format!(", in {s:.1}s")).unwrap_or_default();
    let how = if step.status == Status::Cached { found(step) } else { String::new() };
    put(out, &format!("  status   {}{took}{how}", word(step.status)))?;
    if !step.error.is_empty() {
        put(out, &format!("  error    {}", step.error.lines().next().unwrap_or_default()))?;
    }
    if let Some(compared) = &step.compared_with {
        put(
            out,
            &format!(
                "  before   {} in build {} of {}",
                compared.step,
                compared.reference,
                time(&compared.ended)
            ),
        )?;
    }
    for (at, line) in reasons(step, answer, usize::MAX).iter().enumerate() {
        put(out, &format!("  {:<8} {line}", if at == 0 { "why" } else { "" }))?;
    }
    for root in &step.roots {
        write_root(out, root)?;
    }
    let Some(key) = &step.key else { return Ok(()) };
    for (at, digest) in key.digests.iter().enumerate() {
        put(out, &format!("  {:<8} {digest}", if at == 0 { "key" } else { "" }))?;
    }
    for (at, input) in key.inputs.iter().enumerate() {
        let by = match input.content.as_str() {
            "" => "by definition".to_owned(),
            content => format!("by content {content}"),
        };
        let led = if input.matches > 0 { "led to a key" } else { "led to no key" };
        put(out, &format!("  input {at}  {} {by}: {led}", shorten(&input.name)))?;
    }
    if !key.result.is_empty() {
        put(out, &format!("  result   {}", verdict(&key.result)))?;
    }
    Ok(())
}

/// How a cached result was found, and where if not in this builder's own cache.
fn found(step: &StepAnswer) -> String {
    let by = match step.found_by {
        Some(FoundBy::Content) => ", found by the content of its inputs",
        Some(FoundBy::Definition) => ", found by its definition",
        None => "",
    };
    match step.store.as_str() {
        "" | "local" => by.to_owned(),
        store => format!("{by}, in {store}"),
    }
}

fn write_root(out: &mut impl Write, root: &Root) -> io::Result<()> {
    let name = match root.number {
        Some(number) => format!("step {number}, {}", shorten(&root.name)),
        None => shorten(&root.name),
    };
    let why = match root.cause {
        Cause::Ignored => format!("ignored the cache: {}", root.detail),
        Cause::Changed => "changed:".to_owned(),
        Cause::NewStep | Cause::NoEarlierBuild => "is new".to_owned(),
        Cause::Removed => "had to run, as its result has been removed".to_owned(),
        Cause::Lost => format!("had to run: {}", root.detail),
        Cause::Uncacheable => "cannot be cached".to_owned(),
        Cause::Follows | Cause::Unfinished | Cause::Always | Cause::Unknown => "ran".to_owned(),
    };
    put(out, &format!("  {:<8} {name} {why}", "root"))?;
    for change in &root.differences {
        put(out, &format!("  {:<8}   {}", "", difference(change)))?;
    }
    if root.more > 0 {
        put(out, &format!("  {:<8}   and {} more", "", root.more))?;
    }
    Ok(())
}

fn verdict(result: &str) -> &str {
    match result {
        "ignore-cache" => "not looked up: the cache is ignored",
        "no-match" => "no cache has a key that follows from its inputs",
        "no-common-key" => "each input leads to keys, but no key to which all of them lead",
        "unknown-digest" => "no cache has this key",
        "no-result" => "the key is known, but no result of it is left",
        other => other,
    }
}

#[cfg(test)]
mod tests;
