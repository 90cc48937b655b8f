//! The times of a file: their unit, and how far they go back from one line to a later one.

use indicatif::HumanCount;
use serde_json::Value;

use super::number::{duration, percent};
use deepfm_core::event::options::TimeUnit;

/// A unit is chosen by so many lines.
pub(super) const UNIT_LINES: u64 = 1000;

/// What a time may be, in milliseconds: the years 1973 to 5138, as the decoder has it.
const MILLISECONDS: std::ops::Range<i64> = 100_000_000_000..100_000_000_000_000;

/// Lines that go further back than this are not late: the file was never sorted.
const LATENESS_MAX_MS: i64 = 86_400_000;

/// The units, the usual first.
const UNITS: [TimeUnit; 5] = [TimeUnit::Ms, TimeUnit::S, TimeUnit::Us, TimeUnit::Ns, TimeUnit::Rfc3339];

/// The unit of the times of a file, by the votes of its first lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    votes: [u64; UNITS.len()],
    examples: [Option<Value>; UNITS.len()],
}

impl Unit {
    /// Counts a time for the unit in which it lies between 1973 and 5138, if there is one.
    pub(super) fn vote(&mut self, time: &Value) {
        if let Some(at) = UNITS.iter().position(|unit| milliseconds(time, *unit).is_ok()) {
            self.votes[at] += 1;
            self.examples[at].get_or_insert_with(|| time.clone());
        }
    }

    /// The unit of most times, and one of them; milliseconds where there are none.
    pub(super) fn choose(&self) -> (TimeUnit, Option<&Value>) {
        let most = *self.votes.iter().max().expect("there are units");
        let at = self.votes.iter().position(|votes| *votes == most).expect("it is one of them");
        (UNITS[at], self.examples[at].as_ref())
    }
}

/// The name of a unit in the configuration, and in words.
pub(super) fn names(unit: TimeUnit) -> (&'static str, &'static str) {
    match unit {
        TimeUnit::S => ("s", "seconds"),
        TimeUnit::Ms => ("ms", "milliseconds"),
        TimeUnit::Us => ("us", "microseconds"),
        TimeUnit::Ns => ("ns", "nanoseconds"),
        TimeUnit::Rfc3339 => ("rfc3339", "dates and times (RFC 3339)"),
    }
}

/// A time of this unit in milliseconds, or why it is none.
pub(super) fn milliseconds(time: &Value, unit: TimeUnit) -> Result<i64, &'static str> {
    let number = match time {
        Value::String(text) if unit == TimeUnit::Rfc3339 => {
            let time = text.parse::<jiff::Timestamp>().map_err(|_| "mistyped")?;
            return in_range(time.as_millisecond());
        }
        Value::String(text) => {
            let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
            let number = if is_decimal { text.parse().ok() } else { None };
            number.ok_or("mistyped")?
        }
        Value::Number(number) => number.clone(),
        _ => return Err("mistyped"),
    };
    let whole = number.as_i64().or_else(|| {
        let real = number.as_f64().filter(|real| real.fract() == 0.0 && real.abs() < 9e18);
        real.map(|real| real as i64)
    });
    match (unit, whole) {
        (TimeUnit::S, Some(whole)) => in_range(whole.saturating_mul(1000)),
        (TimeUnit::S, None) => in_range((number.as_f64().ok_or("mistyped")? * 1000.0).round() as i64),
        (TimeUnit::Ms, Some(whole)) => in_range(whole),
        (TimeUnit::Us, Some(whole)) => in_range(whole.div_euclid(1000)),
        (TimeUnit::Ns, Some(whole)) => in_range(whole.div_euclid(1_000_000)),
        (TimeUnit::Rfc3339, _) | (TimeUnit::Ms | TimeUnit::Us | TimeUnit::Ns, None) => Err("mistyped"),
    }
}

fn in_range(time: i64) -> Result<i64, &'static str> {
    match time {
        ..0 => Err("time_out_of_range"),
        _ if time < MILLISECONDS.start => Err("seconds_not_milliseconds"),
        _ if time < MILLISECONDS.end => Ok(time),
        _ => Err("microseconds_not_milliseconds"),
    }
}

/// How far the times of a file go back.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    lines: u64,
    latest: Option<i64>,
    /// By how much each line that goes back does, in milliseconds.
    back: Vec<i64>,
}

impl Order {
    pub(super) fn add(&mut self, time: i64) {
        self.lines += 1;
        match self.latest {
            Some(latest) if time < latest => self.back.push(latest - time),
            _ => self.latest = Some(time),
        }
    }

    pub(super) fn settle(&mut self) {
        self.back.sort_unstable();
    }

    /// The lateness that one line in a thousand exceeds, in whole seconds, or `None` if the file was never sorted.
    pub(super) fn lateness_seconds(&self) -> Option<u64> {
        let late_ms = self.exceeded_by(self.lines / 1000);
        (late_ms <= LATENESS_MAX_MS).then_some((late_ms as u64).div_ceil(1000))
    }

    /// By how much all but so many lines go back at most.
    fn exceeded_by(&self, lines: u64) -> i64 {
        let at = (self.back.len() as u64).checked_sub(lines + 1);
        at.map_or(0, |at| self.back[at as usize])
    }

    /// What was seen, if any line goes back.
    pub(super) fn describe(&self, file: &str) -> Option<String> {
        let furthest = self.back.last()?;
        let share = self.back.len() as f64 / self.lines as f64;
        Some(format!(
            "{} lines of {file} ({}) go back in time, the furthest by {}",
            HumanCount(self.back.len() as u64),
            percent(share),
            duration(*furthest)
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chosen(times: impl IntoIterator<Item = Value>) -> TimeUnit {
        let mut unit = Unit::default();
        times.into_iter().for_each(|time| unit.vote(&time));
        unit.choose().0
    }

    #[test]
    fn the_unit_is_the_one_that_fits_most_times_also_as_digits_in_strings() {
        assert_eq!(chosen([json!(1_700_000_000_000_i64)]), TimeUnit::Ms);
        assert_eq!(chosen([json!(1_700_000_000)]), TimeUnit::S);
        assert_eq!(chosen([json!(1_700_000_000.25)]), TimeUnit::S);
        assert_eq!(chosen([json!("1700000000.25")]), TimeUnit::S);
        assert_eq!(chosen([json!("1700000000000000")]), TimeUnit::Us);
        assert_eq!(chosen([json!(1_700_000_000_000_000_000_i64)]), TimeUnit::Ns);
        assert_eq!(chosen([json!("2023-11-14T22:13:20Z")]), TimeUnit::Rfc3339);
        assert_eq!(chosen([json!(1_700_000_000), json!(5), json!(null), json!("x")]), TimeUnit::S);
        assert_eq!(chosen([json!(17), json!(true)]), TimeUnit::Ms);
    }

    #[test]
    fn lateness_leaves_out_one_line_in_a_thousand_but_no_more() {
        let order = |back: &[i64]| {
            let mut order = Order::default();
            for second in 0..2000 {
                order.add(10_000_000 + second * 1000);
            }
            for ms in back {
                order.add(10_000_000 + 1_999_000 - ms);
            }
            order.settle();
            order
        };
        assert_eq!(order(&[]).lateness_seconds(), Some(0));
        assert_eq!(order(&[5000, 7001]).lateness_seconds(), Some(0));
        assert_eq!(order(&[5000, 7001, 1_000_000]).lateness_seconds(), Some(5));
        assert_eq!(order(&[i64::from(i32::MAX); 3]).lateness_seconds(), None);
        assert_eq!(order(&[]).describe("f"), None);
        let text = order(&[90_000]).describe("f").expect("one goes back");
        assert_eq!(text, "1 lines of f (below 0.1 %) go back in time, the furthest by 1 min 30 s");
    }
}
