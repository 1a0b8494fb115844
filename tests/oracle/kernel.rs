//! The kernel's side: a network namespace with TAP interfaces, the kernel's own routing and
//! `iptables-legacy` rules.
//!
//! A frame that is written to a TAP's descriptor goes through the whole stack before the write
//! returns (`tun_get_user` calls `netif_receive_skb`), and what the stack sends waits in the other
//! descriptors by then. So nothing has to be waited for, and nothing is lost or late.

use crate::case::{Case, Settings};
use crate::side::{Side, Transcript, counted, entries, play};
use crate::topology::Topology;
use nix::sched::{CloneFlags, unshare};
use smoltcp::phy::{Device, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::time::Instant;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What both sides are set to before a case's own settings: the kernel's defaults, without rate
/// limits and without redirects, so that cases about other things aren't disturbed.
pub const BASE: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
    ("net.ipv4.icmp_msgs_per_sec", "1000000"),
    ("net.ipv4.icmp_msgs_burst", "1000000"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
];

/// What keeps the kernel's own traffic and its random flow labels out of the way.
const QUIET: &[(&str, &str)] = &[
    ("net.ipv6.conf.all.disable_ipv6", "0"),
    ("net.ipv6.conf.default.disable_ipv6", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.auto_flowlabels", "0"),
];

/// The kernel's gateway. Lives in the thread that made it, whose namespace it uses.
pub struct Kernel {
    taps: Vec<(String, TunTapInterface)>,
    lock: tempfile::NamedTempFile,
    /// Whether the case has made some.
    sets: bool,
}

/// Whether this machine can play cases in the kernel, else why not.
pub fn available() -> Result<(), String> {
    let programs = ["iptables-legacy-restore", "ip6tables-legacy-restore", "ip", "conntrack"];
    for program in programs {
        let found = command(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|e| format!("{program}: {e}"))?;
    }
    let settings = Settings::default();
    std::thread::spawn(move || Kernel::new(&Topology::new(&settings), &settings).map(drop))
        .join()
        .map_err(|_| "the namespace's thread panicked".to_owned())?
}

/// Takes an ordinary user into a user namespace, where it may make network namespaces. Call it
/// before any thread is started.
pub fn become_root() -> Result<(), String> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| format!("user namespace: {e}"))?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))?;
    }
    Ok(())
}

/// Plays a case in a fresh namespace. `connections`: list them at the end.
pub fn transcript(case: &Case, connections: bool) -> Result<Transcript, String> {
    let case = case.clone();
    std::thread::spawn(move || {
        let topology = Topology::new(&case.settings);
        let mut kernel = Kernel::new(&topology, &case.settings)?;
        let mut transcript = play(&case, &topology, &mut kernel)?;
        transcript.counters = kernel.counters();
        if connections {
            transcript.connections = kernel.connections();
        }
        Ok(transcript)
    })
    .join()
    .map_err(|_| "the namespace's thread panicked".to_owned())?
}

impl Kernel {
    /// Moves the calling thread into a new network namespace and makes it the gateway of
    /// `topology`.
    fn new(topology: &Topology, settings: &Settings) -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("network namespace: {e}"))?;
        for (name, value) in BASE.iter().chain(QUIET) {
            set(name, value)?;
        }
        let mut taps = Vec::new();
        for interface in &topology.interfaces {
            let tap = TunTapInterface::new(&interface.name, Medium::Ethernet)
                .map_err(|e| format!("TAP {}: {e}", interface.name))?;
            taps.push((interface.name.clone(), tap));
        }
        for (name, value) in &settings.sysctls {
            if !name.starts_with("tidegate.") {
                set(name, value)?;
            }
        }
        feed("ip", &["-batch", "-"], &addressing(topology), &[])?;
        settled(topology)?;
        let lock = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        let sets = !settings.sets.is_empty();
        if sets {
            feed("ipset", &["restore"], &settings.sets, &[])?;
        }
        let kernel = Self { taps, lock, sets };
        kernel.restore("iptables-legacy-restore", &settings.rules4)?;
        kernel.restore("ip6tables-legacy-restore", &settings.rules6)?;
        Ok(kernel)
    }

    fn restore(&self, program: &str, rules: &str) -> Result<(), String> {
        if rules.is_empty() {
            return Ok(());
        }
        let lock = self.lock.path().display().to_string();
        feed(program, &["-w"], rules, &[("XTABLES_LOCKFILE", &lock)])
    }

    fn lines_of(&self, program: &str, arguments: &[&str]) -> Option<Vec<String>> {
        let output = command(program)
            .args(arguments)
            .env("XTABLES_LOCKFILE", self.lock.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }
}

impl Side for Kernel {
    fn inject(&mut self, interface: &str, frame: &[u8]) -> Result<(), String> {
        // A TAP refuses what has no whole link header; no network card would deliver it either.
        if frame.len() < 14 {
            return Ok(());
        }
        let tap = self.taps.iter_mut().find(|(name, _)| name == interface);
        let (_, tap) = tap.ok_or_else(|| format!("no interface {interface}"))?;
        let token = tap.transmit(Instant::ZERO).ok_or("the TAP takes nothing")?;
        token.consume(frame.len(), |buffer| buffer.copy_from_slice(frame));
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut frames = Vec::new();
        for (name, tap) in &mut self.taps {
            while let Some((token, _)) = tap.receive(Instant::ZERO) {
                frames.push((name.clone(), token.consume(<[u8]>::to_vec)));
            }
        }
        Ok(frames)
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn counters(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        for (program, family) in [("iptables-legacy-save", "v4"), ("ip6tables-legacy-save", "v6")] {
            lines.extend(counted(family, &self.lines_of(program, &["-c"])?.join("\n")));
        }
        if self.sets {
            lines.extend(entries(&self.lines_of("ipset", &["save", "-sorted"])?.join("\n")));
        }
        Some(lines)
    }

    fn listing(&mut self) -> Vec<String> {
        let text = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
        // IPv6 addresses stand there with all their zeros.
        let short = |word: &str| match word.split_once('=') {
            Some((key @ ("src" | "dst"), address)) => match address.parse::<IpAddr>() {
                Ok(address) => format!("{key}={address}"),
                Err(_) => word.to_owned(),
            },
            _ => word.to_owned(),
        };
        let words = |line: &str| {
            let words = line.split_whitespace().filter(|word| *word != "zone=0").map(short);
            words.collect::<Vec<_>>().join(" ")
        };
        text.unwrap_or_default().lines().map(words).collect()
    }

    fn connections(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        for form in ["extended", "xml", "save"] {
            lines.extend(self.lines_of("conntrack", &["-L", "-o", form])?);
        }
        for family in ["ipv4", "ipv6"] {
            let expected = ["-L", "expect", "-f", family, "-o"];
            for form in ["save", "xml"] {
                lines.extend(self.lines_of("conntrack", &[&expected[..], &[form]].concat())?);
            }
        }
        // What stands around the entries in XML.
        const AROUND: [&str; 4] = ["<conntrack>", "</conntrack>", "<expect>", "</expect>"];
        lines.retain(|line| !line.starts_with("<?xml") && !AROUND.contains(&line.as_str()));
        for line in &mut lines {
            // A number that each side draws for itself.
            if let Some((head, rest)) = line.clone().split_once("<id>")
                && let Some((_, tail)) = rest.split_once("</id>")
            {
                *line = format!("{head}<id>0</id>{tail}");
            }
        }
        lines.sort();
        Some(lines)
    }
}

/// Writes a sysctl in the calling thread's namespace.
fn set(name: &str, value: &str) -> Result<(), String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::write(&path, value).map_err(|e| format!("sysctl {name}={value}: {e}"))
}

/// `ip -batch` text that sets the interfaces up.
fn addressing(topology: &Topology) -> String {
    let mut batch = String::from("link set lo up\n");
    for i in &topology.interfaces {
        batch += &format!("link set {} address {} mtu {} up\n", i.name, i.mac, i.mtu);
        for address in &i.addresses {
            let nodad = if address.contains(':') { " nodad" } else { " brd +" };
            batch += &format!("addr add {address}{nodad} dev {}\n", i.name);
        }
    }
    for n in &topology.neighbours {
        batch +=
            &format!("neigh add {} lladdr {} nud permanent dev {}\n", n.addr, n.mac, n.interface);
    }
    for r in &topology.routes {
        let via = r.via.as_ref().map(|v| format!(" via {v}")).unwrap_or_default();
        batch += &format!("route add {}{via} dev {}\n", r.to, r.dev);
    }
    batch
}

/// Waits until every IPv6 address is there and none is tentative.
fn settled(topology: &Topology) -> Result<(), String> {
    let own = topology.prefixes().filter(|(_, p)| !p.addr().is_v4()).count();
    // Loopback's and a link-local one for each interface.
    let expected = own + 1 + topology.interfaces.len();
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
        let tentative = |line: &str| {
            let flags =
                line.split_whitespace().nth(4).and_then(|f| u32::from_str_radix(f, 16).ok());
            flags.is_none_or(|f| f & 0x40 != 0)
        };
        if text.lines().count() >= expected && !text.lines().any(tentative) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("the kernel's IPv6 addresses stay tentative".to_owned())
}

/// A command, found also where an ordinary user's PATH doesn't lead.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Runs a program with `input`; what it complains about is the error.
fn feed(
    program: &str,
    arguments: &[&str],
    input: &str,
    env: &[(&str, &str)],
) -> Result<(), String> {
    let mut child = command(program)
        .args(arguments)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|e| format!("{program}: {e}"))?;
    }
    let output = child.wait_with_output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} refuses: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
