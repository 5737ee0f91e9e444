//! Users and groups by the files of a root (`passwd(5)`, `group(5)`).
//!
//! The rules are those of container runtimes: a number is always an id, whether the files know it or not; a user
//! without an explicit group gets the primary group and all groups that list the user's name; an explicit group is the
//! only one.

use crate::{Error, Result};

/// The highest id that is accepted.
const MAX_ID: u32 = i32::MAX as u32;

/// A user as the kernel wants it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, without duplicates; `gid` is among them.
    pub groups: Vec<u32>,
}

/// The contents of a root's user files; `None` where one does not exist.
#[derive(Debug, Clone, Default)]
pub struct UserFiles {
    /// `/etc/passwd`.
    pub passwd: Option<Vec<u8>>,
    /// `/etc/group`.
    pub group: Option<Vec<u8>>,
}

/// Whether [`resolve`] needs the files for `spec`: two numbers speak for themselves.
pub(crate) fn needs_files(spec: &str) -> bool {
    both_ids(spec).is_none()
}

/// Resolves `spec` (`""`, `user`, `uid`, `user:group`, `uid:gid`, …).
///
/// # Errors
///
/// [`Error::NoSuchUser`] for a name that the files do not have, [`Error::Invalid`] for a number out of range.
pub fn resolve(spec: &str, files: &UserFiles) -> Result<ResolvedUser> {
    if let Some((uid, gid)) = both_ids(spec) {
        return Ok(ResolvedUser { uid, gid, groups: vec![gid] });
    }
    let spec = if spec.is_empty() { "0" } else { spec };
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    // ":group" is root in that group.
    let user_id = if user.is_empty() { Some(0) } else { id(user)? };
    let found = lines(files.passwd.as_deref()).map(Passwd::parse).find(|entry| match user_id {
        Some(uid) => entry.uid == uid,
        None => entry.name == user.as_bytes(),
    });
    let (uid, mut gid, name) = match (&found, user_id) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.name),
        (None, Some(uid)) => (uid, 0, &b""[..]),
        (None, None) => {
            return Err(Error::NoSuchUser { kind: "user", name: user.to_owned(), file: "passwd file" });
        }
    };
    let mut groups = Vec::new();
    if !group.is_empty() {
        gid = explicit_group(group, files)?;
    } else if !name.is_empty() {
        groups = lines(files.group.as_deref())
            .map(Group::parse)
            .filter(|entry| entry.members.split(|byte| *byte == b',').any(|member| member == name))
            .map(|entry| entry.gid)
            .collect();
    }
    groups.insert(0, gid);
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(ResolvedUser { uid, gid, groups })
}

/// The home folder of the user `uid`.
pub(crate) fn home(passwd: &[u8], uid: u32) -> Option<String> {
    let entry = lines(Some(passwd)).map(Passwd::parse).find(|entry| entry.uid == uid)?;
    let home = String::from_utf8(entry.home.to_vec()).ok()?;
    (!home.is_empty()).then_some(home)
}

fn explicit_group(group: &str, files: &UserFiles) -> Result<u32> {
    if let Some(gid) = id(group)? {
        return Ok(gid);
    }
    lines(files.group.as_deref())
        .map(Group::parse)
        .find(|entry| entry.name == group.as_bytes())
        .map(|entry| entry.gid)
        .ok_or_else(|| Error::NoSuchUser { kind: "group", name: group.to_owned(), file: "group file" })
}

/// `uid:gid`, both as numbers (or `root`).
fn both_ids(spec: &str) -> Option<(u32, u32)> {
    let number = |text: &str| if text == "root" { Some(0) } else { text.parse::<u32>().ok() };
    let (user, group) = spec.split_once(':')?;
    Some((number(user)?, number(group)?))
}

/// The id that `text` spells, or nothing if it is a name.
fn id(text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => {
            Err(Error::Invalid { field: "user", problem: format!("id {text} is not between 0 and {MAX_ID}") })
        }
    }
}

struct Passwd<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

impl<'a> Passwd<'a> {
    /// `name:password:uid:gid:comment:home:shell`; what is missing is empty or 0.
    fn parse(line: &'a [u8]) -> Self {
        let mut fields = line.split(|byte| *byte == b':');
        let mut next = || fields.next().unwrap_or_default();
        let (name, _, uid, gid, _, home) = (next(), next(), next(), next(), next(), next());
        Self { name, uid: number(uid), gid: number(gid), home }
    }
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl<'a> Group<'a> {
    /// `name:password:gid:member,member`; what is missing is empty or 0.
    fn parse(line: &'a [u8]) -> Self {
        let mut fields = line.split(|byte| *byte == b':');
        let mut next = || fields.next().unwrap_or_default();
        let (name, _, gid, members) = (next(), next(), next(), next());
        Self { name, gid: number(gid), members }
    }
}

fn number(field: &[u8]) -> u32 {
    std::str::from_utf8(field).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The lines that say something.
fn lines(text: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
    text.unwrap_or_default()
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && line[0] != b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> UserFiles {
        UserFiles {
            passwd: Some(
                b"# users\nroot:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n\n7:x:9:9\n"
                    .to_vec(),
            ),
            group: Some(
                b"root:x:0:\ndaemon:x:1:\nwheel:x:10:root,app\napp:x:1000:\ntwice:x:10:app\n".to_vec(),
            ),
        }
    }

    fn ok(spec: &str) -> (u32, u32, Vec<u32>) {
        let user = resolve(spec, &files()).unwrap();
        (user.uid, user.gid, user.groups)
    }

    #[test]
    fn users_by_name_number_and_group() {
        assert_eq!(ok(""), (0, 0, vec![0, 10]));
        assert_eq!(ok("root"), (0, 0, vec![0, 10]));
        assert_eq!(ok("app"), (1000, 1000, vec![1000, 10]));
        assert_eq!(ok("1000"), (1000, 1000, vec![1000, 10]));
        assert_eq!(ok("app:daemon"), (1000, 1, vec![1]));
        assert_eq!(ok("4242"), (4242, 0, vec![0]));
        assert_eq!(ok("4242:wheel"), (4242, 10, vec![10]));
        assert_eq!(ok("root:10"), (0, 10, vec![10]));
        assert_eq!(ok(":10"), (0, 10, vec![10]));
        assert_eq!(ok(":daemon"), (0, 1, vec![1]));
        assert_eq!(ok("12:34"), (12, 34, vec![34]));
        // A number is an id, also where a user has that name.
        assert_eq!(ok("7"), (7, 0, vec![0]));
    }

    #[test]
    fn without_files_numbers_work_and_names_do_not() {
        let none = UserFiles::default();
        assert_eq!(resolve("12:34", &none).unwrap().groups, [34]);
        assert_eq!(resolve("12", &none).unwrap().gid, 0);
        assert_eq!(resolve("", &none).unwrap().uid, 0);
        let error = resolve("ghost", &none).unwrap_err().to_string();
        assert_eq!(error, "unable to find user ghost: no matching entries in passwd file");
        let error = resolve("root:ghost", &files()).unwrap_err().to_string();
        assert_eq!(error, "unable to find group ghost: no matching entries in group file");
    }

    #[test]
    fn ids_out_of_range_are_refused() {
        for spec in ["2147483648", "-1", "root:99999999999999999999", "99999999999"] {
            assert!(matches!(resolve(spec, &files()), Err(Error::Invalid { .. })), "{spec}");
        }
    }

    #[test]
    fn broken_files_do_no_harm() {
        let broken = UserFiles {
            passwd: Some(b"\xff\xfe:::\n:::::::::\napp\nlast:x:notanumber:5".to_vec()),
            group: Some(b"::\n,,,\n\0".to_vec()),
        };
        assert_eq!(resolve("app", &broken).unwrap().uid, 0);
        assert_eq!(resolve("last", &broken).unwrap().gid, 5);
    }

    #[test]
    fn home_is_found_by_id() {
        let passwd = files().passwd.unwrap();
        assert_eq!(home(&passwd, 1000).as_deref(), Some("/home/app"));
        assert_eq!(home(&passwd, 9), None);
        assert_eq!(home(&passwd, 4), None);
    }
}
