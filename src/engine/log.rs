//! What LOG rules leave for the sink: text in the kernel's format, made while the packet is there.

use std::fmt::Write as _;
use tidegate_filter::{
    AuditRecord, Hook, LogFlags, LogRecord, NflogRecord, Query, TableName, TraceRecord,
};
use tidegate_packet::{Family, Transport, ipv4, ipv6, protocol, tcp};

/// Lines that wait for the sink at most; more are lost, as with the kernel's ring buffer.
pub const MAX_WAITING: usize = 1024;

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Syslog level, 0 (emerg) to 7 (debug).
    pub level: u8,
    /// The text, prefix included.
    pub text: String,
}

impl Line {
    /// The line of a packet that met LOG.
    pub fn of(record: &LogRecord<'_>) -> Self {
        let mut text = String::with_capacity(200);
        text.push_str(record.prefix);
        // Writing to a String can't fail.
        let _ = write_line(&mut text, record);
        Self { level: record.level, text: text.trim_end().to_owned() }
    }

    /// The line of a packet that met NFLOG: as for LOG, at level notice, with the group.
    pub fn of_nflog(record: &NflogRecord<'_>) -> Self {
        let NflogRecord { hook, group, prefix, size: _, query, mark } = *record;
        let plain = plain(hook, query, mark);
        let text = format!("{prefix}{} NFLOG={group}", Self::of(&plain).text);
        Self { level: NOTICE, text }
    }

    /// The line of a packet that met AUDIT, as the kernel's audit record of type NETFILTER_PKT.
    pub fn of_audit(record: &AuditRecord<'_>) -> Self {
        let AuditRecord { query, mark } = *record;
        let p = query.packet;
        let (src, dst, protocol) = (p.src, p.dst, p.protocol);
        let text = format!("NETFILTER_PKT mark={mark:#x} saddr={src} daddr={dst} proto={protocol}");
        Self { level: NOTICE, text }
    }

    /// The line of a rule that a traced packet met.
    pub fn of_trace(record: &TraceRecord<'_>) -> Self {
        let TraceRecord { table, chain, step, number, hook, query, mark } = *record;
        let flags = LogFlags {
            tcp_sequence: true,
            tcp_options: true,
            ip_options: true,
            ..LogFlags::default()
        };
        let line = Self::of(&LogRecord { flags, ..plain(hook, query, mark) });
        let (table, step) = (table.as_str(), step.as_str());
        Self {
            level: WARNING,
            text: format!("TRACE: {table}:{chain}:{step}:{number} {}", line.text),
        }
    }
}

const WARNING: u8 = 4;
const NOTICE: u8 = 5;

fn plain<'a>(hook: Hook, query: &'a Query<'a>, mark: u32) -> LogRecord<'a> {
    let (table, flags) = (TableName::Filter, LogFlags::default());
    LogRecord { table, hook, level: WARNING, prefix: "", flags, query, mark }
}

fn write_line(out: &mut String, record: &LogRecord<'_>) -> std::fmt::Result {
    let query = record.query;
    write!(out, "IN={} OUT={} ", query.input.unwrap_or(""), query.output.unwrap_or(""))?;
    if let Some(link) = query.link {
        let ethertype: u16 = match query.packet.family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        };
        let [high, low] = ethertype.to_be_bytes();
        if record.flags.mac_decode {
            write!(out, "MACSRC={} MACDST={} MACPROTO={ethertype:04x} ", link.src, link.dst)?;
        } else {
            write!(out, "MAC={}:{}:{high:02x}:{low:02x} ", link.dst, link.src)?;
        }
    }
    match query.packet.family {
        Family::V4 => write_v4(out, record)?,
        Family::V6 => write_v6(out, record)?,
    }
    write_transport(out, record)?;
    if record.mark != 0 {
        write!(out, "MARK={:#x} ", record.mark)?;
    }
    Ok(())
}

fn write_v4(out: &mut String, record: &LogRecord<'_>) -> std::fmt::Result {
    let p = record.query.packet;
    write!(out, "SRC={} DST={} ", p.src, p.dst)?;
    let Some(h) = ipv4::Header::new_checked(record.query.bytes) else { return Ok(()) };
    let (tos, prec) = (h.tos() & 0x1e, h.tos() & 0xe0);
    write!(
        out,
        "LEN={} TOS=0x{tos:02X} PREC=0x{prec:02X} TTL={} ID={} ",
        h.total_len(),
        h.ttl(),
        h.id()
    )?;
    if h.dont_fragment() {
        out.push_str("DF ");
    }
    if h.more_fragments() {
        out.push_str("MF ");
    }
    if h.fragment_offset() != 0 {
        write!(out, "FRAG:{} ", h.fragment_offset() / 8)?;
    }
    if record.flags.ip_options && !h.options().is_empty() {
        write_options(out, h.options())?;
    }
    Ok(())
}

fn write_v6(out: &mut String, record: &LogRecord<'_>) -> std::fmt::Result {
    // The kernel's log spells IPv6 addresses in full.
    let full = |a: tidegate_packet::Addr| {
        let o = a.octets();
        (0..8)
            .map(|i| format!("{:02x}{:02x}", o[2 * i], o[2 * i + 1]))
            .collect::<Vec<_>>()
            .join(":")
    };
    let p = record.query.packet;
    write!(out, "SRC={} DST={} ", full(p.src), full(p.dst))?;
    let Some(h) = ipv6::Header::new_checked(record.query.bytes) else { return Ok(()) };
    write!(
        out,
        "LEN={} TC={} HOPLIMIT={} FLOWLBL={} ",
        usize::from(h.payload_len()) + ipv6::HEADER_LEN,
        h.traffic_class(),
        h.hop_limit(),
        h.flow_label()
    )
}

fn write_options(out: &mut String, options: &[u8]) -> std::fmt::Result {
    out.push_str("OPT (");
    for byte in options {
        write!(out, "{byte:02X}")?;
    }
    out.push_str(") ");
    Ok(())
}

fn write_transport(out: &mut String, record: &LogRecord<'_>) -> std::fmt::Result {
    let p = record.query.packet;
    let segment = p.segment(record.query.bytes);
    match p.transport {
        Transport::Tcp { sport, dport, .. } => {
            write!(out, "PROTO=TCP SPT={sport} DPT={dport} ")?;
            write_tcp(out, record, segment)
        }
        Transport::Udp { sport, dport } => {
            let name = if p.protocol == protocol::UDP { "UDP" } else { "UDPLITE" };
            let len =
                tidegate_packet::udp::Header::new_checked(segment).map_or(0, |h| h.len_field());
            write!(out, "PROTO={name} SPT={sport} DPT={dport} LEN={len} ")
        }
        Transport::Icmp { kind, code, .. } => {
            write!(out, "PROTO=ICMP TYPE={kind} CODE={code} ")?;
            write_echo(out, segment, matches!(kind, 0 | 8))
        }
        Transport::Icmpv6 { kind, code, .. } => {
            write!(out, "PROTO=ICMPv6 TYPE={kind} CODE={code} ")?;
            write_echo(out, segment, matches!(kind, 128 | 129))
        }
        Transport::Malformed | Transport::LaterFragment => match p.protocol {
            protocol::TCP => out.write_str("PROTO=TCP "),
            protocol::UDP => out.write_str("PROTO=UDP "),
            protocol::ICMP => out.write_str("PROTO=ICMP "),
            other => write!(out, "PROTO={other} "),
        },
        Transport::Ports { .. } | Transport::Other => write!(out, "PROTO={} ", p.protocol),
    }
}

fn write_tcp(out: &mut String, record: &LogRecord<'_>, segment: &[u8]) -> std::fmt::Result {
    let Some(h) = tcp::Header::new_checked(segment) else { return Ok(()) };
    if record.flags.tcp_sequence {
        write!(out, "SEQ={} ACK={} ", h.seq(), h.ack())?;
    }
    write!(out, "WINDOW={} RES=0x{:02x} ", h.window(), h.reserved() << 2 | h.flags() >> 6)?;
    for (bit, name) in [
        (tcp::CWR, "CWR "),
        (tcp::ECE, "ECE "),
        (tcp::URG, "URG "),
        (tcp::ACK, "ACK "),
        (tcp::PSH, "PSH "),
        (tcp::RST, "RST "),
        (tcp::SYN, "SYN "),
        (tcp::FIN, "FIN "),
    ] {
        if h.flags() & bit != 0 {
            out.push_str(name);
        }
    }
    write!(out, "URGP={} ", h.urgent())?;
    if record.flags.tcp_options && !h.option_bytes().is_empty() {
        write_options(out, h.option_bytes())?;
    }
    Ok(())
}

fn write_echo(out: &mut String, message: &[u8], echo: bool) -> std::fmt::Result {
    match message {
        [_, _, _, _, a, b, c, d, ..] if echo => {
            write!(out, "ID={} SEQ={} ", u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
        }
        _ => Ok(()),
    }
}
