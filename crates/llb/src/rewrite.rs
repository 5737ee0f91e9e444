//! Definitions with some of their ops changed.
//!
//! An op's digest is that of its bytes, and ops name their inputs by digest: with one op, everything that stands on it gets new
//! bytes. Metadata and source locations follow under the new digests. What does not stand on a changed op keeps the bytes that it
//! arrived with.

use std::collections::HashMap;

use kiln_oci::Digest;
use kiln_proto::{ByDigest, pb};
use prost::Message;

use crate::{Error, Graph, marshal};

/// The definition with other sources in place of those of the vertices in `sources`. `graph` is what it decodes to.
///
/// # Errors
/// When the last op does not decode; [`Graph::decode`] has seen that it does.
pub fn with_sources(
    definition: &pb::Definition,
    graph: &Graph,
    sources: &HashMap<Digest, pb::SourceOp>,
) -> Result<pb::Definition, Error> {
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut def = Vec::with_capacity(graph.vertices().len() + 1);
    // Inputs come before those who use them.
    for vertex in graph.vertices() {
        let mut op = vertex.op.clone();
        let source = sources.get(&vertex.digest);
        if let Some(source) = source {
            op.op = Some(pb::op::Op::Source(source.clone()));
        }
        if !rename(&mut op, &renamed) && source.is_none() {
            def.push(vertex.raw.clone());
            continue;
        }
        let raw = marshal::op(op);
        renamed.insert(vertex.digest.to_string(), Digest::sha256(&raw).to_string());
        def.push(raw);
    }
    let last = definition.def.last().ok_or(Error::Empty)?;
    let mut root = pb::Op::decode(last.clone())
        .map_err(|source| Error::Decode { index: definition.def.len() - 1, source })?;
    let last_digest = Digest::sha256(last).to_string();
    let raw = if rename(&mut root, &renamed) { marshal::op(root) } else { last.clone() };
    renamed.insert(last_digest, Digest::sha256(&raw).to_string());
    def.push(raw);
    Ok(pb::Definition {
        def,
        metadata: moved(&definition.metadata, &renamed),
        source: definition.source.as_ref().map(|source| pb::Source {
            locations: moved(&source.locations, &renamed),
            infos: source.infos.clone(),
        }),
    })
}

/// Gives inputs their new digests; whether any has one.
fn rename(op: &mut pb::Op, renamed: &HashMap<String, String>) -> bool {
    let mut changed = false;
    for input in &mut op.inputs {
        if let Some(new) = renamed.get(&input.digest) {
            changed |= *new != input.digest;
            input.digest.clone_from(new);
        }
    }
    changed
}

/// A table by digest under the new ones. Of two ops that have become one, either entry will do.
fn moved<T: Clone>(table: &ByDigest<T>, renamed: &HashMap<String, String>) -> ByDigest<T> {
    let new = |digest: String| renamed.get(&digest).cloned().unwrap_or(digest);
    table.iter().map(|(digest, value)| (new(digest.to_string()), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Constraints, ImageOptions, Marshal, State, image};

    fn definition() -> (pb::Definition, Graph) {
        let image = |name| image(name, ImageOptions::default(), Constraints::default()).unwrap();
        let merged = State::merge([&image("busybox"), &image("alpine")], Constraints::default());
        let definition = merged.marshal(&Marshal::new("test")).unwrap();
        let graph = Graph::decode(&definition).unwrap();
        (definition, graph)
    }

    fn find(graph: &Graph, part: &str) -> (Digest, pb::SourceOp) {
        let mut sources = graph.vertices().iter().filter_map(|v| match &v.op.op {
            Some(pb::op::Op::Source(op)) if op.identifier.contains(part) => {
                Some((v.digest.clone(), op.clone()))
            }
            _ => None,
        });
        sources.next().unwrap()
    }

    #[test]
    fn what_stands_on_a_changed_op_follows() {
        let (mut definition, graph) = definition();
        let (digest, mut op) = find(&graph, "alpine");
        let (untouched, _) = find(&graph, "busybox");
        let merge = graph.root().vertex.clone();
        let described = kiln_proto::OpMetadata { ignore_cache: true, ..Default::default() };
        definition.metadata.insert(merge.to_string(), described);
        let places = pb::Locations { locations: [pb::Location::default()].into() };
        let source = definition.source.get_or_insert_default();
        source.infos.push(pb::SourceInfo::default());
        source.locations.insert(digest.to_string(), places);

        op.identifier = "docker-image://docker.io/library/alpine@sha256:00".into();
        let new = with_sources(&definition, &graph, &[(digest.clone(), op)].into()).unwrap();
        let decoded = Graph::decode(&new).unwrap();
        assert_eq!(decoded.vertices().len(), graph.vertices().len());
        assert!(decoded.get(&digest).is_none() && decoded.get(&merge).is_none());
        assert_eq!(decoded.get(&untouched).unwrap().raw, graph.get(&untouched).unwrap().raw);
        assert!(decoded.get(&decoded.root().vertex).unwrap().metadata.ignore_cache);
        let (moved, _) = find(&decoded, "sha256:00");
        assert!(new.source.unwrap().locations.get(moved.as_str()).is_some());
    }

    #[test]
    fn nothing_changes_by_itself() {
        let (definition, graph) = definition();
        let same = with_sources(&definition, &graph, &HashMap::new()).unwrap();
        assert_eq!(Graph::decode(&same).unwrap().root(), graph.root());
        let (mut before, mut after) = (definition.def, same.def);
        before.sort();
        after.sort();
        assert_eq!(before, after);
    }
}
