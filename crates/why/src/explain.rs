//! From records to the answer.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use kiln_proto::history::{Build, Files, Reason};

use crate::{
    Answer, Cause, Compared, Key, KeyInput, StepAnswer, VERSION,
    align::align,
    describe::{blank, counts, info, time, unfinished},
    lineage,
    name::Name,
    room::Room,
    roots::find_roots,
    same::{self, Same, Side},
    select::select,
    view::View,
};

/// No step is called so.
#[derive(Debug, PartialEq, Eq)]
pub struct NoStep {
    /// What was asked for.
    pub wanted: String,
    /// What there is.
    pub names: Vec<String>,
}

/// Explains the steps of `build`, or those that `wanted` names, by comparing it with `earlier` builds, in any order. `files` finds
/// the list of files that a content digest is made of.
///
/// # Errors
/// [`NoStep`] when no step matches `wanted`.
pub fn explain(
    build: Build,
    earlier: Vec<Build>,
    wanted: &str,
    files: &dyn Fn(&str) -> Option<Files>,
) -> Result<Answer, NoStep> {
    let (candidates, same_project) = lineage::candidates(&build, earlier);
    let past: Vec<Past> = candidates.into_iter().map(|build| Past::new(View::new(build))).collect();
    let mut explainer = Explainer::new(View::new(build), past, same_project, files);
    let blank = explainer.order.iter().map(|(step, number)| blank(&explainer.now.steps()[*step], *number));
    let blank: Vec<StepAnswer> = blank.collect();
    let chosen = if wanted.is_empty() { (0..blank.len()).collect() } else { select(&blank, wanted) };
    if chosen.is_empty() && !wanted.is_empty() {
        let names = blank.into_iter().map(|step| step.name).collect();
        return Err(NoStep { wanted: wanted.to_owned(), names });
    }
    explainer.room = Room::new(chosen.iter().map(|at| explainer.order[*at].0));
    let mut steps: Vec<StepAnswer> =
        explainer.order.iter().map(|(step, number)| explainer.step(*step, *number)).collect();
    let left_out = find_roots(&mut steps, &chosen);
    let counts = counts(&steps);
    let mut steps: Vec<Option<StepAnswer>> = steps.into_iter().map(Some).collect();
    let steps: Vec<StepAnswer> = chosen.into_iter().filter_map(|at| steps[at].take()).collect();
    let mut warnings = Vec::new();
    if left_out {
        warnings
            .push("roots of some steps are left out, as there are too many; ask about one step".to_owned());
    }
    if explainer.now.build.truncated {
        warnings.push("the build had more steps than are kept of a build".to_owned());
    }
    Ok(Answer {
        version: VERSION,
        build: info(&explainer.now.build),
        compared_with: explainer.past.first().map(|past| info(&past.view.build)),
        counts,
        steps,
        warnings,
    })
}

/// An earlier build.
pub(crate) struct Past {
    pub(crate) view: View,
    /// Which step of it each step of the explained build is.
    at: OnceCell<Vec<Option<usize>>>,
    /// Whether each step had the same key.
    same: OnceCell<Vec<Same>>,
}

impl Past {
    fn new(view: View) -> Self {
        Self { view, at: OnceCell::new(), same: OnceCell::new() }
    }
}

/// For each step of the explained build, whether it had the same key in two others.
type Table = Rc<[Same]>;

/// A build and those that it is compared with.
pub(crate) struct Explainer<'a> {
    pub(crate) now: View,
    /// The likeliest first.
    pub(crate) past: Vec<Past>,
    same_project: bool,
    pub(crate) files: &'a dyn Fn(&str) -> Option<Files>,
    pub(crate) room: Room,
    /// The steps in the order of the answer, with their numbers.
    order: Vec<(usize, Option<usize>)>,
    pub(crate) numbers: HashMap<usize, usize>,
    /// Whether each step had the same key in two earlier builds.
    pairs: RefCell<HashMap<(usize, usize), Table>>,
    /// Whether each step ignored the cache or follows one that did.
    ignoring: Vec<bool>,
}

impl<'a> Explainer<'a> {
    fn new(now: View, past: Vec<Past>, same_project: bool, files: &'a dyn Fn(&str) -> Option<Files>) -> Self {
        let internal =
            |step: &usize| Name::parse(&now.steps()[*step].name).is_internal() || now.is_local(*step);
        let (housekeeping, mut own): (Vec<usize>, Vec<usize>) = (0..now.steps().len()).partition(internal);
        // As they stand in their file, where all of them do.
        if own.iter().all(|step| now.steps()[*step].line > 0) {
            own.sort_by_key(|step| now.steps()[*step].line);
        }
        let numbers: HashMap<usize, usize> =
            own.iter().zip(1..).map(|(step, number)| (*step, number)).collect();
        let order = own.iter().chain(&housekeeping).map(|step| (*step, numbers.get(step).copied())).collect();
        let mut ignoring = Vec::with_capacity(now.steps().len());
        for (at, step) in now.steps().iter().enumerate() {
            let after = now.parents(at).iter().any(|p| p.step.and_then(|s| ignoring.get(s)) == Some(&true));
            ignoring.push(step.reason() == Reason::IgnoreCache || (after && step.reason() != Reason::None));
        }
        let pairs = RefCell::default();
        Self { now, past, same_project, files, room: Room::default(), order, numbers, pairs, ignoring }
    }

    /// Which step of an earlier build each step is.
    pub(crate) fn at(&self, past: usize) -> &[Option<usize>] {
        let past = &self.past[past];
        past.at.get_or_init(|| {
            let mut at = align(&self.now.labels(), &past.view.labels());
            if !self.same_project {
                // Another project's step is the same only if it is called so.
                for (step, other) in at.iter_mut().enumerate() {
                    let equal = |o: &usize| past.view.steps()[*o].name == self.now.steps()[step].name;
                    *other = other.filter(equal);
                }
            }
            at
        })
    }

    /// Whether each step had the same key in an earlier build.
    pub(crate) fn same(&self, past: usize) -> &[Same] {
        self.past[past].same.get_or_init(|| {
            let own: Vec<Option<usize>> = (0..self.now.steps().len()).map(Some).collect();
            let now = Side { view: &self.now, at: &own };
            same::table(&now, &Side { view: &self.past[past].view, at: self.at(past) })
        })
    }

    /// Whether each step had the same key in two earlier builds.
    pub(crate) fn same_before(&self, past: usize, older: usize) -> Table {
        if let Some(known) = self.pairs.borrow().get(&(past, older)) {
            return known.clone();
        }
        let side = |past: usize| Side { view: &self.past[past].view, at: self.at(past) };
        let table: Table = same::table(&side(past), &side(older)).into();
        self.pairs.borrow_mut().insert((past, older), table.clone());
        table
    }

    /// All that is to be said of a step.
    fn step(&self, at: usize, number: Option<usize>) -> StepAnswer {
        let step = &self.now.steps()[at];
        let mut answer = blank(step, number);
        if step.reason() == Reason::None {
            if let Some(joined) = self.now.find(&step.joined) {
                answer.detail = format!("it shared the work of {}", joined.name);
            }
            return answer;
        }
        answer.key = Some(self.key(at));
        self.cause(at, &mut answer);
        answer
    }

    fn cause(&self, at: usize, answer: &mut StepAnswer) {
        let step = &self.now.steps()[at];
        if self.now.is_local(at) {
            answer.cause = Some(Cause::Always);
            return;
        }
        if step.reason() == Reason::IgnoreCache {
            answer.cause = Some(Cause::Ignored);
            answer.detail = self.ignored_by(at);
            return;
        }
        if let Some(folder) = self.whole_folder(at) {
            answer.cause = Some(Cause::Uncacheable);
            answer.detail = self.now.steps()[folder].name.clone();
            return;
        }
        let Some((past, other)) = self.counterpart(at) else {
            let known = !self.past.is_empty() && self.same_project;
            answer.cause = Some(if known { Cause::NewStep } else { Cause::NoEarlierBuild });
            return;
        };
        answer.compared_with = Some(self.compared(past, other));
        self.compare(at, past, other, answer);
        answer.removed_since = self.removed(at);
        answer.cause = Some(self.conclude(at, past, other, answer));
    }

    /// A client's folder that the step takes without a look at its content: before a step runs, what can be hashed has been.
    fn whole_folder(&self, at: usize) -> Option<usize> {
        let parents = self.now.parents(at).into_iter().enumerate();
        let mut local =
            parents.filter_map(|(input, p)| Some((input, p.step.filter(|s| self.now.is_local(*s))?)));
        local.find(|(input, _)| self.now.content(at, *input).is_none()).map(|(_, step)| step)
    }

    /// The latest build that had the step and a result of it; else the latest that had it.
    fn counterpart(&self, at: usize) -> Option<(usize, usize)> {
        let had = (0..self.past.len()).filter_map(|past| Some((past, self.at(past)[at]?)));
        let mut first = None;
        for (past, other) in had {
            if self.past[past].view.has_result(other) {
                return Some((past, other));
            }
            first = first.or(Some((past, other)));
        }
        first
    }

    /// The latest build that had a result under the very same key.
    fn removed(&self, at: usize) -> Option<Compared> {
        (0..self.past.len()).find_map(|past| {
            let other = self.at(past)[at]?;
            let had = self.past[past].view.had_result(other) && self.same(past)[at] == Same::Yes;
            had.then(|| self.compared(past, other))
        })
    }

    fn conclude(&self, at: usize, past: usize, other: usize, answer: &mut StepAnswer) -> Cause {
        let step = &self.now.steps()[at];
        if !step.lost.is_empty() {
            answer.detail = step.lost.clone();
            return Cause::Lost;
        }
        if step.reason() == Reason::NoResult {
            return Cause::Removed;
        }
        if !answer.differences.is_empty() {
            return Cause::Changed;
        }
        if !answer.follows.is_empty() {
            return Cause::Follows;
        }
        let parents = self.now.parents(at);
        let ignoring = parents.iter().enumerate().filter_map(|(input, p)| Some((input, p.step?)));
        for (input, parent) in ignoring.filter(|(_, parent)| self.ignoring[*parent]) {
            answer.follows.push(self.follow(input, parent, None));
        }
        if !answer.follows.is_empty() {
            answer.detail =
                "what a step makes that ignores the cache is not looked up by its definition".to_owned();
            return Cause::Follows;
        }
        match self.same(past)[at] {
            Same::Yes if !self.past[past].view.has_result(other) && answer.removed_since.is_none() => {
                answer.detail = unfinished(&self.past[past].view.steps()[other]).to_owned();
                Cause::Unfinished
            }
            Same::Yes => Cause::Removed,
            Same::No | Same::Unknown => Cause::Unknown,
        }
    }

    fn compared(&self, past: usize, step: usize) -> Compared {
        let view = &self.past[past].view;
        Compared {
            reference: view.build.r#ref.clone(),
            ended: time(view.build.ended),
            step: view.steps()[step].name.clone(),
        }
    }

    /// What of the build's options tells a step to ignore the cache.
    fn ignored_by(&self, at: usize) -> String {
        let label = Name::parse(&self.now.steps()[at].name);
        match self.now.build.attrs.get("no-cache").map(String::as_str) {
            Some("") => "the build was asked for with --no-cache".to_owned(),
            Some(stages) => {
                let named =
                    |stage: &&str| label.group.split(' ').any(|word| word.eq_ignore_ascii_case(stage));
                let stage = stages.split(',').map(str::trim).find(named).unwrap_or(stages);
                format!("the build was asked for with --no-cache-filter {stage}")
            }
            None => "the definition of the step says so".to_owned(),
        }
    }

    fn key(&self, at: usize) -> Key {
        let step = &self.now.steps()[at];
        let inputs = self.now.parents(at).into_iter().enumerate().filter_map(|(input, parent)| {
            let known = self.now.input(at, input)?;
            Some(KeyInput {
                name: parent.step.map(|s| self.now.steps()[s].name.clone()).unwrap_or_default(),
                selector: known.selector.clone(),
                content: known.content.clone(),
                matches: known.matches,
            })
        });
        let result = match step.reason() {
            Reason::None => "",
            Reason::IgnoreCache => "ignore-cache",
            Reason::NoMatch => "no-match",
            Reason::NoCommonKey => "no-common-key",
            Reason::UnknownDigest => "unknown-digest",
            Reason::NoResult => "no-result",
        };
        Key { digests: step.keys.clone(), inputs: inputs.collect(), result: result.to_owned() }
    }
}
