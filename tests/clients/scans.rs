//! nmap's kinds of scan.

use tidegate::lab::traffic::service::Service;

use super::stage::{Outcome, Stage, Tried};

/// Scans and answers each port's state: `21 closed, 22 open`.
///
/// Ports come in their order, one at a time, as a scanner has to who doesn't want to be noticed;
/// the order decides here what the page's lists of scanners do.
fn scan(stage: &Stage, from: &str, kind: &str, to: &str, ports: &str) -> Tried<String> {
    let shape = "-n -Pn -r --max-parallelism 1 --max-retries 1 --min-rtt-timeout 1s \
                 --max-rtt-timeout 3s --host-timeout 50s -oG -";
    let mut command = vec!["nmap", kind, "-p", ports];
    command.extend(shape.split_whitespace());
    command.push(to);
    let said = stage.run(from, &command)?;
    let ports = said.split_once("Ports: ").ok_or_else(|| said.clone())?.1;
    let ports = ports.split(['\t', '\n']).next().unwrap_or_default();
    let states = ports.split(", ").map(|port| {
        let mut fields = port.trim().split('/');
        format!("{} {}", fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
    });
    Ok(states.collect::<Vec<_>>().join(", "))
}

fn expect(stage: &Stage, rows: &[(&str, &str, &str, &str)]) -> Outcome {
    let mut wrong = String::new();
    for (from, kind, ports, want) in rows {
        let seen = scan(stage, from, kind, "203.0.113.1", ports)?;
        if seen != *want {
            wrong += &format!("{kind} from {from}: {seen} instead of {want}\n");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

/// The gateway's own ports, which 80 and 53 of are open: the INPUT chain.
pub fn of_the_gateway(stage: &Stage) -> Outcome {
    let gateway = stage.scene.network.host("gateway");
    let _open = [Service::start(gateway, "gateway", 53)?, Service::start(gateway, "gateway", 80)?];
    expect(
        stage,
        &[
            // Who asks for nothing but open ports sees them.
            ("outsider", "-sS", "53,80", "53 open, 80 open"),
            ("outsider", "-sT", "53,80", "53 open, 80 open"),
            // 443 is let through, and nobody listens.
            ("outsider", "-sS", "80,443", "80 open, 443 closed"),
            ("outsider", "-sU", "53", "53 open"),
            // Flags that start no connection are INVALID, and dropped.
            ("outsider", "-sN", "21,80", "21 open|filtered, 80 open|filtered"),
            ("outsider", "-sF", "21,80", "21 open|filtered, 80 open|filtered"),
            ("outsider", "-sX", "21,80", "21 open|filtered, 80 open|filtered"),
            ("outsider", "-sS", "80", "80 open"),
            // The first closed port puts the scanner on the list: from then on all are closed.
            ("outsider", "-sS", "21,53,80", "21 closed, 53 closed, 80 closed"),
            ("outsider", "-sT", "53,80", "53 closed, 80 closed"),
            // UDP has a list of its own.
            ("outsider", "-sU", "53", "53 open"),
            ("outsider", "-sU", "52,53", "52 closed, 53 closed"),
            // Nobody else is on the lists, until an ACK scan puts him there: a segment that may
            // belong to a connection is NEW, but no SYN, and refused by a reset whatever the port.
            ("server", "-sT", "53,80", "53 open, 80 open"),
            ("server", "-sA", "21,80", "21 unfiltered, 80 unfiltered"),
            ("server", "-sS", "53,80", "53 closed, 80 closed"),
        ],
    )
}

/// Ports that are forwarded to hosts of the LAN don't pass the INPUT chain, and its lists say
/// nothing about them.
pub fn of_what_is_forwarded(stage: &Stage) -> Outcome {
    expect(
        stage,
        &[
            ("outsider", "-sS", "21,22,8000", "21 closed, 22 open, 8000 open"),
            ("outsider", "-sT", "22,8000", "22 open, 8000 open"),
            ("outsider", "-sA", "22,8000", "22 unfiltered, 8000 unfiltered"),
            ("outsider", "-sN", "22,8000", "22 open|filtered, 8000 open|filtered"),
            ("outsider", "-sF", "22,8000", "22 open|filtered, 8000 open|filtered"),
            ("outsider", "-sX", "22,8000", "22 open|filtered, 8000 open|filtered"),
            ("outsider", "-sU", "22,8000", "22 open, 8000 open"),
        ],
    )
}
