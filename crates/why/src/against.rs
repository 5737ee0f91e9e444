//! A step against the one that it was in an earlier build.

use kiln_proto::history::Reason;

use crate::{
    Change, Difference, Follow, Kind, StepAnswer,
    args::Args,
    compare::differences,
    describe::plain,
    explain::Explainer,
    files,
    same::{self, Same},
    view::Parent,
};

impl Explainer<'_> {
    /// What of the facts and the inputs differs.
    pub(crate) fn compare(&self, at: usize, past: usize, other: usize, answer: &mut StepAnswer) {
        let view = &self.past[past].view;
        let mut found = differences(view.facts(other), self.now.facts(at));
        if found.is_empty() && !same::is_equal(&self.now, at, view, other) {
            found.push(plain(Kind::Definition, String::new(), Change::Changed, None));
        }
        let (here, there) = (self.now.parents(at), view.parents(other));
        for input in 0..here.len().max(there.len()) {
            match (here.get(input), there.get(input)) {
                (Some(p), Some(q)) => {
                    let content = self.now.content(at, input).zip(self.content(at, past, other, input));
                    match content {
                        Some((new, old)) if new == old => {}
                        Some((new, old)) => self.compare_files(at, input, old, new, answer),
                        None => self.compare_parents(past, input, *p, *q, &mut found, answer),
                    }
                }
                (one, _) => {
                    let (change, view, parent) = match one {
                        Some(parent) => (Change::Added, &self.now, parent),
                        None => (Change::Removed, view, &there[input]),
                    };
                    let name = parent.step.map(|s| view.steps()[s].name.clone()).unwrap_or_default();
                    found.push(plain(Kind::Input, name, change, Some(input)));
                }
            }
        }
        let args = Args::new(&view.build.attrs, &self.now.build.attrs);
        found.iter_mut().for_each(|difference| args.attribute(difference));
        answer.differences.splice(0..0, found);
    }

    /// The digest of what a step of an earlier build used of an input. Where that build found it by definition, it is that of a
    /// still earlier one that had the same key.
    fn content(&self, at: usize, past: usize, other: usize, input: usize) -> Option<&str> {
        if let Some(content) = self.past[past].view.content(other, input) {
            return Some(content);
        }
        (past + 1..self.past.len()).find_map(|older| {
            let content = self.past[older].view.content(self.at(older)[at]?, input)?;
            (self.same_before(past, older)[at] == Same::Yes).then_some(content)
        })
    }

    fn compare_files(&self, at: usize, input: usize, old: &str, new: &str, answer: &mut StepAnswer) {
        let lists = (self.files)(old).zip((self.files)(new));
        // Here are differences of files alone.
        let most = self.room.most(at, answer.differences.len());
        let found = lists.map(|(old, new)| files::compare(&old, &new, input, most));
        let known = found.is_some();
        let found = found.unwrap_or_default();
        self.room.take(at, found.listed.len());
        answer.more_files += found.more;
        answer.files_incomplete |= found.incomplete;
        if found.listed.is_empty() && !(known && found.more > 0) {
            let parent = self.now.parents(at)[input].step;
            let name = parent.map(|s| self.now.steps()[s].name.clone()).unwrap_or_default();
            answer.differences.push(plain(Kind::Files, name, Change::Changed, Some(input)));
        }
        answer.differences.extend(found.listed);
    }

    fn compare_parents(
        &self,
        past: usize,
        input: usize,
        p: Parent,
        q: Parent,
        found: &mut Vec<Difference>,
        answer: &mut StepAnswer,
    ) {
        let view = &self.past[past].view;
        let same = same::input(&self.now, p, view, q, self.at(past), self.same(past));
        let (Some(new), Some(old)) = (p.step, q.step) else { return };
        if same == Same::Yes {
            return;
        }
        let sources = self.now.is_source(new) && view.is_source(old);
        if sources && same == Same::No {
            let mut all = differences(view.facts(old), self.now.facts(new));
            if all.is_empty() {
                all.push(plain(Kind::Definition, self.now.steps()[new].name.clone(), Change::Changed, None));
            }
            all.iter_mut().for_each(|difference| difference.input = Some(input));
            found.extend(all);
            return;
        }
        if same == Same::Unknown && (sources || self.now.steps()[new].reason() == Reason::None) {
            answer.detail =
                format!("nobody looked at the files of {} in that build", self.now.steps()[new].name);
            return;
        }
        let before = (self.at(past)[new] != Some(old)).then(|| view.steps()[old].name.clone());
        answer.follows.push(self.follow(input, new, before));
    }

    pub(crate) fn follow(&self, input: usize, step: usize, before: Option<String>) -> Follow {
        let number = self.numbers.get(&step).copied();
        Follow { input, number, name: self.now.steps()[step].name.clone(), before }
    }
}
