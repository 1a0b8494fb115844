//! The gateway of the lab: this program in a process of its own, or, for reference, the kernel
//! with the same rules.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{Doing, LabError, Result};
use super::netns::Netns;
use super::scene::{BRIDGE_PORTS, CABLES, Devices, INTERFACES, NEXT_HOPS, Plan};

/// The final rules of the page "Simple stateful firewall" for a NAT gateway, in the form of
/// `iptables-save`.
pub const RULES4: &str = include_str!("rules/iptables.rules");

/// The page's final IPv6 rules, with a line for each directly attached subnet as it asks for, and
/// its FORWARD chain in IPv6 form.
pub const RULES6: &str = include_str!("rules/ip6tables.rules");

/// Longer than any gateway takes to start.
const START: Duration = Duration::from_secs(20);

/// Time for an orderly end; then it is killed.
const STOP: Duration = Duration::from_secs(3);

/// Who forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// This program.
    Tidegate {
        /// Its binary.
        program: PathBuf,
    },
    /// The kernel's netfilter, to see that the expectations are its behaviour.
    Kernel,
}

/// A gateway that forwards.
#[derive(Debug)]
pub struct Gateway {
    /// None: it is the kernel, and falls with its namespace.
    child: Mutex<Option<Child>>,
}

impl Gateway {
    /// Starts it in its namespace and waits until it forwards.
    pub fn start(plan: &Plan, namespace: &Netns) -> Result<Self> {
        let rules = [("iptables.rules", RULES4), ("ip6tables.rules", RULES6)];
        for (name, text) in rules {
            let path = plan.directory.join(name);
            fs::write(&path, text).doing(|| path.display().to_string())?;
        }
        match &plan.engine {
            Engine::Kernel => {
                if plan.devices == Devices::Tap {
                    let text = "the kernel as a gateway has no use for TAP devices";
                    return Err(LabError::Invalid(text.into()));
                }
                for family in [["iptables", "iptables.rules"], ["ip6tables", "ip6tables.rules"]] {
                    restore(namespace, family[0], &plan.directory.join(family[1]))?;
                }
                Ok(Self { child: Mutex::new(None) })
            }
            Engine::Tidegate { program } => start(plan, program, namespace),
        }
    }

    /// The gateway's process.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().ok()?.as_ref().map(Child::id)
    }

    /// Why it isn't there any more, if it should be.
    pub fn exited(&self) -> Option<String> {
        let mut child = self.child.lock().ok()?;
        let status = child.as_mut()?.try_wait().ok()??;
        Some(status.to_string())
    }

    /// Ends it. Nothing happens the second time.
    pub fn stop(&self) {
        let child = self.child.lock().map_or_else(|p| p.into_inner().take(), |mut c| c.take());
        if let Some(child) = child {
            end(child);
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start(plan: &Plan, program: &Path, namespace: &Netns) -> Result<Gateway> {
    if plan.devices == Devices::Tap {
        let tun = "/dev/net/tun";
        File::options().read(true).write(true).open(tun).map_err(|e| {
            LabError::Missing(format!(
                "{tun}, which TAP devices need: {e} (modprobe tun; a container must be given \
                 that device; an ordinary user needs the right to open it)"
            ))
        })?;
    }
    let config = plan.directory.join("gateway.toml");
    let control = plan.directory.join("control.sock");
    let log_path = plan.directory.join("gateway.log");
    let text = configuration(plan, &control);
    fs::write(&config, text).doing(|| config.display().to_string())?;
    let log = File::create(&log_path).doing(|| log_path.display().to_string())?;
    let errors = log.try_clone().doing(|| log_path.display().to_string())?;
    let mut child = namespace
        .run(|| {
            Command::new(program)
                .arg("run")
                .arg("--config")
                .arg(&config)
                .arg("--exit-with-parent")
                .stdin(Stdio::piped())
                .stdout(log)
                .stderr(errors)
                .spawn()
        })
        .doing(|| format!("starting {}", program.display()))?;
    let started = Instant::now();
    let failed = loop {
        match child.try_wait() {
            Ok(Some(status)) => break format!("the gateway ended at once: {status}"),
            Ok(None) if control.exists() => {
                return Ok(Gateway { child: Mutex::new(Some(child)) });
            }
            Ok(None) if started.elapsed() > START => {
                break "the gateway did not get ready".to_owned();
            }
            Ok(None) => thread::sleep(Duration::from_millis(5)),
            Err(e) => break format!("waiting for the gateway: {e}"),
        }
    };
    end(child);
    let said = fs::read_to_string(&log_path).unwrap_or_default();
    Err(LabError::Missing(format!("{failed}\n{}", said.trim_end())))
}

/// Ends a process in order, or by force when it takes too long.
fn end(mut child: Child) {
    // A pid that hasn't been waited for cannot have become another process's.
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    drop(child.stdin.take());
    let asked = Instant::now();
    while asked.elapsed() < STOP {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// For `run --exit-with-parent`: ends this process, as SIGTERM would, when standard input does,
/// which happens when the process at the other end of the pipe is gone in whatever way.
pub fn exit_with_parent() -> io::Result<()> {
    thread::Builder::new().name("parent".into()).spawn(|| {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
        // To the process, not to this thread. One can always signal oneself.
        let _ = kill(Pid::this(), Signal::SIGTERM);
    })?;
    Ok(())
}

/// The gateway's `gateway.toml`.
fn configuration(plan: &Plan, control: &Path) -> String {
    let kind = match plan.devices {
        Devices::AfPacket => "af-packet",
        Devices::Tap => "tap",
    };
    let mut text = format!("control = {}\n", quoted(&control.to_string_lossy()));
    for (name, [v4, v6]) in INTERFACES {
        let device = if CABLES.iter().any(|c| c.port == name) {
            format!("kind = \"{kind}\"")
        } else {
            let ports = BRIDGE_PORTS.map(quoted).join(", ");
            format!("kind = \"bridge\"\nport_kind = \"{kind}\"\nports = [{ports}]")
        };
        text += &format!(
            "\n[[interface]]\nname = \"{name}\"\n{device}\naddress = [\"{v4}\", \"{v6}\"]\n"
        );
    }
    for hop in NEXT_HOPS {
        let to = if hop.contains(':') { "::/0" } else { "0.0.0.0/0" };
        text += &format!("\n[[route]]\nto = \"{to}\"\nvia = \"{hop}\"\n");
    }
    text += "\n[rules]\nipv4 = \"iptables.rules\"\nipv6 = \"ip6tables.rules\"\n";
    if plan.host_device {
        text += "\n[host]\ndevice = \"tide0\"\n";
    }
    text += "\n[sysctl]\n\"net.ipv4.conf.all.rp_filter\" = 1\n";
    text
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Loads rules into the kernel of a namespace.
fn restore(namespace: &Netns, family: &str, rules: &Path) -> Result<()> {
    let names = [format!("{family}-legacy-restore"), format!("{family}-restore")];
    for name in names {
        let file = File::open(rules).doing(|| rules.display().to_string())?;
        let output = namespace.run(|| {
            Command::new(&name)
                // An ordinary user can't write the usual one.
                .env("XTABLES_LOCKFILE", rules.with_file_name("xtables.lock"))
                .stdin(file)
                .output()
        });
        match output {
            Ok(done) if done.status.success() => return Ok(()),
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stderr).trim_end().to_owned();
                return Err(LabError::Missing(format!("{name}: {said}")));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).doing(|| name),
        }
    }
    Err(LabError::Missing(format!("no {family}-restore: --reference needs iptables installed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_and_names_every_port() {
        for devices in [Devices::AfPacket, Devices::Tap] {
            let engine = Engine::Tidegate { program: PathBuf::new() };
            let plan = Plan { engine, devices, host_device: true, directory: PathBuf::new() };
            let text = configuration(&plan, Path::new("/run/a \"b\"/control.sock"));
            let table: toml::Table = text.parse().expect(&text);
            assert_eq!(table["control"].as_str(), Some("/run/a \"b\"/control.sock"));
            let interfaces = table["interface"].as_array().expect("interfaces");
            assert_eq!(interfaces.len(), 3);
            for cable in &CABLES {
                assert!(text.contains(&quoted(cable.port)), "{}: {text}", cable.port);
            }
            assert_eq!(table["host"]["device"].as_str(), Some("tide0"));
            assert_eq!(table["rules"]["ipv4"].as_str(), Some("iptables.rules"));
        }
    }
}
