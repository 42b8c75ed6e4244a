//! Numbers in a readable form.

use mopd_plan::events::TimeRange;
use mopd_plan::results::PrivateStage;

/// `19 200`, `1.23 M`: exact up to a hundred thousand, three figures above.
pub fn count(n: u64) -> String {
    if n < 100_000 {
        let digits = n.to_string();
        let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
        return groups.collect::<Vec<_>>().join(" ");
    }
    scaled(n as f64, 1000.0, &["", " k", " M", " G", " T", " P", " E"])
}

/// `2.81 TFLOP`
pub fn flops(n: f64) -> String {
    scaled(n, 1000.0, &[" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP", " EFLOP", " ZFLOP"])
}

/// `6.14 MiB`
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// `850 ms`, `12.3 s`, `4 min 05 s`, `2 h 10 min`
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else if whole < 48 * 3600 {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    } else {
        format!("{} d {:02} h", whole / 86400, whole % 86400 / 3600)
    }
}

/// A predicted time; as `17.0 s [14.0 s, 24.0 s]` if the range is more than a tenth.
pub fn predicted(seconds: f64, range: TimeRange) -> String {
    let TimeRange { least, most } = range;
    if least > 0.9 * seconds && most < 1.1 * seconds {
        return duration(seconds);
    }
    format!("{} [{}, {}]", duration(seconds), duration(least), duration(most))
}

/// Stages without prediction, if any: `1 stage is not predicted: trying it would take about as long`
pub fn left_out(seconds: f64, short: u32, late: u32) -> Option<String> {
    let stages = |n: u32| format!("{n} stage{} not predicted", if n == 1 { " is" } else { "s are" });
    let short = (short > 0).then(|| format!("{}: a trial would take about as long", stages(short)));
    let late = (late > 0).then(|| {
        format!("{} after {} of trials: `--predict=full` tries all", stages(late), duration(seconds))
    });
    let both: Vec<String> = [short, late].into_iter().flatten().collect();
    (!both.is_empty()).then(|| both.join("; "))
}

/// `student: 32 of 64 scores found in the store`
pub fn scores_found(of_what: &str, found: u64, of: u64) -> String {
    format!("{of_what}: {} of {} scores found in the store", count(found), count(of))
}

/// `noise of 0.914 times the clip, 50 steps with a chance of 0.05 for a row: epsilon 3.9 of 4, delta 1e-5`
pub fn privacy(stage: &PrivateStage) -> String {
    let PrivateStage { noise_multiplier, sampling_rate, steps, epsilon, delta, budget, copies, .. } = stage;
    let copies = copies.as_ref().map(|copies| {
        format!("; up to {:.4} for the {} rows of one prompt together", copies.epsilon, copies.most)
    });
    format!(
        "noise multiplier {noise_multiplier:.3}, {steps} steps with sampling rate {sampling_rate:.4}: \
        epsilon {epsilon:.4} of {}, delta {}{}",
        setting(*budget),
        setting(*delta),
        copies.unwrap_or_default()
    )
}

/// A setting in the language's notation: `0.001` as `1e-3`, `150`, `0.28`.
pub fn setting(value: f64) -> String {
    if value != 0.0 && (value.abs() < 0.01 || value.abs() >= 1e6) {
        format!("{value:e}")
    } else {
        format!("{value}")
    }
}

/// `33.3%`, `50%`
pub fn percent(fraction: f64) -> String {
    let tenths = (fraction * 1000.0).round() / 10.0;
    format!("{tenths}%")
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (value, 0);
    // 999.5 would print as 1000: it belongs to the next unit.
    while value.abs() >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let decimals = if unit == 0 || value.abs() >= 99.95 {
        0
    } else if value.abs() >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predicted_time_has_its_range_where_that_is_wide() {
        assert_eq!(predicted(10.0, TimeRange { least: 9.1, most: 10.9 }), "10.0 s");
        assert_eq!(predicted(10.0, TimeRange { least: 9.1, most: 20.0 }), "10.0 s [9.1 s, 20.0 s]");
        assert_eq!(predicted(10.0, TimeRange { least: 6.0, most: 10.0 }), "10.0 s [6.0 s, 10.0 s]");
    }

    #[test]
    fn missing_predictions_are_shown_with_the_reason() {
        assert_eq!(left_out(3.0, 0, 0), None);
        let short = "1 stage is not predicted: a trial would take about as long";
        assert_eq!(left_out(3.0, 1, 0).as_deref(), Some(short));
        let late = "2 stages are not predicted after 31.0 s of trials: `--predict=full` tries all";
        assert_eq!(left_out(31.0, 1, 2), Some(format!("{short}; {late}")));
    }

    #[test]
    fn count_formats_large_numbers() {
        let shown = [0, 999, 19_200, 99_999, 100_000, 1_234_567, 999_999].map(count);
        assert_eq!(shown, ["0", "999", "19 200", "99 999", "100 k", "1.23 M", "1.00 M"]);
    }

    #[test]
    fn flops_and_bytes_have_their_units() {
        assert_eq!(flops(2.81e12), "2.81 TFLOP");
        assert_eq!(flops(0.0), "0 FLOP");
        assert_eq!(bytes(6 * 1024 * 1024 + 150_000), "6.14 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn duration_formats_seconds_to_days() {
        let shown = [0.0, 0.85, 0.9999, 12.34, 59.96, 245.0, 7800.0, 800_000.0, f64::NAN].map(duration);
        assert_eq!(
            shown,
            ["0 ms", "850 ms", "1.0 s", "12.3 s", "1 min 00 s", "4 min 05 s", "2 h 10 min", "9 d 06 h", "?"]
        );
    }

    #[test]
    fn setting_and_percent_are_short() {
        assert_eq!([1e-3, 3e-4, 0.28, 5.0, 0.0, 2e7].map(setting), ["1e-3", "3e-4", "0.28", "5", "0", "2e7"]);
        assert_eq!([1.0 / 3.0, 0.5, 1.0].map(percent), ["33.3%", "50%", "100%"]);
    }
}
