//! ONBUILD: instructions that a base leaves to those who build on it.

use super::failure::refuse;
use super::resolver::Resolver;
use super::stage::Step;
use super::{Converter, Failure};
use crate::ast::Command;

impl<R: Resolver> Converter<'_, R> {
    /// Puts the triggers of a stage's base before its own instructions. True if they take files from other stages,
    /// which must be resolved then.
    pub(super) fn add_triggers(&mut self, index: usize) -> Result<bool, Failure> {
        let stage = &mut self.stages.list[index];
        let mut triggers = match stage.image.config.on_build.is_empty() {
            true => Vec::new(),
            false => std::mem::take(&mut stage.image_mut().config.on_build),
        };
        if let Some(base) = stage.base
            && !std::mem::replace(&mut stage.triggers_known, true)
        {
            for instruction in &self.stages.list[base].instructions {
                if let Command::Onbuild(onbuild) = &instruction.command {
                    triggers.push(onbuild.expression[..].to_owned());
                }
            }
        }
        let span = self.stages.list[index].span;
        let mut steps = Vec::with_capacity(triggers.len());
        let mut more = false;
        for trigger in &triggers {
            let mut instruction = crate::parse_instruction(trigger)
                .map_err(|e| refuse(format!("onbuild trigger {trigger:?}: {e}")).within(span))?;
            // The blame falls on the FROM.
            instruction.span = span;
            let sources = self.stages.sources(&instruction).map_err(|e| e.within(span))?;
            more |= !sources.is_empty();
            self.stages.list[index].deps.extend(&sources);
            steps.push(Step { instruction, sources, onbuild: true });
        }
        let stage = &mut self.stages.list[index];
        stage.names.total += steps.len();
        steps.append(&mut stage.triggers);
        stage.triggers = steps;
        Ok(more)
    }
}
