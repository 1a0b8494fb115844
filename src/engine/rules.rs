//! A packet meets the chains of a table.

use super::counters::Drop;
use super::interface::{InterfaceId, Interfaces};
use super::packet::Packet;
use super::route::{Routes, Target};
use super::{Engine, clamp_mss};
use std::sync::Arc;
use tidegate_filter as filter;
use tidegate_filter::live::Change;
use tidegate_filter::{Hook, LogRecord, MssClamp, Query, Ruleset, TableName, Verdict};
use tidegate_nat as nat;
use tidegate_packet::{Addr, Family};

impl Engine {
    /// Runs one table's chain at a hook. Marks and edits are made on the packet; an error is its
    /// end, and a rejected packet's answer has been queued.
    #[inline]
    pub(crate) fn rules(
        &mut self,
        table: TableName,
        hook: Hook,
        packet: &mut Packet<'_>,
        output: Option<InterfaceId>,
    ) -> Result<(), Drop> {
        if !self.rules.of(packet.parsed.family).has_rules(table, hook) {
            return Ok(());
        }
        match self.evaluate(table, hook, packet, output) {
            Verdict::Accept => Ok(()),
            Verdict::Drop => Err(Drop::RuleDrop),
            Verdict::Reject(with) => {
                self.reject(packet, with);
                Err(Drop::RuleReject)
            }
            // Validation lets nat targets into the nat table only, which `translate` runs.
            Verdict::Nat(_) => Ok(()),
        }
    }

    /// The verdict of one table's chain, with its edits made.
    pub(crate) fn evaluate(
        &mut self,
        table: TableName,
        hook: Hook,
        packet: &mut Packet<'_>,
        output: Option<InterfaceId>,
    ) -> Verdict {
        let mut edits = Edits { log: &mut self.log, mark: None, notrack: false, mss: None };
        let family = packet.parsed.family;
        let connection = connection_view(&self.conntrack, packet.tracked.as_ref(), self.now);
        let view = RoutingView { interfaces: &self.interfaces, routes: &self.routes };
        let query = Query {
            packet: &packet.parsed,
            bytes: packet.bytes(),
            input: packet.input.map(|id| self.interfaces.get(id).name.as_str()),
            output: output.map(|id| self.interfaces.get(id).name.as_str()),
            port: packet.port.map(|port| self.interfaces.port_name(port)),
            link: packet.link,
            state: state_of(packet.tracked.as_ref()),
            connection: connection.as_ref(),
            mark: packet.mark,
            now: self.now,
            unix_nanos: self.unix_nanos,
            gateway: &view,
        };
        let RulesInForce { rulesets, counters, memory, edited: _ } = &mut self.rules;
        let n = family as usize;
        let verdict =
            rulesets[n].evaluate(table, hook, &query, &mut counters[n], memory, &mut edits);
        let Edits { mark, notrack, mss, .. } = edits;
        if let Some(mark) = mark {
            packet.mark = mark;
        }
        if notrack {
            packet.tracked = Some(nat::Tracked::untracked());
        }
        if let Some(clamp) = mss {
            let mtu = self.smallest_mtu(packet, output);
            clamp_mss::clamp(packet, clamp, mtu);
        }
        verdict
    }

    /// Whether a source NAT rule would take this packet if it started a connection.
    pub(crate) fn source_nat_covers(
        &self,
        packet: &Packet<'_>,
        output: Option<InterfaceId>,
    ) -> bool {
        let view = RoutingView { interfaces: &self.interfaces, routes: &self.routes };
        let query = Query {
            packet: &packet.parsed,
            bytes: packet.bytes(),
            input: packet.input.map(|id| self.interfaces.get(id).name.as_str()),
            output: output.map(|id| self.interfaces.get(id).name.as_str()),
            port: None,
            link: packet.link,
            state: filter::CtState::New,
            connection: None,
            mark: packet.mark,
            now: self.now,
            unix_nanos: self.unix_nanos,
            gateway: &view,
        };
        self.rules.of(packet.parsed.family).covers_source(&query, &self.rules.memory)
    }

    /// The smaller MTU of a packet's two ways, for `TCPMSS --clamp-mss-to-pmtu`.
    fn smallest_mtu(&self, packet: &Packet<'_>, output: Option<InterfaceId>) -> u32 {
        let back = match self.routes.lookup(packet.parsed.src, packet.input).map(|f| f.target) {
            Some(Target::Unicast { egress, .. }) => Some(egress),
            _ => None,
        };
        [output, back]
            .into_iter()
            .flatten()
            .map(|id| self.interfaces.get(id).mtu)
            .min()
            .unwrap_or(1500)
    }
}

/// The rules that a change was made from aren't in force any more.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Superseded;

/// The rulesets in force and what they remember.
#[derive(Debug)]
pub struct RulesInForce {
    rulesets: [Arc<Ruleset>; 2],
    counters: [filter::Counters; 2],
    memory: filter::Memory,
    edited: bool,
}

impl RulesInForce {
    /// These rulesets, counters at zero as after `iptables-restore` without `-c`.
    pub fn new(v4: Ruleset, v6: Ruleset) -> Self {
        let counters = [v4.zero_counters(), v6.zero_counters()];
        let rulesets = [Arc::new(v4), Arc::new(v6)];
        let this = Self { rulesets, counters, memory: filter::Memory::new(), edited: false };
        this.memory.adopt(&[&this.rulesets[0], &this.rulesets[1]]);
        this
    }

    /// Replaces both rulesets and their counters; `recent` lists that are still named stay.
    pub fn replace(&mut self, v4: Ruleset, v6: Ruleset) {
        self.counters = [v4.zero_counters(), v6.zero_counters()];
        self.rulesets = [Arc::new(v4), Arc::new(v6)];
        self.memory.adopt(&[&self.rulesets[0], &self.rulesets[1]]);
        self.edited = false;
    }

    /// Puts a change in force that was made from `base` and from counters as in `seen`. Rules that
    /// stay go on counting and remembering. Gives the old rules back, to be dropped where nobody
    /// waits; or `false` if other rules are in force by now, and the change has to be made again.
    pub(crate) fn follow(
        &mut self,
        base: &Arc<Ruleset>,
        change: Change,
        seen: &filter::Counters,
    ) -> Result<Arc<Ruleset>, Superseded> {
        let n = base.family() as usize;
        if !Arc::ptr_eq(&self.rulesets[n], base) {
            return Err(Superseded);
        }
        self.counters[n].follow(&change, seen);
        let old = std::mem::replace(&mut self.rulesets[n], Arc::new(change.ruleset));
        self.memory.adopt(&[&self.rulesets[0], &self.rulesets[1]]);
        self.edited = true;
        Ok(old)
    }

    /// A family's ruleset and counters as they are now.
    pub fn snapshot(&self, family: Family) -> (Arc<Ruleset>, filter::Counters) {
        let n = family as usize;
        (self.rulesets[n].clone(), self.counters[n].clone())
    }

    /// Whether rules have been changed by command since they were loaded.
    pub fn edited(&self) -> bool {
        self.edited
    }

    /// The `recent` lists.
    pub fn memory(&self) -> &filter::Memory {
        &self.memory
    }

    /// A family's ruleset.
    #[inline]
    pub fn of(&self, family: Family) -> &Ruleset {
        &self.rulesets[family as usize]
    }

    /// A family's counters.
    #[inline]
    pub fn counters(&self, family: Family) -> &filter::Counters {
        &self.counters[family as usize]
    }
}

/// Collects what targets ask for.
struct Edits<'a> {
    log: &'a mut Vec<super::log::Line>,
    mark: Option<u32>,
    notrack: bool,
    mss: Option<MssClamp>,
}

impl filter::Effects for Edits<'_> {
    fn log(&mut self, record: LogRecord<'_>) {
        // A flood of packets must not become a flood of memory.
        if self.log.len() < super::log::MAX_WAITING {
            self.log.push(super::log::Line::of(&record));
        }
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = Some(mark);
    }

    fn notrack(&mut self) {
        self.notrack = true;
    }

    fn clamp_mss(&mut self, clamp: MssClamp) {
        self.mss = Some(clamp);
    }
}

/// A packet's state as rules see it. One that was never tracked is INVALID to them, as in Linux a
/// packet without a connection is.
fn state_of(tracked: Option<&nat::Tracked>) -> filter::CtState {
    match tracked.map(nat::Tracked::state) {
        Some(nat::State::New) => filter::CtState::New,
        Some(nat::State::Established) => filter::CtState::Established,
        Some(nat::State::Related) => filter::CtState::Related,
        Some(nat::State::Untracked) => filter::CtState::Untracked,
        Some(nat::State::Invalid(_)) | None => filter::CtState::Invalid,
    }
}

/// A packet's connection as rules see it.
fn connection_view(
    conntrack: &nat::Conntrack,
    tracked: Option<&nat::Tracked>,
    now: tidegate_packet::Instant,
) -> Option<filter::Connection> {
    let tracked = tracked?;
    let conn = conntrack.view(tracked)?;
    let status = conn.status();
    let flow = |t: &nat::Tuple| filter::Flow {
        src: t.src,
        dst: t.dst,
        sport: t.sport,
        dport: t.dport,
        protocol: t.protocol,
    };
    Some(filter::Connection {
        original: flow(conn.original()),
        reply: flow(conn.reply()),
        direction: match tracked.direction() {
            nat::Direction::Original => filter::Direction::Original,
            nat::Direction::Reply => filter::Direction::Reply,
        },
        seen_reply: status.has(nat::Status::SEEN_REPLY),
        assured: status.has(nat::Status::ASSURED),
        confirmed: status.has(nat::Status::CONFIRMED),
        expected: status.has(nat::Status::EXPECTED),
        snat: status.has(nat::Status::SNAT),
        dnat: status.has(nat::Status::DNAT),
        mark: conn.mark(),
        expires: conn.time_left(now).as_secs() as u32,
        accounting: conn.accounting().map(|c| (c.packets, c.bytes)),
    })
}

/// Answers rules' questions about routes and addresses.
pub(crate) struct RoutingView<'a> {
    pub interfaces: &'a Interfaces,
    pub routes: &'a Routes,
}

impl filter::Gateway for RoutingView<'_> {
    /// netfilter's rpfilter: a unicast route back (or, with `--accept-local`, a local one) that
    /// leaves by the interface the packet came in by, or by any with `--loose`.
    fn reverse_path(&self, question: filter::ReversePath<'_>) -> bool {
        let Some(input) = self.interfaces.by_name(question.input) else { return false };
        if input == super::interface::LOOPBACK {
            return true;
        }
        // Who has no address yet asks everybody: there is no path to check.
        if question.src.is_unspecified() {
            let o = question.dst.octets();
            return !question.src.is_v4()
                || question.dst.is_limited_broadcast()
                || o[12..15] == [224, 0, 0];
        }
        match self.routes.lookup(question.src, Some(input)).map(|f| f.target) {
            Some(Target::Unicast { egress, .. }) => question.loose || egress == input,
            Some(Target::Local(_)) => question.accept_local,
            _ => false,
        }
    }

    fn addr_type(&self, addr: Addr, interface: Option<&str>) -> filter::AddrType {
        use filter::AddrType;
        if addr.is_multicast() {
            return AddrType::Multicast;
        }
        if addr.is_limited_broadcast() || addr == Addr::UNSPECIFIED_V4 {
            return AddrType::Broadcast;
        }
        let wanted = match interface {
            Some(name) => match self.interfaces.by_name(name) {
                Some(id) => Some(id),
                None => return AddrType::Unreachable,
            },
            None => None,
        };
        let here = |id: InterfaceId| wanted.is_none_or(|w| w == id);
        match self.routes.lookup(addr, wanted).map(|f| f.target) {
            Some(Target::Local(id)) if here(id) => AddrType::Local,
            Some(Target::Broadcast(id)) if here(id) => AddrType::Broadcast,
            Some(Target::Unicast { egress, .. }) if here(egress) => AddrType::Unicast,
            Some(Target::Local(_) | Target::Broadcast(_) | Target::Unicast { .. }) => {
                AddrType::Unicast
            }
            Some(Target::Blackhole) => AddrType::Blackhole,
            Some(Target::Prohibit) => AddrType::Prohibit,
            Some(Target::Unreachable) | None => AddrType::Unreachable,
        }
    }
}
