//! Credentials in addresses, taken out before anything is written down.

use std::borrow::Cow;

use bytes::Bytes;
use kiln_llb::Vertex;
use kiln_proto::{
    pb::{self, file_action::Action, op::Op},
    status::{Detail, WireError},
};
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
        // All else may stand in a user part (RFC 3986, 3.2.1), as people write it.
        let end =
            address.find(|c: char| c.is_whitespace() || "/?#\"`<>|".contains(c)).unwrap_or(address.len());
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
    cleaned(&vertex.op, &vertex.raw)
}

/// `op`, whose bytes are `raw`.
fn cleaned(before: &pb::Op, raw: &Bytes) -> Bytes {
    let proxies =
        matches!(&before.op, Some(Op::Exec(e)) if e.meta.as_ref().is_some_and(|m| m.proxy_env.is_some()));
    let addresses = raw.contains(&b'@') && raw.windows(3).any(|w| w == b"://");
    if !(proxies || addresses) {
        return raw.clone();
    }
    let mut op = before.clone();
    clean_op(&mut op);
    if op == *before { raw.clone() } else { op.encode_to_vec().into() }
}

/// An error and its details, without those that nobody here can read and those that mean nothing once a build has ended.
pub(crate) fn error(error: &WireError) -> WireError {
    let details = error.details.iter().cloned().filter_map(cleaned_detail).collect();
    WireError { code: error.code, message: redact(&error.message).into_owned(), details }
}

fn cleaned_detail(mut detail: Detail) -> Option<Detail> {
    match &mut detail {
        Detail::Vertex(_) | Detail::Exit(_) => {}
        Detail::Source(source) => {
            if let Some(info) = &mut source.info {
                info.definition = None;
                clean_bytes(&mut info.data);
            }
        }
        Detail::Frontend { source: text, .. } | Detail::FrontendCap(text) | Detail::Subrequest(text) => {
            clean(text);
        }
        Detail::Denied(reasons) => reasons.iter_mut().for_each(clean),
        Detail::Diagnostics(all) => {
            for one in all {
                [&mut one.message, &mut one.expected, &mut one.suggestion].into_iter().for_each(clean);
            }
        }
        Detail::Solve(solve) => {
            (solve.input_ids, solve.mount_ids) = (Vec::new(), Vec::new());
            solve.op.iter_mut().for_each(clean_op);
            solve.description.values_mut().for_each(clean);
        }
        Detail::Other(_) => return None,
    }
    Some(detail)
}

fn clean_op(op: &mut pb::Op) {
    match &mut op.op {
        Some(Op::Exec(exec)) => exec.meta.iter_mut().for_each(clean_meta),
        Some(Op::Source(source)) => {
            clean(&mut source.identifier);
            source.attrs.values_mut().for_each(clean);
        }
        Some(Op::Build(build)) => build.attrs.values_mut().for_each(clean),
        Some(Op::File(file)) => file.actions.iter_mut().for_each(clean_action),
        _ => {}
    }
}

fn clean_meta(meta: &mut pb::Meta) {
    // Proxies are in no key.
    meta.proxy_env = None;
    meta.args.iter_mut().chain(&mut meta.env).for_each(clean);
}

/// The text of a heredoc.
fn clean_action(action: &mut pb::FileAction) {
    if let Some(Action::Mkfile(file)) = &mut action.action {
        clean_bytes(&mut file.data);
    }
}

fn clean_bytes(data: &mut Bytes) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Cow::Owned(clean) = redact(text)
    {
        *data = clean.into();
    }
}

fn clean(text: &mut String) {
    if let Cow::Owned(clean) = redact(text) {
        *text = clean;
    }
}

#[cfg(test)]
mod tests {
    use kiln_proto::{errdefs, status::Diagnostic};

    use super::*;

    #[test]
    fn user_parts_of_addresses_go() {
        for (text, clean) in [
            ("git clone https://me:secret@host/x y@z", "git clone https://xxxxx@host/x y@z"),
            ("a http://u:p@h; b ftp://u@h:1", "a http://xxxxx@h; b ftp://xxxxx@h:1"),
            ("http://u:a,b&c;d)'@h/", "http://xxxxx@h/"),
            ("URL=https://u:p@ss@h/x", "URL=https://xxxxx@h/x"),
            ("docker-image://a/b@sha256:1", "docker-image://a/b@sha256:1"),
            ("me@host", "me@host"),
            ("http://host/a@b", "http://host/a@b"),
        ] {
            assert_eq!(redact(text), clean);
        }
    }

    fn kept(op: Op) -> pb::Op {
        let op = pb::Op { op: Some(op), ..pb::Op::default() };
        pb::Op::decode(cleaned(&op, &op.encode_to_vec().into())).unwrap()
    }

    #[test]
    fn no_error_keeps_credentials() {
        let secret = "https://me:pa55word@host/x".to_owned();
        let proxy_env = Some(pb::ProxyEnv { http_proxy: "me:pa55word@proxy".into(), ..Default::default() });
        let meta = pb::Meta { args: vec![secret.clone()], proxy_env, ..Default::default() };
        let exec = pb::ExecOp { meta: Some(meta), ..Default::default() };
        let op = pb::Op { op: Some(Op::Exec(exec)), ..Default::default() };
        let info = pb::SourceInfo {
            filename: "Dockerfile".into(),
            data: format!("RUN git clone {secret}").into(),
            definition: Some(pb::Definition { def: vec![op.encode_to_vec().into()], ..Default::default() }),
            ..Default::default()
        };
        let solve = errdefs::Solve {
            input_ids: vec!["ref".into()],
            op: Some(op),
            description: [("com.example".to_owned(), secret.clone())].into(),
            ..Default::default()
        };
        let details = vec![
            Detail::Vertex("sha256:1".into()),
            Detail::Source(errdefs::Source { info: Some(info), ..Default::default() }),
            Detail::Exit(3),
            Detail::Frontend { name: "gateway.v0".into(), source: secret.clone() },
            Detail::FrontendCap(secret.clone()),
            Detail::Subrequest(secret.clone()),
            Detail::Denied(vec![secret.clone()]),
            Detail::Diagnostics(vec![Diagnostic { message: secret.clone(), ..Default::default() }]),
            Detail::Solve(Box::new(solve)),
            Detail::Other(prost_types::Any { type_url: "x/y".into(), value: secret.clone().into_bytes() }),
        ];
        let kept = error(&WireError { code: tonic::Code::Unknown, message: secret, details });
        let seen = format!("{kept:?}");
        assert!(!seen.contains("pa55word") && !seen.contains("x/y"), "{seen}");
        let sent = kept.to_rpc().encode_to_vec();
        assert!(!sent.windows(8).any(|bytes| bytes == b"pa55word"), "{seen}");
        // What says where and why it failed is there.
        assert_eq!((kept.details.len(), kept.exit_code()), (9, Some(3)));
        let source = kept.sources().next().and_then(|source| source.info.as_ref()).unwrap();
        assert_eq!(
            (&source.filename[..], &source.data[..]),
            ("Dockerfile", &b"RUN git clone https://xxxxx@host/x"[..])
        );
    }

    #[test]
    fn no_op_keeps_credentials() {
        let secret = "https://me:pa55word@host/x".to_owned();
        let attrs = [("git.fullurl".to_owned(), secret.clone())].into();
        let source = pb::SourceOp { identifier: secret.clone(), attrs };
        let mkfile = pb::FileActionMkFile { data: secret.clone().into(), ..Default::default() };
        let action = pb::FileAction { action: Some(Action::Mkfile(mkfile)), ..Default::default() };
        let meta = pb::Meta {
            args: vec![secret.clone()],
            env: vec![format!("A={secret}")],
            proxy_env: Some(pb::ProxyEnv { http_proxy: "me:pa55word@proxy".into(), ..Default::default() }),
            ..Default::default()
        };
        let build = pb::BuildOp { attrs: [("a".to_owned(), secret)].into(), ..Default::default() };
        for op in [
            Op::Source(source),
            Op::File(pb::FileOp { actions: vec![action] }),
            Op::Exec(pb::ExecOp { meta: Some(meta), ..Default::default() }),
            Op::Build(build),
        ] {
            let kept = kept(op);
            assert!(!format!("{kept:?}").contains("pa55word"), "{kept:?}");
        }
    }
}
