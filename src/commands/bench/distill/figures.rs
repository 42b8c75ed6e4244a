//! The measured times, compared with their lower bound.

use comfy_table::CellAlignment;
use mopd_plan::Dtype;
use mopd_plan::events::{MachineRates, Phase, Seconds, StepPart};
use serde_json::{Value, json};

use super::{RunMeasurements, StepTimes};
use crate::args::BenchDistillArgs;
use crate::commands::bench::{median, plain_table};
use crate::figures;

/// The speed of a machine, and the work of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    pub rates: MachineRates,
    pub phases: Vec<Phase>,
    /// The mean tokens of a prompt.
    pub prompt: f64,
    /// The CPU cores of the stage.
    pub threads: u32,
}

impl Roofline {
    /// The higher rates of two measurements.
    pub fn faster(self, other: &Roofline) -> Roofline {
        let rates = MachineRates {
            float32: self.rates.float32.max(other.rates.float32),
            bfloat16: self.rates.bfloat16.max(other.rates.bfloat16),
            memory: self.rates.memory.max(other.rates.memory),
        };
        Roofline { rates, ..self }
    }

    /// The least time of each part.
    fn seconds(&self, dtype: Dtype) -> Seconds {
        let of = |part: StepPart| {
            let phases = self.phases.iter().filter(|phase| phase.part == part);
            phases.map(|phase| phase.seconds(self.rates, dtype)).sum()
        };
        Seconds {
            rollout: of(StepPart::Rollout),
            scoring: of(StepPart::Scoring),
            update: of(StepPart::Update),
        }
    }
}

pub struct DistillReport<'a> {
    arguments: &'a BenchDistillArgs,
    dtype: Dtype,
    floor: &'a Roofline,
    seen: &'a RunMeasurements,
}

/// Selects one of a step's times.
type PhaseTime = fn(&Seconds) -> f64;

/// The parts of a step and the total, by name.
const PARTS: [(&str, PhaseTime); 4] = [
    ("rollout", |seconds| seconds.rollout),
    ("scoring", |seconds| seconds.scoring),
    ("update", |seconds| seconds.update),
    ("step", Seconds::sum),
];

impl<'a> DistillReport<'a> {
    pub fn new(
        arguments: &'a BenchDistillArgs,
        floor: &'a Roofline,
        seen: &'a RunMeasurements,
    ) -> DistillReport<'a> {
        DistillReport { arguments, dtype: arguments.dtype.into(), floor, seen }
    }

    /// The steps after the first.
    fn counted(&self) -> &[StepTimes] {
        &self.seen.steps[1.min(self.seen.steps.len())..]
    }

    /// The median over the counted steps; the total is a median of whole steps, not a sum of medians.
    fn median(&self, of: impl Fn(&StepTimes) -> f64) -> f64 {
        median(self.counted().iter().map(of).collect())
    }

    pub fn table(&self) -> String {
        let mut table = plain_table();
        table.set_header(["part", "seconds", "tokens a second", "floor", "times the floor"]);
        let floor = self.floor.seconds(self.dtype);
        for (name, of) in PARTS {
            let (seconds, floor) = (self.median(|step| of(&step.seconds)), of(&floor));
            let rate = self.median(|step| step.tokens as f64 / of(&step.seconds));
            let (seconds_shown, floor_shown) = (shown(seconds), shown(floor));
            table.add_row([
                name.to_owned(),
                seconds_shown,
                format!("{rate:.0}"),
                floor_shown,
                format!("{:.2}", seconds / floor),
            ]);
        }
        for column in 1..5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let BenchDistillArgs { teachers, batch, steps, .. } = self.arguments;
        let Roofline { rates, prompt, threads, .. } = self.floor;
        let tokens = self.median(|step| step.tokens as f64);
        format!(
            "{}, {}, {} prompts of {prompt:.0} tokens a step, {tokens:.0} tokens written; medians of {} \
             steps on {} ({})\n\n{table}\n\npeak memory of the worker: {}\nseen of this machine: {}/s in \
             float32, {}/s in bfloat16, {}/s from memory\n",
            plural(teachers.len(), "teacher"),
            self.dtype.name(),
            figures::count(u64::from(*batch)),
            steps - 1,
            self.seen.device,
            plural(*threads as usize, "core"),
            figures::bytes(self.seen.peak_memory),
            figures::flops(rates.float32),
            figures::flops(rates.bfloat16),
            figures::bytes(rates.memory as u64),
        )
    }

    /// Times in seconds, memory in bytes, rates per second.
    pub fn json(&self) -> String {
        let BenchDistillArgs {
            student, teachers, batch, new, chat, lora, micro_batch, checkpointing, ..
        } = self.arguments;
        let floor = self.floor.seconds(self.dtype);
        let by_part = |value: &dyn Fn(PhaseTime) -> f64| -> Value {
            PARTS
                .iter()
                .map(|(name, of)| ((*name).to_owned(), json!(value(*of))))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let step = |step: &StepTimes| {
            let Seconds { rollout, scoring, update } = step.seconds;
            json!({ "rollout": rollout, "scoring": scoring, "update": update, "tokens": step.tokens })
        };
        let figures = json!({
            "student": student,
            "teachers": teachers,
            "dtype": self.dtype.name(),
            "objective": clap::ValueEnum::to_possible_value(&self.arguments.objective)
                .map(|value| value.get_name().to_owned()),
            "batch": batch,
            "new": new,
            "chat": chat,
            "lora": lora,
            "micro_batch": micro_batch,
            "checkpointing": checkpointing,
            "device": self.seen.device,
            "threads": self.floor.threads,
            "prompt_tokens": self.floor.prompt,
            "tokens": self.median(|step| step.tokens as f64),
            "seconds": by_part(&|of| self.median(|step| of(&step.seconds))),
            "tokens_per_second": by_part(&|of| self.median(|step| step.tokens as f64 / of(&step.seconds))),
            "floor": by_part(&|of| of(&floor)),
            "times_the_floor": by_part(&|of| self.median(|step| of(&step.seconds)) / of(&floor)),
            "peak_memory": self.seen.peak_memory,
            "stage_peak_memory": self.seen.stage_memory,
            "machine": self.floor.rates,
            "phases": self.floor.phases,
            "steps": self.seen.steps.iter().map(step).collect::<Vec<Value>>(),
        });
        format!("{figures:#}\n")
    }
}

/// Seconds with three decimals; short times, of tiny models, with five.
fn shown(seconds: f64) -> String {
    if seconds < 0.1 { format!("{seconds:.5}") } else { format!("{seconds:.3}") }
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_waits_for_what_takes_longer() {
        let phase = |part, times, flops, bytes| Phase { part, name: String::new(), times, flops, bytes };
        let floor = Roofline {
            rates: MachineRates { float32: 100.0, bfloat16: 400.0, memory: 10.0 },
            phases: vec![
                // Three times 2 seconds of products, three times 1 of memory: in half precision, memory takes
                // longer.
                phase(StepPart::Rollout, 3.0, 200.0, 10.0),
                phase(StepPart::Scoring, 1.0, 0.0, 5.0),
                phase(StepPart::Update, 1.0, 400.0, 0.0),
                phase(StepPart::Update, 1.0, 0.0, 20.0),
            ],
            prompt: 1.0,
            threads: 1,
        };
        let seconds = floor.seconds(Dtype::Float32);
        assert_eq!(seconds, Seconds { rollout: 6.0, scoring: 0.5, update: 6.0 });
        assert_eq!(floor.seconds(Dtype::Bfloat16), Seconds { rollout: 3.0, scoring: 0.5, update: 3.0 });
        // A second measurement found the machine faster in one thing and slower in another.
        let other = Roofline {
            rates: MachineRates { float32: 200.0, bfloat16: 300.0, memory: 10.0 },
            ..floor.clone()
        };
        assert_eq!(
            floor.faster(&other).rates,
            MachineRates { float32: 200.0, bfloat16: 400.0, memory: 10.0 }
        );
    }
}
