//! Credentials in addresses, taken out before anything is written down.

use std::borrow::Cow;

use bytes::Bytes;
use kiln_llb::Vertex;
use kiln_proto::pb::{self, op::Op};
use prost::Message as _;

/// What stands in their place.
const HIDDEN: &str = "xxxxx";

/// A text without the user parts of addresses in it.
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains("://") || !text.contains('@') {
        return text.into();
    }
    let (mut out, mut rest, mut any) = (String::with_capacity(text.len()), text, false);
    while let Some(at) = rest.find("://") {
        let (before, address) = rest.split_at(at + 3);
        out.push_str(before);
        let end = address
            .find(|c: char| c.is_whitespace() || "/?#\"'`<>|;,&)".contains(c))
            .unwrap_or(address.len());
        let user = address[..end].rfind('@').unwrap_or(0);
        if user > 0 {
            out.push_str(HIDDEN);
            any = true;
        }
        rest = &address[user..];
    }
    if !any {
        return text.into();
    }
    out.push_str(rest);
    out.into()
}

/// The bytes of an op, without credentials; as it arrived where it has none.
pub(crate) fn op(vertex: &Vertex) -> Bytes {
    let has = |needle: &[u8]| vertex.raw.windows(needle.len()).any(|w| w == needle);
    let proxies =
        matches!(&vertex.op.op, Some(Op::Exec(e)) if e.meta.as_ref().is_some_and(|m| m.proxy_env.is_some()));
    let addresses = has(b"://") && has(b"@");
    if !(proxies || addresses) {
        return vertex.raw.clone();
    }
    let mut op = vertex.op.clone();
    match &mut op.op {
        Some(Op::Exec(exec)) => exec.meta.iter_mut().for_each(clean_meta),
        Some(Op::Source(source)) => clean(&mut source.identifier),
        Some(Op::Build(build)) => build.attrs.values_mut().for_each(clean),
        _ => {}
    }
    if op == vertex.op { vertex.raw.clone() } else { op.encode_to_vec().into() }
}

fn clean_meta(meta: &mut pb::Meta) {
    // Proxies are in no key.
    meta.proxy_env = None;
    meta.args.iter_mut().chain(&mut meta.env).for_each(clean);
}

fn clean(text: &mut String) {
    if let Cow::Owned(clean) = redact(text) {
        *text = clean;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_parts_of_addresses_go() {
        for (text, clean) in [
            ("git clone https://me:secret@host/x y@z", "git clone https://xxxxx@host/x y@z"),
            ("a http://u:p@h; b ftp://u@h:1", "a http://xxxxx@h; b ftp://xxxxx@h:1"),
            ("URL=https://u:p@ss@h/x", "URL=https://xxxxx@h/x"),
            ("docker-image://a/b@sha256:1", "docker-image://a/b@sha256:1"),
            ("me@host", "me@host"),
            ("http://host/a@b", "http://host/a@b"),
        ] {
            assert_eq!(redact(text), clean);
        }
    }
}
