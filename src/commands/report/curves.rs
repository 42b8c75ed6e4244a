//! The series of `metrics.parquet`, reduced to the size of a page: means over steps, and the range over
//! seeds.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::Rounded;
use crate::metrics::{
    LearnerTurns, NAMED, OF_DOMAIN, OF_STEP, REWARD_PART, domain, gathered, is_share, number, totals_of_steps,
};
use crate::run_folder::ColumnTable;
use crate::table::distinct;

const OF_TEACHER: [&str; 2] = ["divergence", "divergence_floor"];

/// One GiB in bytes.
const GIB: f64 = (1u64 << 30) as f64;

/// The most numbers of all series of a page.
const NUMBERS: usize = 100_000;
const FEWEST: usize = 12;
const MOST: usize = 240;

/// The curves of a stage.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StageCurves {
    pub steps: u32,
    pub seeds: Vec<u64>,
    /// The trained domains, once for each set of completions.
    pub domains: Vec<String>,
    /// The teachers, where the data chooses between them: then a share is not that of a domain.
    pub teachers: Vec<String>,
    /// The steps of the points: each is the middle of the steps that its point averages.
    pub at: Vec<Rounded>,
    /// Whether every step has a point.
    pub whole: bool,
    /// The training time up to each point, and the tokens of completions trained on; `None` where a step
    /// lacks the number.
    pub elapsed_seconds: Option<ElapsedAxis>,
    pub elapsed_tokens: Option<ElapsedAxis>,
    pub series: Vec<Series>,
}

/// The positions of points on another axis than steps: by seed, and the mean over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ElapsedAxis {
    pub mean: Vec<Rounded>,
    pub by_seed: Vec<Vec<Rounded>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    pub metric: Cow<'static, str>,
    pub by: CurveBreakdown,
    /// The name of the domain or teacher. Of numbers of the whole step, the turn where models learn in turns;
    /// otherwise empty.
    pub of: String,
    pub mean: Vec<Option<Rounded>>,
    /// The lowest and the highest seed's value, where there are several seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<Vec<Option<Rounded>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<Vec<Option<Rounded>>>,
    /// The values by seed, where there are several, and enough room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_seed: Vec<Vec<Option<Rounded>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CurveBreakdown {
    Domain,
    Teacher,
    Step,
}

/// A number of a row's step, and its weight.
struct CurvePoint {
    row: usize,
    value: Option<f64>,
    weight: Option<f64>,
}

/// The sum and the weight of a mean.
#[derive(Clone, Copy, Default)]
struct WeightedMean {
    sum: f64,
    weight: f64,
}

impl WeightedMean {
    fn add(&mut self, value: f64, weight: f64) {
        self.sum += value * weight;
        self.weight += weight;
    }

    fn value(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// The curves by stage; the page has this many `runs`.
pub fn curves(metrics: &ColumnTable, turns: &LearnerTurns, runs: usize) -> BTreeMap<String, StageCurves> {
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for row in 0..metrics.rows() {
        rows.entry(metrics.text("stage", row)).or_default().push(row);
    }
    // Nearly all series have a mean, a range, and one series per seed.
    let domains = |rows: &[usize]| distinct(rows.iter().map(|row| domain(metrics, *row))).len();
    let turns_of = |rows: &[usize]| distinct(rows.iter().map(|row| turns.of_row(metrics, *row))).len();
    let there = |rows: &[usize], names: &[&str]| {
        let has = |name: &&&str| rows.iter().any(|row| metrics.number(name, *row).is_some());
        names.iter().filter(has).count()
    };
    let series: usize = rows
        .values()
        .map(|rows| {
            domains(rows) * (there(rows, &OF_DOMAIN) + there(rows, &OF_TEACHER))
                + turns_of(rows) * there(rows, &OF_STEP)
                + there(rows, &["tokens"])
        })
        .sum();
    let seeds = distinct((0..metrics.rows()).map(|row| metrics.whole("seed", row))).len();
    let room = |numbers: usize| NUMBERS / (numbers * series.max(1) * runs);
    // Without room even for the fewest points, single seeds are left out.
    let by_seed = room(3 + seeds) >= FEWEST;
    let points = room(if by_seed { 3 + seeds } else { 3 }).clamp(FEWEST, MOST);
    rows.into_iter()
        .map(|(stage, rows)| (stage.to_owned(), of_stage(metrics, turns, &rows, points, by_seed)))
        .collect()
}

/// The curves of a stage, from its rows.
fn of_stage(
    metrics: &ColumnTable,
    turns: &LearnerTurns,
    rows: &[usize],
    points: usize,
    by_seed: bool,
) -> StageCurves {
    let steps = rows.iter().map(|row| metrics.whole("step", *row) as usize + 1).max().unwrap_or(0);
    let points = points.min(steps);
    let seeds = distinct(rows.iter().map(|row| metrics.whole("seed", *row)));
    let domains = distinct(rows.iter().map(|row| domain(metrics, *row)));
    let teachers = distinct(rows.iter().map(|row| metrics.text("teacher", *row)));
    let teachers: Vec<&str> = teachers.into_iter().filter(|teacher| !teacher.is_empty()).collect();
    let stage = StageRows { metrics, turns, rows, steps, points, seeds, by_seed };
    let of_domains = gathered(metrics, rows.iter().copied(), "domain");
    let routed = of_domains.len() < rows.len();
    let mut series = stage.of_domains(&of_domains, &domains);
    if routed {
        series.extend(stage.shares_of_teachers(&teachers));
    }
    series.extend(stage.of_teachers(&teachers));
    series.extend(stage.of_steps());
    let in_turns = turns.first_rows(metrics, rows.iter().copied()).into_iter();
    let first = |point: usize| (point * steps).div_ceil(points);
    StageCurves {
        steps: steps as u32,
        domains,
        teachers: if routed { teachers.into_iter().map(str::to_owned).collect() } else { Vec::new() },
        at: (0..points).map(|point| Rounded((first(point) + first(point + 1) - 1) as f64 / 2.0)).collect(),
        whole: points == steps,
        elapsed_seconds: stage.elapsed(in_turns.map(|row| (row, metrics.number("seconds", row)))),
        elapsed_tokens: stage.elapsed(rows.iter().map(|row| (*row, tokens_of(metrics, *row)))),
        series,
        seeds: stage.seeds,
    }
}

/// The rows of a stage, and the points that its series are reduced to.
struct StageRows<'a> {
    metrics: &'a ColumnTable,
    turns: &'a LearnerTurns,
    rows: &'a [usize],
    steps: usize,
    points: usize,
    seeds: Vec<u64>,
    /// Whether there is room for a series per seed.
    by_seed: bool,
}

impl StageRows<'_> {
    fn of_domains(&self, of_domains: &[Vec<usize>], domains: &[String]) -> Vec<Series> {
        let metrics = self.metrics;
        let steps = self.of_steps_and_terms();
        let mut found = Vec::new();
        let [reward, others @ ..] = OF_DOMAIN;
        for metric in std::iter::once(reward).chain(metrics.columns(REWARD_PART)).chain(others) {
            for of in domains {
                if is_share(metric) {
                    found.extend(self.share_of_domain(metric, of, &steps));
                    continue;
                }
                let own = of_domains.iter().filter(|rows| domain(metrics, rows[0]) == *of);
                let values = own.map(|rows| CurvePoint {
                    row: rows[0],
                    value: number(metrics, metric, rows),
                    weight: Some(1.0),
                });
                found.extend(self.series(metric.to_owned().into(), CurveBreakdown::Domain, of, values));
            }
        }
        found
    }

    fn share_of_domain(&self, metric: &str, of: &str, steps: &[Vec<usize>]) -> Option<Series> {
        let metrics = self.metrics;
        let first = self.rows.iter().find(|row| domain(metrics, **row) == of)?;
        let terms = metrics.text("terms", *first);
        // It is a share of the completions of the same terms.
        let own = steps.iter().filter(|rows| metrics.text("terms", rows[0]) == terms);
        let values = self.shares(metric, own, |row| domain(metrics, row) == of);
        self.series(metric.to_owned().into(), CurveBreakdown::Domain, of, values)
    }

    /// The share of each teacher in a step, where the data chooses between them.
    fn shares_of_teachers(&self, teachers: &[&str]) -> Vec<Series> {
        let steps = self.of_steps_and_terms();
        let mut found = Vec::new();
        for metric in OF_DOMAIN.into_iter().filter(|metric| is_share(metric)) {
            for teacher in teachers {
                let values =
                    self.shares(metric, steps.iter(), |row| self.metrics.text("teacher", row) == *teacher);
                found.extend(self.series(metric.into(), CurveBreakdown::Teacher, teacher, values));
            }
        }
        found
    }

    fn of_steps_and_terms(&self) -> Vec<Vec<usize>> {
        gathered(self.metrics, self.rows.iter().copied(), "stage")
    }

    /// The share of some rows in each step: 0 where a step has no such row, or one whose completions were all
    /// left out.
    fn shares<'s>(
        &'s self,
        metric: &'s str,
        steps: impl Iterator<Item = &'s Vec<usize>>,
        is_own: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = CurvePoint> {
        let share = |row: &usize| self.metrics.number(metric, *row);
        steps.map(move |rows| {
            let own = rows.iter().filter(|row| is_own(**row)).filter_map(share).sum();
            let value = rows.iter().any(|row| share(row).is_some()).then_some(own);
            CurvePoint { row: rows[0], value, weight: Some(1.0) }
        })
    }

    /// In a mean over several domains of a teacher, every token has the same weight.
    fn of_teachers(&self, teachers: &[&str]) -> Vec<Series> {
        let metrics = self.metrics;
        let mut found = Vec::new();
        for metric in OF_TEACHER {
            for teacher in teachers {
                let values = of_teacher(metrics, self.rows, teacher).map(|row| {
                    let weight = metrics.number("token_share", row).filter(|share| *share > 0.0);
                    CurvePoint { row, value: metrics.number(metric, row), weight }
                });
                found.extend(self.series(metric.into(), CurveBreakdown::Teacher, teacher, values));
            }
        }
        found
    }

    /// Numbers of the whole step, or of each of its turns: every row of it has the same.
    fn of_steps(&self) -> Vec<Series> {
        let StageRows { metrics, turns, rows, .. } = *self;
        let names = distinct(rows.iter().map(|row| turns.of_row(metrics, *row)));
        let of = |name: Cow<'static, str>, unit: f64| {
            let of_turn = |turn: &str| {
                let own = rows.iter().filter(|row| turns.of_row(metrics, **row) == turn);
                let values = own.map(|&row| CurvePoint {
                    row,
                    value: metrics.number(&name, row).map(|value| value / unit),
                    weight: Some(1.0),
                });
                self.series(name.clone(), CurveBreakdown::Step, turn, values)
            };
            names.iter().filter_map(|turn| of_turn(turn)).collect::<Vec<Series>>()
        };
        // The speed over several steps: tokens by time, so each step is weighted by its time.
        let totals = totals_of_steps(metrics, rows.iter().copied(), turns);
        let speeds = totals.into_values().map(|step| CurvePoint {
            row: step.row,
            value: step.tokens_per_second(),
            weight: step.seconds,
        });
        let speed = self.series("tokens_per_second".into(), CurveBreakdown::Step, "", speeds);
        let named = NAMED.iter().flat_map(|prefix| metrics.columns(prefix));
        OF_STEP
            .iter()
            .flat_map(|&name| of(name.into(), if name == "memory" { GIB } else { 1.0 }))
            .chain(speed)
            .chain(named.flat_map(|name| of(name.to_owned().into(), 1.0)))
            .collect()
    }

    /// `None` where no step has the number.
    fn series(
        &self,
        metric: Cow<'static, str>,
        by: CurveBreakdown,
        of: &str,
        values: impl Iterator<Item = CurvePoint>,
    ) -> Option<Series> {
        let StageRows { metrics, steps, points, ref seeds, by_seed, .. } = *self;
        let mut means = vec![vec![WeightedMean::default(); points]; seeds.len()];
        for CurvePoint { row, value, weight } in values {
            if let (Some(value), Some(weight)) = (value, weight) {
                let point = metrics.whole("step", row) as usize * points / steps;
                means[self.seed_of(row)][point].add(value, weight);
            }
        }
        let of_seeds = |point: usize| means.iter().filter_map(move |seed| seed[point].value());
        let over = |join: fn(f64, f64) -> f64| {
            (0..points).map(|point| of_seeds(point).reduce(join).map(Rounded)).collect::<Vec<_>>()
        };
        let mean = (0..points).map(|point| {
            let mut mean = WeightedMean::default();
            of_seeds(point).for_each(|value| mean.add(value, 1.0));
            mean.value().map(Rounded)
        });
        let mean: Vec<_> = mean.collect();
        let several = seeds.len() > 1;
        let of_seed =
            |seed: &Vec<WeightedMean>| seed.iter().map(|point| point.value().map(Rounded)).collect();
        mean.iter().any(Option::is_some).then(|| Series {
            metric,
            by,
            of: of.to_owned(),
            mean,
            low: several.then(|| over(f64::min)),
            high: several.then(|| over(f64::max)),
            by_seed: if by_seed && several { means.iter().map(of_seed).collect() } else { Vec::new() },
        })
    }

    /// A sum over the steps of each seed, at the middle of the steps of each point. The number of a step is
    /// the sum of those of its rows here. `None` where one of them, or a step, is missing.
    fn elapsed(&self, rows: impl Iterator<Item = (usize, Option<f64>)>) -> Option<ElapsedAxis> {
        let StageRows { metrics, steps, points, ref seeds, .. } = *self;
        let mut of_steps = vec![vec![None; steps]; seeds.len()];
        for (row, number) in rows {
            let step: &mut Option<f64> =
                &mut of_steps[self.seed_of(row)][metrics.whole("step", row) as usize];
            *step = Some(step.unwrap_or(0.0) + number?);
        }
        let at_points = |of_seed: Vec<Option<f64>>| {
            let mut means = vec![WeightedMean::default(); points];
            let mut sum = 0.0;
            for (step, number) in of_seed.into_iter().enumerate() {
                sum += number?;
                means[step * points / steps].add(sum, 1.0);
            }
            means.into_iter().map(WeightedMean::value).collect::<Option<Vec<f64>>>()
        };
        let by_seed = of_steps.into_iter().map(at_points).collect::<Option<Vec<Vec<f64>>>>()?;
        let mean = |point: usize| by_seed.iter().map(|seed| seed[point]).sum::<f64>() / seeds.len() as f64;
        Some(ElapsedAxis {
            mean: (0..points).map(mean).map(Rounded).collect(),
            by_seed: by_seed.iter().map(|seed| seed.iter().copied().map(Rounded).collect()).collect(),
        })
    }

    /// The index of a row's seed among all seeds.
    fn seed_of(&self, row: usize) -> usize {
        let seed = self.metrics.whole("seed", row);
        self.seeds.iter().position(|known| *known == seed).expect("every row's seed was counted")
    }
}

/// The trained tokens of a row; a row whose completions were all left out has no number, and counts as 0.
fn tokens_of(metrics: &ColumnTable, row: usize) -> Option<f64> {
    let nothing = || metrics.number("prompt_share", row) == Some(0.0);
    metrics.number("tokens", row).or_else(|| nothing().then_some(0.0))
}

fn of_teacher<'a>(
    metrics: &'a ColumnTable,
    rows: &'a [usize],
    teacher: &'a str,
) -> impl Iterator<Item = usize> + 'a {
    rows.iter().copied().filter(move |row| metrics.text("teacher", *row) == teacher)
}

#[cfg(test)]
mod tests {
    use mopd_plan::events::{ColumnValues, ReadColumn};

    use super::*;

    /// Two domains, two seeds, the reward of a step being `seed + step`.
    fn metrics(steps: u64) -> ColumnTable {
        let (mut seeds, mut step_numbers, mut rewards, mut domains, mut teachers) =
            (vec![], vec![], vec![], vec![], vec![]);
        for seed in [1, 2] {
            for step in 0..steps {
                for domain in ["sort", "reverse"] {
                    seeds.push(Some(seed));
                    step_numbers.push(Some(step));
                    rewards.push((domain == "sort").then_some((seed + step) as f64));
                    domains.push(Some(domain.to_owned()));
                    teachers.push(Some("both".to_owned()));
                }
            }
        }
        let rows = seeds.len();
        let shares = (0..rows).map(|row| Some(if row % 2 == 0 { 0.75 } else { 0.25 })).collect();
        let divergences = (0..rows).map(|row| Some((row % 2) as f64)).collect();
        ColumnTable::from(vec![
            column("seed", ColumnValues::Wholes(seeds)),
            column("step", ColumnValues::Wholes(step_numbers)),
            column("stage", ColumnValues::Texts(vec![Some("student".to_owned()); rows])),
            column("domain", ColumnValues::Texts(domains)),
            column("teacher", ColumnValues::Texts(teachers)),
            column("reward", ColumnValues::Numbers(rewards)),
            column("token_share", ColumnValues::Numbers(shares)),
            column("divergence", ColumnValues::Numbers(divergences)),
            column("tokens", ColumnValues::Numbers(vec![Some(2.0); rows])),
            column("seconds", ColumnValues::Numbers(vec![Some(0.5); rows])),
            column("memory", ColumnValues::Wholes(vec![Some(3 << 29); rows])),
            column(
                "state.beta",
                ColumnValues::Numbers((0..rows).map(|row| Some((row / 2) as f64)).collect()),
            ),
        ])
    }

    fn reward_seeds(curves: &StageCurves) -> Vec<Vec<f64>> {
        let reward = curves.series.iter().find(|series| series.metric == "reward").unwrap();
        let of_seed = |seed: &Vec<Option<Rounded>>| seed.iter().map(|value| value.unwrap().0).collect();
        reward.by_seed.iter().map(of_seed).collect()
    }

    #[test]
    fn a_short_stage_has_every_step() {
        let all = curves(&metrics(3), &LearnerTurns::default(), 1);
        let student = &all["student"];
        assert!(student.whole && student.seeds == [1, 2] && student.domains == ["sort", "reverse"]);
        assert_eq!(reward_seeds(student), [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]);
        // On a full page, single seeds are left out first.
        let crowded = &curves(&metrics(3), &LearnerTurns::default(), 10_000)["student"];
        assert!(crowded.at.len() == 3 && reward_seeds(crowded).is_empty());
        // The tokens of two domains add up to those of a step; its time is the same in both rows.
        assert_eq!(student.elapsed_tokens.as_ref().unwrap().mean, [4.0, 8.0, 12.0].map(Rounded));
        assert_eq!(student.elapsed_seconds.as_ref().unwrap().by_seed, [[0.5, 1.0, 1.5].map(Rounded); 2]);
        // As in event files: both domains' tokens divided by the time of the step.
        let of_step = |name: &str| {
            let found = student
                .series
                .iter()
                .filter(|series| series.metric == name && series.by == CurveBreakdown::Step);
            found.map(|series| series.mean.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of_step("tokens_per_second"), [[Some(Rounded(8.0)); 3]]);
        assert_eq!(of_step("memory"), [[Some(Rounded(1.5)); 3]]);
        let rewards: Vec<_> = student.series.iter().filter(|series| series.metric == "reward").collect();
        // `reverse` has none.
        let [reward] = rewards.as_slice() else { panic!("{rewards:?}") };
        // Three steps per seed.
        let beta = student.series.iter().find(|series| series.metric == "state.beta").unwrap();
        assert_eq!((beta.by, beta.of.as_str()), (CurveBreakdown::Step, ""));
        assert_eq!(beta.mean, [1.5, 2.5, 3.5].map(|value| Some(Rounded(value))));
        assert_eq!(reward.mean, [1.5, 2.5, 3.5].map(|value| Some(Rounded(value))));
        assert_eq!(reward.low.as_ref().unwrap()[0], Some(Rounded(1.0)));
        assert_eq!(reward.high.as_ref().unwrap()[2], Some(Rounded(4.0)));
    }

    /// Each turn has numbers of its own; their times add up to that of the step.
    #[test]
    fn models_that_learn_in_turns_have_curves_of_their_own() {
        let (metrics, turns) = crate::metrics::pair();
        let pair = curves(&metrics, &turns, 1).remove("pair").expect("the stage");
        let of = |name: &str| {
            let own = pair.series.iter().filter(|series| series.metric == name);
            own.map(|series| (series.of.as_str(), series.mean.clone())).collect::<Vec<_>>()
        };
        let losses = [
            ("follow", vec![Some(Rounded(0.5)), Some(Rounded(0.25))]),
            ("lead", vec![Some(Rounded(4.0)), None]),
        ];
        assert_eq!(of("loss"), losses);
        assert_eq!(of("tokens_per_second"), [("", vec![Some(Rounded(9.6)), Some(Rounded(8.0))])]);
        assert_eq!(pair.elapsed_seconds.expect("every turn tells its time").mean, [2.5, 3.5].map(Rounded));
    }

    #[test]
    fn a_long_stage_is_thinned_to_means() {
        let all = curves(&metrics(1000), &LearnerTurns::default(), 1);
        let student = &all["student"];
        assert!(!student.whole && student.at.len() == MOST && student.steps == 1000);
        assert_eq!(student.at[0], Rounded(2.0), "the middle of steps 0 to 4");
        let reward = student.series.iter().find(|series| series.metric == "reward").unwrap();
        assert_eq!(reward.mean[0], Some(Rounded(3.5)));
    }

    /// Two steps: in the first there is no row of `last`, and in the second all samples of it were dropped.
    fn gaps() -> Vec<ReadColumn> {
        vec![
            column("seed", ColumnValues::Wholes(vec![Some(1); 3])),
            column("step", ColumnValues::Wholes([0, 1, 1].map(Some).to_vec())),
            column("stage", texts(["student"; 3])),
            column("domain", texts(["first", "first", "last"])),
            column("prompt_share", ColumnValues::Numbers([1.0, 1.0, 0.0].map(Some).to_vec())),
            column("signal_share", ColumnValues::Numbers(vec![Some(1.0), Some(1.0), None])),
            column("entropy", ColumnValues::Numbers(vec![Some(2.0), Some(2.0), None])),
            column("tokens", ColumnValues::Numbers(vec![Some(4.0), Some(3.0), None])),
        ]
    }

    fn column(name: &str, values: ColumnValues) -> ReadColumn {
        ReadColumn { name: name.to_owned(), values }
    }

    fn texts(values: [&str; 3]) -> ColumnValues {
        ColumnValues::Texts(values.map(|text| Some(text.to_owned())).to_vec())
    }

    fn means(columns: Vec<ReadColumn>, metric: &str, of: &str) -> Option<Vec<Option<Rounded>>> {
        let found = curves(&ColumnTable::from(columns), &LearnerTurns::default(), 1)
            .remove("student")
            .expect("the stage");
        let mut found = found.series.into_iter();
        found.find(|one| one.metric == metric && one.of == of).map(|one| one.mean)
    }

    #[test]
    fn a_domain_that_is_not_in_a_step_has_no_share_of_it() {
        let all = |share: f64| Some(vec![Some(Rounded(share)); 2]);
        for metric in ["prompt_share", "signal_share"] {
            assert_eq!([means(gaps(), metric, "first"), means(gaps(), metric, "last")], [all(1.0), all(0.0)]);
        }
        // A missing number is not a share, and a number other than a share is not 0.
        assert_eq!(means(gaps(), "token_share", "last"), None);
        assert_eq!(means(gaps(), "entropy", "last"), None);
        // Terms with completions of their own have shares of their own rows.
        let mut terms = gaps();
        terms.retain(|column| column.name != "domain");
        terms.extend([column("domain", texts(["first"; 3])), column("terms", texts(["a", "a", "b"]))]);
        assert_eq!(means(terms.clone(), "prompt_share", "first (a)"), all(1.0));
        let of_b = Some(vec![None, Some(Rounded(0.0))]);
        assert_eq!(means(terms, "prompt_share", "first (b)"), of_b, "the first step has no such completions");
    }

    #[test]
    fn a_row_that_was_left_with_nothing_has_no_tokens() {
        let tokens = curves(&ColumnTable::from(gaps()), &LearnerTurns::default(), 1)
            .remove("student")
            .unwrap()
            .elapsed_tokens;
        assert_eq!(tokens.expect("every step tells its tokens").mean, [4.0, 7.0].map(Rounded));
        // In any other row, a missing number is unknown.
        let mut columns = gaps();
        columns.retain(|column| column.name != "prompt_share");
        assert!(
            curves(&ColumnTable::from(columns), &LearnerTurns::default(), 1)["student"]
                .elapsed_tokens
                .is_none()
        );
    }

    #[test]
    fn a_teacher_of_two_domains_is_judged_token_by_token() {
        let all = curves(&metrics(1), &LearnerTurns::default(), 1);
        let divergence = all["student"]
            .series
            .iter()
            .find(|series| series.metric == "divergence" && series.by == CurveBreakdown::Teacher);
        assert_eq!(divergence.unwrap().mean, [Some(Rounded(0.25))]);
    }
}
