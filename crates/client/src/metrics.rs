//! How much of a build was cached, for people who watch their caches.

use std::{collections::BTreeMap, io::Write, time::Duration};

use kiln_proto::control::StatusResponse;
use serde_json::json;

#[derive(Clone, Debug, Default)]
struct Step {
    name: String,
    cached: bool,
    completed: bool,
}

impl Step {
    /// A step of the user's, not of the builder's housekeeping.
    fn is_user(&self) -> bool {
        let own = ["[internal]", "[auth]", "importing cache", "exporting "];
        !own.iter().any(|prefix| self.name.starts_with(prefix))
    }

    /// `[…] FROM …`
    fn is_from(&self) -> bool {
        self.name.starts_with('[') && self.name.split("] ").skip(1).any(|rest| rest.starts_with("FROM"))
    }
}

/// Counts of steps.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<String, Step>);

impl Metrics {
    /// Takes an event.
    pub fn count(&mut self, event: &StatusResponse) {
        for vertex in &event.vertexes {
            let step = self.0.entry(vertex.digest.clone()).or_default();
            step.name.clone_from(&vertex.name);
            step.cached |= vertex.cached;
            step.completed |= vertex.completed.is_some();
        }
    }

    /// Writes a line for each step of the user's that was not cached, and the counts as JSON.
    ///
    /// # Errors
    /// If `out` cannot be written to.
    pub fn write(&self, out: &mut impl Write, taken: Duration) -> std::io::Result<()> {
        let count = |test: &dyn Fn(&Step) -> bool| self.0.values().filter(|step| test(step)).count();
        let from = count(&|s| s.is_from());
        let user = count(&|s| s.is_user());
        let cached = count(&|s| s.is_user() && s.cached);
        let cacheable = user.saturating_sub(from);
        for step in self.0.values().filter(|s| s.is_user() && s.completed && !s.cached && !s.is_from()) {
            writeln!(out, "cache miss: {}", step.name)?;
        }
        let counts = json!({
            "total": self.0.len(),
            "completed": count(&|s| s.completed),
            "user_total": user,
            "user_cached": cached,
            "user_completed": count(&|s| s.is_user() && s.completed),
            "user_cacheable": cacheable,
            "from": from,
            "miss": cacheable.saturating_sub(cached),
            "client_duration_ms": u64::try_from(taken.as_millis()).unwrap_or(u64::MAX),
        });
        writeln!(out, "{counts}")
    }
}
