//! Conversations that helpers read, between real stacks: FTP of a client and a server that are
//! written out here, through MASQUERADE; and the SYN proxy in front of a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

use super::harness::{DEADLINE, Gateway, Outcome, TWO, Tried, at, two_hosts};

/// Data connections pass as RELATED, or not at all.
const RULES: &str = "*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED -m helper --helper ftp -j ACCEPT
-A FORWARD -i lan0 -p tcp -m tcp --dport 21 -j ACCEPT
COMMIT
";

/// For IPv6, where neighbour discovery is untracked.
const FILES: [(&str, &str); 2] = [("v4", RULES), ("v6", RULES)];

fn config() -> String {
    format!("{TWO}\n[rules]\nipv4 = \"v4\"\nipv6 = \"v6\"\n")
}

/// More than a window, so that segments are merged and split on their way.
const SIZE: usize = 300_000;

fn file(seed: u8) -> Vec<u8> {
    (0..SIZE).map(|n| (n % 251) as u8 ^ seed).collect()
}

/// A server's side of one control connection. Notes the commands that name an address.
fn serve(control: TcpStream, seen: &Mutex<Vec<String>>) -> Tried<()> {
    control.set_read_timeout(Some(DEADLINE))?;
    let mut lines = BufReader::new(control.try_clone()?);
    let mut control = control;
    let mut passive: Option<TcpListener> = None;
    let mut active: Option<SocketAddr> = None;
    control.write_all(b"220 ready\r\n")?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (command, argument) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        let here = control.local_addr()?;
        match command {
            "PORT" | "EPRT" => {
                seen.lock().map_err(|_| "poisoned")?.push(line.trim_end().to_owned());
                active = Some(announced(argument).ok_or_else(|| format!("can't read {line}"))?);
                control.write_all(b"200 ok\r\n")?;
            }
            "PASV" | "EPSV" => {
                let listener = TcpListener::bind((here.ip(), 0))?;
                let port = listener.local_addr()?.port();
                let answer = match (command, here.ip()) {
                    ("PASV", IpAddr::V4(ip)) => {
                        let [a, b, c, d] = ip.octets();
                        format!("227 here ({a},{b},{c},{d},{},{})\r\n", port >> 8, port & 255)
                    }
                    _ => format!("229 here (|||{port}|)\r\n"),
                };
                passive = Some(listener);
                control.write_all(answer.as_bytes())?;
            }
            "RETR" | "STOR" => {
                control.write_all(b"150 now\r\n")?;
                let mut data = match (passive.take(), active.take()) {
                    (Some(listener), _) => listener.accept()?.0,
                    (None, Some(to)) => TcpStream::connect_timeout(&to, DEADLINE)?,
                    (None, None) => return Err("no data connection was announced".into()),
                };
                data.set_read_timeout(Some(DEADLINE))?;
                let mut taken = Vec::new();
                if command == "RETR" {
                    data.write_all(&file(1))?;
                } else {
                    data.read_to_end(&mut taken)?;
                }
                drop(data);
                let right = command == "RETR" || taken == file(2);
                control.write_all(if right { b"226 done\r\n" } else { b"451 bad\r\n" })?;
            }
            "QUIT" => {
                control.write_all(b"221 bye\r\n")?;
                return Ok(());
            }
            _ => control.write_all(b"331 more\r\n")?,
        }
    }
}

/// The address in `h,h,h,h,p,p` or `|n|address|port|`.
fn announced(text: &str) -> Option<SocketAddr> {
    if let Some(rest) = text.strip_prefix('|') {
        let mut parts = rest.split('|').skip(1);
        return Some((parts.next()?.parse::<IpAddr>().ok()?, parts.next()?.parse().ok()?).into());
    }
    let n: Vec<u8> = text.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [a, b, c, d, high, low] = n[..] else { return None };
    Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
}

/// A client's side.
struct Client {
    control: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Client {
    fn connect(to: SocketAddr) -> Tried<Self> {
        let control = TcpStream::connect_timeout(&to, DEADLINE)?;
        control.set_read_timeout(Some(DEADLINE))?;
        let mut this = Self { lines: BufReader::new(control.try_clone()?), control };
        this.answer("220")?;
        this.say("USER me", "331")?;
        Ok(this)
    }

    fn answer(&mut self, code: &str) -> Tried<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        match line.starts_with(code) {
            true => Ok(line),
            false => Err(format!("{line:?} instead of {code}").into()),
        }
    }

    fn say(&mut self, line: &str, code: &str) -> Tried<String> {
        self.control.write_all(format!("{line}\r\n").as_bytes())?;
        self.answer(code)
    }

    /// A file from the server, or one to it, over the data connection that `open` makes.
    fn transfer(&mut self, fetch: bool, open: impl FnOnce() -> Tried<TcpStream>) -> Outcome {
        self.say(if fetch { "RETR x" } else { "STOR x" }, "150")?;
        let mut data = open()?;
        data.set_read_timeout(Some(DEADLINE))?;
        if fetch {
            let mut got = Vec::new();
            data.read_to_end(&mut got)?;
            if got != file(1) {
                return Err(format!("{} bytes arrived, or other ones", got.len()).into());
            }
        } else {
            data.write_all(&file(2))?;
            data.shutdown(Shutdown::Write)?;
        }
        drop(data);
        self.answer("226").map(|_| ())
    }

    fn active(&mut self, fetch: bool, extended: bool) -> Outcome {
        let here = self.control.local_addr()?;
        let listener = TcpListener::bind((here.ip(), 0))?;
        let port = listener.local_addr()?.port();
        match here.ip() {
            IpAddr::V4(ip) if !extended => {
                let [a, b, c, d] = ip.octets();
                self.say(&format!("PORT {a},{b},{c},{d},{},{}", port >> 8, port & 255), "200")?;
            }
            ip => {
                let family = if ip.is_ipv4() { 1 } else { 2 };
                self.say(&format!("EPRT |{family}|{ip}|{port}|"), "200")?;
            }
        }
        self.transfer(fetch, || {
            // A connection that never comes must not hold the test up.
            listener.set_nonblocking(true)?;
            let mut come = None;
            super::harness::wait("a data connection", || {
                come = listener.accept().ok();
                come.is_some()
            })?;
            let (data, _) = come.ok_or("no data connection")?;
            data.set_nonblocking(false)?;
            Ok(data)
        })
    }

    fn passive(&mut self, fetch: bool, extended: bool) -> Outcome {
        let peer = self.control.peer_addr()?;
        let to = if extended {
            let answer = self.say("EPSV", "229")?;
            let port = answer.split('|').nth(3).and_then(|p| p.parse().ok()).ok_or("no port")?;
            SocketAddr::new(peer.ip(), port)
        } else {
            let answer = self.say("PASV", "227")?;
            let inside = answer.split(['(', ')']).nth(1).ok_or("no numbers")?;
            announced(inside).ok_or("no address")?
        };
        self.transfer(fetch, || Ok(TcpStream::connect_timeout(&to, DEADLINE)?))
    }
}

/// Everything on one control connection, so that each change of length adds to those before.
fn conversation(to: SocketAddr) -> Outcome {
    let mut client = Client::connect(to)?;
    for round in 0..3 {
        for extended in [false, true] {
            // PORT and PASV are of IPv4.
            if !extended && to.is_ipv6() {
                continue;
            }
            let tried = format!("round {round}, extended {extended}");
            client.active(true, extended).map_err(|e| format!("active fetch, {tried}: {e}"))?;
            client.active(false, extended).map_err(|e| format!("active store, {tried}: {e}"))?;
            client.passive(true, extended).map_err(|e| format!("passive fetch, {tried}: {e}"))?;
            client.passive(false, extended).map_err(|e| format!("passive store, {tried}: {e}"))?;
        }
    }
    client.say("QUIT", "221").map(|_| ())
}

pub fn ftp_through_masquerade() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw, server) = (network.host("client"), network.host("gw"), network.host("server"));
    let gateway = Gateway::start(gw, &config(), &FILES)?;
    for (to, outside) in [("203.0.113.2:21", "203,0,113,1"), ("[2001:db8:1::2]:21", "2001:0db8")] {
        let listener = server.run(|| TcpListener::bind(at(to)))?;
        let seen = Mutex::new(Vec::new());
        let (served, talked) = thread::scope(|scope| {
            let serving = scope.spawn(|| {
                let control = listener.accept().map_err(|e| e.to_string())?.0;
                server.run(|| serve(control, &seen).map_err(|e| e.to_string()))
            });
            let talked = client.run(|| conversation(at(to)).map_err(|e| e.to_string()));
            if talked.is_err() {
                // Lets the server's accept end, if it is still there.
                let _ = server.run(|| TcpStream::connect(at(to)));
            }
            (serving.join(), talked)
        });
        talked.map_err(|e| format!("{to}: {e}\n{}", gateway.log()))?;
        served.map_err(|_| "the server panicked")??;
        let seen = seen.into_inner()?;
        assert_eq!(seen.len(), if to.starts_with('[') { 6 } else { 12 });
        let announced = seen
            .iter()
            .filter(|line| line.contains(outside) || line.starts_with("EPRT |1|203.0.113.1|"));
        assert_eq!(announced.count(), seen.len(), "{seen:?}");
    }
    gateway.stop()?;
    Ok(())
}

const PROXY: &str = "*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i wan0 -p tcp -m tcp --syn -j CT --notrack
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
-A FORWARD -i wan0 -p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY OPTIONS
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
COMMIT
";

pub fn a_server_behind_the_syn_proxy() -> Outcome {
    let network = two_hosts().route("server", "192.168.0.0/24", "203.0.113.1").build()?;
    // Here the host on the LAN serves, and the one outside asks.
    let (inside, gw, outside) =
        (network.host("client"), network.host("gw"), network.host("server"));
    for (to, options) in [
        ("192.168.0.2:80", "--sack-perm --timestamp --wscale 7 --mss 1460"),
        ("192.168.0.2:80", "--mss 1460"),
        ("[fd00:1::2]:80", "--sack-perm --timestamp --wscale 7 --mss 1440"),
    ] {
        let rules = PROXY.replace("OPTIONS", options);
        let config =
            format!("{}[sysctl]\n\"net.netfilter.nf_conntrack_tcp_loose\" = 0\n", config());
        let gateway = Gateway::start(gw, &config, &[("v4", &rules), ("v6", &rules)])?;
        let listener = inside.run(|| TcpListener::bind(at(to)))?;
        let echoed = thread::scope(|scope| {
            scope.spawn(|| -> std::io::Result<()> {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(DEADLINE))?;
                let mut got = Vec::new();
                stream.read_to_end(&mut got)?;
                stream.write_all(&got)
            });
            let ask = || -> Tried<Vec<u8>> {
                let mut stream = TcpStream::connect_timeout(&at(to), DEADLINE)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.write_all(&file(3))?;
                stream.shutdown(Shutdown::Write)?;
                let mut back = Vec::new();
                stream.read_to_end(&mut back)?;
                Ok(back)
            };
            let echoed = outside.run(|| ask().map_err(|e| e.to_string()));
            if echoed.is_err() {
                let _ = inside.run(|| TcpStream::connect(at(to)));
            }
            echoed
        });
        let echoed = echoed.map_err(|e| format!("{to} {options}: {e}\n{}", gateway.log()))?;
        assert_eq!(echoed.len(), SIZE, "{to} {options}");
        assert!(echoed == file(3), "{to} {options}");
        drop(listener);
        // Nobody listens any more: the proxy answers, and the server's reset comes through.
        // It may be there before the client looks.
        let ended = outside.run(|| -> std::io::Result<usize> {
            let mut stream = TcpStream::connect_timeout(&at(to), DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.read(&mut [0; 1])
        });
        let kind = ended.err().map(|e| e.kind());
        assert_eq!(kind, Some(std::io::ErrorKind::ConnectionReset), "{to} {options}");
        gateway.stop()?;
    }
    Ok(())
}
