//! Frames that one worker hands over to another: those of flows that live in the other's shard
//! (`engine/steer.rs`).
//!
//! Each worker has a bounded queue that all others put frames into. A full one loses frames, which is
//! counted (`handover_full`); so nobody waits, and a worker that hangs costs what is meant for it and
//! nothing else. Frames from one worker to another stay in order, and what a worker sends itself is
//! sent before it hands over what came later.
//!
//! A worker that sleeps is woken, once for all frames of a burst (`handover/doze.rs`).

use crate::gateway::Handed;
use mio::Waker;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

mod doze;
/// Those of the tests are loom's.
mod atomics {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
}

use doze::Doze;

/// Frames that wait for a worker at most.
pub const QUEUE: usize = 512;

/// What wakes a worker.
#[derive(Debug)]
pub struct Bell {
    waker: Waker,
    doze: Doze,
    called: AtomicBool,
}

impl Bell {
    /// Around what ends the worker's wait for devices.
    pub fn new(waker: Waker) -> Arc<Self> {
        Arc::new(Self { waker, doze: Doze::new(), called: AtomicBool::new(false) })
    }

    /// Has the worker look for whatever it may be needed for, besides frames.
    pub fn wake(&self) -> io::Result<()> {
        self.called.store(true, Ordering::Release);
        self.waker.wake()
    }

    /// Whether somebody has called [`Bell::wake`] since this was asked.
    pub fn was_called(&self) -> bool {
        self.called.swap(false, Ordering::AcqRel)
    }

    /// There is something in the worker's queue.
    fn frames(&self) {
        if self.doze.must_wake() {
            // It has ended, if this fails.
            let _ = self.waker.wake();
        }
    }
}

/// A worker's end of the queues.
#[derive(Debug)]
pub struct HandOver {
    own: Option<Arc<Bell>>,
    /// By shard.
    to: Vec<(SyncSender<Handed>, Arc<Bell>)>,
    from: Receiver<Handed>,
    /// The first that waits, if somebody has looked.
    next: Option<Handed>,
    /// Who has to be told of frames.
    news: Vec<bool>,
    lost: u64,
}

impl Default for HandOver {
    /// Of a worker that is alone.
    fn default() -> Self {
        let (_, from) = sync_channel(0);
        Self { own: None, to: Vec::new(), from, next: None, news: Vec::new(), lost: 0 }
    }
}

impl HandOver {
    /// The ends of the workers that have these bells, in the order of their shards.
    pub fn between(bells: &[Arc<Bell>]) -> Vec<Self> {
        if bells.len() < 2 {
            return bells.iter().map(|_| Self::default()).collect();
        }
        let (senders, receivers): (Vec<_>, Vec<_>) =
            bells.iter().map(|_| sync_channel(QUEUE)).unzip();
        let to: Vec<_> = senders.into_iter().zip(bells.iter().cloned()).collect();
        let end = |(from, own): (_, &Arc<Bell>)| Self {
            own: Some(own.clone()),
            to: to.clone(),
            from,
            next: None,
            news: vec![false; bells.len()],
            lost: 0,
        };
        receivers.into_iter().zip(bells).map(end).collect()
    }

    /// Puts frames into others' queues, and wakes those who sleep.
    pub fn send(&mut self, frames: Vec<Handed>) {
        for handed in frames {
            let shard = handed.onward.shard;
            match self.to.get(shard).map(|(queue, _)| queue.try_send(handed)) {
                Some(Ok(())) => self.news[shard] = true,
                Some(Err(_)) | None => self.lost += 1,
            }
        }
        for (news, (_, bell)) in self.news.iter_mut().zip(&self.to) {
            if std::mem::take(news) {
                bell.frames();
            }
        }
    }

    /// Whether something waits.
    pub fn ready(&mut self) -> bool {
        if self.next.is_none() && !self.to.is_empty() {
            self.next = self.from.try_recv().ok();
        }
        self.next.is_some()
    }

    /// Takes what waits longest.
    pub fn take(&mut self) -> Option<Handed> {
        self.ready();
        self.next.take()
    }

    /// Sleeps by `sleep`, unless something waits; others wake it.
    pub fn sleep<R>(&mut self, sleep: impl FnOnce() -> R) -> Option<R> {
        let Some(own) = self.own.clone() else { return Some(sleep()) };
        own.doze.begin();
        let result = (!self.ready()).then(sleep);
        own.doze.end();
        result
    }

    /// Frames for which there was no room, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Onward, OwnedFrame, PortId};
    use mio::{Events, Poll, Token};
    use std::time::Duration;

    fn handed(shard: usize, number: u32) -> Handed {
        let onward = Onward { shard, last: false };
        Handed { onward, port: PortId(4), frame: OwnedFrame::new(&number.to_be_bytes()) }
    }

    fn number(handed: &Handed) -> u32 {
        handed.frame.bytes().try_into().map(u32::from_be_bytes).unwrap()
    }

    fn ends(count: usize) -> (Vec<Poll>, Vec<Arc<Bell>>, Vec<HandOver>) {
        let polls: Vec<Poll> = (0..count).map(|_| Poll::new().unwrap()).collect();
        let bell = |poll: &Poll| Bell::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let bells: Vec<_> = polls.iter().map(bell).collect();
        let ends = HandOver::between(&bells);
        (polls, bells, ends)
    }

    #[test]
    fn a_full_queue_takes_no_more_and_loses_no_order() {
        let (_polls, _bells, mut ends) = ends(2);
        let room = QUEUE as u32;
        ends[0].send((0..room + 3).map(|n| handed(1, n)).collect());
        assert_eq!((ends[0].take_lost(), ends[0].take_lost()), (3, 0));
        assert_eq!(ends[1].take().map(|h| number(&h)), Some(0));
        ends[0].send(vec![handed(1, 9000), handed(7, 1)]);
        assert_eq!(ends[0].take_lost(), 1, "there is no worker 7");
        let rest: Vec<u32> = std::iter::from_fn(|| ends[1].take()).map(|h| number(&h)).collect();
        assert_eq!(rest, (1..room).chain([9000]).collect::<Vec<_>>());
        assert!(ends[0].take().is_none());
    }

    #[test]
    fn one_alone_has_nobody() {
        let (_polls, _bells, mut ends) = ends(1);
        ends[0].send(vec![handed(0, 1)]);
        assert_eq!((ends[0].take_lost(), ends[0].ready()), (1, false));
        assert_eq!(ends[0].sleep(|| 5), Some(5));
    }

    /// Workers that sleep without end whenever their queues are empty get all frames, each sender's
    /// in order.
    #[test]
    fn nobody_sleeps_through_a_frame() {
        const WORKERS: usize = 4;
        /// All of a round fit in a queue.
        const FRAMES: u32 = QUEUE as u32 / WORKERS as u32;
        let (polls, _bells, ends) = ends(WORKERS);
        let barrier = Arc::new(std::sync::Barrier::new(WORKERS));
        let work = move |own: usize, mut end: HandOver, mut poll: Poll| {
            let mut events = Events::with_capacity(8);
            for _ in 0..100 {
                let mut got = [0; WORKERS];
                got[own] = FRAMES;
                for n in 0..FRAMES {
                    let others = (0..WORKERS).filter(|to| *to != own);
                    end.send(others.map(|to| handed(to, (own as u32) << 24 | n)).collect());
                }
                while got != [FRAMES; WORKERS] {
                    while let Some(handed) = end.take() {
                        let tag = number(&handed);
                        let next = &mut got[(tag >> 24) as usize];
                        assert_eq!(tag & 0xff_ffff, *next, "in order");
                        *next += 1;
                    }
                    if got != [FRAMES; WORKERS] {
                        end.sleep(|| poll.poll(&mut events, None).unwrap());
                    }
                }
                barrier.wait();
            }
            end.take_lost()
        };
        let threads = ends.into_iter().zip(polls).enumerate().map(|(own, (end, poll))| {
            let work = work.clone();
            std::thread::spawn(move || work(own, end, poll))
        });
        let threads: Vec<_> = threads.collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 0);
        }
    }

    #[test]
    fn who_calls_is_told_from_who_hands_over() {
        let (mut polls, bells, mut ends) = ends(2);
        let mut events = Events::with_capacity(8);
        bells[0].wake().unwrap();
        polls[0].poll(&mut events, None).unwrap();
        assert!(bells[0].was_called() && !bells[0].was_called());
        let (first, second) = ends.split_at_mut(1);
        second[0].send(vec![handed(0, 1)]);
        // It looks before it sleeps.
        assert!(first[0].sleep(|| unreachable!()).is_none());
        assert!(first[0].take().is_some());
        let slept = first[0].sleep(|| {
            second[0].send(vec![handed(0, 2)]);
            polls[0].poll(&mut events, Some(Duration::from_secs(600))).unwrap();
        });
        assert!(slept.is_some() && !events.is_empty() && !bells[0].was_called());
    }
}
