//! Copies frames between two interfaces and does nothing else: what the devices alone can carry.
//! Benchmarks use it as the limit that a gateway on the same devices can come near.
//!
//! ```sh
//! plumb lan0 wan0              # two existing interfaces, by packet sockets
//! plumb tap0 tap1 --tap        # two TAP devices, made if they aren't there
//! ```

use clap::Parser;
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tidegate::io::{BURST, Receive, Transmit, af_packet, ingress, tap};
use tidegate::link::netlink::Netlink;
use tidegate_packet::MacAddr;

/// Copies frames between two interfaces.
#[derive(Parser)]
struct Arguments {
    /// One interface.
    a: String,
    /// The other.
    b: String,
    /// Both are TAP devices, to be made or attached to.
    #[arg(long)]
    tap: bool,
    /// Destination address to write into frames that leave through A.
    #[arg(long, value_parser = parse_mac)]
    towards_a: Option<MacAddr>,
    /// Destination address to write into frames that leave through B.
    #[arg(long, value_parser = parse_mac)]
    towards_b: Option<MacAddr>,
    /// Let the kernel handle the frames too.
    #[arg(long)]
    no_hold: bool,
    /// Slots of a packet socket's ring.
    #[arg(long, default_value_t = af_packet::DEFAULT_SLOTS)]
    slots: usize,
    /// Stop after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

/// What came through.
#[derive(Default)]
struct Counts {
    trips: u64,
    frames: u64,
    supers: u64,
    bytes: u64,
    refused: u64,
    discards: u64,
    overruns: u64,
}

fn parse_mac(text: &str) -> Result<MacAddr, &'static str> {
    text.parse().map_err(|()| "expected six bytes in hexadecimal, 02:00:00:00:00:01")
}

type Device = (Box<dyn Receive>, Box<dyn Transmit>);

fn open(name: &str, arguments: &Arguments) -> io::Result<Device> {
    if arguments.tap {
        let (receive, transmit) = tap::open(name, tap::Options::default())?;
        let mut netlink = Netlink::open()?;
        let index = netlink.require_link(receive.name())?.index;
        netlink.set_up(index, true)?;
        Ok((Box::new(receive), Box::new(transmit)))
    } else {
        let options = af_packet::Options {
            promiscuous: true,
            slots: arguments.slots,
            ..af_packet::Options::default()
        };
        let (receive, transmit) = af_packet::open(name, &options)?;
        Ok((Box::new(receive), Box::new(transmit)))
    }
}

/// Moves one burst. True if there may be more.
fn copy(
    from: &mut dyn Receive,
    to: &mut dyn Transmit,
    destination: Option<MacAddr>,
    counts: &mut Counts,
) -> io::Result<bool> {
    let n = match from.receive() {
        Ok(n) => n,
        Err(error) if error.kind() == ErrorKind::NetworkDown => 0,
        Err(error) => return Err(error),
    };
    counts.discards += from.discards();
    if n == 0 {
        return Ok(false);
    }
    for i in 0..n {
        let mut frame = from.frame(i);
        frame.restore_vlan();
        if let (Some(mac), Some(field)) = (destination, frame.bytes_mut().get_mut(..6)) {
            field.copy_from_slice(&mac.0);
        }
        counts.bytes += frame.bytes().len() as u64;
        counts.supers += u64::from(frame.meta.offload.gso.is_some());
    }
    let sent = to.send(&mut (0..n).map(|i| from.sent(i)))?;
    from.release();
    counts.trips += 1;
    counts.frames += sent.frames as u64;
    counts.refused += sent.refused as u64;
    Ok(n == BURST)
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let (mut receive_a, mut transmit_a) = open(&arguments.a, &arguments)?;
    let (mut receive_b, mut transmit_b) = open(&arguments.b, &arguments)?;
    let mut holds = Vec::new();
    if !arguments.tap && !arguments.no_hold {
        for name in [&arguments.a, &arguments.b] {
            let index = Netlink::open()?.require_link(name)?.index;
            match ingress::hold(index, ingress::Method::Best, None) {
                Ok(hold) => holds.push(hold),
                Err(error) => eprintln!("the kernel handles the frames of {name} too: {error}"),
            }
        }
    }
    let mut poll = Poll::new()?;
    for (i, device) in [&receive_a, &receive_b].into_iter().enumerate() {
        if let Some(fd) = device.fd() {
            poll.registry().register(
                &mut SourceFd(&fd.as_raw_fd()),
                Token(i),
                Interest::READABLE,
            )?;
        }
    }
    let mut events = Events::with_capacity(2);
    let mut counts = Counts::default();
    let began = Instant::now();
    let ends = arguments.seconds.map(|s| began + Duration::from_secs(s));
    while ends.is_none_or(|end| Instant::now() < end) {
        // Readiness is told once, so both are drained before the next wait.
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        let mut more = true;
        while more {
            let towards_b = arguments.towards_b;
            more = copy(&mut *receive_a, &mut *transmit_b, towards_b, &mut counts)?;
            more |= copy(&mut *receive_b, &mut *transmit_a, arguments.towards_a, &mut counts)?;
        }
    }
    counts.overruns = receive_a.overruns() + receive_b.overruns();
    report(&counts, began.elapsed());
    drop(holds);
    Ok(())
}

fn report(counts: &Counts, elapsed: Duration) {
    let Counts { trips, frames, supers, bytes, refused, discards, overruns } = counts;
    let busy = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds()
    });
    println!(
        "{frames} frames ({supers} super-packets, {bytes} bytes) in {trips} trips, {refused} \
         refused, {discards} discarded, {overruns} overrun, {busy} ms of CPU in {elapsed:?}"
    );
}
