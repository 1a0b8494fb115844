//! The host device: it carries the gateway's addresses in this namespace's kernel.

use crate::config::Config;
use crate::engine::Interfaces;
use crate::link::netlink::Netlink;
use std::io;
use tidegate_packet::{Addr, Family, Prefix};

/// A strict source check in the kernel, which makes it drop what it would otherwise hand to the
/// host device's addresses past the rules: the way back to every source is the host device.
pub(super) struct SourceCheck {
    path: String,
    before: String,
}

impl SourceCheck {
    pub(super) fn set(interface: &str) -> io::Result<Self> {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
        let before = std::fs::read_to_string(&path)?;
        std::fs::write(&path, "1")?;
        Ok(Self { path, before })
    }
}

impl Drop for SourceCheck {
    fn drop(&mut self) {
        // The interface may be gone.
        let _ = std::fs::write(&self.path, &self.before);
    }
}

/// Gives the host device the gateway's addresses, the uplinks' first so that the kernel prefers
/// them as a source, and makes it the way to everywhere.
pub fn carry_addresses(device: &str, interfaces: &Interfaces, config: &Config) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let link = netlink.require_link(device)?;
    let is_uplink = |name: &str| config.uplinks().any(|i| i.name == name);
    let mut carriers: Vec<_> = interfaces.iter().filter(|(_, i)| i.name != "lo").collect();
    carriers.sort_by_key(|(_, i)| !is_uplink(&i.name));
    let wanted: Vec<Prefix> = carriers
        .iter()
        .flat_map(|(_, i)| i.addresses.iter().copied())
        .filter(|p| !p.addr().is_v6_link_local())
        .collect();
    for stale in netlink.addresses()?.iter().filter(|a| a.index == link.index) {
        if !wanted.contains(&stale.prefix) && !stale.prefix.addr().is_v6_link_local() {
            netlink.delete_address(link.index, stale.prefix)?;
        }
    }
    // New devices have no IPv6 where a container's runtime has switched it off.
    if wanted.iter().any(|p| !p.addr().is_v4()) {
        let disabled = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
        if let Err(error) = std::fs::write(&disabled, "0") {
            tracing::info!(%error, "the host device may have no IPv6: {disabled}");
        }
    }
    for prefix in wanted {
        exists_already(netlink.add_address(link.index, prefix))?;
    }
    // An error about a packet of this kernel's own comes back with its own address as the source,
    // as on `lo`; without this it would be taken for a forgery.
    let accept_local = format!("/proc/sys/net/ipv4/conf/{device}/accept_local");
    if let Err(error) = std::fs::write(&accept_local, "1") {
        tracing::info!(%error, "the host won't hear errors about its own packets: {accept_local}");
    }
    netlink.set_up(link.index, true)?;
    for family in [Family::V4, Family::V6] {
        let everywhere = Prefix::new(Addr::unspecified(family), 0);
        let Some(everywhere) = everywhere else { continue };
        // Without IPv6 in the kernel there is nothing to route there.
        if let Err(error) =
            exists_already(netlink.add_route(everywhere, None, Some(link.index), None))
        {
            tracing::warn!(device, ?family, %error, "no default route through the host device");
        }
    }
    Ok(())
}

fn exists_already(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}
