//! The largest event time becomes the watermark, less the lateness.
//!
//! That is enough, because the sequencer has merged the partitions by event time and waits for every live one: what comes
//! later from a partition in order is not older. The watermark never goes back.

#[derive(Clone, Copy, Debug)]
pub(super) struct Watermark {
    lateness: i64,
    /// `None` is minus infinity.
    value: Option<i64>,
}

impl Watermark {
    pub(super) fn new(lateness: i64) -> Self {
        Self { lateness, value: None }
    }

    pub(super) fn restore(lateness: i64, value: Option<i64>) -> Self {
        Self { lateness, value }
    }

    pub(super) fn value(self) -> Option<i64> {
        self.value
    }

    pub(super) fn passed(self, time: i64) -> bool {
        self.value.is_some_and(|value| value > time)
    }

    pub(super) fn observe(&mut self, time: i64) {
        self.value = self.value.max(Some(time.saturating_sub(self.lateness)));
    }

    pub(super) fn flush(&mut self) {
        self.value = Some(i64::MAX);
    }
}
