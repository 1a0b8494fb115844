//! What each transport protocol adds to the command line.

use super::options::{Verb, Wrong};
use tidegate_packet::protocol;

/// The parts that options of protocols set.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Source port or key of the original direction; ICMP's type.
    OrigSrc,
    /// Destination port or key of the original direction; ICMP's code.
    OrigDst,
    /// Source port or key of the reply direction; ICMP's identifier.
    ReplySrc,
    /// Destination port or key of the reply direction.
    ReplyDst,
    /// Mask of an expectation's source port.
    MaskSrc,
    /// Mask of its destination port.
    MaskDst,
    /// The state.
    State,
    /// Source port of an expectation.
    TupleSrc,
    /// Its destination port.
    TupleDst,
    /// SCTP's verification tag of the original direction.
    OrigTag,
    /// And of the reply direction.
    ReplyTag,
    /// DCCP's role.
    Role,
}

use Part::*;

/// How a protocol's options look and which of them belong together.
#[derive(Debug)]
pub struct Protocol {
    /// Its name.
    pub name: &'static str,
    /// Its number; none for those that are only known by their number.
    pub number: Option<u8>,
    /// Spellings of its options.
    pub options: &'static [(&'static str, Part)],
    /// The spelling that complaints use.
    shown: &'static [(Part, &'static str)],
    /// The states that it has.
    pub states: &'static [&'static str],
    /// What its help says.
    pub help: &'static str,
}

const PORTS_SHOWN: &[(Part, &str)] = &[
    (OrigSrc, "sport"),
    (OrigDst, "dport"),
    (ReplySrc, "reply-port-src"),
    (ReplyDst, "reply-port-dst"),
    (MaskSrc, "mask-port-src"),
    (MaskDst, "mask-port-dst"),
    (State, "state"),
    (TupleSrc, "tuple-port-src"),
    (TupleDst, "tuple-port-dst"),
];

/// Spellings of ports, in the original's order: others come before the short ones.
macro_rules! port_options {
    ($($more:expr),*) => {
        &[
            ("orig-port-src", OrigSrc),
            ("orig-port-dst", OrigDst),
            ("reply-port-src", ReplySrc),
            ("reply-port-dst", ReplyDst),
            ("mask-port-src", MaskSrc),
            ("mask-port-dst", MaskDst),
            ("tuple-port-src", TupleSrc),
            ("tuple-port-dst", TupleDst),
            $($more,)*
            ("sport", OrigSrc),
            ("dport", OrigDst),
        ]
    };
}

macro_rules! port_help {
    ($more:literal) => {
        concat!(
            "  --orig-port-src\t\toriginal source port\n",
            "  --orig-port-dst\t\toriginal destination port\n",
            "  --reply-port-src\t\treply source port\n",
            "  --reply-port-dst\t\treply destination port\n",
            "  --mask-port-src\t\tmask source port\n",
            "  --mask-port-dst\t\tmask destination port\n",
            "  --tuple-port-src\t\texpectation tuple src port\n",
            "  --tuple-port-src\t\texpectation tuple dst port\n",
            $more
        )
    };
}

/// Protocols with options of their own.
pub static PROTOCOLS: [Protocol; 8] = [
    Protocol {
        name: "tcp",
        number: Some(protocol::TCP),
        options: port_options![("state", State)],
        shown: PORTS_SHOWN,
        states: &[
            "NONE",
            "SYN_SENT",
            "SYN_RECV",
            "ESTABLISHED",
            "FIN_WAIT",
            "CLOSE_WAIT",
            "LAST_ACK",
            "TIME_WAIT",
            "CLOSE",
            "LISTEN",
            "SYN_SENT2",
        ],
        help: port_help!("  --state\t\t\tTCP state, fe. ESTABLISHED\n"),
    },
    Protocol {
        name: "udp",
        number: Some(protocol::UDP),
        options: port_options![],
        shown: PORTS_SHOWN,
        states: &[],
        help: port_help!(""),
    },
    Protocol {
        name: "udplite",
        number: Some(protocol::UDPLITE),
        options: port_options![],
        shown: PORTS_SHOWN,
        states: &[],
        help: port_help!(""),
    },
    Protocol {
        name: "sctp",
        number: Some(protocol::SCTP),
        options: port_options![("state", State), ("orig-vtag", OrigTag), ("reply-vtag", ReplyTag)],
        shown: PORTS_SHOWN,
        states: &[
            "NONE",
            "CLOSED",
            "COOKIE_WAIT",
            "COOKIE_ECHOED",
            "ESTABLISHED",
            "SHUTDOWN_SENT",
            "SHUTDOWN_RECD",
            "SHUTDOWN_ACK_SENT",
            "HEARTBEAT_SENT",
            "HEARTBEAT_ACKED",
        ],
        help: port_help!(
            "  --state\t\t\tSCTP state, fe. ESTABLISHED\n  --orig-vtag\t\toriginal verification \
             tag\n  --reply-vtag\t\treply verification tag\n"
        ),
    },
    Protocol {
        name: "dccp",
        number: Some(protocol::DCCP),
        options: port_options![("state", State), ("role", Role)],
        shown: PORTS_SHOWN,
        states: &[
            "NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT",
            "IGNORE", "INVALID",
        ],
        help: port_help!("  --state\t\t\tDCCP state, fe. RESPOND\n"),
    },
    Protocol {
        name: "icmp",
        number: Some(protocol::ICMP),
        options: &[("icmp-type", OrigSrc), ("icmp-code", OrigDst), ("icmp-id", ReplySrc)],
        shown: &[(OrigSrc, "icmp-type"), (OrigDst, "icmp-code"), (ReplySrc, "icmp-id")],
        states: &[],
        help: "  --icmp-type\t\t\ticmp type\n  --icmp-code\t\t\ticmp code\n  --icmp-id\t\t\ticmp id\n",
    },
    Protocol {
        name: "icmpv6",
        number: Some(protocol::ICMPV6),
        options: &[("icmpv6-type", OrigSrc), ("icmpv6-code", OrigDst), ("icmpv6-id", ReplySrc)],
        shown: &[(OrigSrc, "icmpv6-type"), (OrigDst, "icmpv6-code"), (ReplySrc, "icmpv6-id")],
        states: &[],
        help: "  --icmpv6-type\t\t\ticmpv6 type\n  --icmpv6-code\t\t\ticmpv6 code\n  \
               --icmpv6-id\t\t\ticmpv6 id\n",
    },
    Protocol {
        name: "gre",
        number: Some(protocol::GRE),
        options: &[
            ("orig-key-src", OrigSrc),
            ("orig-key-dst", OrigDst),
            ("reply-key-src", ReplySrc),
            ("reply-key-dst", ReplyDst),
            ("mask-key-src", MaskSrc),
            ("mask-key-dst", MaskDst),
            ("tuple-key-src", TupleSrc),
            ("tuple-key-dst", TupleDst),
            ("srckey", OrigSrc),
            ("dstkey", OrigDst),
        ],
        shown: &[
            (OrigSrc, "srckey"),
            (OrigDst, "dstkey"),
            (ReplySrc, "reply-key-src"),
            (ReplyDst, "reply-key-dst"),
            (MaskSrc, "mask-key-src"),
            (MaskDst, "mask-key-dst"),
            (TupleSrc, "tuple-key-src"),
            (TupleDst, "tuple-key-dst"),
        ],
        states: &[],
        help: "  --orig-key-src\t\toriginal source key\n  --orig-key-dst\t\toriginal destination \
               key\n  --reply-key-src\t\treply source key\n  --reply-key-dst\t\treply destination \
               key\n  --mask-key-src\t\tmask source key\n  --mask-key-dst\t\tmask destination \
               key\n  --tuple-key-src\t\texpectation tuple src key\n  --tuple-key-src\t\t\
               expectation tuple dst key\n",
    },
];

/// A protocol without options of its own.
pub static UNKNOWN: Protocol = Protocol {
    name: "unknown",
    number: None,
    options: &[],
    shown: &[],
    states: &[],
    help: "  no options (unsupported)\n",
};

/// The protocol of a name or number.
pub fn find(text: &str) -> Option<(&'static Protocol, u8)> {
    let known = |number: u8| PROTOCOLS.iter().find(|p| p.number == Some(number));
    if let Some(p) = PROTOCOLS.iter().find(|p| p.name.eq_ignore_ascii_case(text)) {
        return Some((p, p.number?));
    }
    let number = named(text).or_else(|| super::options::number(text)?.try_into().ok())?;
    Some((known(number).unwrap_or(&UNKNOWN), number))
}

/// Names of protocols that have no options here, as in `/etc/protocols`.
fn named(text: &str) -> Option<u8> {
    const NAMES: [(&str, u8); 12] = [
        ("ip", 0),
        ("igmp", 2),
        ("ipencap", 4),
        ("egp", 8),
        ("ipv6", 41),
        ("esp", 50),
        ("ah", 51),
        ("ipv6-icmp", 58),
        ("ospf", 89),
        ("pim", 103),
        ("vrrp", 112),
        ("l2tp", 115),
    ];
    NAMES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number)
}

impl Protocol {
    fn is_icmp(&self) -> bool {
        matches!(self.number, Some(protocol::ICMP | protocol::ICMPV6))
    }

    /// Whether the options that were given suit a command, in the original's order of complaints.
    pub fn check(&self, verb: Verb, expect: bool, given: &[Part]) -> Result<(), Wrong> {
        let has = |part| given.contains(&part);
        let making = matches!(verb, Verb::Create | Verb::Add);
        let exact = making || verb == Verb::Get;
        for (part, name) in self.shown {
            let expectation = matches!(part, MaskSrc | MaskDst | TupleSrc | TupleDst);
            let required = if self.is_icmp() {
                exact && matches!(part, OrigSrc | OrigDst)
            } else {
                making && !expect && *part == State && !self.states.is_empty()
                    || expect && making && expectation
                    || expect && matches!(part, OrigSrc | OrigDst)
            };
            if required && !has(*part) {
                return Err(Wrong::usage(format!(
                    "You need to supply the `--{name}' option for this command"
                )));
            }
            if has(*part) && expectation && !(expect && making) {
                return Err(Wrong::usage(format!("Illegal option `--{name}' with this command")));
            }
        }
        if making && self.number == Some(protocol::DCCP) && !has(Role) {
            let why = "You need to supply the `--role' option for this command";
            return Err(Wrong::usage(why.to_owned()));
        }
        if !exact || expect || self.is_icmp() || self.shown.is_empty() {
            return Ok(());
        }
        // Both ends of one direction have to be there.
        let original = has(OrigSrc) && has(OrigDst);
        let reply = has(ReplySrc) && has(ReplyDst);
        if original || reply {
            return Ok(());
        }
        let only_reply = !has(OrigSrc) && !has(OrigDst) && (has(ReplySrc) || has(ReplyDst));
        let (ports, keys) = if only_reply {
            ("`--reply-src-port' and `--reply-dst-port'", "`--reply-src-key' and `--reply-dst-key'")
        } else {
            ("`--sport' and `--dport'", "`--srckey' and `--dstkey'")
        };
        let which = if self.number == Some(protocol::GRE) { keys } else { ports };
        Err(Wrong::usage(format!("you have to specify {which}")))
    }
}
