//! The form of `-o xml`.

use super::entry::{Entry, Side, has_ports, protocol_name};
use super::events::What;
use super::protocols::PROTOCOLS;
use super::text::{Shown, age};
use std::fmt::Write;
use tidegate_nat::Status;
use tidegate_packet::protocol;

/// What stands before the first connection.
pub const HEAD: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>\n";
/// What stands after the last one.
pub const TAIL: &str = "</conntrack>\n";

/// A connection, without a newline.
pub fn line(shown: Shown<'_>) -> String {
    let mut text = String::with_capacity(768);
    // Writing into a string can't fail.
    let _ = write(&mut text, shown);
    text
}

fn write(to: &mut String, shown: Shown<'_>) -> std::fmt::Result {
    let Shown { entry, what, show, now, label } = shown;
    to.push_str(match what {
        Some(What::New) => "<flow type=\"new\">",
        Some(What::Update) => "<flow type=\"update\">",
        Some(What::Destroy) => "<flow type=\"destroy\">",
        None => "<flow>",
    });
    side(to, entry, &entry.original, "original")?;
    side(to, entry, &entry.reply, "reply")?;
    to.push_str("<meta direction=\"independent\">");
    if let Some(state) = &entry.state {
        write!(to, "<state>{}</state>", state_name(entry.protocol, state))?;
    }
    if let Some(seconds) = entry.timeout {
        write!(to, "<timeout>{seconds}</timeout>")?;
    }
    if let Some(mark) = entry.mark {
        write!(to, "<mark>{mark}</mark>")?;
    }
    if let Some(zone) = entry.zone {
        write!(to, "<zone>{zone}</zone>")?;
    }
    if let Some(uses) = entry.uses {
        write!(to, "<use>{uses}</use>")?;
    }
    // The original shows it in any case.
    write!(to, "<id>{}</id>", entry.id)?;
    if entry.has(Status::ASSURED) {
        to.push_str("<assured/>");
    } else if !entry.has(Status::SEEN_REPLY) {
        to.push_str("<unreplied/>");
    }
    if show.ktimestamp && entry.start.is_some() {
        to.push_str("<timestamp>");
        for (name, at) in [("start", entry.start), ("stop", entry.stop)] {
            if let Some(at) = at {
                write!(to, "<{name}>{at}</{name}>")?;
            }
        }
        to.push_str("</timestamp>");
    }
    if let Some(seconds) = age(entry, now) {
        write!(to, "<deltatime>{seconds}</deltatime>")?;
    }
    to.push_str("</meta>");
    if let Some(helper) = &entry.helper {
        write!(to, "<helper>{helper}</helper>")?;
    }
    if show.labels && !entry.labels.is_empty() {
        to.push_str("<labels>");
        for bit in &entry.labels {
            write!(to, "<label>{}</label>", escaped(&label(*bit)))?;
        }
        to.push_str("</labels>");
    }
    if show.timestamp && what.is_some() {
        to.push_str(&crate::ctime::when(now));
    }
    to.push_str("</flow>");
    Ok(())
}

fn side(to: &mut String, entry: &Entry, side: &Side, direction: &str) -> std::fmt::Result {
    let Side { src, dst, sport, dport, counters, zone } = side;
    let (number, name) = if entry.is_v4() { (2, "ipv4") } else { (10, "ipv6") };
    write!(
        to,
        "<meta direction=\"{direction}\"><layer3 protonum=\"{number}\" protoname=\"{name}\">\
         <src>{src}</src><dst>{dst}</dst></layer3><layer4 protonum=\"{}\" protoname=\"{}\">",
        entry.protocol,
        protocol_name(entry.protocol),
    )?;
    if has_ports(entry.protocol) {
        write!(to, "<sport>{sport}</sport><dport>{dport}</dport>")?;
    } else if entry.protocol == protocol::GRE {
        write!(to, "<srckey>{sport:#x}</srckey><dstkey>{dport:#x}</dstkey>")?;
    }
    to.push_str("</layer4>");
    if let Some(zone) = zone {
        write!(to, "<zone>{zone}</zone>")?;
    }
    if let Some((packets, bytes)) = counters {
        write!(to, "<counters><packets>{packets}</packets><bytes>{bytes}</bytes></counters>")?;
    }
    to.push_str("</meta>");
    Ok(())
}

/// Labels' names come from a file.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A state as the original's XML names it: whatever the protocol, by TCP's names, number by number.
fn state_name(protocol: u8, state: &str) -> &str {
    let states = |number| PROTOCOLS.iter().find(|p| p.number == Some(number)).map(|p| p.states);
    let place = states(protocol).and_then(|names| names.iter().position(|name| *name == state));
    let name = place.and_then(|place| states(protocol::TCP)?.get(place).copied());
    name.unwrap_or(state)
}

#[cfg(test)]
mod tests {
    use super::super::entry::example;
    use super::super::text::Show;
    use super::*;

    /// What conntrack 1.4.7 printed on Linux 6.18.
    #[test]
    fn flows_are_the_originals() {
        let mut entry = Entry {
            timeout: Some(119),
            state: Some("TIME_WAIT".into()),
            start: Some(1_795_369_676_840_639_458),
            ..example()
        };
        entry.original.counters = Some((5, 269));
        entry.reply.counters = Some((5, 270));
        let show = Show { ktimestamp: true, ..Show::default() };
        let now = 1_795_369_678_000_000_000;
        let shown = Shown { entry: &entry, what: None, show, now, label: &|n| n.to_string() };
        let text = line(shown);
        assert_eq!(
            text,
            "<flow><meta direction=\"original\"><layer3 protonum=\"2\" protoname=\"ipv4\">\
             <src>10.1.0.2</src><dst>10.2.0.2</dst></layer3><layer4 protonum=\"6\" \
             protoname=\"tcp\"><sport>41480</sport><dport>80</dport></layer4><counters>\
             <packets>5</packets><bytes>269</bytes></counters></meta><meta direction=\"reply\">\
             <layer3 protonum=\"2\" protoname=\"ipv4\"><src>10.2.0.2</src><dst>10.2.0.1</dst>\
             </layer3><layer4 protonum=\"6\" protoname=\"tcp\"><sport>80</sport><dport>41480\
             </dport></layer4><counters><packets>5</packets><bytes>270</bytes></counters></meta>\
             <meta direction=\"independent\"><state>TIME_WAIT</state><timeout>119</timeout>\
             <mark>0</mark><use>1</use><id>477345646</id><assured/><timestamp>\
             <start>1795369676840639458</start></timestamp><deltatime>2</deltatime></meta></flow>"
        );
    }
}
