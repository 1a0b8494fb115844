//! The devices and the adoption of interfaces, against the kernel: real veth pairs and TAPs in
//! namespaces that are made for each test. Needs root or unprivileged user namespaces.

use libtest_mimic::{Arguments, Failed, Trial};
use netns::{Namespace, Wire};
use std::process::ExitCode;

#[path = "netns_io/adopt.rs"]
mod adopt;
#[path = "netns_io/bypass.rs"]
mod bypass;
#[path = "netns_io/devices.rs"]
mod devices;
#[path = "netns_io/joined.rs"]
mod joined;
#[path = "netns_io/netns.rs"]
mod netns;
#[path = "netns_io/traffic.rs"]
mod traffic;

fn main() -> ExitCode {
    if let Some(code) = adopt::crash_if_asked() {
        return code;
    }
    let arguments = Arguments::from_args();
    let trials = vec![
        trial("frames_pass_byte_exact", devices::frames_pass_byte_exact),
        trial("long_and_short_frames", devices::long_and_short_frames_keep_their_order),
        trial("a_burst_of_long_frames", devices::a_burst_of_long_frames_is_short),
        trial("vlan_tags_survive", devices::vlan_tags_survive),
        trial("a_refused_frame_stops_no_other", devices::a_refused_frame_stops_no_other),
        trial("a_link_that_goes_down_is_reported", devices::a_link_that_goes_down_is_reported),
        trial("a_tap_that_is_deleted_is_reported", devices::a_tap_that_is_deleted_is_reported),
        trial("a_full_ring_is_counted", devices::a_full_ring_is_counted),
        trial("what_is_sent_does_not_come_back", devices::what_is_sent_does_not_come_back),
        trial("workers_share_by_flow", devices::workers_share_by_flow),
        trial("tap_queues_attach_by_name", devices::tap_queues_attach_by_name),
        trial("tun_carries_packets", devices::tun_carries_packets),
        trial("joined_packets_leave_as_one", joined::joined_packets_leave_as_one),
        trial("a_tap_takes_joined_packets", joined::a_tap_takes_joined_packets),
        trial(
            "the_kernel_cuts_joined_packets_to_what_they_were",
            joined::the_kernel_cuts_joined_packets_to_what_they_were,
        ),
        trial("local_checksums_are_partial", traffic::local_checksums_are_partial),
        trial("tcp_over_packet_sockets", traffic::tcp_over_packet_sockets),
        trial("tcp_over_taps", traffic::tcp_over_taps),
        trial("tcp_from_packet_socket_to_tap", traffic::tcp_from_packet_socket_to_tap),
        trial("the_kernel_is_held_off", traffic::the_kernel_is_held_off),
        trial("the_kernel_forwards_a_leased_flow", bypass::the_kernel_forwards_a_leased_flow),
        trial("without_sockets_nothing_is_forwarded", bypass::without_sockets_nothing_is_forwarded),
        trial("bulk_bypasses_the_gateway", bypass::bulk_bypasses_the_gateway),
        trial("adoption_and_giving_back", adopt::adoption_and_giving_back),
        trial("a_crash_is_made_good", adopt::a_crash_is_made_good),
        trial("an_interface_is_adopted_once", adopt::an_interface_is_adopted_once),
    ];
    if !arguments.list
        && let Err(why) = netns::become_able()
    {
        eprintln!("SKIPPED: no network namespaces here, no test of netns_io was run: {why}");
        return if netns::may_skip() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &'static str, test: fn()) -> Trial {
    Trial::test(name, move || {
        if let Some(why) = netns::lacking(name).filter(|_| netns::may_skip()) {
            eprintln!("SKIPPED: {name}: {why}");
            return Ok(());
        }
        // A panic is the failure; libtest-mimic catches and reports it.
        test();
        Ok::<(), Failed>(())
    })
}

/// A client and a server with a gateway between them, connected by veth pairs.
struct Topology {
    client: Namespace,
    gateway: Namespace,
    server: Namespace,
    /// `c0` to `lan0`; `s0` to `wan0` is another.
    lan: Wire,
}

impl Topology {
    fn new() -> Self {
        let (client, gateway, server) = (Namespace::new(), Namespace::new(), Namespace::new());
        let lan = Wire::new(&client, "c0", &gateway, "lan0");
        Wire::new(&server, "s0", &gateway, "wan0");
        Self { client, gateway, server, lan }
    }
}
