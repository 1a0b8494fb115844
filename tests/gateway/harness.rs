//! A gateway process between hosts in namespaces.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tidegate::control::{Client, Reply, Request, Status};
use tidegate::lab::netns::Netns;
use tidegate::lab::topology::{End, Network, Topology};
use tidegate::lab::traffic::{Failure, tcp, udp};
use tidegate_packet::Family;

pub type Outcome = Result<(), Box<dyn std::error::Error>>;
pub type Tried<T> = Result<T, Box<dyn std::error::Error>>;

/// Longer than anything takes that will happen, on a machine that has much else to do.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The rules that most tests use: everything is let through and tracked.
pub const OPEN: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
COMMIT
";

/// The command that the tests are about.
pub fn tidegate() -> Command {
    tidegate_by(&[])
}

/// The same, run by a program that is given its name.
fn tidegate_by(program: &[&str]) -> Command {
    let words: Vec<&str> = [program, &[env!("CARGO_BIN_EXE_tidegate")]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command.stdin(Stdio::null()).env("TIDEGATE_LOG", "info").env_remove("XDG_RUNTIME_DIR");
    command
}

/// A process of the gateway with its files.
pub struct Gateway {
    child: Child,
    ended: Option<ExitStatus>,
    dir: TempDir,
    _parent: Option<std::process::ChildStdin>,
}

impl Gateway {
    /// Starts it with a `gateway.toml` (whose `control` is added) and other files, and waits until
    /// it forwards.
    pub fn start(namespace: &Netns, toml: &str, files: &[(&str, &str)]) -> Tried<Self> {
        let dir = tempfile::tempdir()?;
        for (name, text) in files {
            fs::write(dir.path().join(name), text)?;
        }
        let toml = format!("control = \"c.sock\"\n{toml}");
        fs::write(dir.path().join("gateway.toml"), toml)?;
        let config = dir.path().join("gateway.toml");
        Self::spawn(namespace, dir, &["--config", &config.to_string_lossy()])?.ready()
    }

    /// Starts it with flags, `{}` in which is the folder of its files.
    pub fn start_flags(namespace: &Netns, flags: &[&str], files: &[(&str, &str)]) -> Tried<Self> {
        let dir = tempfile::tempdir()?;
        for (name, text) in files {
            fs::write(dir.path().join(name), text)?;
        }
        let folder = dir.path().to_string_lossy().into_owned();
        let mut flags: Vec<String> = flags.iter().map(|f| f.replace("{}", &folder)).collect();
        flags.push(format!("--control={folder}/c.sock"));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Self::spawn(namespace, dir, &flags)?.ready()
    }

    /// Starts it with flags and variables of its environment, without waiting.
    pub fn start_told(namespace: &Netns, flags: &[&str], told: (&str, &str)) -> Tried<Self> {
        let dir = tempfile::tempdir()?;
        let control = format!("--control={}", dir.path().join("c.sock").display());
        let flags: Vec<&str> = flags.iter().copied().chain([control.as_str()]).collect();
        Self::spawn_with(namespace, dir, &flags, &[], Some(told))
    }

    /// Starts it with flags by a program (`setpriv`) that is given its name.
    pub fn start_by(namespace: &Netns, program: &[&str], flags: &[&str]) -> Tried<Self> {
        let dir = tempfile::tempdir()?;
        let control = format!("--control={}", dir.path().join("c.sock").display());
        let flags: Vec<&str> = flags.iter().copied().chain([control.as_str()]).collect();
        Self::spawn_with(namespace, dir, &flags, program, None)?.ready()
    }

    fn spawn(namespace: &Netns, dir: TempDir, arguments: &[&str]) -> Tried<Self> {
        Self::spawn_with(namespace, dir, arguments, &[], None)
    }

    fn spawn_with(
        namespace: &Netns,
        dir: TempDir,
        arguments: &[&str],
        program: &[&str],
        variable: Option<(&str, &str)>,
    ) -> Tried<Self> {
        let log = File::create(dir.path().join("log"))?;
        let mut child = namespace.run(|| {
            // If the test dies, so does the gateway.
            let arguments = ["run", "--exit-with-parent"].iter().chain(arguments);
            let mut command = tidegate_by(program);
            command.args(arguments).envs(variable).stdin(Stdio::piped()).stderr(log);
            command.spawn()
        })?;
        let parent = child.stdin.take();
        Ok(Self { child, ended: None, dir, _parent: parent })
    }

    pub fn ready(mut self) -> Tried<Self> {
        let socket = self.control();
        let started = Instant::now();
        while !socket.exists() {
            if let Some(status) = self.child.try_wait()? {
                self.ended = Some(status);
                return Err(format!("the gateway ended: {status}\n{}", self.log()).into());
            }
            if started.elapsed() > DEADLINE {
                return Err(format!("the gateway didn't get ready\n{}", self.log()).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(self)
    }

    /// Where its files are.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn control(&self) -> PathBuf {
        self.path("c.sock")
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the log has this text.
    pub fn wait_for_log(&self, text: &str) -> Outcome {
        wait(&format!("{text:?} in the log"), || self.log().contains(text))
            .map_err(|e| format!("{e}\n{}", self.log()).into())
    }

    pub fn signal(&self, signal: Signal) -> Outcome {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Ends it as a service manager does; it must end well, and soon.
    pub fn stop(mut self) -> Tried<String> {
        self.signal(Signal::SIGTERM)?;
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            // Two seconds are what the gateway needs at most; the rest is for the machine.
            if asked.elapsed() > DEADLINE {
                return Err("the gateway doesn't end".into());
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.ended = Some(status);
        let log = self.log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!self.control().exists(), "the socket is still there\n{log}");
        Ok(log)
    }

    /// Ends it as a crash does.
    pub fn crash(mut self) -> Outcome {
        self.child.kill()?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        assert_eq!(status.signal(), Some(9), "it had ended before\n{}", self.log());
        Ok(())
    }

    pub fn ask(&self, request: Request) -> Tried<Reply> {
        Ok(Client::connect(&self.control())?.ask(request)?)
    }

    pub fn status(&self) -> Tried<Status> {
        match self.ask(Request::Status {})? {
            Reply::Status(status) => Ok(status),
            other => Err(format!("{other:?}").into()),
        }
    }

    pub fn rules(&self, family: Family) -> Tried<String> {
        match self.ask(Request::Rules { family })? {
            Reply::Rules(text) => Ok(text),
            other => Err(format!("{other:?}").into()),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.ended.is_none() {
            if thread::panicking() {
                eprintln!("the gateway's log:\n{}", self.log());
            }
            // Gives interfaces back, so that no record stays.
            let _ = self.signal(Signal::SIGTERM);
            let asked = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < DEADLINE / 4 {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs the command to its end.
pub fn run(namespace: &Netns, arguments: &[&str]) -> Tried<Output> {
    let mut child = namespace
        .run(|| tidegate().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > DEADLINE {
            child.kill()?;
            let mut said = String::new();
            child.stderr.take().ok_or("no stderr")?.read_to_string(&mut said)?;
            return Err(format!("{arguments:?} doesn't end\n{said}").into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output()?)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something is so.
pub fn wait(what: &str, mut so: impl FnMut() -> bool) -> Outcome {
    let started = Instant::now();
    while !so() {
        if started.elapsed() > DEADLINE {
            return Err(format!("not within {DEADLINE:?}: {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub fn at(address: &str) -> SocketAddr {
    address.parse().unwrap_or_else(|e| panic!("{address}: {e}"))
}

/// Asks a service over TCP: `name sees address`.
pub fn ask_tcp(from: &Netns, to: &str) -> Tried<String> {
    said(from.run(|| tcp::ask(None, at(to))), to)
}

/// Asks a service over UDP.
pub fn ask_udp(from: &Netns, to: &str) -> Tried<String> {
    said(from.run(|| udp::ask(None, at(to))), to)
}

/// The same from a port: the kernel draws its own at random, so that two questions may be one flow.
pub fn ask_udp_from(from: &Netns, port: u16, to: &str) -> Tried<String> {
    said(from.run(|| udp::ask(Some(port), at(to))), to)
}

fn said(asked: tidegate::lab::traffic::Asked, to: &str) -> Tried<String> {
    match asked {
        Ok(exchange) => Ok(format!("{} sees {}", exchange.by, exchange.seen.ip())),
        Err(Failure::Answer(answer)) => Ok(answer.to_string()),
        Err(failure) => Err(format!("{to}: {failure}").into()),
    }
}

/// How a connection attempt is answered.
pub fn knock(from: &Netns, to: &str) -> Tried<String> {
    Ok(from.run(|| tcp::knock(at(to), DEADLINE))?.to_string())
}

/// How a ping is answered.
pub fn ping(from: &Netns, to: &str) -> Tried<String> {
    let to = to.parse()?;
    Ok(from.run(|| tidegate::lab::traffic::ping::ping(to))?.to_string())
}

/// `client` with 192.168.0.2 and fd00:1::2, `server` with 203.0.113.2 and 2001:db8:1::2, and
/// `gw` between them with bare interfaces `lan0` and `wan0`.
pub fn two_hosts() -> Topology {
    Topology::new()
        .host("client")
        .host("gw")
        .host("server")
        .link(
            End::new("client", "eth0").address("192.168.0.2/24").address("fd00:1::2/64"),
            End::new("gw", "lan0"),
        )
        .link(
            End::new("server", "eth0").address("203.0.113.2/24").address("2001:db8:1::2/64"),
            End::new("gw", "wan0"),
        )
        .route("client", "default", "192.168.0.1")
        .route("client", "default", "fd00:1::1")
        .route("server", "default", "2001:db8:1::1")
}

/// Kernel parameters with which no connection ends while a slow machine is at it.
pub const LASTING: &str = "\
    net.netfilter.nf_conntrack_udp_timeout = 3000\n\
    net.netfilter.nf_conntrack_udp_timeout_stream = 3000\n\
    net.netfilter.nf_conntrack_icmp_timeout = 3000\n\
    net.netfilter.nf_conntrack_tcp_timeout_time_wait = 3000\n";

/// `gateway.toml` for [`two_hosts`], as the design has it.
pub const TWO: &str = r#"
[[interface]]
name = "lan0"
kind = "af-packet"
address = ["192.168.0.1/24", "fd00:1::1/64"]

[[interface]]
name = "wan0"
kind = "af-packet"
address = ["203.0.113.1/24", "2001:db8:1::1/64"]

[[route]]
to = "0.0.0.0/0"
via = "203.0.113.2"
"#;

/// The same once the kernel has given it its link-local address, which it does a while after the
/// link is up.
pub fn settled_state_of(network: &Network, node: &str, name: &str) -> Tried<Vec<String>> {
    wait(&format!("a link-local address of {name}"), || {
        let state = state_of(network, node, name).unwrap_or_default();
        state.iter().any(|l| l.starts_with("address fe80:"))
    })?;
    state_of(network, node, name)
}

/// What an interface has, for comparing before and after: addresses, routes, up.
pub fn state_of(network: &Network, node: &str, name: &str) -> Tried<Vec<String>> {
    let mut netlink = network.host(node).netlink()?;
    let link = netlink.require_link(name)?;
    let mut state = vec![format!("up {}, mtu {}, {:?}", link.up, link.mtu, link.mac)];
    let addresses = netlink.addresses()?;
    let mut lines: Vec<String> = addresses
        .iter()
        .filter(|a| a.index == link.index)
        .map(|a| format!("address {}", a.prefix))
        .collect();
    let routes = netlink.routes()?;
    lines.extend(
        routes
            .iter()
            .filter(|r| r.device == Some(link.index))
            .map(|r| format!("route {} via {:?} metric {}", r.to, r.via, r.metric)),
    );
    lines.sort();
    state.extend(lines);
    Ok(state)
}
