//! TCP tracking against Linux 6.18: random connections, sensible and not, were sent through a
//! namespace with netfilter; each segment's state and the connection at the end were written down.
//!
//! A line is `direction flags seq ack window payload options state`; the last one of a connection
//! is what `conntrack -L` showed.

use tidegate_nat::{Conntrack, Direction, Settings, State, Status, Tuple};
use tidegate_packet::builder::{Ip, Tcp, tcp};
use tidegate_packet::{Addr, Instant, Parsed, protocol};

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn flags(text: &str) -> u8 {
    text.bytes().fold(0, |all, c| {
        all | match c {
            b'F' => 1,
            b'S' => 2,
            b'R' => 4,
            b'P' => 8,
            b'A' => 0x10,
            b'U' => 0x20,
            _ => 0,
        }
    })
}

fn hex(text: &str) -> Vec<u8> {
    if text == "-" {
        return Vec::new();
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn segment(line: &str, sport: u16) -> (Vec<u8>, char) {
    let f: Vec<&str> = line.split(' ').collect();
    let (client, server) = (addr("192.168.0.5"), addr("203.0.113.9"));
    let out = f[0] == ">";
    let options = hex(f[6]);
    // The recorded options were padded with no-operations, the builder pads with end-of-list.
    let mut padded = options.clone();
    padded.resize(options.len().div_ceil(4) * 4, 1);
    let fields = Tcp {
        sport: if out { sport } else { 80 },
        dport: if out { 80 } else { sport },
        seq: f[2].parse().unwrap(),
        ack: f[3].parse().unwrap(),
        flags: flags(f[1]),
        window: f[4].parse().unwrap(),
        options: &padded,
    };
    let (src, dst) = if out { (client, server) } else { (server, client) };
    let payload = vec![0; f[5].parse().unwrap()];
    let packet = tcp(Ip::new(src, dst, protocol::TCP), fields, &payload);
    (packet, f[7].chars().next().unwrap())
}

fn replay(name: &str, text: &str, settings: Settings) {
    let mut failures = Vec::new();
    for (number, connection) in text.split_terminator("\n\n").enumerate() {
        let sport = 1024 + number as u16;
        let mut table = Conntrack::new(settings, [1, 2]);
        let now = Instant::from_secs(1000);
        for line in connection.lines() {
            if let Some(end) = line.strip_prefix("= ") {
                let got = ending(&table, sport, now);
                if !same_ending(&got, end) {
                    failures.push(format!("{name} {number}: end {end}, got {got}\n{connection}"));
                }
                break;
            }
            let (bytes, want) = segment(line, sport);
            let packet = Parsed::parse(&bytes).unwrap();
            let mut tracked = table.track(&packet, &bytes, true, now);
            let got = match tracked.state() {
                State::New => 'N',
                State::Established => 'E',
                State::Related => 'R',
                State::Invalid(_) => 'I',
                State::Untracked => 'U',
            };
            if got != want {
                let state = tracked.state();
                failures.push(format!("{name} {number}: {line}, got {state:?}\n{connection}"));
                break;
            }
            table.confirm(&mut tracked, now).unwrap();
        }
    }
    let count = failures.len();
    assert!(failures.is_empty(), "{count} differ; the first:\n{}", failures[0]);
}

/// The connection as the recording prints it.
fn ending(table: &Conntrack, sport: u16, now: Instant) -> String {
    let tuple = Tuple {
        src: addr("192.168.0.5"),
        dst: addr("203.0.113.9"),
        sport,
        dport: 80,
        protocol: protocol::TCP,
    };
    let Some((id, direction)) = table.find(&tuple, now) else { return "gone".into() };
    // `conntrack -L` looks for the original direction.
    if direction == Direction::Reply {
        return "gone".into();
    }
    let conn = table.get(id).unwrap();
    let assured = if conn.status().has(Status::ASSURED) { "assured" } else { "-" };
    let unreplied = if conn.status().has(Status::SEEN_REPLY) { "-" } else { "unreplied" };
    let left = conn.time_left(now).as_secs();
    format!("{} {assured} {unreplied} {left}", conn.tcp_state().unwrap().name())
}

/// The listing came some moments later, and its seconds are whole.
fn same_ending(got: &str, want: &str) -> bool {
    match (got.rsplit_once(' '), want.rsplit_once(' ')) {
        (Some((got, a)), Some((want, b))) => {
            let (a, b): (u64, u64) = (a.parse().unwrap(), b.parse().unwrap());
            got == want && (b..=b + 1).contains(&a)
        }
        _ => got == want,
    }
}

#[test]
fn default_settings() {
    let text = include_str!("data/tcp-linux-6.18.txt");
    replay("default", text, Settings::default());
}

#[test]
fn not_loose_but_liberal() {
    let text = include_str!("data/tcp-linux-6.18-not-loose-liberal.txt");
    let settings = Settings { tcp_loose: false, tcp_be_liberal: true, ..Settings::default() };
    replay("not loose, liberal", text, settings);
}
