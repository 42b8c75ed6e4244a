//! The files of an adapter, stored beside the model that it was merged into.

/// The folder of an adapter beside the model that it is merged into.
pub const FOLDER: &str = "adapter";

/// Names and contents.
pub type AdapterFiles = Vec<(&'static str, Vec<u8>)>;
