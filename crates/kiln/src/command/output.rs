//! `-o`, `--push`, `--load` and `-t`: what becomes of the result.

use std::path::Path;

use kiln_client::{
    Error,
    options::{Attrs, Destination, Output, parse_output},
};
use kiln_oci::Reference;

/// What the flags say.
pub(crate) struct Flags<'a> {
    /// `-o`.
    pub outputs: &'a [String],
    /// `-t`.
    pub tags: &'a [String],
    /// `--push`.
    pub push: bool,
    /// `--load`.
    pub load: bool,
    /// `--annotation`.
    pub annotations: &'a [String],
}

/// Outputs that are meant. With a name and nothing else, the image is kept by the daemon.
pub(crate) fn outputs(flags: &Flags<'_>) -> Result<Vec<Output>, Error> {
    let names = names(flags.tags)?;
    let mut outputs = Vec::new();
    for text in flags.outputs {
        outputs.extend(output(text)?);
    }
    if flags.push {
        if names.is_empty() {
            return Err(Error::Usage("tag is needed when pushing to registry".into()));
        }
        match outputs.iter_mut().find(|output| output.kind == "image") {
            Some(image) => drop(image.attrs.insert("push".into(), "true".into())),
            None => outputs.push(image(true)),
        }
    }
    if flags.load && !outputs.iter().any(|output| matches!(output.destination, Destination::Program(_))) {
        outputs.push(load());
    }
    if outputs.is_empty() && flags.outputs.is_empty() && !names.is_empty() {
        outputs.push(image(false));
    }
    let annotations = annotations(flags.annotations)?;
    for output in &mut outputs {
        if matches!(output.kind.as_str(), "image" | "oci" | "docker") {
            if !names.is_empty() {
                output.attrs.entry("name".into()).or_insert_with(|| names.join(","));
            }
            output.attrs.extend(annotations.clone());
        }
    }
    Ok(outputs)
}

/// Names in full.
fn names(tags: &[String]) -> Result<Vec<String>, Error> {
    let name = |tag: &String| match Reference::parse(tag) {
        Ok(reference) => Ok(reference.with_default_tag().to_string()),
        Err(error) => Err(Error::Usage(format!("invalid tag {tag:?}: {error}"))),
    };
    tags.iter().map(name).collect()
}

fn image(push: bool) -> Output {
    let attrs = if push { Attrs::from([("push".into(), "true".into())]) } else { Attrs::new() };
    Output { kind: "image".into(), attrs, destination: Destination::None }
}

/// Into Docker, through its own command.
fn load() -> Output {
    let words = ["docker", "load"].map(str::to_owned).to_vec();
    Output { kind: "docker".into(), attrs: Attrs::new(), destination: Destination::Program(words) }
}

/// One `-o`: a folder, `-`, or `type=…`.
fn output(text: &str) -> Result<Option<Output>, Error> {
    if text == "-" {
        return parse_output("type=tar,dest=-").map(Some);
    }
    if !text.contains("type=") {
        let dest = if text.contains('=') { text.strip_prefix("dest=").unwrap_or(text) } else { text };
        if Path::new(dest).is_file() {
            return Err(Error::Usage(format!(
                "destination {dest} is a file; say type=tar or type=oci for an archive"
            )));
        }
        let destination = Destination::Dir(dest.into());
        return Ok(Some(Output { kind: "local".into(), attrs: Attrs::new(), destination }));
    }
    let attrs = kiln_client::options::parse_attrs(text)?;
    match attrs.get("type").map(String::as_str) {
        Some("cacheonly") => Ok(None),
        Some("registry") => {
            let mut output = parse_output(&text.replacen("type=registry", "type=image", 1))?;
            output.attrs.insert("push".into(), "true".into());
            Ok(Some(output))
        }
        Some("docker") if !attrs.contains_key("dest") => {
            let mut output = load();
            output.attrs.extend(attrs.into_iter().filter(|(key, _)| key != "type"));
            Ok(Some(output))
        }
        _ => parse_output(text).map(Some),
    }
}

/// `key=value`, or `level:key=value` with one or more levels, each with a platform in brackets or without.
fn annotations(texts: &[String]) -> Result<Attrs, Error> {
    let mut attrs = Attrs::new();
    for text in texts {
        let bad = || Error::Usage(format!("invalid annotation {text:?}: it must be [level:]key=value"));
        let (left, value) = text.split_once('=').ok_or_else(bad)?;
        let (levels, key) = match left.split_once(':') {
            Some((levels, key)) if levels.split(',').all(is_level) => (levels, key),
            _ => ("", left),
        };
        if key.is_empty() {
            return Err(bad());
        }
        for level in levels.split(',') {
            let name = if level.is_empty() { "annotation".into() } else { format!("annotation-{level}") };
            attrs.insert(format!("{name}.{key}"), value.to_owned());
        }
    }
    Ok(attrs)
}

fn is_level(text: &str) -> bool {
    let name = text.split_once('[').map_or(text, |(name, _)| name);
    matches!(name, "manifest" | "index" | "manifest-descriptor" | "index-descriptor")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(outputs: &[&str], tags: &[&str], push: bool, load: bool) -> Vec<(String, Attrs)> {
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let (outputs, tags) = (own(outputs), own(tags));
        let flags = Flags { outputs: &outputs, tags: &tags, push, load, annotations: &[] };
        super::outputs(&flags).unwrap().into_iter().map(|o| (o.kind, o.attrs)).collect()
    }

    fn attrs(pairs: &[(&str, &str)]) -> Attrs {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_name_keeps_the_image() {
        let full = ("name", "docker.io/library/x:latest");
        assert_eq!(kinds(&[], &["x"], false, false), [("image".into(), attrs(&[full]))]);
        assert_eq!(kinds(&[], &["x"], true, false), [("image".into(), attrs(&[full, ("push", "true")]))]);
        assert_eq!(
            kinds(&["type=registry"], &["x"], false, false),
            [("image".into(), attrs(&[full, ("push", "true")]))]
        );
        assert_eq!(kinds(&["type=cacheonly"], &["x"], false, false), []);
        assert_eq!(kinds(&["out"], &["x"], false, false), [("local".into(), attrs(&[]))]);
        assert_eq!(kinds(&["type=docker"], &[], false, true).len(), 1);
    }

    #[test]
    fn annotations_have_levels() {
        let texts = ["a=1", "index,manifest[linux/amd64]:b=2", "x:c=3"].map(str::to_owned);
        let found = annotations(&texts).unwrap();
        let keys: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["annotation-index.b", "annotation-manifest[linux/amd64].b", "annotation.a", "annotation.x:c"]
        );
    }
}
