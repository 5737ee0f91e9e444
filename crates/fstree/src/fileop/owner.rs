//! Names of users and groups, looked up in the files of a tree.

use kiln_proto::pb;

use super::Owner;
use crate::Root;
use crate::error::{Error, Result};

/// Longer files of users are refused.
const FILE_MAX: u64 = 10 << 20;

/// Who is meant by an LLB owner, names looked up in `/etc/passwd` of `user` and `/etc/group` of `group`.
/// A name that is not there means 0 (and an unknown group the user's group), as in BuildKit.
///
/// # Errors
/// If a name is given but no tree to look it up in, or the file is not a regular one.
pub fn owner(opt: Option<&pb::ChownOpt>, user: Option<&Root>, group: Option<&Root>) -> Result<Option<Owner>> {
    use pb::user_opt::User;
    let Some(opt) = opt else { return Ok(None) };
    let mut owner = Owner { uid: 0, gid: 0 };
    match opt.user.as_ref().and_then(|u| u.user.as_ref()) {
        Some(User::ById(id)) => owner = Owner { uid: *id, gid: *id },
        Some(User::ByName(named)) => {
            let tree = user.ok_or_else(|| Error::Refused("invalid missing user mount".to_owned()))?;
            if let Some(found) = find(tree, "/etc/passwd", &named.name)? {
                owner = Owner { uid: number(found.get(2)), gid: number(found.get(3)) };
            }
        }
        None => {}
    }
    match opt.group.as_ref().and_then(|g| g.user.as_ref()) {
        Some(User::ById(id)) => owner.gid = *id,
        Some(User::ByName(named)) => {
            let tree = group.ok_or_else(|| Error::Refused("invalid missing group mount".to_owned()))?;
            if let Some(found) = find(tree, "/etc/group", &named.name)? {
                owner.gid = number(found.get(2));
            }
        }
        None => {}
    }
    Ok(Some(owner))
}

/// The fields of the first line of a file whose first field is `name`. A file that is not there has none.
fn find(tree: &Root, path: &str, name: &str) -> Result<Option<Vec<String>>> {
    let data = match tree.read(path, FILE_MAX) {
        Err(e) if e.is_not_found() => return Ok(None),
        data => data?,
    };
    let text = String::from_utf8_lossy(&data);
    let fields = |line: &str| line.trim().split(':').map(str::to_owned).collect::<Vec<_>>();
    Ok(text.lines().map(fields).find(|fields| fields.first().is_some_and(|first| first == name)))
}

/// What is no number counts as 0.
fn number(field: Option<&String>) -> u32 {
    field.and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn named(name: &str) -> Option<pb::UserOpt> {
        let named = pb::NamedUserOpt { name: name.to_owned(), input: 0 };
        Some(pb::UserOpt { user: Some(pb::user_opt::User::ByName(named)) })
    }

    fn id(id: u32) -> Option<pb::UserOpt> {
        Some(pb::UserOpt { user: Some(pb::user_opt::User::ById(id)) })
    }

    #[test]
    fn names_and_numbers() {
        let tmp = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(tmp.path().join("etc")).expect("mkdir");
        let passwd = "root:x:0:0::/:/bin/sh\n\n  app:x:1000:1001:App:/:/bin/sh  \nshort:x\napp:x:5:5\n";
        std::fs::write(tmp.path().join("etc/passwd"), passwd).expect("write");
        std::fs::write(tmp.path().join("etc/group"), "wheel:x:10:app\n").expect("write");
        let tree = Root::open(tmp.path()).expect("open");
        let look = |user, group| {
            let opt = pb::ChownOpt { user, group };
            let found = owner(Some(&opt), Some(&tree), Some(&tree)).expect("found").expect("an owner");
            (found.uid, found.gid)
        };
        assert_eq!(look(named("app"), None), (1000, 1001));
        assert_eq!(look(named("app"), named("wheel")), (1000, 10));
        assert_eq!(look(named("app"), named("nobody")), (1000, 1001));
        assert_eq!(look(named("nobody"), None), (0, 0));
        assert_eq!(look(named("short"), None), (0, 0));
        assert_eq!(look(id(7), None), (7, 7));
        assert_eq!(look(id(7), named("wheel")), (7, 10));
        assert_eq!(look(id(7), id(8)), (7, 8));
        assert_eq!(look(None, id(8)), (0, 8));
        assert_eq!(owner(None, None, None).expect("none"), None);
        let opt = pb::ChownOpt { user: named("app"), group: None };
        assert!(owner(Some(&opt), None, None).is_err());
        let empty = tempfile::tempdir().expect("temporary folder");
        let empty = Root::open(empty.path()).expect("open");
        assert_eq!(owner(Some(&opt), Some(&empty), None).expect("none"), Some(Owner { uid: 0, gid: 0 }));
    }

    #[test]
    fn a_passwd_that_leads_out_is_not_read() {
        let tmp = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir_all(tmp.path().join("root/etc")).expect("mkdir");
        std::fs::write(tmp.path().join("passwd"), "app:x:1:1").expect("write");
        std::os::unix::fs::symlink("../../passwd", tmp.path().join("root/etc/passwd")).expect("symlink");
        let tree = Root::open(tmp.path().join("root")).expect("open");
        let opt = pb::ChownOpt { user: named("app"), group: None };
        assert_eq!(owner(Some(&opt), Some(&tree), None).expect("none"), Some(Owner { uid: 0, gid: 0 }));
    }
}
