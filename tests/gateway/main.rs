//! `tidegate run` as a process, between hosts with real kernels.
//!
//! Needs root or user namespaces; where neither is to be had, or where a test needs a device or a
//! program that isn't there, it says so, and fails if `TIDEGATE_FORBID_SKIP` is set.

use std::fs::File;
use std::process::{Command, ExitCode};

use tidegate::io::bypass::Bypass;
use tidegate::lab::privilege;
use tidegate_packet::Instant;

mod bridge;
mod bypass;
mod conntrack;
mod dhcp;
mod errors;
mod expect;
mod harness;
mod helpers;
mod host;
mod lifecycle;
mod log;
mod names;
mod neighbours;
mod reload;
mod routes;
mod state;
mod tap;
#[path = "../common/trials.rs"]
mod trials;
mod workers;

use harness::Outcome;
use trials::Trials;

/// What a test needs besides namespaces.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Needs {
    Namespaces,
    Tun,
    Bpf,
    Dnsmasq,
    Tcpdump,
}

struct Test {
    name: &'static str,
    needs: Needs,
    run: fn() -> Outcome,
}

macro_rules! tests {
    ($($needs:ident { $($module:ident::$name:ident),* $(,)? })*) => {
        &[$($(Test { name: stringify!($name), needs: Needs::$needs, run: $module::$name }),*),*]
    };
}

const TESTS: &[Test] = tests! {
    Namespaces {
        lifecycle::by_flags_and_by_file,
        lifecycle::the_socket_is_there_while_it_forwards,
        lifecycle::a_second_one_is_refused,
        lifecycle::what_interfaces_had_is_adopted_and_given_back,
        lifecycle::a_crash_is_made_good_at_the_next_start,
        lifecycle::links_come_and_go,
        lifecycle::log_lines_are_the_kernels,
        log::lines_go_to_a_file_that_is_rotated,
        log::lines_go_to_syslog,
        log::a_traced_packet_tells_every_rule,
        state::rules_outlive_a_restart,
        state::a_damaged_state_touches_nothing,
        state::restore_is_all_or_nothing,
        state::the_service_manager_is_told,
        errors::nothing_is_touched_by_a_start_that_fails,
        routes::lans_uplinks_and_special_routes,
        routes::two_lans_are_masqueraded,
        neighbours::a_burst_waits_for_resolution,
        neighbours::unreachable_neighbours_are_reported,
        neighbours::a_new_link_address_is_learnt,
        reload::connections_outlive_a_reload,
        reload::a_broken_file_changes_nothing,
        names::rules_change_under_traffic,
        names::many_writers_at_a_time,
        names::lists_of_recent,
        conntrack::connections_are_listed_changed_and_deleted,
        conntrack::events_are_told_as_they_happen,
        conntrack::sysctls_act_on_a_running_gateway,
        expect::expectations_are_made_watched_and_deleted,
        names::sets_that_rules_name,
        bridge::ports_form_one_lan,
        bridge::frames_cross_intact,
        bridge::unknown_stations_are_flooded_and_known_ones_are_not,
        helpers::ftp_through_masquerade,
        helpers::a_server_behind_the_syn_proxy,
        workers::one_worker,
        workers::two_workers,
        workers::four_workers,
        workers::three_workers_forward_ports,
    }
    Bpf {
        bypass::what_bypasses_is_counted_as_ever,
        bypass::a_new_rule_stops_a_flow_at_once,
        bypass::a_deleted_connection_is_gone,
        bypass::nothing_is_forwarded_without_the_gateway,
        bypass::forwarded_ports_and_ipv6,
        bypass::datagrams_one_way_and_both,
        bypass::few_capabilities_are_enough,
        bypass::it_can_be_switched_off,
    }
    Tun {
        tap::bulk_through_taps,
        tap::a_bridge_of_taps,
        tap::workers_share_a_tap,
        host::a_daemon_behind_the_input_chain,
        host::the_gateways_own_connections,
    }
    Dnsmasq {
        dhcp::an_uplink_gets_its_address,
        dhcp::another_address_ends_masqueraded_connections,
        dhcp::the_lease_is_given_back,
        dhcp::a_saved_state_keeps_the_lease,
    }
    Tcpdump {
        log::nflog_is_a_capture,
    }
};

fn main() -> ExitCode {
    // Each has namespaces of its own; more at a time only slow each other down.
    let mut trials = Trials::new(2);
    let rights = privilege::acquire();
    let tun = File::options().read(true).write(true).open("/dev/net/tun").map(drop);
    let bpf = Bypass::open(Instant::ZERO).map(drop);
    let dnsmasq = Command::new("dnsmasq").arg("--version").output().map(drop);
    let tcpdump = Command::new("tcpdump").arg("--version").output().map(drop);
    for test in TESTS {
        let program = match test.needs {
            Needs::Dnsmasq => ("dnsmasq", &dnsmasq),
            _ => ("tcpdump", &tcpdump),
        };
        let missing = match (&rights, test.needs, &tun, program) {
            (Err(e), ..) => Some(e.to_string()),
            (_, Needs::Tun, Err(e), _) => Some(format!("/dev/net/tun: {e}")),
            (_, Needs::Bpf, ..) => bpf.as_ref().err().map(ToString::to_string),
            (_, Needs::Dnsmasq | Needs::Tcpdump, _, (name, Err(e))) => Some(format!("{name}: {e}")),
            _ => None,
        };
        trials.add(test.name, missing, test.run);
    }
    trials.run()
}
