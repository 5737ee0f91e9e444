//! Trees that failed steps of a build have left, for whoever wants to look into them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use kiln_ops::Output;

/// What failed steps began with and what they had made of it, by the names that the errors tell. Kept as long as the build.
#[derive(Debug, Default)]
pub struct Results(Mutex<HashMap<String, Output>>);

impl Results {
    /// Keeps the trees. The result: their names, empty where there is no tree.
    #[must_use]
    pub fn keep(&self, trees: &[Option<Output>]) -> Vec<String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keep = |output: &Option<Output>| {
            let Some((output, tree)) = output.as_ref().and_then(|o| o.tree().map(|tree| (o, tree))) else {
                return String::new();
            };
            known.insert(tree.id().to_string(), output.clone());
            tree.id().to_string()
        };
        trees.iter().map(&mut keep).collect()
    }

    /// The tree of that name.
    pub fn find(&self, id: &str) -> Option<Output> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}
