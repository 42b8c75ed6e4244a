//! The machine: its devices, its memory, and its arithmetic.

pub mod arithmetic;
pub mod cores;
pub mod device;
pub mod memory;
pub mod place;
pub mod transfer;
