//! The one name of a source, however its identifier is spelled: what policies match.

use kiln_proto::pb;

use super::{Git, GitUrl, Identifier};

/// The name of a source:
///
/// ```text
/// docker-image://docker.io/library/alpine:latest    image and blob references, complete
/// git://github.com/u/r.git#main:sub/folder          host and path of the remote, whichever protocol reaches it
/// https://example.com/file                          as it stands
/// local://context                                   as it stands
/// ```
///
/// One that cannot be read keeps its identifier: whoever opens it will say what is wrong.
#[must_use]
pub fn name(op: &pb::SourceOp) -> String {
    match Identifier::parse(op, None) {
        Ok(Identifier::Image(image)) => format!("docker-image://{}", image.reference),
        Ok(Identifier::ImageBlob(blob)) => format!("docker-image+blob://{}", blob.reference),
        Ok(Identifier::OciLayout(layout)) => format!("oci-layout://{}", layout.reference),
        Ok(Identifier::OciBlob(blob)) => format!("oci-layout+blob://{}", blob.reference),
        Ok(Identifier::Git(git)) => of_git(&git),
        Ok(Identifier::Local(_) | Identifier::Http(_)) | Err(_) => op.identifier.clone(),
    }
}

fn of_git(git: &Git) -> String {
    let remote = match GitUrl::parse(&git.remote) {
        Ok(url) => format!("{}{}", url.host, kiln_pattern::clean(&format!("/{}", url.path))),
        Err(_) => git.remote.clone(),
    };
    let mut name = format!("git://{remote}");
    if !git.reference.is_empty() || !git.subdir.is_empty() {
        name.push('#');
        name.push_str(&git.reference);
    }
    if !git.subdir.is_empty() {
        name.push(':');
        name.push_str(&git.subdir);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(identifier: &str, attrs: &[(&str, &str)]) -> String {
        let attrs = attrs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        name(&pb::SourceOp { identifier: identifier.to_owned(), attrs })
    }

    #[test]
    fn names_are_complete() {
        assert_eq!(named("docker-image://alpine", &[]), "docker-image://docker.io/library/alpine:latest");
        assert_eq!(named("https://e.com/a/../b", &[]), "https://e.com/a/../b");
        assert_eq!(named("local://context", &[]), "local://context");
        assert_eq!(named("nonsense", &[]), "nonsense");
        assert_eq!(named("git://github.com/u/r.git", &[]), "git://github.com/u/r.git");
        assert_eq!(named("git://github.com/u/r.git#v1", &[]), "git://github.com/u/r.git#v1");
        assert_eq!(named("git://github.com/u/r.git#main:../a/./b", &[]), "git://github.com/u/r.git#main:a/b");
        let full = ("git.fullurl", "ssh://git@github.com:22/u/../u/r.git");
        assert_eq!(named("git://github.com/u/r.git#:x", &[full]), "git://github.com:22/u/r.git#:x");
    }
}
