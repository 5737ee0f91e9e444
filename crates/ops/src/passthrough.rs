//! Hands inputs on: for what must be built without being part of the result.

use kiln_engine::CacheMap;
use kiln_proto::pb;

use crate::{Kiln, OpError, Output, canonical};

/// Gives some of its inputs as outputs, when all of them have been built.
#[derive(Debug)]
pub struct PassthroughOp {
    pub(crate) op: pb::PassthroughOp,
    pub(crate) inputs: usize,
}

impl PassthroughOp {
    pub(crate) fn cache_map(&self) -> Result<CacheMap<Kiln>, OpError> {
        Ok(CacheMap::new(canonical::passthrough(&self.op)?, self.inputs))
    }

    pub(crate) fn exec(&self, inputs: &[Output]) -> Result<Vec<Output>, OpError> {
        let output = |index: &i64| {
            let input = usize::try_from(*index).ok().and_then(|index| inputs.get(index));
            let missing = || OpError::Invalid(format!("passthrough {}: no input {index}", self.op.id));
            input.cloned().ok_or_else(missing)
        };
        self.op.outputs.iter().map(output).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inputs_that_are_there_come_out() {
        let op = |outputs: &[i64]| PassthroughOp {
            op: pb::PassthroughOp { id: "x".into(), outputs: outputs.to_vec() },
            inputs: 2,
        };
        let inputs = [Output::default(), Output::default()];
        assert_eq!(op(&[1, 0, 1]).exec(&inputs).unwrap().len(), 3);
        for bad in [2, -1, i64::MAX] {
            assert!(op(&[bad]).exec(&inputs).is_err(), "{bad}");
        }
    }
}
