//! Kernel: a crew that works off the parts of a learning step with the thread that asks, or does what is done beside it. All `unsafe` of
//! it is here.
//!
//! A step has a handful of phases of some ten microseconds, so nobody is sent to sleep between them at once: a member looks for work
//! for a while before it does. A member that comes late, because the machine has something else to do, is not waited for: work is
//! open until whoever asked finds nothing left of it, and only those who came in are waited for then.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use deepfm_core::model::Executor;

/// How often a member looks for work before it sleeps, or whoever asked looks whether the members are out before it lets others run,
/// who may be the members: for some 50 microseconds. A look takes 10 to 40 ns, as the processor has it.
const LOOKS: u32 = 2_000;

/// The same of a member that learns: longer than what a step of a few hundred examples does alone between its phases. To wake one
/// costs a virtual machine as much as a phase.
const LOOKS_OF_LEARNING: u32 = 8_000;

/// The most threads of a crew, whoever asks included.
pub const THREADS_MAX: usize = deepfm_core::model::executor::PARTS_MAX;

/// Bit of the state that says that work is open.
const OPEN: u64 = 1;
/// What one member who came in adds to the state.
const IN: u64 = 2;
/// Bits of the state below the number of the work.
const NUMBER: u32 = 32;

/// Threads that work on what one thread asks for.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
    /// Whether work is open. A crew may go to another thread, and not be shared between threads.
    is_busy: Cell<bool>,
}

/// Work, and how it is called. Valid while it is open, or somebody is in.
#[derive(Clone, Copy)]
struct Work {
    data: *const (),
    call: unsafe fn(*const ()),
}

struct Shared {
    /// The number of the work, how many members are in, and whether it is open.
    state: AtomicU64,
    work: UnsafeCell<Work>,
    /// Members that sleep, or are about to.
    asleep: AtomicUsize,
    is_over: AtomicBool,
    /// What a member's panic said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written only while it is closed and nobody is in, by the one thread that has the crew, and read only by members
// who came in after that, which the state orders. What it points to is `Sync`: see `Crew::work_on`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Crew {
    /// A crew of so many threads, whoever asks included: one is nobody else.
    pub fn new(threads: usize) -> Self {
        Self::looking("learning", threads, LOOKS_OF_LEARNING)
    }

    /// The same, whose members have this name, and are not asked again within a step.
    pub fn named(name: &str, threads: usize) -> Self {
        Self::looking(name, threads, LOOKS)
    }

    fn looking(name: &str, threads: usize, looks: u32) -> Self {
        let nothing = Work { data: std::ptr::null(), call: |_| () };
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(nothing),
            asleep: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let member = |_| {
            let shared = Arc::clone(&shared);
            super::aside(name, move || shared.serve(looks))
        };
        let members = (1..threads.min(THREADS_MAX)).map(member).collect();
        Self { shared, members, is_busy: Cell::new(false) }
    }

    /// Does `job` here while a member does what is done beside it; returns when both have ended. Where there is nobody else, or nobody is
    /// free, that is done first: it must not wait for the job then.
    ///
    /// # Panics
    /// When one of them does.
    pub fn beside<T>(&self, company: impl FnOnce() + Send, job: impl FnOnce() -> T) -> T {
        if self.members.is_empty() || self.is_busy.get() {
            company();
            return job();
        }
        let company = Mutex::new(Some(company));
        let work = || {
            let company = company.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(company) = company {
                company();
            }
        };
        let done = self.work_on(1, &work, job);
        // A job that did not need it may be done before a member came.
        work();
        done
    }

    /// Does `job` here, and calls `work` on every member that comes before that has returned, of whom `more` are woken; returns when
    /// nobody is at it any more.
    ///
    /// # Panics
    /// When one of them does, here or there.
    fn work_on<F: Fn() + Sync, T>(&self, more: usize, work: &F, job: impl FnOnce() -> T) -> T {
        unsafe fn call<F: Fn()>(data: *const ()) {
            // SAFETY: `data` is the `work` of `work_on`, which does not return before the last call has.
            unsafe { (*data.cast::<F>())() }
        }
        let shared = &*self.shared;
        self.is_busy.set(true);
        drop(shared.said());
        let number = (shared.state.load(Ordering::Relaxed) >> NUMBER).wrapping_add(1);
        // SAFETY: it is closed and nobody is in: that is how the last call left it. Nobody else calls meanwhile: `&self` is not shared
        // between threads, since `Crew` is not `Sync`, and a call from within `work` has found `is_busy`.
        unsafe { *shared.work.get() = Work { data: std::ptr::from_ref(work).cast(), call: call::<F> } };
        shared.state.store(number << NUMBER | OPEN, Ordering::SeqCst);
        if shared.asleep.load(Ordering::SeqCst) > 0 {
            self.members.iter().take(more).for_each(|member| member.thread().unpark());
        }
        // Also when it panics: members have borrowed what is above us.
        let closing = Closing(self);
        let done = job();
        drop(closing);
        if let Some(panic) = shared.said() {
            resume_unwind(panic);
        }
        done
    }
}

/// Closes the work and waits until nobody is in.
struct Closing<'c>(&'c Crew);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let state = &self.0.shared.state;
        state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0;
        while state.load(Ordering::Acquire) & (IN * u64::from(u16::MAX)) != 0 {
            looks = pause(looks, LOOKS);
        }
        self.0.is_busy.set(false);
    }
}

/// Waits for a moment; who has waited long lets others run.
fn pause(looks: u32, most: u32) -> u32 {
    if looks < most {
        std::hint::spin_loop();
        looks + 1
    } else {
        std::thread::yield_now();
        looks
    }
}

impl Shared {
    /// A member: comes in to each work that it finds open, once. It looks for some so often before it sleeps.
    fn serve(&self, most: u32) {
        let (mut last, mut looks) = (0, 0);
        while !self.is_over.load(Ordering::Acquire) {
            let state = self.state.load(Ordering::SeqCst);
            let number = state >> NUMBER;
            if state & OPEN == 0 || number == last {
                looks = if looks < most { pause(looks, most) } else { self.sleep(last) };
                continue;
            }
            if self.state.compare_exchange(state, state + IN, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                (last, looks) = (number, 0);
                // SAFETY: it was written before it was opened, and stays until we are out.
                let Work { data, call } = unsafe { *self.work.get() };
                // SAFETY: as `Work` says.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| unsafe { call(data) })) {
                    // Of several the first: nothing is dropped here that could panic again.
                    let mut said = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                    match &*said {
                        Some(_) => std::mem::forget(panic),
                        None => *said = Some(panic),
                    }
                }
                self.state.fetch_sub(IN, Ordering::AcqRel);
            }
        }
    }

    /// Takes what a member's panic said.
    fn said(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sleeps until there may be work that is not the last one.
    fn sleep(&self, last: u64) -> u32 {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        // Whoever opened work before that did not see us; whoever does it now wakes us.
        let state = self.state.load(Ordering::SeqCst);
        if (state & OPEN == 0 || state >> NUMBER == last) && !self.is_over.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        0
    }
}

impl Executor for Crew {
    fn width(&self) -> usize {
        1 + self.members.len()
    }

    fn for_each<T: Send, F: Fn(&mut T) + Sync>(&self, items: &mut [T], job: F) {
        if self.members.is_empty() || items.len() < 2 || self.is_busy.get() {
            items.iter_mut().for_each(job);
            return;
        }
        let more = items.len() - 1;
        let items = Items { first: items.as_mut_ptr(), len: items.len(), next: AtomicUsize::new(0) };
        let work = || {
            while let Some(item) = items.take() {
                job(item);
            }
        };
        self.work_on(more, &work, work);
    }
}

/// A slice whose items go to different threads, and the number of the next one.
struct Items<T> {
    first: *mut T,
    len: usize,
    next: AtomicUsize,
}

// SAFETY: each item goes to one thread, and is `Send`.
unsafe impl<T: Send> Sync for Items<T> {}

impl<T> Items<T> {
    #[expect(clippy::mut_from_ref, reason = "each item is given away once")]
    fn take(&self) -> Option<&mut T> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        // SAFETY: it is within the slice, which outlives this, and nobody else has got this number.
        (at < self.len).then(|| unsafe { &mut *self.first.add(at) })
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for member in self.members.drain(..) {
            member.thread().unpark();
            if member.join().is_err() {
                tracing::error!("a thread of a crew has panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_off_once_however_many_threads_there_are() {
        for threads in [1, 2, 3, 8, 100] {
            let crew = Crew::new(threads);
            assert_eq!(crew.width(), threads.min(THREADS_MAX));
            for round in 0..2_000_usize {
                let mut items = vec![round; round % 7];
                crew.for_each(&mut items, |item| *item += 1);
                assert!(items.iter().all(|item| *item == round + 1));
                if round.is_multiple_of(400) {
                    // Long enough for members to fall asleep.
                    (0..4 * LOOKS_OF_LEARNING).for_each(|_| std::thread::yield_now());
                }
            }
        }
    }

    #[test]
    fn members_come_and_are_waited_for() {
        let crew = Crew::new(2);
        let (ours, both) = (std::thread::current().id(), std::sync::Barrier::new(2));
        let mut seen = [None; 2];
        // Nobody does both: the first to come waits for the other.
        crew.for_each(&mut seen, |seen| {
            both.wait();
            *seen = Some(std::thread::current().id());
        });
        assert!(seen.contains(&Some(ours)) && seen.iter().flatten().any(|id| *id != ours), "{seen:?}");
    }

    #[test]
    fn what_is_done_beside_a_job_is_done_once_and_with_it() {
        for threads in [1, 2, 3] {
            let crew = Crew::named("company", threads);
            for round in 0..500 {
                let (mut done, mut beside) = (0, 0);
                let result = crew.beside(
                    || beside += 1,
                    || {
                        done += 1;
                        // Some are over before a member comes.
                        if round % 3 == 0 {
                            std::thread::yield_now();
                        }
                        round
                    },
                );
                assert_eq!((result, done, beside), (round, 1, 1));
            }
        }
        let crew = Crew::named("company", 2);
        let (to_job, from_company) = std::sync::mpsc::channel();
        let company = move || to_job.send(std::thread::current().name().map(str::to_owned)).expect("it listens");
        let name = crew.beside(company, || from_company.recv().expect("it comes"));
        assert_eq!(name.as_deref(), Some("company"));
        let caught = catch_unwind(AssertUnwindSafe(|| crew.beside(|| panic!("beside"), || ())));
        assert!(caught.is_err());
        let caught = catch_unwind(AssertUnwindSafe(|| crew.beside(|| (), || panic!("here"))));
        assert!(caught.is_err());
        assert_eq!(crew.beside(|| (), || 7), 7, "it goes on");
    }

    #[test]
    fn a_panic_anywhere_is_the_callers_and_the_crew_goes_on() {
        let crew = Crew::new(3);
        for bad in 0..20 {
            let mut items: Vec<usize> = (0..20).collect();
            let caught = catch_unwind(AssertUnwindSafe(|| crew.for_each(&mut items, |item| assert_ne!(*item, bad))));
            assert!(caught.is_err(), "{bad}");
        }
        // Also when everybody panics: nothing of it is left for the next.
        for _ in 0..20 {
            let both = std::sync::Barrier::new(2);
            let panic = |(): &mut ()| {
                both.wait();
                panic!("both");
            };
            let crew = Crew::new(2);
            assert!(catch_unwind(AssertUnwindSafe(|| crew.for_each(&mut [(), ()], panic))).is_err());
            crew.for_each(&mut [(), ()], |()| ());
        }
        let mut items = [1, 2, 3];
        crew.for_each(&mut items, |item| *item *= 2);
        assert_eq!(items, [2, 4, 6]);
    }

    #[test]
    fn work_within_work_is_done_by_whoever_asks() {
        thread_local! {
            static CREW: Crew = Crew::new(2);
        }
        let mut items = [0; 50];
        CREW.with(|crew| {
            crew.for_each(&mut items, |item| {
                let mut inner = [1, 2, 3];
                CREW.with(|crew| crew.for_each(&mut inner, |inner| *inner *= 2));
                *item = inner.iter().sum();
            });
        });
        assert_eq!(items, [12; 50]);
    }
}
