//! How much of a long test runs. With `MOPD_TESTS=full`, as in `./x test full`, all cases of a sweep do;
//! otherwise each day runs another part, so that as many days as there are parts run them all. Always
//! compiled: behind a feature for tests, every crate above this one would be compiled twice.

use std::time::{SystemTime, UNIX_EPOCH};

/// The number of parts that a sweep has. Odd, since cases often alternate between two kinds.
pub const PARTS: u64 = 19;

/// Which part of each sweep runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    Full,
    /// The part of this day, in days since 1970.
    Day(u64),
}

impl Extent {
    /// From `MOPD_TESTS` and `MOPD_DAY`; the day is today's unless `MOPD_DAY` repeats another.
    ///
    /// # Panics
    ///
    /// If one of them is set to anything else than `full` or a number.
    #[expect(clippy::disallowed_methods, reason = "tests alone call it")]
    pub fn from_environment() -> Extent {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        Extent::parse(variable("MOPD_TESTS").as_deref(), variable("MOPD_DAY").as_deref())
    }

    fn parse(tests: Option<&str>, day: Option<&str>) -> Extent {
        match (tests, day) {
            (Some("full"), None) => Extent::Full,
            (None, Some(day)) => Extent::Day(day.parse().expect("MOPD_DAY is a number of days since 1970")),
            (None, None) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
                Extent::Day(since.as_secs() / 86_400)
            }
            _ => panic!("MOPD_TESTS is `full` or not set, and MOPD_DAY is for runs that are not full"),
        }
    }

    /// The cases of a sweep that run. Says how to repeat them, for the output of a test that fails.
    pub fn cases<T>(self, all: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        let (skipped, step) = match self {
            Extent::Full => (0, 1),
            Extent::Day(day) => {
                println!("part {} of {PARTS} of a sweep: MOPD_DAY={day} repeats it", day % PARTS + 1);
                (day % PARTS, PARTS)
            }
        };
        all.skip(skipped as usize).step_by(step as usize)
    }

    /// All alternatives, or the one whose turn it is today. Begins with another one for each `test`.
    pub fn one_of<T>(self, test: usize, all: Vec<T>) -> Vec<T> {
        match self {
            Extent::Full => all,
            Extent::Day(day) => {
                println!("one of {} alternatives: MOPD_DAY={day} repeats it", all.len());
                let chosen = (day as usize + test) % all.len();
                all.into_iter().skip(chosen).take(1).collect()
            }
        }
    }

    /// The least count to expect of a part, where all cases have at least `count`. Half of its share, since
    /// parts differ.
    pub fn least(self, count: usize) -> usize {
        match self {
            Extent::Full => count,
            Extent::Day(_) => count / PARTS as usize / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_days_run_every_case_once() {
        let mut ran: Vec<u32> = (500..500 + PARTS).flat_map(|day| Extent::Day(day).cases(0..1_003)).collect();
        ran.sort_unstable();
        assert_eq!(ran, (0..1_003).collect::<Vec<u32>>());
        assert_eq!(Extent::Full.cases(0..1_003).count(), 1_003);
        assert!(Extent::Day(7).cases(0..1_003).count() <= 53);
    }

    #[test]
    fn each_day_runs_one_alternative() {
        let days: Vec<u32> = (8..12).flat_map(|day| Extent::Day(day).one_of(0, vec![1, 2, 3, 4])).collect();
        assert_eq!(days, [1, 2, 3, 4]);
        assert_eq!(Extent::Day(8).one_of(3, vec![1, 2, 3, 4]), [4]);
        assert_eq!(Extent::Full.one_of(3, vec![1, 2]), [1, 2]);
    }

    #[test]
    fn the_environment_says_how_much() {
        assert_eq!(Extent::parse(Some("full"), None), Extent::Full);
        assert_eq!(Extent::parse(None, Some("20786")), Extent::Day(20_786));
        assert!(matches!(Extent::parse(None, None), Extent::Day(day) if day > 20_000));
        assert!(std::panic::catch_unwind(|| Extent::parse(Some("fulll"), None)).is_err());
        assert!(std::panic::catch_unwind(|| Extent::parse(Some("full"), Some("1"))).is_err());
    }
}
