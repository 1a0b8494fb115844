//! A gateway in memory: no devices, no privileges, a clock that the caller moves.
//!
//! The same engine as behind real devices, so what holds here holds there. Tests put hosts around
//! it, the kernel oracle plays its cases on it, `replay` and `explain` run captures through it.

pub(crate) mod forwarder;

use crate::diagnostic::{Report, Source, Style};
use crate::engine::{
    AtHand, Counters, Engine, Fate, Interface, InterfaceId, Interfaces, Leases, Lent, OwnedFrame,
    Place, PortId, Setup, Shards, ShortWay, StaticRoute, TICK, Target, steer,
};
use crate::gateway::Gateway;
use crate::io::Frame;
use crate::io::channel::Flying;
use crate::sysctl::{Assignments, Sysctls};
use forwarder::InMemory;
use std::sync::Arc;
use std::time::Duration;
use tidegate_filter as filter;
use tidegate_nat::Stats;
use tidegate_packet::{Addr, Family, Instant, MacAddr, Prefix};

/// An interface of a simulated gateway.
#[derive(Clone, Debug)]
pub struct SimInterface {
    /// Its name.
    pub name: String,
    /// Its link address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Names of its ports if it is a bridge.
    pub ports: Vec<String>,
}

impl SimInterface {
    /// An Ethernet interface with an MTU of 1500.
    pub fn new(name: impl Into<String>, mac: MacAddr, addresses: &[Prefix]) -> Self {
        let addresses = addresses.to_vec();
        Self { name: name.into(), mac, addresses, mtu: 1500, ports: Vec::new() }
    }
}

/// A route of a simulated gateway.
#[derive(Clone, Debug)]
pub struct SimRoute {
    /// Destinations.
    pub to: Prefix,
    /// Next hop; absent: on the link.
    pub via: Option<Addr>,
    /// Egress; absent: the interface whose network has the next hop.
    pub dev: Option<String>,
}

/// What a simulated gateway is made of.
#[derive(Clone, Debug, Default)]
pub struct SimConfig {
    /// Its interfaces.
    pub interfaces: Vec<SimInterface>,
    /// Its routes.
    pub routes: Vec<SimRoute>,
    /// Neighbours that needn't be asked for: interface, address, link address.
    pub neighbours: Vec<(String, Addr, MacAddr)>,
    /// IPv4 rules as `iptables-save` text; empty: none.
    pub rules_v4: String,
    /// IPv6 rules.
    pub rules_v6: String,
    /// Kernel parameters as sysctl.d text.
    pub sysctls: String,
}

/// Why a simulated gateway can't be built.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// Rules that don't load.
    #[error("{family:?} rules: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Rules {
        /// Whose rules.
        family: Family,
        /// What is wrong with them.
        errors: Vec<filter::Diagnostic>,
    },
    /// Kernel parameters that don't parse.
    #[error("sysctls: {0}")]
    Sysctls(String),
    /// A name that no interface has.
    #[error("no interface {0}")]
    Interface(String),
    /// A next hop on no interface's network.
    #[error("next hop {0} is on no interface's network")]
    NextHop(Addr),
}

/// In the environment: the number of shards of gateways in memory that aren't made with a number of
/// their own. What holds with one has to hold with any, so all tests can be run with several.
pub const SHARDS: &str = "TIDEGATE_SIM_SHARDS";

/// In the environment, if it is set at all: simulated gateways lease every flow that can be leased, to
/// a forwarder in memory. What is seen of a gateway has to be the same.
pub const LEASES: &str = "TIDEGATE_SIM_LEASES";

/// A gateway in memory.
#[derive(Debug)]
pub struct Sim {
    engine: Engine,
    forwarder: Option<Arc<InMemory>>,
    shards: Shards,
    now: Instant,
    unix_nanos: u64,
    sent: Vec<(PortId, Flying)>,
    arrival: Arrival,
    arrived: usize,
}

/// Which worker of a simulated gateway receives a frame.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Arrival {
    /// The one in whose shard its flow is at home, as from a packet device (`src/io/fanout.rs`).
    #[default]
    Home,
    /// One after the other.
    Scattered,
}

impl Sim {
    /// Builds one; its clock stands at one hour, on 2026-01-01 UTC.
    pub fn new(config: &SimConfig) -> Result<Self, SimError> {
        Self::with_sets(config, &filter::Sets::new())
    }

    /// The same with sets that its rules may name.
    pub fn with_sets(config: &SimConfig, sets: &filter::Sets) -> Result<Self, SimError> {
        let shards = std::env::var(SHARDS).ok().and_then(|number| number.parse().ok());
        Self::with_shards(config, sets, shards.unwrap_or(1))
    }

    /// The same as a gateway with this many workers would have them.
    pub fn with_shards(
        config: &SimConfig,
        sets: &filter::Sets,
        shards: usize,
    ) -> Result<Self, SimError> {
        let (now, unix_nanos) = (Instant::from_secs(3600), 1_767_268_800_000_000_000);
        let mut engine = engine(config, sets)?;
        if let Some(mode) = short_way_wanted() {
            engine.set_short_way(mode);
        }
        engine.set_time(now, unix_nanos);
        let shards = engine.divide(shards);
        let arrival = arrival_wanted().unwrap_or_default();
        let (sent, forwarder) = (Vec::new(), None);
        let mut sim =
            Self { engine, forwarder, shards, now, unix_nanos, sent, arrival, arrived: 0 };
        if std::env::var_os(LEASES).is_some() {
            sim.lease_all();
        }
        Ok(sim)
    }

    /// From now on every flow is leased that can be, from its first packet on.
    pub fn lease_all(&mut self) {
        let forwarder = Arc::new(InMemory::default());
        let ports = self.engine.interfaces().port_count();
        let leases = Leases::new(forwarder.clone(), ports, 1);
        for port in 0..ports as u16 {
            leases.set_link(PortId(port), Some(forwarder::link(port)));
        }
        self.engine.set_leases(&Arc::new(leases));
        self.forwarder = Some(forwarder);
    }

    /// How many packets have been forwarded without the gateway.
    pub fn forwarded(&mut self) -> u64 {
        self.engine.settle(false);
        self.engine.leases().map_or(0, |leases| leases.taken())
    }

    /// A frame arrives on a port (an interface's own name, or a bridge's port).
    pub fn inject(&mut self, port: &str, frame: impl Into<Flying>) -> Result<(), SimError> {
        let port = self
            .engine
            .interfaces()
            .port_by_name(port)
            .ok_or_else(|| SimError::Interface(port.to_owned()))?;
        let Flying { bytes, offload } = frame.into();
        let mut owned = OwnedFrame::new(&bytes);
        owned.meta.offload = offload;
        if let Some(forwarder) = &self.forwarder {
            let egress = forwarder.forward(port, &mut owned.frame(), self.now);
            if let Some(egress) = egress {
                self.engine.outbox().push((egress, owned));
                self.gather();
                return Ok(());
            }
        }
        if let Fate::Transmit(egress) = self.input(port, owned.frame()) {
            self.engine.outbox().push((egress, owned));
        }
        if self.forwarder.is_some() {
            self.engine.give_back();
            for number in 0..self.shards.count() {
                let mut shard = self.shards.lock(number);
                shard.set_time(self.now);
                shard.lease_wanted();
            }
        }
        self.gather();
        Ok(())
    }

    /// As [`Sim::inject`], without a copy; what is sent besides is left in [`Engine::outbox`].
    pub fn input(&mut self, port: PortId, frame: Frame<'_>) -> Fate {
        let len = frame.bytes().len();
        self.engine.counters_mut().received[usize::from(port.0)].count(len);
        if self.shards.count() < 2 {
            return self.engine.input(port, frame);
        }
        self.input_at(self.worker(&frame), port, frame)
    }

    /// What the worker of a shard does with a frame, and those to whom it is handed over.
    fn input_at(&mut self, mut worker: usize, port: PortId, mut frame: Frame<'_>) -> Fate {
        self.engine.give_back();
        self.arrived += 1;
        let (mut last, mut at_hand) = (false, AtHand::default());
        loop {
            let mut shard = self.shards.lock(worker);
            shard.set_time(self.now);
            match shard.receive(port, &mut frame, None, last, &mut at_hand) {
                Place::Done(fate) => return fate,
                Place::Elsewhere(onward) => (worker, last) = (onward.shard, onward.last),
                Place::Here | Place::Unknown => break,
            }
        }
        self.engine.lend(worker);
        let fate = self.engine.go_on(port, frame, &mut at_hand);
        self.engine.give_back();
        fate
    }

    /// The worker that receives a frame.
    fn worker(&self, frame: &Frame<'_>) -> usize {
        let shards = self.shards.count();
        match self.arrival {
            Arrival::Home => steer::flow(frame.bytes())
                .map_or(0, |flow| tidegate_nat::home(self.engine.steering(), shards, &flow)),
            Arrival::Scattered => self.arrived % shards,
        }
    }

    /// Says which worker receives frames.
    pub fn set_arrival(&mut self, arrival: Arrival) {
        self.arrival = arrival;
    }

    /// Moves the clock, timers going off on the way.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while self.now < end {
            let step = TICK.min(end - self.now);
            self.now = self.now + step;
            self.unix_nanos += u64::try_from(step.as_nanos()).unwrap_or(0);
            self.engine.set_time(self.now, self.unix_nanos);
            self.engine.tick();
            self.gather();
        }
    }

    /// What the gateway has sent since the last call: port and frame, in order.
    pub fn collect(&mut self) -> Vec<(String, Flying)> {
        let sent = std::mem::take(&mut self.sent);
        let name = |port| self.engine.interfaces().port_name(port).to_owned();
        sent.into_iter().map(|(port, frame)| (name(port), frame)).collect()
    }

    /// The time that its clock shows.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// All counters.
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// The engine at work on each shard's connections in turn.
    pub fn each<R>(&mut self, mut work: impl FnMut(&mut Lent<'_>) -> R) -> Vec<R> {
        let shards = 0..self.shards.count();
        shards.map(|shard| work(&mut Lent::new(&mut self.engine, shard))).collect()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.engine.connections()
    }

    /// What the connection tables have counted.
    pub fn stats(&mut self) -> Stats {
        let parts = self.each(|lent| *lent.conntrack().stats());
        parts.iter().fold(Stats::default(), |mut sum, part| {
            sum.add(part);
            sum
        })
    }

    /// The engine, to look at its rules and neighbours.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to change its rules.
    pub fn engine_mut(&mut self) -> &mut Engine {
        self.engine.settle(true);
        &mut self.engine
    }

    /// The same gateway as threads share it.
    pub fn into_gateway(mut self) -> Gateway {
        self.engine.give_back();
        Gateway::of(self.engine, self.shards)
    }

    /// How many packets have taken the short way.
    pub fn taken_short_way(&self) -> u64 {
        self.engine.taken_short_way()
    }

    fn gather(&mut self) {
        while self.engine.is_behind() {
            self.engine.sweep();
        }
        self.engine.settle(false);
        let out = std::mem::take(self.engine.outbox());
        self.sent.extend(out.into_iter().map(|(port, frame)| {
            let flying = Flying { bytes: frame.bytes().to_vec(), offload: frame.meta.offload };
            (port, flying)
        }));
    }
}

/// The engine of such a gateway, before it is divided into shards ([`crate::gateway::Gateway::new`]).
pub fn engine(config: &SimConfig, sets: &filter::Sets) -> Result<Engine, SimError> {
    let mut interfaces = Interfaces::new();
    for wanted in &config.interfaces {
        let mut interface = Interface::new(&wanted.name, wanted.mac, wanted.mtu);
        interface.addresses.clone_from(&wanted.addresses);
        if wanted.ports.is_empty() {
            interfaces.add(interface, &[&wanted.name]);
        } else {
            interface.kind = crate::engine::Kind::Bridge;
            let ports: Vec<_> = wanted.ports.iter().map(String::as_str).collect();
            interfaces.add(interface, &ports);
        }
    }
    let routes = config.routes.iter().map(|r| route(&interfaces, r)).collect::<Result<_, _>>()?;
    let sysctls = sysctls(&config.sysctls)?;
    let mut engine = Engine::new(Setup {
        routes,
        rules_v4: load(&config.rules_v4, Family::V4, sets)?,
        rules_v6: load(&config.rules_v6, Family::V6, sets)?,
        sysctls,
        host_port: None,
        steering: 0x7131_9e37,
        seed: [7; 32],
        interfaces,
    });
    for (name, addr, mac) in &config.neighbours {
        let id = engine.interfaces().by_name(name);
        let id = id.ok_or_else(|| SimError::Interface(name.clone()))?;
        engine.set_neighbour(id, *addr, *mac);
    }
    Ok(engine)
}

/// What the environment wants of all simulated gateways: `TIDEGATE_SHORT_WAY=off`, `on`, or
/// `compared`, which takes packets both ways and panics where they differ.
fn short_way_wanted() -> Option<ShortWay> {
    match std::env::var("TIDEGATE_SHORT_WAY").ok()?.as_str() {
        "off" => Some(ShortWay::Off),
        "on" => Some(ShortWay::On),
        "compared" => Some(ShortWay::Compared),
        other => panic!("TIDEGATE_SHORT_WAY={other}"),
    }
}

/// The same for [`Arrival`]: `TIDEGATE_SIM_ARRIVAL=home` or `scattered`.
fn arrival_wanted() -> Option<Arrival> {
    match std::env::var("TIDEGATE_SIM_ARRIVAL").ok()?.as_str() {
        "home" => Some(Arrival::Home),
        "scattered" => Some(Arrival::Scattered),
        other => panic!("TIDEGATE_SIM_ARRIVAL={other}"),
    }
}

fn load(text: &str, family: Family, sets: &filter::Sets) -> Result<filter::Ruleset, SimError> {
    if text.is_empty() {
        return Ok(filter::Ruleset::empty(family, sets));
    }
    filter::load_with(filter::Source { name: "rules", text }, family, sets)
        .map(|loaded| loaded.ruleset)
        .map_err(|errors| SimError::Rules { family, errors })
}

fn sysctls(text: &str) -> Result<Sysctls, SimError> {
    let mut report = Report::default();
    let mut assignments = Assignments::default();
    assignments.read(&Source::new("sysctls", text), &mut report);
    match report.has_errors() {
        true => Err(SimError::Sysctls(report.render(Style::PLAIN))),
        false => Ok(assignments.sysctls),
    }
}

fn route(interfaces: &Interfaces, wanted: &SimRoute) -> Result<StaticRoute, SimError> {
    let egress: Option<InterfaceId> = match (&wanted.dev, wanted.via) {
        (Some(name), _) => {
            Some(interfaces.by_name(name).ok_or_else(|| SimError::Interface(name.clone()))?)
        }
        (None, Some(via)) => Some(
            interfaces
                .iter()
                .find(|(_, i)| i.addresses.iter().any(|p| p.contains(via)))
                .map(|(id, _)| id)
                .ok_or(SimError::NextHop(via))?,
        ),
        (None, None) => None,
    };
    let target = match egress {
        Some(egress) => Target::Unicast { egress, via: wanted.via },
        None => Target::Blackhole,
    };
    Ok(StaticRoute { to: wanted.to, target, metric: 0, leased: false })
}
