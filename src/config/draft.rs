//! A configuration as it was written: every value with its place, nothing compared with anything.

use super::{LogTo, PortKind, RouteKind, Rules, SYSLOG};
use crate::diagnostic::{Place, Report};
use crate::sysctl::Assignments;
use std::path::PathBuf;
use tidegate_packet::{Addr, MacAddr, Prefix};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

impl<T> At<T> {
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

#[derive(Debug, Default)]
pub(super) struct Draft {
    pub workers: Option<usize>,
    pub control: Option<At<PathBuf>>,
    pub interfaces: Vec<DraftInterface>,
    pub routes: Vec<DraftRoute>,
    pub rules: Rules,
    pub assignments: Assignments,
    pub host: Option<At<String>>,
    pub log_to: Option<LogTo>,
    pub nflog: Vec<(Option<u16>, At<PathBuf>)>,
    pub state: Option<PathBuf>,
    /// Seconds between two saves; zero: none.
    pub state_every: Option<At<i64>>,
    /// Where to say that there is no interface at all.
    pub end: Option<Place>,
}

/// `kind` as it is written.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum KindName {
    AfPacket,
    Tap,
    Bridge,
}

impl KindName {
    pub const NAMES: [(&'static str, Self); 3] =
        [("af-packet", Self::AfPacket), ("tap", Self::Tap), ("bridge", Self::Bridge)];
}

/// An element of `address`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Dhcp,
    Fixed(Prefix),
}

#[derive(Clone, Debug)]
pub(super) struct DraftInterface {
    pub name: At<String>,
    pub kind: Option<At<KindName>>,
    pub ports: Option<At<Vec<At<String>>>>,
    pub port_kind: Option<At<PortKind>>,
    /// Absent: adopt what the kernel has.
    pub addresses: Option<Vec<At<Address>>>,
    /// Some address couldn't be read, and was complained of.
    pub incomplete: bool,
    pub mac: Option<MacAddr>,
    pub mtu: Option<At<u32>>,
    pub metric: Option<At<u32>>,
    pub uplink: bool,
}

impl DraftInterface {
    pub fn named(name: At<String>) -> Self {
        Self {
            name,
            kind: None,
            ports: None,
            port_kind: None,
            addresses: None,
            incomplete: false,
            mac: None,
            mtu: None,
            metric: None,
            uplink: false,
        }
    }

    pub fn kind(&self) -> KindName {
        self.kind.as_ref().map_or(KindName::AfPacket, |k| k.value)
    }

    pub fn fixed(&self) -> impl Iterator<Item = At<Prefix>> + '_ {
        self.addresses.iter().flatten().filter_map(|a| match a.value {
            Address::Fixed(prefix) => Some(At::new(prefix, a.place.clone())),
            Address::Dhcp => None,
        })
    }

    pub fn dhcp(&self) -> bool {
        self.addresses.iter().flatten().any(|a| a.value == Address::Dhcp)
    }

    /// Whether it will have networks that nobody can know now.
    pub fn learns_networks(&self) -> bool {
        self.addresses.is_none() || self.incomplete || self.dhcp()
    }
}

#[derive(Clone, Debug)]
pub(super) struct DraftRoute {
    pub to: At<Prefix>,
    pub via: Option<At<Addr>>,
    pub dev: Option<At<String>>,
    pub metric: u32,
    pub kind: At<RouteKind>,
    /// The whole route, for what is wrong with no part of it.
    pub place: Place,
}

/// An interface's address with the prefix of its network.
pub(super) fn read_address(text: &str, place: &Place, report: &mut Report) -> Option<At<Address>> {
    if text == "dhcp" {
        return Some(At::new(Address::Dhcp, place.clone()));
    }
    match text.parse::<Prefix>() {
        Ok(prefix) if !text.contains('/') => {
            let bits = prefix.addr().family().bits();
            let usual = if bits == 32 { 24 } else { 64 };
            report.push(
                place
                    .error(format!("`{text}` doesn't say how large its network is"))
                    .expected(format!("an address with a prefix length, as in {text}/{usual}"))
                    .help(format!("write {text}/{bits} if it stands alone")),
            );
            None
        }
        Ok(prefix) => Some(At::new(Address::Fixed(prefix), place.clone())),
        Err(error) => {
            report.push(bad_prefix(
                text,
                &error,
                place,
                "an address as in 192.168.0.1/24, or dhcp",
            ));
            None
        }
    }
}

/// What to say of a text that is no prefix: the caret goes under the half that is wrong.
pub(super) fn bad_prefix(
    text: &str,
    error: &tidegate_packet::addr::PrefixError,
    place: &Place,
    expected: &str,
) -> crate::diagnostic::Diagnostic {
    use tidegate_packet::addr::PrefixError;
    let slash = text.find('/').unwrap_or(text.len());
    // A TOML string's place may be longer than its value (escapes); then the whole is shown.
    let exact = place.span.len() == text.len();
    match error {
        PrefixError::Address => {
            let place = if exact { place.inner(0..slash) } else { place.clone() };
            place.error(format!("`{text}` is no address")).expected(expected)
        }
        PrefixError::Length(bits) => {
            let place = if exact { place.inner(slash + 1..text.len()) } else { place.clone() };
            place
                .error(format!("`{text}` has no good prefix length"))
                .expected(format!("a prefix length from 0 to {bits}"))
        }
    }
}

/// A next hop.
pub(super) fn read_via(text: &str, place: &Place, report: &mut Report) -> Option<At<Addr>> {
    match text.parse::<Addr>() {
        Ok(addr) => Some(At::new(addr, place.clone())),
        Err(_) => {
            report.push(
                place
                    .error(format!("`{text}` is no address"))
                    .expected("an IPv4 or IPv6 address without a prefix length"),
            );
            None
        }
    }
}

/// A place for log lines that has no path.
pub(super) fn log_to(text: &At<String>, report: &mut Report) -> Option<LogTo> {
    match text.value.as_str() {
        "stderr" => Some(LogTo::Stderr),
        "syslog" => Some(LogTo::Syslog(SYSLOG.into())),
        other => {
            let error = text.place.error(format!("`{other}` is no place for the log"));
            let error = error.expected("stderr, syslog or a file").nearest(other, PLACES);
            report.push(match error.help {
                Some(_) => error,
                None => error.help("a file is written { file = \"…\" }, with --log file=…"),
            });
            None
        }
    }
}

const PLACES: [&str; 2] = ["stderr", "syslog"];

/// A group of NFLOG.
pub(super) fn nflog_group(text: &str, place: &Place, report: &mut Report) -> Option<u16> {
    let group = text.parse().ok();
    if group.is_none() {
        let error = place.error(format!("`{text}` is no group of NFLOG"));
        report.push(error.expected("a number from 0 to 65535"));
    }
    group
}
