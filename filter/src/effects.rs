//! What targets do besides deciding.

use crate::query::{Hook, Query, TableName};

/// Receives what targets ask for on the way. The rules themselves already see a changed mark, TOS or
/// hop limit in later rules of the same walk; the receiver makes the change on the packet.
///
/// No method has a default: whoever runs rules must say what becomes of each.
pub trait Effects {
    /// `LOG`.
    fn log(&mut self, record: LogRecord<'_>);
    /// `MARK`: the packet's mark becomes this.
    fn set_mark(&mut self, mark: u32);
    /// `NOTRACK`, `CT --notrack`: the packet is not to be tracked.
    fn notrack(&mut self);
    /// `TCPMSS`: the MSS option of a SYN. Decided and edited by the receiver, which knows the MTUs.
    fn clamp_mss(&mut self, clamp: MssClamp);
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
    fn set_mark(&mut self, _: u32) {}
    fn notrack(&mut self) {}
    fn clamp_mss(&mut self, _: MssClamp) {}
}
