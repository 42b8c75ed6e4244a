//! Declarations of blocks of settings, such as `eval name { ... }`. A setting is declared once, with its type
//! and its default. From that come the table of keys that editors and the book show, and a struct that has a
//! field for each setting as it is written.
//!
//! ```text
//! settings! {
//!     EVAL => EvalBlock {
//!         /// Completions of each prompt.
//!         samples: Count,
//!         /// Top-k sampling: draws from this many entries; off by default.
//!         top_k: Option<Count>,
//!     }
//! }
//! ```
//!
//! A whole number that counts something of its own has its bound here too: `#[at_most(65_536, "...")]`.
//!
//! [`super::read`] returns a setting's value, as it does that of an argument of a built-in. A
//! required setting that is missing is reported when it is read.

use super::declare::Arg;
use super::kinds::SettingKey;
use super::types::ArgumentType;
use crate::check::builtins::block_settings::{BlockSettings, MissingSetting};

/// A block whose settings are declared.
pub(in crate::check) trait DeclaredBlock<'e> {
    const KEYS: &'static [SettingKey];

    fn of(settings: &BlockSettings<'e>) -> Self;
}

/// A setting that must be written.
pub(in crate::check) struct Required<'e, T> {
    pub given: Option<Arg<'e, T>>,
    pub missing: Option<MissingSetting>,
}

/// The type of a declared setting: `Count` is required, `Option<Count>` is optional.
pub(in crate::check) trait SettingType {
    type Field<'e>;

    fn field<'e>(settings: &BlockSettings<'e>, key: &'static str) -> Self::Field<'e>;
}

impl<T: ArgumentType> SettingType for T {
    type Field<'e> = Required<'e, T>;

    fn field<'e>(settings: &BlockSettings<'e>, key: &'static str) -> Required<'e, T> {
        Required { given: settings.argument(key), missing: settings.missing(key) }
    }
}

impl<T: ArgumentType> SettingType for Option<T> {
    type Field<'e> = Option<Arg<'e, T>>;

    fn field<'e>(settings: &BlockSettings<'e>, key: &'static str) -> Option<Arg<'e, T>> {
        settings.argument(key)
    }
}

/// The table of a block's keys.
macro_rules! keys {
    ($table:ident {
        $(
            $(#[doc = $doc:literal])+
            $(#[at_most($most:literal, $because:literal)])?
            $key:ident: $takes:ty $(= $default:expr)?
        ),* $(,)?
    }) => {
        pub const $table: &[$crate::check::builtins::kinds::SettingKey] =
            &[$($crate::check::builtins::kinds::SettingKey {
                name: stringify!($key),
                required: $crate::check::builtins::declare::required!($takes $(, $default)?),
                takes: <$takes as $crate::check::builtins::declare::ParameterType>::TAKES,
                doc: concat!($($doc),+).trim_ascii(),
                bound: $crate::check::builtins::declare_settings::bound!($key $($most, $because)?),
            }),*];
    };
}

/// The bound of a key, if it is declared with one.
macro_rules! bound {
    ($key:ident) => {
        None
    };
    ($key:ident $most:literal, $because:literal) => {
        Some(&$crate::check::builtins::kinds::Bound {
            settings: &[stringify!($key)],
            most: $most,
            because: $because,
        })
    };
}

/// Declares blocks: see the module's documentation.
macro_rules! settings {
    ($(
        $table:ident => $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[at_most($most:literal, $because:literal)])?
                $key:ident: $takes:ty $(= $default:expr)?
            ),* $(,)?
        }
    )*) => {$(
        $crate::check::builtins::declare_settings::keys! {
            $table { $($(#[doc = $doc])+ $(#[at_most($most, $because)])? $key: $takes $(= $default)?),* }
        }

        pub(in crate::check) struct $name<'e> {
            $(pub $key: $crate::check::builtins::declare_settings::setting!(@type 'e $takes $(, $default)?),)*
        }

        impl<'e> $crate::check::builtins::declare_settings::DeclaredBlock<'e> for $name<'e> {
            const KEYS: &'static [$crate::check::builtins::kinds::SettingKey] = $table;

            fn of(settings: &$crate::check::builtins::block_settings::BlockSettings<'e>) -> $name<'e> {
                $name {
                    $($key: $crate::check::builtins::declare_settings::setting!(
                        @value settings, stringify!($key), $takes $(, $default)?
                    ),)*
                }
            }
        }
    )*};
}

/// The type of a setting's field, and its value in a block.
macro_rules! setting {
    (@type $e:lifetime $takes:ty) => {
        <$takes as $crate::check::builtins::declare_settings::SettingType>::Field<$e>
    };
    (@type $e:lifetime $takes:ty, $default:expr) => { $crate::check::builtins::declare::ArgOr<$e, $takes> };
    (@value $settings:ident, $key:expr, $takes:ty) => {
        <$takes as $crate::check::builtins::declare_settings::SettingType>::field($settings, $key)
    };
    (@value $settings:ident, $key:expr, $takes:ty, $default:expr) => {
        $crate::check::builtins::declare::ArgOr {
            given: $settings.argument($key),
            default: $crate::check::builtins::declare::IntoDefault::into_default($default),
        }
    };
}

pub(in crate::check) use {bound, keys, setting, settings};
