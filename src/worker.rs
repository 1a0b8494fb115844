//! A worker: one thread with its own queue of every device. The loop is the whole of it:
//! rx burst, forward, tx burst, what others have handed over, timers.
//!
//! A worker has its shard to itself. The engine is shared by the workers and held for what is left of
//! a burst when a packet needs it; receiving and sending, which is where the time goes, happen without
//! it.

use crate::engine::{Counters, Drop, Fate, OwnedFrame, PortId};
use crate::gateway::{Gateway, Handed};
use crate::handover::{Bell, HandOver};
use crate::io::{BURST, BURST_BYTES, Outgoing, Receive, Sent, Transmit};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
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
    /// Starts it at a year, so that "long ago" can be said from the beginning, also of what was saved
    /// by an earlier run.
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// The time since the start of the scale.
    pub fn now(&self) -> Instant {
        Instant::from_secs(365 * 86400) + self.start.elapsed()
    }
}

/// Nanoseconds since 1970.
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What a worker is given.
pub struct Worker {
    /// The engine and the shards.
    pub gateway: Gateway,
    /// Its shard.
    pub shard: usize,
    /// Its devices, by port number.
    pub devices: Vec<Device>,
    /// The clock.
    pub clock: Clock,
    /// Set to end the loop.
    pub stop: Arc<AtomicBool>,
    /// Where log lines and DHCP answers are announced.
    pub news: Arc<News>,
    /// What was sent by each port and isn't in the engine's counters yet.
    pub sent: Vec<Sent>,
    /// Devices to use from now on; whoever sends one wakes the worker.
    pub inbox: Receiver<(PortId, Device)>,
    /// Between it and the other workers.
    pub handover: HandOver,
    /// Told of a device that doesn't exist any more.
    pub gone: Box<dyn Fn(PortId) + Send>,
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

    /// There is something for the manager to look at.
    pub fn announce(&self) {
        if !self.announced.swap(true, Ordering::AcqRel) {
            (self.tell)();
        }
    }
}

/// The token of the waker; devices have their port's number.
const WAKE: Token = Token(usize::MAX);

/// How long a worker looks at its rings before it sleeps: about what sleeping and being woken
/// costs, most of which is the interrupt that wakes another core.
const SPIN: Duration = Duration::from_micros(30);
/// Looks at the rings between two looks at the clock.
const LOOKS: usize = 16;

/// Whether to look at the rings for [`SPIN`] before sleeping. It pays while frames come in such
/// short intervals, so that is what is learnt; an idle gateway stops after a few attempts.
#[derive(Debug, Default)]
struct Patience {
    credit: u8,
}

impl Patience {
    const MOST: u8 = 16;

    fn is_worth_it(&self) -> bool {
        self.credit > 0
    }

    fn came(&mut self) {
        self.credit = (self.credit + 2).min(Self::MOST);
    }

    fn in_vain(&mut self) {
        self.credit = self.credit.saturating_sub(1);
    }

    /// A sleep that was shorter than being patient would have been.
    fn slept(&mut self, time: Duration) {
        if time < 2 * SPIN {
            self.came();
        }
    }
}

/// A device that fails is tried again after this time.
const RETRY: Duration = Duration::from_millis(200);

impl Worker {
    /// Prepares waiting for frames; the bell ends a wait.
    pub fn poll(&self) -> io::Result<(Poll, Arc<Bell>)> {
        let poll = Poll::new()?;
        for (number, device) in self.devices.iter().enumerate() {
            if let Some(fd) = device.receive.fd() {
                let fd = fd.as_raw_fd();
                poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)?;
            }
        }
        let waker = Waker::new(poll.registry(), WAKE)?;
        Ok((poll, Bell::new(waker)))
    }

    /// Runs until it is told to stop.
    pub fn run(mut self, mut poll: Poll, bell: &Bell) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        let mut next_tick = self.clock.now();
        let mut failed = Failures::default();
        let mut patience = Patience::default();
        self.sent = vec![Sent::default(); self.devices.len()];
        while !self.stop.load(Ordering::Acquire) {
            let mut busy = false;
            for port in 0..self.devices.len() {
                if failed.gone.contains(&port) {
                    continue;
                }
                match self.burst(port) {
                    Ok(frames) => busy |= frames > 0,
                    Err(error) => {
                        let id = PortId(port as u16);
                        let name = self.gateway.engine().interfaces().port_name(id).to_owned();
                        failed.report(port, &error, &name);
                        if failed.gone.contains(&port) {
                            (self.gone)(id);
                        }
                    }
                }
            }
            busy |= self.burst_handed();
            let now = self.clock.now();
            let mut wait = next_tick - now;
            if wait.is_zero() {
                wait = self.tick();
                next_tick = now + wait;
                self.attach(&poll, &mut failed);
            }
            if busy || self.spin(&mut patience) {
                continue;
            }
            let Self { gateway, sent, handover, shard, .. } = &mut self;
            gateway.count(*shard, |counters| count_sent(sent, handover, counters));
            let began = std::time::Instant::now();
            let wait = failed.limit(wait);
            let slept = self.handover.sleep(|| wait_for_frames(&mut poll, &mut events, wait));
            if slept.transpose()? == Some(true) && bell.was_called() {
                next_tick = self.clock.now();
            }
            patience.slept(began.elapsed());
        }
        Ok(())
    }

    /// Takes devices that were made again.
    fn attach(&mut self, poll: &Poll, failed: &mut Failures) {
        while let Ok((PortId(port), device)) = self.inbox.try_recv() {
            let port = usize::from(port);
            if let Some(fd) = device.receive.fd() {
                let fd = fd.as_raw_fd();
                let mut source = SourceFd(&fd);
                let registry = poll.registry();
                if let Err(error) = registry.register(&mut source, Token(port), Interest::READABLE)
                {
                    tracing::error!(port, %error, "can't wait for its frames");
                }
            }
            self.devices[port] = device;
            failed.gone.remove(&port);
        }
    }

    /// Looks at the rings for a moment before going to sleep, while that is likely to pay. True if
    /// frames have come.
    fn spin(&mut self, patience: &mut Patience) -> bool {
        if !patience.is_worth_it() {
            return false;
        }
        let began = std::time::Instant::now();
        loop {
            for _ in 0..LOOKS {
                let Self { devices, handover, .. } = self;
                if devices.iter().any(|device| device.receive.ready()) || handover.ready() {
                    patience.came();
                    return true;
                }
                std::hint::spin_loop();
            }
            if began.elapsed() > SPIN || self.stop.load(Ordering::Relaxed) {
                patience.in_vain();
                return false;
            }
        }
    }

    /// One burst of one port.
    fn burst(&mut self, port: usize) -> io::Result<usize> {
        let frames = self.devices[port].receive.receive()?;
        if frames == 0 {
            return Ok(0);
        }
        let mut fates = [Fate::Consumed; BURST];
        let (own, handed, wants_leases) = {
            let mut held = self.gateway.burst(self.shard, self.clock.now(), unix_nanos());
            let receive = &mut self.devices[port].receive;
            for (index, fate) in fates[..frames].iter_mut().enumerate() {
                *fate = held.input(PortId(port as u16), receive.frame(index));
            }
            if held.has_news() {
                self.news.announce();
            }
            count_sent(&mut self.sent, &mut self.handover, held.counters());
            (held.take_outbox(), held.take_handed(), held.wants_leases())
        };
        let result = self.transmit(port, &fates[..frames]);
        self.devices[port].receive.release();
        let own = self.transmit_own(own);
        self.handover.send(handed);
        own?;
        if wants_leases {
            // Behind the burst's own frames, so that those that come later don't pass them.
            self.gateway.lease_wanted(self.shard, self.clock.now());
        }
        result.map(|()| frames)
    }

    /// One burst of what other workers have handed over; true if there was any. What can't be sent
    /// will be told by the device itself.
    fn burst_handed(&mut self) -> bool {
        if !self.handover.ready() {
            return false;
        }
        let (mut frames, mut fates, mut bytes) = (Vec::new(), Vec::new(), 0);
        let (own, onward) = {
            let mut held = self.gateway.burst(self.shard, self.clock.now(), unix_nanos());
            while frames.len() < BURST
                && bytes < BURST_BYTES
                && let Some(Handed { onward, port, mut frame }) = self.handover.take()
            {
                bytes += frame.bytes().len();
                fates.push(held.input_handed(port, &mut frame, onward.last));
                frames.push(frame);
            }
            if held.has_news() {
                self.news.announce();
            }
            count_sent(&mut self.sent, &mut self.handover, held.counters());
            (held.take_outbox(), held.take_handed())
        };
        for egress in egresses(&fates, self.devices.len()) {
            let wanted = Fate::Transmit(PortId(egress as u16));
            let mut staged =
                (0..fates.len()).filter(|index| fates[*index] == wanted).map(|index| {
                    let frame = &frames[index];
                    Outgoing { bytes: frame.bytes(), offload: frame.meta.offload }
                });
            let sent = self.devices[egress].transmit.send(&mut staged);
            let wanted = fates.iter().filter(|fate| **fate == wanted).count();
            if let Err(error) = self.count(egress, wanted, sent) {
                tracing::debug!(%error, "sending");
            }
        }
        if let Err(error) = self.transmit_own(own) {
            tracing::debug!(%error, "sending");
        }
        self.handover.send(onward);
        true
    }

    /// Sends a burst's frames from where they are, egress by egress.
    fn transmit(&mut self, port: usize, fates: &[Fate]) -> io::Result<()> {
        let mut result = Ok(());
        for egress in egresses(fates, self.devices.len()) {
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

    /// Remembers what a device took and what it refused of the frames that it was given.
    fn count(&mut self, egress: usize, given: usize, sent: io::Result<Sent>) -> io::Result<()> {
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) => {
                self.sent[egress].refused += given;
                return Err(error);
            }
        };
        let total = &mut self.sent[egress];
        total.frames += sent.frames;
        total.bytes += sent.bytes;
        total.refused += sent.refused;
        Ok(())
    }

    /// Timers; returns when to come again.
    fn tick(&mut self) -> Duration {
        let (own, wait) = {
            let overruns: u64 = self.devices.iter_mut().map(|d| d.receive.overruns()).sum();
            let discards: u64 = self.devices.iter_mut().map(|d| d.receive.discards()).sum();
            let mut held = self.gateway.burst(self.shard, self.clock.now(), unix_nanos());
            count_sent(&mut self.sent, &mut self.handover, held.engine().counters_mut());
            let counters = held.engine().counters_mut();
            counters.drop_many(Drop::DeviceOverrun, overruns);
            counters.drop_many(Drop::DeviceDiscard, discards);
            held.tick();
            if held.has_news() {
                self.news.announce();
            }
            let engine = held.engine();
            let wait = engine.next_tick();
            (std::mem::take(engine.outbox()), wait)
        };
        if let Err(error) = self.transmit_own(own) {
            tracing::debug!(%error, "sending");
        }
        wait
    }
}

/// The ports, of so many, that frames with these fates leave by, and perhaps some more.
fn egresses(fates: &[Fate], ports: usize) -> impl Iterator<Item = usize> + use<> {
    let pending = fates.iter().fold(0u128, |set, fate| match fate {
        Fate::Transmit(PortId(egress)) => set | 1 << (egress % 128),
        Fate::Consumed => set,
    });
    let ports = if pending == 0 { 0 } else { ports };
    (0..ports).filter(move |egress| pending & 1 << (egress % 128) != 0)
}

/// Adds what was remembered to the counters.
fn count_sent(sent: &mut [Sent], handover: &mut HandOver, counters: &mut Counters) {
    let lost = handover.take_lost();
    if lost > 0 {
        counters.drop_many(Drop::HandoverFull, lost);
    }
    let mut refused = 0;
    for (sent, total) in sent.iter_mut().zip(&mut counters.sent) {
        total.packets += sent.frames as u64;
        total.bytes += sent.bytes as u64;
        refused += sent.refused as u64;
        *sent = Sent::default();
    }
    if refused > 0 {
        counters.drop_many(Drop::DeviceRefused, refused);
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
    fn report(&mut self, port: usize, error: &io::Error, name: &str) {
        match error.kind() {
            io::ErrorKind::NotFound => {
                self.gone.insert(port);
                tracing::warn!(port = name, %error, "device is gone");
                return;
            }
            // Said once, and nothing to wait for at once (`Receive::receive`).
            io::ErrorKind::NetworkDown => {
                tracing::warn!(port = name, %error, "link is down");
                return;
            }
            _ => {}
        }
        let now = std::time::Instant::now();
        let last = self.since.insert(port, now);
        if last.is_none_or(|at| now - at > Duration::from_secs(5)) {
            tracing::warn!(port = name, %error, "device fails; trying again");
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
            failed.report(3, &kind.into(), "eth0");
            assert_eq!((failed.gone.contains(&3), failed.limit(second)), (gone, wait), "{kind}");
        }
    }
}
