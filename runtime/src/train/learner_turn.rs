//! When one of the models of a stage learns.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnerTurn<'a> {
    /// The name of its turn, where the stage trains several models.
    pub name: Option<&'a str>,
    /// Its place in a step.
    pub place: u32,
    /// It learns once in `every` steps, in the last of them.
    pub every: u32,
}

impl LearnerTurn<'_> {
    /// The turn of a model that is trained alone.
    pub const ALONE: LearnerTurn<'static> = LearnerTurn { name: None, place: 0, every: 1 };

    pub(super) fn comes(self, step: u32) -> bool {
        (u64::from(step) + 1).is_multiple_of(u64::from(self.every.max(1)))
    }
}
