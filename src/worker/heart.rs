//! A start has no turns in which it could show that it lives, and may wait long for brokers and disks, each within a bound of
//! its own. Until it is over, a thread shows it instead.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::status::StatusBoard;
use crate::thread::aside;

/// How often a worker that waits shows that it lives.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// The longest start: one that takes longer hangs, whatever the bounds say.
const START_MAX: Duration = Duration::from_hours(1);

/// Beats until it is dropped.
#[derive(Debug)]
pub(super) struct Heart {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    /// Begins to beat.
    pub(super) fn beat(board: &StatusBoard) -> Self {
        let (stop, stopped) = channel::<()>();
        let (board, start) = (board.clone(), Instant::now());
        let body = move || {
            while start.elapsed() < START_MAX && stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                board.update(|_| ());
            }
        };
        Self { stop: Some(stop), thread: Some(aside("heart", body)) }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to panic for.
            let _ = thread.join();
        }
    }
}
