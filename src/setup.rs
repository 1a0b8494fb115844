//! From a configuration to a gateway: takes interfaces over, opens devices, builds the engine.
//!
//! Everything that can be wrong with texts is found before the first interface is touched.

mod devices;
mod host;
mod routes;

pub use host::carry_addresses;
pub use routes::static_routes;

use crate::config::{Config, PortKind};
use crate::engine::{Engine, Interfaces, Setup};
use crate::io::bypass::Bypass;
use crate::io::{ingress, tap};
use crate::link::{self, Adopted, records};
use crate::worker::{Clock, Device};
use devices::Opening;
use host::SourceCheck;
use std::io;
use std::sync::Arc;
use tidegate_filter::Ruleset;
use tidegate_packet::{MacAddr, Prefix};

/// Why a gateway can't be built.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// This user may not run a gateway.
    #[error(
        "a gateway needs the capabilities NET_ADMIN and NET_RAW in its network namespace: run it \
         as root, or in a user namespace (unshare --user --map-root-user --net)"
    )]
    Rights,
    /// An interface can't be taken over.
    #[error(transparent)]
    Adopt(#[from] link::AdoptError),
    /// There is no place for records of what is taken from the kernel.
    #[error("no directory for records of what is taken from the kernel: {0}")]
    Records(#[source] io::Error),
    /// A device can't be opened.
    #[error("can't open {name}: {source}")]
    Device {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The host device can't be given the gateway's addresses.
    #[error("can't set {name} up: {source}")]
    Host {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The host device would be reached past the rules.
    #[error(
        "the kernel can't be kept from handing packets of {name} to the host device past the \
         rules: {source}"
    )]
    Exposed {
        /// The interface that they arrive at.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A route leads to no interface.
    #[error("route to {to}: next hop {via} is on no interface's network")]
    Route {
        /// Its destinations.
        to: Prefix,
        /// Its next hop.
        via: String,
    },
}

/// Fails unless this process may do what a gateway does, so that nothing is left half done.
pub fn check_rights() -> Result<(), SetupError> {
    /// CAP_NET_ADMIN and CAP_NET_RAW (capabilities(7)).
    const NEEDED: u64 = 1 << 12 | 1 << 13;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective_capabilities(&status) {
        Some(held) if held & NEEDED != NEEDED => Err(SetupError::Rights),
        // Where they can't be read, the kernel's answers will tell.
        _ => Ok(()),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let text = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(text.trim(), 16).ok()
}

/// A gateway ready to run.
pub struct Built {
    /// The configuration, with the addresses and routes that were found on interfaces filled in.
    pub config: Config,
    /// The engine.
    pub engine: Engine,
    /// Devices for each worker, by port number.
    pub workers: Vec<Vec<Device>>,
    /// What must live as long as the gateway runs.
    pub held: Held,
    /// Who can forward established flows, if BPF is allowed.
    pub bypass: Option<Arc<Bypass>>,
    /// By port number: the kernel's number of the interface, where the bypass is at work.
    pub links: Vec<Option<u32>>,
}

/// Guards that give things back when they are dropped.
#[derive(Default)]
pub struct Held {
    // Fields are dropped in this order: the kernel sees packets again when all else is as it was.
    /// Interfaces of the kernel.
    adopted: Vec<Adopted>,
    source_checks: Vec<SourceCheck>,
    holds: Vec<ingress::Hold>,
    refused: Option<ingress::Unavailable>,
}

impl Held {
    /// Why the kernel can't be kept from handling packets too, if it can't.
    pub fn kernel_not_held(&self) -> Option<&ingress::Unavailable> {
        self.refused.as_ref()
    }

    /// Gives everything back, and says what can't be.
    pub fn give_back(mut self) -> Vec<link::AdoptError> {
        let adopted = self.adopted.drain(..).rev();
        adopted.filter_map(|adopted| adopted.give_back().err()).collect()
    }
}

/// Builds a gateway from a configuration and its rules. `clock` is the gateway's.
pub fn build(config: &Config, v4: Ruleset, v6: Ruleset, clock: Clock) -> Result<Built, SetupError> {
    let bypass = Bypass::open(clock.now()).inspect_err(|error| {
        tracing::info!("no flow bypasses the gateway: {error}");
    });
    let mut opening = Opening {
        config,
        records: records().map_err(SetupError::Records)?,
        workers: (0..config.workers).map(|_| Vec::new()).collect(),
        held: Held::default(),
        ports: 0,
        steering: rand::random(),
        bypass: bypass.ok(),
        links: Vec::new(),
    };
    let mut interfaces = Interfaces::new();
    let mut resolved = config.clone();
    for wanted in &config.interfaces {
        opening.interface(wanted, &mut interfaces, &mut resolved)?;
    }
    let routes = static_routes(&resolved, &interfaces)?;
    let host_port = match &config.host {
        Some(host) => {
            opening.tap(&host.device, tap::Layer::Tun)?;
            carry_addresses(&host.device, &interfaces, &resolved)
                .map_err(|source| SetupError::Host { name: host.device.clone(), source })?;
            Some(interfaces.add_host_port(&host.device))
        }
        None => None,
    };
    let engine = Engine::new(Setup {
        interfaces,
        routes,
        rules_v4: v4,
        rules_v6: v6,
        sysctls: config.sysctls.clone(),
        host_port,
        steering: opening.steering,
        seed: rand::random(),
    });
    let Opening { workers, held, bypass, links, .. } = opening;
    Ok(Built { config: resolved, engine, workers, held, bypass, links })
}

/// A port's device that was opened again.
pub struct Reopened {
    /// Its halves, for each worker.
    pub devices: Vec<Device>,
    /// Link address of the new interface.
    pub mac: MacAddr,
    /// Its MTU.
    pub mtu: u32,
    /// The kernel's number of the interface, if the bypass is at work there.
    pub link: Option<u32>,
}

/// Opens a port's device again, after its interface was deleted and made anew. `number` must be one
/// that no device was opened with before, `steering` that of the engine.
pub fn reopen(
    config: &Config,
    port: &str,
    number: u16,
    workers: usize,
    steering: u32,
    bypass: Option<Arc<Bypass>>,
    held: &mut Held,
) -> Result<Reopened, SetupError> {
    // It holds the record that the new one needs, and there is nothing to give back to.
    held.adopted.retain(|adopted| adopted.link().name != port);
    let mut opening = Opening {
        config,
        records: records().map_err(SetupError::Records)?,
        workers: (0..workers).map(|_| Vec::new()).collect(),
        held: Held::default(),
        ports: number,
        steering,
        bypass,
        links: Vec::new(),
    };
    let found = match config.port(port) {
        Some((PortKind::AfPacket, bridged)) => opening.af_packet(port, bridged)?,
        _ => opening.tap(port, tap::Layer::Tap)?,
    };
    let Opening { workers, held: more, links, .. } = opening;
    held.adopted.extend(more.adopted);
    held.source_checks.extend(more.source_checks);
    held.holds.extend(more.holds);
    let devices = workers.into_iter().flatten().collect();
    let link = links.into_iter().next().flatten();
    Ok(Reopened { devices, mac: found.mac, mtu: found.mtu, link })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000003000\n";
        assert_eq!(effective_capabilities(status), Some(0x3000));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
