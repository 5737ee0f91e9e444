//! Differences in words.

use crate::{Change, Difference, Kind};

/// Longer values are cut, in characters.
const MAX_VALUE: usize = 160;
/// What is kept of an equal beginning, in characters.
const CONTEXT: usize = 40;

/// A difference in one line.
#[must_use]
pub fn difference(d: &Difference) -> String {
    let argument = match &d.build_arg {
        Some(name) if d.kind != Kind::BuildArg => format!(" (build-arg {name})"),
        _ => String::new(),
    };
    format!("{}{argument}", plain(d))
}

fn plain(d: &Difference) -> String {
    let name = shorten(&d.name);
    match (d.kind, d.change) {
        (Kind::File, change) => {
            let (what, own) = if name.ends_with('/') { ("folder", " (mode or owner)") } else { ("file", "") };
            match change {
                Change::Added => format!("{what} {name} is new"),
                Change::Removed => format!("{what} {name} is gone"),
                Change::Changed => format!("{what} {name} changed{own}"),
            }
        }
        (Kind::Files, _) => format!("files of {name} differ (which ones is not known)"),
        (Kind::Input, Change::Added) => format!("it takes {name}, which it did not before"),
        (Kind::Input, _) => format!("it took {name} before"),
        (Kind::Definition, _) if d.before.is_none() && d.after.is_none() => {
            "its definition differs, in a way that is not listed".to_owned()
        }
        (kind, change) => values(d, &label(kind, &name), change),
    }
}

fn values(d: &Difference, label: &str, change: Change) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    match change {
        Change::Added => format!("{label} is new: {}", quoted(&d.kind, &text(&d.after), 0)),
        Change::Removed => format!("{label} is gone, it was {}", quoted(&d.kind, &text(&d.before), 0)),
        Change::Changed => {
            let (before, after) = (text(&d.before), text(&d.after));
            let equal = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).count();
            format!("{label}: {} → {}", quoted(&d.kind, &before, equal), quoted(&d.kind, &after, equal))
        }
    }
}

fn label(kind: Kind, name: &str) -> String {
    let word = match kind {
        Kind::Command => "command",
        Kind::Env => "env",
        Kind::BuildArg => "build-arg",
        Kind::Workdir => "working directory",
        Kind::User => "user",
        Kind::Hostname => "host name",
        Kind::ExtraHost => "extra host",
        Kind::Ulimit => "ulimit",
        Kind::CgroupParent => "parent cgroup",
        Kind::Network => "network",
        Kind::Security => "security",
        Kind::Mount => "mount",
        Kind::SecretEnv => "secret in the environment",
        Kind::Device => "device",
        Kind::Platform => "platform",
        Kind::Image => "image",
        Kind::Git => "git repository",
        Kind::Http => "address",
        Kind::Source => "source",
        // Their names say what they are.
        Kind::Option | Kind::FileAction | Kind::Definition | Kind::File | Kind::Files | Kind::Input => "",
    };
    match (word, name) {
        ("", name) => name.to_owned(),
        (word, "") => word.to_owned(),
        (word, name) => format!("{word} {name}"),
    }
}

/// A value that stands by itself, or in quotes where its ends would not be seen. Of a long one, what stands around character `at`.
fn quoted(kind: &Kind, value: &str, at: usize) -> String {
    if matches!(kind, Kind::Image | Kind::Git | Kind::Http | Kind::Source) {
        return if value.is_empty() { "(unknown)".to_owned() } else { shorten(value) };
    }
    let total = value.chars().count();
    if total <= MAX_VALUE {
        return format!("{value:?}");
    }
    let from = at.saturating_sub(CONTEXT).min(total - MAX_VALUE);
    let part: String = value.chars().skip(from).take(MAX_VALUE).collect();
    let (left, right) = (if from > 0 { "…" } else { "" }, if from + MAX_VALUE < total { "…" } else { "" });
    format!("{left}{part:?}{right}")
}

/// A text whose SHA-256 digests are cut to what people compare.
#[must_use]
pub fn shorten(text: &str) -> String {
    const KEPT: usize = 12;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        let (before, digest) = rest.split_at(at + "sha256:".len());
        let hex = digest.bytes().take_while(u8::is_ascii_hexdigit).count();
        out.push_str(before);
        out.push_str(&digest[..if hex == 64 { KEPT } else { hex }]);
        rest = &digest[hex..];
    }
    out + rest
}
