//! A packet meets the chains of a table.

use super::counters::Drop;
use super::interface::{InterfaceId, Interfaces};
use super::packet::Packet;
use super::route::{Routes, Target};
use super::{Engine, clamp_mss, log};
use std::cell::LazyCell;
use std::ops::Deref;
use std::sync::Arc;
use tidegate_filter as filter;
use tidegate_filter::live::Change;
use tidegate_filter::{
    Edit, Hook, LogRecord, Policy, Query, Ruleset, Step, TableName, Trail, Verdict,
};
use tidegate_nat as nat;
use tidegate_packet::{Addr, Family};

impl Engine {
    /// Runs one table's chain at a hook. Marks and edits are made on the packet; an error is its
    /// end, and a rejected packet's answer has been queued.
    #[inline(always)]
    pub(crate) fn rules(
        &mut self,
        table: TableName,
        hook: Hook,
        packet: &mut Packet<'_>,
        output: Option<InterfaceId>,
    ) -> Result<(), Drop> {
        match self.policy.has_chain(packet.parsed.family, table, hook) {
            true => self.run(table, hook, packet, output),
            false => Ok(()),
        }
    }

    fn run(
        &mut self,
        table: TableName,
        hook: Hook,
        packet: &mut Packet<'_>,
        output: Option<InterfaceId>,
    ) -> Result<(), Drop> {
        match self.evaluate(table, hook, packet, output) {
            Verdict::Accept => Ok(()),
            Verdict::Drop => Err(Drop::RuleDrop),
            Verdict::Reject(with) => {
                self.reject(packet, with);
                Err(Drop::RuleReject)
            }
            Verdict::SynProxy(offer) => self.proxy(packet, offer),
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
        // A counter is enough: who asks for random bits mixes it.
        self.walks = self.walks.wrapping_add(0xd1b5_4a32_d192_ed03);
        let random = self.walks;
        let Self {
            rules,
            conntrack,
            interfaces,
            routes,
            log,
            listened,
            copies,
            at_hand,
            now,
            unix_nanos,
            ..
        } = self;
        let mut trail = at_hand.is_deciding().then_some(&mut at_hand.trail);
        // The nat table isn't asked about the packets that follow.
        if table == TableName::Nat
            && let Some(trail) = &mut trail
        {
            trail.lose();
        }
        let RulesInForce { rulesets, counters, memory, .. } = rules;
        let family = packet.parsed.family as usize;
        let counters = &mut counters[family];
        let Some(chain) = rulesets[family].entrance(table, hook) else { return Verdict::Accept };
        let name = |id: Option<InterfaceId>| Some(interfaces.get(id?).name.as_str());
        let (input, output_name) = (name(packet.input), name(output));
        if !packet.trace {
            let names = [input, output_name];
            let passed = chain.pass_by(&packet.parsed, names, counters, trail.as_deref_mut());
            match passed {
                Some(Policy::Accept) => return Verdict::Accept,
                Some(Policy::Drop) => {
                    trail.into_iter().for_each(Trail::lose);
                    return Verdict::Drop;
                }
                None => {}
            }
        }
        let mut walk = chain.walk();
        let mut reports =
            Reports { log, listened, copies, mark: None, labels: 0, copied: packet.copied };
        let verdict = loop {
            let known = packet.tracked.as_ref().and_then(|t| Some((t, conntrack.view(t)?)));
            let connection =
                known.map(|(t, conn)| LazyCell::new(|| connection_view(t, conn, *now)));
            let view = View { interfaces, routes, conntrack, now: *now };
            let query = Query {
                packet: &packet.parsed,
                bytes: packet.bytes(),
                input,
                output: output_name,
                port: packet.port.and_then(|port| interfaces.bridge_port_name(port)),
                link: packet.link,
                state: state_of(packet),
                connection: connection.as_ref().map(|shown| shown as &dyn Deref<Target = _>),
                mark: packet.mark,
                now: *now,
                unix_nanos: *unix_nanos,
                random,
                trace: packet.trace,
                cpu: 0,
                gateway: &view,
            };
            let step = match &mut trail {
                None => walk.resume(&query, counters, memory, &mut reports),
                Some(trail) => walk.resume_on_trail(&query, counters, memory, &mut reports, trail),
            };
            match step {
                Step::Done(verdict) => break verdict,
                Step::Edit(edit) => {
                    // It may get other addresses.
                    at_hand.missed = None;
                    let mtu = || smallest_mtu(interfaces, routes, packet, output);
                    let mtu = if matches!(edit, Edit::Mss(_)) { mtu() } else { 0 };
                    make(edit, packet, conntrack, mtu);
                }
            }
        };
        if verdict != Verdict::Accept {
            trail.into_iter().for_each(Trail::lose);
        }
        let labels = reports.labels;
        if let Some(mark) = reports.mark {
            packet.mark = mark;
        }
        if let (Some(tracked), 1..) = (&mut packet.tracked, labels) {
            conntrack.set_labels(tracked, labels);
        }
        verdict
    }

    /// Whether a source NAT rule would take this packet if it started a connection.
    pub(crate) fn source_nat_covers(
        &self,
        packet: &Packet<'_>,
        output: Option<InterfaceId>,
    ) -> bool {
        self.as_first(packet, output, |rules, query, memory| rules.covers_source(query, memory))
    }

    /// How a rule would translate the destination of this packet if it started a connection.
    pub(crate) fn destination_of_first(
        &self,
        hook: Hook,
        packet: &Packet<'_>,
        output: Option<InterfaceId>,
    ) -> Option<filter::NatAction> {
        self.as_first(packet, output, |rules, query, memory| rules.destination(hook, query, memory))
    }

    /// Asks the rules about a packet as if it started a connection.
    fn as_first<R>(
        &self,
        packet: &Packet<'_>,
        output: Option<InterfaceId>,
        ask: impl FnOnce(&Ruleset, &Query<'_>, &filter::Memory) -> R,
    ) -> R {
        let Self { interfaces, routes, conntrack, now, .. } = self;
        let view = View { interfaces, routes, conntrack, now: *now };
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
            random: 0,
            trace: false,
            cpu: 0,
            gateway: &view,
        };
        ask(self.rules.of(packet.parsed.family), &query, &self.rules.memory)
    }
}

/// The smaller MTU of a packet's two ways, for `TCPMSS --clamp-mss-to-pmtu`.
fn smallest_mtu(
    interfaces: &Interfaces,
    routes: &Routes,
    packet: &Packet<'_>,
    output: Option<InterfaceId>,
) -> u32 {
    let back = match routes.lookup(packet.parsed.src, packet.input).map(|f| f.target) {
        Some(Target::Unicast { egress, .. }) => Some(egress),
        _ => None,
    };
    [output, back].into_iter().flatten().map(|id| interfaces.get(id).mtu).min().unwrap_or(1500)
}

/// Makes a change that a target asked for.
fn make(edit: Edit, packet: &mut Packet<'_>, conntrack: &mut nat::Conntrack, mtu: u32) {
    match edit {
        Edit::Header(edit) => {
            let field = packet.checksum_field();
            let Packet { parsed, frame, l3, .. } = packet;
            edit.make(parsed, &mut frame.slot[*l3..frame.meta.end], field);
        }
        Edit::Mss(clamp) => clamp_mss::clamp(packet, clamp, mtu),
        Edit::FillChecksum => packet.complete_checksum(),
        // The first word counts, and a packet that has its connection (it was looped back) keeps it.
        Edit::Untrack | Edit::Track(_) if packet.has_template() || packet.tracked.is_some() => {}
        Edit::Untrack => packet.tracked = Some(nat::Tracked::untracked()),
        Edit::Track(tracking) => packet.tracking = Some(tracking),
        Edit::ConnMark(mark) => {
            if let Some(tracked) = &mut packet.tracked {
                conntrack.set_mark(tracked, mark);
            }
        }
        Edit::Trace => packet.trace = true,
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

    /// Replaces both rulesets and their counters; `recent` lists that are still named stay. Gives the
    /// old rules back, to be dropped where nobody waits.
    pub fn replace(&mut self, v4: Ruleset, v6: Ruleset) -> [Arc<Ruleset>; 2] {
        self.counters = [v4.zero_counters(), v6.zero_counters()];
        let old = std::mem::replace(&mut self.rulesets, [Arc::new(v4), Arc::new(v6)]);
        self.memory.adopt(&[&self.rulesets[0], &self.rulesets[1]]);
        self.edited = false;
        old
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

    /// Replaces rulesets by saved ones, whose counters go on from what their texts say. `edited`:
    /// commands have changed them since their files were read.
    pub fn restore(&mut self, rulesets: [Option<Ruleset>; 2], edited: bool) {
        for (n, ruleset) in rulesets.into_iter().enumerate() {
            if let Some(ruleset) = ruleset {
                self.counters[n] = ruleset.new_counters();
                self.rulesets[n] = Arc::new(ruleset);
                self.edited |= edited;
            }
        }
        self.memory.adopt(&[&self.rulesets[0], &self.rulesets[1]]);
    }

    /// Whether this very ruleset is in force.
    pub fn has(&self, ruleset: &Arc<Ruleset>) -> bool {
        Arc::ptr_eq(&self.rulesets[ruleset.family() as usize], ruleset)
    }

    /// The counters of both families.
    pub(crate) fn counters_mut(&mut self) -> &mut [filter::Counters; 2] {
        &mut self.counters
    }

    /// The numbers of the changes to the sets that rules name.
    pub(crate) fn set_changes(&self) -> [filter::sets::Changes; 2] {
        [0, 1].map(|n| self.rulesets[n].set_changes().clone())
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

/// Collects what targets tell.
struct Reports<'a> {
    log: &'a mut log::Waiting,
    listened: &'a log::Groups,
    copies: &'a mut Vec<Copy>,
    mark: Option<u32>,
    /// What `connlabel --set` asks for.
    labels: u128,
    /// The packet is itself a copy.
    copied: bool,
}

/// A copy of a packet that `TEE` has made.
#[derive(Debug)]
pub(crate) struct Copy {
    /// From its IP header on.
    pub bytes: Vec<u8>,
    /// The next hop.
    pub gateway: Addr,
    /// The interface to leave by, if the rule says.
    pub interface: Option<String>,
    /// It has not been routed yet, or was for the gateway itself: its hop limit is decremented.
    pub arriving: bool,
}

impl filter::Effects for Reports<'_> {
    fn log(&mut self, record: LogRecord<'_>) {
        self.log.line(|| log::Line::of(&record));
    }

    fn nflog(&mut self, record: filter::NflogRecord<'_>) {
        if self.listened.has(record.group) {
            self.log.packet(&record);
        } else {
            self.log.line(|| log::Line::of_nflog(&record));
        }
    }

    fn audit(&mut self, record: filter::AuditRecord<'_>) {
        self.log.line(|| log::Line::of_audit(&record));
    }

    fn trace(&mut self, record: filter::TraceRecord<'_>) {
        self.log.line(|| log::Line::of_trace(&record));
    }

    fn tee(&mut self, query: &Query<'_>, gateway: Addr, interface: Option<&str>) {
        // Copies aren't copied again (nf_skb_duplicated).
        if self.copied {
            return;
        }
        let bytes = query.bytes[..query.packet.len as usize].to_vec();
        let interface = interface.map(str::to_owned);
        let arriving = query.output.is_none();
        self.copies.push(Copy { bytes, gateway, interface, arriving });
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = Some(mark);
    }

    fn set_label(&mut self, label: u8) {
        self.labels |= 1 << label;
    }
}

/// A packet's state as rules see it. One that was never tracked is INVALID to them, as in Linux a
/// packet without a connection is; one that a `CT` rule has met is NEW until it is tracked.
fn state_of(packet: &Packet<'_>) -> filter::CtState {
    match packet.tracked.as_ref().map(nat::Tracked::state) {
        None if packet.has_template() => filter::CtState::New,
        Some(nat::State::New) => filter::CtState::New,
        Some(nat::State::Established) => filter::CtState::Established,
        Some(nat::State::Related) => filter::CtState::Related,
        Some(nat::State::Untracked) => filter::CtState::Untracked,
        Some(nat::State::Invalid(_)) | None => filter::CtState::Invalid,
    }
}

/// A packet's connection as rules see it.
fn connection_view(
    tracked: &nat::Tracked,
    conn: &nat::Connection,
    now: tidegate_packet::Instant,
) -> filter::Connection {
    let status = conn.status();
    let flow = |t: &nat::Tuple| filter::Flow {
        src: t.src,
        dst: t.dst,
        sport: t.sport,
        dport: t.dport,
        protocol: t.protocol,
    };
    filter::Connection {
        original: flow(&conn.original()),
        reply: flow(&conn.reply()),
        zones: conn.zones(),
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
        labels: conn.labels(),
        helper: conn.master_helper().map(super::track::shown),
        expires: expires(conn, now),
        accounting: conn.accounting().map(|c| (c.packets, c.bytes)),
    }
}

/// Whole seconds left as `--ctexpire` sees them: netfilter takes what a connection was promised that
/// isn't in the table yet for a moment long ago.
fn expires(conn: &nat::Connection, now: tidegate_packet::Instant) -> u32 {
    let confirmed = conn.status().has(nat::Status::CONFIRMED);
    if confirmed { conn.time_left(now).as_secs() as u32 } else { 0 }
}

/// Answers rules' questions about routes, addresses and connections.
struct View<'a> {
    interfaces: &'a Interfaces,
    routes: &'a Routes,
    conntrack: &'a nat::Conntrack,
    now: tidegate_packet::Instant,
}

impl filter::Gateway for View<'_> {
    /// netfilter's connlimit doesn't count TCP connections that are over.
    fn flow(&self, flow: &filter::Flow, zones: [u16; 2]) -> filter::FlowState {
        let filter::Flow { src, dst, sport, dport, protocol } = *flow;
        let tuple = nat::Tuple { src, dst, sport, dport, protocol };
        match self.conntrack.tcp_state_of(&tuple, zones, self.now) {
            None => filter::FlowState::Unknown,
            Some(Some(nat::TcpState::TimeWait | nat::TcpState::Close)) => filter::FlowState::Closed,
            Some(_) => filter::FlowState::Open,
        }
    }

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
