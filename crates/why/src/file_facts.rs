//! What a file op is made of.

use kiln_oci::Digest;
use kiln_proto::pb::{self, file_action::Action};

use crate::{Fact, Kind};

/// The parts of each action: `copy destination`, `copy 2 owner`, and so on.
pub(crate) fn facts(op: &pb::FileOp) -> Vec<Fact> {
    let mut all = Vec::new();
    for (at, action) in op.actions.iter().enumerate() {
        let mut parts = Parts(Vec::new());
        let kind = match &action.action {
            Some(Action::Copy(copy)) => copied(copy, &mut parts),
            Some(Action::Mkfile(file)) => {
                let content = format!("{} bytes, {}", file.data.len(), Digest::sha256(&file.data));
                parts.text("path", &file.path).text("content", &content).mode(file.mode);
                parts.owner(file.owner.as_ref()).time(file.timestamp);
                "write"
            }
            Some(Action::Mkdir(dir)) => {
                parts.text("path", &dir.path).mode(dir.mode).flag("parents", dir.make_parents);
                parts.owner(dir.owner.as_ref()).time(dir.timestamp);
                "make folder"
            }
            Some(Action::Rm(rm)) => {
                parts.text("path", &rm.path).flag("allow missing", rm.allow_not_found);
                parts.flag("allow wildcards", rm.allow_wildcard);
                "remove"
            }
            Some(Action::Symlink(link)) => {
                parts.text("path", &link.newpath).text("target", &link.oldpath);
                parts.owner(link.owner.as_ref()).time(link.timestamp);
                "link"
            }
            None => continue,
        };
        let number = if op.actions.len() > 1 { format!(" {}", at + 1) } else { String::new() };
        let named = parts.0.into_iter();
        all.extend(
            named.map(|(part, value)| Fact::new(Kind::FileAction, format!("{kind}{number} {part}"), value)),
        );
    }
    all
}

fn copied(copy: &pb::FileActionCopy, parts: &mut Parts) -> &'static str {
    parts.text("source", &copy.src).text("destination", &copy.dest);
    parts.owner(copy.owner.as_ref()).mode(copy.mode).text("mode", &copy.mode_str).time(copy.timestamp);
    for (name, list) in [
        ("include", &copy.include_patterns),
        ("exclude", &copy.exclude_patterns),
        ("required", &copy.required_paths),
    ] {
        parts.text(name, &list.join(", "));
    }
    for (name, flag) in [
        ("follow links", copy.follow_symlink),
        ("contents of folders", copy.dir_copy_contents),
        ("unpack archives", copy.attempt_unpack_docker_compatibility),
        ("make destination", copy.create_dest_path),
        ("wildcards", copy.allow_wildcard),
        ("empty wildcards", copy.allow_empty_wildcard),
        ("replace", copy.always_replace_existing_dest_paths),
    ] {
        parts.flag(name, flag);
    }
    "copy"
}

/// Parts of one action.
struct Parts(Vec<(&'static str, String)>);

impl Parts {
    fn text(&mut self, name: &'static str, value: &str) -> &mut Self {
        if !value.is_empty() {
            self.0.push((name, value.to_owned()));
        }
        self
    }

    fn flag(&mut self, name: &'static str, value: bool) -> &mut Self {
        self.text(name, if value { "yes" } else { "" })
    }

    fn mode(&mut self, mode: i32) -> &mut Self {
        match u32::try_from(mode) {
            Ok(mode) => self.text("mode", &format!("{mode:04o}")),
            Err(_) => self,
        }
    }

    fn time(&mut self, nanoseconds: i64) -> &mut Self {
        match nanoseconds {
            -1 => self,
            n => self.text("time", &n.to_string()),
        }
    }

    fn owner(&mut self, owner: Option<&pb::ChownOpt>) -> &mut Self {
        let Some(owner) = owner else { return self };
        let name = |user: Option<&pb::UserOpt>| match user.and_then(|u| u.user.as_ref()) {
            Some(pb::user_opt::User::ByName(named)) => named.name.clone(),
            Some(pb::user_opt::User::ById(id)) => id.to_string(),
            None => String::new(),
        };
        let (user, group) = (name(owner.user.as_ref()), name(owner.group.as_ref()));
        self.text("owner", &format!("{user}:{group}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(actions: Vec<Action>) -> Vec<String> {
        let action = |action| pb::FileAction { action: Some(action), ..pb::FileAction::default() };
        let op = pb::FileOp { actions: actions.into_iter().map(action).collect() };
        facts(&op).into_iter().map(|f| format!("{}: {}", f.name, f.value)).collect()
    }

    #[test]
    fn a_copy_says_from_where_to_where_and_how() {
        let user = pb::UserOpt { user: Some(pb::user_opt::User::ById(7)) };
        let copy = pb::FileActionCopy {
            src: "/a".into(),
            dest: "/b".into(),
            mode: 0o644,
            timestamp: -1,
            allow_wildcard: true,
            owner: Some(pb::ChownOpt { user: Some(user), group: None }),
            ..pb::FileActionCopy::default()
        };
        assert_eq!(
            shown(vec![Action::Copy(copy.clone())]),
            [
                "copy source: /a",
                "copy destination: /b",
                "copy owner: 7:",
                "copy mode: 0644",
                "copy wildcards: yes"
            ]
        );
        let two = shown(vec![Action::Copy(copy.clone()), Action::Copy(copy)]);
        assert_eq!((two[0].as_str(), two[5].as_str()), ("copy 1 source: /a", "copy 2 source: /a"));
    }

    #[test]
    fn a_file_that_is_written_is_known_by_its_digest() {
        let file = |data: &'static str| {
            let data = data.into();
            Action::Mkfile(pb::FileActionMkFile {
                path: "/f".into(),
                data,
                ..pb::FileActionMkFile::default()
            })
        };
        assert_ne!(shown(vec![file("a")]), shown(vec![file("b")]));
        assert_eq!(shown(vec![file("a")])[1].split(',').next(), Some("write content: 1 bytes"));
    }
}
