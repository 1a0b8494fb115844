//! Networks of namespaces and the lab in them, with real kernels at all ends.
//!
//! Needs root or user namespaces; where neither is to be had, or where a test needs a program
//! that isn't installed, it says so, and fails if `TIDEGATE_FORBID_SKIP` is set.

use std::error::Error;
use std::fs::File;
use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use tidegate::lab::privilege;

mod command;
mod rows;
mod topology;

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
    let mut arguments = Arguments::from_args();
    // They share two cores and measure time: one after another.
    arguments.test_threads.get_or_insert(1);
    let rights = privilege::acquire();
    let forbid = std::env::var_os("TIDEGATE_FORBID_SKIP").is_some_and(|v| v != "0");
    let iptables = has_iptables();
    let tun = File::options().read(true).write(true).open("/dev/net/tun").is_ok();
    let trials = TESTS
        .iter()
        .map(|test| {
            let missing = match (&rights, test.needs) {
                (Err(e), _) => Some(e.to_string()),
                (Ok(_), Needs::Iptables) if !iptables => {
                    Some("the reference needs iptables-restore or iptables-legacy-restore".into())
                }
                (Ok(_), Needs::Tun) if !tun => Some("/dev/net/tun cannot be opened".into()),
                _ => None,
            };
            if let Some(why) = missing.as_ref().filter(|_| !forbid) {
                eprintln!("SKIPPED: {}: {why}", test.name);
            }
            let (run, skip) = (test.run, missing.is_some() && !forbid);
            Trial::test(test.name, move || match missing {
                Some(why) => Err(Failed::from(why)),
                None => run().map_err(|e| Failed::from(e.to_string())),
            })
            .with_ignored_flag(skip)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn has_iptables() -> bool {
    ["iptables", "ip6tables"].iter().all(|family| {
        ["legacy-restore", "restore"].iter().any(|kind| {
            let program = Command::new(format!("{family}-{kind}")).arg("--version").output();
            program.is_ok_and(|o| o.status.success())
        })
    })
}
