//! Declarations of built-ins. A built-in is declared once, with the type of each argument. From that come the
//! binding of arguments, the texts of editors and the book, and a struct whose fields are the arguments.
//!
//! ```text
//! builtins! { Rollout: RolloutName, RolloutCall {
//!     /// The student's own completions.
//!     #[usage = "sample(n: 1)"]
//!     sample => Sample { n: Count, top_k: Option<Count>, temperature: Positive = 1.0 },
//! }}
//! ```
//!
//! This makes an entry of the table of built-ins, its identifier `RolloutName::Sample`, and the struct
//! `Sample { n, top_k, temperature }` in `RolloutCall::Sample`. [`super::read`] returns an
//! argument's value, of its type in [`super::types`]. `Dora as Lora` takes the same arguments as another
//! built-in. `{ .. }` takes any named arguments, which are found in its [`Call`].

use std::marker::PhantomData;

use crate::source::Span;
use crate::syntax::ast::{Argument, Block, Expr};
use mopd_experiment::Checkpointing;

use crate::check::builtins::Builtin;
use crate::check::builtins::kinds::ArgumentKind;
use crate::check::builtins::types::{ArgumentType, Typed};

/// A parameter of a built-in.
#[derive(Clone, Copy, Debug)]
pub struct BuiltinParameter {
    pub name: &'static str,
    pub takes: ArgumentKind,
    /// Whether it must be given. Required parameters come before optional ones.
    pub required: bool,
    /// The default as text, if the parameter has one.
    pub default: Option<&'static str>,
}

impl BuiltinParameter {
    /// As it stands in a call: the two sides of a divergence are one argument without a name.
    pub fn shown(&self) -> &'static str {
        shown(self.name)
    }
}

/// The name of a built-in's parameter as it stands in a call.
pub fn shown(parameter: &str) -> &str {
    if parameter == "pair" { "p || q" } else { parameter }
}

/// A call of a built-in, as it is written.
#[derive(Clone, Copy)]
pub(in crate::check) struct Call<'e> {
    pub builtin: &'static Builtin,
    pub arguments: &'e [Argument],
    pub block: Option<&'e Block>,
    pub span: Span,
}

/// An argument that was given.
pub(in crate::check) struct Arg<'e, T> {
    /// The name of the built-in; empty for a setting of a block.
    pub owner: &'static str,
    pub name: &'static str,
    pub expr: &'e Expr,
    takes: PhantomData<T>,
}

impl<T> Clone for Arg<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Arg<'_, T> {}

impl<'e, T> Arg<'e, T> {
    pub fn new(owner: &'static str, name: &'static str, expr: &'e Expr) -> Arg<'e, T> {
        Arg { owner, name, expr, takes: PhantomData }
    }

    pub fn expr(self) -> &'e Expr {
        self.expr
    }
}

/// An argument with a default.
pub(in crate::check) struct ArgOr<'e, T: Typed> {
    pub given: Option<Arg<'e, T>>,
    pub default: T::Value,
}

/// Converts the default in a declaration to the value of the argument.
pub(in crate::check) trait IntoDefault<Value> {
    fn into_default(self) -> Value;
}

impl IntoDefault<f64> for f64 {
    fn into_default(self) -> f64 {
        self
    }
}

impl IntoDefault<u32> for u32 {
    fn into_default(self) -> u32 {
        self
    }
}

impl IntoDefault<bool> for bool {
    fn into_default(self) -> bool {
        self
    }
}

impl IntoDefault<Checkpointing> for Checkpointing {
    fn into_default(self) -> Checkpointing {
        self
    }
}

impl IntoDefault<String> for &str {
    fn into_default(self) -> String {
        self.to_owned()
    }
}

/// The type of a declared parameter: `Count` is required, `Option<Count>` is optional.
pub(in crate::check) trait ParameterType {
    const TAKES: ArgumentKind;
    const REQUIRED: bool;
    type Field<'e>;

    /// `None` where a required argument is missing.
    fn field<'e>(call: &Call<'e>, name: &'static str, given: Option<&'e Expr>) -> Option<Self::Field<'e>>;
}

impl<T: ArgumentType> ParameterType for T {
    const TAKES: ArgumentKind = T::TAKES;
    const REQUIRED: bool = true;
    type Field<'e> = Arg<'e, T>;

    fn field<'e>(call: &Call<'e>, name: &'static str, given: Option<&'e Expr>) -> Option<Arg<'e, T>> {
        Some(Arg::new(call.builtin.name, name, given?))
    }
}

impl<T: ArgumentType> ParameterType for Option<T> {
    const TAKES: ArgumentKind = T::TAKES;
    const REQUIRED: bool = false;
    type Field<'e> = Option<Arg<'e, T>>;

    fn field<'e>(call: &Call<'e>, name: &'static str, given: Option<&'e Expr>) -> Option<Self::Field<'e>> {
        Some(T::field(call, name, given))
    }
}

/// The struct of a built-in's arguments.
macro_rules! arguments {
    ($name:ident { .. }) => {
        $crate::check::builtins::declare::arguments! { @ $name, None, }
    };
    ($name:ident { $($parameter:ident $($written:literal)?: $takes:ty $(= $default:expr)?),* $(,)? }) => {
        $crate::check::builtins::declare::arguments! {
            @ $name,
            Some(&[$($crate::check::builtins::declare::BuiltinParameter {
                name: $crate::check::builtins::declare::written!($parameter $($written)?),
                takes: <$takes as $crate::check::builtins::declare::ParameterType>::TAKES,
                required: $crate::check::builtins::declare::required!($takes $(, $default)?),
                default: $crate::check::builtins::declare::default!($($default)?),
            }),*]),
            $($parameter, $takes $(, $default)?;)*
        }
    };
    (@ $name:ident, $parameters:expr, $($parameter:ident, $takes:ty $(, $default:expr)?;)*) => {
        pub(in crate::check) struct $name<'e> {
            #[allow(dead_code, reason = "not everything asks for the place of its call")]
            pub call: $crate::check::builtins::declare::Call<'e>,
            $(pub $parameter: $crate::check::builtins::declare::field!('e $takes $(, $default)?),)*
        }

        impl<'e> $name<'e> {
            /// `None` where the built-in takes any named arguments.
            pub(in crate::check) const PARAMETERS: Option<
                &'static [$crate::check::builtins::BuiltinParameter],
            > = $parameters;

            #[allow(unused_mut, unused_variables)]
            pub(in crate::check) fn of(
                call: $crate::check::builtins::declare::Call<'e>,
                given: &[Option<&'e $crate::syntax::ast::Expr>],
            ) -> Option<$name<'e>> {
                let names = Self::PARAMETERS.unwrap_or_default().iter().map(|parameter| parameter.name);
                let mut given = names.zip(given.iter().copied());
                Some($name {
                    $($parameter: {
                        let (name, given) = given.next()?;
                        use $crate::check::builtins::declare::read_field;
                        read_field!(call, name, given, $takes $(, $default)?)
                    },)*
                    call,
                })
            }
        }
    };
}

macro_rules! written {
    ($parameter:ident) => {
        stringify!($parameter)
    };
    ($parameter:ident $written:literal) => {
        $written
    };
}

macro_rules! required {
    ($takes:ty) => {
        <$takes as $crate::check::builtins::declare::ParameterType>::REQUIRED
    };
    ($takes:ty, $default:expr) => {
        false
    };
}

macro_rules! default {
    () => {
        None
    };
    ($default:expr) => {
        Some(stringify!($default))
    };
}

macro_rules! field {
    ($e:lifetime $takes:ty) => { <$takes as $crate::check::builtins::declare::ParameterType>::Field<$e> };
    ($e:lifetime $takes:ty, $default:expr) => { $crate::check::builtins::declare::ArgOr<$e, $takes> };
}

macro_rules! read_field {
    ($call:ident, $name:ident, $given:ident, $takes:ty) => {
        <$takes as $crate::check::builtins::declare::ParameterType>::field(&$call, $name, $given)?
    };
    ($call:ident, $name:ident, $given:ident, $takes:ty, $default:expr) => {{
        type Optional = Option<$takes>;
        let given =
            <Optional as $crate::check::builtins::declare::ParameterType>::field(&$call, $name, $given)?;
        $crate::check::builtins::declare::ArgOr {
            given,
            default: $crate::check::builtins::declare::IntoDefault::into_default($default),
        }
    }};
}

/// Declares the built-ins of a family: see the module's documentation.
macro_rules! builtins {
    ($kind:ident: $names:ident, $calls:ident {
        $(
            $(#[doc = $doc:literal])+
            #[usage = $usage:literal]
            $name:ident => $variant:ident $({ $($parameter:tt)* })? $(as $shared:ident)?
        ),* $(,)?
    }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $names {
            $($variant),*
        }

        /// A call, with its arguments by name.
        pub(in crate::check) enum $calls<'e> {
            $($variant($variant<'e>)),*
        }

        $(
            $($crate::check::builtins::declare::arguments! { $variant { $($parameter)* } })?
            $(pub(in crate::check) type $variant<'e> = $shared<'e>;)?
        )*

        pub(super) static BUILTINS: &[$crate::check::builtins::Builtin] = &[
            $($crate::check::builtins::Builtin {
                name: stringify!($name),
                parameters: match $variant::PARAMETERS {
                    Some(parameters) => parameters,
                    None => &[],
                },
                any_names: $variant::PARAMETERS.is_none(),
                usage: $usage,
                doc: concat!($($doc),+).trim_ascii(),
                kind: $crate::check::builtins::BuiltinKind::$kind($names::$variant),
            }),*
        ];

        impl<'e> $calls<'e> {
            /// The call as it is written in the program.
            #[allow(dead_code, reason = "not everything asks for the place of its call")]
            pub(in crate::check) fn written(&self) -> $crate::check::builtins::declare::Call<'e> {
                match self {
                    $($calls::$variant(given) => given.call),*
                }
            }
        }

        impl $names {
            /// The arguments of a call. `None` where a required one is missing, which is reported.
            pub(in crate::check) fn call<'e>(
                self,
                call: $crate::check::builtins::declare::Call<'e>,
                given: &[Option<&'e $crate::syntax::ast::Expr>],
            ) -> Option<$calls<'e>> {
                Some(match self {
                    $($names::$variant => $calls::$variant($variant::of(call, given)?)),*
                })
            }
        }
    };
}

pub(in crate::check) use {arguments, builtins, default, field, read_field, required, written};
