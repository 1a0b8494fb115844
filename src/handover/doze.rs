//! Who sleeps while there is nothing to do, and who sees to it that nobody sleeps through something.
//!
//! Who is about to sleep says so and then looks at its work once more; who has added work looks
//! afterwards whether the other sleeps. Each of the two has a fence in between, so one of them sees what
//! the other has done. `tests/doze.rs` tries all orders.

use super::atomics::{AtomicBool, Ordering, fence};

/// Whether somebody sleeps.
#[derive(Debug)]
pub struct Doze(AtomicBool);

impl Doze {
    /// Nobody does.
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The one whose it is is about to sleep, unless it sees work after this.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// It is awake.
    pub fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// After work was added: whether it has to be woken. Until it is awake all who ask are told so.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}
