//! Every thread of the program is started here: one that the run cannot go on without ([`vital`]), a hand that works jobs off
//! one after the other ([`Hand`]), or work beside that ends by itself ([`aside`], [`beside`]). Whoever starts one says its
//! bound; `worker.rs` has the table of those of a worker.

pub mod crew;
mod hand;
pub mod vital;
mod yielding;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};

pub use hand::{Hand, HandEnded};
pub use vital::Panicked;
pub use yielding::give_way;

/// Starts work that ends by itself, under a name. A panic in it is the result of its join.
pub fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(work).expect("a machine that runs a worker has room for its handful of threads")
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
