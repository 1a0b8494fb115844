//! Addresses that were found on interfaces, and the configuration's routes.

use super::SetupError;
use crate::config::{self, Addresses, Config, RouteKind};
use crate::engine::{InterfaceId, Interfaces, StaticRoute, Target};
use crate::link::Adopted;

/// Puts what an interface had into the configuration, as if it had been written there.
pub(super) fn resolve(config: &mut Config, name: &str, adopted: &Adopted) {
    let prefixes = adopted.addresses().iter().map(|a| a.prefix).collect();
    if let Some(interface) = config.interfaces.iter_mut().find(|i| i.name == name) {
        interface.addresses = Addresses::Given { prefixes, dhcp: false };
    }
    config.routes.extend(adopted.routes().iter().map(|route| config::Route {
        to: route.to,
        via: route.via,
        dev: Some(name.to_owned()),
        metric: route.metric,
        kind: RouteKind::Unicast,
    }));
}

/// The configuration's routes, with their interfaces found.
pub fn static_routes(
    config: &Config,
    interfaces: &Interfaces,
) -> Result<Vec<StaticRoute>, SetupError> {
    let mut routes = Vec::new();
    for route in &config.routes {
        let target = match route.kind {
            RouteKind::Blackhole => Target::Blackhole,
            RouteKind::Unreachable => Target::Unreachable,
            RouteKind::Prohibit => Target::Prohibit,
            RouteKind::Unicast => match egress_of(route, interfaces) {
                Some(egress) => Target::Unicast { egress, via: route.via },
                // The next hop may be on a network that DHCP has yet to bring.
                None if config.interfaces.iter().any(|i| i.addresses.dhcp()) => continue,
                None => {
                    let via = route.via.map(|v| v.to_string()).unwrap_or_default();
                    return Err(SetupError::Route { to: route.to, via });
                }
            },
        };
        routes.push(StaticRoute { to: route.to, target, metric: route.metric, leased: false });
    }
    Ok(routes)
}

fn egress_of(route: &config::Route, interfaces: &Interfaces) -> Option<InterfaceId> {
    if let Some(name) = &route.dev {
        return interfaces.by_name(name);
    }
    let via = route.via?;
    let found = interfaces.iter().find(|(_, i)| i.addresses.iter().any(|p| p.contains(via)));
    found.map(|(id, _)| id)
}
