//! A worker: one thread with its own queue of every device. The loop is the whole of it:
//! rx burst, forward, tx burst, timers.
//!
//! The engine is shared by the workers and held for one burst at a time; receiving and sending,
//! which is where the time goes, happen without it.

use crate::engine::{Counters, Drop, Engine, Fate, OwnedFrame, PortId, TICK};
use crate::io::{BURST, Outgoing, Receive, Transmit};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_packet::Instant;

/// A worker's two halves of one port's device.
pub struct Device {
    /// Frames come from here.
    pub receive: Box<dyn Receive>,
    /// And go to here.
    pub transmit: Box<dyn Transmit>,
}

/// One clock for all workers.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// Starts it at one hour, so that "long ago" can be said from the beginning.
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// The time since the start of the scale.
    pub fn now(&self) -> Instant {
        Instant::from_secs(3600) + self.start.elapsed()
    }
}

/// Nanoseconds since 1970.
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Locks the engine. A panic elsewhere has ended that packet, not the tables.
pub fn lock(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a worker is given.
pub struct Worker {
    /// The engine.
    pub engine: Arc<Mutex<Engine>>,
    /// Its devices, by port number.
    pub devices: Vec<Device>,
    /// The clock.
    pub clock: Clock,
    /// Set to end the loop.
    pub stop: Arc<AtomicBool>,
    /// Where log lines and DHCP answers are announced.
    pub news: Arc<News>,
}

/// Tells the manager, once until it has looked, that the engine has something for it.
pub struct News {
    announced: AtomicBool,
    tell: Box<dyn Fn() + Send + Sync>,
}

impl News {
    /// `tell` wakes the manager.
    pub fn new(tell: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { announced: AtomicBool::new(false), tell })
    }

    /// The manager is about to look.
    pub fn taken(&self) {
        self.announced.store(false, Ordering::Release);
    }

    fn announce(&self) {
        if !self.announced.swap(true, Ordering::AcqRel) {
            (self.tell)();
        }
    }
}

/// The token of the waker; devices have their port's number.
const WAKE: Token = Token(usize::MAX);

/// A device that fails is tried again after this time.
const RETRY: Duration = Duration::from_millis(200);

impl Worker {
    /// Prepares waiting for frames; the waker ends a wait.
    pub fn poll(&self) -> io::Result<(Poll, Waker)> {
        let poll = Poll::new()?;
        for (number, device) in self.devices.iter().enumerate() {
            if let Some(fd) = device.receive.fd() {
                let fd = fd.as_raw_fd();
                poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)?;
            }
        }
        let waker = Waker::new(poll.registry(), WAKE)?;
        Ok((poll, waker))
    }

    /// Runs until it is told to stop.
    pub fn run(mut self, mut poll: Poll) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        let mut next_tick = self.clock.now();
        let mut failed = Failures::default();
        while !self.stop.load(Ordering::Acquire) {
            let mut busy = false;
            for port in 0..self.devices.len() {
                if failed.gone.contains(&port) {
                    continue;
                }
                match self.burst(port) {
                    Ok(frames) => busy |= frames > 0,
                    Err(error) => failed.report(port, &error, || self.name(port)),
                }
            }
            let now = self.clock.now();
            let mut wait = next_tick - now;
            if wait.is_zero() {
                wait = self.tick();
                next_tick = now + wait;
            }
            if !busy && wait_for_frames(&mut poll, &mut events, failed.limit(wait))? {
                next_tick = self.clock.now();
            }
        }
        Ok(())
    }

    fn name(&self, port: usize) -> String {
        lock(&self.engine).interfaces().port_name(PortId(port as u16)).to_owned()
    }

    /// One burst of one port.
    fn burst(&mut self, port: usize) -> io::Result<usize> {
        let frames = self.devices[port].receive.receive()?;
        if frames == 0 {
            return Ok(0);
        }
        let mut fates = [Fate::Consumed; BURST];
        let own = {
            let mut engine = lock(&self.engine);
            engine.set_time(self.clock.now(), unix_nanos());
            let receive = &mut self.devices[port].receive;
            for (index, fate) in fates[..frames].iter_mut().enumerate() {
                *fate = engine.input(PortId(port as u16), receive.frame(index));
            }
            if engine.has_news() {
                self.news.announce();
            }
            std::mem::take(engine.outbox())
        };
        let result = self.transmit(port, &fates[..frames]);
        self.devices[port].receive.release();
        let overruns = self.devices[port].receive.overruns();
        if overruns > 0 {
            lock(&self.engine).counters_mut().drop_many(Drop::DeviceOverrun, overruns);
        }
        self.transmit_own(own)?;
        result.map(|()| frames)
    }

    /// Sends a burst's frames from where they are, egress by egress.
    fn transmit(&mut self, port: usize, fates: &[Fate]) -> io::Result<()> {
        let pending = fates.iter().fold(0u128, |set, fate| match fate {
            Fate::Transmit(PortId(egress)) => set | 1 << (egress % 128),
            Fate::Consumed => set,
        });
        if pending == 0 {
            return Ok(());
        }
        let mut result = Ok(());
        for egress in 0..self.devices.len() {
            if pending & 1 << (egress % 128) == 0 {
                continue;
            }
            let wanted = Fate::Transmit(PortId(egress as u16));
            let (receive, transmit) = both(&mut self.devices, port, egress);
            let mut staged = (0..fates.len())
                .filter(|index| fates[*index] == wanted)
                .map(|index| receive.sent(index));
            let sent = transmit.send(&mut staged);
            let wanted = fates.iter().filter(|fate| **fate == wanted).count();
            if let Err(error) = self.count(egress, wanted, sent) {
                result = Err(error);
            }
        }
        result
    }

    /// Sends frames that the engine made.
    fn transmit_own(&mut self, own: Vec<(PortId, OwnedFrame)>) -> io::Result<()> {
        let mut result = Ok(());
        for (PortId(egress), frame) in &own {
            let outgoing = Outgoing { bytes: frame.bytes(), offload: frame.meta.offload };
            let egress = usize::from(*egress);
            let sent = self.devices[egress].transmit.send(&mut std::iter::once(outgoing));
            if let Err(error) = self.count(egress, 1, sent) {
                result = Err(error);
            }
        }
        result
    }

    /// Counts what a device took and what it refused of the frames that it was given.
    fn count(
        &self,
        egress: usize,
        given: usize,
        sent: io::Result<crate::io::Sent>,
    ) -> io::Result<()> {
        let mut engine = lock(&self.engine);
        let counters: &mut Counters = engine.counters_mut();
        let sent = sent.inspect_err(|_| counters.drop_many(Drop::EgressDown, given as u64))?;
        counters.sent[egress].packets += sent.frames as u64;
        counters.sent[egress].bytes += sent.bytes as u64;
        if sent.refused > 0 {
            counters.drop_many(Drop::DeviceRefused, sent.refused as u64);
        }
        Ok(())
    }

    /// Timers; returns when to come again.
    fn tick(&mut self) -> Duration {
        let (own, wait) = {
            let mut engine = lock(&self.engine);
            engine.set_time(self.clock.now(), unix_nanos());
            engine.tick();
            if engine.has_news() {
                self.news.announce();
            }
            let wait = if engine.is_waiting() { TICK } else { Duration::from_millis(500) };
            (std::mem::take(engine.outbox()), wait)
        };
        if let Err(error) = self.transmit_own(own) {
            tracing::debug!(%error, "sending");
        }
        wait
    }
}

/// The receiving half of one device and the sending half of another, or of the same.
fn both(
    devices: &mut [Device],
    ingress: usize,
    egress: usize,
) -> (&dyn Receive, &mut dyn Transmit) {
    if ingress == egress {
        let Device { receive, transmit } = &mut devices[ingress];
        return (&**receive, &mut **transmit);
    }
    let (low, high) = devices.split_at_mut(ingress.max(egress));
    if ingress < egress {
        (&*low[ingress].receive, &mut *high[0].transmit)
    } else {
        (&*high[0].receive, &mut *low[egress].transmit)
    }
}

/// Sleeps until frames or the time come; true if somebody woke us: there is something to send.
fn wait_for_frames(poll: &mut Poll, events: &mut Events, wait: Duration) -> io::Result<bool> {
    match poll.poll(events, Some(wait)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
        Ok(()) => Ok(events.iter().any(|event| event.token() == WAKE)),
    }
}

/// Devices that fail: said once each time it begins, and not spun on.
#[derive(Default)]
struct Failures {
    since: std::collections::HashMap<usize, std::time::Instant>,
    /// Devices that don't exist any more: not asked again, so that they cost the others nothing.
    gone: std::collections::HashSet<usize>,
}

impl Failures {
    fn report(&mut self, port: usize, error: &io::Error, name: impl FnOnce() -> String) {
        match error.kind() {
            io::ErrorKind::NotFound => {
                self.gone.insert(port);
                tracing::warn!(port = name(), %error, "device is gone");
                return;
            }
            // Said once, and then there is nothing to wait for at once (`Receive::receive`).
            io::ErrorKind::NetworkDown => {
                tracing::warn!(port = name(), %error, "link is down");
                return;
            }
            _ => {}
        }
        let now = std::time::Instant::now();
        let last = self.since.insert(port, now);
        if last.is_none_or(|at| now - at > Duration::from_secs(5)) {
            tracing::warn!(port = name(), %error, "device fails; trying again");
        }
    }

    /// A failing device stays readable, so waiting for it would not wait.
    fn limit(&self, wait: Duration) -> Duration {
        let now = std::time::Instant::now();
        if self.since.values().any(|at| now - *at < RETRY) {
            std::thread::sleep(RETRY / 4);
            return Duration::ZERO;
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_gone_or_down_does_not_slow_the_others() {
        let second = Duration::from_secs(1);
        for (kind, gone, wait) in [
            (io::ErrorKind::NotFound, true, second),
            (io::ErrorKind::NetworkDown, false, second),
            (io::ErrorKind::InvalidInput, false, Duration::ZERO),
        ] {
            let mut failed = Failures::default();
            failed.report(3, &kind.into(), || "eth3".to_owned());
            assert_eq!((failed.gone.contains(&3), failed.limit(second)), (gone, wait), "{kind}");
        }
    }
}
