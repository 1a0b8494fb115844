//! Programs that edit rules, unchanged, against a running gateway.
//!
//! Each is run twice, with the kernel's iptables and with the gateway's names, and has to say the
//! same, end the same and leave the same rules. Packets then tell whether the gateway does what
//! the rules say.
//!
//! Needs root or user namespaces, iptables-legacy, and for some tests the program; where that isn't
//! to be had the test says so, and fails if `TIDEGATE_FORBID_SKIP` is set.

use std::path::Path;
use std::process::ExitCode;

use tidegate::lab::privilege;

mod fail2ban;
#[expect(dead_code, reason = "made for more than is asked of it here")]
#[path = "../gateway/harness.rs"]
mod harness;
mod room;
mod sequences;
mod speed;
#[path = "../common/trials.rs"]
mod trials;
mod ufw;

use harness::Outcome;
use trials::Trials;

struct Test {
    name: &'static str,
    /// A file of the program that it is about, and the package that has it.
    needs: Option<(&'static str, &'static str)>,
    run: fn() -> Outcome,
}

const FAIL2BAN: Option<(&str, &str)> = Some(("/usr/bin/fail2ban-client", "fail2ban"));
const UFW: Option<(&str, &str)> = Some(("/usr/sbin/ufw", "ufw"));
const LEGACY: (&str, &str) = ("/usr/sbin/xtables-legacy-multi", "iptables");

const fn test(
    name: &'static str,
    needs: Option<(&'static str, &'static str)>,
    run: fn() -> Outcome,
) -> Test {
    Test { name, needs, run }
}

const TESTS: &[Test] = &[
    test("fail2ban::bans_by_the_log_and_by_hand", FAIL2BAN, fail2ban::bans_by_the_log_and_by_hand),
    test("fail2ban::every_action_as_with_iptables", FAIL2BAN, fail2ban::every_action),
    test("ufw::says_and_does_what_it_does_with_iptables", UFW, ufw::as_with_iptables),
    test("ufw::packets_agree", UFW, ufw::packets_agree),
    test("sequences::leave_what_iptables_leaves", None, sequences::leave_what_iptables_leaves),
    test("sequences::batches_of_kubernetes_decide", None, sequences::services_are_reached),
    test("speed::a_rule_among_many", None, speed::a_rule_among_many),
];

fn main() -> ExitCode {
    let mut trials = Trials::new(2);
    let rights = privilege::acquire();
    for test in TESTS {
        let absent = test.needs.iter().chain([&LEGACY]).find(|(f, _)| !Path::new(f).exists());
        let missing = match (&rights, absent) {
            (Err(e), _) => Some(e.to_string()),
            (_, Some((file, package))) => {
                Some(format!("no {file} (Debian: apt-get install {package})"))
            }
            _ => None,
        };
        trials.add(test.name, missing, test.run);
    }
    trials.run()
}
