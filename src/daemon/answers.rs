//! What the gateway answers at its control socket.

use super::Wake;
use super::saved::{Keeper, RestoreOptions};
use crate::conntrack::gateway::{Peer, answer};
use crate::conntrack::{Ask, Hub, Moment, Tell};
use crate::control::{self, BypassStatus, Handler, InterfaceStatus, Ran, Restore, Status};
use crate::engine::{Counters, Interface, Traffic};
use crate::gateway::Gateway;
use crate::log::Tally;
use crate::worker::{Clock, News, unix_nanos};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_filter::live::{self, Answer, Call, Present};
use tidegate_filter::{SaveStyle, Sets};
use tidegate_packet::{Family, Instant};

/// Answers the control socket.
pub(super) struct Control {
    pub gateway: Gateway,
    pub sets: Sets,
    pub wake: Mutex<Sender<Wake>>,
    /// Held while a call changes rules.
    pub writer: Mutex<()>,
    pub workers: usize,
    pub uplinks: Vec<String>,
    pub started: Instant,
    pub clock: Clock,
    pub tally: Tally,
    pub keeper: Keeper,
    pub news: Arc<News>,
    /// Who listens to what happens to connections.
    pub hub: Arc<Hub>,
}

impl Handler for Control {
    fn status(&self) -> Status {
        let counters = self.gateway.counters();
        self.gateway.finish_sweep(self.clock.now(), unix_nanos());
        let connections = self.gateway.connections() as u64;
        let engine = self.gateway.engine();
        let interfaces = engine.interfaces().iter().filter(|(_, i)| i.name != "lo");
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: (self.clock.now() - self.started).as_secs(),
            workers: self.workers,
            connections,
            interfaces: interfaces.map(|(_, i)| self.interface(i, &counters)).collect(),
            drops: counters.drops().map(|(d, n)| (d.name().to_owned(), n)).collect(),
            logged: self.tally.written(),
            log_lost: self.tally.lost(),
            bypass: engine.leases().map(|leases| BypassStatus {
                flows: leases.count() as u64,
                packets: leases.taken(),
            }),
        }
    }

    fn reload(&self) -> Result<Vec<String>, String> {
        let (answer, answered) = mpsc::channel();
        let wake = self.wake.lock().map_err(|e| e.to_string())?.clone();
        wake.send(Wake::Reload(answer)).map_err(|_| "the gateway is ending".to_owned())?;
        answered.recv().map_err(|_| "the gateway is ending".to_owned())?
    }

    fn rules(&self, family: Family) -> String {
        let stamp = crate::ctime::now();
        // Printed while packets pass.
        let (rules, counters) = self.gateway.settled().rules_in_force().snapshot(family);
        let style = SaveStyle { stamp: &stamp, rule_counters: true };
        rules.save(Some(&counters), style)
    }

    fn call(&self, program: control::Program, family: Family, args: &[String], input: &str) -> Ran {
        let program = match program {
            control::Program::Iptables => live::Program::Iptables,
            control::Program::Save => live::Program::Save,
            control::Program::Restore => live::Program::Restore,
        };
        let stamp = crate::ctime::now();
        let call = Call { program, family, args, input, stamp: &stamp };
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // The work is done on a snapshot: packets wait only while the result is put in force.
            let (ruleset, counters) = self.gateway.settled().rules_in_force().snapshot(family);
            let present = Present { ruleset: &ruleset, counters: &counters };
            let Answer { status, out, err, change } = live::run(call, present);
            let Some(change) = change else { return Ran { status, out, err } };
            let done = self.gateway.change(|e| e.change_rules(&ruleset, change, &counters));
            // Otherwise a reload came between.
            if done.is_ok() {
                return Ran { status, out, err };
            }
        }
    }

    fn save(&self) -> String {
        self.keeper.text()
    }

    fn restore(&self, inputs: &[Restore], noflush: bool, counters: bool) -> Result<String, String> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.keeper.restore_live(inputs, RestoreOptions { noflush, counters })
    }

    fn conntrack(&self, ask: Ask, peer: &mut Peer) -> Tell {
        let moment = Moment { now: self.clock.now(), unix_nanos: unix_nanos() };
        let tell = answer(&self.gateway, &self.hub, peer, ask, moment);
        // What was done by hand is an event, too.
        if self.gateway.has_news() {
            self.news.announce();
        }
        tell
    }

    fn ipset(&self, args: &[String], input: &str) -> Ran {
        let answer = self.sets.call(args, input, self.clock.now());
        self.gateway.sets_changed();
        Ran { status: answer.status, out: answer.out, err: answer.err }
    }

    fn recent(&self, name: Option<&str>, write: Option<&str>) -> Result<String, String> {
        let engine = self.gateway.engine();
        let memory = engine.rules_in_force().memory();
        let absent = |name: &str| format!("no rule uses a list {name}");
        match (name, write) {
            (None, Some(_)) => Err("which list?".to_owned()),
            (None, None) => {
                Ok(memory.names().into_iter().fold(String::new(), |text, name| text + &name + "\n"))
            }
            (Some(name), None) => memory.text(name).ok_or_else(|| absent(name)),
            (Some(name), Some(write)) => match memory.write(name, write, self.clock.now()) {
                Some(Ok(())) => Ok(String::new()),
                Some(Err(why)) => Err(why),
                None => Err(absent(name)),
            },
        }
    }
}

impl Control {
    fn interface(&self, interface: &Interface, counters: &Counters) -> InterfaceStatus {
        let total = |traffic: &[Traffic]| {
            interface.ports.iter().map(|p| traffic[usize::from(p.0)]).fold(
                Traffic::default(),
                |sum, t| Traffic { packets: sum.packets + t.packets, bytes: sum.bytes + t.bytes },
            )
        };
        let (received, sent) = (total(&counters.received), total(&counters.sent));
        InterfaceStatus {
            name: interface.name.clone(),
            uplink: self.uplinks.contains(&interface.name),
            addresses: interface.addresses.iter().map(ToString::to_string).collect(),
            mac: interface.mac.to_string(),
            mtu: interface.mtu,
            rx_packets: received.packets,
            rx_bytes: received.bytes,
            tx_packets: sent.packets,
            tx_bytes: sent.bytes,
        }
    }
}
