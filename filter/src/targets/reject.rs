//! `REJECT`: drops the packet and tells its sender.

use tidegate_packet::{Family, icmp, icmpv6, protocol};

use crate::diagnostic::{Outcome, Refusal};
use crate::extension::{Context, Given, Listing, Next, Opt, Spec, Target, TargetSpec, value};
use crate::query::{Hook, TableName};
use crate::values::list_saved;
use crate::values::save_option;
use crate::verdict::{RejectWith, Verdict};

pub(crate) static V4: TargetSpec = TargetSpec { families: &[Family::V4], ..both(build_v4) };

pub(crate) static V6: TargetSpec = TargetSpec { families: &[Family::V6], ..both(build_v6) };

const OPTIONS: &[Opt] = &[value(&["reject-with"])];

const fn both(build: fn(&Given<'_>) -> Outcome<Box<dyn Target>>) -> TargetSpec {
    Spec {
        options: OPTIONS,
        tables: &[TableName::Filter],
        hooks: &[Hook::Input, Hook::Forward, Hook::Output],
        ..Spec::new("REJECT", build)
    }
}

/// Name, other name, kind.
type Kind = (&'static str, &'static str, RejectWith);

#[rustfmt::skip]
const KINDS_V4: &[Kind] = &[
    ("icmp-net-unreachable", "net-unreach", RejectWith::Icmp(icmp::unreachable::NET)),
    ("icmp-host-unreachable", "host-unreach", RejectWith::Icmp(icmp::unreachable::HOST)),
    ("icmp-proto-unreachable", "proto-unreach", RejectWith::Icmp(icmp::unreachable::PROTOCOL)),
    ("icmp-port-unreachable", "port-unreach", RejectWith::Icmp(icmp::unreachable::PORT)),
    ("icmp-net-prohibited", "net-prohib", RejectWith::Icmp(icmp::unreachable::NET_PROHIBITED)),
    ("icmp-host-prohibited", "host-prohib", RejectWith::Icmp(icmp::unreachable::HOST_PROHIBITED)),
    ("tcp-reset", "tcp-rst", RejectWith::TcpReset),
    ("icmp-admin-prohibited", "admin-prohib", RejectWith::Icmp(icmp::unreachable::ADMIN_PROHIBITED)),
];

#[rustfmt::skip]
const KINDS_V6: &[Kind] = &[
    ("icmp6-no-route", "no-route", RejectWith::Icmpv6(icmpv6::unreachable::NO_ROUTE)),
    ("icmp6-adm-prohibited", "adm-prohibited", RejectWith::Icmpv6(icmpv6::unreachable::ADM_PROHIBITED)),
    ("icmp6-addr-unreachable", "addr-unreach", RejectWith::Icmpv6(icmpv6::unreachable::ADDRESS)),
    ("icmp6-port-unreachable", "port-unreach", RejectWith::Icmpv6(icmpv6::unreachable::PORT)),
    ("tcp-reset", "tcp-reset", RejectWith::TcpReset),
    ("icmp6-policy-fail", "policy-fail", RejectWith::Icmpv6(icmpv6::unreachable::POLICY_FAIL)),
    ("icmp6-reject-route", "reject-route", RejectWith::Icmpv6(icmpv6::unreachable::REJECT_ROUTE)),
];

#[derive(Debug)]
struct Reject {
    name: &'static str,
    with: RejectWith,
}

fn build_v4(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    build(given, KINDS_V4, "icmp-port-unreachable")
}

fn build_v6(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    build(given, KINDS_V6, "icmp6-port-unreachable")
}

fn build(given: &Given<'_>, kinds: &[Kind], default: &str) -> Outcome<Box<dyn Target>> {
    let word = given.value("reject-with").map(|(word, _)| word);
    let text = word.map_or(default, |word| &*word.text);
    // The first kind whose name begins so, whatever else begins so too.
    let starts =
        |name: &str| name.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text));
    let found = kinds.iter().find(|(name, alias, _)| starts(name) || starts(alias));
    let Some((name, _, with)) = found else {
        let names: Vec<_> = kinds.iter().map(|(name, ..)| *name).collect();
        let message = format!("unknown kind of rejection `{text}`");
        return Err(word
            .map_or_else(|| given.wrong(&message), |word| word.wrong(&message))
            .help(format!("expected {}", names.join(", "))));
    };
    if *with == RejectWith::TcpReset && given.protocol != Some(protocol::TCP) {
        return Err(given
            .wrong("tcp-reset needs a rule for TCP alone")
            .help("expected -p tcp")
            .refused(Refusal::Invalid));
    }
    Ok(Box::new(Reject { name, with: *with }))
}

impl Target for Reject {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Final(Verdict::Reject(self.with))
    }

    fn list(&self, out: &mut String, _style: Listing) {
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        save_option(out, "reject-with", false, self.name);
    }
}
