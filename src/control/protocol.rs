//! What goes over the control socket.

use crate::conntrack::{Ask, Tell};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;
use tidegate_packet::Family;

/// Longest line that is taken, its newline included: whole rulesets come in one.
pub const LINE_MAX: usize = 32 * 1024 * 1024;
/// Longest answer that a client takes: saved rules can be many.
pub const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// Time for a whole line to arrive, and for an answer to be taken.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the gateway is.
    Status {},
    /// Read the rules files again. Connections stay.
    Reload {},
    /// The rules of one family with their counters.
    Rules {
        /// 4 or 6.
        #[serde(with = "version")]
        family: Family,
    },
    /// A run of one of iptables' programs.
    Call {
        /// Which.
        program: Program,
        /// 4 or 6.
        #[serde(with = "version")]
        family: Family,
        /// Its arguments.
        args: Vec<String>,
        /// What `restore` reads.
        #[serde(default)]
        input: String,
    },
    /// Everything that the gateway keeps from one run to the next.
    Save {},
    /// Puts saved rules in force: all of them or none.
    Restore {
        /// What to restore.
        inputs: Vec<Restore>,
        /// Chains that the texts name keep their rules.
        #[serde(default)]
        noflush: bool,
        /// Counters go on from what the texts say.
        #[serde(default)]
        counters: bool,
    },
    /// Something about connections.
    Conntrack {
        /// What.
        ask: Ask,
    },
    /// A run of `ipset`.
    Ipset {
        /// Its arguments.
        args: Vec<String>,
        /// What `restore` reads.
        #[serde(default)]
        input: String,
    },
    /// The lists of `recent`.
    Recent {
        /// One list; all their names without it.
        name: Option<String>,
        /// What is written to it: `+ADDRESS`, `-ADDRESS` or `/`.
        write: Option<String>,
    },
}

/// One of iptables' programs.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// `iptables` or `ip6tables`.
    Iptables,
    /// `iptables-save` or `ip6tables-save`.
    Save,
    /// `iptables-restore` or `ip6tables-restore`.
    Restore,
}

/// A saved text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Its name, for errors.
    pub name: String,
    /// 4 or 6; means nothing for a saved state.
    #[serde(with = "version")]
    pub family: Family,
    /// Rules as `iptables-save` prints them, or what [`Request::Save`] gives.
    pub text: String,
}

/// What the gateway answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// It was done.
    Ok(Reply),
    /// It wasn't, and why; may have several lines.
    Error(String),
}

/// What a request that was done gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// For [`Request::Status`].
    Status(Status),
    /// For [`Request::Reload`]: what the new rules were warned of.
    Reloaded(Vec<String>),
    /// For [`Request::Rules`]: `iptables-save -c` text.
    Rules(String),
    /// For [`Request::Call`] and [`Request::Ipset`].
    Ran(Ran),
    /// For [`Request::Save`].
    Saved(String),
    /// For [`Request::Restore`]: warnings.
    Restored(String),
    /// For [`Request::Conntrack`].
    Conntrack(Tell),
    /// For [`Request::Recent`]: what a list's file in `/proc/net/xt_recent` would hold, or names.
    Recent(String),
}

/// What a run of a program gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// Exit status.
    pub status: u8,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// How the gateway is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it began to forward.
    pub uptime: u64,
    /// Its workers.
    pub workers: usize,
    /// Connections that are tracked now.
    pub connections: u64,
    /// Its interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// Packets dropped, by reason; reasons that never happened may be left out.
    pub drops: BTreeMap<String, u64>,
    /// Log lines and packets of NFLOG that were written.
    #[serde(default)]
    pub logged: u64,
    /// Those that were lost, since they came faster than they could be written.
    #[serde(default)]
    pub log_lost: u64,
    /// What the kernel forwards by the gateway's order; absent where BPF isn't allowed.
    #[serde(default)]
    pub bypass: Option<BypassStatus>,
}

/// Established flows that bypass the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BypassStatus {
    /// Flows that do so now.
    pub flows: u64,
    /// Packets that have; the interfaces' counters have them, too.
    pub packets: u64,
}

/// How an interface is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Whether it leads to the rest of the world.
    pub uplink: bool,
    /// Its addresses with prefix length.
    pub addresses: Vec<String>,
    /// Its link address.
    pub mac: String,
    /// Its MTU.
    pub mtu: u32,
    /// Packets received, segments of a super-packet counted as one.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// A family as the number in the IP header.
mod version {
    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};
    use tidegate_packet::Family;

    pub fn serialize<S: Serializer>(family: &Family, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(if *family == Family::V4 { 4 } else { 6 })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Family, D::Error> {
        match u64::deserialize(from)? {
            4 => Ok(Family::V4),
            6 => Ok(Family::V6),
            n => Err(D::Error::invalid_value(Unexpected::Unsigned(n), &"4 or 6")),
        }
    }
}

/// Collects bytes into lines of bounded length.
pub(super) struct Lines {
    held: Vec<u8>,
    max: usize,
}

impl Lines {
    pub fn new(max: usize) -> Self {
        Self { held: Vec::new(), max }
    }

    /// The next line without its newline; `None` at the end. `ready` is asked before each read
    /// and told whether the line has begun; it fails when patience has run out.
    pub fn next(
        &mut self,
        from: &mut impl Read,
        mut ready: impl FnMut(bool) -> io::Result<()>,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.held[searched..].iter().position(|b| *b == b'\n') {
                let rest = self.held.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.held.len();
            if searched >= self.max {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
            }
            ready(searched > 0)?;
            let mut chunk = [0; 4096];
            match from.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => self.held.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_documented() {
        for (request, text) in [
            (Request::Status {}, r#"{"request":"status"}"#),
            (Request::Reload {}, r#"{"request":"reload"}"#),
            (Request::Rules { family: Family::V6 }, r#"{"request":"rules","family":6}"#),
            (
                Request::Call {
                    program: Program::Restore,
                    family: Family::V4,
                    args: vec!["-n".into()],
                    input: "*raw\n".into(),
                },
                r#"{"request":"call","program":"restore","family":4,"args":["-n"],"input":"*raw\n"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        let response = Response::Ok(Reply::Rules("*filter\n".into()));
        let text = r#"{"ok":{"rules":"*filter\n"}}"#;
        assert_eq!(serde_json::to_string(&response).unwrap(), text);
        assert_eq!(
            serde_json::to_string(&Response::Error("no".into())).unwrap(),
            r#"{"error":"no"}"#
        );
    }

    #[test]
    fn odd_requests_are_refused() {
        for text in [
            "",
            "{}",
            "[]",
            "\"status\"",
            r#"{"request":"stop-it"}"#,
            r#"{"request":"status","verbose":1}"#,
            r#"{"request":"rules"}"#,
            r#"{"request":"rules","family":5}"#,
            r#"{"request":"rules","family":4,"x":1}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lines_are_cut_and_bounded() {
        let mut lines = Lines::new(10);
        let mut input = &b"one\n\ntwo\nlong enough to be too long\n"[..];
        for want in ["one", "", "two"] {
            let line = lines.next(&mut input, |_| Ok(())).unwrap().unwrap();
            assert_eq!(line, want.as_bytes());
        }
        // The rest was read in one go and is complete, so it isn't too long to be held.
        let mut lines = Lines::new(10);
        let mut input = Read::chain(&b"0123456789"[..], &b"0\n"[..]);
        let error = lines.next(&mut input, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut lines = Lines::new(10);
        assert_eq!(lines.next(&mut &b"unfinished"[..0], |_| Ok(())).unwrap(), None);
    }
}
