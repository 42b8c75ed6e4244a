//! How arguments and settings are read: each type of argument by the check that knows such values.

pub mod arguments;
pub mod changes;
pub mod declared_type;
pub mod expected;
pub mod numbers;
pub mod patterns;
pub mod places;
pub mod postfix_words;
pub mod secrets;
pub mod settings;
pub mod turns;
pub mod words;

use mopd_experiment::WithOrigin;

use crate::check::builtins::declare::{Arg, ArgOr};
use crate::check::builtins::types::Typed;
use crate::check::checker::Checker;
use crate::check::values::environment::Env;

/// An argument type that the checker can read.
pub trait Reads: Typed + Sized {
    fn read(checker: &mut Checker, given: Arg<Self>, env: &Env) -> Option<Self::Value>;
}

/// Says how arguments of a type are read: `Real => |checker, given, env| real(checker, given.expr, env);`
macro_rules! reads {
    ($($name:ident => |$checker:ident, $given:ident, $env:pat_param| $read:expr);* $(;)?) => {$(
        impl $crate::check::read::Reads for $crate::check::builtins::types::$name {
            fn read(
                $checker: &mut $crate::check::checker::Checker,
                $given: $crate::check::builtins::declare::Arg<Self>,
                $env: &$crate::check::values::environment::Env,
            ) -> Option<Self::Value> {
                $read
            }
        }
    )*};
}

pub(in crate::check) use reads;

/// An argument that [`read`] accepts: required, optional, or with a default.
pub trait Readable {
    type Value;

    fn read(self, checker: &mut Checker, env: &Env) -> Option<Self::Value>;
}

impl<T: Reads> Readable for Arg<'_, T> {
    type Value = T::Value;

    fn read(self, checker: &mut Checker, env: &Env) -> Option<T::Value> {
        T::read(checker, self, env)
    }
}

impl<T: Reads> Readable for Option<Arg<'_, T>> {
    type Value = Option<T::Value>;

    fn read(self, checker: &mut Checker, env: &Env) -> Option<Self::Value> {
        match self {
            Some(given) => given.read(checker, env).map(Some),
            None => Some(None),
        }
    }
}

impl<T: Reads> Readable for ArgOr<'_, T> {
    type Value = T::Value;

    fn read(self, checker: &mut Checker, env: &Env) -> Option<T::Value> {
        match self.given {
            Some(given) => given.read(checker, env),
            None => Some(self.default),
        }
    }
}

/// The value of an argument. `None` where it is faulty, which has been reported.
pub fn read<A: Readable>(checker: &mut Checker, argument: A, env: &Env) -> Option<A::Value> {
    argument.read(checker, env)
}

/// The value of an argument, with its place.
pub fn read_with_origin<T: Reads>(
    checker: &mut Checker,
    argument: Arg<T>,
    env: &Env,
) -> Option<WithOrigin<T::Value>> {
    let value = read(checker, argument, env)?;
    Some(WithOrigin { value, origin: checker.origin(argument.expr.span) })
}
