//! Networks of namespaces and the lab in them, with real kernels at all ends.
//!
//! Needs root or user namespaces; where neither is to be had, or where a test needs a program
//! that isn't installed, it says so, and fails if `TIDEGATE_FORBID_SKIP` is set.

use std::error::Error;
use std::fs::File;
use std::process::{Command, ExitCode};
use std::time::Duration;

use tidegate::lab::privilege;

mod command;
mod rows;
mod topology;
#[path = "../common/trials.rs"]
mod trials;

use trials::Trials;

type Outcome = Result<(), Box<dyn Error>>;

/// Longer than anything takes that will happen, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a test needs besides namespaces.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Needs {
    Nothing,
    Iptables,
    Tun,
}

struct Test {
    name: &'static str,
    needs: Needs,
    run: fn() -> Outcome,
}

const TESTS: &[Test] = &[
    Test {
        name: "hosts_reach_each_other",
        needs: Needs::Nothing,
        run: topology::hosts_reach_each_other,
    },
    Test {
        name: "a_bridge_joins_its_ports",
        needs: Needs::Nothing,
        run: topology::a_bridge_joins_its_ports,
    },
    Test {
        name: "a_moved_interface_works",
        needs: Needs::Nothing,
        run: topology::a_moved_interface_works,
    },
    Test {
        name: "the_rows_are_the_kernels_behaviour",
        needs: Needs::Iptables,
        run: rows::the_rows_are_the_kernels_behaviour,
    },
    Test {
        name: "rows_notice_a_gateway_that_fails",
        needs: Needs::Iptables,
        run: rows::rows_notice_a_gateway_that_fails,
    },
    Test {
        name: "all_rows_hold_on_packet_sockets",
        needs: Needs::Nothing,
        run: rows::all_rows_hold_on_packet_sockets,
    },
    Test { name: "all_rows_hold_on_taps", needs: Needs::Tun, run: rows::all_rows_hold_on_taps },
    Test {
        name: "the_gateway_ends_with_a_lab_that_crashes",
        needs: Needs::Nothing,
        run: command::the_gateway_ends_with_a_lab_that_crashes,
    },
    Test {
        name: "a_kept_lab_is_entered_and_stopped",
        needs: Needs::Iptables,
        run: command::a_kept_lab_is_entered_and_stopped,
    },
    Test {
        name: "remains_are_cleaned_up",
        needs: Needs::Iptables,
        run: command::remains_are_cleaned_up,
    },
];

fn main() -> ExitCode {
    // They share two cores and measure time: one after another.
    let mut trials = Trials::new(1);
    let rights = privilege::acquire();
    let iptables = has_iptables();
    let tun = File::options().read(true).write(true).open("/dev/net/tun").is_ok();
    for test in TESTS {
        let missing = match (&rights, test.needs) {
            (Err(e), _) => Some(e.to_string()),
            (Ok(_), Needs::Iptables) if !iptables => {
                Some("the reference needs iptables-restore or iptables-legacy-restore".into())
            }
            (Ok(_), Needs::Tun) if !tun => Some("/dev/net/tun cannot be opened".into()),
            _ => None,
        };
        trials.add(test.name, missing, test.run);
    }
    trials.run()
}

fn has_iptables() -> bool {
    ["iptables", "ip6tables"].iter().all(|family| {
        ["legacy-restore", "restore"].iter().any(|kind| {
            let program = Command::new(format!("{family}-{kind}")).arg("--version").output();
            program.is_ok_and(|o| o.status.success())
        })
    })
}
