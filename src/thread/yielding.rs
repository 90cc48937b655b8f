//! Threads that write while the learner learns: where cores are short, the learner goes first.

use rustix::process::setpriority_process;

/// How much nicer than the learner a writing thread is: it then gets a tenth of a core that both want.
const NICENESS: i32 = 10;

/// Lets the calling thread, and the threads that it starts, give way to the others. (On Linux a priority is a thread's.)
pub fn give_way() {
    if let Err(error) = setpriority_process(None, NICENESS) {
        tracing::debug!("the priority of a writing thread cannot be lowered: {error}");
    }
}
