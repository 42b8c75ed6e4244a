//! Times of the system's clock and of files as dates. The clock of a machine may be wrong by any amount, also
//! before 1970, where chrono's own conversions panic.

use std::time::SystemTime;

use chrono::{DateTime, Local, Utc};

/// The date of a time; 1970 where no calendar reaches.
pub fn utc(time: SystemTime) -> DateTime<Utc> {
    let date = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => {
            let seconds = i64::try_from(after.as_secs()).ok();
            seconds.and_then(|seconds| DateTime::from_timestamp(seconds, after.subsec_nanos()))
        }
        Err(before) => {
            let seconds = i64::try_from(before.duration().as_secs()).ok();
            seconds.and_then(|seconds| DateTime::from_timestamp(-seconds, 0))
        }
    };
    date.unwrap_or_default()
}

/// Now, in the time zone of this machine.
pub fn now() -> DateTime<Local> {
    utc(SystemTime::now()).with_timezone(&Local)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn any_time_is_a_date() {
        let (epoch, hour) = (SystemTime::UNIX_EPOCH, Duration::from_secs(3600));
        for (time, date) in [
            (epoch, "1970-01-01 00:00:00 UTC"),
            (epoch + 2 * hour, "1970-01-01 02:00:00 UTC"),
            (epoch - hour, "1969-12-31 23:00:00 UTC"),
            (epoch + hour * 4_000_000_000, "1970-01-01 00:00:00 UTC"),
            (epoch - hour * 4_000_000_000, "1970-01-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(time).to_string(), date);
        }
    }
}
