//! Sleeping and being woken between workers (`src/handover/doze.rs`), in every order with three
//! switches that nothing asks for.

mod atomics {
    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/handover/doze.rs"]
mod doze;

use doze::Doze;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// As the kernel's: a wake-up that comes before the sleep ends it at once.
struct Waker(Mutex<bool>, Condvar);

impl Waker {
    fn wake(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let mut woken = self.0.lock().unwrap();
        while !*woken {
            woken = self.1.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// Nobody sleeps for ever while there is work (loom would call that a deadlock), with one and with three
/// who bring it, some of it in two pieces.
#[test]
fn nobody_sleeps_through_work() {
    for pieces in [&[1][..], &[2], &[1, 1]] {
        let mut model = loom::model::Builder::new();
        // More switches from one to another where none is needed take minutes.
        model.preemption_bound = Some(3);
        model.check(move || {
            let shared = Arc::new((
                Doze::new(),
                AtomicUsize::new(0),
                Waker(Mutex::new(false), Condvar::new()),
            ));
            let bring = |count: usize| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (doze, work, waker) = &*shared;
                    for _ in 0..count {
                        work.fetch_add(1, Ordering::Release);
                        if doze.must_wake() {
                            waker.wake();
                        }
                    }
                })
            };
            let threads: Vec<_> = pieces.iter().map(|count| bring(*count)).collect();
            let (doze, work, waker) = &*shared;
            let (mut done, all) = (0, pieces.iter().sum());
            while done < all {
                doze.begin();
                if work.load(Ordering::Acquire) == done {
                    waker.wait();
                }
                doze.end();
                done = work.load(Ordering::Acquire);
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}
