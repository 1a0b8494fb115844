//! Tidegate's side: the engine in memory, with a clock that the case moves.

use crate::case::Case;
use crate::kernel::BASE;
use crate::side::{Side, Transcript, counted, entries, play};
use crate::topology::Topology;
use std::time::Duration;
use tidegate::conntrack::text::{Show, Shown};
use tidegate::conntrack::{Entry, Expected, gateway, save, text, xml};
use tidegate::engine::log::Line;
use tidegate::sim::{Sim, SimConfig, SimInterface, SimRoute};
use tidegate_filter::{SaveStyle, Sets};
use tidegate_packet::{Family, Instant};

/// Where a simulated gateway's clock begins.
const START: Instant = Instant::from_secs(3600);

struct Tidegate(Sim, Sets);

/// Plays a case on Tidegate.
pub fn transcript(case: &Case) -> Result<Transcript, String> {
    let (mut side, mut transcript) = played(case)?;
    transcript.counters = side.counters();
    transcript.connections = side.connections();
    Ok(transcript)
}

/// Plays a case on Tidegate; the lines that its rules have logged.
pub fn lines(case: &Case) -> Result<Vec<Line>, String> {
    let (mut side, _) = played(case)?;
    Ok(side.0.engine_mut().take_log().lines)
}

fn played(case: &Case) -> Result<(Tidegate, Transcript), String> {
    let topology = Topology::new(&case.settings);
    let sets = Sets::new();
    sets.restore(&case.settings.sets, START).map_err(|errors| format!("sets: {errors:?}"))?;
    let sim = Sim::with_sets(&config(case, &topology)?, &sets).map_err(|e| e.to_string())?;
    let mut side = Tidegate(sim, sets);
    let transcript = play(case, &topology, &mut side)?;
    Ok((side, transcript))
}

fn config(case: &Case, topology: &Topology) -> Result<SimConfig, String> {
    let wrong = |what: &str| format!("{what} is neither an address nor a prefix");
    let mut interfaces = Vec::new();
    for i in &topology.interfaces {
        let addresses: Result<Vec<_>, _> =
            i.addresses.iter().map(|a| a.parse().map_err(|_| wrong(a))).collect();
        let mut interface = SimInterface::new(&i.name, i.mac, &addresses?);
        interface.mtu = u32::from(i.mtu);
        interfaces.push(interface);
    }
    let mut routes = Vec::new();
    for r in &topology.routes {
        routes.push(SimRoute {
            to: r.to.parse().map_err(|_| wrong(&r.to))?,
            via: r.via.as_ref().map(|v| v.parse().map_err(|_| wrong(v))).transpose()?,
            dev: Some(r.dev.clone()),
        });
    }
    let mut neighbours = Vec::new();
    for n in &topology.neighbours {
        let addr = n.addr.parse().map_err(|_| wrong(&n.addr))?;
        neighbours.push((n.interface.clone(), addr, n.mac));
    }
    let base = BASE.iter().map(|(name, value)| (*name, *value));
    let own = case.settings.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let sysctls = base.chain(own).map(|(name, value)| format!("{name} = {value}\n")).collect();
    let (rules_v4, rules_v6) = (case.settings.rules4.clone(), case.settings.rules6.clone());
    Ok(SimConfig { interfaces, routes, neighbours, rules_v4, rules_v6, sysctls })
}

impl Side for Tidegate {
    fn inject(&mut self, interface: &str, frame: &[u8]) -> Result<(), String> {
        self.0.inject(interface, frame.to_vec()).map_err(|e| e.to_string())
    }

    fn collect(&mut self) -> Result<Vec<(String, Vec<u8>)>, String> {
        Ok(self.0.collect().into_iter().map(|(name, flying)| (name, flying.bytes)).collect())
    }

    fn wait(&mut self, time: Duration) {
        self.0.advance(time);
    }

    fn counters(&mut self) -> Option<Vec<String>> {
        let rules = self.0.engine().rules_in_force();
        let style = SaveStyle { stamp: "", rule_counters: true };
        let saved = |family| rules.of(family).save(Some(rules.counters(family)), style);
        let mut lines = counted("v4", &saved(Family::V4));
        lines.extend(counted("v6", &saved(Family::V6)));
        lines.extend(entries(&self.1.save(self.0.now())));
        Some(lines)
    }

    fn listing(&mut self) -> Vec<String> {
        let now = self.0.engine().moment().unix_nanos;
        let words = |entry| {
            let line = text::line(shown(&entry, now));
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        self.0.each(gateway::entries).into_iter().flatten().map(words).collect()
    }

    fn connections(&mut self) -> Option<Vec<String>> {
        let now = self.0.engine().moment().unix_nanos;
        let mut lines = Vec::new();
        for entry in self.0.each(gateway::entries).into_iter().flatten() {
            lines.push(text::line(shown(&entry, now)));
            // Numbers that each side draws for itself.
            let entry = Entry { id: 0, ..entry };
            lines.push(xml::line(shown(&entry, now)));
            lines.push(save::line(&entry, None));
        }
        let expected = self.0.each(|lent| Expected::all(lent.conntrack(), lent.moment()));
        for expected in expected.into_iter().flatten() {
            lines.extend([expected.line(), expected.xml()]);
        }
        lines.sort();
        Some(lines)
    }
}

fn shown(entry: &Entry, now: u64) -> Shown<'_> {
    let show = Show { extended: true, ..Show::default() };
    Shown { entry, what: None, show, now, label: &|bit| bit.to_string() }
}
