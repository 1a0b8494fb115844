//! The two sides of a comparison, and how a case is played on one of them.

use crate::case::{Action, Case};
use crate::frame::Context;
use crate::topology::Topology;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// A gateway that frames can be put into and taken out of.
pub trait Side {
    /// A frame arrives at an interface.
    fn inject(&mut self, interface: &str, frame: &[u8]) -> Result<(), String>;

    /// The frames that left since the last call, in order for each interface.
    fn collect(&mut self) -> Result<Vec<(String, Vec<u8>)>, String>;

    /// Time passes.
    fn wait(&mut self, time: Duration);

    /// The rules with their counters as [`counted`] gives them, where the side can tell.
    fn counters(&mut self) -> Option<Vec<String>> {
        None
    }

    /// The connections as `/proc/net/nf_conntrack` has them: quickly told, after each step.
    fn listing(&mut self) -> Vec<String>;

    /// The connections as `conntrack -L` prints them, sorted, where the side can tell.
    fn connections(&mut self) -> Option<Vec<String>> {
        None
    }
}

/// What happened in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// What was put in.
    pub injected: Vec<Vec<u8>>,
    /// What came out, and where.
    pub emitted: Vec<(String, Vec<u8>)>,
    /// The connections afterwards, where the case wants them `listed`.
    pub listing: Option<Vec<String>>,
}

/// What happened in a whole case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// One entry a step.
    pub steps: Vec<Played>,
    /// Ports and ICMP identifiers that the case spells out.
    pub known: BTreeSet<u16>,
    /// Rules and counters afterwards.
    pub counters: Option<Vec<String>>,
    /// Connections afterwards.
    pub connections: Option<Vec<String>>,
    /// Seconds that went by on a real clock, beyond those that the case waits.
    pub late: u64,
}

/// Plays `case` on `side`.
pub fn play(case: &Case, topology: &Topology, side: &mut dyn Side) -> Result<Transcript, String> {
    let mut context = Context {
        topology,
        emitted: HashMap::new(),
        messages: &case.settings.messages,
        variables: HashMap::new(),
        known: BTreeSet::new(),
        next_id: 0x1001,
    };
    let mut transcript = Transcript::default();
    side.collect()?;
    for step in &case.steps {
        let fail = |why: String| format!("{}:{}: {why}", case.file.display(), step.line);
        let mut played = Played::default();
        match &step.action {
            Action::Inject { times, interface, layers } => {
                for repetition in 0..*times {
                    let frame = match context.frame(interface, layers, repetition) {
                        Ok(frame) => frame,
                        Err(_) if case.settings.lenient => break,
                        Err(why) => return Err(fail(why)),
                    };
                    side.inject(interface, &frame).map_err(fail)?;
                    played.injected.push(frame);
                    played.emitted.extend(side.collect().map_err(fail)?);
                }
            }
            Action::Wait(time) => {
                side.wait(*time);
                played.emitted.extend(side.collect().map_err(fail)?);
            }
            Action::Learn { name, interface, field } => match context.field(interface, field) {
                Ok(value) => drop(context.variables.insert(name.clone(), value)),
                Err(_) if case.settings.lenient => {}
                Err(why) => return Err(fail(why)),
            },
        }
        if case.settings.listed {
            played.listing = Some(side.listing());
        }
        played.emitted.retain(|(_, frame)| !is_noise(case, frame));
        for (interface, frame) in &played.emitted {
            if matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd])) {
                context.emitted.insert(interface.clone(), frame[14..].to_vec());
            }
        }
        transcript.steps.push(played);
    }
    transcript.known = context.known;
    Ok(transcript)
}

/// Frames that a host sends of its own accord: ARP, neighbour discovery and multicast reports,
/// unless the case asks for them.
fn is_noise(case: &Case, frame: &[u8]) -> bool {
    const MLD_AND_ROUTERS: [u8; 6] = [130, 131, 132, 133, 134, 143];
    match frame.get(12..14) {
        Some([0x08, 0x06]) => !case.settings.compare_arp,
        Some([0x08, 0x00]) => frame.get(23) == Some(&2),
        Some([0x86, 0xdd]) => {
            let kind = match (frame.get(20), frame.get(54)) {
                (Some(58), Some(_)) => frame[54],
                // Reports carry the router alert in a hop-by-hop header of eight bytes.
                (Some(0), Some(58)) => *frame.get(62).unwrap_or(&0),
                _ => return false,
            };
            MLD_AND_ROUTERS.contains(&kind)
                || matches!(kind, 135 | 136) && !case.settings.compare_ndp
        }
        _ => true,
    }
}

/// The chains and rules of `iptables-save -c` text, one a line, behind family and table. What a
/// host of that family sends of its own accord passes OUTPUT and POSTROUTING of IPv6, so these
/// are left out.
pub fn counted(family: &str, saved: &str) -> Vec<String> {
    let mut table = "";
    let mut lines = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.starts_with([':', '[']) {
            let noisy = ["OUTPUT", "POSTROUTING"].iter().any(|chain| {
                line.starts_with(&format!(":{chain} ")) || line.contains(&format!("-A {chain} "))
            });
            if family == "v4" || !noisy {
                lines.push(format!("{family} {table} {line}"));
            }
        }
    }
    lines
}

/// The entries of sets in their saved form. How many seconds they have left depends on how long a
/// case takes, so only whether there is a limit is kept.
pub fn entries(saved: &str) -> Vec<String> {
    let entry = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let limit = words.windows(2).position(|pair| pair[0] == "timeout" && pair[1] != "0");
        let kept = words.iter().enumerate().filter(|(n, _)| limit.is_none_or(|at| *n != at + 1));
        kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    };
    saved.lines().filter(|line| line.starts_with("add ")).map(entry).collect()
}
