//! Values: what expressions evaluate to, and how the checks read them: numbers, types, schedules.

pub mod environment;
pub mod recorded;
pub mod resolve;
pub mod value;
