//! The form of `-o save`: command lines that would make the connections again.

use super::entry::{Entry, has_ports, is_icmp, protocol_name};
use super::events::What;
use std::fmt::Write;
use tidegate_nat::Status;
use tidegate_packet::protocol;

/// A connection as arguments of `conntrack`, without a newline.
pub fn line(entry: &Entry, what: Option<What>) -> String {
    let mut text = String::with_capacity(192);
    // Writing into a string can't fail.
    let _ = write(&mut text, entry, what);
    text.truncate(text.trim_end().len());
    text
}

fn write(to: &mut String, entry: &Entry, what: Option<What>) -> std::fmt::Result {
    to.push_str(match what {
        None | Some(What::New) => "-A ",
        Some(What::Update) => "-U ",
        Some(What::Destroy) => "-D ",
    });
    if let Some(seconds) = entry.timeout {
        write!(to, "-t {seconds} ")?;
    }
    let bits = [
        (Status::EXPECTED, "EXPECTED"),
        (Status::SEEN_REPLY, "SEEN_REPLY"),
        (Status::ASSURED, "ASSURED"),
        (Status::FIXED_TIMEOUT, "FIXED_TIMEOUT"),
    ];
    let set: Vec<&str> = bits.iter().filter(|(b, _)| entry.has(*b)).map(|(_, n)| *n).collect();
    write!(to, "-u {} ", if set.is_empty() { "UNSET".to_owned() } else { set.join(",") })?;
    let (o, r) = (&entry.original, &entry.reply);
    let zones = [("-w", entry.zone), ("--orig-zone", o.zone), ("--reply-zone", r.zone)];
    for (option, zone) in zones {
        if let Some(zone) = zone {
            write!(to, "{option} {zone} ")?;
        }
    }
    let dst = if entry.is_dnat() { "-g" } else { "-r" };
    let src = if entry.is_snat() { "-n" } else { "-q" };
    write!(to, "-s {} -d {} {dst} {} {src} {} ", o.src, o.dst, r.src, r.dst)?;
    let name = protocol_name(entry.protocol);
    if name == "unknown" {
        return write!(to, "-p {}", entry.protocol);
    }
    write!(to, "-p {name} ")?;
    if has_ports(entry.protocol) {
        write!(
            to,
            "--sport {} --dport {} --reply-port-src {} --reply-port-dst {} ",
            o.sport, o.dport, r.sport, r.dport
        )?;
    } else if is_icmp(entry.protocol) {
        let [kind, code] = o.dport.to_be_bytes();
        write!(to, "--{name}-type {kind} --{name}-code {code} --{name}-id {} ", o.sport)?;
    } else if entry.protocol == protocol::GRE {
        write!(
            to,
            "--srckey {} --dstkey {} --reply-key-src {} --reply-key-dst {} ",
            o.sport, o.dport, r.sport, r.dport
        )?;
    }
    if let Some(state) = &entry.state {
        write!(to, "--state {state} ")?;
    }
    if let Some(tags) = entry.tags {
        // The original prints the wire's bytes as a number of its machine.
        let [original, reply] = tags.map(u32::to_be);
        write!(to, "--orig-vtag {original} --reply-vtag {reply} ")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::entry::example;
    use super::*;

    /// What conntrack 1.4.7 printed on Linux 6.18.
    #[test]
    fn lines_are_the_originals() {
        let entry = example();
        assert_eq!(
            line(&entry, None),
            "-A -t 431999 -u SEEN_REPLY,ASSURED -s 10.1.0.2 -d 10.2.0.2 -r 10.2.0.2 -n 10.2.0.1 \
             -p tcp --sport 41480 --dport 80 --reply-port-src 80 --reply-port-dst 41480 \
             --state ESTABLISHED"
        );
        let mut gre = Entry { protocol: 47, state: None, status: 8, ..entry };
        gre.zone = Some(5);
        (gre.original.sport, gre.original.dport) = (291, 7);
        (gre.reply.sport, gre.reply.dport) = (7, 291);
        assert_eq!(
            line(&gre, Some(What::Destroy)),
            "-D -t 431999 -u UNSET -w 5 -s 10.1.0.2 -d 10.2.0.2 -r 10.2.0.2 -n 10.2.0.1 -p gre \
             --srckey 291 --dstkey 7 --reply-key-src 7 --reply-key-dst 291"
        );
        gre.protocol = 99;
        assert!(line(&gre, Some(What::Update)).ends_with("-n 10.2.0.1 -p 99"));
        gre.protocol = 58;
        gre.original.dport = 128 << 8;
        let text = line(&gre, None);
        assert!(text.ends_with("-p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 291"));
    }
}
