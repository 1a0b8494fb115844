//! Programs that people use, from Debian, between hosts with real kernels around a gateway with the
//! rules of the page "Simple stateful firewall".
//!
//! Every test is made twice: with Tidegate as the gateway, and with the kernel's own netfilter in
//! its place under the same rules. What is expected is the same, so it is the kernel's behaviour.
//! What is missing (rights, a program) is said, and fails if `TIDEGATE_FORBID_SKIP` is set.

use std::process::{Command, ExitCode, Stdio};

use tidegate::lab::privilege;

mod bulk;
mod helpers;
mod http;
mod paths;
mod scans;
mod stage;
mod stun;
#[path = "../common/trials.rs"]
mod trials;

use stage::{Outcome, Stage};
use trials::Trials;

struct Test {
    name: &'static str,
    /// The program that it is about.
    program: &'static str,
    run: fn(&Stage) -> Outcome,
}

const TESTS: &[Test] = &[
    Test { name: "scans_of_the_gateway", program: "nmap", run: scans::of_the_gateway },
    Test { name: "scans_of_what_is_forwarded", program: "nmap", run: scans::of_what_is_forwarded },
    Test { name: "traceroute", program: "traceroute", run: paths::traceroute },
    Test { name: "tracepath", program: "tracepath", run: paths::tracepath },
    Test { name: "a_narrow_path", program: "ping", run: paths::a_narrow_path },
    Test { name: "many_streams", program: "iperf3", run: bulk::many_streams },
    Test { name: "curl", program: "curl", run: http::curl },
    Test { name: "ftp", program: "pyftpdlib", run: helpers::ftp },
    Test { name: "tftp", program: "in.tftpd", run: helpers::tftp },
    Test { name: "sip", program: "sipp", run: helpers::sip },
    Test { name: "pptp", program: "/usr/bin/python3", run: helpers::pptp },
    Test { name: "stun", program: "stund", run: stun::behaviour },
];

fn main() -> ExitCode {
    // Scanners and tracers mostly wait.
    let mut trials = Trials::new(4);
    let rights = privilege::acquire();
    for test in TESTS {
        for kernel in [false, true] {
            let name = format!("{}::{}", if kernel { "kernel" } else { "tidegate" }, test.name);
            let missing = match &rights {
                Err(e) => Some(e.to_string()),
                Ok(_) if !exists(test.program) => Some(format!("{} isn't here", test.program)),
                Ok(_) if kernel && !exists("iptables-legacy-restore") => {
                    Some("the reference needs iptables-legacy-restore".into())
                }
                Ok(_) => None,
            };
            trials.add(&name, missing, move || {
                let stage = Stage::build(kernel)?;
                (test.run)(&stage).map_err(|e| stage.explain(&*e))
            });
        }
    }
    trials.run()
}

/// Whether a program can be started.
fn exists(program: &str) -> bool {
    // That one is a module and has no program of its own.
    let (program, arguments) = match program {
        "pyftpdlib" => ("/usr/bin/python3", &["-c", "import pyftpdlib"][..]),
        _ => (program, &["--help"][..]),
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success() || arguments == ["--help"])
}
