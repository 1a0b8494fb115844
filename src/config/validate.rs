//! From what was written to what can be done: everything that contradicts itself is found here.

use super::draft::{Address, At, Draft, DraftInterface, DraftRoute, KindName};
use super::{
    Addresses, Config, DEFAULT_CONTROL, DEFAULT_STATE_INTERVAL, HostDevice, Interface, Kind, Log,
    LogTo, Port, PortKind, Route, RouteKind, State,
};
use crate::diagnostic::{Diagnostic, Place, Report};
use std::path::PathBuf;
use std::time::Duration;
use tidegate_packet::Prefix;

/// Longest name of a network device (`IFNAMSIZ` less the final zero).
const NAME_MAX: usize = 15;
/// Longest path of a Unix socket (`sun_path` less the final zero).
const SOCKET_PATH_MAX: usize = 107;
/// Smallest MTU of a link that carries IPv6 (RFC 8200 section 5).
const IPV6_MIN_MTU: u32 = 1280;

/// `None` if the report has got errors.
pub(super) fn validate(draft: Draft, report: &mut Report) -> Option<Config> {
    if draft.interfaces.is_empty() && !report.has_errors() {
        report.push(no_interface(&draft));
    }
    names(&draft, report);
    for interface in &draft.interfaces {
        bridge(interface, report);
        addresses(interface, report);
    }
    networks(&draft.interfaces, report);
    for (index, route) in draft.routes.iter().enumerate() {
        route_itself(route, report);
        route_next_hop(route, &draft.interfaces, report);
        let twin = |r: &&DraftRoute| r.to.value == route.to.value && r.metric == route.metric;
        if let Some(earlier) = draft.routes[..index].iter().find(twin) {
            let first = &earlier.to.place;
            let error =
                format!("a second route to {} with metric {}", route.to.value, route.metric);
            report.push(route.to.place.error(error).help(format!("the first is at {first}")));
        }
    }
    if let Some(control) = &draft.control
        && control.value.as_os_str().len() > SOCKET_PATH_MAX
    {
        let error = control.place.error("this path is too long for a socket");
        report.push(error.expected(format!("at most {SOCKET_PATH_MAX} bytes")));
    }
    log_files(&draft, report);
    for (name, place) in &draft.assignments.interfaces {
        let known = draft.interfaces.iter().map(|i| i.name.value.as_str());
        if !known.clone().any(|k| k == name) {
            let warning =
                place.warning(format!("this does nothing: no interface is named `{name}`"));
            report.push(warning.nearest(name, known));
        }
    }
    (!report.has_errors()).then(|| build(draft))
}

fn no_interface(draft: &Draft) -> Diagnostic {
    let message = "there is no interface to forward between";
    match &draft.end {
        Some(place) => place.error(message).help("write an [[interface]], or use --lan"),
        None => Diagnostic::unplaced(message)
            .help("name them with --lan and --uplink, or in a file with --config"),
    }
}

/// Names are such as a network device can have, and each stands for one thing.
fn names(draft: &Draft, report: &mut Report) {
    let mut seen: Vec<&At<String>> = Vec::new();
    let interfaces = draft.interfaces.iter().map(|i| &i.name);
    let ports = draft.interfaces.iter().flat_map(|i| &i.ports).flat_map(|p| &p.value);
    for name in interfaces.chain(ports).chain(&draft.host) {
        if let Some(error) = bad_name(name) {
            report.push(error);
        } else if let Some(first) = seen.iter().find(|s| s.value == name.value) {
            let error = name.place.error(format!("the name `{}` is used twice", name.value));
            report.push(error.help(format!("the first is at {}", first.place)));
        } else {
            seen.push(name);
        }
    }
}

/// dev_valid_name, and the names that mean something else in rules and sysctls.
fn bad_name(name: &At<String>) -> Option<Diagnostic> {
    let text = name.value.as_str();
    let place = &name.place;
    if text.is_empty() {
        return Some(place.error("a name is missing").expected("the name of an interface"));
    }
    if text.len() > NAME_MAX {
        return Some(
            place
                .error(format!("`{text}` is too long for an interface's name"))
                .expected(format!("at most {NAME_MAX} bytes")),
        );
    }
    let odd =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '"' | '\'' | '\\');
    if text.contains(odd) || text.ends_with('+') || matches!(text, "." | "..") {
        return Some(
            place
                .error(format!("`{text}` is no name of an interface"))
                .expected("a name without spaces, quotes, `/`, `:` and a final `+`"),
        );
    }
    matches!(text, "lo" | "all" | "default").then(|| {
        place.error(format!("the name `{text}` is taken")).help(match text {
            "lo" => "`lo` is the gateway's own loopback",
            _ => "`all` and `default` mean something else in sysctls",
        })
    })
}

/// A bridge has ports and nothing else has.
fn bridge(interface: &DraftInterface, report: &mut Report) {
    let name = &interface.name;
    if interface.kind() == KindName::Bridge {
        match &interface.ports {
            None => report.push(
                name.place
                    .error(format!("the bridge `{}` has no ports", name.value))
                    .help("add ports = [\"tap0\", …]"),
            ),
            Some(ports) if ports.value.is_empty() => {
                report.push(ports.place.error("a bridge has at least one port"));
            }
            Some(_) => {}
        }
        return;
    }
    let ports = interface.ports.as_ref().map(|p| (&p.place, "ports"));
    let port_kind = interface.port_kind.as_ref().map(|p| (&p.place, "port_kind"));
    for (place, key) in ports.into_iter().chain(port_kind) {
        let error = place.error(format!("`{}` is no bridge and has no `{key}`", name.value));
        report.push(error.help("did you mean kind = \"bridge\"?"));
    }
}

fn addresses(interface: &DraftInterface, report: &mut Report) {
    let name = &interface.name;
    if interface.addresses.is_none() && interface.kind() != KindName::AfPacket {
        report.push(
            name.place
                .error(format!("`{}` has no addresses", name.value))
                .help("only an af-packet interface can keep those that the kernel has given it"),
        );
    }
    for at in interface.fixed() {
        if let Some(error) = bad_address(at.value, &at.place) {
            report.push(error);
        }
    }
    let dhcp = interface.addresses.iter().flatten().filter(|a| a.value == Address::Dhcp);
    for again in dhcp.skip(1) {
        report.push(again.place.error("`dhcp` is said twice"));
    }
    if let Some(metric) = &interface.metric
        && !interface.dhcp()
    {
        let error = metric.place.error(format!("`{}` gets no route by DHCP", name.value));
        report.push(error.help("the metric of a fixed route is written in its [[route]]"));
    }
    let ipv6 = interface.fixed().any(|p| !p.value.addr().is_v4());
    if let Some(mtu) = &interface.mtu
        && mtu.value < IPV6_MIN_MTU
        && ipv6
    {
        let error = mtu.place.error(format!("`{}` has an IPv6 address", name.value));
        report.push(error.expected(format!("an MTU of at least {IPV6_MIN_MTU} bytes")));
    }
}

fn bad_address(prefix: Prefix, place: &Place) -> Option<Diagnostic> {
    let addr = prefix.addr();
    let what = if addr.is_unspecified() {
        "the unspecified address"
    } else if addr.is_multicast() || addr.is_limited_broadcast() {
        "an address of many"
    } else if addr.is_loopback() {
        "a loopback address"
    } else {
        // RFC 3021: a /31 has neither network nor broadcast address. In IPv6 the lowest
        // address is the routers' anycast address, and a router may have it.
        let broadcast = prefix.broadcast()?;
        let first = prefix.network().addr();
        if addr != first && addr != broadcast {
            return None;
        }
        let what = if addr == first { "network" } else { "broadcast address" };
        let host = tidegate_packet::Addr::from_bits(first.bits() + 1);
        return Some(
            place
                .error(format!("{addr} is the {what} of {}", prefix.network()))
                .expected(format!("an address of a host, as in {host}/{}", prefix.len())),
        );
    };
    Some(place.error(format!("{addr} is {what}")).expected("an address of a host"))
}

/// No address twice, no network on two interfaces.
fn networks(interfaces: &[DraftInterface], report: &mut Report) {
    let mut seen: Vec<(&str, At<Prefix>)> = Vec::new();
    for interface in interfaces {
        for at in interface.fixed() {
            let name = interface.name.value.as_str();
            if let Some(diagnostic) = seen.iter().find_map(|(n, s)| clash((n, s), (name, &at))) {
                report.push(diagnostic);
            }
            seen.push((name, at));
        }
    }
}

fn clash(first: (&str, &At<Prefix>), second: (&str, &At<Prefix>)) -> Option<Diagnostic> {
    let (a, b) = (first.1.value, second.1.value);
    let place = &second.1.place;
    let help = format!("the first is at {}", first.1.place);
    if first.0 != second.0 && a.addr().is_v6_link_local() && b.addr().is_v6_link_local() {
        return None;
    }
    if a.addr() == b.addr() {
        return Some(place.error(format!("the address {} is used twice", a.addr())).help(help));
    }
    if first.0 == second.0 {
        return None;
    }
    if a.network() == b.network() {
        let error =
            format!("`{}` and `{}` have the same network {}", first.0, second.0, a.network());
        let error =
            place.error(error).help("join them with kind = \"bridge\" if they are one link");
        return Some(error);
    }
    let (wide, narrow) = if a.len() < b.len() { (a, b) } else { (b, a) };
    wide.contains(narrow.addr()).then(|| {
        let (outer, inner) =
            if a.len() < b.len() { (first.0, second.0) } else { (second.0, first.0) };
        let (narrow, wide) = (narrow.network(), wide.network());
        place.warning(format!(
            "{narrow} of `{inner}` lies inside {wide} of `{outer}`, and is reached by `{inner}`"
        ))
    })
}

fn route_itself(route: &DraftRoute, report: &mut Report) {
    let to = route.to.value;
    if to.network() != to {
        let error = route.to.place.error(format!("{to} has bits set behind its prefix"));
        report.push(error.help(format!("did you mean {}?", to.network())));
    }
    if let Some(via) = &route.via
        && via.value.family() != to.addr().family()
    {
        let error = via.place.error(format!("{} is of another family than {to}", via.value));
        let family = if to.addr().is_v4() { "an IPv4" } else { "an IPv6" };
        report.push(error.expected(format!("{family} address")));
    }
    let kind = match route.kind.value {
        RouteKind::Unicast => {
            if route.via.is_none() && route.dev.is_none() {
                let error = route.place.error(format!("the route to {to} leads nowhere"));
                report.push(error.help("add `via`, or `dev` for destinations on the link itself"));
            }
            return;
        }
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
    };
    let via = route.via.as_ref().map(|v| &v.place);
    for place in via.into_iter().chain(route.dev.as_ref().map(|d| &d.place)) {
        report.push(place.error(format!("a route of kind `{kind}` leads nowhere")));
    }
}

/// The next hop is a neighbour, and isn't the gateway.
fn route_next_hop(route: &DraftRoute, interfaces: &[DraftInterface], report: &mut Report) {
    let dev = match &route.dev {
        None => None,
        Some(dev) => match interfaces.iter().find(|i| i.name.value == dev.value) {
            Some(interface) => Some(interface),
            None => {
                let known = interfaces.iter().map(|i| i.name.value.as_str());
                let error = dev.place.error(format!("no interface is named `{}`", dev.value));
                return report.push(error.nearest(&dev.value, known));
            }
        },
    };
    let Some(At { value: via, place }) = &route.via else { return };
    if via.is_unspecified() || via.is_multicast() || via.is_loopback() || via.is_limited_broadcast()
    {
        return report
            .push(place.error(format!("{via} is no host")).expected("a router's address"));
    }
    if interfaces.iter().any(|i| i.fixed().any(|p| p.value.addr() == *via)) {
        let error = place.error(format!("{via} is the gateway's own address"));
        return report.push(error.expected("a router's address"));
    }
    if via.is_v6_link_local() {
        if dev.is_none() {
            report
                .push(place.error(format!("{via} is on every link")).help("say which with `dev`"));
        }
        return;
    }
    let on_link =
        |i: &DraftInterface| i.learns_networks() || i.fixed().any(|p| p.value.contains(*via));
    match dev {
        Some(interface) if !on_link(interface) => report.push(
            place
                .error(format!("{via} isn't on `{}`", interface.name.value))
                .expected("an address of one of its networks"),
        ),
        None if !interfaces.iter().any(on_link) => report.push(
            place
                .error(format!("{via} isn't on any interface"))
                .expected("an address of one of their networks"),
        ),
        _ => {}
    }
}

/// Every group has one file, and every file one writer.
fn log_files(draft: &Draft, report: &mut Report) {
    for (index, (group, path)) in draft.nflog.iter().enumerate() {
        let earlier = &draft.nflog[..index];
        if let Some(group) = group
            && earlier.iter().any(|(g, _)| *g == Some(*group))
        {
            report.push(path.place.error(format!("a second file for group {group}")));
        } else if group.is_none() && earlier.iter().any(|(g, _)| g.is_none()) {
            report.push(path.place.error("a second file for all groups"));
        }
        let lines = matches!(&draft.log_to, Some(LogTo::File(file)) if *file == path.value);
        if lines || earlier.iter().any(|(_, p)| p.value == path.value) {
            let error = format!("{} is written to already", path.value.display());
            report.push(path.place.error(error).help("groups that share a file need no number"));
        }
    }
}

fn build(draft: Draft) -> Config {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Config {
        workers: draft.workers.unwrap_or_else(cores),
        control: draft.control.map_or_else(|| PathBuf::from(DEFAULT_CONTROL), |c| c.value),
        interfaces: draft.interfaces.into_iter().map(build_interface).collect(),
        routes: draft
            .routes
            .into_iter()
            .map(|r| Route {
                to: r.to.value,
                via: r.via.map(|v| v.value),
                dev: r.dev.map(|d| d.value),
                metric: r.metric,
                kind: r.kind.value,
            })
            .collect(),
        rules: draft.rules,
        sysctls: draft.assignments.sysctls,
        host: draft.host.map(|h| HostDevice { device: h.value }),
        log: Log {
            to: draft.log_to.unwrap_or_default(),
            nflog: draft.nflog.into_iter().map(|(group, path)| (group, path.value)).collect(),
        },
        state: draft.state.map(|file| State {
            file,
            every: match &draft.state_every {
                None => Some(DEFAULT_STATE_INTERVAL),
                Some(At { value: 0, .. }) => None,
                Some(at) => Some(Duration::from_secs(at.value.unsigned_abs())),
            },
        }),
    }
}

fn build_interface(draft: DraftInterface) -> Interface {
    let addresses = match &draft.addresses {
        None => Addresses::Adopt,
        Some(_) => Addresses::Given {
            prefixes: draft.fixed().map(|a| a.value).collect(),
            dhcp: draft.dhcp(),
        },
    };
    let kind = match draft.kind() {
        KindName::AfPacket => Kind::AfPacket,
        KindName::Tap => Kind::Tap,
        KindName::Bridge => {
            let kind = draft.port_kind.map_or(PortKind::AfPacket, |k| k.value);
            let names = draft.ports.map(|p| p.value).unwrap_or_default();
            Kind::Bridge(names.into_iter().map(|n| Port { name: n.value, kind }).collect())
        }
    };
    Interface {
        name: draft.name.value,
        kind,
        addresses,
        mac: draft.mac,
        mtu: draft.mtu.map(|m| m.value),
        dhcp_metric: draft.metric.map_or(0, |m| m.value),
        uplink: draft.uplink,
    }
}
