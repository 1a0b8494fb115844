//! The flags of `tidegate run` that describe the gateway.
//!
//! ```text
//! --lan    NAME[=ITEM[,ITEM]…]      ITEM: ADDRESS/LEN, kind=tap
//! --uplink NAME[=ITEM[,ITEM]…]      besides: dhcp, via=NEXTHOP (once a family), metric=N
//! ```
//!
//! Without an address or `dhcp` the interface keeps what the kernel has given it. The default
//! routes of the first `--uplink` have metric 0, those of the second 1 and so on.

use super::draft::{
    Address, At, Draft, DraftInterface, DraftRoute, KindName, log_to, nflog_group, read_address,
    read_via,
};
use super::{LogTo, MAX_WORKERS, RouteKind};
use crate::diagnostic::{COMMAND_LINE, Place, Report, Source};
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_packet::{Addr, Prefix};

/// What the command line says, unread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--lan`.
    pub lan: Vec<String>,
    /// `--uplink`.
    pub uplink: Vec<String>,
    /// `--rules`.
    pub rules: Option<PathBuf>,
    /// `--rules6`.
    pub rules6: Option<PathBuf>,
    /// `--sets`.
    pub sets: Option<PathBuf>,
    /// `--sysctl`.
    pub sysctl: Vec<PathBuf>,
    /// `--workers`.
    pub workers: Option<usize>,
    /// `--control`.
    pub control: Option<PathBuf>,
    /// `--log`.
    pub log: Option<String>,
    /// `--nflog`.
    pub nflog: Vec<String>,
    /// `--state`.
    pub state: Option<PathBuf>,
}

/// The keys of items.
const LAN_KEYS: &[&str] = &["kind"];
const UPLINK_KEYS: &[&str] = &["via", "metric", "kind"];

/// What one `--lan` or `--uplink` says.
struct Spec {
    interface: DraftInterface,
    via: Vec<At<Addr>>,
    metric: Option<u32>,
}

/// Puts the flags over what the file says.
pub(super) fn apply(flags: &Flags, draft: &mut Draft, report: &mut Report) {
    let Flags { lan, uplink, rules, rules6, sets, sysctl, workers, control, log, nflog, state } =
        flags;
    let source = command_line(flags);
    let mut line = Lines { source: &source, offset: 0 };
    for text in lan {
        if let Some(spec) = read_spec(&line.next("--lan ", text), text, false, report) {
            put_interface(draft, spec.interface, report);
        }
    }
    for (index, text) in uplink.iter().enumerate() {
        if let Some(spec) = read_spec(&line.next("--uplink ", text), text, true, report) {
            let metric = spec.metric.or(u32::try_from(index).ok()).unwrap_or(0);
            put_uplink(draft, spec, metric, index == 0, report);
        }
    }
    if let Some(workers) = *workers {
        let text = workers.to_string();
        let place = line.next("--workers ", &text);
        if (1..=MAX_WORKERS).contains(&workers) {
            draft.workers = Some(workers);
        } else {
            let error = place.error(format!("{workers} workers can't be had"));
            report.push(error.expected(format!("a number from 1 to {MAX_WORKERS}")));
        }
    }
    if let Some(path) = control {
        let place = line.next("--control ", &path.display().to_string());
        draft.control = Some(At::new(path.clone(), place));
    }
    draft.rules.ipv4 = rules.clone().or(draft.rules.ipv4.take());
    draft.rules.ipv6 = rules6.clone().or(draft.rules.ipv6.take());
    draft.rules.sets = sets.clone().or(draft.rules.sets.take());
    for path in sysctl {
        let place = line.next("--sysctl ", &path.display().to_string());
        match Source::read(path) {
            Ok(source) => draft.assignments.read(&source, report),
            Err(error) if error.place.is_some() => report.push(*error),
            Err(error) => report.push(place.error(error.message)),
        }
    }
    if let Some(text) = log {
        let place = line.next("--log ", text);
        draft.log_to = read_log(text, place, report);
    }
    if !nflog.is_empty() {
        draft.nflog.clear();
    }
    for text in nflog {
        let place = line.next("--nflog ", text);
        draft.nflog.extend(read_nflog(text, &place, report));
    }
    draft.state = state.clone().or(draft.state.take());
}

/// `stderr`, `syslog`, `syslog=SOCKET` or `file=PATH`.
fn read_log(text: &str, place: Place, report: &mut Report) -> Option<LogTo> {
    match text.split_once('=') {
        Some(("file", path)) if !path.is_empty() => Some(LogTo::File(path.into())),
        Some(("syslog", path)) if !path.is_empty() => Some(LogTo::Syslog(path.into())),
        _ => log_to(&At::new(text.to_owned(), place), report),
    }
}

/// `FILE` or `GROUP=FILE`.
fn read_nflog(
    text: &str,
    place: &Place,
    report: &mut Report,
) -> Option<(Option<u16>, At<PathBuf>)> {
    let numbered = |group: &str| group.bytes().all(|b| b.is_ascii_digit()) && !group.is_empty();
    match text.split_once('=').filter(|(group, _)| numbered(group)) {
        Some((group, path)) => {
            let at = place.inner(group.len() + 1..text.len());
            let group = nflog_group(group, &place.inner(0..group.len()), report)?;
            Some((Some(group), At::new(path.into(), at)))
        }
        None => Some((None, At::new(text.into(), place.clone()))),
    }
}

/// The flags as a text, one a line, for carets to point into.
fn command_line(flags: &Flags) -> Arc<Source> {
    let Flags {
        lan,
        uplink,
        rules: _,
        rules6: _,
        sets: _,
        sysctl,
        workers,
        control,
        log,
        nflog,
        state: _,
    } = flags;
    let mut text = String::new();
    let mut add = |flag: &str, value: &str| text.push_str(&format!("{flag}{value}\n"));
    lan.iter().for_each(|v| add("--lan ", v));
    uplink.iter().for_each(|v| add("--uplink ", v));
    workers.iter().for_each(|v| add("--workers ", &v.to_string()));
    control.iter().for_each(|v| add("--control ", &v.display().to_string()));
    sysctl.iter().for_each(|v| add("--sysctl ", &v.display().to_string()));
    log.iter().for_each(|v| add("--log ", v));
    nflog.iter().for_each(|v| add("--nflog ", v));
    Source::new(COMMAND_LINE, text)
}

/// Walks the text that [`command_line`] made.
struct Lines<'a> {
    source: &'a Arc<Source>,
    offset: usize,
}

impl Lines<'_> {
    fn next(&mut self, flag: &str, value: &str) -> Place {
        let start = self.offset + flag.len();
        self.offset = start + value.len() + 1;
        self.source.place(start..start + value.len())
    }
}

fn read_spec(place: &Place, text: &str, uplink: bool, report: &mut Report) -> Option<Spec> {
    let name_len = text.find('=').unwrap_or(text.len());
    let name = At::new(text[..name_len].to_owned(), place.inner(0..name_len));
    let mut spec = Spec {
        interface: DraftInterface { uplink, ..DraftInterface::named(name) },
        via: Vec::new(),
        metric: None,
    };
    let errors = report.diagnostics.len();
    if let Some(comma) = text[..name_len].find(',') {
        let (name, rest) = (&text[..comma], &text[comma + 1..]);
        report.push(
            place
                .inner(comma..comma + 1)
                .error(format!("a comma follows the name `{name}`"))
                .expected("`=` before the first item")
                .help(format!("write {name}={rest}")),
        );
        return None;
    }
    let mut at = name_len + 1;
    if name_len < text.len() {
        for item in text[at..].split(',') {
            read_item(&mut spec, item, &place.inner(at..at + item.len()), uplink, report);
            at += item.len() + 1;
        }
    }
    (report.diagnostics.len() == errors).then_some(spec)
}

fn read_item(spec: &mut Spec, item: &str, place: &Place, uplink: bool, report: &mut Report) {
    let Some((key, value)) = item.split_once('=') else {
        match read_address(item, place, report) {
            Some(At { value: Address::Dhcp, .. }) if !uplink => report.push(
                place
                    .error("a LAN can't get its address by DHCP")
                    .expected("an address as in 192.168.0.1/24")
                    .help("an interface with a DHCP server behind it is an --uplink"),
            ),
            Some(address) => spec.interface.addresses.get_or_insert_default().push(address),
            None => {}
        }
        return;
    };
    let at = place.inner(key.len() + 1..item.len());
    let known = if uplink { UPLINK_KEYS } else { LAN_KEYS };
    match key {
        "via" if uplink => spec.via.extend(read_via(value, &at, report)),
        "metric" if uplink => match value.parse() {
            Ok(metric) => spec.metric = Some(metric),
            Err(_) => report.push(
                at.error(format!("`{value}` is no metric"))
                    .expected(format!("a number from 0 to {}", u32::MAX)),
            ),
        },
        "kind" => match KindName::NAMES.iter().find(|(name, _)| *name == value) {
            Some((_, KindName::Bridge)) => report.push(
                at.error("a bridge's ports can't be said with flags")
                    .help("write an [[interface]] with kind = \"bridge\" in gateway.toml"),
            ),
            Some((_, kind)) => spec.interface.kind = Some(At::new(*kind, at)),
            None => report.push(
                at.error(format!("`{value}` is no kind"))
                    .expected("`af-packet` or `tap`")
                    .nearest(value, ["af-packet", "tap"]),
            ),
        },
        _ => {
            let flag = if uplink { "--uplink" } else { "--lan" };
            let error = place.inner(0..key.len()).error(format!("unknown item `{key}` in {flag}"));
            let error = error.nearest(key, known.iter().copied());
            report.push(match error.help {
                Some(_) => error,
                None if uplink => error.help("items are ADDRESS/LEN, dhcp, via=, metric=, kind="),
                None => error.help("items are ADDRESS/LEN and kind="),
            });
        }
    }
}

/// Adds an interface or puts its addresses over those of the file's. Two flags of one name are
/// left for validation to complain of.
fn put_interface(draft: &mut Draft, new: DraftInterface, report: &mut Report) {
    let from_file = |i: &&mut DraftInterface| {
        i.name.value == new.name.value && i.name.place.source.name != COMMAND_LINE
    };
    let Some(old) = draft.interfaces.iter_mut().find(from_file) else {
        draft.interfaces.push(new);
        return;
    };
    if let Some(kind) = new.kind {
        if old.kind() == KindName::Bridge {
            let name = &new.name.value;
            report.push(kind.place.error(format!("`{name}` is a bridge in the file")));
        }
        old.kind = Some(kind);
    }
    old.name = new.name;
    old.addresses = new.addresses;
    old.incomplete = false;
    old.metric = new.metric;
    old.uplink = new.uplink;
}

fn put_uplink(draft: &mut Draft, spec: Spec, metric: u32, first: bool, report: &mut Report) {
    let Spec { mut interface, via, .. } = spec;
    let name = interface.name.clone();
    interface.metric = interface.dhcp().then(|| At::new(metric, name.place.clone()));
    put_interface(draft, interface, report);
    for via in via {
        let family = via.value.family();
        if first {
            draft.routes.retain(|r| {
                !(r.to.value.is_empty() && r.to.value.addr().family() == family)
                    || r.place.source.name == COMMAND_LINE
            });
        }
        let all = Prefix::new(Addr::unspecified(family), 0);
        let place = via.place.clone();
        draft.routes.extend(all.map(|to| DraftRoute {
            to: At::new(to, place.clone()),
            via: Some(via),
            dev: Some(name.clone()),
            metric,
            kind: At::new(RouteKind::Unicast, place.clone()),
            place,
        }));
    }
}
