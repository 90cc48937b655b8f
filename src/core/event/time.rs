//! Event times: from what stands in the record to milliseconds, and what is said of one that cannot be meant.

use std::fmt;

use super::options::TimeUnit;
use super::{Reason, Refusal};

/// Event times below this are in a coarser unit: as milliseconds it is March 1973.
const MILLISECONDS_MIN: i64 = 100_000_000_000;
/// Event times from this on are in a finer unit: as milliseconds it is the year 5138.
const MILLISECONDS_END: i64 = 100_000_000_000_000;

/// An event time as it stands in a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stamp {
    /// A whole number of units.
    Whole(i64),
    /// A number of seconds with a fraction.
    Seconds(f64),
    /// A date and time, in milliseconds.
    Date(i64),
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Seconds(seconds) => write!(f, "{seconds}"),
            Self::Date(ms) => match jiff::Timestamp::from_millisecond(*ms) {
                Ok(time) => write!(f, "{time}"),
                Err(_) => write!(f, "{ms} ms"),
            },
        }
    }
}

impl Stamp {
    /// Reads a string: a date where dates are asked for, else digits in the unit (as `BigQuery` and protobuf write them).
    pub(super) fn parse(text: &str, unit: TimeUnit) -> Option<Self> {
        if unit == TimeUnit::Rfc3339 {
            return date(text);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = whole.strip_prefix('-').unwrap_or(whole);
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(digits) || !are_digits(fraction) {
            return None;
        }
        match whole.parse() {
            Ok(whole) if fraction.bytes().all(|byte| byte == b'0') => Some(Self::Whole(whole)),
            _ if unit == TimeUnit::S => text.parse().ok().map(Self::Seconds),
            _ => None,
        }
    }

    fn milliseconds(self, unit: TimeUnit) -> i64 {
        match (self, unit) {
            (Self::Date(ms), _) => ms,
            (Self::Seconds(seconds), _) => (seconds * 1000.0).round() as i64,
            (Self::Whole(number), TimeUnit::S) => number.saturating_mul(1000),
            (Self::Whole(number), TimeUnit::Us) => number.div_euclid(1000),
            (Self::Whole(number), TimeUnit::Ns) => number.div_euclid(1_000_000),
            (Self::Whole(number), TimeUnit::Ms | TimeUnit::Rfc3339) => number,
        }
    }
}

/// A date and time with offset, as RFC 3339 has it.
pub(super) fn date(text: &str) -> Option<Stamp> {
    text.parse::<jiff::Timestamp>().ok().map(|time| Stamp::Date(time.as_millisecond()))
}

/// How times are to be read, and against what they are checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock<'a> {
    /// The unit that is configured.
    pub(super) unit: TimeUnit,
    /// The key that sets it, for messages.
    pub(super) key: &'a str,
    /// The record's own Kafka timestamp, in milliseconds.
    pub(super) timestamp: Option<i64>,
    /// How far an event time may be ahead of that, in seconds.
    pub(super) future_max_seconds: u64,
}

impl Clock<'_> {
    /// The time in milliseconds.
    ///
    /// # Errors
    /// When it cannot be meant: out of range in the unit that is set, or ahead of the record's own timestamp.
    pub(super) fn read(&self, stamp: Stamp) -> Result<i64, Refusal> {
        let time = stamp.milliseconds(self.unit);
        let reason = match time {
            ..0 => return Err(Refusal::new(Reason::TimeOutOfRange, format!("event_time {stamp} is before 1970"))),
            MILLISECONDS_MIN..MILLISECONDS_END => None,
            _ if matches!(stamp, Stamp::Date(_)) => Some(Reason::TimeOutOfRange),
            0..MILLISECONDS_MIN => Some(Reason::SecondsNotMilliseconds),
            _ => Some(Reason::MicrosecondsNotMilliseconds),
        };
        if let Some(reason) = reason {
            return Err(Refusal::new(reason, self.explain(stamp)));
        }
        let ahead_max = i64::try_from(self.future_max_seconds).unwrap_or(i64::MAX).saturating_mul(1000);
        if let Some(timestamp) = self.timestamp {
            let ahead = time.saturating_sub(timestamp);
            if ahead > ahead_max {
                let detail = format!(
                    "event_time {stamp} is {ahead} ms ahead of the record's timestamp {timestamp}, at most {ahead_max} \
                     are taken (events.future_max_seconds)"
                );
                return Err(Refusal::new(Reason::FutureDated, detail));
            }
        }
        Ok(time)
    }

    /// Says of a time out of range which unit it fits: the range is narrow enough that at most one does.
    fn explain(&self, stamp: Stamp) -> String {
        let name = |unit| match unit {
            TimeUnit::S => ("seconds", "s"),
            TimeUnit::Ms => ("milliseconds", "ms"),
            TimeUnit::Us => ("microseconds", "us"),
            TimeUnit::Ns => ("nanoseconds", "ns"),
            TimeUnit::Rfc3339 => ("a date and time", "rfc3339"),
        };
        if matches!(stamp, Stamp::Date(_)) {
            return format!("event_time {stamp} is not between the years 1973 and 5138");
        }
        let units = [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns];
        let fits = |unit: &TimeUnit| (MILLISECONDS_MIN..MILLISECONDS_END).contains(&stamp.milliseconds(*unit));
        let (key, (set, value)) = (self.key, name(self.unit));
        let is_whole = matches!(stamp, Stamp::Whole(_));
        match units.into_iter().find(|unit| is_whole && fits(unit)).map(name) {
            Some((looks, fitting)) => format!(
                "event_time {stamp} looks like {looks}, but {key} = \"{value}\" has it read as {set}; \
                 set {key} = \"{fitting}\""
            ),
            None => format!("event_time {stamp} is out of range in {set} ({key} = \"{value}\") and in any other unit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(unit: TimeUnit) -> Clock<'static> {
        Clock { unit, key: "events.mapping.impression.time_unit", timestamp: None, future_max_seconds: 10 }
    }

    #[test]
    fn digits_in_a_string_are_read_in_the_unit_that_is_set() {
        let ms = |text, unit| Stamp::parse(text, unit).map(|stamp| stamp.milliseconds(unit));
        assert_eq!(ms("1700000000123", TimeUnit::Ms), Some(1_700_000_000_123));
        assert_eq!(ms("1700000000123.0", TimeUnit::Ms), Some(1_700_000_000_123));
        assert_eq!(ms("1700000000", TimeUnit::S), Some(1_700_000_000_000));
        assert_eq!(ms("1700000000.5", TimeUnit::S), Some(1_700_000_000_500));
        assert_eq!(ms("1700000000123456", TimeUnit::Us), Some(1_700_000_000_123));
        assert_eq!(ms("1700000000123456789", TimeUnit::Ns), Some(1_700_000_000_123));
        for none in
            ["", "-", "1e12", " 1700000000123", "0x1", "1700000000123.5", ".5", "5.", "١٧", "99999999999999999999"]
        {
            assert_eq!(ms(none, TimeUnit::Ms), None, "{none:?}");
        }
        assert_eq!(ms("1700000000123", TimeUnit::Rfc3339), None);
        assert_eq!(ms("2023-11-14T22:13:20Z", TimeUnit::Rfc3339), Some(1_700_000_000_000));
    }

    #[test]
    fn a_wrong_unit_is_explained_with_the_number_that_stands_in_the_record() {
        let said = |number, unit| clock(unit).read(Stamp::Whole(number)).expect_err("it is out of range");
        let refusal = said(1_700_000_000_000, TimeUnit::Us);
        assert_eq!(refusal.reason, Reason::SecondsNotMilliseconds);
        assert_eq!(
            refusal.detail(),
            "event_time 1700000000000 looks like milliseconds, but events.mapping.impression.time_unit = \"us\" has it \
             read as microseconds; set events.mapping.impression.time_unit = \"ms\""
        );
        let refusal = said(1_700_000_000_000_000_000, TimeUnit::S);
        assert_eq!(refusal.reason, Reason::MicrosecondsNotMilliseconds);
        assert!(refusal.detail().contains("1700000000000000000 looks like nanoseconds"), "{refusal}");
        assert!(said(17, TimeUnit::Ms).detail().contains("any other unit"));
    }

    #[test]
    fn a_time_as_far_ahead_as_numbers_go_is_refused_and_nothing_overflows() {
        for timestamp in [i64::MIN, -1, 0] {
            let refusal = Clock { timestamp: Some(timestamp), ..clock(TimeUnit::Ms) }.read(Stamp::Whole(1 << 43));
            assert_eq!(refusal.expect_err("it is ahead").reason, Reason::FutureDated);
        }
        let boldest = Clock { timestamp: Some(i64::MIN), future_max_seconds: u64::MAX, ..clock(TimeUnit::Ms) };
        assert_eq!(boldest.read(Stamp::Whole(1 << 43)), Ok(1 << 43));
        for number in [i64::MIN, i64::MAX] {
            for unit in [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns] {
                assert_eq!(clock(unit).read(Stamp::Whole(number)).is_ok(), unit == TimeUnit::Ns && number > 0);
            }
        }
    }

    #[test]
    fn a_date_out_of_range_is_no_matter_of_units() {
        let date = date("1970-06-01T00:00:00Z").expect("it is a date");
        let refusal = clock(TimeUnit::Rfc3339).read(date).expect_err("it is too early");
        assert_eq!(refusal.reason, Reason::TimeOutOfRange);
        assert_eq!(refusal.detail(), "event_time 1970-06-01T00:00:00Z is not between the years 1973 and 5138");
    }
}
