//! Flags as Go programs take them: `-name` beside `--name`, `--flag=true` for what is on or off.

use std::ffi::OsString;

use clap::Command;

/// Makes `-name` and `-name=value` into `--name…` where some command has a flag of that name.
/// What follows `--` is left alone.
pub(crate) fn normalize(command: &Command, args: Vec<OsString>) -> Vec<OsString> {
    let mut names = Vec::new();
    collect(command, &mut names);
    let mut rest = false;
    let double = |arg: OsString| match arg.to_str() {
        Some(text) if is_long(text, &names) => format!("-{text}").into(),
        _ => arg,
    };
    args.into_iter()
        .map(|arg| {
            rest |= arg == "--";
            if rest { arg } else { double(arg) }
        })
        .collect()
}

fn collect(command: &Command, names: &mut Vec<String>) {
    names.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned));
    names.extend(["help", "version"].map(str::to_owned));
    command.get_subcommands().for_each(|sub| collect(sub, names));
}

/// A single dash before the name of a long flag.
fn is_long(text: &str, names: &[String]) -> bool {
    let Some(name) = text.strip_prefix('-').filter(|name| !name.starts_with('-') && name.len() > 1) else {
        return false;
    };
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    names.iter().any(|known| known == name)
}

/// Reads what is on or off.
///
/// # Errors
/// What is neither.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    kiln_client::options::parse_bool(text).ok_or_else(|| "it must be true or false".into())
}

/// A variable of the environment, if it is set and text.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn one_dash_is_as_good_as_two() {
        let command = Command::new("x").arg(Arg::new("addr").long("addr")).subcommand(
            Command::new("build").arg(Arg::new("no-cache").long("no-cache")).arg(Arg::new("o").short('o')),
        );
        let args = ["x", "-addr=y", "build", "-no-cache", "-o", "-other", "--", "-addr"].map(OsString::from);
        let shown: Vec<_> = normalize(&command, args.to_vec());
        assert_eq!(shown, ["x", "--addr=y", "build", "--no-cache", "-o", "-other", "--", "-addr"]);
    }
}
