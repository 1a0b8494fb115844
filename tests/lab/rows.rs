//! The lab's rows against the kernel's own netfilter.

use std::path::Path;

use tidegate::lab::gateway::Engine;
use tidegate::lab::rows;
use tidegate::lab::scene::{Devices, Plan, Scene};

use super::Outcome;

fn reference(directory: &Path) -> Plan {
    let (engine, devices) = (Engine::Kernel, Devices::AfPacket);
    Plan { engine, devices, host_device: false, directory: directory.to_owned() }
}

pub fn the_rows_are_the_kernels_behaviour() -> Outcome {
    let directory = tempfile::tempdir()?;
    all_rows_hold(&reference(directory.path()))
}

pub fn all_rows_hold_on_packet_sockets() -> Outcome {
    all_rows_hold_with_tidegate(Devices::AfPacket)
}

pub fn all_rows_hold_on_taps() -> Outcome {
    all_rows_hold_with_tidegate(Devices::Tap)
}

fn all_rows_hold_with_tidegate(devices: Devices) -> Outcome {
    let directory = tempfile::tempdir()?;
    let engine = Engine::Tidegate { program: env!("CARGO_BIN_EXE_tidegate").into() };
    let directory = directory.path().to_owned();
    all_rows_hold(&Plan { engine, devices, host_device: false, directory })
}

fn all_rows_hold(plan: &Plan) -> Outcome {
    let scene = Scene::build(plan)?;
    let wrong: Vec<_> = rows::all()
        .iter()
        .filter_map(|row| {
            let happened = row.run(&scene).happened;
            (happened != row.expected)
                .then(|| format!("{}: {} instead of {}", row.tried, happened, row.expected))
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// With a gateway that doesn't forward and forgets its rules nothing of the kind may look right.
pub fn rows_notice_a_gateway_that_fails() -> Outcome {
    let directory = tempfile::tempdir()?;
    let scene = Scene::build(&reference(directory.path()))?;
    let gateway = scene.network.host("gateway");
    gateway.set_sysctl("net.ipv4.ip_forward", "0")?;
    let netlink = &mut gateway.netlink()?;
    let uplink = netlink.require_link("ppp0")?.index;
    netlink.set_up(uplink, false)?;
    let rows = rows::all();
    let tried = rows.iter().filter(|r| {
        ["TCP client → server", "UDP outsider → gateway port 22", "ping server → gateway"]
            .contains(&r.tried.as_str())
    });
    let mut count = 0;
    for row in tried {
        let happened = row.run(&scene).happened;
        assert_ne!(happened, row.expected, "{}", row.tried);
        count += 1;
    }
    // TCP client → server is tried over IPv4 and IPv6.
    assert_eq!(count, 4);
    Ok(())
}
