//! What an edge does next: pure functions of what it knows and what is wanted of it.
//!
//! ```text
//!   wanted      means                                            is reached when
//!   Nothing     nobody asks                                      always
//!   Fast        its keys by definition                           the op's digest and its inputs' fast keys are known
//!   Slow        all keys that can be known without running it    no input can lead to further keys, or a result is found
//!   Result      its result                                       it was loaded or run
//! ```

/// How much of an edge is wanted, or known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Level {
    #[default]
    Nothing = 0,
    Fast = 1,
    Slow = 2,
    Result = 3,
}

/// What an edge knows of one input, as far as the next step depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct InputSight {
    /// What the input has reached.
    pub(crate) level: Level,
    /// Whether it has a content key by this op.
    pub(crate) by_content: bool,
    /// Whether its content key was computed (or found not to exist).
    pub(crate) hashed: bool,
    /// Whether it must be examined (hashed, prepared) before the op runs, and was not yet.
    pub(crate) unexamined: bool,
    /// Whether one of its keys leads to a key of the op.
    pub(crate) leads: bool,
}

impl InputSight {
    /// Whether it may still lead to further keys.
    fn open(self) -> bool {
        if self.by_content { !self.hashed } else { self.level < Level::Slow }
    }

    fn thirsty(self) -> bool {
        self.open() && !self.leads
    }

    fn barren(self) -> bool {
        !self.open() && !self.leads
    }

    fn unready(self) -> bool {
        self.level < Level::Result || self.unexamined
    }

    /// What to ask of it in `stage`.
    pub(crate) fn ask(self, stage: Stage) -> Level {
        let deeper = match self.level {
            Level::Nothing => Level::Fast,
            Level::Fast => Level::Slow,
            _ if self.by_content => Level::Result,
            _ => Level::Slow,
        };
        match stage {
            Stage::Idle => Level::Nothing,
            Stage::Probe => Level::Fast,
            Stage::Thirsty if self.thirsty() => deeper,
            Stage::All if self.open() => deeper,
            Stage::Thirsty | Stage::All => Level::Fast,
            Stage::Gather => Level::Result,
        }
    }
}

/// How many inputs are in which state. Kept up to date input by input, so that a step costs the same for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// All.
    pub(crate) inputs: usize,
    unseen: usize,
    open: usize,
    thirsty: usize,
    barren: usize,
    unready: usize,
}

impl Counts {
    pub(crate) fn new(inputs: usize) -> Self {
        let fresh = InputSight::default();
        let all = |yes: bool| if yes { inputs } else { 0 };
        Self {
            inputs,
            unseen: inputs,
            open: all(fresh.open()),
            thirsty: all(fresh.thirsty()),
            barren: all(fresh.barren()),
            unready: all(fresh.unready()),
        }
    }

    /// One input changed from `old` to `new`.
    pub(crate) fn change(&mut self, old: InputSight, new: InputSight) {
        let swap = |n: &mut usize, old: bool, new: bool| *n = *n + usize::from(new) - usize::from(old);
        swap(&mut self.unseen, old.level < Level::Fast, new.level < Level::Fast);
        swap(&mut self.open, old.open(), new.open());
        swap(&mut self.thirsty, old.thirsty(), new.thirsty());
        swap(&mut self.barren, old.barren(), new.barren());
        swap(&mut self.unready, old.unready(), new.unready());
    }
}

/// All that the next step of an edge depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sight {
    /// What is wanted.
    pub(crate) want: Level,
    /// The vertex ignores the cache.
    pub(crate) ignore: bool,
    /// At least one cache map is there.
    pub(crate) has_map: bool,
    /// The last cache map is there.
    pub(crate) maps_done: bool,
    /// There is a result to load.
    pub(crate) records: bool,
    /// The inputs.
    pub(crate) counts: Counts,
}

/// What an edge asks of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    /// Nothing.
    #[default]
    Idle,
    /// Their fast keys.
    Probe,
    /// More keys of those that lead nowhere so far; no match is possible before they do.
    Thirsty,
    /// More keys of all that may have some.
    All,
    /// Their results: the op will run.
    Gather,
}

/// What an edge does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing is wanted beyond what is known.
    Rest,
    /// Ask the inputs for something, and the op for its next cache map if `map`.
    Ask { stage: Stage, map: bool },
    /// Load a result.
    Load,
    /// Run the op.
    Run,
}

impl Sight {
    /// Whether no further key can be found without running the op.
    fn exhausted(&self) -> bool {
        let inputs = if self.counts.inputs == 0 { self.maps_done } else { self.counts.open == 0 };
        self.ignore || self.counts.barren > 0 || inputs
    }

    /// What the edge has reached, its result aside.
    pub(crate) fn level(&self) -> Level {
        if self.ignore {
            return Level::Slow;
        }
        if !self.has_map {
            return Level::Nothing;
        }
        let found = self.records && self.counts.inputs > 0;
        if found || self.exhausted() {
            Level::Slow
        } else if self.counts.unseen == 0 {
            Level::Fast
        } else {
            Level::Nothing
        }
    }

    /// The next step: the cheapest that can bring what is wanted.
    pub(crate) fn next(&self) -> Step {
        if self.records && self.want == Level::Result {
            return Step::Load;
        }
        if self.want <= self.level() {
            return Step::Rest;
        }
        if self.want == Level::Result && self.exhausted() && (self.has_map || self.ignore) {
            return match self.maps_done && self.counts.unready == 0 {
                true => Step::Run,
                false => Step::Ask { stage: Stage::Gather, map: !self.maps_done },
            };
        }
        if !self.has_map || self.counts.unseen > 0 {
            return Step::Ask { stage: Stage::Probe, map: !self.has_map };
        }
        let stage = if self.counts.thirsty > 0 { Stage::Thirsty } else { Stage::All };
        Step::Ask { stage, map: !self.maps_done }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(level: Level, leads: bool) -> InputSight {
        InputSight { level, leads, ..InputSight::default() }
    }

    fn content(level: Level, hashed: bool, leads: bool) -> InputSight {
        InputSight { level, by_content: true, hashed, unexamined: !hashed, leads }
    }

    fn sight(want: Level, inputs: &[InputSight]) -> Sight {
        let mut counts = Counts::new(inputs.len());
        inputs.iter().for_each(|i| counts.change(InputSight::default(), *i));
        Sight { want, has_map: true, maps_done: true, counts, ..Sight::default() }
    }

    fn ask(stage: Stage) -> Step {
        Step::Ask { stage, map: false }
    }

    #[test]
    fn the_first_thing_is_the_definition() {
        let fresh =
            Sight { has_map: false, maps_done: false, ..sight(Level::Result, &[InputSight::default()]) };
        assert_eq!(fresh.next(), Step::Ask { stage: Stage::Probe, map: true });
        assert_eq!(fresh.level(), Level::Nothing);
        assert_eq!(Sight { want: Level::Nothing, ..fresh }.next(), Step::Rest);
    }

    #[test]
    fn a_root_tries_one_map_after_the_other() {
        let first = Sight { maps_done: false, ..sight(Level::Slow, &[]) };
        assert_eq!((first.level(), first.next()), (Level::Fast, Step::Ask { stage: Stage::All, map: true }));
        assert_eq!(Sight { want: Level::Fast, ..first }.next(), Step::Rest);
        assert_eq!(Sight { want: Level::Result, records: true, ..first }.next(), Step::Load);
        let last = sight(Level::Result, &[]);
        assert_eq!((last.level(), last.next()), (Level::Slow, Step::Run));
    }

    #[test]
    fn a_result_that_is_found_is_loaded_only_when_it_is_wanted() {
        let found = Sight { records: true, ..sight(Level::Result, &[input(Level::Fast, true)]) };
        assert_eq!(found.next(), Step::Load);
        assert_eq!(
            Sight { want: Level::Slow, ..found }.next(),
            Step::Rest,
            "its key is known, which is enough"
        );
    }

    #[test]
    fn all_definitions_come_before_any_content() {
        let s = sight(Level::Result, &[content(Level::Fast, false, false), input(Level::Nothing, false)]);
        assert_eq!(s.next(), ask(Stage::Probe));
    }

    #[test]
    fn inputs_that_lead_nowhere_are_deepened_first() {
        let leading = content(Level::Fast, false, true);
        let s = sight(Level::Result, &[content(Level::Fast, false, false), leading]);
        assert_eq!(s.next(), ask(Stage::Thirsty));
        assert_eq!(leading.ask(Stage::Thirsty), Level::Fast, "the others are left alone meanwhile");
        let s = sight(Level::Result, &[content(Level::Result, true, true), leading]);
        assert_eq!(s.next(), ask(Stage::All));
        assert_eq!(leading.ask(Stage::All), Level::Slow);
    }

    #[test]
    fn deepening_goes_from_keys_to_content() {
        assert_eq!(content(Level::Fast, false, false).ask(Stage::Thirsty), Level::Slow);
        assert_eq!(content(Level::Slow, false, false).ask(Stage::Thirsty), Level::Result);
        assert_eq!(input(Level::Fast, false).ask(Stage::Thirsty), Level::Slow);
    }

    #[test]
    fn one_barren_input_ends_the_search() {
        let barren = input(Level::Slow, false);
        let s = sight(Level::Slow, &[barren, content(Level::Nothing, false, false)]);
        assert_eq!((s.level(), s.next()), (Level::Slow, Step::Rest));
        let s = sight(Level::Result, &[barren, content(Level::Nothing, false, false)]);
        assert_eq!(s.next(), ask(Stage::Gather));
        assert_eq!(barren.ask(Stage::Gather), Level::Result);
    }

    #[test]
    fn an_input_with_a_content_key_is_not_barren_before_it_is_hashed() {
        let s = sight(Level::Result, &[content(Level::Slow, false, false)]);
        assert_eq!(s.next(), ask(Stage::Thirsty));
        let s = sight(Level::Result, &[content(Level::Result, true, false)]);
        assert_eq!(s.next(), Step::Run);
    }

    #[test]
    fn keys_without_a_common_target_run_the_op() {
        let s = sight(Level::Result, &[input(Level::Slow, true), input(Level::Slow, true)]);
        assert_eq!(s.next(), ask(Stage::Gather));
        let s = sight(Level::Result, &[input(Level::Result, true), input(Level::Result, true)]);
        assert_eq!(s.next(), Step::Run);
    }

    #[test]
    fn the_op_runs_only_when_every_input_is_examined() {
        let lazy = InputSight { unexamined: true, ..input(Level::Result, false) };
        assert_eq!(sight(Level::Result, &[lazy]).next(), ask(Stage::Gather));
    }

    #[test]
    fn ignoring_the_cache_has_no_keys_and_runs() {
        let s = Sight { ignore: true, ..sight(Level::Slow, &[input(Level::Nothing, false)]) };
        assert_eq!((s.level(), s.next()), (Level::Slow, Step::Rest));
        let s = Sight { want: Level::Result, has_map: false, maps_done: false, ..s };
        assert_eq!(s.next(), Step::Ask { stage: Stage::Gather, map: true });
        let s = Sight { ignore: true, ..sight(Level::Result, &[input(Level::Result, false)]) };
        assert_eq!(s.next(), Step::Run);
    }

    #[test]
    fn counts_follow_changes() {
        let mut counts = Counts::new(2);
        let (a, b) = (InputSight::default(), content(Level::Slow, false, true));
        counts.change(a, b);
        counts.change(b, input(Level::Slow, false));
        counts.change(a, input(Level::Result, true));
        assert_eq!(counts, Counts { inputs: 2, barren: 1, unready: 1, ..Counts::default() });
    }
}
