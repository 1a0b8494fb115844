//! The engine: what becomes of each packet. No I/O, no clock, no threads: frames, time and
//! randomness are handed in, frames to send come out, so that a test can be its whole world.
//!
//! `forward.rs` shows a packet's way from top to bottom; each stage is a file of this folder.

pub mod counters;
pub mod interface;
pub mod log;
pub mod policy;
pub mod route;
pub mod shard;

mod clamp_mss;
mod extension_headers;
mod forward;
mod fragment;
mod host;
mod icmp;
mod ip_options;
mod link_in;
mod link_out;
mod neighbour;
mod offload;
mod packet;
mod reject;
mod route_in;
mod rules;
mod sanity;
mod segment;
pub mod short;
mod standing;
pub mod steer;
mod synproxy;
mod track;
mod translate;

pub use counters::{Counters, Drop, Traffic};
pub use interface::{Interface, InterfaceId, Interfaces, Kind, LOOPBACK, PortId};
pub use packet::OwnedFrame;
pub use route::{Routes, StaticRoute, Target};
pub use rules::{RulesInForce, Superseded};
pub(crate) use shard::Place;
pub(crate) use shard::lock;
pub use shard::{Lent, Shard, Shards};
pub(crate) use short::AtHand;
pub(crate) use short::ahead::{Read, TOGETHER};
pub(crate) use short::plain;
pub use short::{Leases, OFTEN, ShortWay};
pub use steer::Onward;

use crate::conntrack::Moment;
use crate::io::Frame;
use crate::sysctl::Sysctls;
use policy::Policy;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use standing::{Order, Standing, conntrack_settings};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tidegate_filter::Ruleset;
use tidegate_filter::live::Change;
use tidegate_nat::{Conntrack, FragmentSettings, Reassembler};
use tidegate_packet::{Addr, Family, Instant, MacAddr, ParseError, Prefix};

/// What becomes of a frame that was handed in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Send it, as it stands now, out of this port.
    Transmit(PortId),
    /// It is no longer needed: dropped, answered, copied, or kept for later in a copy.
    Consumed,
}

/// What a gateway is made of.
#[derive(Debug)]
pub struct Setup {
    /// Interfaces and ports.
    pub interfaces: Interfaces,
    /// Routes beyond those to the interfaces' own networks.
    pub routes: Vec<StaticRoute>,
    /// The IPv4 rules.
    pub rules_v4: Ruleset,
    /// The IPv6 rules.
    pub rules_v6: Ruleset,
    /// Kernel parameters.
    pub sysctls: Sysctls,
    /// The TUN device of the namespace's own kernel; absent: the built-in host.
    pub host_port: Option<PortId>,
    /// Secret by which flows are given to shards: that of the devices ([`crate::io::af_packet::Fanout`]).
    pub steering: u32,
    /// Secret for hash keys, ports and identifiers.
    pub seed: [u8; 32],
}

/// A gateway's state that all packets meet, and room for the connections of the shard that it works
/// for ([`Engine::lend`]).
#[derive(Debug)]
pub struct Engine {
    interfaces: Interfaces,
    static_routes: Vec<StaticRoute>,
    routes: Routes,
    policy: Policy,
    sysctls: Sysctls,
    rules: RulesInForce,
    /// Those of the shard at work; else an empty table, which keeps what all tables share.
    conntrack: Box<Conntrack>,
    standing: Standing,
    shards: Shards,
    /// The shard whose connections are here.
    lent: Option<usize>,
    /// Secret of [`tidegate_nat::home`].
    steering: u32,
    reassemblers: [Reassembler<fragment::Carried>; 2],
    neighbours: neighbour::Neighbours,
    stations: link_in::Stations,
    limiter: icmp::Limiter,
    redirects: neighbour::redirect::Redirects,
    counters: Counters,
    rng: StdRng,
    /// Random bits for rules; changes with every walk.
    walks: u64,
    host_port: Option<PortId>,
    dhcp_interfaces: HashSet<InterfaceId>,
    dhcp_frames: Vec<(InterfaceId, Vec<u8>)>,
    /// Packets of the gateway's own that wait for the present packet to end.
    own: VecDeque<forward::Own>,
    /// Copies that TEE has made and that wait for the present packet to end.
    copies: Vec<rules::Copy>,
    /// Frames to send besides the one at hand.
    outbox: Vec<(PortId, OwnedFrame)>,
    log: log::Waiting,
    /// The groups of NFLOG whose packets are kept for a listener.
    listened: log::Groups,
    short_way: ShortWay,
    /// Ends with everything that may lead packets another way.
    generation: short::Generation,
    /// That of the shard at work.
    short: Box<short::Short>,
    leases: Option<Arc<Leases>>,
    at_hand: AtHand,
    /// When connections were swept, and whether that came to its end.
    swept: Instant,
    /// When leases were brought up to date.
    settled: Instant,
    behind: bool,
    now: Instant,
    unix_nanos: u64,
}

impl Engine {
    /// A gateway with nothing in its tables.
    pub fn new(setup: Setup) -> Self {
        let Setup { interfaces, routes, rules_v4, rules_v6, sysctls, host_port, steering, seed } =
            setup;
        let policy = Policy::new(&sysctls, &interfaces, [&rules_v4, &rules_v6]);
        let mut tracking = conntrack_settings(&sysctls);
        tracking.acct |= rules_v4.needs_accounting() || rules_v6.needs_accounting();
        let mut rng = StdRng::from_seed(seed);
        let key = [rng.next_u64(), rng.next_u64()];
        let rules = RulesInForce::new(rules_v4, rules_v6);
        let short_way = sysctls.short_way().into();
        let generation = short::Generation::new(rules.set_changes());
        Self {
            routes: Routes::build(&interfaces, &routes),
            counters: Counters::new(interfaces.port_count()),
            interfaces,
            static_routes: routes,
            policy,
            conntrack: Box::new(Conntrack::new(tracking, key)),
            standing: Standing::new(tracking, key),
            shards: Shards::default(),
            lent: None,
            steering,
            reassemblers: fragment_settings(&sysctls).map(Reassembler::new),
            sysctls,
            rules,
            neighbours: neighbour::Neighbours::new(generation.end().clone()),
            stations: link_in::Stations::new(generation.end().clone()),
            limiter: icmp::Limiter::default(),
            redirects: neighbour::redirect::Redirects::default(),
            rng,
            walks: key[0].rotate_left(32) ^ key[1],
            host_port,
            dhcp_interfaces: HashSet::new(),
            dhcp_frames: Vec::new(),
            own: VecDeque::new(),
            copies: Vec::new(),
            outbox: Vec::new(),
            log: log::Waiting::default(),
            listened: log::Groups::default(),
            short_way,
            short: Box::new(short::Short::new(generation.clone(), host_port)),
            leases: None,
            at_hand: AtHand::default(),
            swept: Instant::ZERO,
            settled: Instant::ZERO,
            behind: false,
            generation,
            now: Instant::ZERO,
            unix_nanos: 0,
        }
    }

    /// Says what time it is: monotonic, and nanoseconds since 1970. Once a burst.
    #[inline]
    pub fn set_time(&mut self, now: Instant, unix_nanos: u64) {
        self.now = now;
        self.unix_nanos = unix_nanos;
        self.conntrack.set_event_time(now);
    }

    /// The time that it is for the engine.
    pub fn moment(&self) -> Moment {
        Moment { now: self.now, unix_nanos: self.unix_nanos }
    }

    /// Takes in a frame that a port has received. Frames besides it that have to be sent are in
    /// [`Engine::outbox`] afterwards.
    #[inline]
    pub fn input(&mut self, port: PortId, mut frame: Frame<'_>) -> Fate {
        if self.lent.is_none() {
            self.lend(0);
        }
        let Self { short, conntrack, now, at_hand, .. } = self;
        match short.take(conntrack, port, &mut frame, *now, at_hand) {
            Some(fate) => fate,
            None => self.long_way(port, frame),
        }
    }

    /// The same for a frame that a shard had no short way for.
    #[inline]
    pub(crate) fn go_on(&mut self, port: PortId, frame: Frame<'_>, at_hand: &mut AtHand) -> Fate {
        self.at_hand.take_over(at_hand);
        self.long_way(port, frame)
    }

    fn long_way(&mut self, port: PortId, mut frame: Frame<'_>) -> Fate {
        if self.host_port == Some(port) {
            return self.go(|engine| engine.host_output(frame));
        }
        let expected = self.try_short_way(port, &mut frame);
        self.begin_trail();
        let fate = self.go(|engine| {
            let frame = Frame { slot: &mut *frame.slot, meta: &mut *frame.meta };
            let result = engine.link_in(port, frame);
            engine.end_trail();
            result
        });
        if let Some(expected) = expected {
            self.check_short_way(&expected, fate, &frame);
        }
        fate
    }

    /// Takes a packet its long way, and after it what it has caused.
    #[inline]
    fn go(&mut self, way: impl FnOnce(&mut Self) -> Result<Fate, Drop>) -> Fate {
        let before = self.outbox.len();
        let result = way(self);
        if !self.own.is_empty() || !self.copies.is_empty() {
            // Errors about a packet leave before it, also where it leaves in pieces.
            let pieces = self.outbox.split_off(before);
            self.send_own();
            self.outbox.extend(pieces);
        }
        match result {
            Ok(fate) => fate,
            Err(reason) => {
                self.counters.drop(reason);
                Fate::Consumed
            }
        }
    }

    /// Does what time has made due. Call it again after [`Engine::next_tick`]. True if something waits for the manager.
    pub fn tick(&mut self) -> bool {
        let due = !self.behind || self.now - self.swept >= PAUSE;
        let news = due && self.sweep();
        if !due {
            self.lend(0);
        }
        for reassembler in &mut self.reassemblers {
            let given_up = reassembler.expire(self.now);
            self.counters.drop_many(Drop::Fragment, given_up as u64);
        }
        self.report_expired_fragments();
        let (mut questions, mut failed) = (Vec::new(), Vec::new());
        self.neighbours.tick(self.now, &mut questions, &mut failed);
        for question in questions {
            self.ask(question.key.0, question.key.1, question.asker, question.mac);
        }
        for (_, mut waiting) in failed {
            self.counters.drop(Drop::NeighbourFailed);
            let l3 = waiting.frame.meta.start;
            self.lend_for(waiting.tracked.as_ref());
            if let Ok(packet) = packet::Packet::decode(waiting.frame.frame(), l3) {
                let message = icmp::Message::host_unreachable(packet.parsed.family);
                let about = icmp::About {
                    parsed: &packet.parsed,
                    bytes: packet.bytes(),
                    input: waiting.input,
                    tracked: waiting.tracked.as_ref(),
                    options: None,
                };
                self.send_error_about(about, message);
            }
        }
        self.send_own();
        news | self.has_news()
    }

    /// Removes connections whose time is over and carries out orders to connections, in all shards:
    /// about 512 of them. True if something waits for the manager.
    pub fn sweep(&mut self) -> bool {
        let shards = self.shards.count().max(1);
        let most = (SWEPT_AT_ONCE / shards).max(SWEPT_AT_ONCE / 16);
        let mut news = false;
        (self.behind, self.swept) = (false, self.now);
        // There may be thousands, and a sweep that is behind goes on at once.
        let settles = self.now - self.settled >= TICK;
        if settles {
            self.settled = self.now;
        }
        for number in 0..shards {
            self.lend(number);
            if settles {
                self.settle_leases();
            }
            self.conntrack.sweep(self.now, most);
            self.behind |= self.conntrack.is_behind();
            news |= self.has_news();
        }
        if settles {
            self.prolong_leases();
            // What ended leases have counted is kept until then.
            if let Some(leases) = &self.leases {
                leases.settle(self.rules.counters_mut(), &mut self.counters);
            }
        }
        news
    }

    /// When [`Engine::tick`] has to be called again at the latest.
    pub fn next_tick(&self) -> Duration {
        match (self.behind, self.is_waiting()) {
            (true, _) => PAUSE,
            (false, true) => TICK,
            (false, false) => IDLE_TICK,
        }
    }

    /// Whether [`Engine::sweep`] has left something to be done at once.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Whether something is due soon: a neighbour was asked.
    pub fn is_waiting(&self) -> bool {
        self.neighbours.is_asking()
    }

    /// Frames to be sent besides those handed in.
    #[inline]
    pub fn outbox(&mut self) -> &mut Vec<(PortId, OwnedFrame)> {
        &mut self.outbox
    }

    /// Whether [`Engine::take_log`], [`Engine::take_dhcp`] or the connection table's events have
    /// something.
    #[inline]
    pub fn has_news(&self) -> bool {
        !self.log.is_empty()
            || !self.dhcp_frames.is_empty()
            || self.conntrack.has_events()
            || self.conntrack.has_block_events()
    }

    /// What rules, and blocks of ports, have left for the log since the last call.
    pub fn take_log(&mut self) -> log::Waiting {
        let (blocks, lost) = self.conntrack.block_events();
        for block in &blocks {
            self.log.line(|| log::Line::of_block(block));
        }
        self.log.lost += lost;
        std::mem::take(&mut self.log)
    }

    /// Says which groups of NFLOG have a listener: their packets are kept for
    /// [`Engine::take_log`], those of others become lines.
    pub fn listen(&mut self, groups: log::Groups) {
        self.listened = groups;
    }

    /// The counters, for what happens outside: refused and overrun frames.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// The secret by which flows are given to shards.
    pub fn steering(&self) -> u32 {
        self.steering
    }

    /// The interfaces.
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.conntrack.total()
    }

    /// How many endpoint-independent mappings there are.
    pub fn mappings(&self) -> usize {
        self.conntrack.mappings()
    }

    /// Whether somebody listens to what happens to connections. `nf_conntrack_events = 0` means that
    /// nobody is told.
    pub fn listen_to_connections(&mut self, wanted: bool) {
        self.standing.listen = wanted && self.standing.settings.events;
        self.standing.changed();
    }

    /// The rules in force. Shards settle what their packets have counted when they are lent.
    pub fn rules_in_force(&self) -> &RulesInForce {
        &self.rules
    }

    /// Replaces the rules. Connections, neighbours and `recent` lists stay. Gives the old rules back:
    /// to take thousands of them apart takes longer than packets should wait.
    pub fn replace_rules(&mut self, v4: Ruleset, v6: Ruleset) -> [Arc<Ruleset>; 2] {
        let old = self.rules.replace(v4, v6);
        self.rules_changed();
        self.follow_rules();
        old
    }

    /// Replaces rules by saved ones with their counters, and `recent` lists that no rule names any
    /// more go.
    pub fn restore_rules(&mut self, rulesets: [Option<Ruleset>; 2], edited: bool) {
        self.rules.restore(rulesets, edited);
        self.rebuild();
    }

    /// Puts a change of one family's rules in force, if `base` still is. Gives the old rules back.
    pub fn change_rules(
        &mut self,
        base: &Arc<Ruleset>,
        change: Change,
        seen: &tidegate_filter::Counters,
    ) -> Result<Arc<Ruleset>, Superseded> {
        let old = self.rules.follow(base, change, seen)?;
        self.rules_changed();
        self.follow_rules();
        Ok(old)
    }

    /// Replaces the kernel parameters.
    pub fn replace_sysctls(&mut self, sysctls: Sysctls) {
        self.standing.settings = conntrack_settings(&sysctls);
        let fragments = fragment_settings(&sysctls);
        for (reassembler, settings) in self.reassemblers.iter_mut().zip(fragments) {
            *reassembler.settings_mut() = settings;
        }
        // A comparison goes on.
        if self.short_way != ShortWay::Compared {
            self.short_way = sysctls.short_way().into();
        }
        if let Some(leases) = &self.leases {
            leases.allow(sysctls.bypass());
        }
        self.sysctls = sysctls;
        self.rebuild();
    }

    /// Replaces an interface's addresses and the routes. Connections that were masqueraded to an
    /// address that is gone are forgotten, as in Linux.
    pub fn replace_addresses(
        &mut self,
        id: InterfaceId,
        addresses: Vec<Prefix>,
        routes: Vec<StaticRoute>,
    ) {
        let before = self.interfaces.get(id).addresses.clone();
        self.interfaces.set_addresses(id, addresses);
        let lost = before.iter().any(|p| !self.interfaces.get(id).has(p.addr()));
        if lost {
            self.standing.order(Order::ForgetMasqueraded(id));
        }
        self.replace_routes(routes);
        let lost = self.neighbours.flush(id);
        self.counters.drop_many(Drop::NeighbourFailed, lost);
    }

    /// The device of an interface was made again: it has another link address and MTU, and who was
    /// at the other end is unknown.
    pub fn replace_link(&mut self, id: InterfaceId, mac: MacAddr, mtu: u32) {
        self.interfaces.set_link(id, mac, mtu);
        let lost = self.neighbours.flush(id);
        self.counters.drop_many(Drop::NeighbourFailed, lost);
        self.rebuild();
    }

    /// Replaces the routes beyond those to the interfaces' own networks.
    pub fn replace_routes(&mut self, routes: Vec<StaticRoute>) {
        self.static_routes = routes;
        self.routes = Routes::build(&self.interfaces, &self.static_routes);
        self.undecide();
    }

    /// The routes that were configured.
    pub fn static_routes(&self) -> &[StaticRoute] {
        &self.static_routes
    }

    /// Adds a neighbour that is never asked for.
    pub fn set_neighbour(&mut self, interface: InterfaceId, addr: Addr, mac: MacAddr) {
        self.neighbours.set_permanent((interface, addr), mac);
    }

    /// The neighbours known or asked for.
    pub fn neighbours(&self) -> impl Iterator<Item = (InterfaceId, Addr, Option<MacAddr>)> {
        self.neighbours.iter().map(|((id, addr), mac)| (id, addr, mac))
    }

    /// Diverts DHCP answers on an interface to [`Engine::take_dhcp`].
    pub fn divert_dhcp(&mut self, interface: InterfaceId) {
        self.dhcp_interfaces.insert(interface);
        self.undecide();
    }

    /// DHCP answers that came in, as whole frames.
    pub fn take_dhcp(&mut self) -> Vec<(InterfaceId, Vec<u8>)> {
        std::mem::take(&mut self.dhcp_frames)
    }

    /// Sends a frame of the gateway's own client out of an interface, past all rules.
    pub fn send_frame(&mut self, interface: InterfaceId, frame: &[u8]) {
        self.transmit_on_link(interface, frame, MacAddr::BROADCAST);
    }

    /// Works out again what follows from sysctls, interfaces and rules.
    fn rebuild(&mut self) {
        let (v4, v6) = (self.rules.of(Family::V4), self.rules.of(Family::V6));
        self.take_policy(Policy::new(&self.sysctls, &self.interfaces, [v4, v6]));
    }

    /// The same after a change of rules alone, for which packets shouldn't have to wait.
    fn follow_rules(&mut self) {
        let (v4, v6) = (self.rules.of(Family::V4), self.rules.of(Family::V6));
        let mut policy = self.policy.clone();
        policy.follow_rules([v4, v6]);
        self.take_policy(policy);
    }

    fn take_policy(&mut self, policy: Policy) {
        for family in [Family::V4, Family::V6] {
            if policy.tracks(family) && !self.policy.tracks(family) {
                self.standing.order(Order::ForgetWindows(family));
            }
        }
        self.policy = policy;
        self.generation.follow(self.rules.set_changes());
        // A rule that asks for it switches accounting on (connbytes_mt_check).
        let asked = [Family::V4, Family::V6].map(|f| self.rules.of(f).needs_accounting());
        let wanted = self.sysctls.conntrack("acct").is_some_and(|n| n != 0);
        self.standing.settings.acct = wanted || asked.contains(&true);
        self.standing.changed();
    }

    fn next_ip_id(&mut self) -> u16 {
        self.rng.next_u32() as u16
    }

    fn next_fragment_id(&mut self) -> u32 {
        self.rng.next_u32()
    }
}

/// Connections that a sweep removes at most: some hundred microseconds' work.
const SWEPT_AT_ONCE: usize = 512;

/// What packets have to themselves between two sweeps if more is to be done.
const PAUSE: Duration = Duration::from_millis(1);

/// How often [`Engine::tick`] is called while the engine waits for nothing.
const IDLE_TICK: Duration = Duration::from_millis(500);

/// How often [`Engine::tick`] has to be called while the engine waits for something.
pub const TICK: Duration = Duration::from_millis(50);

impl From<ParseError> for Drop {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Truncated => Self::IpTruncated,
            ParseError::Version => Self::IpVersion,
            ParseError::HeaderLength => Self::IpHeaderLength,
            ParseError::Length => Self::IpLength,
            ParseError::HeaderChecksum => Self::IpHeaderChecksum,
            ParseError::ExtensionHeader => Self::Ip6ExtensionHeader,
        }
    }
}

/// Bounds of the fragment queues, IPv4 and IPv6.
fn fragment_settings(sysctls: &Sysctls) -> [FragmentSettings; 2] {
    [Family::V4, Family::V6].map(|family| FragmentSettings {
        max_bytes: sysctls.fragment_bytes(family),
        timeout: sysctls.fragment_time(family),
    })
}
