//! Whether the brokers answer the readers, said once for everybody who waits for them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kafka::contact::SAY_AGAIN;
use deepfm_core::event::EventKind;

/// An outage that is over within this time is not told: brokers that were just restarted drop a connection once more, and
/// idle ones are closed. `/status` shows it all the same.
const BRIEF: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Outage {
    /// The topics that do not come.
    away: BTreeSet<EventKind>,
    since: Option<Instant>,
    said: Option<Instant>,
    reason: String,
}

impl Outage {
    fn is_to_be_said(&self, since: Instant, now: Instant) -> bool {
        let (of, pause) = self.said.map_or((since, BRIEF), |said| (said, SAY_AGAIN));
        now.saturating_duration_since(of) >= pause
    }
}

/// Whether the brokers answer the readers. An outage that is not brief is one line when it begins, one a minute, and one
/// when it ends, however many wait for it.
#[derive(Clone, Debug, Default)]
pub struct Link(Arc<Mutex<Outage>>);

impl Link {
    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A topic's reader has lost all brokers.
    pub fn lost(&self, kind: EventKind, brokers: &str, reason: &str, bound: Duration) {
        let mut outage = self.outage();
        let now = Instant::now();
        let since = *outage.since.get_or_insert(now);
        outage.away.insert(kind);
        reason.clone_into(&mut outage.reason);
        if outage.is_to_be_said(since, now) {
            outage.said = Some(now);
            let tried = now.saturating_duration_since(since).as_secs();
            tracing::warn!("the brokers {brokers} are lost ({reason}); tried for {tried} s of {bound:?}");
        }
    }

    /// A topic's reader is answered again.
    pub fn back(&self, kind: EventKind, brokers: &str) {
        let mut outage = self.outage();
        outage.away.remove(&kind);
        if outage.away.is_empty()
            && let Some(since) = outage.since
        {
            if outage.said.is_some() {
                tracing::info!("the brokers {brokers} answer again after {:.1} s", since.elapsed().as_secs_f64());
            }
            *outage = Outage::default();
        }
    }

    /// For how long the brokers have been away, and why.
    pub fn away(&self) -> Option<(Duration, String)> {
        let outage = self.outage();
        outage.since.map(|since| (since.elapsed(), outage.reason.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_said_when_it_is_not_brief_and_once_a_minute() {
        let moment = Duration::from_millis(1);
        let just_before = Instant::now();
        let start = just_before + moment;
        let mut outage = Outage::default();
        assert!(!outage.is_to_be_said(start, just_before + BRIEF));
        assert!(outage.is_to_be_said(start, start + BRIEF));
        outage.said = Some(start + BRIEF);
        assert!(!outage.is_to_be_said(start, just_before + BRIEF + SAY_AGAIN));
        assert!(outage.is_to_be_said(start, start + BRIEF + SAY_AGAIN));
    }

    #[test]
    fn an_outage_lasts_until_the_last_reader_is_answered() {
        let link = Link::default();
        assert!(link.away().is_none());
        link.lost(EventKind::Impression, "a:1", "nothing listens", Duration::from_secs(9));
        link.lost(EventKind::Click, "a:1", "nothing listens", Duration::from_secs(9));
        link.back(EventKind::Impression, "a:1");
        assert_eq!(link.away().map(|(_, reason)| reason).as_deref(), Some("nothing listens"));
        link.back(EventKind::Click, "a:1");
        assert!(link.away().is_none());
    }
}
