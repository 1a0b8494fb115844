//! What a packet's walks leave behind so that others of its flow needn't walk.

use crate::extension::{Match, Target};

/// Rules that a trail remembers at most. A flow that meets more is walked for every packet.
const MOST: usize = 64;

/// Which rules a packet's walks have counted, and whether all that they asked depends on nothing but
/// the packet's flow. Then each later packet of the flow would meet the same rules and the same
/// verdicts, and it is enough to count it ([`crate::Counters::count_trail`]).
///
/// A flow here are packets
/// - of one direction of one connection, whose status, mark, labels and helper are what they were;
/// - that came in by the same port, addressed to the gateway's own link address, and leave by the
///   same interface;
/// - that are no fragments and have neither IPv4 options nor IPv6 extension headers;
/// - that are UDP, or TCP with ACK set and of the other flags at most PSH, ECE and CWR;
/// - while rules, sets, routes and addresses are what they were.
///
/// Length, payload, hop limit, type of service, link addresses and the time may differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    counted: Vec<u32>,
    lost: bool,
}

impl Trail {
    /// Begins anew.
    pub fn clear(&mut self) {
        self.counted.clear();
        self.lost = false;
    }

    /// Something on the way depends on more than the flow.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether everything on the way depends on the flow alone.
    pub fn holds(&self) -> bool {
        !self.lost
    }

    /// The places in the counters of the rules and policies that counted the packet, in the order in
    /// which it met them.
    pub fn counted(&self) -> &[u32] {
        &self.counted
    }
}

/// Looks over a walk's shoulder. `()` doesn't, and costs nothing.
pub(crate) trait Observer {
    /// A rule is about to be asked.
    fn meets(&mut self) {}
    /// A match is about to be asked.
    fn asks(&mut self, test: &dyn Match);
    /// A target is about to act.
    fn applies(&mut self, target: &dyn Target);
    /// A rule or policy counts the packet.
    fn counts(&mut self, index: usize);
    /// The packet or its connection is changed.
    fn edits(&mut self);
}

impl Observer for () {
    fn asks(&mut self, _: &dyn Match) {}
    fn applies(&mut self, _: &dyn Target) {}
    fn counts(&mut self, _: usize) {}
    fn edits(&mut self) {}
}

impl Observer for Trail {
    fn asks(&mut self, test: &dyn Match) {
        self.lost = self.lost || !test.flow_only();
    }

    fn applies(&mut self, target: &dyn Target) {
        self.lost = self.lost || !target.flow_only();
    }

    fn counts(&mut self, index: usize) {
        match u32::try_from(index) {
            Ok(index) if self.counted.len() < MOST => self.counted.push(index),
            _ => self.lost = true,
        }
    }

    fn edits(&mut self) {
        self.lost = true;
    }
}

#[cfg(test)]
mod tests {
    use tidegate_packet::{Family, Instant};

    use crate::ruleset::Action;
    use crate::{Ruleset, Sets, Source, load_with, matches, targets};

    const SETS: &str = "create plain hash:ip\ncreate timed hash:ip timeout 9\n\
        create counted hash:ip counters\ncreate stations hash:mac\ncreate seen hash:ip\n\
        create list list:set\nadd list plain\ncreate uneven list:set\nadd uneven timed\n\
        create taken list:set\ncreate inner hash:ip\nadd taken inner\n";

    /// Every match with what it may be asked. `T`: depends on the flow alone; `6`: in ip6tables.
    const MATCHES: &[(&str, &str, &str)] = &[
        ("addrtype", "T", "--dst-type LOCAL"),
        ("bpf", "", "--bytecode \"1,6 0 0 1\""),
        ("cgroup", "", "--cgroup 1"),
        ("cluster", "T", "--cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 0x1"),
        ("comment", "T", "--comment x"),
        ("connbytes", "", "--connbytes 1: --connbytes-dir both --connbytes-mode bytes"),
        ("connlabel", "T", "--label 1"),
        ("connlabel", "", "--label 1 --set"),
        ("connlimit", "", "--connlimit-above 2"),
        ("connmark", "T", "--mark 1"),
        ("conntrack", "T", "--ctstate ESTABLISHED --ctstatus ASSURED --ctdir REPLY"),
        ("conntrack", "", "--ctexpire 1:5"),
        ("cpu", "", "--cpu 0"),
        ("dccp", "", "--dport 1"),
        ("dscp", "", "--dscp 1"),
        ("ecn", "", "--ecn-ip-ect 1"),
        ("eui64", "6", ""),
        ("frag", "6", "--fragmore"),
        ("realm", "T", "--realm 1"),
        ("devgroup", "T", "--src-group 1"),
        ("hashlimit", "", "--hashlimit-upto 1/s --hashlimit-name x"),
        ("helper", "T", "--helper ftp"),
        ("icmp", "", "--icmp-type 8"),
        ("icmp6", "6", "--icmpv6-type 128"),
        ("ipcomp", "", "--ipcompspi 1"),
        ("iprange", "T", "--src-range 10.0.0.1-10.0.0.2"),
        ("ipv6header", "6", "--header dst --soft"),
        ("length", "", "--length 40"),
        ("limit", "", "--limit 1/s"),
        ("mac", "", "--mac-source 02:00:00:00:00:01"),
        ("mark", "T", "--mark 1"),
        ("mh", "6", "--mh-type 1"),
        ("multiport", "T", "--dports 1,2:3"),
        ("hbh", "6", "--hbh-len 8"),
        ("dst", "6", "--dst-len 8"),
        ("owner", "", "--uid-owner 0"),
        ("physdev", "T", "--physdev-in x"),
        ("pkttype", "T", "--pkt-type unicast"),
        ("policy", "T", "--dir in --pol none"),
        ("quota", "", "--quota 1"),
        ("recent", "", "--rcheck --name x"),
        ("rpfilter", "T", ""),
        ("rt", "6", "--rt-type 0"),
        ("sctp", "", "--dport 1"),
        ("set", "T", "--match-set plain src"),
        ("set", "T", "--match-set list src"),
        ("set", "", "--match-set plain src --packets-gt 1"),
        ("set", "", "--match-set timed src"),
        ("set", "", "--match-set counted src"),
        ("set", "", "--match-set stations src"),
        ("set", "", "--match-set uneven src"),
        ("set", "", "--match-set seen src"),
        ("set", "", "--match-set inner src"),
        ("socket", "", ""),
        ("esp", "", "--espspi 1"),
        ("ah", "", "--ahspi 1"),
        ("ah", "6", "--ahspi 1"),
        ("state", "T", "--state NEW"),
        ("statistic", "", "--mode nth --every 2"),
        ("string", "", "--string x --algo bm"),
        ("tcp", "T", "--sport 1 --dport 2 --syn"),
        ("tcp", "T", "--tcp-flags ALL,!PSH SYN"),
        ("tcp", "", "--tcp-flags ALL ACK"),
        ("tcp", "", "--tcp-option 8"),
        ("tcpmss", "", "--mss 1"),
        ("time", "", "--timestart 01:00"),
        ("tos", "", "--tos 1"),
        ("ttl", "", "--ttl-eq 1"),
        ("hl", "6", "--hl-eq 1"),
        ("u32", "", "--u32 0=1"),
        ("udp", "T", "--sport 1 --dport 2"),
    ];

    /// The same of targets. Those that end the walk or change the packet say nothing: the engine sees
    /// what they do.
    const TARGETS: &[(&str, &str, &str)] = &[
        ("AUDIT", "", "--type accept"),
        ("CHECKSUM", "", "--checksum-fill"),
        ("CLASSIFY", "T", "--set-class 1:1"),
        ("CONNMARK", "T", "--restore-mark"),
        ("CONNMARK", "T", "--set-mark 1"),
        ("DNAT", "", "--to-destination 10.0.0.1"),
        ("DSCP", "", "--set-dscp 1"),
        ("ECN", "", "--ecn-tcp-remove"),
        ("HMARK", "", "--hmark-tuple src --hmark-mod 2 --hmark-rnd 1"),
        ("LOG", "", ""),
        ("MARK", "T", "--set-mark 1"),
        ("MASQUERADE", "", ""),
        ("NETMAP", "", "--to 10.0.0.0/8"),
        ("NFLOG", "", ""),
        ("CT", "", "--notrack"),
        ("NOTRACK", "", ""),
        ("SNPT", "6", "--src-pfx fd00::/64 --dst-pfx fd01::/64"),
        ("DNPT", "6", "--src-pfx fd00::/64 --dst-pfx fd01::/64"),
        ("REDIRECT", "", ""),
        ("REJECT", "", ""),
        ("REJECT", "6", ""),
        ("SET", "", "--add-set seen src"),
        ("SET", "", "--del-set taken src"),
        ("SNAT", "", "--to-source 10.0.0.1"),
        ("SYNPROXY", "", ""),
        ("TCPMSS", "", "--set-mss 1"),
        ("TCPOPTSTRIP", "", "--strip-options 8"),
        ("TEE", "", "--gateway 10.0.0.1"),
        ("TOS", "", "--set-tos 1"),
        ("TRACE", "", ""),
        ("TTL", "", "--ttl-dec 1"),
        ("HL", "6", "--hl-dec 1"),
    ];

    fn protocol(name: &str) -> &'static str {
        match name {
            "udp" => "-p udp",
            "dccp" => "-p dccp",
            "sctp" => "-p sctp",
            "icmp" => "-p icmp",
            "icmp6" => "-p icmpv6",
            "ipcomp" => "-p ipcomp",
            "esp" => "-p esp",
            "ah" => "-p ah",
            "mh" => "-p mh",
            _ => "-p tcp",
        }
    }

    /// The only rule of a ruleset that has the extension, in the first table and chain that take it.
    fn rule(kind: &str, name: &str, family: &str, options: &str, sets: &Sets) -> Ruleset {
        let family = if family == "6" { Family::V6 } else { Family::V4 };
        let (tables, chains) = (
            ["mangle", "raw", "nat", "filter"],
            ["PREROUTING", "POSTROUTING", "FORWARD", "OUTPUT", "INPUT"],
        );
        let options = options.replace("ALL,!PSH", "FIN,SYN,RST,ACK,URG");
        let mut refused = String::new();
        for (table, chain) in tables.iter().flat_map(|t| chains.iter().map(move |c| (t, c))) {
            let protocol = protocol(name);
            let syn = if name == "TCPMSS" { "--syn " } else { "" };
            let text =
                format!("*{table}\n-A {chain} {protocol} {syn}{kind} {name} {options}\nCOMMIT\n");
            let source = Source { name: "rule", text: &text };
            match load_with(source, family, sets) {
                Ok(loaded) => return loaded.ruleset,
                Err(errors) => refused = format!("{errors:?}"),
            }
        }
        panic!("{kind} {name} {options}: {refused}")
    }

    fn the_rule(ruleset: &Ruleset) -> &crate::ruleset::Rule {
        ruleset.tables[0]
            .chains
            .iter()
            .find_map(|chain| chain.content.rules.first())
            .expect("a rule")
    }

    fn sets() -> Sets {
        let sets = Sets::new();
        sets.restore(SETS, Instant::ZERO).expect("sets");
        sets
    }

    /// Whoever adds an extension has to say what it depends on.
    #[test]
    fn every_extension_has_decided() {
        let sets = sets();
        // Rules that write are in force while sets are asked about.
        let _writers: Vec<_> = TARGETS
            .iter()
            .filter(|(name, ..)| *name == "SET")
            .map(|(name, family, options)| rule("-j", name, family, options, &sets))
            .collect();
        for (name, family, options) in MATCHES {
            let ruleset = rule("-m", name, family, options, &sets);
            let tests = &the_rule(&ruleset).matches;
            let test = tests.iter().find(|m| m.spec.name == *name).expect("the match");
            assert_eq!(test.test.flow_only(), *family == "T", "-m {name} {options}");
        }
        for (name, family, options) in TARGETS {
            let ruleset = rule("-j", name, family, options, &sets);
            let Action::Target(_, target) = &the_rule(&ruleset).action else {
                panic!("-j {name} is a target")
            };
            assert_eq!(target.flow_only(), *family == "T", "-j {name} {options}");
        }
        for family in [Family::V4, Family::V6] {
            for name in matches::names(family) {
                assert!(MATCHES.iter().any(|(known, ..)| *known == name), "-m {name}");
            }
            let verdicts = ["ACCEPT", "DROP", "RETURN"];
            for name in targets::names(family).filter(|name| !verdicts.contains(name)) {
                assert!(TARGETS.iter().any(|(known, ..)| *known == name), "-j {name}");
            }
        }
    }

    #[test]
    fn commands_that_change_sets_are_numbered() {
        let sets = sets();
        let mut seen = sets.changes().number();
        for (command, changes) in [
            ("add plain 10.0.0.1", true),
            ("add -exist plain 10.0.0.1", true),
            ("test plain 10.0.0.1", false),
            ("list", false),
            ("swap plain inner", true),
            ("flush", true),
            ("del plain 10.0.0.9", true),
            ("destroy stations", true),
        ] {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            sets.call(&words, "", Instant::ZERO);
            let number = sets.changes().number();
            assert_eq!(number != seen, changes, "{command}");
            seen = number;
        }
    }
}
