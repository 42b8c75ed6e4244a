//! The turn of one of the models that a stage trains.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnerTurn<'a> {
    /// The name of its turn, where the stage trains several models.
    pub name: Option<&'a str>,
    /// Its index among the turns of a step.
    pub place: u32,
    /// The model has a turn once in `every` steps, in the last of them.
    pub every: u32,
}

impl LearnerTurn<'_> {
    /// The turn of a model that is trained alone.
    pub const ALONE: LearnerTurn<'static> = LearnerTurn { name: None, place: 0, every: 1 };

    pub fn is_due(self, step: u32) -> bool {
        (u64::from(step) + 1).is_multiple_of(u64::from(self.every.max(1)))
    }
}
