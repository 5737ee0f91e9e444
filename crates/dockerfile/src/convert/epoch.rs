//! SOURCE_DATE_EPOCH: the time of everything that a build makes.
//!
//! A number of seconds, or the name of something that has a time: `context`, or a named context.

use kiln_llb::Graph;
use kiln_llb::build::State;
use kiln_oci::Time;
use kiln_proto::pb;

use super::context::marshal_options;
use super::failure::refuse;
use super::ignore::Ignore;
use super::named;
use super::resolver::Resolver;
use super::{Converter, Failure};
use crate::ast::Dockerfile;
use crate::span::Span;

const NAME: &str = "SOURCE_DATE_EPOCH";

impl<R: Resolver> Converter<'_, R> {
    /// Finds out the time, and makes the build argument a number.
    pub(super) async fn resolve_epoch(&mut self, file: &Dockerfile) -> Result<(), Failure> {
        let given = self.build_args.get(NAME).cloned();
        let Some(value) = given.clone().or_else(|| self.globals.value(NAME).map(str::to_owned).filter(|v| !v.is_empty()))
        else {
            return Ok(());
        };
        self.epoch = self.time_of(&value, file).await?;
        let text = self.epoch.as_ref().map(|t| t.unix().to_string());
        if given.is_some() {
            match &text {
                Some(text) => self.build_args.insert(NAME.into(), text.clone()),
                None => self.build_args.remove(NAME),
            };
        }
        if self.globals.value(NAME).is_some() {
            match text {
                Some(text) => self.globals.set(NAME, text),
                None => self.globals.unset(NAME),
            }
        }
        Ok(())
    }

    async fn time_of(&self, value: &str, file: &Dockerfile) -> Result<Option<Time>, Failure> {
        if value.is_empty() {
            return Ok(None);
        }
        if let Ok(seconds) = value.parse::<i64>() {
            return Ok(Some(Time::from_unix(seconds)));
        }
        if value == "context" {
            let state = self.source.main_context(self.options, &Ignore::default(), Vec::new());
            return self.time_of_state(&state, "[internal] resolve main build context metadata".into()).await;
        }
        if let Some(context) = named::find(self.options, value, None)? {
            let loaded = context.load(self.options, self.resolver, 0).await?;
            if loaded.pending.is_some() {
                // A folder of the client has no time of its own.
                return Ok(None);
            }
            let name = format!("[internal] resolve {NAME} named context {value}");
            return self.time_of_state(&loaded.state, name).await;
        }
        if file.stages.iter().any(|s| s.name().is_some_and(|n| n.eq_ignore_ascii_case(value))) {
            return Err(refuse(format!("{NAME}={value}: the time of a stage is not supported")).into());
        }
        Err(refuse(format!("invalid {NAME}: {value}")).into())
    }

    /// The time of a state that is one source and nothing else that has one.
    async fn time_of_state(&self, state: &State, log_name: String) -> Result<Option<Time>, Failure> {
        let definition = state.marshal(&marshal_options(self.options))?;
        if definition.def.is_empty() {
            return Ok(None);
        }
        let graph = Graph::decode(&definition)?;
        let mut sources = graph.vertices().iter().filter_map(|v| match &v.op.op {
            Some(pb::op::Op::Source(source)) => Some(source.clone()),
            _ => None,
        });
        let (Some(source), None) = (sources.next(), sources.next()) else { return Ok(None) };
        if !["git://", "http://", "https://"].iter().any(|s| source.identifier.starts_with(s)) {
            return Ok(None);
        }
        let outside = |e| Failure::outside(NAME, Span::default(), e);
        Ok(self.resolver.source_time(source, log_name).await.map_err(outside)?.time)
    }
}
