//! The variables of a stage: those of its steps, and those of the image's config.
//!
//! A stage begins with the variables of the config in their order, behind those that only steps have (ARGs). To put them
//! there takes time for each of them. It is done when a program runs, which is given all of them, and not for stages without one:
//! a long chain of stages takes no more time than its length.

use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;

use bytestring::ByteString;
use foldhash::quality::RandomState;
use kiln_llb::build::State;

use super::stage::Stage;

/// How the variables of an image's config and those of steps belong together.
#[derive(Debug, Clone, Default)]
pub(super) struct ImageEnv {
    /// Where in the config which variable stands.
    places: HashMap<ByteString, usize, RandomState>,
    /// How many entries of the config steps know.
    known: usize,
    /// Steps have something else, or elsewhere, than the next stage begins with.
    changed: bool,
    /// Those of the config that an ARG has given another value.
    shadowed: Vec<ByteString>,
    /// Variables of before the stage began are not in order.
    unordered: bool,
}

impl ImageEnv {
    /// Configs from elsewhere may hold a variable twice. Steps have the last one.
    fn has_twice(&self) -> bool {
        self.places.len() < self.known
    }
}

fn split(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

impl Stage {
    /// Gives steps what the config has.
    pub(super) fn begin_env(&mut self) {
        let entries = &self.image.config.env;
        let changed = take(&mut self.env.changed);
        if !changed && self.env.known == entries.len() {
            return;
        }
        let mut state = std::mem::replace(&mut self.state, State::scratch());
        for name in take(&mut self.env.shadowed) {
            let entry = self.env.places.get(&name).and_then(|&place| entries.get(place));
            state = entry.into_iter().fold(state, |state, entry| state.env(name.clone(), split(entry).1));
        }
        let known = if self.env.has_twice() { 0 } else { self.env.known };
        for (place, entry) in entries.iter().enumerate().skip(known) {
            let (name, value) = split(entry);
            let name: ByteString = name.into();
            self.env.places.entry(name.clone()).or_insert(place);
            state = state.env(name, value);
        }
        self.env.known = entries.len();
        if known > 0 && changed {
            state = state.settle_env();
            self.env.unordered = true;
        }
        self.state = state;
    }

    /// Puts the variables in order, for a step that is given all of them.
    pub(super) fn order_env(&mut self) {
        if self.env.unordered {
            self.state = self.ordered_state();
            self.env.unordered = false;
        }
    }

    /// The state with its variables in order.
    pub(super) fn ordered_state(&self) -> State {
        let state = self.state.clone();
        match self.env.unordered {
            true => state.order_env(self.image.config.env.iter().map(|entry| split(entry).0)),
            false => state,
        }
    }

    /// Sets a variable of steps alone.
    pub(super) fn set_arg(&mut self, name: &ByteString, value: &ByteString) {
        self.change_state(|state| state.env(name.clone(), value.clone()));
        self.env.changed = true;
        if self.env.places.contains_key(name) {
            self.env.shadowed.push(name.clone());
        }
    }

    /// Sets a variable of steps and of the image, where one that is there keeps its place.
    pub(super) fn set_env(&mut self, name: &ByteString, value: &ByteString) {
        self.change_state(|state| state.env(name.clone(), value.clone()));
        let (entries, entry) = (&mut Arc::make_mut(&mut self.image).config.env, [name, "=", value].concat());
        match self.env.places.get(name).and_then(|&place| entries.get_mut(place)) {
            Some(old) => {
                *old = entry;
                self.env.changed = true;
            }
            None => {
                self.env.places.insert(name.clone(), entries.len());
                self.env.known += 1;
                entries.push(entry);
            }
        }
    }
}
