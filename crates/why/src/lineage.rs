//! Which earlier builds are builds of the same thing.

use std::collections::{BTreeMap, HashSet};

use kiln_proto::history::Build;

use crate::name::Name;

/// No more earlier builds than these are compared.
const MAX_BUILDS: usize = 50;

/// The earlier builds that `now` may be compared with, and whether they are of its project. Those that have a step in common with
/// it come first, then the later ones.
pub(crate) fn candidates(now: &Build, earlier: Vec<Build>) -> (Vec<Build>, bool) {
    let mut before: Vec<Build> = earlier.into_iter().filter(|b| began(b) < began(now)).collect();
    before.sort_by_key(|b| std::cmp::Reverse(began(b)));
    let (own, others): (Vec<Build>, Vec<Build>) = before.into_iter().partition(|b| b.project == now.project);
    let same_project = !own.is_empty();
    let texts_now = texts(now);
    let mut chosen = own;
    if same_project {
        // Clients that do not say which folder they build share a project.
        chosen.sort_by_cached_key(|b| texts_now.is_disjoint(&texts(b)));
    } else {
        let alike = |b: &Build| line(b) == line(now) && !texts_now.is_disjoint(&texts(b));
        chosen = others.into_iter().filter(alike).collect();
    }
    chosen.truncate(MAX_BUILDS);
    (chosen, same_project)
}

fn began(build: &Build) -> (i64, i32) {
    build.started.map_or((0, 0), |t| (t.seconds, t.nanos))
}

/// What builds of one Dockerfile have in common, whoever builds it wherever.
fn line(build: &Build) -> (&str, &str) {
    (&build.frontend, build.attrs.get("filename").map_or("Dockerfile", String::as_str))
}

/// The steps of a build that tell it from builds of other things.
fn texts(build: &Build) -> HashSet<(&str, &str)> {
    let names = build.steps.iter().map(|step| Name::parse(&step.name));
    let own = names.filter(|name| !name.is_internal() && !matches!(name.keyword(), "FROM" | "WORKDIR"));
    own.map(|name| (name.group, name.text)).collect()
}

/// Names the project of a build: a client's folder, and what is built of it. Options that vary from build to build take no part.
#[must_use]
pub fn project(shared_key: &str, frontend: &str, attrs: &BTreeMap<String, String>) -> String {
    let mut parts = vec![shared_key.to_owned(), frontend.to_owned()];
    let tells = |key: &str| matches!(key, "filename" | "context" | "source" | "contextkey" | "dockerfilekey");
    for (key, value) in attrs.iter().filter(|(key, _)| tells(key)) {
        // A branch or commit is a version of a project, not another.
        let value = value.split('#').next().unwrap_or_default();
        parts.push(format!("{key}={value}"));
    }
    kiln_oci::Digest::sha256(parts.join("\0")).hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use kiln_proto::history::Step;

    use super::*;

    fn build(reference: &str, project: &str, started: i64, names: &[&str]) -> Build {
        let step = |name: &&str| Step { name: (*name).to_owned(), ..Step::default() };
        Build {
            r#ref: reference.into(),
            project: project.into(),
            started: Some(prost_types::Timestamp { seconds: started, nanos: 0 }),
            steps: names.iter().map(step).collect(),
            ..Build::default()
        }
    }

    fn chosen(now: &Build, earlier: &[Build]) -> (Vec<String>, bool) {
        let (chosen, own) = candidates(now, earlier.to_vec());
        (chosen.into_iter().map(|b| b.r#ref).collect(), own)
    }

    #[test]
    fn builds_of_the_project_count_the_latest_first() {
        let now = build("now", "p", 9, &["RUN a"]);
        let all =
            [build("a", "p", 1, &["RUN a"]), build("b", "p", 5, &["RUN a"]), build("c", "q", 7, &["RUN a"])];
        assert_eq!(chosen(&now, &all), (vec!["b".into(), "a".into()], true));
        assert_eq!(chosen(&build("x", "p", 2, &[]), &all).0, ["a"], "what came later does not count");
    }

    #[test]
    fn others_count_only_where_there_is_none_and_steps_are_shared() {
        let now = build("now", "new", 9, &["[1/2] FROM x", "[2/2] RUN a"]);
        let all = [
            build("a", "p", 1, &["[1/2] FROM x", "[2/2] RUN a"]),
            build("b", "q", 5, &["[1/2] FROM x", "[2/2] RUN b"]),
        ];
        assert_eq!(chosen(&now, &all), (vec!["a".into()], false));
    }

    #[test]
    fn builds_with_steps_in_common_come_first() {
        let now = build("now", "p", 9, &["RUN a"]);
        let all = [build("alike", "p", 1, &["RUN a"]), build("unlike", "p", 5, &["RUN b"])];
        assert_eq!(chosen(&now, &all).0, ["alike", "unlike"]);
    }

    #[test]
    fn a_project_is_a_folder_and_a_file_whatever_the_target() {
        let attrs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let of = |key: &str, pairs: &[(&str, &str)]| project(key, "dockerfile.v0", &attrs(pairs));
        assert_eq!(of("k", &[("filename", "F")]), of("k", &[("filename", "F"), ("target", "x")]));
        assert_eq!(of("k", &[("context", "git#a")]), of("k", &[("context", "git#b")]));
        assert_ne!(of("k", &[("filename", "F")]), of("k", &[("filename", "G")]));
        assert_ne!(of("k", &[]), of("l", &[]));
    }
}
