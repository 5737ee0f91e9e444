use super::*;

fn parse(id: &str, attrs: &[(&str, &str)]) -> Result<Identifier, Error> {
    let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Identifier::parse(&pb::SourceOp { identifier: id.to_owned(), attrs }, None)
}

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn images() {
    let Identifier::Image(i) =
        parse("docker-image://docker.io/library/busybox", &[("image.resolvemode", "pull")]).unwrap()
    else {
        panic!("not an image")
    };
    assert_eq!(i.reference.to_string(), "docker.io/library/busybox:latest");
    assert_eq!(i.resolve_mode, ResolveMode::ForcePull);
    for bad in [
        ("image.resolvemode", "never"),
        ("image.layerlimit", "0"),
        ("image.layerlimit", "-1"),
        ("image.layerlimit", "x"),
        ("image.checksum", "sha256:1"),
        ("image.recordtype", "odd"),
    ] {
        assert!(parse("docker-image://docker.io/library/busybox", &[bad]).is_err(), "{bad:?}");
    }
    assert!(parse("docker-image://Bad Name", &[]).is_err());
}

#[test]
fn local_folders() {
    let attrs = [
        ("local.session", "p:s1"),
        ("local.includepattern", r#"["a","b"]"#),
        ("local.excludepatterns", "null"),
        ("local.metadatatransfer", "true"),
        ("local.metadatatransferexclude", r#"["x"]"#),
        ("local.differ", "none"),
        ("local.future", "whatever"),
    ];
    let Identifier::Local(l) = parse("local://context", &attrs).unwrap() else { panic!("not local") };
    assert_eq!((l.name.as_str(), l.session.as_deref()), ("p-context", Some("s1")));
    assert_eq!((l.include.len(), l.exclude.len(), l.differ_none), (2, 0, true));
    assert_eq!(l.metadata_only, Some(vec!["x".to_owned()]));
    assert!(parse("local://c", &[("local.includepattern", "[1]")]).is_err());
    assert!(parse("local://c", &[("local.metadatatransfer", "maybe")]).is_err());
}

#[test]
fn web_files() {
    let attrs =
        [("http.perm", "0644"), ("http.uid", "5"), ("http.header.Accept", "x"), ("http.header.cookie", "y")];
    let Identifier::Http(h) = parse("https://a/b", &attrs).unwrap() else { panic!("not http") };
    assert_eq!((h.url.as_str(), h.file.mode, h.file.uid), ("https://a/b", Some(0o644), 5));
    assert_eq!(h.headers, [("accept".to_owned(), "x".to_owned())]);
    assert!(parse("http://a", &[("http.perm", "9z")]).is_err());
    assert!(parse("http://a", &[("http.uid", "-4")]).is_err());
    assert!(parse("http://a", &[("http.checksum", "md5:0")]).is_err());
    assert!(parse("http://a", &[("http.sig.pubkey", "k")]).is_err());
}

#[test]
fn blobs_and_layouts() {
    assert!(matches!(parse(&format!("docker-image+blob://a.b/c@{D}"), &[]), Ok(Identifier::ImageBlob(_))));
    assert!(parse(&format!("docker-image+blob://a.b/c:t@{D}"), &[]).is_err());
    assert!(parse("docker-image+blob://a.b/c", &[]).is_err());
    let Identifier::OciLayout(o) = parse(&format!("oci-layout://a/b@{D}"), &[("oci.store", "s")]).unwrap()
    else {
        panic!("not a layout")
    };
    assert_eq!(o.store.as_deref(), Some("s"));
    assert!(parse("oci-layout://a/b", &[]).is_err());
}

#[test]
fn git_repositories() {
    let attrs =
        [("git.fullurl", "ssh://git@host/x.git"), ("git.keepgitdir", "true"), ("git.mtime", "commit")];
    let Identifier::Git(g) = parse("git://host/x.git#main:sub", &attrs).unwrap() else { panic!("not git") };
    assert_eq!(
        (g.remote.as_str(), g.reference.as_str(), g.subdir.as_str()),
        ("ssh://git@host/x.git", "main", "sub")
    );
    assert!(g.keep_git_dir && g.mtime == GitMtime::Commit);
    assert!(parse("git://host/x.git#--upload-pack=evil", &[]).is_err());
    assert!(parse("git://host/x.git", &[("git.bundle", "x")]).is_err());
    assert!(parse("git://host/x.git", &[("git.bundle", &format!("docker-image+blob://a/b@{D}"))]).is_err());
    assert!(parse("git://h/x#a:b", &[("git.checkoutbundle", "true")]).is_err());
    assert!(parse("git://h/x", &[("git.mtime", "never")]).is_err());
}

#[test]
fn unknown() {
    assert!(parse("", &[]).is_err());
    assert!(parse("busybox", &[]).is_err());
    assert!(parse("ftp://x", &[]).is_err());
}
