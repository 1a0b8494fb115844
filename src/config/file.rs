//! `gateway.toml`. Its keys are those of [`TOP`] and of the tables below it.

use super::draft::{
    Address, At, Draft, DraftInterface, DraftRoute, KindName, bad_prefix, log_to, nflog_group,
    read_address, read_via,
};
use super::toml::{Scalar, StringOrTable, Table};
use super::{LogTo, MAX_WORKERS, PortKind, RouteKind};
use crate::diagnostic::{Report, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate_packet::{MacAddr, Prefix};

/// Keys of the top level.
const TOP: &[&str] =
    &["workers", "control", "interface", "route", "rules", "sysctl", "host", "log", "state"];
const INTERFACE: &[&str] =
    &["name", "kind", "address", "mac", "mtu", "ports", "port_kind", "metric"];
const ROUTE: &[&str] = &["to", "via", "dev", "metric", "kind"];
const RULES: &[&str] = &["ipv4", "ipv6", "sets"];
const HOST: &[&str] = &["device"];
const LOG: &[&str] = &["to", "nflog"];
const LOG_TO: &[&str] = &["file", "syslog"];
const STATE: &[&str] = &["file", "every"];

const PORT_KINDS: [(&str, PortKind); 2] =
    [("af-packet", PortKind::AfPacket), ("tap", PortKind::Tap)];
const ROUTE_KINDS: [(&str, RouteKind); 4] = [
    ("unicast", RouteKind::Unicast),
    ("blackhole", RouteKind::Blackhole),
    ("unreachable", RouteKind::Unreachable),
    ("prohibit", RouteKind::Prohibit),
];

/// Reads the text of a file that lies in `folder`; relative paths in it start there.
pub(super) fn read(source: &Arc<Source>, folder: &Path, report: &mut Report) -> Draft {
    let mut draft = Draft { end: Some(source.place(0..0)), ..Draft::default() };
    let Some(mut top) = Table::document(source, report) else { return draft };
    if let Some(n) = top.integer("workers", 1..=MAX_WORKERS as i64, "", report) {
        draft.workers = usize::try_from(n.value).ok();
    }
    if let Some(path) = top.string("control", report) {
        draft.control = Some(At::new(folder.join(path.value), path.place));
    }
    for table in top.tables("interface", report) {
        draft.interfaces.extend(interface(table, report));
    }
    for table in top.tables("route", report) {
        draft.routes.extend(route(table, report));
    }
    if let Some(mut table) = top.table("rules", report) {
        let mut file = |key, report: &mut Report| -> Option<PathBuf> {
            table.string(key, report).map(|path| folder.join(path.value))
        };
        draft.rules.ipv4 = file("ipv4", report);
        draft.rules.ipv6 = file("ipv6", report);
        draft.rules.sets = file("sets", report);
        table.finish("[rules]", RULES, report);
    }
    if let Some(table) = top.table("sysctl", report) {
        sysctl(table, folder, &mut draft, report);
    }
    if let Some(mut table) = top.table("host", report) {
        draft.host = table.required("device", "[host]", report).and_then(|scalar| {
            let text = scalar.string(report)?;
            Some(At::new(text, scalar.place))
        });
        table.finish("[host]", HOST, report);
    }
    if let Some(table) = top.table("log", report) {
        log(table, folder, &mut draft, report);
    }
    if let Some(mut table) = top.table("state", report) {
        draft.state = table.required("file", "[state]", report).and_then(|scalar| {
            let text = scalar.string(report)?;
            Some(folder.join(text))
        });
        draft.state_every = table.integer("every", 0..=7 * 86400, "seconds", report);
        table.finish("[state]", STATE, report);
    }
    top.finish("the top level", TOP, report);
    draft
}

/// `to = "stderr"`, `"syslog"`, `{ file = … }` or `{ syslog = SOCKET }`; `nflog = FILE`, or a table of
/// groups with their files.
fn log(mut table: Table, folder: &Path, draft: &mut Draft, report: &mut Report) {
    let expected = "\"stderr\", \"syslog\", { file = \"…\" } or { syslog = \"SOCKET\" }";
    draft.log_to = match table.string_or_table("to", expected, report) {
        Some(StringOrTable::String(text)) => log_to(&text, report),
        Some(StringOrTable::Table(mut to)) => {
            let file = to.string("file", report).map(|p| LogTo::File(folder.join(p.value)));
            let syslog = to.string("syslog", report).map(|p| LogTo::Syslog(folder.join(p.value)));
            let place = to.place.clone();
            to.finish("`to`", LOG_TO, report);
            if file.is_some() == syslog.is_some() {
                report.push(place.error("one place is wanted").expected(expected));
            }
            file.or(syslog)
        }
        None => None,
    };
    let expected = "a file, or groups with their files as in { 5 = \"a.pcapng\" }";
    match table.string_or_table("nflog", expected, report) {
        Some(StringOrTable::String(path)) => {
            draft.nflog.push((None, At::new(folder.join(path.value), path.place)));
        }
        Some(StringOrTable::Table(groups)) => {
            for (key, scalar) in groups.rest() {
                let group = nflog_group(&key.value, &key.place, report);
                let path = scalar.string(report);
                if let (Some(group), Some(path)) = (group, path) {
                    draft.nflog.push((Some(group), At::new(folder.join(path), scalar.place)));
                }
            }
        }
        None => {}
    }
    table.finish("[log]", LOG, report);
}

fn interface(mut table: Table, report: &mut Report) -> Option<DraftInterface> {
    let name = table
        .required("name", "[[interface]]", report)
        .and_then(|scalar| Some(At::new(scalar.string(report)?, scalar.place)));
    let kind = table.one_of("kind", &KindName::NAMES, report);
    let before = report.diagnostics.len();
    let written = table.list("address", report);
    let addresses: Option<Vec<At<Address>>> = written
        .map(|list| list.value.iter().filter_map(|scalar| address(scalar, report)).collect());
    let incomplete = report.diagnostics.len() > before;
    let mac = table.string("mac", report).and_then(|text| {
        let mac = text.value.parse().ok().filter(|m: &MacAddr| !m.is_group() && !m.is_zero());
        if mac.is_none() {
            report.push(
                text.place
                    .error(format!("`{}` is no link address of an interface", text.value))
                    .expected("six bytes as in 02:00:00:00:00:01, not zero and not a group"),
            );
        }
        mac
    });
    let mtu = table.integer("mtu", 68..=65535, "bytes", report);
    let metric = table.integer("metric", 0..=i64::from(u32::MAX), "", report);
    let ports = table.list("ports", report).map(|list| {
        let names = list.value.into_iter();
        let names = names.filter_map(|s| Some(At::new(s.string(report)?, s.place))).collect();
        At::new(names, list.place)
    });
    let port_kind = table.one_of("port_kind", &PORT_KINDS, report);
    table.finish("[[interface]]", INTERFACE, report);
    let number = |n: At<i64>| u32::try_from(n.value).ok().map(|value| At::new(value, n.place));
    Some(DraftInterface {
        kind,
        ports,
        port_kind,
        addresses,
        incomplete,
        mac,
        mtu: mtu.and_then(number),
        metric: metric.and_then(number),
        ..DraftInterface::named(name?)
    })
}

fn address(scalar: &Scalar, report: &mut Report) -> Option<At<Address>> {
    let text = scalar.string(report)?;
    read_address(&text, &scalar.place, report)
}

fn route(mut table: Table, report: &mut Report) -> Option<DraftRoute> {
    let to = table.required("to", "[[route]]", report).and_then(|scalar| {
        let text = scalar.string(report)?;
        match text.parse::<Prefix>() {
            Ok(prefix) => Some(At::new(prefix, scalar.place)),
            Err(error) => {
                let expected = "a prefix as in 10.0.0.0/8 (all of IPv4: 0.0.0.0/0, of IPv6: ::/0)";
                report.push(bad_prefix(&text, &error, &scalar.place, expected));
                None
            }
        }
    });
    let via = table.string("via", report);
    let bad_via = via.is_some();
    let via = via.and_then(|text| read_via(&text.value, &text.place, report));
    let bad_via = bad_via && via.is_none();
    let dev = table.string("dev", report);
    let metric = table.integer("metric", 0..=i64::from(u32::MAX), "", report);
    let kind = table.one_of("kind", &ROUTE_KINDS, report);
    let place = table.place.clone();
    table.finish("[[route]]", ROUTE, report);
    // A route whose next hop couldn't be read isn't one without a next hop.
    if bad_via {
        return None;
    }
    Some(DraftRoute {
        to: to?,
        via,
        dev,
        metric: metric.and_then(|m| u32::try_from(m.value).ok()).unwrap_or(0),
        kind: kind.unwrap_or_else(|| At::new(RouteKind::Unicast, place.clone())),
        place,
    })
}

/// `[sysctl]`: the file first, then the settings beside it in the order they stand.
fn sysctl(mut table: Table, folder: &Path, draft: &mut Draft, report: &mut Report) {
    if let Some(path) = table.string("file", report) {
        match Source::read(&folder.join(&path.value)) {
            Ok(source) => draft.assignments.read(&source, report),
            Err(error) if error.place.is_some() => report.push(*error),
            Err(error) => report.push(path.place.error(error.message)),
        }
    }
    for (key, scalar) in table.rest() {
        let Some(text) = scalar.sysctl(report) else { continue };
        let Scalar { place, .. } = scalar;
        draft.assignments.assign((&key.value, key.place), (&text, place), report);
    }
}
