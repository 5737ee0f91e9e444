//! Definitions are the reference's, vertex by vertex.
//!
//! `corpus/NAME.dockerfile` is a Dockerfile, `NAME.attrs` holds attributes of the build, a `key=value` each line,
//! `NAME.dockerignore` the ignore file of its context; `images.json` the configs of images by the beginning of their
//! references. `digests.json` holds what the reference implementation made of each, recorded with pinned session and unique
//! ids: by platform the digests of all vertices, sorted, the result with its output, and the digest of the image config (in
//! which an empty list of layers is `[]`: exporters write it anew).

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Host, convert};
use kiln_dockerfile::convert::{Converted, export_platform};
use kiln_llb::Graph;
use kiln_oci::Digest;
use serde::Deserialize;

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Recorded {
    root: String,
    vertices: Vec<String>,
    config: String,
}

/// By case and platform; the platform is empty where the result is no index.
type Digests = BTreeMap<String, BTreeMap<String, Recorded>>;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn json<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&fs::read(corpus().join(name)).expect(name)).expect(name)
}

/// The conversions of a case, by platform.
fn converted(name: &str, images: &BTreeMap<String, String>) -> Result<BTreeMap<String, Converted>, String> {
    let read = |kind: &str| fs::read_to_string(corpus().join(format!("{name}.{kind}"))).ok();
    let mut host = Host::new(read("dockerfile").ok_or("no Dockerfile")?);
    host.images.clone_from(images);
    host.files.extend(read("dockerignore").map(|text| (".dockerignore".to_owned(), text)));
    let attrs = read("attrs").unwrap_or_default();
    let attrs = attrs.lines().filter_map(|line| line.split_once('='));
    let attrs: BTreeMap<String, String> = attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let options = common::options(&attrs);
    let all = convert(&host, &attrs).map_err(|failed| failed.to_string())?;
    let mut platforms = options.platforms.iter();
    let key = |converted: &Converted, platform| match options.multi_platform {
        true => export_platform(platform, &converted.image).0,
        false => String::new(),
    };
    Ok(all.into_iter().map(|one| (key(&one, platforms.next()), one)).collect())
}

fn recorded(converted: &Converted) -> Recorded {
    let config = Digest::sha256(converted.image.encode()).to_string();
    if converted.definition.def.is_empty() {
        return Recorded { root: String::new(), vertices: Vec::new(), config };
    }
    let graph = Graph::decode(&converted.definition).expect("a definition that decodes");
    for vertex in graph.vertices() {
        assert_eq!(
            kiln_llb::marshal::op(vertex.op.clone()),
            vertex.raw,
            "two encoders make one op: {:?}",
            vertex.op
        );
    }
    let mut vertices: Vec<String> = graph.vertices().iter().map(|v| v.digest.to_string()).collect();
    vertices.sort();
    let root = format!("{}:{}", graph.root().vertex, graph.root().output);
    Recorded { root, vertices, config }
}

#[test]
fn every_vertex_is_the_references() {
    let (images, digests): (BTreeMap<String, String>, Digests) = (json("images.json"), json("digests.json"));
    let mut wrong = Vec::new();
    for (name, wanted) in &digests {
        let made = match converted(name, &images) {
            Ok(made) => made,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        if !made.keys().eq(wanted.keys()) {
            wrong.push(format!("{name}: platforms {:?} for {:?}", made.keys(), wanted.keys()));
        }
        for (platform, wanted) in wanted {
            let Some(one) = made.get(platform) else { continue };
            let mine = recorded(one);
            if mine == *wanted {
                continue;
            }
            let graph = Graph::decode(&one.definition);
            let other = graph
                .iter()
                .flat_map(|graph| graph.vertices())
                .filter(|v| !wanted.vertices.iter().any(|digest| digest == v.digest.as_str()));
            let other: Vec<&str> = other.map(|v| v.name()).collect();
            let config = if mine.config == wanted.config { "" } else { ", config" };
            wrong.push(format!(
                "{name} {platform}: {} vertices for {}, other are {other:?}{config}",
                mine.vertices.len(),
                wanted.vertices.len()
            ));
            if mine.config != wanted.config {
                wrong.push(String::from_utf8(one.image.encode()).unwrap());
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(digests.len() >= 100, "only {} cases", digests.len());
}

#[test]
fn every_dockerfile_is_recorded() {
    let digests: Digests = json("digests.json");
    for entry in fs::read_dir(corpus()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "dockerfile") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(digests.contains_key(name), "{name} is not in digests.json");
        }
    }
}
