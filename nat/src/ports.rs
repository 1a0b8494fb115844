//! The choice of addresses and ports for a translated connection, as netfilter makes it.

use tidegate_packet::jhash::jhash2;
use tidegate_packet::{Addr, Instant, Prefix, protocol};

use crate::choice::MappingRule;
use crate::conn::{Connection, Direction, Status};
use crate::table::Conntrack;
use crate::tcp::TcpState;
use crate::tracked::{Entry, Loose, Tracked};
use crate::{Manip, Tuple};

/// The addresses and ports a translation may choose from.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// First and last address; absent: the address stays.
    pub addrs: Option<(Addr, Addr)>,
    /// First and last port (ICMP: identifier); absent: any, the packet's own first.
    pub ports: Option<(u16, u16)>,
    /// The port is shifted by its distance from this one.
    pub base_port: Option<u16>,
    /// `--random`. In the kernel as here the same as `--random-fully`.
    pub random: bool,
    /// `--random-fully`: even a free port isn't kept, the search starts anywhere.
    pub random_fully: bool,
    /// `--persistent`: the choice of the address doesn't depend on the destination.
    pub persistent: bool,
    /// `NETMAP`: the network bits become this network's, the host bits stay. Goes before `addrs`.
    pub netmap: Option<Prefix>,
    /// `--mapping endpoint-independent`: one outside address and port for each inside one.
    pub mapping: Option<MappingRule>,
}

/// There is no free port (or, for protocols without, no free address pair) in the range: the
/// packet must be dropped.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free address and port to translate to")]
pub struct Exhausted;

/// Most ports tried from one start.
const MOST_ATTEMPTS: u32 = 128;
/// With no more attempts left than this, closed TCP connections give up their port.
const LAST_ATTEMPTS: u32 = 32;

impl Conntrack {
    /// Decides one end of the packet's new connection; `None` is the null binding, which keeps the
    /// address and, where it is free, the port. Does nothing if that end is decided already or the
    /// connection is in the table. `random` is asked for 32 random bits at a time.
    pub fn set_nat(
        &mut self,
        tracked: &mut Tracked,
        manip: Manip,
        range: Option<&Range>,
        now: Instant,
        random: &mut dyn FnMut() -> u32,
    ) -> Result<(), Exhausted> {
        if !self.needs_nat(tracked, manip) {
            return Ok(());
        }
        let Entry::Own(loose) = &mut tracked.entry else { return Ok(()) };
        let known = loose.is_free(Direction::Reply, self.shared.entered);
        // The null binding leaves what is free as it is.
        if range.is_none()
            && (manip == Manip::Destination || self.mappings.len() == 0)
            && let Some(hash) = known.or_else(|| self.vacant(&loose.reply(), loose.zones(), now))
        {
            loose.free[Direction::Reply.index()] = Some(hash);
            loose.status.set(Status::done(manip));
            return Ok(());
        }
        let Loose { conn, free, source, .. } = &mut **loose;
        // What the packet will look like so far: earlier manipulations included.
        let Some(current) = conn.reply().inverse() else { return Ok(()) };
        let of_network = range.and_then(|range| range.without_netmap(&current, manip));
        let range = of_network.as_ref().or(range).unwrap_or(&Range::ANY);
        let zones = conn.zones();
        let mapping = crate::mapping::NONE;
        let mut choice = Choice {
            table: self,
            conn,
            zones,
            manip,
            range,
            now,
            random,
            mapping,
            free: known.map(|hash| (current, hash)),
            source: None,
        };
        let chosen = choice.choose(&current).ok_or(Exhausted)?;
        let Some(reply) = chosen.inverse() else { return Ok(()) };
        // A clash of the destination may still be mended by another source port.
        let known = match choice.known_free(&chosen) {
            None if manip == Manip::Source && choice.is_free(&chosen) => choice.known_free(&chosen),
            known => known,
        };
        if manip == Manip::Source && (known.is_none() || choice.is_reserved(&chosen)) {
            return Err(Exhausted);
        }
        let mapping = choice.mapping;
        free[Direction::Reply.index()] = known;
        *source = choice.source.or(*source);
        if manip == Manip::Source {
            conn.set_mapping(0, mapping);
        }
        if chosen != current {
            conn.set_tuple(Direction::Reply, &reply);
            conn.status.set(Status::nat(manip));
        }
        conn.status.set(Status::done(manip));
        Ok(())
    }

    /// The hash of a reply tuple, if no connection has it.
    #[inline]
    fn vacant(&mut self, reply: &Tuple, zones: [u16; 2], now: Instant) -> Option<u64> {
        let (_, hash) = self.hashed(reply);
        let holder = self.holder((reply, hash), zones, Direction::Reply, now);
        holder.is_none().then_some(hash)
    }
}

impl Range {
    /// Anything goes, and what is there already goes first.
    const ANY: Self = Self {
        addrs: None,
        ports: None,
        base_port: None,
        random: false,
        random_fully: false,
        persistent: false,
        netmap: None,
        mapping: None,
    };

    /// Resolves NETMAP, if that is asked for, to the one address it stands for.
    fn without_netmap(&self, current: &Tuple, manip: Manip) -> Option<Self> {
        let network = self.netmap?;
        let old = match manip {
            Manip::Source => current.src,
            Manip::Destination => current.dst,
        };
        let mask = network.mask();
        let new = Addr::from_bits(network.addr().bits() & mask | old.bits() & !mask);
        Some(Self { addrs: Some((new, new)), netmap: None, ..*self })
    }

    pub(crate) fn any_random(&self) -> bool {
        self.random || self.random_fully
    }

    pub(crate) fn has_addr(&self, addr: Addr) -> bool {
        self.addrs.is_none_or(|(first, last)| (first..=last).contains(&addr))
    }

    /// Whether a tuple's port (or identifier) is one of the range's. Protocols without ports fit
    /// in any range.
    pub(crate) fn has_port(&self, tuple: &Tuple, manip: Manip) -> bool {
        let Some((first, last)) = self.ports else { return true };
        let port = match manip {
            _ if tuple.is_icmp() => tuple.sport,
            _ if !tuple.has_ports() && tuple.protocol != protocol::GRE => return true,
            Manip::Source => tuple.sport,
            Manip::Destination => tuple.dport,
        };
        (first..=last).contains(&port)
    }
}

/// One choice under way.
pub(crate) struct Choice<'a> {
    pub(crate) table: &'a mut Conntrack,
    pub(crate) conn: &'a Connection,
    pub(crate) zones: [u16; 2],
    pub(crate) manip: Manip,
    pub(crate) range: &'a Range,
    pub(crate) now: Instant,
    pub(crate) random: &'a mut dyn FnMut() -> u32,
    /// The endpoint-independent mapping that was chosen.
    pub(crate) mapping: u32,
    /// The tuple last found to be free, and the hash of what answers to it look like.
    pub(crate) free: Option<(Tuple, u64)>,
    /// The hash of the original source, once it was needed.
    pub(crate) source: Option<u64>,
}

impl Choice<'_> {
    /// By a mapping of our own where the rule wants one, else the steps of netfilter's
    /// `get_unique_tuple`. What comes out may be taken all the same.
    fn choose(&mut self, current: &Tuple) -> Option<Tuple> {
        if self.manip == Manip::Source
            && let Some(mapped) = self.mapped(current)
        {
            return mapped;
        }
        Some(self.choose_as_netfilter(current))
    }

    fn choose_as_netfilter(&mut self, current: &Tuple) -> Tuple {
        let range = self.range;
        if self.manip == Manip::Source && !range.any_random() {
            // 1. What fits as it is, stays; what doesn't gets the mapping its source has already.
            if range.has_addr(current.src) && range.has_port(current, Manip::Source) {
                if !self.is_taken(current) {
                    return *current;
                }
            } else if let Some(mapped) = self.existing_mapping(current)
                && !self.is_taken(&mapped)
            {
                return mapped;
            }
        }
        // 2. An address.
        let mut tuple = *current;
        pick_address(&mut tuple, self.manip, range);
        // 3. A port, unless the one there will do.
        let will_do = match range.ports {
            _ if range.any_random() => false,
            Some(_) if range.base_port.is_some() => false,
            Some((first, last)) => {
                range.has_port(&tuple, self.manip) && (first == last || !self.is_taken(&tuple))
            }
            None => !self.is_taken(&tuple),
        };
        if will_do {
            return tuple;
        }
        self.pick_port(&mut tuple);
        tuple
    }

    /// Whether answers to this tuple would belong to another connection, or to another inside end
    /// whose mapping it is.
    pub(crate) fn is_taken(&mut self, tuple: &Tuple) -> bool {
        if self.manip == Manip::Source && self.is_reserved(tuple) {
            return true;
        }
        let taken = !self.is_free(tuple);
        self.table.stats.found += u64::from(taken);
        taken
    }

    /// The hash of what answers to this tuple look like, if it was found to be free.
    fn known_free(&self, tuple: &Tuple) -> Option<u64> {
        self.free.and_then(|(known, hash)| (known == *tuple).then_some(hash))
    }

    /// Whether answers to this tuple belong to no connection.
    fn is_free(&mut self, tuple: &Tuple) -> bool {
        if self.known_free(tuple).is_some() {
            return true;
        }
        let Some(reply) = tuple.inverse() else { return true };
        let Some(hash) = self.table.vacant(&reply, self.zones, self.now) else { return false };
        self.free = Some((*tuple, hash));
        true
    }

    /// The newest translation of the same original source that the range allows
    /// (`find_appropriate_src`): endpoint-independent mapping (RFC 4787 REQ-1) as far as it goes.
    fn existing_mapping(&mut self, current: &Tuple) -> Option<Tuple> {
        let hash = self.table.key.source(current);
        // An identifier of ICMP may have been changed with the destination.
        self.source = self.conn.has_source(current).then_some(hash);
        self.table.outside_end((current, hash), self.zones[0], |(src, sport)| {
            let mapped = Tuple { src, sport, ..*current };
            (self.range.has_addr(mapped.src) && self.range.has_port(&mapped, Manip::Source))
                .then_some(mapped)
        })
    }

    /// Searches a free port from a start, at most [`MOST_ATTEMPTS`] and then, from other starts,
    /// ever fewer. Ends on a taken one if there is none.
    fn pick_port(&mut self, tuple: &mut Tuple) {
        let icmp = tuple.is_icmp();
        // Keys of GRE are call ids only where a helper has read them.
        let call = tuple.protocol == protocol::GRE && self.conn.master().is_some();
        if !icmp && !tuple.has_ports() && !call {
            return;
        }
        let own = match self.manip {
            Manip::Destination if !icmp => tuple.dport,
            _ => tuple.sport,
        };
        let (first, last) = match self.range.ports {
            Some((a, b)) => (a.min(b), a.max(b)),
            None if icmp => (0, u16::MAX),
            None if call => (1, u16::MAX),
            // A destination port is never changed unasked.
            None if self.manip == Manip::Destination => return,
            None => port_class(own),
        };
        let size = u32::from(last - first) + 1;
        let mut offset = match self.range.base_port {
            Some(base) => own.wrapping_sub(base),
            None if self.manip == Manip::Source || self.range.any_random() => {
                (self.random)() as u16
            }
            // Destination ports are given out from the bottom.
            None => 0,
        };
        let mut attempts = size.min(MOST_ATTEMPTS);
        loop {
            for left in (1..=attempts).rev() {
                let port = first + (u32::from(offset) % size) as u16;
                match self.manip {
                    Manip::Destination if !icmp => tuple.dport = port,
                    _ => tuple.sport = port,
                }
                if !self.is_taken(tuple) || left <= LAST_ATTEMPTS && self.evict(tuple) {
                    return;
                }
                offset = offset.wrapping_add(1);
            }
            if attempts >= size || attempts < 16 {
                return;
            }
            attempts /= 2;
            offset = (self.random)() as u16;
        }
    }

    /// Near the end of the search a new TCP connection takes the place of one that is closed
    /// (TIME_WAIT or CLOSE), if its sequence numbers are beyond that one's.
    fn evict(&mut self, tuple: &Tuple) -> bool {
        let Some(reply) = tuple.inverse() else { return false };
        let reply = self.table.hashed(&reply);
        let holder = self.table.holder(reply, self.zones, Direction::Reply, self.now);
        let Some((id, direction)) = holder else { return true };
        let Some(mine) = self.conn.tcp() else { return false };
        let done = self.table.visit_of(id, |table| {
            let Some(old) = table.get(id) else { return false };
            let gives_way = direction == Direction::Reply
                && old.status.has(Status::SNAT)
                && mine.state() == TcpState::SynSent
                && old.tcp().is_some_and(|tcp| tcp.is_over() && mine.is_beyond(tcp));
            gives_way && table.delete(id)
        });
        done == Some(true)
    }
}

/// Ports below 1024 mean something to some servers, so they stay among themselves.
pub(crate) fn port_class(port: u16) -> (u16, u16) {
    match port {
        0..512 => (1, 511),
        512..1024 => (600, 1023),
        _ => (1024, u16::MAX),
    }
}

/// An address out of the range, by a hash of the source and (unless `--persistent`) the
/// destination: the same client keeps its address towards a server, also after a restart
/// (`find_best_ips_proto`).
pub(crate) fn pick_address(tuple: &mut Tuple, manip: Manip, range: &Range) {
    let Some((first, last)) = range.addrs else { return };
    if first == last {
        return set_address(tuple, manip, first);
    }
    let v4 = tuple.src.is_v4();
    let words = if v4 { 1 } else { 4 };
    let (src, mut dst) = (words_of(tuple.src), words_of(tuple.dst));
    let (low, high) = (words_of(first), words_of(last));
    // The hash reads the words as they lie in memory, in little-endian order.
    let seed = if range.persistent { 0 } else { dst[words - 1].swap_bytes() };
    let mut hash = jhash2(&src.map(u32::swap_bytes), seed);
    let mut chosen = [0u32; 4];
    let mut whole = false;
    for i in 0..words {
        let (start, count) = if whole {
            (0, u32::MAX)
        } else {
            (low[i], high[i].wrapping_sub(low[i]).wrapping_add(1))
        };
        chosen[i] = start.wrapping_add(((u64::from(hash) * u64::from(count)) >> 32) as u32);
        whole |= chosen[i] != high[i];
        // The kernel writes into the tuple that it reads from: a chosen destination counts here.
        if manip == Manip::Destination {
            dst[i] = chosen[i];
        }
        if !range.persistent {
            hash ^= dst[i].swap_bytes();
        }
    }
    let addr = if v4 {
        Addr::from_v4_bytes(chosen[0].to_be_bytes())
    } else {
        Addr::from_bits(chosen.iter().fold(0, |bits, &w| bits << 32 | u128::from(w)))
    };
    set_address(tuple, manip, addr);
}

/// The address in the kernel's union: four words in host order, for IPv4 the first alone.
fn words_of(addr: Addr) -> [u32; 4] {
    if addr.is_v4() {
        return [addr.v4_u32(), 0, 0, 0];
    }
    let bits = addr.bits();
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}

fn set_address(tuple: &mut Tuple, manip: Manip, addr: Addr) {
    match manip {
        Manip::Source => tuple.src = addr,
        Manip::Destination => tuple.dst = addr,
    }
}
