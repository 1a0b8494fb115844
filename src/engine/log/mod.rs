//! What LOG, NFLOG, AUDIT and TRACE leave for the sinks: text in the kernel's format, made while the
//! packet is there, and copies of packets.

mod packet;

use std::collections::BTreeSet;
use tidegate_filter::{
    AuditRecord, Hook, LogFlags, LogRecord, NflogRecord, Query, TableName, TraceRecord,
};
use tidegate_nat::BlockEvent;
use tidegate_packet::Family;

/// Lines and packets that wait to be taken at most; more are lost and counted. They are taken after
/// every burst, so this bounds what one burst can leave.
pub const MAX_WAITING: usize = 1024;
/// Bytes of packets that wait to be taken at most.
pub const MAX_WAITING_BYTES: usize = 4 << 20;

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Syslog level, 0 (emerg) to 7 (debug).
    pub level: u8,
    /// The text, prefix included, with a blank at its end as the kernel leaves it.
    pub text: String,
}

/// A packet that met NFLOG, for the listener of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// `--nflog-group`.
    pub group: u16,
    /// `--nflog-prefix`.
    pub prefix: String,
    /// Where it was.
    pub hook: Hook,
    /// Its family.
    pub family: Family,
    /// The interface it came in by.
    pub input: Option<String>,
    /// The interface it will leave by.
    pub output: Option<String>,
    /// Its link header, destination first.
    pub link: Option<[u8; 14]>,
    /// Its mark.
    pub mark: u32,
    /// Nanoseconds since 1970.
    pub unix_nanos: u64,
    /// From its IP header on, as much as the rule wants.
    pub bytes: Vec<u8>,
    /// Its whole length.
    pub len: u32,
    /// `--nflog-threshold`: the listener waits for so many packets at most.
    pub threshold: u16,
}

/// What waits for the sinks.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Lines.
    pub lines: Vec<Line>,
    /// Packets of NFLOG.
    pub packets: Vec<Logged>,
    /// Lines and packets that found no room.
    pub lost: u64,
    bytes: usize,
}

impl Waiting {
    /// Whether there is nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.packets.is_empty() && self.lost == 0
    }

    /// A flood of packets must not become a flood of memory.
    pub(super) fn line(&mut self, line: impl FnOnce() -> Line) {
        if self.lines.len() < MAX_WAITING {
            self.lines.push(line());
        } else {
            self.lost += 1;
        }
    }

    pub(super) fn packet(&mut self, record: &NflogRecord<'_>) {
        let Query { packet, bytes, .. } = record.query;
        // nfulnl_log_packet: the listener's range, here all of it, bounds --nflog-size.
        let wanted = record.size.map_or(packet.len, |size| size.min(packet.len)) as usize;
        let bytes = bytes.get(..wanted).unwrap_or(bytes);
        if self.packets.len() >= MAX_WAITING || self.bytes + bytes.len() > MAX_WAITING_BYTES {
            self.lost += 1;
            return;
        }
        self.bytes += bytes.len();
        self.packets.push(Logged {
            group: record.group,
            prefix: record.prefix.to_owned(),
            hook: record.hook,
            family: packet.family,
            input: record.query.input.map(str::to_owned),
            output: record.query.output.map(str::to_owned),
            link: packet::link_header(record.query),
            mark: record.mark,
            unix_nanos: record.query.unix_nanos,
            bytes: bytes.to_vec(),
            len: packet.len,
            threshold: record.threshold,
        });
    }
}

/// The groups of NFLOG that somebody listens to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Groups {
    /// Nobody listens.
    #[default]
    None,
    /// All.
    All,
    /// These.
    Some(BTreeSet<u16>),
}

impl Groups {
    /// Whether somebody listens to a group.
    pub fn has(&self, group: u16) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(groups) => groups.contains(&group),
        }
    }
}

impl Line {
    /// The line of a packet that met LOG.
    pub fn of(record: &LogRecord<'_>) -> Self {
        let mut text = String::with_capacity(256);
        text.push_str(record.prefix);
        packet::write(&mut text, record);
        bound(&mut text);
        Self { level: record.level, text }
    }

    /// The line of a packet that met NFLOG and that nobody listens to: as for LOG, at level notice,
    /// with the group.
    pub fn of_nflog(record: &NflogRecord<'_>) -> Self {
        let NflogRecord { hook, group, prefix, query, mark, .. } = *record;
        let plain = LogRecord { prefix, ..plain(hook, query, mark) };
        let text = format!("{}NFLOG={group} ", Self::of(&plain).text);
        Self { level: NOTICE, text }
    }

    /// The line of a block of ports: who is behind a port from now on, or is so no longer (RFC 6888
    /// section 4). Destinations aren't in it (REQ-12).
    pub fn of_block(event: &BlockEvent) -> Self {
        let BlockEvent { given, inside, outside, ports: (first, last) } = *event;
        let what = if given { "given" } else { "back" };
        let text =
            format!("NAT ports {what}: inside={inside} outside={outside} ports={first}-{last}");
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
            uid: true,
            mac_decode: false,
        };
        let line = Self::of(&LogRecord { flags, ..plain(hook, query, mark) });
        let (table, step) = (table.as_str(), step.as_str());
        let mut text = format!("TRACE: {table}:{chain}:{step}:{number} {}", line.text);
        bound(&mut text);
        Self { level: WARNING, text }
    }
}

/// The kernel's buffer for a line (`struct nf_log_buf`) ends here.
const MAX_LINE: usize = 1016;

fn bound(text: &mut String) {
    while text.len() > MAX_LINE {
        text.pop();
    }
}

pub(crate) const WARNING: u8 = 4;
const NOTICE: u8 = 5;

fn plain<'a>(hook: Hook, query: &'a Query<'a>, mark: u32) -> LogRecord<'a> {
    let (table, flags) = (TableName::Filter, LogFlags::default());
    LogRecord { table, hook, level: WARNING, prefix: "", flags, query, mark }
}

#[cfg(test)]
mod tests;
