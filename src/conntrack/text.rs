//! The plain form: one line a connection, as libnetfilter_conntrack prints it.

use super::entry::{Entry, Side, has_ports, is_icmp, protocol_name};
use super::events::What;
use std::fmt::Write;
use tidegate_nat::Status;
use tidegate_packet::protocol;

/// What is shown besides what always is (`-o`).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Show {
    /// The network protocol before the transport protocol.
    pub extended: bool,
    /// The connection's number.
    pub id: bool,
    /// When it began and ended.
    pub ktimestamp: bool,
    /// The labels by their names.
    pub labels: bool,
    /// When the event came; for events.
    pub timestamp: bool,
}

/// A connection, and what its forms need to print it.
#[derive(Copy, Clone)]
pub struct Shown<'a> {
    /// The connection.
    pub entry: &'a Entry,
    /// What happened to it, in an event.
    pub what: Option<What>,
    /// What is shown besides.
    pub show: Show,
    /// Nanoseconds since 1970.
    pub now: u64,
    /// A label's name.
    pub label: &'a dyn Fn(u8) -> String,
}

/// Without a newline.
pub fn line(shown: Shown<'_>) -> String {
    let mut text = String::with_capacity(256);
    // Writing into a string can't fail.
    let _ = write(&mut text, shown);
    // The original takes the last space away.
    if text.ends_with(' ') {
        text.pop();
    }
    text
}

fn write(to: &mut String, shown: Shown<'_>) -> std::fmt::Result {
    let Shown { entry, what, show, now, label } = shown;
    to.push_str(match what {
        Some(What::New) => "    [NEW] ",
        Some(What::Update) => " [UPDATE] ",
        Some(What::Destroy) => "[DESTROY] ",
        None => "",
    });
    if show.extended {
        to.push_str(if entry.is_v4() { "ipv4     2 " } else { "ipv6     10 " });
    }
    write!(to, "{:<8} {} ", protocol_name(entry.protocol), entry.protocol)?;
    if let Some(seconds) = entry.timeout {
        write!(to, "{seconds} ")?;
    }
    if let Some(state) = &entry.state {
        write!(to, "{state} ")?;
    }
    side(to, &entry.original, entry.protocol, "orig")?;
    if !entry.has(Status::SEEN_REPLY) {
        to.push_str("[UNREPLIED] ");
    }
    side(to, &entry.reply, entry.protocol, "reply")?;
    if entry.has(Status::ASSURED) {
        to.push_str("[ASSURED] ");
    }
    if let Some(mark) = entry.mark {
        write!(to, "mark={mark} ")?;
    }
    if let Some(zone) = entry.zone {
        write!(to, "zone={zone} ")?;
    }
    if let Some(seconds) = age(entry, now) {
        write!(to, "delta-time={seconds} ")?;
    }
    if show.ktimestamp {
        for (name, at) in [("start", entry.start), ("stop", entry.stop)] {
            if let Some(at) = at {
                write!(to, "[{name}={}] ", crate::ctime::at(at))?;
            }
        }
    }
    if let Some(helper) = &entry.helper {
        write!(to, "helper={helper} ")?;
    }
    if let Some(uses) = entry.uses {
        write!(to, "use={uses} ")?;
    }
    if show.id {
        write!(to, "id={} ", entry.id)?;
    }
    if show.labels && !entry.labels.is_empty() {
        let names: Vec<String> = entry.labels.iter().map(|bit| label(*bit)).collect();
        write!(to, "labels={} ", names.join(","))?;
    }
    Ok(())
}

/// How long it has lived, in seconds, if that is known. As in the original, it is the difference
/// between whole seconds.
pub(super) fn age(entry: &Entry, now: u64) -> Option<u64> {
    const SECOND: u64 = 1_000_000_000;
    let end = entry.stop.unwrap_or(now) / SECOND;
    Some(end.saturating_sub(entry.start? / SECOND))
}

fn side(to: &mut String, side: &Side, number: u8, which: &str) -> std::fmt::Result {
    let Side { src, dst, sport, dport, counters, zone } = side;
    write!(to, "src={src} dst={dst} ")?;
    if has_ports(number) {
        write!(to, "sport={sport} dport={dport} ")?;
    } else if is_icmp(number) {
        let [kind, code] = dport.to_be_bytes();
        write!(to, "type={kind} code={code} id={sport} ")?;
    } else if number == protocol::GRE {
        write!(to, "srckey={sport:#x} dstkey={dport:#x} ")?;
    }
    if let Some(zone) = zone {
        write!(to, "zone-{which}={zone} ")?;
    }
    if let Some((packets, bytes)) = counters {
        write!(to, "packets={packets} bytes={bytes} ")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::entry::example;
    use super::*;

    fn plain(entry: &Entry, what: Option<What>, show: Show) -> String {
        let label = &|n| format!("label{n}");
        line(Shown { entry, what, show, now: 1_795_369_678_000_000_000, label })
    }

    /// What conntrack 1.4.7 printed on Linux 6.18.
    #[test]
    fn lines_are_the_originals() {
        let none = Show::default();
        let base = example();
        assert_eq!(
            plain(&base, None, none),
            "tcp      6 431999 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=41480 dport=80 \
             src=10.2.0.2 dst=10.2.0.1 sport=80 dport=41480 [ASSURED] mark=0 use=1"
        );
        let event = Entry { mark: None, uses: None, ..base.clone() };
        let show = Show { extended: true, id: true, ..none };
        assert_eq!(
            plain(&event, Some(What::Update), show),
            " [UPDATE] ipv4     2 tcp      6 431999 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 \
             sport=41480 dport=80 src=10.2.0.2 dst=10.2.0.1 sport=80 dport=41480 [ASSURED] \
             id=477345646"
        );
        let mut timed = Entry {
            start: Some(1_795_369_676_840_639_458),
            zone: Some(5),
            mark: Some(7),
            labels: vec![1, 3],
            ..base
        };
        timed.original.counters = Some((5, 269));
        let text = plain(&timed, None, Show { labels: true, ..none });
        assert!(text.contains("dport=80 packets=5 bytes=269 src="), "{text}");
        assert!(
            text.ends_with("[ASSURED] mark=7 zone=5 delta-time=2 use=1 labels=label1,label3"),
            "{text}"
        );
    }

    #[test]
    fn each_protocol_has_its_own_ends() {
        let none = Show::default();
        let mut entry = Entry { state: None, status: 8, timeout: Some(99), ..example() };
        for (number, dport, want) in [
            (
                1u8,
                0x0800,
                "icmp     1 99 src=10.1.0.2 dst=10.2.0.2 type=8 code=0 id=41480 [UNREPLIED] ",
            ),
            (
                47,
                7,
                "gre      47 99 src=10.1.0.2 dst=10.2.0.2 srckey=0xa208 dstkey=0x7 [UNREPLIED] ",
            ),
            (99, 7, "unknown  99 99 src=10.1.0.2 dst=10.2.0.2 [UNREPLIED] src="),
            (132, 7, "sctp     132 99 src=10.1.0.2 dst=10.2.0.2 sport=41480 dport=7 [UNREPLIED] "),
        ] {
            entry.protocol = number;
            entry.original.dport = dport;
            let text = plain(&entry, None, none);
            assert!(text.starts_with(want), "{text}");
        }
    }
}
