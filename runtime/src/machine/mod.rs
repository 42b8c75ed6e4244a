//! What the machine is: its devices, its memory, and how it computes.

pub mod arithmetic;
pub mod cores;
pub mod device;
pub mod memory;
pub mod place;
pub mod transfer;
