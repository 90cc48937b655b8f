//! Every thread of the program is started here: one that the run cannot go on without ([`vital`]), a hand that works jobs off
//! one after the other ([`Hand`]), or work beside that ends by itself ([`aside`], [`beside`]). Whoever starts one says its
//! bound; `worker.rs` has the table of those of a worker.

pub mod crew;
mod hand;
pub mod vital;
mod yielding;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

pub use hand::{Hand, HandEnded};
pub use vital::Panicked;
pub use yielding::give_way;

/// Starts work that ends by itself, under a name. A panic in it is the result of its join.
pub fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(work).expect("a machine that runs a worker has room for its handful of threads")
}

/// Drops something on a thread of its own, and says whether that ended in time: what hangs in it is left alone.
pub fn leave<T: Send + 'static>(what: T, patience: Duration) -> bool {
    let (sender, gone) = sync_channel::<()>(0);
    aside("farewell", move || {
        drop(what);
        drop(sender);
    });
    // Nothing is ever sent: it ends when the sender goes, also when the drop has panicked.
    gone.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
}

/// Does a job while `company` goes on beside it until the job is done: it asks the flag, and is woken when it parks.
pub fn beside<T>(company: impl FnOnce(&AtomicBool) + Send, job: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let company = scope.spawn(|| company(&is_over));
        // Also when the job panics: the scope would wait for the company for ever.
        let _ending = Ending { is_over: &is_over, company: company.thread().clone() };
        job()
    })
}

/// Ends the company when it goes.
struct Ending<'a> {
    is_over: &'a AtomicBool,
    company: Thread,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.company.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;

    /// What is dropped when its sender is.
    struct Hanging(Receiver<()>);

    impl Drop for Hanging {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }

    #[test]
    fn what_hangs_in_its_drop_is_left_alone_and_nothing_else_is() {
        const LONG: Duration = Duration::from_mins(1);
        assert!(leave(vec![1], LONG));
        let (sender, receiver) = sync_channel(0);
        assert!(!leave(Hanging(receiver), Duration::from_millis(10)), "its sender is here");
        drop(sender);
        let (sender, receiver) = sync_channel(0);
        drop(sender);
        assert!(leave(Hanging(receiver), LONG));
    }
}
