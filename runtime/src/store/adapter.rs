//! The files of an adapter, stored beside the model that it was merged into.

/// The folder of an adapter beside the model that it is merged into.
pub const FOLDER: &str = "adapter";

/// The settings of an adapter, and the field with the place of the model that it changes.
pub const CONFIG: &str = "adapter_config.json";
pub const BASE: &str = "base_model_name_or_path";

/// Names and contents.
pub type AdapterFiles = Vec<(&'static str, Vec<u8>)>;
