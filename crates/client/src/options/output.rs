//! `--output type=…,dest=…`: what to make of the result and where to put it.

use std::{io::IsTerminal as _, path::PathBuf};

use super::csv::{Attrs, parse_attrs, parse_bool};
use crate::Error;

/// One exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name, such as `oci`.
    pub kind: String,
    /// What it is told.
    pub attrs: Attrs,
    /// What the client does with what comes.
    pub destination: Destination,
}

/// Where a result goes on the client's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nothing comes to the client.
    None,
    /// One file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// The standard input of a program that is started for it.
    Program(Vec<String>),
    /// A folder of files.
    Dir(PathBuf),
    /// A folder that is an OCI layout.
    Layout(PathBuf),
}

/// Reads one `--output`.
///
/// # Errors
/// [`Error::Usage`] for anything that the exporter cannot do, and for an archive that would be written to a terminal.
pub fn parse_output(text: &str) -> Result<Output, Error> {
    let mut attrs = parse_attrs(text)?;
    let kind = attrs.remove("type").unwrap_or_default();
    if kind.is_empty() {
        return Err(Error::Usage("--output requires type=<type>".into()));
    }
    if let Some(value) = attrs.get("output") {
        return Err(Error::Usage(format!(
            "output={value} not supported for --output, you meant dest={value}?"
        )));
    }
    let dest = attrs.get("dest").cloned().unwrap_or_default();
    let destination = match (kind.as_str(), is_archive(&kind, &attrs)) {
        ("local", _) | (_, Some(false)) if dest.is_empty() => {
            return Err(Error::Usage(format!("output directory is required for {kind} exporter")));
        }
        ("local", _) => Destination::Dir(dest.into()),
        (_, Some(false)) => Destination::Layout(dest.into()),
        (_, Some(true)) if dest.is_empty() || dest == "-" => {
            if std::io::stdout().is_terminal() {
                return Err(Error::Usage(format!(
                    "output file is required for {kind} exporter. refusing to write to console"
                )));
            }
            Destination::Stdout
        }
        (_, Some(true)) => Destination::File(dest.into()),
        _ if !dest.is_empty() => {
            return Err(Error::Usage(format!("output {dest} is not supported by {kind} exporter")));
        }
        _ => Destination::None,
    };
    attrs.remove("dest");
    Ok(Output { kind, attrs, destination })
}

/// Whether one file comes, or a layout; `None` when neither does.
fn is_archive(kind: &str, attrs: &Attrs) -> Option<bool> {
    match kind {
        "tar" => Some(true),
        "oci" | "docker" => Some(attrs.get("tar").and_then(|v| parse_bool(v)).unwrap_or(true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_stays_here() {
        let output = parse_output("type=oci,dest=out.tar,name=x").unwrap();
        assert_eq!(output.destination, Destination::File("out.tar".into()));
        assert_eq!(output.attrs, Attrs::from([("name".into(), "x".into())]));
        assert_eq!(
            parse_output("type=oci,tar=false,dest=d").unwrap().destination,
            Destination::Layout("d".into())
        );
        assert_eq!(parse_output("type=local,dest=d").unwrap().destination, Destination::Dir("d".into()));
        assert_eq!(parse_output("type=image,name=x,push=true").unwrap().destination, Destination::None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in ["dest=x", "type=local", "type=image,dest=x", "type=oci,output=x", "type=oci,tar=false"] {
            assert!(matches!(parse_output(text), Err(Error::Usage(_))), "{text}");
        }
    }
}
