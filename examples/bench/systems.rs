//! What is measured: three namespaces and something that forwards in the middle one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate::lab::error::{LabError, Result};
use tidegate::lab::gateway::{RULES4, RULES6};
use tidegate::lab::netns::Netns;
use tidegate::lab::topology::{End, Network, Topology};
use tidegate::lab::traffic::service::Service;

/// The server's echo service.
pub const ECHO: u16 = 7;

/// Longer than any gateway takes to start.
const START: Duration = Duration::from_secs(20);

/// Who forwards.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Tidegate.
    Tidegate {
        /// Its binary.
        program: PathBuf,
        /// Its workers, or its own default.
        workers: Option<usize>,
    },
    /// The kernel with iptables.
    Kernel,
    /// A program that copies frames and knows nothing else.
    Plumb {
        /// Its binary.
        program: PathBuf,
    },
}

/// Says at what the operating system failed.
trait Doing<T> {
    fn doing<D: Into<String>>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing<D: Into<String>>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|source| LabError::System { what: what().into(), source })
    }
}

/// A gateway with a client and a server around it.
pub struct System {
    /// What it is called.
    pub name: String,
    /// Who forwards.
    pub kind: Kind,
    _services: Vec<Service>,
    child: Option<Child>,
    network: Network,
    _directory: tempfile::TempDir,
}

impl System {
    /// Builds it and waits until it forwards.
    pub fn build(name: &str, kind: Kind) -> Result<Self> {
        let directory = tempfile::tempdir().doing(|| "a temporary directory")?;
        let network = topology(&kind).build()?;
        let child = start(&kind, network.host("gateway"), directory.path())?;
        let server = network.host("server");
        let services = vec![Service::start(server, "server", ECHO).doing(|| "the echo service")?];
        let name = name.to_owned();
        Ok(Self { name, kind, _services: services, child, network, _directory: directory })
    }

    /// The client.
    pub fn client(&self) -> &Netns {
        self.network.host("client")
    }

    /// The server.
    pub fn server(&self) -> &Netns {
        self.network.host("server")
    }

    /// The forwarding process, where there is one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Processor time that the forwarding process has used.
    pub fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?)).ok()?;
        // The name in brackets may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks * 10))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A pid that hasn't been waited for cannot have become another process's.
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        drop(child.stdin.take());
        let _ = child.wait();
    }
}

/// A program of the same build.
pub fn beside_us(name: &str) -> Result<PathBuf> {
    let us = std::env::current_exe().doing(|| "finding this program")?;
    let folder = us.ancestors().nth(2).unwrap_or(Path::new("."));
    let path = folder.join(name);
    match path.exists() {
        true => Ok(path),
        false => {
            Err(LabError::Missing(format!("{} isn't built: use scripts/bench", path.display())))
        }
    }
}

/// The programs that load rules into the kernel.
const RESTORE: [&str; 2] = ["iptables-legacy-restore", "ip6tables-legacy-restore"];

/// Whether the kernel can be given rules.
pub fn has_iptables() -> bool {
    RESTORE.iter().all(|name| {
        let mut command = Command::new(name);
        let status = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success())
    })
}

/// The page's names and addresses; the server stands directly on the uplink.
fn topology(kind: &Kind) -> Topology {
    let mut t = Topology::new().host("client").host("server");
    t = match kind {
        Kind::Kernel => t.router("gateway").sysctl("gateway", "net.ipv4.conf.all.rp_filter", "1"),
        _ => t.host("gateway").sysctl("gateway", "net.ipv6.conf.default.disable_ipv6", "1"),
    };
    let (mut lan, mut wan) = (End::new("gateway", "eth0"), End::new("gateway", "ppp0"));
    if matches!(kind, Kind::Kernel) {
        lan = lan.address("192.168.0.1/24");
        wan = wan.address("203.0.113.1/24");
    }
    // To the bare plumbing both sides are one network.
    let client = match kind {
        Kind::Plumb { .. } => "203.0.113.77/24",
        _ => "192.168.0.2/24",
    };
    t = t
        .link(End::new("client", "eth0").address(client), lan)
        .link(End::new("server", "eth0").address("203.0.113.2/24"), wan);
    match kind {
        Kind::Plumb { .. } => t,
        _ => t.route("client", "default", "192.168.0.1"),
    }
}

fn start(kind: &Kind, gateway: &Netns, directory: &Path) -> Result<Option<Child>> {
    for (name, text) in [("iptables.rules", RULES4), ("ip6tables.rules", RULES6)] {
        let path = directory.join(name);
        fs::write(&path, text).doing(|| path.display().to_string())?;
    }
    match kind {
        Kind::Kernel => {
            for (program, file) in RESTORE.into_iter().zip(["iptables.rules", "ip6tables.rules"]) {
                restore(gateway, program, &directory.join(file))?;
            }
            Ok(None)
        }
        Kind::Plumb { program } => {
            let mut command = Command::new(program);
            command.args(["eth0", "ppp0"]);
            spawn(gateway, command, directory, None).map(Some)
        }
        Kind::Tidegate { program, workers } => {
            let config = directory.join("gateway.toml");
            let control = directory.join("control.sock");
            fs::write(&config, configuration(&control, *workers))
                .doing(|| config.display().to_string())?;
            let mut command = Command::new(program);
            command.arg("run").arg("--config").arg(&config).arg("--exit-with-parent");
            spawn(gateway, command, directory, Some(&control)).map(Some)
        }
    }
}

/// Starts a forwarder and waits until its control socket is there, or for a moment.
fn spawn(
    gateway: &Netns,
    mut command: Command,
    directory: &Path,
    ready: Option<&Path>,
) -> Result<Child> {
    let log_path = directory.join("log");
    let log = File::create(&log_path).doing(|| log_path.display().to_string())?;
    let errors = log.try_clone().doing(|| log_path.display().to_string())?;
    command.stdin(Stdio::piped()).stdout(log).stderr(errors);
    let mut child = gateway.run(|| command.spawn()).doing(|| format!("{command:?}"))?;
    let started = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            let said = fs::read_to_string(&log_path).unwrap_or_default();
            return Err(LabError::Missing(format!("{command:?} ended, {status}\n{said}")));
        }
        match ready {
            Some(path) if path.exists() => return Ok(child),
            None if started.elapsed() > Duration::from_millis(300) => return Ok(child),
            _ if started.elapsed() > START => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(LabError::Missing(format!("{command:?} did not get ready")));
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn configuration(control: &Path, workers: Option<usize>) -> String {
    let workers = workers.map_or(String::new(), |n| format!("workers = {n}\n"));
    format!(
        "control = {:?}\n{workers}\n\
         [[interface]]\nname = \"eth0\"\nkind = \"af-packet\"\naddress = [\"192.168.0.1/24\"]\n\n\
         [[interface]]\nname = \"ppp0\"\nkind = \"af-packet\"\naddress = [\"203.0.113.1/24\"]\n\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"203.0.113.2\"\n\n\
         [rules]\nipv4 = \"iptables.rules\"\nipv6 = \"ip6tables.rules\"\n\n\
         [sysctl]\n\"net.ipv4.conf.all.rp_filter\" = 1\n",
        control.display().to_string()
    )
}

fn restore(gateway: &Netns, program: &str, rules: &Path) -> Result<()> {
    let file = File::open(rules).doing(|| rules.display().to_string())?;
    let done = gateway
        .run(|| {
            Command::new(program)
                // An ordinary user can't write the usual one.
                .env("XTABLES_LOCKFILE", rules.with_file_name("xtables.lock"))
                .stdin(file)
                .output()
        })
        .doing(|| program.to_owned())?;
    match done.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&done.stderr).trim_end().to_owned();
            Err(LabError::Missing(format!("{program}: {said}")))
        }
    }
}
