//! Threads that the run cannot go on without: a panic in one becomes its last message, so that whoever waits for it ends
//! at once instead of for ever. (What is caught inside, as the store does with sled, stays its own affair.)

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, SyncSender};
use std::thread::JoinHandle;

/// A thread has panicked. Everything that was committed is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {thread} thread panicked ({message}): a bug in deepfm. What was committed is safe, a restart goes on from there"
)]
pub struct Panicked {
    /// What the thread does.
    pub thread: &'static str,
    /// What it said.
    pub message: String,
}

/// Where a thread's messages go. A receiver that is gone does not want to know.
pub trait Messages<M>: Send + 'static {
    /// Says one.
    fn say(&self, message: M);
}

impl<M: Send + 'static> Messages<M> for Sender<M> {
    fn say(&self, message: M) {
        let _ = self.send(message);
    }
}

impl<M: Send + 'static> Messages<M> for SyncSender<M> {
    fn say(&self, message: M) {
        let _ = self.send(message);
    }
}

/// Runs `body` on a thread of this name. If it panics, `last_words` of it go to the receiver of `messages`.
pub fn spawn<M: Send + 'static, S: Messages<M>>(
    name: &'static str,
    messages: S,
    body: impl FnOnce(&S) + Send + 'static,
    last_words: impl FnOnce(Panicked) -> M + Send + 'static,
) -> JoinHandle<()> {
    let guarded = move || {
        // What the body owned may be in any state afterwards; nobody looks at it again.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&messages))) {
            let panicked = Panicked { thread: name, message: text(&*panic) };
            messages.say(last_words(panicked));
        }
    };
    super::aside(name, guarded)
}

fn text(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}

/// Panics where a test of the binary asks for it: builds with debug assertions heed `DEEPFM_PANIC_IN`, the name of a
/// thread. Released binaries have no such door.
#[doc(hidden)]
pub fn failpoint(name: &str) {
    if cfg!(debug_assertions) {
        let is_asked = std::env::var("DEEPFM_PANIC_IN").is_ok_and(|asked| asked == name);
        assert!(!is_asked, "a test asked for it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_last_message_of_its_thread() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let body = |messages: &Sender<Result<u8, Panicked>>| {
            messages.send(Ok(1)).expect("the receiver is there");
            panic!("at {}", 2);
        };
        spawn("testing", sender, body, Err).join().expect("the panic was caught");
        let said: Vec<_> = receiver.iter().collect();
        assert_eq!(said, [Ok(1), Err(Panicked { thread: "testing", message: "at 2".to_owned() })]);
    }
}
