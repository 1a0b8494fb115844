//! What targets do besides deciding and changing the packet: they tell somebody.

use tidegate_packet::Addr;

use crate::query::{Hook, Query, TableName};

/// Receives what targets ask for on the way. What changes the packet itself is an [`crate::Edit`].
///
/// No method has a default: whoever runs rules must say what becomes of each.
pub trait Effects {
    /// `LOG`.
    fn log(&mut self, record: LogRecord<'_>);
    /// `NFLOG`.
    fn nflog(&mut self, record: NflogRecord<'_>);
    /// `AUDIT`.
    fn audit(&mut self, record: AuditRecord<'_>);
    /// A rule that a traced packet has met (`TRACE`).
    fn trace(&mut self, record: TraceRecord<'_>);
    /// `TEE`: a copy of the packet, as it is now, goes to this next hop, by that interface if one is
    /// named.
    fn tee(&mut self, query: &Query<'_>, gateway: Addr, interface: Option<&str>);
    /// `MARK`: the packet's mark becomes this. Later rules of the walk see it already.
    fn set_mark(&mut self, mark: u32);
    /// `connlabel --set`: the connection gets this label. Later rules of the walk see it already.
    fn set_label(&mut self, label: u8);
}

/// A packet that met `NFLOG`.
#[derive(Clone, Copy)]
pub struct NflogRecord<'a> {
    /// Where the packet is.
    pub hook: Hook,
    /// `--nflog-group`.
    pub group: u16,
    /// `--nflog-prefix`.
    pub prefix: &'a str,
    /// How many bytes of the packet the listener wants (`--nflog-size`); absent: all it asks for.
    pub size: Option<u32>,
    /// How many packets may wait for the listener at most (`--nflog-threshold`); zero: its own choice.
    pub threshold: u16,
    /// The packet.
    pub query: &'a Query<'a>,
    /// The packet's mark as it is now.
    pub mark: u32,
}

/// A packet that met `AUDIT`.
#[derive(Clone, Copy)]
pub struct AuditRecord<'a> {
    /// The packet.
    pub query: &'a Query<'a>,
    /// The packet's mark as it is now.
    pub mark: u32,
}

/// A rule that a traced packet met.
#[derive(Clone, Copy)]
pub struct TraceRecord<'a> {
    /// The table.
    pub table: TableName,
    /// The chain.
    pub chain: &'a str,
    /// What was met.
    pub step: TraceStep,
    /// The rule's number in the chain, from 1.
    pub number: usize,
    /// Where the packet is.
    pub hook: Hook,
    /// The packet.
    pub query: &'a Query<'a>,
    /// The packet's mark as it is now.
    pub mark: u32,
}

/// What a traced packet met, as the kernel's trace names it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TraceStep {
    /// A rule.
    Rule,
    /// The end of a user's chain, or an unconditional verdict in one.
    Return,
    /// A built-in chain's policy, or an unconditional verdict in one.
    Policy,
}

impl TraceStep {
    /// The word in trace lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Return => "return",
            Self::Policy => "policy",
        }
    }
}

/// What `TCPMSS` asks for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MssClamp {
    /// `--set-mss`: this value, where the present one is larger or absent.
    Set(u16),
    /// `--clamp-mss-to-pmtu`: the smaller of both ways' MTU less the headers.
    PathMtu,
}

/// A packet that met `LOG`.
#[derive(Clone, Copy)]
pub struct LogRecord<'a> {
    /// The table the rule is in.
    pub table: TableName,
    /// Where the packet is.
    pub hook: Hook,
    /// Syslog level, 0 (emerg) to 7 (debug).
    pub level: u8,
    /// `--log-prefix`, as it stands.
    pub prefix: &'a str,
    /// What else to print.
    pub flags: LogFlags,
    /// The packet.
    pub query: &'a Query<'a>,
    /// The packet's mark as it is now.
    pub mark: u32,
}

/// The switches of `LOG`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFlags {
    /// `--log-tcp-sequence`.
    pub tcp_sequence: bool,
    /// `--log-tcp-options`.
    pub tcp_options: bool,
    /// `--log-ip-options`.
    pub ip_options: bool,
    /// `--log-uid`; forwarded packets have no user.
    pub uid: bool,
    /// `--log-macdecode`.
    pub mac_decode: bool,
}

/// Ignores everything: for dry runs and tests.
#[derive(Copy, Clone, Debug, Default)]
pub struct NoEffects;

impl Effects for NoEffects {
    fn log(&mut self, _: LogRecord<'_>) {}
    fn nflog(&mut self, _: NflogRecord<'_>) {}
    fn audit(&mut self, _: AuditRecord<'_>) {}
    fn trace(&mut self, _: TraceRecord<'_>) {}
    fn tee(&mut self, _: &Query<'_>, _: Addr, _: Option<&str>) {}
    fn set_mark(&mut self, _: u32) {}
    fn set_label(&mut self, _: u8) {}
}
