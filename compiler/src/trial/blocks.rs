//! Numbers of blocks. They are given per token, because the blocks depend on other numbers, so that their
//! count is not known beforehand.

use mopd_expr::batch::{Batch, Layout, TokenPartition};
use mopd_expr::graph::NodeId;
use mopd_expr::interpret::interpret;

use crate::lower::FormulaGraph;

/// The tokens that are in blocks, computed as in a run.
pub(super) struct Blocks {
    chosen: Vec<f32>,
    runs: TokenPartition,
}

impl Blocks {
    /// # Errors
    /// If something that `chosen` reads is missing.
    pub fn from_selection(formulas: &FormulaGraph, chosen: NodeId, batch: &Batch) -> Result<Blocks, String> {
        let values = interpret(&formulas.graph, &[chosen], batch).map_err(|error| error.to_string())?;
        let chosen: Vec<f32> = values.get(chosen).iter().map(|value| *value as f32).collect();
        let runs = TokenPartition::of_chosen(&batch.layout, &chosen);
        Ok(Blocks { chosen, runs })
    }

    pub fn divide(&self, layout: &mut Layout) {
        layout.blocks = Some(self.runs.clone());
    }

    /// One number per run of tokens, from `values` per token.
    ///
    /// # Errors
    /// If two tokens of a block have different numbers.
    pub fn numbers(&self, name: &str, values: &[f64]) -> Result<Vec<f64>, String> {
        let mut numbers: Vec<Option<f64>> = vec![None; self.runs.parent.len()];
        for ((run, chosen), value) in self.runs.of_token.iter().zip(&self.chosen).zip(values) {
            let number = numbers[*run as usize].get_or_insert(if *chosen == 0.0 { 0.0 } else { *value });
            if *chosen != 0.0 && *number != *value {
                return Err(format!(
                    "`{name}` is {number} and {value} for tokens of one block, which has one number"
                ));
            }
        }
        Ok(numbers.into_iter().flatten().collect())
    }
}
