//! What is measured: three namespaces and something that forwards in the middle one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate::io::ethtool;
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
    /// The kernel with `tc … mirred egress redirect`: frames pass from one device to the other,
    /// and nothing looks at them.
    Redirect,
}

impl Kind {
    /// Whether it reads rules and translates; else both sides are one network to it.
    fn has_rules(&self) -> bool {
        matches!(self, Self::Tidegate { .. } | Self::Kernel)
    }
}

/// What is compared: the same forwarder under different rules.
pub struct Contestant {
    /// What it is called.
    pub name: String,
    /// With the page's rules.
    pub page: System,
    /// With many more in front of them, if that is to be measured and it reads any.
    pub many: Option<System>,
}

impl Contestant {
    /// Builds what it takes.
    pub fn build(name: &str, kind: &Kind, many: bool) -> Result<Self> {
        let page = System::build(kind.clone(), 0)?;
        let many = match many && kind.has_rules() {
            true => Some(System::build(kind.clone(), MANY)?),
            false => None,
        };
        Ok(Self { name: name.to_owned(), page, many })
    }
}

/// Rules that every packet passes in vain where there are many.
pub const MANY: usize = 10_000;

/// Says at what the operating system failed.
trait Doing<T> {
    fn doing<D: Into<String>>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing<D: Into<String>>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|source| LabError::System { what: what().into(), source })
    }
}

/// Who has no offloads for a while.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Without {
    /// Client and server.
    Ends,
    /// The gateway's devices neither.
    Any,
}

/// A gateway with a client and a server around it.
pub struct System {
    /// Who forwards.
    pub kind: Kind,
    _services: Vec<Service>,
    child: Option<Child>,
    network: Network,
    _directory: tempfile::TempDir,
}

impl System {
    /// Builds it, with so many rules in front of the page's, and waits until it forwards.
    fn build(kind: Kind, rules: usize) -> Result<Self> {
        let directory = tempfile::tempdir().doing(|| "a temporary directory")?;
        let network = topology(&kind).build()?;
        let child = start(&kind, network.host("gateway"), directory.path(), rules)?;
        let server = network.host("server");
        let services = vec![Service::start(server, "server", ECHO).doing(|| "the echo service")?];
        Ok(Self { kind, _services: services, child, network, _directory: directory })
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

    /// Processor time that the forwarding process has used, to the nanosecond.
    pub fn cpu(&self) -> Option<Duration> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()?)).ok()?;
        // What a thread ran for is the first field; threads neither come nor go in a cell.
        let of = |task: fs::DirEntry| -> Option<u64> {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        Some(Duration::from_nanos(tasks.flatten().filter_map(of).sum()))
    }

    /// Does something while these ends of the links carry frame by frame.
    pub fn frame_by_frame<T>(&self, without: Without, work: impl FnOnce() -> T) -> Result<T> {
        let ends =
            [("client", "eth0"), ("server", "eth0"), ("gateway", "eth0"), ("gateway", "ppp0")];
        let ends = &ends[..if without == Without::Ends { 2 } else { 4 }];
        let mut were = Vec::new();
        for end in ends {
            were.push(self.offloads(end, ethtool::super_packets)?);
            self.offloads(end, |name| ethtool::set_super_packets(name, false))?;
        }
        let done = work();
        for (end, was) in ends.iter().zip(were) {
            self.offloads(end, |name| ethtool::restore(name, was))?;
        }
        Ok(done)
    }

    fn offloads<T: Send>(
        &self,
        (host, name): &(&str, &str),
        work: impl FnOnce(&str) -> std::io::Result<T> + Send,
    ) -> Result<T> {
        let done = self.network.host(host).run(|| work(name));
        done.doing(|| format!("offloads of {name} at {host}"))
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
    RESTORE.iter().all(|name| has(name, "--version"))
}

/// Whether devices can be joined by `tc`.
pub fn has_tc() -> bool {
    has("tc", "-V")
}

fn has(name: &str, asks_version: &str) -> bool {
    let mut command = Command::new(name);
    let status = command.arg(asks_version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|s| s.success())
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
    let client = if kind.has_rules() { "192.168.0.2/24" } else { "203.0.113.77/24" };
    t = t
        .link(End::new("client", "eth0").address(client), lan)
        .link(End::new("server", "eth0").address("203.0.113.2/24"), wan);
    if kind.has_rules() { t.route("client", "default", "192.168.0.1") } else { t }
}

/// The page's rules with so many in front of its FORWARD chain that match nothing here.
fn with_rules(text: &str, count: usize) -> String {
    let many: String = (0..count)
        .map(|n| {
            let (a, b, port) = (n >> 8, n & 255, 1024 + n);
            format!("-A FORWARD -s 10.77.{a}.{b}/32 -p udp -m udp --dport {port} -j DROP\n")
        })
        .collect();
    match text.find("-A FORWARD") {
        Some(at) => format!("{}{many}{}", &text[..at], &text[at..]),
        None => text.to_owned(),
    }
}

fn start(kind: &Kind, gateway: &Netns, directory: &Path, rules: usize) -> Result<Option<Child>> {
    let rules4 = with_rules(RULES4, rules);
    for (name, text) in [("iptables.rules", rules4.as_str()), ("ip6tables.rules", RULES6)] {
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
        Kind::Redirect => {
            for (from, to) in [("eth0", "ppp0"), ("ppp0", "eth0")] {
                redirect(gateway, from, to)?;
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
    let mut command = Command::new(program);
    // An ordinary user can't write the usual one.
    command.env("XTABLES_LOCKFILE", rules.with_file_name("xtables.lock")).stdin(file);
    run(gateway, &mut command)
}

/// Sends all frames of one interface out of another. A classic BPF program that takes everything
/// is the one classifier that no kernel is built without.
fn redirect(gateway: &Netns, from: &str, to: &str) -> Result<()> {
    let tc = |arguments: &str| run(gateway, Command::new("tc").args(arguments.split(' ')));
    tc(&format!("qdisc add dev {from} clsact"))?;
    // One instruction: return -1.
    run(
        gateway,
        Command::new("tc")
            .args(["filter", "add", "dev", from, "ingress", "bpf", "bytecode"])
            .arg("1,6 0 0 4294967295")
            .args(["action", "mirred", "egress", "redirect", "dev", to]),
    )
}

fn run(gateway: &Netns, command: &mut Command) -> Result<()> {
    let done = gateway.run(|| command.output()).doing(|| format!("{command:?}"))?;
    match done.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&done.stderr).trim_end().to_owned();
            Err(LabError::Missing(format!("{command:?}: {said}")))
        }
    }
}
